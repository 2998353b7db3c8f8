"""The teacher: a trained model that answers its student's batches in the student's classes or tokens."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PretrainedConfig, PreTrainedModel

from hf_scaling.errors import InputError
from hf_scaling.models import ImageStatistics, input_size, load_model, load_statistics
from hf_scaling.text import listing


@dataclass(frozen=True)
class Teacher:
    """A trained model, and how its inputs and outputs differ from the student's.

    Attributes:
        model: Any image classifier or language model, of any size; it is frozen and put into evaluation mode when it
            is adapted.
        statistics: How its images are normalised; None: as the student's.
        image_size: Side of its images in pixels; None: the size in its config, or any where the config has none.
        class_order: For each class of the student, in order, the teacher's output for it; None matches the class
            names of the two configs.
        vocabulary: Token -> id of a language model; None: as the student's.

    Example:
        >>> Teacher(model, ImageStatistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)))  # doctest: +SKIP
    """

    model: PreTrainedModel
    statistics: ImageStatistics | None = None
    image_size: int | None = None
    class_order: Sequence[int] | None = None
    vocabulary: Mapping[str, int] | None = None

    @classmethod
    def from_pretrained(cls, folder_or_hub_id: str | Path, revision: str | None = None) -> "Teacher":
        """Load an image classifier with its image statistics from a folder or the Hub.

        Args:
            folder_or_hub_id: A folder that `save_pretrained` wrote, or a Hub id; an existing folder wins.
            revision: Branch, tag or commit on the Hub.

        Raises:
            InputError: It cannot be loaded, or its checkpoint does not state how its images were normalised.
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
            InputError: The two have different classes or tokens, or the normalisation of one is unknown.
        """
        ours, theirs = getattr(student, "config", None), getattr(self.model, "config", None)
        n_ours, n_theirs = getattr(ours, "vocab_size", None), getattr(theirs, "vocab_size", None)
        if None not in (n_ours, n_theirs) and n_ours != n_theirs:
            raise InputError(
                f"teacher: it has a vocabulary of {n_theirs:,} tokens, the student one of {n_ours:,}: "
                "they must share a tokenizer"
            )
        if None not in (vocabulary, self.vocabulary) and vocabulary != self.vocabulary:
            token, token_id = min(set(vocabulary.items()) ^ set(self.vocabulary.items()))
            raise InputError(f"teacher: its tokenizer is not the student's: they differ in {token!r} (id {token_id})")
        order = self.class_order
        if order is None:
            order = _match_classes(ours, theirs) if ours is not None and theirs is not None else None
        elif ours.num_labels != theirs.num_labels or sorted(order) != list(range(ours.num_labels)):
            raise InputError(
                f"class_order {list(order)}: give each of the teacher's {theirs.num_labels} outputs once, "
                f"in the order of the student's {ours.num_labels} classes"
            )
        if self.statistics is not None and statistics is None:
            raise InputError(
                "processing_class: the teacher has an image mean and std and the student has none: "
                "give the student's image processor"
            )
        return AdaptedTeacher(self, statistics, order)


class AdaptedTeacher(nn.Module):
    """A frozen teacher that takes its student's inputs; in evaluation mode whatever `train()` is called.

    `forward(**inputs)` takes the student's inputs (pixel_values: (batch, 3, height, width), normalised as the
    student's; or input_ids: (batch, tokens)) and gives float32 logits, (batch, student's classes) or (batch, tokens,
    vocabulary), without a gradient.
    """

    def __init__(self, teacher: Teacher, statistics: ImageStatistics | None, order: Sequence[int] | None):
        super().__init__()
        self.model = teacher.model.requires_grad_(False)
        self.image_size = teacher.image_size or (hasattr(self.model, "config") and input_size(self.model)) or None
        self.register_buffer("order", None if order is None else torch.tensor(order))
        # Scale and shift, (1, channels, 1, 1), from the student's pixels to the teacher's; None where they are equal.
        scale = shift = None
        if teacher.statistics not in (None, statistics):
            n_ours, n_theirs = len(statistics.mean), len(teacher.statistics.mean)
            if n_ours != n_theirs:
                raise InputError(f"teacher: its images have {n_theirs} channels, the student's {n_ours}")
            mean_s, std_s, mean_t, std_t = (
                torch.tensor(values).view(1, -1, 1, 1)
                for values in (statistics.mean, statistics.std, teacher.statistics.mean, teacher.statistics.std)
            )
            scale, shift = std_s / std_t, (mean_s - mean_t) / std_t
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)
        self.eval()

    def train(self, mode: bool = True) -> "AdaptedTeacher":
        """Stay in evaluation mode: with dropout its answers would be worse, and batch norms would drift."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, **inputs: Tensor) -> Tensor:
        """The teacher's logits on a batch of the student's inputs."""
        if "pixel_values" in inputs:
            inputs["pixel_values"] = self.convert_images(inputs["pixel_values"])
        logits = logits_of(self.model(**inputs)).float()
        return logits if self.order is None else logits[:, self.order]

    def convert_images(self, pixel_values: Tensor) -> Tensor:
        """The student's images in the teacher's size (bilinear, antialiased) and normalisation."""
        size = self.image_size
        if size and pixel_values.shape[-2:] != (size, size):
            pixel_values = F.interpolate(pixel_values, size=(size, size), mode="bilinear", antialias=True)
        return pixel_values if self.scale is None else pixel_values * self.scale + self.shift


def input_settings(processor: Any) -> dict[str, Any]:
    """The `statistics` and `vocabulary` of a student's image processor or tokenizer, as arguments of `adapt_to`."""
    mean, std = getattr(processor, "image_mean", None), getattr(processor, "image_std", None)
    statistics = None if mean is None or std is None else ImageStatistics(tuple(mean), tuple(std))
    vocabulary = processor.get_vocab() if hasattr(processor, "get_vocab") else None
    return {"statistics": statistics, "vocabulary": vocabulary}


def logits_of(outputs: Any) -> Tensor:
    """The logits in a model's outputs: a ModelOutput or dict with that key, or a tuple that starts with them."""
    return outputs["logits"] if isinstance(outputs, dict) else outputs[0]


def _match_classes(student: PretrainedConfig, teacher: PretrainedConfig) -> list[int] | None:
    """For each class of the student the teacher's output of that name; None where the order is the same."""
    if student.num_labels != teacher.num_labels:
        raise InputError(
            f"teacher: it has {teacher.num_labels} classes, the student {student.num_labels}: they must be the same"
        )
    ours, theirs = _class_names(student), _class_names(teacher)
    if ours is None or theirs is None or ours == theirs:
        return None
    unknown = [name for name in ours if name not in theirs]
    if unknown:
        raise InputError(
            f"teacher: it has no class {unknown[0]!r} (its classes are {listing(theirs, 4)}): it must have the "
            "student's classes; if only the names differ, give Teacher(class_order=...)"
        )
    if len(set(ours)) < len(ours):
        raise InputError("teacher: two classes have one name, so none can be matched: give Teacher(class_order=...)")
    return [theirs.index(name) for name in ours]


def _class_names(config: PretrainedConfig) -> list[str] | None:
    """The class names in label order; None where they are the placeholders of transformers."""
    names = [str(config.id2label[label]) for label in range(config.num_labels)]
    return None if names == [f"LABEL_{label}" for label in range(config.num_labels)] else names
