"""`hf-scaling push`: a checkpoint, results, a law or a study to the Hub."""

import argparse
import sys
from collections.abc import Callable

HELP = "Push a checkpoint, results, a law or a whole study to the Hub; or say what would be pushed."
EXAMPLE = "hf-scaling push runs/0123456789abcdef --repo org/my-student --private --dry-run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", metavar="WHAT", help="folder of a run, a law or a study; or results (file or folder)")
    parser.add_argument(
        "--repo", metavar="ORG/NAME", help="where a checkpoint, results or a law go; your own account without ORG/"
    )
    parser.add_argument("--config", metavar="NAME", help="results: which of the data set's tables (default: default)")
    parser.add_argument("--namespace", metavar="ORG", help="where a study goes: a user or an organisation")
    parser.add_argument("--name", metavar="NAME", help="what a study is called there (default: the folder's name)")
    parser.add_argument("--models", metavar="WHICH", help="of a study: all (default), best (of each size), none")
    parser.add_argument("--private", action="store_true", default=None, help="make new repositories private")
    parser.add_argument("--dry-run", action="store_true", help="say what would be written where, and write nothing")


def run(arguments: argparse.Namespace) -> int | None:
    """Push what is there, by what it is."""
    from hf_scaling.publishing import kind_of

    kind = kind_of(arguments.what)
    _refuse_others(arguments, kind)
    return _PUSH[kind](arguments)


def _push_checkpoint(arguments: argparse.Namespace) -> None:
    from hf_scaling.publishing import push_checkpoint

    written = push_checkpoint(arguments.what, _repo(arguments), arguments.private, arguments.dry_run)
    say(written)


def _push_results(arguments: argparse.Namespace) -> None:
    from hf_scaling.results import ResultsTable

    table = ResultsTable.load(arguments.what)
    config = {} if arguments.config is None else {"config_name": arguments.config}
    say(table.push_to_hub(_repo(arguments), private=arguments.private, dry_run=arguments.dry_run, **config))


def _push_law(arguments: argparse.Namespace) -> None:
    from hf_scaling.fitting import LawFit

    fit = LawFit.from_pretrained(arguments.what)
    say(fit.push_to_hub(_repo(arguments), private=arguments.private, dry_run=arguments.dry_run))


def _push_study(arguments: argparse.Namespace) -> int:
    """Push a study part by part; 1 where some did not arrive."""
    from huggingface_hub.utils import disable_progress_bars

    from hf_scaling.errors import InputError
    from hf_scaling.publishing import push_study

    if arguments.namespace is None:
        raise InputError(
            f"{arguments.what} is a study: say where, with --namespace ORG; "
            f"its rows alone: hf-scaling push {arguments.what}/results --repo ORG/NAME"
        )
    # A line a part says how far it is; bars of single files would bury it.
    disable_progress_bars()
    told = {"private": arguments.private, "dry_run": arguments.dry_run, "say": _say_outcome}
    outcomes = push_study(arguments.what, arguments.namespace, arguments.name, arguments.models or "all", **told)
    lost = [each for each in outcomes if each.error]
    if lost:
        names = ", ".join(f"{each.kind} {each.repo_id}" for each in lost)
        print(
            f"error: {len(lost)} of {len(outcomes)} parts did not arrive ({names}); the same command tries again",
            file=sys.stderr,
        )
    return 1 if lost else 0


def _say_outcome(outcome, number: int, total: int) -> None:
    """Say how a part of a study ended; what goes wrong, and progress, on stderr."""
    from hf_scaling.hub import Planned

    if outcome.error:
        print(f"[{number}/{total}] {outcome.kind} {outcome.repo_id}: {outcome.error}", file=sys.stderr, flush=True)
    elif isinstance(outcome.written, Planned):
        print(outcome.written)
    else:
        what = outcome.written if isinstance(outcome.written, str) else _in_words(outcome.written)
        print(f"[{number}/{total}] {outcome.kind} {outcome.repo_id}: {what}", flush=True)


def _in_words(written) -> str:
    count = len(written.changes)
    return f"{count} file{'s' * (count != 1)} written" if count else "there already"


def _refuse_others(arguments: argparse.Namespace, kind: str) -> None:
    """Refuse flags that would change nothing for what is pushed."""
    from hf_scaling.errors import InputError

    for flag, kinds in _ONLY.items():
        if getattr(arguments, flag) is not None and kind not in kinds:
            raise InputError(f"--{flag} is for a {' or '.join(kinds)}, and {arguments.what} holds a {kind}")


def say(written) -> None:
    """Print what was written, or would be."""
    from hf_scaling.hub import Planned

    if isinstance(written, Planned):
        print(written)
        return
    for each in written.changes:
        print(f"{each.kind:<6} {each.path}", file=sys.stderr)
    print(f"{'pushed ' if written.changes else 'there already '} {written.url}")


def _repo(arguments: argparse.Namespace) -> str:
    from hf_scaling import hub
    from hf_scaling.errors import InputError

    if arguments.repo is None:
        raise InputError("--repo: missing: say where, as ORG/NAME")
    return hub.full_id(arguments.repo)


_PUSH: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "checkpoint": _push_checkpoint,
    "results": _push_results,
    "law": _push_law,
    "study": _push_study,
}
# Flags that only some kinds take.
_ONLY = {
    "repo": ("checkpoint", "law", "results"),
    "config": ("results",),
    "namespace": ("study",),
    "name": ("study",),
    "models": ("study",),
}
