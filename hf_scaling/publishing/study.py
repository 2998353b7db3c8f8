"""A study as a whole to the Hub: its results, models, laws and report, and a collection that shows them together."""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_scaling import hub
from hf_scaling.errors import InputError, PushError
from hf_scaling.hub import cards
from hf_scaling.publishing import push
from hf_scaling.publishing.pull import Manifest, push_manifest
from hf_scaling.publishing.push import push_checkpoint
from hf_scaling.results import ResultsTable


def push_report(
    page: bytes, n_rows: int, dataset: str, repo_id: str, private: bool | None = None, dry_run: bool = False
) -> hub.Commit | hub.Planned:
    """Push a study's report.

    Args:
        page: report.html.
        n_rows: How many runs it tells of.
        dataset: The data set that holds its results on the Hub.
        repo_id: The Space.
        private: Whether a Space that is made now is private.
        dry_run: Write nothing and say what would be written.

    Raises:
        InputError: No right to write.
        PushError: Offline, or the Hub kept failing.
    """
    content = {"index.html": page, "README.md": _card(dataset, n_rows).encode()}

    def prepare(base: hub.RemoteFolder) -> list:
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(name, each) for name, each in content.items()]

    return hub.commit(repo_id, "space", prepare, f"Report of {n_rows:,} runs", private, dry_run)


def _card(dataset: str, n_rows: int) -> str:
    from huggingface_hub import SpaceCardData

    title = f"{dataset.rpartition('/')[2]}: report"
    head = SpaceCardData(
        title=title,
        emoji="📉",
        colorFrom="gray",
        colorTo="green",
        sdk="static",
        pinned=False,
        license="apache-2.0",
        datasets=[dataset],
        tags=["hf_scaling", "scaling-laws"],
    )
    return cards.render_card("report_space", {"title": title, "repo_id": dataset, "n_rows": f"{n_rows:,}"}, head)


MODELS = ("all", "best", "none")
# Parts in a row that fail before the rest is not tried any more: the Hub is down then.
_ENOUGH = 2
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?![.-]))*")
_LONGEST = 60  # of the 96 characters that the Hub takes, to leave room for -LAW
# A line of text stands for what is no commit.
Written = hub.Commit | hub.Planned | str


@dataclass(frozen=True)
class Part:
    """One part of a study: what it is, where it goes, and how it gets there.

    Attributes:
        kind: "results", "model", "law" or "report".
        name: The run id of a model, the folder's name of a law; "" otherwise.
        repo_id: Where.
        push: Brings it there.
        note: What a collection says beside it.
    """

    kind: str
    name: str
    repo_id: str
    push: Callable[[], Written]
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """How pushing a part ended.

    Attributes:
        kind: The part's; "collection" for the last step, which lists and shows the others.
        repo_id: Where.
        written: What was written, or would be; None where it did not arrive.
        error: Why it did not; None where it did.
    """

    kind: str
    repo_id: str
    written: Written | None = None
    error: str | None = None


def push_study(
    folder: str | Path,
    namespace: str,
    name: str | None = None,
    models: str = "all",
    private: bool | None = None,
    dry_run: bool = False,
    say: Callable[[Outcome, int, int], None] = lambda outcome, number, total: None,
) -> list[Outcome]:
    """Push a study folder: results first, then models, laws and report, and a collection of them all.

    Each part is a repository of its own: the data set NAMESPACE/NAME, models NAMESPACE/NAME-RUN_ID, laws
    NAMESPACE/NAME-LAW, the Space NAMESPACE/NAME-report. What is there already is not written again, so the same call
    finishes what an earlier one could not.

    Args:
        folder: The study: grid.yaml, results/, runs/, laws/ (folders that `fit --out` wrote), report.html. Without
            laws, or with a report older than the results, report and laws are worked out and written first.
        namespace: A user or an organisation.
        name: What the study is called there; the folder's name when None.
        models: "all"; "best": of each model on each data set the run with the smallest error; or "none".
        private: Whether repositories that are made now are private; the account's default when None.
        dry_run: Write nothing and say what would be written.
        say: Called with each part's outcome as soon as it is known, its number and how many there are.

    Returns:
        The outcomes, those that did not arrive among them.

    Raises:
        InputError: No study there, a name that the Hub does not take, or results that contradict those there. Nothing
            was written.
        PushError: The results did not arrive. Nothing else was tried.
    """
    if models not in MODELS:
        raise InputError(f"models {models!r}: choose {', '.join(MODELS)}")
    study = _Study(Path(folder), namespace, name, models, private, dry_run)
    results = study.results()
    first = Outcome(results.kind, results.repo_id, results.push())
    study.work_out_answers()
    arrived, outcomes, failed = [results], [first], 0
    parts = [*study.parts(), Part("collection", "", study.repo_id, lambda: study.show(arrived))]
    say(first, 1, len(parts) + 1)
    for part in parts:
        outcome = _attempt(part, failed)
        failed = failed + 1 if outcome.error else 0
        arrived += [] if outcome.error else [part]
        outcomes.append(outcome)
        say(outcome, len(outcomes), len(parts) + 1)
    return outcomes


def _attempt(part: Part, failed: int) -> Outcome:
    if failed >= _ENOUGH:
        return Outcome(part.kind, part.repo_id, error="not tried, since the parts before it did not arrive")
    try:
        return Outcome(part.kind, part.repo_id, part.push())
    except (InputError, PushError) as error:
        return Outcome(part.kind, part.repo_id, error=str(error))


