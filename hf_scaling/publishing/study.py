"""A study to the Hub: its results, models, laws and report, and a collection that shows them together."""

import logging
import re
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from hf_scaling import hub
from hf_scaling.errors import InputError, PushError
from hf_scaling.hub import cards
from hf_scaling.publishing.pull import Manifest, push_manifest
from hf_scaling.publishing.push import push_checkpoint
from hf_scaling.results import ResultsTable
from hf_scaling.text import format_value, format_whole

logger = logging.getLogger(__name__)

MODELS = ("all", "best", "none")
REPORT = "report.html"
# After this number of failures in a row the remaining parts are not tried: the Hub is down then.
_MOST_FAILURES = 2
_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_]|[.-](?![.-]))*")
_LONGEST_NAME = 60  # of the 96 characters that the Hub allows, to leave room for -LAW
_LONGEST_LAW = 35
# Folders in laws/ with this prefix belong to the report; others are the user's own.
_LAW_PREFIX = "law-"
_LONGEST_NOTE, _LONGEST_TITLE, _LONGEST_DESCRIPTION = 500, 59, 150
_ITEM_TYPES = {"results": "dataset", "report": "space", "model": "model", "law": "model"}
# What pushing a part returns; a text where there is no commit.
Written = hub.Commit | hub.Planned | str


@dataclass(frozen=True)
class Part:
    """One part of a study.

    Attributes:
        kind: "results", "model", "law", "report" or "collection".
        name: The run id of a model, the folder name of a law; else "".
        repo_id: Repository on the Hub.
        note: Text beside it in the collection.
    """

    kind: str
    name: str
    repo_id: str
    note: str = ""


