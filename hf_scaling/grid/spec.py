"""A run of a grid whose id is known, and what it will cost."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_scaling.errors import InputError

STAGES = ("pretrain", "finetune")


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of `value` (sorted keys, no spaces).

    Raises:
        TypeError: `value` holds something that JSON cannot.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@dataclass(frozen=True)
class RunSpec:
    """One run: what is trained, on what, by which rule.

    Attributes:
        stage: "pretrain" or "finetune".
        model: The student's configuration (name, image and patch size, number of classes); for a fine-tuned run of a
            checkpoint that is not ours, the checkpoint's name alone.
        source: Name and fingerprint of the data, which covers their content and decoding but no path.
        n_pretrain: Unique upstream images or tokens; None when the parent does not say.
        n_finetune: Unique labelled downstream images or tokens; 0 = none.
        n_classes: Outputs to tell apart: classes of the source, or tokens.
        rule: The training rule as it is written: optimiser, schedule, steps rule, batch, augmentation, precision.
        steps: Optimiser steps, as the rule resolves for this amount of data.
        seed: Of the initial weights, the subset, the order and the augmentation.
        distillation: kind, alpha, temperature and schedule; None trains plain.
        teacher: run_id of the teacher, or its Hub id; None trains plain.
        parent: run_id or Hub id of the checkpoint fine-tuned; of a rung, the run_id of the rung before; else None.
        task: What kind of problem it is.
    """

    stage: str
    model: Mapping[str, Any]
    source: Mapping[str, Any]
    n_pretrain: int | None
    n_finetune: int
    n_classes: int
    rule: Mapping[str, Any]
    steps: int
    seed: int
    distillation: Mapping[str, Any] | None = None
    teacher: str | None = None
    parent: str | None = None
    task: str = "image_classification"
    _run_id: str = field(init=False, repr=False, compare=False, default="")

    def __post_init__(self):
        if self.stage not in STAGES:
            raise InputError(f"stage is {self.stage!r}; it must be one of {', '.join(STAGES)}")
        if (self.teacher is None) != (self.distillation is None):
            raise InputError("teacher and distillation go together: give both or neither")
        object.__setattr__(self, "_run_id", content_hash(self.to_dict()))

    @property
    def run_id(self) -> str:
        """16 hex digits that change whenever, and only when, something that changes the weights does."""
        return self._run_id

    @property
    def recipe(self) -> str:
        """8 hex digits of the training rule as written: the same for all sizes and for both arms."""
        return content_hash({"task": self.task, "stage": self.stage, "rule": _plain(self.rule)})[:8]

    @property
    def arm(self) -> str:
        """`distilled` with a teacher, else `plain`."""
        return "plain" if self.teacher is None else "distilled"

    def to_dict(self) -> dict[str, Any]:
        """The spec as plain JSON values; `from_dict` reads it back."""
        names = [each.name for each in dataclasses.fields(self) if each.init]
        return {name: _plain(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunSpec":
        """The spec that `to_dict` wrote.

        Raises:
            InputError: A key is missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"not a run specification: {error}") from None

    def __hash__(self) -> int:
        return hash(self._run_id)


def _plain(value: Any) -> Any:
    """`value` with mappings as dicts and sequences as lists, as JSON would read it back."""
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    return value


@dataclass(frozen=True)
class PlannedRun:
    """One run of a grid, resolved.

    Attributes:
        spec: What it is; its id.
        model: The student's name, or where a given checkpoint is.
        arm: "plain" or "distilled"; of a fine-tuning run, the one its checkpoint was pretrained in.
        fields: What its recipe is told; the teacher and the checkpoint that are other runs of the grid left out.
        teacher: run_id of the run of the grid that trains its teacher; None where there is none.
        parent: run_id of the run of the grid whose checkpoint it fine-tunes, or of the rung before; else None.
        processes: How many processes it is spread over.
        n_params: Weights of the student; None where the checkpoint could not be looked at.
        train_flops: Floating-point operations of its training, the teacher's forward passes included, but
            for `steps_before`.
        eval_flops: Those of its evaluation, the teacher's included.
        steps_before: Of its spec's steps, those that the rungs before it have done.
        provisional: Why the spec is a guess and the id not to be relied on; None where it is known.
    """

    spec: RunSpec
    model: str
    arm: str
    fields: Mapping[str, Any]
    teacher: str | None = None
    parent: str | None = None
    processes: int = 1
    n_params: int | None = None
    train_flops: float = 0.0
    eval_flops: float = 0.0
    provisional: str | None = None
    steps_before: int = 0

    @property
    def run_id(self) -> str:
        """The id of its spec."""
        return self.spec.run_id

    @property
    def needs(self) -> tuple[str, ...]:
        """run_ids of the runs that must be finished before it."""
        return tuple(each for each in (self.teacher, self.parent) if each is not None)

    @property
    def examples(self) -> int:
        """Examples that it trains on, repetitions included."""
        return (self.spec.steps - self.steps_before) * self.spec.rule["batch"]

    @property
    def flops(self) -> float:
        """Floating-point operations in all."""
        return self.train_flops + self.eval_flops

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` reads them back."""
        values = {name: value for name, value in vars(self).items() if name != "spec"}
        return {"spec": self.spec.to_dict(), **values, "fields": dict(self.fields)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlannedRun":
        """What `to_dict` gave."""
        return cls(**{**values, "spec": RunSpec.from_dict(values["spec"])})
