"""A study from the Hub back to a folder, to go on with; of what comes, nothing is trusted."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_scaling import files, hub
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.publishing.push import check_files
from hf_scaling.results import ResultsTable, same_values

FILE = "study.json"
FORMAT = "hf_scaling.study"
VERSION = 1
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_LAW = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Manifest:
    """The parts of a study on the Hub.

    Attributes:
        models: run_id to the id of the repository that holds its checkpoint.
        laws: Name of the law's folder to the id of its repository.
        report: Id of the static Space; None where there is none.
        collection: Slug of the collection; None where there is none.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    laws: Mapping[str, str] = field(default_factory=dict)
    report: str | None = None
    collection: str | None = None

    def merge(self, newer: "Manifest") -> "Manifest":
        """Both together; where they differ, what `newer` says."""
        return Manifest(
            {**self.models, **newer.models},
            {**self.laws, **newer.laws},
            newer.report or self.report,
            newer.collection or self.collection,
        )

    def to_json(self) -> bytes:
        """The content of study.json; equal manifests give equal bytes."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> "Manifest":
        """Read study.json, of which nothing is trusted.

        Args:
            content: The file's content.
            where: The repository, for messages.

        Raises:
            InputError: It is no manifest, of a newer version, or a name in it is not what it should be.
        """
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: {FILE} is not JSON: {error}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{where}: {FILE} is no study of hf_scaling: its format is not {FORMAT!r}")
        version = values.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise InputError(f"{where}: {FILE} has version {version}: install a newer hf_scaling")
        return cls(
            _ids(values.get("models"), _RUN_ID, "run id", where),
            _ids(values.get("laws"), _LAW, "name of a law", where),
            _place(values.get("report"), "report", where),
            _place(values.get("collection"), "collection", where),
        )


def push_manifest(ours: Manifest, repo_id: str) -> Manifest:
    """Merge a manifest into the one that a study's data set holds.

    Returns:
        Both together.

    Raises:
        InputError: What is there is no manifest, or no right to write.
        PushError: Offline, or the Hub kept failing.
    """
    merged = ours

    def prepare(base: hub.RemoteFolder) -> list:
        from huggingface_hub import CommitOperationAdd

        nonlocal merged
        merged = Manifest.from_json(base.read(FILE), repo_id).merge(ours) if FILE in base.files else ours
        return [CommitOperationAdd(FILE, merged.to_json())]

    hub.commit(repo_id, "dataset", prepare, "List the parts of the study", create=False)
    return merged


def _ids(values: Any, keys: re.Pattern, what: str, where: str) -> dict[str, str]:
    """Names to Hub ids; a name becomes a folder here, so it must be a plain one."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: {FILE} must hold a mapping for every {what}")
    for name, repo_id in values.items():
        if not keys.fullmatch(name):
            raise InputError(f"{where}: {FILE} names {name!r}, which is no {what}")
        if not _is_place(repo_id):
            raise InputError(f"{where}: {FILE} names {repo_id!r} for {name}, which is no Hub id")
    return values


def _place(value: Any, what: str, where: str) -> str | None:
    if value is not None and not _is_place(value):
        raise InputError(f"{where}: {FILE} names {value!r}, which is no {what} of the Hub")
    return value


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and _PLACE.fullmatch(value) is not None and ".." not in value


MODELS = ("parents", "all", "none")
_GRID = "grid.yaml"
# What a checkpoint of ours is made of; whatever else a repository holds stays there.
_CHECKPOINT = ["*.json", "*.safetensors", "run.yaml", "README.md", "results/*.parquet"]
Say = Callable[[str], None]


