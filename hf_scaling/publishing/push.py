"""`--push_to_hub` of the recipes: a finished run is pushed once, at its end, with its own card.

The Trainer would push at every save, with a card of its own; so what it is told of the Hub is taken from it.
"""

import dataclasses
import json
import re
import shlex
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hf_scaling import hub
from hf_scaling.errors import InputError, PushError
from hf_scaling.hub import cards
from hf_scaling.hub.errors import push_errors, retried
from hf_scaling.results import ResultsTable

if TYPE_CHECKING:
    from huggingface_hub import Collection, CommitOperation
    from transformers import TrainingArguments

    from hf_scaling.publishing.study import Part


def kind_of(path: str | Path) -> str:
    """What is at `path`: "checkpoint", "law", "study" or "results".

    Raises:
        InputError: Nothing is there, or none of these.
    """
    path = Path(path)
    if path.is_file() and path.suffix in (".parquet", ".csv"):
        return "results"
    if not path.is_dir():
        raise InputError(f"{path}: no such folder and no .parquet or .csv file")
    if (path / "law.json").is_file():
        return "law"
    if (path / "grid.yaml").is_file() or (path / "runs").is_dir():
        return "study"
    if (path / "config.json").is_file() or any(path.glob("*.safetensors")) or (path / "run.yaml").is_file():
        return "checkpoint"
    if any(path.glob("*.parquet")) or any((path / "results").glob("*.parquet")):
        return "results"
    raise InputError(f"{path} holds no checkpoint, no law, no study and no results")


def check_files(folder: Path, name: str | None = None) -> None:
    """Look at a checkpoint's weights and configurations without loading them.

    Args:
        folder: Where they lie.
        name: How messages call the place; the folder's path when None.

    Raises:
        InputError: Weights that are no safetensors file, JSON that is none, or one that names code to be run.
    """
    place = name or str(folder)
    for path in sorted(folder.glob("*.safetensors")):
        _check_weights(path, f"{place}/{path.name}")
    for path in sorted(folder.glob("*.json")):
        _check_configuration(path, f"{place}/{path.name}")


def _check_weights(path: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name} is no safetensors file and is not sent or taken: {error}") from None


def _check_configuration(path: Path, name: str) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON and is not sent or taken: {error}") from None
    if isinstance(content, dict) and "auto_map" in content:
        raise InputError(f"{name} names code to be run where it is loaded (auto_map) and is not sent or taken")


_KINDS = {"results": "dataset", "report": "space", "model": "model", "law": "model"}
_LONGEST_NOTE = 500
_LONGEST_TITLE = 59


def show(slug: str | None, repo_id: str, parts: "Sequence[Part]", private: bool | None) -> str:
    """Show parts of a study in its collection, which is made where it is not there yet.

    Args:
        slug: The collection that an earlier push made; None where none is known.
        repo_id: The study's data set.
        parts: What to show; what is shown already stays as it is.
        private: Whether a collection that is made now is private.

    Returns:
        The collection's slug.

    Raises:
        InputError: No right to write.
        PushError: Offline, or the Hub kept failing; the same call goes on.
    """
    with push_errors(f"the collection of {repo_id}"):
        found = retried(lambda: _open(slug, repo_id, private))
        there = {(each.item_type, each.item_id) for each in found.items}
        for part in parts:
            if (_KINDS[part.kind], part.repo_id) not in there:
                retried(lambda part=part: _add(found.slug, part))
        return found.slug


def _open(slug: str | None, repo_id: str, private: bool | None) -> "Collection":
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    if slug is not None:
        try:
            return HfApi().get_collection(slug)
        except HfHubHTTPError as error:
            # Somebody removed it: a new one takes its place.
            if error.response.status_code != 404:
                raise
    namespace, _, name = repo_id.partition("/")
    return HfApi().create_collection(
        name[:_LONGEST_TITLE],
        namespace=namespace,
        description=f"A study made with hf_scaling: results, models, laws and report of {name}"[:150],
        private=bool(private),
        exists_ok=True,
    )


def _add(slug: str, part: "Part") -> None:
    from huggingface_hub import HfApi

    note = part.note[:_LONGEST_NOTE] or None
    HfApi().add_collection_item(slug, part.repo_id, _KINDS[part.kind], note=note, exists_ok=True)


REPORT = "report.html"
# Laws that stand under laws/ with this prefix are the report's; others are the user's own.
_PREFIX = "law-"
_LONGEST_LAW = 35  # of the 96 characters that the Hub takes, beside the study's name


