"""Ladders: one pass over the data at a constant rate, from which each rung branches off and decays.

A rung is a run of its own. It starts from the training state that the previous rung saved where its decay began (its
resume_state), saves its own state where its own decay begins, and ends as a finished model. So the constant part is
trained once for all rungs, and the order of the examples puts those of a smaller rung before those that a larger one
adds.
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

#: Arguments that a ladder sets itself, with the values that count as not given.
_SET_BY_LADDER = {"num_train_epochs": (1.0, 3.0), "max_steps": (-1,), "lr_scheduler_type": ("linear",)}


@dataclass(frozen=True)
class Rung:
    """One rung in optimiser steps.

    Attributes:
        warmup: Steps until the rate is constant.
        start: The step at which it continues from the previous rung; 0 in the first.
        branch: The step at which its rate begins to fall, and its state is saved.
        steps: Steps in all, those of the previous rungs included.
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
    """The rung of a run.

    Args:
        fields: Of the run; `decay` is set.
        args: TrainingArguments of the run.
        examples: Examples up to each rung, the run's own last.

    Raises:
        InputError: Arguments that a ladder sets itself, or rungs too close for the batch.
    """
    values = {name: getattr(args, name) for name in _SET_BY_LADDER}
    given = [name for name, rest in _SET_BY_LADDER.items() if getattr(values[name], "value", values[name]) not in rest]
    given += ["min_steps"] * (fields.min_steps > 0) + ["patience"] * (fields.patience is not None)
    given += ["averaging"] * (fields.averaging is not None)
    if given:
        raise InputError(f"{given[0]}: leave it out: a ladder makes one pass at a constant rate, then decays")
    if fields.teacher is not None and getattr(args, "alpha_schedule", "constant") != "constant":
        raise InputError("alpha_schedule: must be constant: the rungs of a ladder share the teacher's weight")
    if holds_out(args) and args.load_best_model_at_end:
        raise InputError("load_best_model_at_end: leave it out: every rung of a ladder trains to its end")
    steps = [math.ceil(n / global_batch(args)) for n in examples]
    branches = [n - max(1, round(fields.decay * n)) for n in steps]
    warmup = math.ceil(args.warmup_steps * steps[0]) if args.warmup_steps < 1 else int(args.warmup_steps)
    for number, (before, branch) in enumerate(zip([warmup, *branches], branches), start=1):
        if branch <= before:
            raise InputError(
                f"rungs: rung {number} has {steps[number - 1]} steps, too few for warmup, decay {fields.decay} and "
                f"the previous rung: give larger or more widely spaced n_pretrain, or a smaller batch"
            )
    return Rung(warmup, ([0, *branches])[-2], branches[-1], steps[-1])


def check_previous(spec: RunSpec, previous: RunSpec, rungs: Sequence[int]) -> None:
    """Refuse to continue from a run that is not the previous rung.

    Raises:
        InputError: The first difference is named.
    """
    wanted, present = spec.to_dict() | {"n_pretrain": rungs[-1]}, previous.to_dict()
    for name in ("n_pretrain", "model", "source", "rule", "seed", "teacher", "distillation"):
        if present[name] != wanted[name]:
            raise InputError(f"previous_rung: run {previous.run_id} is not the previous rung: it has another {name}")
