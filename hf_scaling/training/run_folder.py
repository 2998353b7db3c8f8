"""Which checkpoint a folder or a Hub id holds."""

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import yaml

from hf_scaling import files, hub, tasks
from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.results import ResultsTable
from hf_scaling.tasks import Task

_OURS = ("config.json", "model.safetensors", "README.md", "results")
_SEEN = "seen.safetensors"
_HASHES = "pixel_hashes"  # as the first runs, which were of images, called them
_WHOLE = "whole.json"


class RunFolder:
    """The folder of one run: checkpoint, image processor, README.md, run.yaml and results/.

    run.yaml is written first and says whose folder it is; the row in results/ is written last and says that the run is
    finished.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """Where the unfinished run keeps its training states; gone when it is finished."""
        return self.path / "checkpoints"

    @property
    def trunk(self) -> Path:
        """The training state that a ladder's next rung goes on from."""
        return self.path / "trunk"

    def claim(self, spec: RunSpec) -> dict[str, Any] | None:
        """Check that this folder is empty or the run's own.

        Returns:
            The row of the run if it is finished, else None.

        Raises:
            InputError: It holds another run, or files that a run would overwrite.
        """
        held = (self._resolved() or {}).get("run_id")
        if held not in (None, spec.run_id):
            raise InputError(
                f"{self.path} holds run {held}, and this command is run {spec.run_id}: "
                f"give another --output_dir, or remove the folder"
            )
        foreign = [name for name in _OURS if (self.path / name).exists()]
        if held is None and foreign:
            raise InputError(f"{self.path} holds {foreign[0]}, which is no run's of ours: give another --output_dir")
        return self.row()

    def row(self) -> dict[str, Any] | None:
        """The row of the finished run; None where there is none."""
        if not (self.path / "results").is_dir() or not list((self.path / "results").glob("*.parquet")):
            return None
        return ResultsTable.load(self.path).rows()[-1]

    def write_resolved(self, spec: RunSpec, resolved: Mapping[str, Any]) -> None:
        """Write run.yaml: the run id, the spec it is the hash of, and the configuration as it was resolved."""
        content = {"run_id": spec.run_id, "spec": spec.to_dict(), **resolved}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        files.write_text(self.path / "run.yaml", text)

    def spec(self) -> RunSpec:
        """What the run is, as `write_resolved` wrote it.

        Raises:
            InputError: No run is there.
        """
        resolved = self._resolved()
        if resolved is None:
            raise InputError(f"{self.path} holds no run.yaml: give the folder of a run")
        return RunSpec.from_dict(resolved["spec"])

    def write_seen(self, hashes: np.ndarray) -> None:
        """Write the hashes of the training data, so that a fine-tuning of this run can look for overlap."""
        with files.replacing(self.path / _SEEN) as temporary:
            safetensors.numpy.save_file({_HASHES: np.unique(hashes)}, temporary)

    def seen(self) -> np.ndarray | None:
        """What `write_seen` wrote; None where there is nothing."""
        path = self.path / _SEEN
        return safetensors.numpy.load_file(path)[_HASHES] if path.is_file() else None

    def finish(self, row: Mapping[str, Any]) -> None:
        """Write the row, and remove the training states that nobody will resume."""
        ResultsTable([row]).save(self.path / "results")
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _resolved(self) -> dict[str, Any] | None:
        path = self.path / "run.yaml"
        if not path.is_file():
            return None
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
            content["run_id"]
        except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
            raise InputError(f"{path} is not the run.yaml of a run: give another --output_dir") from None
        return content


def mark_whole(checkpoint: Path, notes: Mapping[str, Any]) -> None:
    """Say that everything of `checkpoint` is written: the names and sizes of its files, and `notes` to itself.

    The Trainer writes a checkpoint file by file; one that a kill cut short has no mark, or one that does not fit.
    """
    mark = {"files": _sizes(checkpoint), "notes": dict(notes)}
    files.write_text(checkpoint / _WHOLE, json.dumps(mark))


