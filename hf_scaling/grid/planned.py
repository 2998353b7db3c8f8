"""A run of a grid whose id is known, and what it will cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_scaling.grid.spec import RunSpec


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
