"""Which checkpoint a folder or a Hub id holds."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_scaling import tasks, transport
from hf_scaling.errors import InputError
from hf_scaling.tasks import Task
from hf_scaling.training.folder import RunFolder

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
    folder = transport.local_folder(repository, revision=revision or None, allow_patterns=_FILES)
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
