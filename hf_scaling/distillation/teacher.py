"""A trained model in the part of the teacher, seen as its student sees images and classes, or tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from hf_scaling.errors import InputError
from hf_scaling.models import ImageStatistics, input_size, load_model, load_statistics


@dataclass(frozen=True)
class Teacher:
    """A trained classifier and what has to be known to ask it.

    Attributes:
        model: Any image classifier or language model, of any size; it is frozen and put into evaluation
            mode when it is adapted.
        statistics: How its images are normalised; None: as the student's.
        image_size: Side of its images in pixels; None: as its config says, or any where the config does not say.
        class_order: For each class of the student, in order, the teacher's output that stands for it; None: matched
            by the class names in the two configs.
        vocabulary: Token -> id of a language model; None: as the student's.
    """

    model: PreTrainedModel
    statistics: ImageStatistics | None = None
    image_size: int | None = None
    class_order: Sequence[int] | None = None
    vocabulary: Mapping[str, int] | None = None

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, revision: str | None = None) -> "Teacher":
        """Load a teacher with its image statistics from a folder or the Hub.

        Raises:
            InputError: It cannot be loaded, or its checkpoint does not say how its images were normalised.
        """
        model = load_model(folder_or_hub_id, revision)
        return cls(model, load_statistics(folder_or_hub_id, revision))

    def adapt_to(
        self,
        student: nn.Module,
        statistics: ImageStatistics | None = None,
        vocabulary: Mapping[str, int] | None = None,
    ) -> "AdaptedTeacher":
        """The teacher as a module that takes the student's batches and answers in the student's class order.

        Args:
            student: Its config gives the classes.
            statistics: How the student's images are normalised.
            vocabulary: Token -> id of the student's tokenizer.

        Raises:
            InputError: The two do not know the same classes or tokens, or the images cannot be translated.
        """
        _check_vocabulary(student, self.model, vocabulary, self.vocabulary)
        order = self.class_order
        if order is None:
            order = _order_by_name(getattr(student, "config", None), getattr(self.model, "config", None))
        else:
            _check_order(order, student.config.num_labels, self.model.config.num_labels)
        if self.statistics is not None and statistics is None:
            raise InputError(
                "the teacher states its image mean and std, the student does not: "
                "give the Trainer the student's image processor as processing_class"
            )
        return AdaptedTeacher(self, statistics, order)


class AdaptedTeacher(nn.Module):
    """A frozen teacher in its student's terms; stays in evaluation mode whatever train() is called.

    `forward(**inputs)` takes the student's inputs (pixel_values: (batch, 3, height, width), normalised as the
    student's; or input_ids: (batch, tokens)) and gives float32 logits, (batch, student's classes) or (batch, tokens,
    vocabulary), without a gradient.
    """

    def __init__(self, teacher: Teacher, statistics: ImageStatistics | None, order: Sequence[int] | None):
        super().__init__()
        self.model = teacher.model.requires_grad_(False)
        self.image_size = teacher.image_size or (hasattr(self.model, "config") and input_size(self.model)) or None
        self.register_buffer("order", None if order is None else torch.tensor(order))
        scale, shift = _renormalisation(statistics, teacher.statistics)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.eval()

    def train(self, mode: bool = True) -> "AdaptedTeacher":
        """Stay in evaluation mode: a teacher with dropout on answers worse, and batch norms would drift."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, **inputs) -> Tensor:
        """Answer a batch of the student's."""
        if "pixel_values" in inputs:
            inputs["pixel_values"] = self.as_own_images(inputs["pixel_values"])
        logits = logits_of(self.model(**inputs)).float()
        return logits if self.order is None else logits[:, self.order]

    def as_own_images(self, pixel_values: Tensor) -> Tensor:
        """The student's images in the teacher's size (bilinear, antialiased) and normalisation."""
        size = self.image_size
        if size and pixel_values.shape[-2:] != (size, size):
            pixel_values = F.interpolate(pixel_values, size=(size, size), mode="bilinear", antialias=True)
        return pixel_values if self.scale is None else pixel_values * self.scale + self.shift


