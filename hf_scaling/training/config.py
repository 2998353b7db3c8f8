"""What a recipe is told: dataclass fields, a YAML file, and the command line over it.

The command line and the file go through one parser, so that a value means the same in both: `1e-3`, which PyYAML takes
for text, is a float because its field is one.
"""

import argparse
import dataclasses
import difflib
import enum
import functools
import json
import math
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import logging

from hf_scaling import __version__, files, tasks
from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError
from hf_scaling.tasks import FinetuneFields, PretrainFields, RunFields

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "timm", "numpy")


def check_processes() -> None:
    """Refuse more processes than the machine has accelerators, or cores where it has none.

    Raises:
        InputError: Says how many there are. Without it each process would fail on its own, or they would wait for
            each other.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    there = gpus or cores
    if here > 1 and here > there:
        kind = f"GPU{'s' * (gpus != 1)}" if gpus else "cores and no GPU"
        raise InputError(f"--num_processes {here}: this machine has {there} {kind}; give at most {there}")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers' bars and remarks about each file it saves from breaking up the one bar that matters."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def is_main() -> bool:
    """Whether this process is the one that prints and writes, also before any of them have met."""
    return os.environ.get("RANK", "0") == "0"


def device_name(device: torch.device, processes: int) -> str:
    """What the row says of the device: a GPU's name or `cpu`, and how many processes shared the run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{processes} x {name}" if processes > 1 else name


def versions() -> str:
    """Versions of what the numbers depend on, as JSON."""
    found = {"hf_scaling": __version__, "python": platform.python_version()}
    return json.dumps(found | {name: version(name) for name in _PACKAGES})


#: The fields of TrainingArguments that change the weights and are not sizes of the run or of the machine.
_RULE = (
    "optim",
    "optim_args",
    "learning_rate",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "max_grad_norm",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_steps",
    "label_smoothing_factor",
    "neftune_noise_alpha",
    "num_train_epochs",
    "max_steps",
    "data_seed",
)
#: Fields of the recipe.
_SELDOM = ("train_part", "patience", "decay")
#: These too, where a run looks at its validation part as it goes.
_SELECTION = ("eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model", "greater_is_better")


def rule_of(args: TrainingArguments, fields: Any) -> dict[str, Any]:
    """The training rule as it is written, before sizes resolve it: what `RunSpec.recipe` is the hash of."""
    names = _RULE + (_SELECTION if holds_out(args) else ())
    rule = {name: _plain(getattr(args, name)) for name in names}
    own = tasks.find(fields.task).rule(fields)
    own |= {"min_steps": fields.min_steps, "batch": global_batch(args), "precision": precision(args)}
    # What few runs are told stands only where it is told: the ids of the others stay what they were.
    own |= {name: getattr(fields, name) for name in _SELDOM if getattr(fields, name, None) is not None}
    return rule | own


def holds_out(args: TrainingArguments) -> bool:
    """Whether a validation part is held out: a run that looks at one as it goes may select by it."""
    return _plain(args.eval_strategy) != "no"


def global_batch(args: TrainingArguments) -> int:
    """Examples an optimiser step, over all processes and accumulated batches."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)


def count_steps(args: TrainingArguments, n_examples: int, min_steps: int) -> int:
    """Optimiser steps of a run on `n_examples` unique examples.

    `max_steps` where it is given; else `num_train_epochs` passes over them, and never fewer than `min_steps`.
    Small subsets are passed over more often so: with the passes alone a run on 250 examples would end before it has
    learned anything, and the curve would measure the schedule rather than the data.

    Raises:
        InputError: No step would be taken.
    """
    if args.max_steps > 0:
        return args.max_steps
    steps = max(min_steps, math.ceil(args.num_train_epochs * n_examples / global_batch(args)))
    if steps < 1:
        raise InputError(f"num_train_epochs {args.num_train_epochs} and min_steps {min_steps} make no step at all")
    return steps


def precision(args: TrainingArguments) -> str:
    """fp32, tf32, bf16 or fp16: what the matrix products run in; weights are always float32.

    `accelerate launch --mixed_precision` says it through the environment.
    """
    asked = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    mixed = "bf16" if args.bf16 else "fp16" if args.fp16 else asked
    if mixed in ("no", ""):
        return "tf32" if args.tf32 else "fp32"
    return mixed


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


_DEFAULT_TASK = RunFields.task


def parse_pretrain(argv: Sequence[str], default_config: Path | None) -> tuple[PretrainFields, DistillationArguments]:
    """Read `recipes/pretrain.py`'s arguments.

    Args:
        argv: The command line, without the program.
        default_config: The YAML file read where `--config` names none; a task other than images has its own beside
            it, NAME_TASK.yaml.

    Raises:
        InputError: An unknown key or flag (the nearest known is named), or a value that its field cannot take.
    """
    return _parse("pretrain", argv, default_config)


def parse_finetune(argv: Sequence[str], default_config: Path | None) -> tuple[FinetuneFields, DistillationArguments]:
    """Read `recipes/finetune.py`'s arguments; as `parse_pretrain`, but the fields of distillation are none of its."""
    return _parse("finetune", argv, default_config)


