"""The training rule: what a recipe states once, and how it resolves to steps."""

import enum
import math
import os
from typing import Any

from transformers import TrainingArguments

from hf_scaling import tasks
from hf_scaling.errors import InputError

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