def terms_of(processor: Any) -> dict[str, Any]:
    """What a student's processor says of its inputs, as `adapt_to` takes it."""
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    statistics = None if mean is None or std is None else ImageStatistics(tuple(mean), tuple(std))
    vocabulary = processor.get_vocab() if hasattr(processor, "get_vocab") else None
    return {"statistics": statistics, "vocabulary": vocabulary}


def logits_of(outputs) -> Tensor:
    """The logits of a model's answer: a ModelOutput or dict with that key, or a tuple that starts with them."""
    return outputs["logits"] if isinstance(outputs, dict) else outputs[0]


def _renormalisation(
    student: ImageStatistics | None, teacher: ImageStatistics | None
) -> tuple[Tensor | None, Tensor | None]:
    """Scale and shift, (1, channels, 1, 1), from the student's pixels to the teacher's; None where they agree."""
    if teacher is None or teacher == student:
        return None, None
    if len(student.mean) != len(teacher.mean):
        raise InputError(f"the student's images have {len(student.mean)} channels, the teacher's {len(teacher.mean)}")
    mean_s, std_s, mean_t, std_t = (
        torch.tensor(values).view(1, -1, 1, 1) for values in (student.mean, student.std, teacher.mean, teacher.std)
    )
    return std_s / std_t, (mean_s - mean_t) / std_t


def _check_vocabulary(student, teacher, ours: Mapping[str, int] | None, theirs: Mapping[str, int] | None) -> None:
    """Refuse a language model whose ids stand for other tokens."""
    sizes = [getattr(getattr(model, "config", None), "vocab_size", None) for model in (student, teacher)]
    if None not in sizes and sizes[0] != sizes[1]:
        raise InputError(
            f"the teacher answers with {sizes[1]:,} tokens, the student with {sizes[0]:,}: they must share a tokenizer"
        )
    if ours is not None and theirs is not None and ours != theirs:
        strange = next(iter(sorted(set(ours.items()) ^ set(theirs.items()))))
        raise InputError(
            f"the teacher's tokenizer is not the student's: they differ in {strange[0]!r} (id {strange[1]})"
        )


def _order_by_name(student, teacher) -> list[int] | None:
    """For each class of the student the teacher's output of that name; None where the order is the same."""
    if student is None or teacher is None:
        return None
    if student.num_labels != teacher.num_labels:
        raise InputError(
            f"the teacher knows {teacher.num_labels} classes, the student {student.num_labels}: "
            "a teacher must have the student's classes"
        )
    ours, theirs = _class_names(student), _class_names(teacher)
    if ours is None or theirs is None or ours == theirs:
        return None
    strangers = [name for name in ours if name not in theirs]
    if strangers:
        raise InputError(
            f"the teacher does not know the class {strangers[0]!r} (its classes are {', '.join(theirs[:4])}, ...): "
            "a teacher must have the student's classes; if only the names differ, give Teacher(class_order=...)"
        )
    if len(set(ours)) < len(ours):
        raise InputError(
            "two classes have one name, so the teacher's cannot be matched: give Teacher(class_order=...)"
        )
    return [theirs.index(name) for name in ours]


def _class_names(config) -> list[str] | None:
    """The class names in label order; None where they are the placeholders that transformers fills in."""
    names = [str(config.id2label[label]) for label in range(config.num_labels)]
    return None if names == [f"LABEL_{label}" for label in range(config.num_labels)] else names


def _check_order(order: Sequence[int], n_student: int, n_teacher: int) -> None:
    if n_student != n_teacher or sorted(order) != list(range(n_student)):
        raise InputError(
            f"class_order {list(order)}: give each of the teacher's {n_teacher} outputs once, "
            f"in the order of the student's {n_student} classes"
        )
