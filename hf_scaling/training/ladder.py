"""Ladders: one pass over the data at a constant rate, from which every rung branches off and decays.

A rung is a run of its own. It goes on from the state that the rung before left where its own decay began (its trunk),
keeps its own state where its decay begins, and ends as a finished model. So the constant part is trained once for all
rungs, and the order of the examples puts those of a smaller rung before those that a larger one adds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import TrainingArguments

from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.tasks import PretrainFields
from hf_scaling.training.config import global_batch, holds_out

_AT_REST = {"num_train_epochs": (1.0, 3.0), "max_steps": (-1,), "lr_scheduler_type": ("linear",)}


@dataclass(frozen=True)
class Rung:
    """One rung in optimiser steps.

    Attributes:
        warmup: Until the rate is constant.
        start: Where it goes on from the rung before; 0 in the first.
        branch: Where its rate begins to fall, and its trunk is kept.
        steps: In all, those of the rungs before included.
    """

    warmup: int
    start: int
    branch: int
    steps: int

    def arguments(self) -> dict[str, Any]:
        """Its TrainingArguments."""
        decay = {"num_decay_steps": self.steps - self.branch, "decay_type": "linear"}
        return {
            "lr_scheduler_type": "warmup_stable_decay",
            "lr_scheduler_kwargs": decay,
            "warmup_steps": self.warmup,
        }


def rung_of(fields: PretrainFields, args: TrainingArguments, examples: Sequence[int]) -> Rung:
    """The rung that `fields` ask for.

    Args:
        fields, args: What the recipe is told.
        examples: Examples up to each rung, its own last.

    Raises:
        InputError: Arguments that a ladder fixes, or rungs too close for its batch.
    """
    _check(fields, args)
    steps = [math.ceil(each / global_batch(args)) for each in examples]
    branches = [each - max(1, round(fields.decay * each)) for each in steps]
    warmup = math.ceil(args.warmup_steps * steps[0]) if args.warmup_steps < 1 else int(args.warmup_steps)
    ends = [warmup, *branches]
    for at, (before, branch) in enumerate(zip(ends, branches)):
        if branch <= before:
            raise InputError(
                f"rungs: rung {at + 1} has {steps[at]} steps, too few for warmup, decay {fields.decay} and the rung "
                f"before it: give larger or wider spaced n_pretrain, or a smaller batch"
            )
    return Rung(warmup, ([0, *branches])[-2], branches[-1], steps[-1])


def check_trunk(spec: RunSpec, below: RunSpec, rungs: Sequence[int]) -> None:
    """Refuse to go on from what is not the rung before.

    Raises:
        InputError: The first difference, named.
    """
    wanted, there = spec.to_dict() | {"n_pretrain": rungs[-1]}, below.to_dict()
    for name in ("n_pretrain", "model", "source", "rule", "seed", "teacher", "distillation"):
        if there[name] != wanted[name]:
            raise InputError(f"trunk: run {below.run_id} is not the rung before: it has another {name}")


def _check(fields: PretrainFields, args: TrainingArguments) -> None:
    fixed = {name: getattr(args, name) for name in _AT_REST}
    told = [name for name, rest in _AT_REST.items() if getattr(fixed[name], "value", fixed[name]) not in rest]
    told += ["min_steps"] * (fields.min_steps > 0) + ["patience"] * (fields.patience is not None)
    if told:
        raise InputError(f"{told[0]}: a ladder passes over its data once, at a constant rate that falls: leave it out")
    if fields.teacher is not None and getattr(args, "alpha_schedule", "constant") != "constant":
        raise InputError("alpha_schedule: the rungs of a ladder share their teacher's weight: leave it constant")
    if holds_out(args) and args.load_best_model_at_end:
        raise InputError("load_best_model_at_end: every rung of a ladder trains to its end: leave it out")