def keep_state(checkpoint: Path, place: Path) -> None:
    """Copy a whole checkpoint to `place`, where no later one takes its room; one that is there already stays."""
    if place.is_dir():
        return
    aside = place.with_name(f".{place.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    shutil.copytree(checkpoint, aside)
    os.replace(aside, place)


def newest_whole(checkpoints: Path) -> Path | None:
    """The newest checkpoint that was written to its end; None where there is none."""
    folders = [each for each in checkpoints.glob("checkpoint-*") if each.name.split("-")[-1].isdigit()]
    for folder in sorted(folders, key=lambda each: int(each.name.split("-")[-1]), reverse=True):
        if _is_whole(folder):
            return folder
    return None


def check_whole(state: Path) -> Path:
    """`state` itself.

    Raises:
        InputError: No training state is there, or not all of it.
    """
    if not _is_whole(state):
        raise InputError(f"{state} holds no whole training state: remove the run's folder, so that it is made again")
    return state


def read_notes(checkpoint: Path) -> dict[str, Any]:
    """The notes that `mark_whole` wrote."""
    return json.loads((checkpoint / _WHOLE).read_text(encoding="utf-8"))["notes"]


def remove_torn(checkpoints: Path) -> None:
    """Remove the checkpoints that a kill cut short."""
    for folder in checkpoints.glob("checkpoint-*"):
        if not _is_whole(folder):
            shutil.rmtree(folder)


def _is_whole(checkpoint: Path) -> bool:
    try:
        mark = json.loads((checkpoint / _WHOLE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return mark["files"] == _sizes(checkpoint)


def _sizes(folder: Path) -> dict[str, int]:
    names = [each for each in folder.rglob("*") if each.is_file() and each.name != _WHOLE]
    return {each.relative_to(folder).as_posix(): each.stat().st_size for each in sorted(names)}


_FILES = ["*.json", "*.safetensors", "results/*.parquet"]


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint found.

    Attributes:
        folder: Where it is on this machine.
        id: What a specification calls it: the run_id of one of our runs, else the Hub id with its commit, else the
            hash of the weights.
        name: What a row calls it: the run_id, the Hub id, or the hash.
        row: The row of the run; empty where it is none of ours.
        seen: Hashes of what it was trained on; None where it does not say.
    """

    folder: Path
    id: str
    name: str
    row: dict[str, Any]
    seen: Any

    def n_pretrain(self, stated: int | None) -> int | None:
        """Unique images or tokens it was pretrained on: its row's, else `stated`.

        Raises:
            InputError: Both are there and differ.
        """
        if not self.row:
            return stated
        if stated not in (None, self.row["n_pretrain"]):
            unit = tasks.find(self.row["task"]).unit
            raise InputError(
                f"n_pretrain {stated}: checkpoint {self.name} was pretrained on {self.row['n_pretrain']:,} {unit}s"
            )
        return self.row["n_pretrain"]


def identify(where: str, task: Task) -> Checkpoint:
    """Find a checkpoint, downloading it if it is a Hub id.

    Args:
        where: A folder or a Hub id; `org/name@revision` says which branch, tag or commit.
        task: What it is wanted for.

    Raises:
        InputError: Nothing there, offline, no checkpoint, or one of a run of ours for another task.
    """
    repository, _, revision = (where, "", "") if Path(where).exists() else where.partition("@")
    folder = hub.local_folder(repository, revision=revision or None, allow_patterns=_FILES)
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not [each for each in weights if each.name.startswith("model")]:
        raise InputError(f"{where} holds no checkpoint: no model.safetensors in it")
    ours = RunFolder(folder)
    row = ours.row() or {}
    if row and row["task"] != task.name:
        raise InputError(f"{where} is a checkpoint of the task {row['task']}: give --task {row['task']}")
    if row:
        return Checkpoint(folder, row["run_id"], row["run_id"], row, ours.seen())
    if not Path(where).exists():
        return Checkpoint(folder, f"{repository}@{folder.name}", where, row, None)
    digest = _digest(weights)
    return Checkpoint(folder, digest, digest, row, None)


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
