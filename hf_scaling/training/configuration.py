"""What a recipe is told: dataclass fields, a YAML file, and the command line over it.

The command line and the file go through one parser, so that a value means the same in both: `1e-3`, which PyYAML takes
for text, is a float because its field is one.
"""

import argparse
import dataclasses
import difflib
import functools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from transformers import HfArgumentParser, TrainingArguments

from hf_scaling import files
from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError


@dataclass
class SourceFields:
    """Which images, and the parts of the training rule that TrainingArguments does not have."""

    source: str = field(default="glyphs", metadata={"help": "glyphs, digits, a Hub id, a folder or a Parquet file"})
    image_column: str | None = field(default=None, metadata={"help": "column of the images; found where there is one"})
    label_column: str | None = field(default=None, metadata={"help": "column of the labels; found where there is one"})
    classes: str | None = field(
        default=None, metadata={"help": "train on this many classes, or on those of a list file"}
    )
    streaming: bool = field(default=False, metadata={"help": "read the source as a stream into the cache, once"})
    skip_corrupt: bool = field(default=False, metadata={"help": "leave corrupt images out, and count them"})
    augmentation: list[str] = field(
        default_factory=list,
        metadata={"help": "some of flip, shift, resized_crop, erase, applied in that order; or none"},
    )
    min_steps: int = field(
        default=0,
        metadata={"help": "steps = max(min_steps, num_train_epochs * images / batch), unless max_steps is given"},
    )

    def __post_init__(self):
        if self.augmentation == ["none"]:
            self.augmentation = []


@dataclass
class PretrainFields(SourceFields):
    """Pretrain one student on an upstream source, plain or taught by a teacher."""

    EXAMPLE: ClassVar[str] = "accelerate launch recipes/pretrain.py --source glyphs --n_pretrain 2000 --teacher none"

    model: str = field(
        default="vit-200k", metadata={"help": "student: a family name (vit-200k) or a timm architecture"}
    )
    n_pretrain: int | None = field(default=None, metadata={"help": "unique images; all that there are when absent"})
    image_size: int = field(default=28, metadata={"help": "side of the images in pixels"})
    patch_size: int | None = field(
        default=None, metadata={"help": "side of a patch in pixels; by image_size when absent"}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "family name (trained first on the same images), folder or Hub id; none = plain"},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.teacher == "none":
            self.teacher = None


@dataclass
class FinetuneFields(SourceFields):
    """Fine-tune a checkpoint with a fresh head on a downstream source."""

    EXAMPLE: ClassVar[str] = "accelerate launch recipes/finetune.py --checkpoint runs/RUN_ID --source digits"

    source: str = field(default="digits", metadata={"help": "digits, glyphs, a Hub id, a folder or a Parquet file"})
    checkpoint: str | None = field(
        default=None, metadata={"help": "run folder or Hub id of the checkpoint to fine-tune"}
    )
    n_finetune: int | None = field(default=None, metadata={"help": "labelled images; all that there are when absent"})
    n_pretrain: int | None = field(
        default=None,
        metadata={"help": "unique images the checkpoint was pretrained on, where it is none of ours and does not say"},
    )
    train_part: Literal["all", "head"] = field(
        default="all", metadata={"help": "weights to train: all, or the new head alone"}
    )


def parse_pretrain(argv: Sequence[str], default_config: Path | None) -> tuple[PretrainFields, DistillationArguments]:
    """Read `recipes/pretrain.py`'s arguments.

    Args:
        argv: The command line, without the program.
        default_config: The YAML file read where `--config` names none.

    Raises:
        InputError: An unknown key or flag (the nearest known is named), or a value that its field cannot take.
    """
    return _parse(PretrainFields, DistillationArguments, argv, default_config)


def parse_finetune(argv: Sequence[str], default_config: Path | None) -> tuple[FinetuneFields, DistillationArguments]:
    """Read `recipes/finetune.py`'s arguments; as `parse_pretrain`, but the fields of distillation are none of its."""
    return _parse(FinetuneFields, TrainingArguments, argv, default_config)


def parse_fields(stage: str, values: Mapping[str, Any]) -> tuple[SourceFields, DistillationArguments]:
    """Read the fields of one run of a grid; a value means what it would mean in a recipe's file.

    Args:
        stage: "pretrain" or "finetune".
        values: Field -> value, as YAML gives them.

    Raises:
        InputError: As `parse_pretrain`.
    """
    classes = {"pretrain": (PretrainFields, DistillationArguments), "finetune": (FinetuneFields, TrainingArguments)}
    return _complete(classes[stage][0], _parser(*classes[stage]).given_in(values))


