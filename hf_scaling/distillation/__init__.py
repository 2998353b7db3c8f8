"""Teaching a student by another model's answers: the loss, its settings, the teacher, the Trainer."""

from hf_scaling.distillation.arguments import DistillationArguments
from hf_scaling.distillation.loss import LossParts, distillation_loss
from hf_scaling.distillation.schedule import alpha_at
from hf_scaling.distillation.teacher import AdaptedTeacher, Teacher, terms_of
from hf_scaling.distillation.trainer import DistillationTrainer

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
