"""A study from the Hub to a folder, to resume it there; nothing that is downloaded is trusted."""

import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from hf_scaling import files, hub
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.publishing.push import check_files
from hf_scaling.results import ResultsTable, same_values
from hf_scaling.text import format_whole

logger = logging.getLogger(__name__)

FILE = "study.json"
FORMAT = "hf_scaling.study"
VERSION = 1
MODELS = ("parents", "all", "none")
_GRID = "grid.yaml"
# The files of a checkpoint; other files of a repository are not downloaded.
_CHECKPOINT = ["*.json", "*.safetensors", "run.yaml", "README.md", "results/*.parquet"]
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_LAW = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_REPO_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Manifest:
    """The parts of a study on the Hub: the content of study.json.

    Attributes:
        models: run_id -> Hub id of its checkpoint.
        laws: Name of the law's folder -> Hub id of the law.
        report: Hub id of the static Space; None where there is none.
        collection: Slug of the collection; None where there is none.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    laws: Mapping[str, str] = field(default_factory=dict)
    report: str | None = None
    collection: str | None = None

    def merge(self, newer: "Manifest") -> "Manifest":
        """Both together; where they differ, `newer` counts."""
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
        """Read study.json and check every name in it.

        Args:
            content: Content of the file.
            where: The repository, for messages.

        Raises:
            InputError: Not a manifest, of a newer version, or an invalid name.
        """
        place = f"{where}: {FILE}"
        values = files.parse_json(content, place, FORMAT, VERSION)
        for name, pattern in (("models", _RUN_ID), ("laws", _LAW)):
            # A name becomes a folder here.
            if not isinstance(values.get(name), dict):
                raise InputError(f"{place}: {name} must be a mapping of names to Hub ids")
            for key, repo_id in values[name].items():
                if not pattern.fullmatch(key) or not _is_repo_id(repo_id):
                    raise InputError(f"{place}: {name} has an invalid entry {key!r}: {repo_id!r}")
        for name in ("report", "collection"):
            if values.get(name) is not None and not _is_repo_id(values[name]):
                raise InputError(f"{place}: {name} {values[name]!r} is invalid")
        return cls(values["models"], values["laws"], values.get("report"), values.get("collection"))


def _is_repo_id(value: Any) -> bool:
    return isinstance(value, str) and _REPO_ID.fullmatch(value) is not None and ".." not in value


def push_manifest(manifest: Manifest, repo_id: str) -> Manifest:
    """Merge a manifest into study.json in the data set of a study.

    Returns:
        The merged manifest.

    Raises:
        InputError: An invalid study.json there, or no right to write.
        PushError: Offline, or the Hub kept failing.
    """
    merged = manifest

    def prepare(base: hub.RemoteFolder) -> list:
        from huggingface_hub import CommitOperationAdd

        nonlocal merged
        merged = manifest
        if FILE in base.files:
            merged = Manifest.from_json(base.read(FILE), repo_id).merge(manifest)
        return [CommitOperationAdd(FILE, merged.to_json())]

    hub.commit(repo_id, "dataset", prepare, "List the parts of the study", create=False)
    return merged


def pull_study(
    repo_id: str, out: str | Path | None = None, revision: str | None = None, models: str = "parents"
) -> Path:
    """Download a study from the Hub, so that `hf-scaling run` can resume it.

    Rows are merged with those in the folder; checkpoints, laws and grid.yaml that exist there stay as they are. Each
    part is logged.

    Args:
        repo_id: Hub id of the study's data set.
        out: Folder to write to; studies/NAME when None.
        revision: Branch, tag or commit of the data set; the head of main when None.
        models: Which checkpoints: "parents" are those that further runs start from or are distilled from (all
            pretraining runs); "all"; or "none". A further run that needs a missing checkpoint trains it again.

    Returns:
        The folder.

    Raises:
        InputError: Offline, no such data set, or invalid content in it. Parts that were written before are kept, and
            the same call continues.

    Example:
        >>> folder = pull_study("org/demo", "studies/demo")
    """
    if models not in MODELS:
        raise InputError(f"models {models!r}: choose {', '.join(MODELS)}")
    out = Path(out or Path("studies") / repo_id.rpartition("/")[2])
    manifest, table = _pull_rows(repo_id, revision, out)
    rows = {row["run_id"]: row for row in table.rows()}
    started_from = {row[name] for row in rows.values() for name in ("parent", "teacher")}
    for run_id, model in manifest.models.items():
        row, folder = rows.get(run_id), out / "runs" / run_id
        if row is None or models == "none" or folder.exists():
            continue
        if models == "all" or row["stage"] == "pretrain" or run_id in started_from:
            _pull_run(model, row, folder)
    for name, law in manifest.laws.items():
        folder = out / "laws" / name
        if not folder.exists():
            from hf_scaling.fitting import LawFit

            LawFit.from_pretrained(law).save_pretrained(folder)
            logger.info("law %s of %s", name, law)
    return out


def _pull_rows(repo_id: str, revision: str | None, out: Path) -> tuple[Manifest, ResultsTable]:
    """Merge the rows of a study into those of a folder, and copy its grid unless the folder has a different one."""
    snapshot = hub.download(repo_id, repo_type="dataset", revision=revision, allow_patterns=[FILE, _GRID])
    # A data set without study.json is results alone.
    has_manifest = (snapshot / FILE).is_file()
    manifest = Manifest.from_json((snapshot / FILE).read_bytes(), repo_id) if has_manifest else Manifest()
    # Of the same commit, whatever is pushed meanwhile.
    table = ResultsTable.load(repo_id, snapshot.name)
    merged = ResultsTable.open(out / "results").merge(table)
    source, path = snapshot / _GRID, out / _GRID
    if source.is_file():
        Grid.load(source)
        content = source.read_text(encoding="utf-8")
        if path.is_file() and path.read_text(encoding="utf-8") != content:
            logger.warning("%s differs from the one on the Hub and stays as it is", path)
        else:
            files.write_text(path, content)
    else:
        logger.warning("no %s on the Hub: the rows are here, but the study cannot be resumed from a grid", _GRID)
    merged.save(out / "results")
    logger.info("%s rows of %s; %s now holds %s", format_whole(len(table)), repo_id, out, format_whole(len(merged)))
    return manifest, table


def _pull_run(repo_id: str, row: Mapping[str, Any], folder: Path) -> None:
    """Download the folder of a run, whole or not at all.

    Raises:
        InputError: It is another run than the study's row, has no safetensors weights, or files that are refused.
    """
    run_id = row["run_id"]
    snapshot = hub.download(repo_id, allow_patterns=_CHECKPOINT)
    stated = files.read_yaml(snapshot / "run.yaml", "run").get("run_id")
    if stated != run_id:
        raise InputError(f"{repo_id}: its run.yaml is of run {stated!r}, not of {run_id}")
    rows = {result["run_id"]: result for result in ResultsTable.load(snapshot / "results").rows()}
    if run_id not in rows or not same_values(rows[run_id], row):
        raise InputError(f"{repo_id}: its results are not those of run {run_id} in the study")
    check_files(snapshot, repo_id)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        # The snapshot consists of links into the cache; the copies are files.
        shutil.copytree(snapshot, temporary, dirs_exist_ok=True, copy_function=shutil.copyfile)
        temporary.chmod(0o755)
        os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    logger.info("model %s of %s", folder.name, repo_id)
