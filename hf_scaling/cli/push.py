"""`hf-scaling push`: a checkpoint, results, a law or a study to the Hub."""

import argparse
import sys
from collections.abc import Callable

HELP = "Push a checkpoint, results, a law or a whole study to the Hub; or say what would be pushed."
EXAMPLE = "hf-scaling push runs/0123456789abcdef --repo org/my-student --private --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", metavar="WHAT", help="folder of a run, a law or a study; or results (file or folder)")
    parser.add_argument("--repo", metavar="ORG/NAME", help="where a checkpoint, results or a law go")
    parser.add_argument("--private", action="store_true", default=None, help="make new repositories private")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written where, and write nothing")


def run(arguments: argparse.Namespace) -> int | None:
    """Push what is there, by what it is."""
    from hf_scaling.publishing import kind_of

    return _PUSH[kind_of(arguments.what)](arguments)


def _push_checkpoint(arguments: argparse.Namespace) -> None:
    from hf_scaling.publishing import push_checkpoint

    written = push_checkpoint(arguments.what, _repo(arguments), arguments.private, arguments.dry_run)
    say(written)


def _push_results(arguments: argparse.Namespace) -> None:
    from hf_scaling.results import ResultsTable

    table = ResultsTable.load(arguments.what)
    say(table.push_to_hub(_repo(arguments), private=arguments.private, dry_run=arguments.dry_run))


def _push_law(arguments: argparse.Namespace) -> None:
    from hf_scaling.fitting import LawFit

    fit = LawFit.from_pretrained(arguments.what)
    say(fit.push_to_hub(_repo(arguments), private=arguments.private, dry_run=arguments.dry_run))


def say(written) -> None:
    """Print what was written, or would be."""
    from hf_scaling.transport import Planned

    if isinstance(written, Planned):
        print(written)
        return
    for each in written.changes:
        print(f"{each.kind:<6} {each.path}", file=sys.stderr)
    print(f"{'pushed ' if written.changes else 'there already '} {written.url}")


def _repo(arguments: argparse.Namespace) -> str:
    from hf_scaling.errors import InputError

    if arguments.repo is None:
        raise InputError("--repo: missing: say where, as ORG/NAME")
    return arguments.repo


_PUSH: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "checkpoint": _push_checkpoint,
    "results": _push_results,
    "law": _push_law,
}
