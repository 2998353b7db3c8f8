"""Checkpoints to the Hub: the folder of a finished run, pushed by a command or by a recipe at its end.

The Trainer would push at every save, with a card of its own; so its Hub arguments are removed before training.
"""

import dataclasses
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_scaling import hub
from hf_scaling.errors import InputError, PushError
from hf_scaling.hub import cards
from hf_scaling.results import ResultsTable
from hf_scaling.text import format_whole

if TYPE_CHECKING:
    from huggingface_hub import CommitOperation
    from transformers import TrainingArguments

#: What a card contains in the place of its own Hub id.
PLACE = "PATH_OR_HUB_ID"
# The files that are pushed; training states, pickles and anything else in the folder are not.
_PUSHED = ("*.json", "*.safetensors", "*.txt", "*.model", "run.yaml", "results/*.parquet")
_PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")
_CARD = "README.md"
_EVALUATION = ".eval_results/hf_scaling.yaml"


def kind_of(path: str | Path) -> str:
    """The kind of content at `path`: "checkpoint", "law", "study" or "results".

    Raises:
        InputError: No such path, or none of these.
    """
    path = Path(path)
    if path.is_file() and path.suffix in (".parquet", ".csv"):
        return "results"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder, and not a .parquet or .csv file")
    if (path / "law.json").is_file():
        return "law"
    if (path / "grid.yaml").is_file() or (path / "runs").is_dir():
        return "study"
    if (path / "config.json").is_file() or any(path.glob("*.safetensors")) or (path / "run.yaml").is_file():
        return "checkpoint"
    if any(path.glob("*.parquet")) or any((path / "results").glob("*.parquet")):
        return "results"
    raise InputError(f"{path} holds no checkpoint, law, study or results")


def push_checkpoint(
    folder: str | Path,
    repo_id: str,
    private: bool | None = None,
    dry_run: bool = False,
    places: Mapping[str, str] | None = None,
) -> hub.Commit | hub.Planned:
    """Push the checkpoint of a finished run to a model repository, which is created where it does not exist.

    The README.md of the folder becomes the card: its placeholder becomes the Hub id, and text that people wrote into
    the card of the repository stays. Files that are equal are not sent again.

    Args:
        folder: Folder of the run.
        repo_id: `org/name`.
        private: Whether a new repository is private; the account's default when None.
        dry_run: Describe what would be written, and write nothing.
        places: run_id -> Hub id of other runs that are pushed too, for the card to name as teacher or parent.

    Returns:
        What was written, or with `dry_run` would be.

    Raises:
        InputError: The folder holds no finished run, weights as a pickle, or a configuration that names code.
        PushError: Offline, or the Hub kept failing.
    """
    folder = Path(folder)
    for name, why in (
        ("config.json", "this is no checkpoint"),
        (_CARD, "a checkpoint is not pushed without its card"),
    ):
        if not (folder / name).is_file():
            raise InputError(f"{folder}: {name} is missing: {why}")
    check_files(folder)
    if not any((folder / "results").glob("*.parquet")):
        raise InputError(f"{folder}: results/ holds no row, so the run is not finished: run its recipe again first")
    row = ResultsTable.load(folder / "results").rows()[-1]
    stage = "fine-tuned" if row["stage"] == "finetune" else "pretrained"
    message = f"Add {row['model']}, {row['arm']}, {stage} (run {row['run_id']})"

    def prepare(base: hub.RemoteFolder) -> "list[CommitOperation]":
        from huggingface_hub import CommitOperationAdd

        paths = {path for pattern in _PUSHED for path in folder.glob(pattern) if path.is_file()}
        files = {path.relative_to(folder).as_posix(): path for path in paths if not path.name.startswith(".")}
        files |= _generated_files(folder, row, repo_id, places or {}, base.readme())
        return [CommitOperationAdd(name, content) for name, content in sorted(files.items())]

    return hub.commit(repo_id, "model", prepare, message, private=private, dry_run=dry_run)


