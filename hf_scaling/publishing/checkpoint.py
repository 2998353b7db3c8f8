"""A finished run's checkpoint to the Hub: weights, configuration, processor, card, run.yaml, the row."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_scaling import cards, transport
from hf_scaling.errors import InputError
from hf_scaling.publishing.checking import check_files
from hf_scaling.results import ResultsTable

if TYPE_CHECKING:
    from huggingface_hub import CommitOperation

#: What a card says where its own place belongs.
PLACE = "PATH_OR_HUB_ID"
# What is sent; training states, pickles and whatever else lies in the folder stay here.
_SENT = ("*.json", "*.safetensors", "*.txt", "*.model", "run.yaml", "results/*.parquet")
_CARD = "README.md"
_EVALUATION = ".eval_results/hf_scaling.yaml"
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    dry_run: bool = False,
    places: Mapping[str, str] | None = None,
) -> transport.Commit | transport.Planned:
    """Push the checkpoint of a finished run to a model repository, which is made where it is not there.

    The folder's README.md becomes the repository's: what it says of its own place becomes the Hub id, its head gets
    what the Hub reads, and what people wrote into the repository's README.md stays. What is there already is not sent
    again.

    Args:
        folder: The run's folder.
        repo_id: `org/name`.
        private: Whether a repository that is made now is private; the account's default when None.
        dry_run: Write nothing and say what would be written.
        places: run_id -> Hub id of the runs that this one came from, where they are pushed too; the card says of
            itself where a teacher or a checkpoint came from the Hub.

    Returns:
        What was written, or would be.

    Raises:
        InputError: The folder holds no finished run, or what must not be sent: weights as a pickle, code.
        PushError: Offline, or the Hub kept failing.
    """
    folder = Path(folder)
    row = _check(folder)
    work = _Model(folder, row, repo_id, places or {})
    return transport.commit(repo_id, "model", work.prepare, _message(row), private=private, dry_run=dry_run)


class _Model:
    """What one push of a checkpoint writes."""

    def __init__(self, folder: Path, row: Mapping[str, Any], repo_id: str, places: Mapping[str, str]):
        self.folder, self.row, self.repo_id, self.places = folder, row, repo_id, places

    def prepare(self, base: transport.RemoteFolder) -> "list[CommitOperation]":
        """The operations that make `base` hold the checkpoint."""
        from huggingface_hub import CommitOperationAdd

        there = base.read(_CARD).decode("utf-8", "replace") if _CARD in base.files else ""
        sent = {path.relative_to(self.folder).as_posix(): path for path in _files(self.folder)}
        sent[_CARD] = cards.renew_card(there, self._card(), self.repo_id).encode()
        evaluation = _evaluation(self.row)
        if evaluation is not None:
            sent[_EVALUATION] = evaluation
        return [CommitOperationAdd(name, content) for name, content in sorted(sent.items())]

    def _card(self) -> str:
        text = (self.folder / _CARD).read_text(encoding="utf-8").replace(PLACE, self.repo_id)
        head, body = cards.read_card(text, str(self.folder / _CARD))
        origins = {"teacher_model": self.places.get(self.row["teacher"])}
        if self.row["stage"] == "finetune":
            origins["base_model"] = self.places.get(self.row["parent"])
        head |= {key: repo_id for key, repo_id in origins.items() if repo_id is not None}
        return cards.with_head(head, body)


def _check(folder: Path) -> dict[str, Any]:
    """The row of the finished run in `folder`, which may be sent.

    Raises:
        InputError: It may not, and why.
    """
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no checkpoint: there is no config.json in it")
    if not any(folder.glob("model*.safetensors")):
        pickles = sorted(each.name for each in folder.iterdir() if each.suffix in _PICKLES)
        held = f"; {pickles[0]} may run code where it is loaded and is not sent" if pickles else ""
        raise InputError(f"{folder} holds no weights as model.safetensors{held}")
    check_files(folder)
    if not (folder / _CARD).is_file():
        raise InputError(f"{folder} holds no README.md: a checkpoint is not pushed without its card")
    if not any((folder / "results").glob("*.parquet")):
        raise InputError(f"{folder} holds no results row: the run is not finished; run its recipe again first")
    return ResultsTable.load(folder / "results").rows()[-1]


def _files(folder: Path) -> list[Path]:
    """The files of a run that are sent, without its card."""
    found = {path for pattern in _SENT for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if not path.name.startswith("."))


def _evaluation(row: Mapping[str, Any]) -> bytes | None:
    """The scores as the Hub shows them beside a data set; None where the evaluation's is none of the Hub's."""
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    images = row["downstream"] or row["upstream"]
    if not transport.is_repo_id(images):
        return None
    notes = f"top-1 accuracy on {row['n_eval']:,} of split {row['eval_split']}"
    date = row["created_at"].date().isoformat()
    entry = EvalResultEntry(images, "default", round(1 - row["error"], 6), date=date, notes=notes)
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False).encode()


def _message(row: Mapping[str, Any]) -> str:
    stage = "fine-tuned" if row["stage"] == "finetune" else "pretrained"
    return f"Add {row['model']}, {row['arm']}, {stage} (run {row['run_id']})"