class _Study:
    """A study's folder, and where each part of it goes."""

    def __init__(
        self, folder: Path, namespace: str, name: str | None, models: str, private: bool | None, dry_run: bool
    ):
        self.folder, self.models = folder, models
        self.repo_id = f"{_checked(namespace, 'namespace')}/{_checked(name or folder.resolve().name, 'name')}"
        self.options = {"private": private, "dry_run": dry_run}
        self.table = ResultsTable.load(folder)
        self.no_report = ""

    def work_out_answers(self) -> None:
        """Write report and laws where they are absent or older than the results; in a dry run only say so."""
        if not push.are_outdated(self.folder):
            return
        if self.options["dry_run"]:
            self.no_report = "would be made of the results first, with the laws that it rests on"
            return
        print(f"{self.folder}: writing the report and its laws first", file=sys.stderr, flush=True)
        try:
            push.refresh(self.folder)
        except InputError as error:
            self.no_report = str(error)

    def results(self) -> Part:
        """The rows and the grid: what must arrive before anything else is tried."""
        return Part("results", "", self.repo_id, self._push_results, f"{len(self.table):,} runs, one row each")

    def parts(self) -> Iterator[Part]:
        """All other parts, in the order in which they go."""
        rows = self._chosen_rows()
        places = {row["run_id"]: f"{self.repo_id}-{row['run_id']}" for row in rows}
        for row in rows:
            run_id = row["run_id"]
            yield Part("model", run_id, places[run_id], self._model_pusher(run_id, places), describe_run(row))
        for path in sorted(self.folder.glob("laws/*/law.json")):
            name = _checked(path.parent.name, "name of a law's folder")
            yield Part(
                "law", name, f"{self.repo_id}-{name}", self._law_pusher(path.parent), "a law fitted to the results"
            )
        report = f"{self.repo_id}-report"
        yield Part("report", "", report, lambda: self._push_report(report), "figures, laws and answers on one page")

    def show(self, parts: list[Part]) -> Written:
        """List the parts that arrived in study.json, and show them in a collection."""
        if self.options["dry_run"]:
            return f"would show {len(parts)} repositories together, and list them in study.json"
        ours = Manifest(
            {part.name: part.repo_id for part in parts if part.kind == "model"},
            {part.name: part.repo_id for part in parts if part.kind == "law"},
            next((part.repo_id for part in parts if part.kind == "report"), None),
        )
        known = push_manifest(ours, self.repo_id)
        slug = push.show(known.collection, self.repo_id, parts, self.options["private"])
        push_manifest(Manifest(collection=slug), self.repo_id)
        return f"{len(parts)} repositories in the collection {slug}"

    def _push_results(self) -> Written:
        grid = self.folder / "grid.yaml"
        beside = {"grid.yaml": grid.read_bytes()} if grid.is_file() else {}
        return self.table.push_to_hub(self.repo_id, beside=beside, **self.options)

    def _model_pusher(self, run_id: str, places: Mapping[str, str]) -> Callable[[], Written]:
        folder = self.folder / "runs" / run_id
        return lambda: push_checkpoint(folder, places[run_id], places=places, **self.options)

    def _law_pusher(self, folder: Path) -> Callable[[], Written]:
        from hf_scaling.fitting import LawFit

        told = {**self.options, "dataset": self.repo_id}
        return lambda: LawFit.from_pretrained(folder).push_to_hub(f"{self.repo_id}-{folder.name}", **told)

    def _push_report(self, repo_id: str) -> Written:
        if self.no_report and self.options["dry_run"]:
            return self.no_report
        if self.no_report:
            raise InputError(f"no report: {self.no_report}")
        page = (self.folder / push.REPORT).read_bytes()
        return push_report(page, len(self.table), self.repo_id, repo_id, **self.options)

    def _chosen_rows(self) -> list[dict[str, Any]]:
        """The rows whose checkpoints are pushed: teachers and parents before what came from them."""
        if self.models == "none":
            return []
        rows = [
            row for row in self.table.rows() if (self.folder / "runs" / row["run_id"] / "model.safetensors").is_file()
        ]
        if self.models == "best":
            rows = _best_rows(rows)
        return sorted(
            rows, key=lambda row: (row["stage"] == "finetune", row["arm"] == "distilled", row["n_params"] or 0)
        )


def _best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each model on each data set, the row with the smallest error, or loss where there is no error."""
    best: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        key = (row["stage"], row["model"], row["n_params"], row["upstream"], row["downstream"])
        if key not in best or _score(row) < _score(best[key]):
            best[key] = row
    return list(best.values())


def _score(row: Mapping[str, Any]) -> tuple[float, float]:
    return tuple(float("inf") if row[name] is None else row[name] for name in ("error", "loss"))


def describe_run(row: Mapping[str, Any]) -> str:
    """A run in a few words, for a list of many."""
    origin = f"from {row['parent']}" if row["parent"] else "from scratch"
    images = f"pretrained on {row['n_pretrain']:,} of {row['upstream']}" if row["n_pretrain"] else origin
    tuned = f", fine-tuned on {row['n_finetune']:,} of {row['downstream']}" if row["n_finetune"] else ""
    error = "" if row["error"] is None else f": error {row['error']:.4f}"
    return f"{row['model']} {row['arm']}, {images}{tuned}{error}"


def _checked(name: str, what: str) -> str:
    """`name`, if the Hub takes it as part of an id."""
    if len(name) > _LONGEST or not _NAME.fullmatch(name) or name.endswith((".git", ".ipynb")):
        raise InputError(
            f"{what} {name!r}: choose one of letters and digits, with single - . _ between them, {_LONGEST} at most"
        )
    return name
