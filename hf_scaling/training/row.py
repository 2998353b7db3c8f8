"""The results row of a finished run."""

from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedModel

from hf_scaling import models
from hf_scaling.grid import RunSpec
from hf_scaling.results import new_row
from hf_scaling.subsets import Source
from hf_scaling.tasks import Measurement
from hf_scaling.training.environment import device_name, versions
from hf_scaling.training.trainer import RunTrainer

_BACKWARD = 2  # the gradient of a matrix product is two more of its size


def make_row(
    spec: RunSpec, trainer: RunTrainer, source: Source, measurement: Measurement, columns: Mapping[str, Any]
) -> dict[str, Any]:
    """The row of a run.

    `train_flops` are the student's, forward and backward; `teacher_flops` the teacher's forward passes on the images
    it was asked about. Its own training is in its own row.
    """
    samples = spec.steps * spec.rule["batch"]
    values = {
        "run_id": spec.run_id,
        "task": spec.task,
        "stage": spec.stage,
        "recipe": spec.recipe,
        "n_params": models.count_params(trainer.model),
        "n_pretrain": spec.n_pretrain,
        "n_finetune": spec.n_finetune,
        "image_size": source.image_size,
        "parent": spec.parent,
        "seed": spec.seed,
        "eval_split": "test",
        "samples_seen": samples,
        "train_flops": samples * training_flops(trainer.model, source.image_size),
        "teacher_flops": _teacher_flops(trainer, source.image_size),
        "seconds": round(trainer.seconds, 3),
        "device": device_name(trainer.args.device, trainer.args.world_size),
        "precision": spec.rule["precision"],
        "versions": versions(),
    }
    return new_row(values | measurement.to_dict() | dict(columns))


def describe_distillation(distillation: Mapping[str, Any] | None) -> str | None:
    """kind, alpha, temperature and schedule as one text, the row's `distillation`."""
    if distillation is None:
        return None
    return " ".join(f"{name}={value}" for name, value in distillation.items())


def training_flops(model: PreTrainedModel, image_size: int) -> float:
    """Operations that training takes for one image: forward, and backward through the weights that are trained."""
    forward = models.forward_flops(model, image_size)
    if all(weight.requires_grad for weight in model.parameters()):
        return (1 + _BACKWARD) * forward
    head = sum(weight.numel() for weight in models.head_parameters(model) if weight.ndim > 1)
    # Nothing lies below the head that wants its gradient: one product of its size, for the head's own weights.
    return forward + 2 * head


def _teacher_flops(trainer: RunTrainer, image_size: int) -> float | None:
    if trainer.teacher is None:
        return None
    size = trainer.teacher.image_size or image_size
    return trainer.samples_taught * models.forward_flops(trainer.teacher.model, size)