def describe(fields: SourceFields, args: TrainingArguments) -> dict[str, Any]:
    """The configuration as run.yaml records it: the recipe's fields, and those of TrainingArguments not at rest."""
    at_rest = type(args)(output_dir=args.output_dir)
    names = [each.name for each in dataclasses.fields(args) if each.init and "token" not in each.name]
    changed = {name: getattr(args, name) for name in names if getattr(args, name) != getattr(at_rest, name)}
    # JSON and back: enums and paths become text.
    return json.loads(json.dumps({"fields": dataclasses.asdict(fields), "training_arguments": changed}, default=str))


def _parse(fields_class: type, known_class: type, argv: Sequence[str], default_config: Path | None) -> tuple:
    parser = _parser(fields_class, known_class)
    given = parser.given_in_line(argv)
    config = given.pop("config", default_config)
    return _complete(fields_class, {**parser.given_in_file(Path(config)), **given} if config else given)


@functools.cache
def _parser(*classes: type) -> "_Parser":
    return _Parser(list(classes))


def _complete(fields_class: type, values: dict[str, Any]) -> tuple:
    # TrainingArguments would make up a folder; a run that is told none goes to the one named by its id.
    values.setdefault("output_dir", "")
    # Where there is no accelerator the processes of torchrun find each other only if told so.
    values.setdefault("use_cpu", not torch.accelerator.is_available())
    return tuple(_build(each, values) for each in (fields_class, DistillationArguments))


def _build(cls: type, values: dict[str, Any]) -> Any:
    names = {each.name for each in dataclasses.fields(cls) if each.init}
    try:
        return cls(**{name: value for name, value in values.items() if name in names})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(str(error)) from error


class _Parser(HfArgumentParser):
    """Gives what was said and nothing else: the defaults stay with the dataclasses."""

    def __init__(self, classes: list[type]):
        super().__init__(
            classes,
            description=classes[0].__doc__,
            epilog=f"example: {classes[0].EXAMPLE}",
            allow_abbrev=False,
            formatter_class=argparse.HelpFormatter,
            conflict_handler="resolve",
        )
        self.add_argument("--config", help="YAML file of fields; the command line wins over it")
        # In place of TrainingArguments' field of this name, which watches for overflows.
        self.add_argument("--debug", action="store_true", help="show the traceback of an error")
        for action in self._actions:
            action.default = argparse.SUPPRESS

    def error(self, message: str):
        # argparse names a flag by both its spellings: "argument --n_pretrain/--n-pretrain: ...".
        raise InputError(re.sub(r"^argument --(\w+)(/--[\w-]+)*", r"\1", message))

    def given_in_line(self, argv: Sequence[str]) -> dict[str, Any]:
        """Field -> value for the flags of a command line."""
        namespace, unknown = self.parse_known_args(list(argv))
        if unknown:
            raise InputError(f"unknown argument {unknown[0]}{self._nearest(unknown[0].lstrip('-').split('=')[0])}")
        given = vars(namespace)
        given.pop("debug", None)
        return given

    def given_in_file(self, path: Path) -> dict[str, Any]:
        """Field -> value for the keys of a YAML file."""
        try:
            return self.given_in(files.read_yaml(path, "configuration"))
        except InputError as error:
            raise InputError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None

    def given_in(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> value for keys and values as YAML gives them."""
        given = {}
        for key, value in values.items():
            if key not in self._known() or key in ("config", "debug"):
                raise InputError(f"unknown key {key!r}{self._nearest(str(key))}")
            # Neither nothing nor an empty list can be said on a command line.
            given[key] = value if value in (None, []) else self.given_in_line(_as_flags(key, value))[key]
        return given

    def _known(self) -> list[str]:
        return [action.dest for action in self._actions if action.dest != "help"]

    def _nearest(self, name: str) -> str:
        near = difflib.get_close_matches(name.replace("-", "_"), self._known(), n=1, cutoff=0.5)
        return f"; did you mean {near[0]}?" if near else ""


def _as_flags(key: str, value: Any) -> list[str]:
    """The command line that says what the YAML said."""
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}={json.dumps(value) if isinstance(value, dict) else value}"]
