"""The configuration of a run: dataclass fields, from a YAML file, the command line or a grid.

The command line and the file are read by one parser, so that a value means the same in both: `1e-3`, which PyYAML
reads as text, is a float because its field is one.
"""

import argparse
import dataclasses
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
from hf_scaling.text import did_you_mean
from hf_scaling.training.averaging import Averaging

_DEFAULT_TASK = RunFields.task


def parse_pretrain(argv: Sequence[str], default_config: Path | None) -> tuple[PretrainFields, DistillationArguments]:
    """Read the arguments of `recipes/pretrain.py`.

    Args:
        argv: The command line, without the program.
        default_config: The YAML file that is read where `--config` names none; for a task other than
            image classification the file NAME_TASK.yaml beside it, where there is one.

    Raises:
        InputError: An unknown key or flag (the nearest known one is named), or a value that its field cannot take.
    """
    return _parse("pretrain", argv, default_config)


def parse_finetune(argv: Sequence[str], default_config: Path | None) -> tuple[FinetuneFields, DistillationArguments]:
    """Read the arguments of `recipes/finetune.py`: as `parse_pretrain`, without the fields of distillation."""
    return _parse("finetune", argv, default_config)


def parse_fields(stage: str, values: Mapping[str, Any]) -> tuple[RunFields, DistillationArguments]:
    """Read the fields of one run of a grid; a value means what it means in a recipe's file.

    Args:
        stage: "pretrain" or "finetune".
        values: Field -> value, as YAML gives them.

    Raises:
        InputError: As `parse_pretrain`.
    """
    return build_fields(stage, read_values(stage, values))


