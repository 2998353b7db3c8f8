"""Distillation: the loss, its settings, the teacher and the Trainer."""

from hf_scaling.distillation.loss import LossParts, alpha_at, distillation_loss
from hf_scaling.distillation.teacher import AdaptedTeacher, Teacher, input_settings
from hf_scaling.distillation.trainer import DistillationArguments, DistillationTrainer

__all__ = [
    "AdaptedTeacher",
    "DistillationArguments",
    "DistillationTrainer",
    "LossParts",
    "Teacher",
    "alpha_at",
    "distillation_loss",
    "input_settings",
]
