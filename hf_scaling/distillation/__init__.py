"""Teaching a student by another model's answers: the loss, its settings, the teacher, the Trainer."""

from hf_scaling.distillation.loss import LossParts, alpha_at, distillation_loss
from hf_scaling.distillation.teacher import AdaptedTeacher, Teacher, terms_of
from hf_scaling.distillation.trainer import DistillationArguments, DistillationTrainer

__all__ = [
    "AdaptedTeacher",
    "DistillationArguments",
    "DistillationTrainer",
    "LossParts",
    "Teacher",
    "alpha_at",
    "distillation_loss",
    "terms_of",
]
