"""The folder of a run: its files, its training states, and the checkpoint that it or a Hub repository holds."""

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
from transformers import PreTrainedModel

from hf_scaling import files, hub, tasks
from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.results import ResultsTable
from hf_scaling.tasks import Task

_WRITTEN_BY_RUNS = ("config.json", "model.safetensors", "README.md", "results")
_SEEN = "seen.safetensors"
_HASHES = "pixel_hashes"  # the key in the first runs' files, which were of images
_COMPLETE = "whole.json"
_CHECKPOINT_FILES = ["*.json", "*.safetensors", "results/*.parquet"]


class RunFolder:
    """The folder of one run: checkpoint, image processor, README.md, run.yaml and results/.

    run.yaml is written first and says which run the folder belongs to; the row in results/ is written last and says
    that the run is finished.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def checkpoints(self) -> Path:
        """Where an unfinished run saves its training states; removed when it is finished."""
        return self.path / "checkpoints"

    @property
    def resume_state(self) -> Path:
        """The training state from which a ladder's next rung continues."""
        return self.path / "resume_state"

    def claim(self, spec: RunSpec) -> dict[str, Any] | None:
        """Check that this folder is empty or belongs to the run.

        Returns:
            The row of the run if it is finished, else None.

        Raises:
            InputError: It belongs to another run, or has files that a run would overwrite.
        """
        owner = (self._resolved() or {}).get("run_id")
        if owner not in (None, spec.run_id):
            raise InputError(
                f"{self.path} belongs to run {owner}, and this command is run {spec.run_id}: "
                f"give another --output_dir, or remove the folder"
            )
        foreign = [name for name in _WRITTEN_BY_RUNS if (self.path / name).exists()]
        if owner is None and foreign:
            raise InputError(
                f"{self.path} has a {foreign[0]} that was not created by hf_scaling: give another --output_dir"
            )
        return self.row()

    def row(self) -> dict[str, Any] | None:
        """The row of the finished run; None where there is none."""
        if not list(self.path.glob("results/*.parquet")):
            return None
        return ResultsTable.load(self.path).rows()[-1]

    def write_resolved(self, spec: RunSpec, resolved: Mapping[str, Any]) -> None:
        """Write run.yaml: the run id, the specification that it is the hash of, and the resolved configuration."""
        content = {"run_id": spec.run_id, "spec": spec.to_dict(), **resolved}
        text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        files.write_text(self.path / "run.yaml", text)

    def spec(self) -> RunSpec:
        """The specification in run.yaml.

        Raises:
            InputError: run.yaml is missing.
        """
        resolved = self._resolved()
        if resolved is None:
            raise InputError(f"{self.path} has no run.yaml: give the folder of a run")
        return RunSpec.from_dict(resolved["spec"])

    def save_model(self, model: PreTrainedModel, processor: Any) -> None:
        """Write the checkpoint and its processor aside, then move them into the folder."""
        aside = self.checkpoints / "final"
        model.save_pretrained(aside)
        processor.save_pretrained(aside)
        for path in aside.iterdir():
            os.replace(path, self.path / path.name)
        aside.rmdir()

    def write_seen(self, hashes: np.ndarray) -> None:
        """Write the hashes of the training data, by which a fine-tuning of this run finds overlap."""
        with files.replacing(self.path / _SEEN) as temporary:
            safetensors.numpy.save_file({_HASHES: np.unique(hashes)}, temporary)

    def seen(self) -> np.ndarray | None:
        """The hashes that `write_seen` wrote; None where there are none."""
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


def mark_complete(checkpoint: Path, notes: Mapping[str, Any]) -> None:
    """Record that a training state is written completely: the names and sizes of its files, and `notes`.

    The Trainer writes a checkpoint file by file; one that a kill cut short has no record, or one that does not match.
    """
    record = {"files": _file_sizes(checkpoint), "notes": dict(notes)}
    files.write_text(checkpoint / _COMPLETE, json.dumps(record))


