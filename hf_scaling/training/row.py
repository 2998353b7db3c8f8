"""The results row of a finished run."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_scaling import models
from hf_scaling.grid import RunSpec
from hf_scaling.results import new_row
from hf_scaling.tasks import Measurement, Task
from hf_scaling.training.environment import device_name, versions
from hf_scaling.training.trainer import RunTrainer


def make_row(
    spec: RunSpec,
    task: Task,
    inputs: Any,
    model: PreTrainedModel,
    trainer: RunTrainer,
    flops: float,
    measurement: Measurement,
    columns: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of a run; `flops` are those of training on one example.

    `train_flops` are the student's, forward and backward; `teacher_flops` the teacher's forward passes on the examples
    it was asked about. Its own training is in its own row.
    """
    examples = trainer.state.global_step * spec.rule["batch"]
    asked = None if trainer.teacher is None else trainer.samples_taught * task.forward_flops(trainer.teacher, inputs)
    values = {
        "run_id": spec.run_id,
        "task": spec.task,
        "stage": spec.stage,
        "recipe": spec.recipe,
        "n_params": models.count_params(model),
        "n_pretrain": spec.n_pretrain,
        "n_finetune": spec.n_finetune,
        "parent": spec.parent,
        "seed": spec.seed,
        "eval_split": "test",
        "samples_seen": examples * task.example_size(inputs),
        "train_flops": examples * flops,
        "teacher_flops": asked,
        "seconds": round(trainer.seconds, 3),
        "device": device_name(trainer.args.device, trainer.args.world_size),
        "precision": spec.rule["precision"],
        "versions": versions(),
    }
    return new_row(values | task.columns(inputs) | measurement.to_dict() | dict(columns))


def describe_distillation(distillation: Mapping[str, Any] | None) -> str | None:
    """kind, alpha, temperature and schedule as one text, the row's `distillation`."""
    if distillation is None:
        return None
    return " ".join(f"{name}={value}" for name, value in distillation.items())