def pull_study(
    repo_id: str,
    out: str | Path | None = None,
    revision: str | None = None,
    models: str = "parents",
    say: Say = lambda line: None,
) -> Path:
    """Bring a study back from the Hub, so that `hf-scaling run` goes on from it.

    Rows are merged with those that the folder holds; checkpoints and laws that are there stay; grid.yaml too.

    Args:
        repo_id: The study's data set, as `push_study` named it.
        out: The folder; studies/NAME when None.
        revision: Branch, tag or commit of the data set.
        models: Which checkpoints: "parents" brings what further runs start from or are taught by (all pretraining
            runs), "all", or "none"; what a further run needs and is not there is made again.
        say: Called with a line for each part.

    Returns:
        The folder.

    Raises:
        InputError: Offline, nothing there, or something in it is refused: the line says what. What came before it is
            kept, and the same call goes on.
    """
    if models not in MODELS:
        raise InputError(f"models {models!r}: choose {', '.join(MODELS)}")
    out = Path(out or Path("studies") / repo_id.rpartition("/")[2])
    beside = hub.download(repo_id, repo_type="dataset", revision=revision, allow_patterns=[FILE, _GRID])
    manifest = _read_manifest(beside / FILE, repo_id)
    # Of the same commit, whatever is pushed meanwhile.
    table = ResultsTable.load(repo_id, beside.name)
    merged = ResultsTable.open(out / "results").merge(table)
    _take_grid(beside / _GRID, out / _GRID, say)
    merged.save(out / "results")
    say(f"{len(table):,} rows of {repo_id}; {out} holds {len(merged):,}")
    rows = {row["run_id"]: row for row in table.rows()}
    wanted = _wanted(rows, models)
    for run_id, model in manifest.models.items():
        if run_id in wanted:
            _pull_run(model, rows[run_id], out / "runs" / run_id, say)
    for name, law in manifest.laws.items():
        _pull_law(law, out / "laws" / name, say)
    return out


def _read_manifest(path: Path, where: str) -> Manifest:
    """What the data set lists; nothing where it is results alone."""
    return Manifest.from_json(path.read_bytes(), where) if path.is_file() else Manifest()


def _take_grid(theirs: Path, ours: Path, say: Say) -> None:
    """Copy the grid, if it is one, unless another one is here."""
    if not theirs.is_file():
        say(f"no {_GRID}: nothing to go on with, but the rows are here")
        return
    Grid.load(theirs)
    content = theirs.read_text(encoding="utf-8")
    if ours.is_file() and ours.read_text(encoding="utf-8") != content:
        say(f"{ours} differs from the one on the Hub and stays as it is")
        return
    files.write_text(ours, content)


def _wanted(rows: Mapping[str, Mapping[str, Any]], models: str) -> set[str]:
    """The run ids whose checkpoints are to be brought."""
    if models == "none":
        return set()
    if models == "all":
        return set(rows)
    started_from = {row[name] for row in rows.values() for name in ("parent", "teacher")}
    return {run_id for run_id, row in rows.items() if row["stage"] == "pretrain" or run_id in started_from}


def _pull_run(repo_id: str, row: Mapping[str, Any], folder: Path, say: Say) -> None:
    """Bring a run's folder, whole or not at all; one that is here stays."""
    if folder.exists():
        return
    there = hub.download(repo_id, allow_patterns=_CHECKPOINT)
    _check_run(there, row, repo_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        # The snapshot is made of links into the cache: the copies are files.
        for each in sorted(there.rglob("*")):
            if each.is_file():
                (aside / each.relative_to(there)).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(each, aside / each.relative_to(there))
        aside.chmod(0o755)
        os.replace(aside, folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    say(f"model {folder.name} of {repo_id}")


def _check_run(folder: Path, row: Mapping[str, Any], repo_id: str) -> None:
    """Refuse what is not the run that the study's row tells of."""
    run_id = row["run_id"]
    said = files.read_yaml(folder / "run.yaml", "run")
    if said.get("run_id") != run_id:
        raise InputError(f"{repo_id}: its run.yaml is of run {said.get('run_id')!r}, not of {run_id}")
    found = {each["run_id"]: each for each in ResultsTable.load(folder / "results").rows()}
    if run_id not in found or not same_values(found[run_id], row):
        raise InputError(f"{repo_id}: its results are not those of run {run_id} in the study")
    if not any(folder.glob("model*.safetensors")):
        raise InputError(f"{repo_id} holds no weights as model.safetensors; those of other kinds are never taken")
    check_files(folder, repo_id)


def _pull_law(repo_id: str, folder: Path, say: Say) -> None:
    """Bring a law, read and written anew; one that is here stays."""
    if folder.exists():
        return
    from hf_scaling.fitting import LawFit

    LawFit.from_pretrained(repo_id).save_pretrained(folder)
    say(f"law {folder.name} of {repo_id}")
