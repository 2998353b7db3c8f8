"""The distillation loss, and how the teacher's weight in it changes during training."""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_callback import ExportableState

from hf_scaling.errors import InputError

KINDS = ("soft", "hard")
SCHEDULES = ("constant", "linear", "cosine", "until_passed")
IGNORED = -100  # label of an example that does not count, as everywhere in transformers


class LossParts(NamedTuple):
    """The loss of a step and its two parts: scalars in nats per example, each with its gradient."""

    loss: Tensor
    task_loss: Tensor
    distillation_loss: Tensor


def distillation_loss(
    student_logits: Tensor,
    teacher_logits: Tensor | None,
    labels: Tensor,
    alpha: float,
    temperature: float = 2.0,
    kind: str = "soft",
    num_items: Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> LossParts:
    """Mix the cross-entropy to the labels with the distance to the teacher's logits.

    loss = (1 - alpha) task_loss + alpha distillation_loss, where task_loss is the cross-entropy to the labels and
    distillation_loss is, by kind,

    - soft: T^2 KL(teacher || student), both softened by the temperature T (Hinton et al. 2015, arXiv 1503.02531; the
      T^2 keeps the gradient's size when T changes);
    - hard: the cross-entropy to the teacher's most likely class (DeiT, Touvron et al. 2021, arXiv 2012.12877).

    Sums over the examples are divided by `num_items` (never by classes); an example labelled -100 is left out.

    Args:
        student_logits: (..., classes), any floating type; computed in float32.
        teacher_logits: (..., classes) in the student's class order; no gradient flows into it. None without a
            teacher: distillation_loss is then zero and loss is task_loss, whatever alpha.
        labels: (...) integer class ids: (batch,) for images, (batch, tokens) for text.
        alpha: Weight of the teacher, 0 to 1. At 0 loss is exactly task_loss.
        temperature: T of the soft kind, above 0.
        kind: "soft" or "hard".
        num_items: Number of examples over which the loss is a mean; None counts those in `labels`. Under gradient
            accumulation it is the number in all accumulated batches.
        label_smoothing: Label smoothing of task_loss alone, 0 to 1.

    Raises:
        InputError: The logits have different shapes, or the labels are not class ids.

    Example:
        >>> logits, labels = torch.tensor([[2.0, 0.0]]), torch.tensor([0])
        >>> distillation_loss(logits, logits, labels, alpha=1.0).loss.item()
        0.0
    """
    if labels.is_floating_point() or labels.shape != student_logits.shape[:-1]:
        raise InputError(
            f"labels: expected one integer class id for each of {tuple(student_logits.shape[:-1])} examples, "
            f"got {labels.dtype} of shape {tuple(labels.shape)}"
        )
    if teacher_logits is not None and teacher_logits.shape != student_logits.shape:
        raise InputError(
            f"teacher_logits: their shape {tuple(teacher_logits.shape)} differs from the student's "
            f"{tuple(student_logits.shape)}: teacher and student must have the same classes"
        )
    student_logits = student_logits.float()
    if num_items is None:
        num_items = (labels != IGNORED).sum().clamp(min=1)
    task_loss = _cross_entropy(student_logits, labels, label_smoothing) / num_items
    if teacher_logits is None:
        return LossParts(task_loss, task_loss, torch.zeros_like(task_loss))
    teacher_logits = teacher_logits.detach().float()
    ignored = labels == IGNORED
    if kind == "hard":
        distance = _cross_entropy(student_logits, teacher_logits.argmax(-1).masked_fill(ignored, IGNORED))
    else:
        student = F.log_softmax(student_logits / temperature, dim=-1)
        teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
        divergence = F.kl_div(student, teacher, log_target=True, reduction="none").sum(-1)
        distance = temperature**2 * divergence.masked_fill(ignored, 0.0).sum()
    distance = distance / num_items
    loss = task_loss if alpha == 0 else (1 - alpha) * task_loss + alpha * distance
    return LossParts(loss, task_loss, distance)


def _cross_entropy(logits: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
    logits, labels = logits.flatten(end_dim=-2), labels.flatten()
    return F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction="sum", label_smoothing=label_smoothing)


def alpha_at(schedule: str, alpha: float, progress: float) -> float:
    """The teacher's weight at a point of the training.

    Args:
        schedule: "constant" or "until_passed": `alpha`; "linear" or "cosine": from `alpha` down to 0 at the end (the
            teacher's weight decays as in knowledge inheritance, Qin et al. 2022).
        alpha: Weight at the start, 0 to 1.
        progress: Share of the training steps that are done, 0 to 1.
    """
    if schedule == "linear":
        return alpha * (1 - progress)
    if schedule == "cosine":
        return alpha * 0.5 * (1 + math.cos(math.pi * progress))
    return alpha


class UntilPassed(TrainerCallback, ExportableState):
    """Records, across checkpoints, that the student has passed its teacher on the validation part.

    Attributes:
        passed: Whether an evaluation had a student's loss below its teacher's; never reset.
        teacher_loss: The teacher's cross-entropy on the validation part, once it is known.
    """

    def __init__(self):
        self.passed = False
        self.teacher_loss: float | None = None

    def compare(self, student_loss: float) -> None:
        """Record whether the student is ahead of its teacher."""
        self.passed = self.passed or student_loss < self.teacher_loss

    def state(self) -> dict:
        """What a checkpoint stores."""
        return {"args": {}, "attributes": {"passed": self.passed, "teacher_loss": self.teacher_loss}}

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs):
        """Restore the state of the checkpoint that is resumed.

        The Trainer does so only with `restore_callback_states_from_checkpoint`, and without it a resumed run would
        use the teacher again.
        """
        saved = state.stateful_callbacks.setdefault(type(self).__name__, self.state())
        self.passed = saved["attributes"]["passed"]
        self.teacher_loss = saved["attributes"]["teacher_loss"]