def parse_fields(stage: str, values: Mapping[str, Any]) -> tuple[RunFields, DistillationArguments]:
    """Read the fields of one run of a grid; a value means what it would mean in a recipe's file.

    Args:
        stage: "pretrain" or "finetune".
        values: Field -> value, as YAML gives them.

    Raises:
        InputError: As `parse_pretrain`.
    """
    parser = _parser(stage, values.get("task", _DEFAULT_TASK))
    return _complete(parser, parser.given_in(values))


def describe(fields: RunFields, args: TrainingArguments) -> dict[str, Any]:
    """The configuration as run.yaml records it: the recipe's fields, and those of TrainingArguments not at rest."""
    at_rest = type(args)(output_dir=args.output_dir)
    names = [each.name for each in dataclasses.fields(args) if each.init and "token" not in each.name]
    changed = {name: getattr(args, name) for name in names if getattr(args, name) != getattr(at_rest, name)}
    # JSON and back: enums and paths become text.
    return json.loads(json.dumps({"fields": dataclasses.asdict(fields), "training_arguments": changed}, default=str))


def _parse(stage: str, argv: Sequence[str], default_config: Path | None) -> tuple:
    # The task decides which other fields there are, so it is looked for before the rest is read.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--task")
    first.add_argument("--config", type=Path)
    told, _ = first.parse_known_args(list(argv))
    config = told.config or _default_config(default_config, told.task)
    written = {} if config is None else files.read_yaml(config, "configuration")
    parser = _parser(stage, told.task or written.get("task", _DEFAULT_TASK))
    given = parser.given_in_line(argv)
    given.pop("config", None)
    return _complete(parser, {**parser.given_in_file(config, written), **given})


def _default_config(path: Path | None, task: str | None) -> Path | None:
    if path is None or task in (None, _DEFAULT_TASK):
        return path
    of_task = path.with_name(f"{path.stem}_{task}.yaml")
    return of_task if of_task.is_file() else None


@functools.cache
def _parser(stage: str, task: str) -> "_Parser":
    known = DistillationArguments if stage == "pretrain" else TrainingArguments
    return _Parser([tasks.find(task).fields[stage], known])


def _complete(parser: "_Parser", values: dict[str, Any]) -> tuple:
    # TrainingArguments would make up a folder; a run that is told none goes to the one named by its id.
    values.setdefault("output_dir", "")
    # Where there is no accelerator the processes of torchrun find each other only if told so.
    values.setdefault("use_cpu", not torch.accelerator.is_available())
    return tuple(_build(each, values) for each in (parser.fields, DistillationArguments))


def _build(cls: type, values: dict[str, Any]) -> Any:
    names = {each.name for each in dataclasses.fields(cls) if each.init}
    try:
        return cls(**{name: value for name, value in values.items() if name in names})
    except (ValueError, TypeError, ImportError) as error:
        raise InputError(str(error)) from error


class _Parser(HfArgumentParser):
    """Gives what was said and nothing else: the defaults stay with the dataclasses."""

    def __init__(self, classes: list[type]):
        self.fields = classes[0]
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

    def given_in_file(self, path: Path | None, values: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> value for the keys `values` of the YAML file `path`."""
        try:
            return self.given_in(values)
        except InputError as error:
            raise InputError(f"{path}: {error}") from None

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
