"""One run of a grid: as it is written, as it is specified (its id), and as it is planned (its costs)."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.text import listing

STAGES = ("pretrain", "finetune")


def content_hash(value: Any) -> str:
    """First 16 hex digits of the SHA-256 of the canonical JSON of `value` (sorted keys, no spaces).

    Raises:
        TypeError: `value` holds something that JSON cannot represent.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


@dataclass(frozen=True)
class WrittenRun:
    """One run as a grid writes it: the fields of its recipe, and the runs it depends on.

    Attributes:
        stage: "pretrain" or "finetune".
        fields: Fields of `recipes/STAGE.py`, without a teacher or checkpoint that is another run of the grid.
        teacher: The run that trains its teacher; None in a plain run, and where `fields` names a trained teacher.
        parent: The run whose checkpoint it fine-tunes, or the previous rung of a ladder; None where there is none,
            and where `fields` names a checkpoint.
        processes: Number of processes it is spread over, one GPU each.
        key: 16 hex digits; runs with the same content have the same key.
    """

    stage: str
    fields: Mapping[str, Any]
    teacher: "WrittenRun | None" = None
    parent: "WrittenRun | None" = None
    processes: int = 1
    key: str = field(init=False, compare=False)

    def __post_init__(self) -> None:
        needed = [run.key for run in self.needs]
        basis = [self.stage, dict(self.fields), needed, self.parent is not None, self.processes]
        try:
            object.__setattr__(self, "key", content_hash(basis))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.stage}: the value of a field cannot be written as JSON: {error}") from None

    @property
    def needs(self) -> "tuple[WrittenRun, ...]":
        """The runs that must finish before it."""
        return tuple(run for run in (self.teacher, self.parent) if run is not None)

    def __hash__(self) -> int:
        return hash(self.key)


@dataclass(frozen=True)
class RunSpec:
    """Everything that changes the weights of one run; its hash is the run's id.

    Attributes:
        stage: "pretrain" or "finetune".
        model: The student's configuration (name, image and patch size, number of classes); empty in a fine-tuning
            run with a `parent`, which covers it.
        source: Name and fingerprint of the data; the fingerprint covers content and decoding, not the path. With
            `n_eval` where fewer than all test images are evaluated.
        n_pretrain: Unique upstream images or tokens; 0 = a fine-tuning run of random weights, None when the parent
            does not record it.
        n_finetune: Unique labelled downstream images or tokens; 0 = none.
        n_classes: Number of outputs: classes of the source, or tokens.
        rule: Hyperparameters as written: optimiser, schedule, rule for the steps, batch, augmentation, precision.
        steps: Optimiser steps that the rule gives for this amount of data.
        seed: Seed of the initial weights, the subset, the order and the augmentation.
        distillation: kind, alpha, temperature and schedule; None in a plain run.
        teacher: run_id or Hub id of the teacher; None in a plain run.
        parent: run_id or Hub id of the checkpoint that is fine-tuned; in a ladder, the run_id of the previous rung.
        task: Name of the task.
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

    def __post_init__(self) -> None:
        if self.stage not in STAGES:
            raise InputError(f"stage {self.stage!r}: must be one of {listing(STAGES)}")
        if (self.teacher is None) != (self.distillation is None):
            raise InputError("teacher and distillation go together: give both or neither")
        object.__setattr__(self, "_run_id", content_hash(self.to_dict()))

    @property
    def run_id(self) -> str:
        """16 hex digits that change whenever, and only when, something that changes the weights does."""
        return self._run_id

    @property
    def recipe(self) -> str:
        """8 hex digits of the hyperparameters as written: the same for all sizes and for both arms."""
        return content_hash({"task": self.task, "stage": self.stage, "rule": _as_json(self.rule)})[:8]

    @property
    def arm(self) -> str:
        """`distilled` with a teacher, else `plain`."""
        return "plain" if self.teacher is None else "distilled"

    def to_dict(self) -> dict[str, Any]:
        """The spec as JSON values; `from_dict` reads it back."""
        names = [item.name for item in dataclasses.fields(self) if item.init]
        return {name: _as_json(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "RunSpec":
        """Build a spec from what `to_dict` returned.

        Args:
            values: Field -> value.

        Raises:
            InputError: A key is missing or unknown.
        """
        try:
            return cls(**values)
        except TypeError as error:
            raise InputError(f"not a run specification: {error}") from None

    def __hash__(self) -> int:
        return hash(self._run_id)


def _as_json(value: Any) -> Any:
    """`value` with mappings as dicts and sequences as lists, as JSON would read it back."""
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(item) for item in value]
    return value


@dataclass(frozen=True)
class PlannedRun:
    """One run of a grid with its id and its costs.

    Attributes:
        spec: What is trained; it gives the id.
        model: Name of the student, or where a given checkpoint is stored.
        arm: "plain" or "distilled"; of a fine-tuning run, the arm of its checkpoint.
        fields: Fields of its recipe, without a teacher or checkpoint that is another run of the grid.
        teacher: run_id of the run of the grid that trains its teacher; None where there is none.
        parent: run_id of the run of the grid whose checkpoint it fine-tunes, or of the previous rung; else None.
        processes: Number of processes it is spread over.
        n_params: Parameters of the student; None where the checkpoint could not be read.
        train_flops: Floating-point operations of its training, forward passes of the teacher included,
            `steps_before` excluded.
        eval_flops: Floating-point operations of its evaluation, the teacher's included.
        provisional: Why the spec is a guess, and its id not final; None where it is known.
        steps_before: Steps of the spec that earlier rungs of its ladder have trained.
        source_parts: Images or tokens of its source that can be trained on (`train`; None: any number) and evaluated
            on (`test`); None where the source has not been counted.
        class_subset: Number of the random subset of the upstream classes that it, or its checkpoint, was trained on;
            None without one.
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
    source_parts: Mapping[str, int | None] | None = None
    class_subset: int | None = None

    @property
    def run_id(self) -> str:
        """The id of its spec."""
        return self.spec.run_id

    @property
    def needs(self) -> tuple[str, ...]:
        """run_ids of the runs that must finish before it."""
        return tuple(run_id for run_id in (self.teacher, self.parent) if run_id is not None)

    @property
    def examples(self) -> int:
        """Examples that it trains on, repetitions included."""
        return (self.spec.steps - self.steps_before) * self.spec.rule["batch"]

    @property
    def flops_per_example(self) -> float:
        """Floating-point operations of training on one example."""
        return self.train_flops / self.examples

    @property
    def flops(self) -> float:
        """Floating-point operations of training and evaluation."""
        return self.train_flops + self.eval_flops

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON values; `from_dict` reads it back."""
        return vars(self) | {"spec": self.spec.to_dict(), "fields": dict(self.fields)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "PlannedRun":
        """Build a run from what `to_dict` returned."""
        return cls(**{**values, "spec": RunSpec.from_dict(values["spec"])})
