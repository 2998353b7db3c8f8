"""`hf-scaling push`: a checkpoint, results, a law or a study to the Hub."""

import argparse
import sys
from typing import TYPE_CHECKING, Any

from hf_scaling.cli._arguments import add_json_argument, to_json
from hf_scaling.errors import InputError
from hf_scaling.text import format_bytes

if TYPE_CHECKING:
    from hf_scaling.hub import Commit, Planned
    from hf_scaling.publishing import Outcome

HELP = "Push a checkpoint, results, a law or a whole study to the Hub; or show what would be pushed."
EXAMPLE = "hf-scaling push runs/0123456789abcdef org/my-student --private --dry-run"
# The kinds of content that a flag is for; the other flags are for all.
_KINDS_OF_FLAG = {
    "config": ("results",),
    "namespace": ("study",),
    "name": ("study",),
    "models": ("study",),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("what", metavar="WHAT", help="folder of a run, a law or a study; or results (file or folder)")
    repo_help = (
        "repository to push to, of a study its data set; NAME alone is in your own account (a study needs ORG/)"
    )
    parser.add_argument("where", metavar="ORG/NAME", nargs="?", help=repo_help)
    parser.add_argument("--repo", metavar="ORG/NAME", help="the same as ORG/NAME")
    parser.add_argument(
        "--config", metavar="NAME", help="for results: configuration of the data set to write (default: default)"
    )
    parser.add_argument("--namespace", metavar="ORG", help="for a study: user or organisation to push to")
    parser.add_argument(
        "--name", metavar="NAME", help="for a study: its name on the Hub (default: the name of the folder)"
    )
    parser.add_argument(
        "--models", metavar="WHICH", help="for a study, the models to push: all (default), best (of each size) or none"
    )
    parser.add_argument("--private", action="store_true", default=None, help="make new repositories private")
    parser.add_argument("--dry-run", action="store_true", help="show what would be written where, and write nothing")
    keys = "kind, dry_run, compared, parts (kind, repo_id, repo_type, url, status, changes, text, error), n_lost"
    add_json_argument(parser, keys)


def run(arguments: argparse.Namespace) -> int | None:
    """Push what the path holds."""
    from hf_scaling import hub, publishing

    if arguments.where is not None and arguments.repo is not None:
        raise InputError(f"both {arguments.where} and --repo {arguments.repo}: give the repository once")
    arguments.repo = arguments.where or arguments.repo
    kind = publishing.kind_of(arguments.what)
    for flag, kinds in _KINDS_OF_FLAG.items():
        if getattr(arguments, flag) is not None and kind not in kinds:
            raise InputError(f"--{flag} is for a {' or '.join(kinds)}, but {arguments.what} holds a {kind}")
    if kind == "study":
        return _push_study(arguments)
    if arguments.repo is None:
        raise InputError(f"the repository is missing: hf-scaling push {arguments.what} ORG/NAME")
    repo_id, options = hub.full_id(arguments.repo), {"private": arguments.private, "dry_run": arguments.dry_run}
    if kind == "checkpoint":
        written = publishing.push_checkpoint(arguments.what, repo_id, **options)
    elif kind == "law":
        from hf_scaling.fitting import LawFit

        written = LawFit.from_pretrained(arguments.what).push_to_hub(repo_id, **options)
    else:
        from hf_scaling.results import ResultsTable

        config = {} if arguments.config is None else {"config_name": arguments.config}
        written = ResultsTable.load(arguments.what).push_to_hub(repo_id, **options, **config)
    if arguments.json:
        print(_content(kind, arguments, [_part(kind, written.repo_id, written)]))
        return None
    if isinstance(written, hub.Planned):
        print(written)
        _print_if_not_compared([written])
        return None
    for change in written.changes:
        print(f"{change.kind:<6} {change.path}", file=sys.stderr)
    print(f"{'pushed' if written.changes else 'unchanged'} {written.url}")
    return None


def _push_study(arguments: argparse.Namespace) -> int:
    """Push a study part by part; 1 where a part did not arrive."""
    from huggingface_hub.utils import disable_progress_bars

    from hf_scaling.publishing import push_study

    namespace, name = arguments.namespace, arguments.name
    if arguments.repo is not None:
        if namespace is not None or name is not None:
            raise InputError(f"both {arguments.repo} and --namespace or --name: give the repository once")
        namespace, _, name = arguments.repo.rpartition("/")
    if not namespace:
        raise InputError(
            f"{arguments.what} is a study: give ORG/NAME, or --namespace ORG; "
            f"or push its rows alone: hf-scaling push {arguments.what}/results ORG/NAME"
        )
    # One line per part shows the progress; bars of single files would hide it.
    disable_progress_bars()
    outcomes = push_study(
        arguments.what,
        namespace,
        name,
        arguments.models or "all",
        private=arguments.private,
        dry_run=arguments.dry_run,
        on_outcome=_log_outcome if arguments.json else _print_outcome,
    )
    if arguments.json:
        parts = [_part(outcome.kind, outcome.repo_id, outcome.written, outcome.error) for outcome in outcomes]
        print(_content("study", arguments, parts))
    elif planned := [outcome.written for outcome in outcomes if hasattr(outcome.written, "creates")]:
        n_bytes = sum(change.n_bytes for each in planned for change in each.written)
        print(f"in all {len(planned)} repositories, {format_bytes(n_bytes)}")
    _print_if_not_compared([outcome.written for outcome in outcomes])
    lost = [outcome for outcome in outcomes if outcome.error]
    if not lost:
        return 0
    names = ", ".join(f"{outcome.kind} {outcome.repo_id}" for outcome in lost)
    counts = f"{len(lost)} of {len(outcomes)} parts did not arrive"
    print(f"error: {counts} ({names}); run the same command again to push them", file=sys.stderr)
    return 1


def _content(kind: str, arguments: argparse.Namespace, parts: "list[dict[str, Any]]") -> str:
    for part in parts:
        # The collection of a dry run is described by a text.
        part["status"] = "planned" if arguments.dry_run and not part["error"] else part["status"]
    n_lost = sum(part["status"] == "lost" for part in parts)
    compared = not any(change["kind"] == "write" for part in parts for change in part["changes"])
    return to_json(
        {"kind": kind, "dry_run": arguments.dry_run, "compared": compared, "parts": parts, "n_lost": n_lost}
    )


def _print_if_not_compared(written: "list[Commit | Planned | str | None]") -> None:
    """Say on stderr what a dry run could not compare without the Hub."""
    if any(getattr(planned, "creates", False) is None for planned in written):
        print(
            "the Hub was not reached, so these are not known: which repositories exist, which files are there already "
            "and stay as they are, with which rows the table is merged",
            file=sys.stderr,
        )


def _part(
    kind: str, repo_id: str, written: "Commit | Planned | str | None", error: str | None = None
) -> dict[str, Any]:
    """A part that was pushed; its status is pushed, unchanged, planned or lost."""
    changes = getattr(written, "changes", ())
    planned = written is not None and hasattr(written, "creates")
    text = written if isinstance(written, str) else None
    return {
        "kind": kind,
        "repo_id": repo_id,
        "repo_type": getattr(written, "repo_type", None),
        "url": getattr(written, "url", None),
        "status": "lost" if error else "planned" if planned else "pushed" if changes or text else "unchanged",
        "changes": [{"path": change.path, "kind": change.kind, "n_bytes": change.n_bytes} for change in changes],
        "text": text,
        "error": error,
    }


def _log_outcome(outcome: "Outcome", number: int, total: int) -> None:
    """One line on stderr, since stdout holds the JSON."""
    state = outcome.error or ("done" if outcome.written else "unchanged")
    print(f"[{number}/{total}] {outcome.kind} {outcome.repo_id}: {state}", file=sys.stderr, flush=True)


def _print_outcome(outcome: "Outcome", number: int, total: int) -> None:
    from hf_scaling.hub import Planned

    head = f"[{number}/{total}] {outcome.kind} {outcome.repo_id}"
    if outcome.error:
        print(f"{head}: {outcome.error}", file=sys.stderr, flush=True)
    elif isinstance(outcome.written, Planned):
        # A study has many models of the same few files.
        print(outcome.written.summary() if outcome.kind == "model" else outcome.written)
    elif isinstance(outcome.written, str):
        print(f"{head}: {outcome.written}", flush=True)
    else:
        n_files = len(outcome.written.changes)
        what = f"{n_files} file{'s' * (n_files != 1)} written" if n_files else "unchanged"
        print(f"{head}: {what}", flush=True)