@dataclass(frozen=True)
class Outcome:
    """The result of pushing one part.

    Attributes:
        kind: Kind of the part; "collection" for the last step, which lists and shows the others.
        repo_id: Repository on the Hub.
        written: What was written, or would be; None where the part did not arrive.
        error: Why it did not arrive; None where it did.
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
    on_outcome: Callable[[Outcome, int, int], None] | None = None,
) -> list[Outcome]:
    """Push the folder of a study: results first, then models, laws and report, and a collection of them all.

    Each part is a repository: the data set NAMESPACE/NAME, models NAMESPACE/NAME-RUN_ID, laws NAMESPACE/NAME-LAW, the
    Space NAMESPACE/NAME-report. Equal files are not written again, so the same call finishes an interrupted one.

    Args:
        folder: The study: grid.yaml, results/, runs/, laws/ (folders written by `fit --out`), report.html. Without
            laws, or with a report older than the results, report and laws are written first.
        namespace: A user or an organisation.
        name: Name of the study on the Hub; the name of the folder when None.
        models: "all"; "best": of each model on each data set the run with the smallest error; or "none".
        private: Whether new repositories are private; the account's default when None.
        dry_run: Describe what would be written, and write nothing; without a connection, not compared with the Hub.
        on_outcome: Called with each outcome as soon as it is known, its number, and the number of all parts.

    Returns:
        The outcomes of all parts, those that did not arrive included.

    Raises:
        InputError: No study in the folder, an invalid name, or results that contradict those on the Hub. Nothing was
            written.
        PushError: The results did not arrive. Nothing else was tried.

    Example:
        >>> outcomes = push_study("studies/demo", "org", private=True)
        >>> [outcome.repo_id for outcome in outcomes if outcome.error]
    """
    if models not in MODELS:
        raise InputError(f"models {models!r}: choose {', '.join(MODELS)}")
    study = _Study(Path(folder), namespace, name, models, private, dry_run)
    results = Part("results", "", study.repo_id, f"{format_whole(len(study.table))} runs, one row each")
    outcomes, arrived = [Outcome(results.kind, results.repo_id, study.push(results))], [results]
    study.update_report()
    parts = study.parts()
    failures = 0
    if on_outcome:
        on_outcome(outcomes[0], 1, len(parts) + 2)
    reached = getattr(outcomes[0].written, "creates", False) is not None
    for part in [*parts, Part("collection", "", study.repo_id)]:
        try:
            if failures >= _MOST_FAILURES:
                raise PushError("not tried, since the parts before it did not arrive")
            with nullcontext() if reached else hub.not_asked():
                written = study.show(arrived) if part.kind == "collection" else study.push(part, parts)
            outcome = Outcome(part.kind, part.repo_id, written)
            arrived.append(part)
            failures = 0
        except (InputError, PushError) as error:
            outcome = Outcome(part.kind, part.repo_id, error=str(error))
            failures += 1
        outcomes.append(outcome)
        if on_outcome:
            on_outcome(outcome, len(outcomes), len(parts) + 2)
    return outcomes


class _Study:
    """The folder of a study, and the repository of each part of it."""

    def __init__(
        self, folder: Path, namespace: str, name: str | None, models: str, private: bool | None, dry_run: bool
    ):
        self.folder, self.models = folder, models
        self.repo_id = f"{_checked(namespace, 'namespace')}/{_checked(name or folder.resolve().name, 'name')}"
        self.private, self.dry_run = private, dry_run
        self.table = ResultsTable.load(folder)
        self.no_report = ""

    def update_report(self) -> None:
        """Write report and laws where they are missing or older than the results; in a dry run only note that.

        The law of each part, target and arm of the report becomes laws/law-NAME.
        """
        report, laws = self.folder / REPORT, self.folder / "laws"
        newest = max((file.stat().st_mtime for file in (self.folder / "results").glob("*.parquet")), default=0.0)
        if any(laws.glob("*/law.json")) and report.is_file() and report.stat().st_mtime >= newest:
            return
        if self.dry_run:
            self.no_report = "would be written from the results first, with its laws"
            return
        from hf_scaling.report import write_report

        logger.info("%s: writing the report and its laws first", self.folder)
        try:
            findings = write_report(self.table, report)
            for old in laws.glob(f"{_LAW_PREFIX}*"):
                shutil.rmtree(old)
            counts: Counter[str] = Counter()
            fitted = [(found, law) for found in findings.parts for law in found.laws if law.fit is not None]
            for found, law in fitted:
                # law-loss-plain-glyphs-digits; cut after a whole word where the Hub would refuse it.
                name, words = _LAW_PREFIX.rstrip("-"), f"{law.target} {law.arm.label} {found.part.title}".lower()
                for word in re.findall(r"[a-z0-9]+", words.replace(", then ", " ")):
                    if len(name) + 1 + len(word) > _LONGEST_LAW - len("-99"):
                        break
                    name = f"{name}-{word}"
                counts[name] += 1
                law.fit.save_pretrained(laws / (f"{name}-{counts[name]}" if counts[name] > 1 else name))
        except InputError as error:
            self.no_report = str(error)

    def parts(self) -> list[Part]:
        """The parts but the results, in the order in which they are pushed: teachers and parents come first."""
        runs = self.folder / "runs"
        rows = [row for row in self.table.rows() if (runs / row["run_id"] / "model.safetensors").is_file()]
        if self.models != "all":
            best: dict[tuple, dict[str, Any]] = {}
            for row in rows if self.models == "best" else ():
                key = tuple(row[name] for name in ("stage", "model", "n_params", "upstream", "downstream"))
                if key not in best or _score(row) < _score(best[key]):
                    best[key] = row
            rows = list(best.values())
        rows.sort(key=lambda row: (row["stage"] == "finetune", row["arm"] == "distilled", row["n_params"] or 0))
        folders = sorted(path.parent.name for path in self.folder.glob("laws/*/law.json"))
        laws = [_checked(name, "name of a law's folder") for name in folders]
        return [
            *(Part("model", row["run_id"], f"{self.repo_id}-{row['run_id']}", describe_run(row)) for row in rows),
            *(Part("law", name, f"{self.repo_id}-{name}", "a law fitted to the results") for name in laws),
            Part("report", "", f"{self.repo_id}-report", "figures, laws and answers on one page"),
        ]

    def push(self, part: Part, parts: Sequence[Part] = ()) -> Written:
        """Push the results and the grid, a model, a law or the report.

        Args:
            part: What is pushed.
            parts: All parts: the card of a model names the repositories of its teacher and parent.
        """
        private, dry_run = self.private, self.dry_run
        if part.kind == "results":
            grid = self.folder / "grid.yaml"
            beside = {"grid.yaml": grid.read_bytes()} if grid.is_file() else {}
            return self.table.push_to_hub(part.repo_id, private=private, dry_run=dry_run, beside=beside)
        if part.kind == "model":
            places = {other.name: other.repo_id for other in parts if other.kind == "model"}
            return push_checkpoint(self.folder / "runs" / part.name, part.repo_id, private, dry_run, places)
        if part.kind == "law":
            from hf_scaling.fitting import LawFit

            law = LawFit.from_pretrained(self.folder / "laws" / part.name)
            return law.push_to_hub(part.repo_id, private=private, dry_run=dry_run, dataset=self.repo_id)
        if not self.no_report:
            page = (self.folder / REPORT).read_bytes()
            return push_report(page, len(self.table), self.repo_id, part.repo_id, private, dry_run)
        if dry_run:
            return self.no_report
        raise InputError(f"no report: {self.no_report}")

    def show(self, parts: Sequence[Part]) -> Written:
        """List the parts that arrived in study.json, and show them in a collection."""
        if self.dry_run:
            return f"would show {len(parts)} repositories in a collection, and list them in study.json"
        manifest = Manifest(
            {part.name: part.repo_id for part in parts if part.kind == "model"},
            {part.name: part.repo_id for part in parts if part.kind == "law"},
            next((part.repo_id for part in parts if part.kind == "report"), None),
        )
        slug = push_manifest(manifest, self.repo_id).collection
        slug = show_in_collection(slug, self.repo_id, parts, self.private)
        push_manifest(Manifest(collection=slug), self.repo_id)
        return f"{len(parts)} repositories in the collection {slug}"


def push_report(
    page: bytes, n_rows: int, dataset: str, repo_id: str, private: bool | None = None, dry_run: bool = False
) -> hub.Commit | hub.Planned:
    """Push the report of a study to a static Space.

    Args:
        page: Content of report.html.
        n_rows: Number of runs in it.
        dataset: Hub id of the data set with the results.
        repo_id: Hub id of the Space.
        private: Whether a new Space is private; the account's default when None.
        dry_run: Describe what would be written, and write nothing.

    Raises:
        InputError: No right to write.
        PushError: Offline, or the Hub kept failing.
    """
    title = f"{dataset.rpartition('/')[2]}: report"
    head = {
        "title": title,
        "emoji": "📉",
        "colorFrom": "gray",
        "colorTo": "green",
        "sdk": "static",
        "pinned": False,
        "license": "apache-2.0",
        "datasets": [dataset],
        "tags": ["hf_scaling", "scaling-laws"],
    }
    values = {"title": title, "repo_id": dataset, "n_rows": format_whole(n_rows)}
    content = {"index.html": page, "README.md": cards.render_card("report_space", values, head).encode()}

    def prepare(base: hub.RemoteFolder) -> list:
        from huggingface_hub import CommitOperationAdd

        return [CommitOperationAdd(name, file) for name, file in content.items()]

    return hub.commit(repo_id, "space", prepare, f"Report of {format_whole(n_rows)} runs", private, dry_run)


def show_in_collection(slug: str | None, repo_id: str, parts: Sequence[Part], private: bool | None) -> str:
    """Add parts of a study to its collection, which is created where it does not exist.

    Args:
        slug: The collection of an earlier push; None where there is none.
        repo_id: Hub id of the study's data set.
        parts: The parts; those already in the collection stay as they are.
        private: Whether a new collection is private.

    Returns:
        The slug of the collection.

    Raises:
        InputError: No right to write.
        PushError: Offline, or the Hub kept failing; the same call continues.
    """
    from huggingface_hub import Collection, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    def find_or_create() -> Collection:
        if slug is not None:
            try:
                return HfApi().get_collection(slug)
            except HfHubHTTPError as error:
                # A collection that was removed is created again.
                if error.response.status_code != 404:
                    raise
        namespace, _, name = repo_id.partition("/")
        description = f"A study made with hf_scaling: results, models, laws and report of {name}"
        return HfApi().create_collection(
            name[:_LONGEST_TITLE],
            namespace=namespace,
            description=description[:_LONGEST_DESCRIPTION],
            private=bool(private),
            exists_ok=True,
        )

    with hub.push_errors(f"the collection of {repo_id}"):
        collection = hub.retried(find_or_create)
        shown = {(item.item_type, item.item_id) for item in collection.items}
        for part in parts:
            item_type = _ITEM_TYPES[part.kind]
            if (item_type, part.repo_id) not in shown:
                note = part.note[:_LONGEST_NOTE] or None
                add = partial(HfApi().add_collection_item, collection.slug, part.repo_id, item_type, note=note)
                hub.retried(partial(add, exists_ok=True))
        return collection.slug


def _score(row: Mapping[str, Any]) -> tuple[float, ...]:
    """Error and loss, by which runs are compared."""
    return tuple(float("inf") if row[name] is None else row[name] for name in ("error", "loss"))


def describe_run(row: Mapping[str, Any]) -> str:
    """A run in one line."""
    origin = f"from {row['parent']}" if row["parent"] else "from scratch"
    n_pretrain, n_finetune = (format_whole(row[name]) for name in ("n_pretrain", "n_finetune"))
    pretrained = f"pretrained on {n_pretrain} of {row['upstream']}" if row["n_pretrain"] else origin
    tuned = f", fine-tuned on {n_finetune} of {row['downstream']}" if row["n_finetune"] else ""
    error = "" if row["error"] is None else f": error {format_value('error', row['error'])}"
    return f"{row['model']} {row['arm']}, {pretrained}{tuned}{error}"


def _checked(name: str, what: str) -> str:
    """`name`, if the Hub allows it as part of an id."""
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name) or name.endswith((".git", ".ipynb")):
        raise InputError(
            f"{what} {name!r}: use letters and digits, with single - . _ between them, {_LONGEST_NAME} at most"
        )
    return name