def are_outdated(folder: Path) -> bool:
    """Whether a study has no report or no law, or rows that are newer than its report."""
    report = folder / REPORT
    newest = max((each.stat().st_mtime for each in (folder / "results").glob("*.parquet")), default=0.0)
    return not report.is_file() or report.stat().st_mtime < newest or not any(folder.glob("laws/*/law.json"))


def refresh(folder: Path) -> None:
    """Write a study's report, and the law of each part, target and arm in it under laws/law-NAME.

    Raises:
        InputError: The rows cannot be used.
    """
    from hf_scaling.report import write_report

    findings = write_report(ResultsTable.load(folder), folder / REPORT)
    for old in folder.glob(f"laws/{_PREFIX}*"):
        shutil.rmtree(old)
    named: dict[str, int] = {}
    for part in findings.parts:
        for law in part.laws:
            if law.fit is not None:
                name = _law_name(law.target, law.arm.label, part.part.title)
                named[name] = named.get(name, 0) + 1
                number = f"-{named[name]}" if named[name] > 1 else ""
                law.fit.save_pretrained(folder / "laws" / f"{name}{number}")


def _law_name(*words: str) -> str:
    """Words as a name that the Hub takes: law-loss-plain-glyphs-digits; what is too long ends with a whole word."""
    name = _PREFIX.rstrip("-")
    for word in re.findall(r"[a-z0-9]+", " ".join(words).lower().replace(", then ", " ")):
        if len(name) + 1 + len(word) > _LONGEST_LAW - len("-99"):
            break
        name = f"{name}-{word}"
    return name


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
) -> hub.Commit | hub.Planned:
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
    return hub.commit(repo_id, "model", work.prepare, _message(row), private=private, dry_run=dry_run)


class _Model:
    """What one push of a checkpoint writes."""

    def __init__(self, folder: Path, row: Mapping[str, Any], repo_id: str, places: Mapping[str, str]):
        self.folder, self.row, self.repo_id, self.places = folder, row, repo_id, places

    def prepare(self, base: hub.RemoteFolder) -> "list[CommitOperation]":
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
    if not hub.is_repo_id(images):
        return None
    notes = f"top-1 accuracy on {row['n_eval']:,} of split {row['eval_split']}"
    date = row["created_at"].date().isoformat()
    entry = EvalResultEntry(images, "default", round(1 - row["error"], 6), date=date, notes=notes)
    return yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False).encode()


def _message(row: Mapping[str, Any]) -> str:
    stage = "fine-tuned" if row["stage"] == "finetune" else "pretrained"
    return f"Add {row['model']}, {row['arm']}, {stage} (run {row['run_id']})"


_OF_TRAINER = {
    "hub_strategy": "a run is pushed once, at its end",
    "hub_always_push": "a run is pushed once, at its end",
    "hub_revision": "a run is pushed to main",
    "hub_token": "a token in a command stays in its history: `hf auth login`, or set HF_TOKEN",
}


@dataclass(frozen=True)
class PushAtEnd:
    """Where a run goes when it is finished.

    Attributes:
        asked: Whether it is to be pushed at all.
        name: `org/name`, or a name alone for the account that is logged in; the run's folder's when None.
        private: Whether a repository that is made now is private; the account's default when None.
    """

    asked: bool
    name: str | None = None
    private: bool | None = None

    def push(self, folder: Path) -> None:
        """Push the finished run in `folder` from one process, where that was asked for; say where it is.

        Raises:
            PushError: It did not arrive; the run is kept, and the line holds the command that pushes it.
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
    """Take out of a recipe's arguments what they say of pushing, before anything is trained.

    Returns:
        The arguments without it, and what was said.

    Raises:
        InputError: A hub_model_id that is none, no login, or an argument that is the Trainer's own way.
    """
    if not args.push_to_hub:
        return args, PushAtEnd(asked=False)
    at_rest = type(args)(output_dir=args.output_dir)
    for name, reason in _OF_TRAINER.items():
        if getattr(args, name) != getattr(at_rest, name):
            raise InputError(f"{name}: {reason}; leave it out")
    _check_place(args.hub_model_id)
    bare = dataclasses.replace(args, push_to_hub=False, hub_model_id=None)
    return bare, PushAtEnd(True, args.hub_model_id, args.hub_private_repo)


def _check_place(name: str | None) -> None:
    """Find before a long training what would keep its end from the Hub."""
    from huggingface_hub import get_token

    if name is not None and not hub.is_repo_id(name if "/" in name else f"org/{name}"):
        raise InputError(f"hub_model_id: {name}: no repository of the Hub is called so; give ORG/NAME")
    if get_token() is None:
        raise InputError("push_to_hub: nobody is logged in: `hf auth login`, or set HF_TOKEN")