def read_values(stage: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """Field -> value in the field's own type, for keys and values as YAML gives them.

    Raises:
        InputError: As `parse_pretrain`.
    """
    return _parser(stage, values.get("task", _DEFAULT_TASK)).read_values(values)


def build_fields(stage: str, values: Mapping[str, Any]) -> tuple[RunFields, DistillationArguments]:
    """The dataclasses of a run from values that have their fields' types already.

    Raises:
        InputError: Values that a dataclass refuses.
    """
    # TrainingArguments would choose a folder; a run without one goes to the folder named by its id. Without an
    # accelerator, the processes of torchrun only find each other if use_cpu is set.
    values = {"output_dir": "", "use_cpu": not torch.accelerator.is_available(), **values}
    fields_class = tasks.find(values.get("task", _DEFAULT_TASK)).fields[stage]
    built = []
    for cls in (fields_class, DistillationArguments):
        names = {field.name for field in dataclasses.fields(cls) if field.init}
        try:
            built.append(cls(**{name: value for name, value in values.items() if name in names}))
        except (ValueError, TypeError, ImportError) as error:
            raise InputError(str(error)) from error
    return tuple(built)


def changed_values(fields: RunFields, args: DistillationArguments) -> dict[str, Any]:
    """Field -> value, as JSON values, of the fields that are not at their defaults; `build_fields` reads them."""
    described = describe(fields, args)
    values = described["training_arguments"]
    if values.get("use_cpu") == (not torch.accelerator.is_available()):
        del values["use_cpu"]
    defaults = json.loads(json.dumps(dataclasses.asdict(type(fields)()), default=str))
    changed = {name: value for name, value in described["fields"].items() if value != defaults[name]}
    return changed | values


def describe(fields: RunFields, args: TrainingArguments) -> dict[str, Any]:
    """The configuration as run.yaml records it: all fields of the recipe, and the changed TrainingArguments."""
    # With the same use_cpu: without it accelerate would forget the other processes of a run on CPUs.
    defaults = _default_arguments(type(args), args.output_dir, args.use_cpu)
    names = [field.name for field in dataclasses.fields(args) if field.init and "token" not in field.name]
    changed = {name: getattr(args, name) for name in names if getattr(args, name) != getattr(defaults, name)}
    if args.use_cpu:
        changed["use_cpu"] = True
    # JSON and back: enums and paths become text.
    return json.loads(json.dumps({"fields": dataclasses.asdict(fields), "training_arguments": changed}, default=str))


@functools.lru_cache(maxsize=8)
def _default_arguments(cls: type[TrainingArguments], output_dir: str, use_cpu: bool) -> TrainingArguments:
    return cls(output_dir=output_dir, use_cpu=use_cpu)


def _parse(stage: str, argv: Sequence[str], default_config: Path | None) -> tuple:
    # The task decides which other fields there are, so it is read before the rest.
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--task")
    first.add_argument("--config", type=Path)
    known, _ = first.parse_known_args(list(argv))
    config = known.config or default_config
    if known.config is None and config is not None and known.task not in (None, _DEFAULT_TASK):
        of_task = config.with_name(f"{config.stem}_{known.task}.yaml")
        config = of_task if of_task.is_file() else None
    file_values = {} if config is None else files.read_yaml(config, "configuration")
    parser = _parser(stage, known.task or file_values.get("task", _DEFAULT_TASK))
    given = parser.read_flags(argv)
    given.pop("config", None)
    try:
        values = parser.read_values(file_values)
    except InputError as error:
        raise InputError(f"{config}: {error}") from None
    return build_fields(stage, {**values, **given})


@functools.cache
def _parser(stage: str, task: str) -> "_Parser":
    arguments = DistillationArguments if stage == "pretrain" else TrainingArguments
    return _Parser([tasks.find(task).fields[stage], arguments])


class _Parser(HfArgumentParser):
    """Gives the values that were set and nothing else: the defaults stay with the dataclasses."""

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
        self._names = [action.dest for action in self._actions if action.dest != "help"]

    def error(self, message: str):
        # argparse names a flag by both its spellings: "argument --n_pretrain/--n-pretrain: ...".
        raise InputError(re.sub(r"^argument --(\w+)(/--[\w-]+)*", r"\1", message))

    def read_flags(self, argv: Sequence[str]) -> dict[str, Any]:
        """Field -> value for the flags of a command line."""
        namespace, unknown = self.parse_known_args(list(argv))
        if unknown:
            raise InputError(f"unknown argument {unknown[0]}{self._nearest(unknown[0].lstrip('-').split('=')[0])}")
        given = vars(namespace)
        given.pop("debug", None)
        return given

    def read_values(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Field -> value for keys and values as YAML gives them."""
        given = {}
        for key, value in values.items():
            if key not in self._names or key in ("config", "debug"):
                raise InputError(f"unknown key {key!r}{self._nearest(str(key))}")
            if value in (None, []):  # neither can be written on a command line
                given[key] = value
            elif isinstance(value, list):
                given[key] = self.read_flags([f"--{key}", *map(str, value)])[key]
            else:
                text = json.dumps(value) if isinstance(value, dict) else value
                given[key] = self.read_flags([f"--{key}={text}"])[key]
        return given

    def _nearest(self, name: str) -> str:
        return did_you_mean(name.replace("-", "_"), self._names)


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
#: These too, where a run is evaluated on its validation part during training.
_SELECTION = ("eval_strategy", "eval_steps", "load_best_model_at_end", "metric_for_best_model", "greater_is_better")
#: Fields of the recipe that enter the rule only where they are set, so that the ids of all other runs are stable.
_OPTIONAL = ("train_part", "patience", "decay", "learning_rates")


def rule_of(args: TrainingArguments, fields: RunFields) -> dict[str, Any]:
    """The hyperparameters as they are written, before sizes resolve them: `RunSpec.recipe` is their hash.

    Raises:
        InputError: averaging that is none.
    """
    names = _RULE + (_SELECTION if holds_out(args) else ())
    rule = {name: _plain(getattr(args, name)) for name in names}
    rule |= {"min_steps": fields.min_steps, "batch": global_batch(args), "precision": precision(args)}
    rule |= {name: getattr(fields, name) for name in _OPTIONAL if getattr(fields, name, None) is not None}
    if fields.averaging is not None:
        rule["averaging"] = str(Averaging.parse(fields.averaging))
    return rule | tasks.find(fields.task).rule(fields)


def rate_of(args: TrainingArguments, fields: RunFields, model: str) -> float:
    """The learning rate of a run of `model`: its own in `learning_rates`, else `learning_rate`.

    The rule holds both as they are written, so that models with rates of their own share a recipe.
    """
    return (fields.learning_rates or {}).get(model, args.learning_rate)


def _plain(value: Any) -> Any:
    return value.value if isinstance(value, enum.Enum) else value


def holds_out(args: TrainingArguments) -> bool:
    """Whether a validation part is held out: a run that is evaluated during training may select by it."""
    return _plain(args.eval_strategy) != "no"


def check_selection(fields: RunFields, args: DistillationArguments) -> None:
    """Refuse what compares on a validation part where none is held out, and the average of a tail where one is chosen.

    Raises:
        InputError: alpha_schedule, patience or averaging; what it needs is named.
    """
    passing = getattr(fields, "teacher", None) is not None and args.alpha_schedule == "until_passed"
    if passing and not holds_out(args):
        raise InputError(
            "alpha_schedule until_passed compares on a validation part: give eval_strategy and eval_steps"
        )
    if fields.patience is not None and not (holds_out(args) and args.load_best_model_at_end):
        raise InputError(
            "patience waits for a better model by a validation part: give eval_strategy, eval_steps, save_strategy, "
            "save_steps and load_best_model_at_end"
        )
    is_tail = fields.averaging is not None and Averaging.parse(fields.averaging).kind == "tail"
    if is_tail and args.load_best_model_at_end:
        # The best evaluation may come before the tail begins, where nothing is averaged.
        raise InputError(
            f"averaging {fields.averaging}: the mean of the last steps is the result whatever load_best_model_at_end "
            "finds: leave one of them out, or average by ema:DECAY"
        )


def global_batch(args: TrainingArguments) -> int:
    """Examples in an optimiser step, over all processes and accumulated batches."""
    return args.per_device_train_batch_size * args.gradient_accumulation_steps * max(1, args.world_size)


def count_steps(args: TrainingArguments, n_examples: int, min_steps: int) -> int:
    """Optimiser steps of a run on `n_examples` unique examples.

    `max_steps` where it is given; else `num_train_epochs` passes over them, and never fewer than `min_steps`. Small
    subsets are then passed over more often: with the epochs alone a run on 250 examples would end before it has
    learned anything, and the curve would measure the schedule rather than the data.

    Raises:
        InputError: There would be no step.
    """
    if args.max_steps > 0:
        return args.max_steps
    steps = max(min_steps, math.ceil(args.num_train_epochs * n_examples / global_batch(args)))
    if steps < 1:
        raise InputError(f"num_train_epochs {args.num_train_epochs} and min_steps {min_steps} give no training step")
    return steps


def precision(args: TrainingArguments) -> str:
    """The type of the matrix products: fp32, tf32, bf16 or fp16; weights are always float32.

    `accelerate launch --mixed_precision` sets it through the environment.
    """
    environment = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    mixed = "bf16" if args.bf16 else "fp16" if args.fp16 else environment
    if mixed in ("no", ""):
        return "tf32" if args.tf32 else "fp32"
    return mixed


_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "timm", "numpy")


def versions() -> str:
    """Versions of the packages that results depend on, as JSON."""
    own = {"hf_scaling": __version__, "python": platform.python_version()}
    return json.dumps(own | {name: version(name) for name in _PACKAGES})


def device_name(device: torch.device, processes: int) -> str:
    """The row's `device`: a GPU's name or `cpu`, after the number of processes where there are several."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{processes} x {name}" if processes > 1 else name


def check_processes() -> None:
    """Refuse more processes than the machine has GPUs, or cores where it has none.

    Raises:
        InputError: Without it each process would fail on its own, or they would wait for each other.
    """
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    most = gpus or cores
    if processes > 1 and processes > most:
        kind = f"GPU{'s' * (gpus != 1)}" if gpus else "cores and no GPU"
        raise InputError(f"--num_processes {processes}: this machine has {most} {kind}; give at most {most}")


def is_main() -> bool:
    """Whether this process is the one that prints and writes, also before the processes have met."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Silence the progress bars and warnings with which transformers reports each file that it saves."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