def check_files(folder: Path, name: str | None = None) -> None:
    """Check the weights and configurations of a checkpoint without loading them.

    Args:
        folder: The checkpoint.
        name: What messages call the folder; its path when None.

    Raises:
        InputError: No safetensors weights, a damaged or disguised file of them, invalid JSON, or a configuration that
            names code to run.
    """
    from safetensors import SafetensorError, safe_open

    name = name or str(folder)
    if not any(folder.glob("model*.safetensors")):
        pickles = sorted(path.name for path in folder.iterdir() if path.suffix in _PICKLES)
        reason = f"; {pickles[0]} is refused, since it may run code when it is loaded" if pickles else ""
        raise InputError(f"{name} holds no weights as model.safetensors, the only format that is supported{reason}")
    for path in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(path, framework="numpy") as file:
                file.keys()
        except (SafetensorError, OSError) as error:
            raise InputError(f"{name}/{path.name} is refused: not a valid safetensors file: {error}") from None
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}/{path.name} is refused: not JSON: {error}") from None
        if isinstance(content, dict) and "auto_map" in content:
            raise InputError(f"{name}/{path.name} is refused: auto_map names code that would run when it is loaded")


def _generated_files(
    folder: Path, row: Mapping[str, Any], repo_id: str, places: Mapping[str, str], old_card: str
) -> dict[str, bytes]:
    """The card, with the Hub ids of the repository, its teacher and its parent; and the score in the Hub's format.

    There is no score where the evaluation data is not on the Hub.
    """
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    text = (folder / _CARD).read_text(encoding="utf-8").replace(PLACE, repo_id)
    head, body = cards.read_card(text, str(folder / _CARD))
    if row["teacher"] in places:
        head["teacher_model"] = places[row["teacher"]]
    if row["stage"] == "finetune" and row["parent"] in places:
        head["base_model"] = places[row["parent"]]
    files = {_CARD: cards.renew_card(old_card, cards.with_head(head, body), repo_id).encode()}
    source = row["downstream"] or row["upstream"]
    if hub.is_repo_id(source):
        notes = f"top-1 accuracy on {format_whole(row['n_eval'])} of split {row['eval_split']}"
        date = row["created_at"].date().isoformat()
        entry = EvalResultEntry(source, "default", round(1 - row["error"], 6), date=date, notes=notes)
        files[_EVALUATION] = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False).encode()
    return files


# Hub arguments of the Trainer that have no effect here -> what to know instead.
_TRAINER_ONLY = {
    "hub_strategy": "a run is pushed once, at its end",
    "hub_always_push": "a run is pushed once, at its end",
    "hub_revision": "a run is pushed to main",
    "hub_token": "a token in a command stays in its history: `hf auth login`, or set HF_TOKEN",
}


@dataclass(frozen=True)
class PushAtEnd:
    """Whether and where a recipe pushes its run at the end.

    Attributes:
        asked: Whether the run is pushed at all.
        name: `org/name`, or a name alone for the logged-in account; the name of the run's folder when None.
        private: Whether a new repository is private; the account's default when None.
    """

    asked: bool
    name: str | None = None
    private: bool | None = None

    def push(self, folder: Path) -> None:
        """Push the finished run in `folder` from the main process, if asked for, and print its page.

        Raises:
            PushError: The run did not arrive; it is kept, and the message holds the command that pushes it.
        """
        from hf_scaling.training.config import is_main

        if not (self.asked and is_main()):
            return
        name = self.name or folder.resolve().name
        try:
            written = push_checkpoint(folder, hub.full_id(name), private=self.private)
        except (InputError, PushError) as error:
            command = ["hf-scaling", "push", str(folder), "--repo", name, *(["--private"] if self.private else [])]
            raise PushError(
                f"the run is finished and kept in {folder}, but not on the Hub: {error}; later: {shlex.join(command)}"
            ) from error
        print(f"hub     {written.url}", flush=True)


def take_push(args: "TrainingArguments") -> "tuple[TrainingArguments, PushAtEnd]":
    """Separate the Hub arguments of a recipe from those of the Trainer, and check them before training.

    Returns:
        The arguments without push_to_hub, and what to push at the end.

    Raises:
        InputError: An invalid hub_model_id, not logged in, or an argument that only the Trainer's own pushes use.
    """
    from huggingface_hub import get_token

    if not args.push_to_hub:
        return args, PushAtEnd(asked=False)
    defaults = type(args)(output_dir=args.output_dir)
    for name, reason in _TRAINER_ONLY.items():
        if getattr(args, name) != getattr(defaults, name):
            raise InputError(f"{name}: {reason}; leave it out")
    name = args.hub_model_id
    if name is not None and not hub.is_repo_id(name if "/" in name else f"org/{name}"):
        raise InputError(f"hub_model_id: {name}: not a repository id; write it as ORG/NAME")
    if get_token() is None:
        raise InputError("push_to_hub: you are not logged in: `hf auth login`, or set HF_TOKEN")
    rest = dataclasses.replace(args, push_to_hub=False, hub_model_id=None)
    return rest, PushAtEnd(True, name, args.hub_private_repo)