def is_complete(checkpoint: Path) -> bool:
    """Whether a training state is there and was written completely."""
    try:
        record = json.loads((checkpoint / _COMPLETE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return record["files"] == _file_sizes(checkpoint)


def read_notes(checkpoint: Path) -> dict[str, Any]:
    """The notes of `mark_complete`."""
    return json.loads((checkpoint / _COMPLETE).read_text(encoding="utf-8"))["notes"]


def save_resume_state(checkpoint: Path, resume_state: Path) -> None:
    """Copy a complete training state to where it is not replaced by later ones; an existing copy stays."""
    if resume_state.is_dir():
        return
    partial = resume_state.with_name(f".{resume_state.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.copytree(checkpoint, partial)
    os.replace(partial, resume_state)


def newest_complete(checkpoints: Path) -> Path | None:
    """The newest training state that was written completely; None where there is none."""
    steps = {folder: folder.name.split("-")[-1] for folder in checkpoints.glob("checkpoint-*")}
    numbered = [folder for folder, step in steps.items() if step.isdigit()]
    newest_first = sorted(numbered, key=lambda folder: int(steps[folder]), reverse=True)
    return next(filter(is_complete, newest_first), None)


def remove_incomplete(checkpoints: Path) -> None:
    """Remove the training states that a kill cut short."""
    for folder in checkpoints.glob("checkpoint-*"):
        if not is_complete(folder):
            shutil.rmtree(folder)


def _file_sizes(folder: Path) -> dict[str, int]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != _COMPLETE]
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in sorted(paths)}


@dataclass(frozen=True)
class Checkpoint:
    """A trained model, identified.

    Attributes:
        folder: Where it is on this machine.
        id: Its name in a specification: the run_id of a run of hf_scaling, else the Hub id with its commit, else the
            hash of the weights.
        name: Its name in a row: the run_id, the Hub id, or the hash.
        row: The row of the run; empty where it was not created by hf_scaling.
        seen: Hashes of what it was trained on; None where that is not known.
        unreachable: Why it could not be read, where a plan guesses it; None where it was.
    """

    folder: Path
    id: str
    name: str
    row: dict[str, Any]
    seen: np.ndarray | None
    unreachable: str | None = None

    @property
    def is_reachable(self) -> bool:
        """Whether its files are on this machine."""
        return self.unreachable is None

    def n_pretrain(self, stated: int | None) -> int | None:
        """Unique images or tokens it was pretrained on: its row's, else `stated`.

        Raises:
            InputError: Both are known and differ.
        """
        if not self.row:
            return stated
        if stated not in (None, self.row["n_pretrain"]):
            unit = tasks.find(self.row["task"]).unit
            raise InputError(
                f"n_pretrain {stated}: checkpoint {self.name} was pretrained on {self.row['n_pretrain']:,} {unit}s"
            )
        return self.row["n_pretrain"]


def identify(where: str | Path, task: Task) -> Checkpoint:
    """Find the checkpoint in a folder, or download it from the Hub.

    Args:
        where: A folder or a Hub id; `org/name@revision` names a branch, tag or commit. The name of an architecture is
            never a folder: write ./NAME.
        task: What it is used for.

    Raises:
        InputError: Nothing there, offline, not a checkpoint, or one of another task.
    """
    if isinstance(where, str) and "/" not in where and task.is_architecture(where):
        raise InputError(f"checkpoint {where}: this is an architecture; give a Hub id, or a folder as ./{where}")
    repository, _, revision = (str(where), "", "") if Path(where).exists() else str(where).partition("@")
    folder = hub.local_folder(repository, revision=revision or None, allow_patterns=_CHECKPOINT_FILES)
    weights = sorted(folder.glob("*.safetensors")) if folder.is_dir() else []
    if not any(path.name.startswith("model") for path in weights):
        raise InputError(f"{where} is not a checkpoint: it has no model.safetensors")
    run_folder = RunFolder(folder)
    row = run_folder.row() or {}
    if row and row["task"] != task.name:
        raise InputError(f"{where} is a checkpoint of the task {row['task']}: give --task {row['task']}")
    if row:
        return Checkpoint(folder, row["run_id"], row["run_id"], row, run_folder.seen())
    if not Path(where).exists():
        return Checkpoint(folder, f"{repository}@{folder.name}", str(where), row, None)
    digest = hashlib.sha256()
    for path in weights:
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    weights_hash = digest.hexdigest()[:16]
    return Checkpoint(folder, weights_hash, weights_hash, row, None)
