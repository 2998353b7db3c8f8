"""Image classification: how to load, batch, evaluate and count."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import PreTrainedModel

from hf_scaling import models, subsets
from hf_scaling.errors import InputError, RunError
from hf_scaling.tasks import metrics
from hf_scaling.tasks.stream import ImageSet, ImageStream, to_tensor

#: How pixels of students trained from scratch are normalised: to -1..1, whatever the source, so that a checkpoint
#: means the same on every downstream set.
STATISTICS = models.ImageStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_EMBEDDED_GLYPHS = 50_000
_SHOW_AFTER_SECONDS = 3


@dataclass(frozen=True)
class Measurement:
    """What an evaluation found: error 0..1, loss in nats an image; the last three None without a teacher."""

    n_eval: int
    error: float
    loss: float
    agreement: float | None = None
    teacher_error: float | None = None
    teacher_loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Column -> value."""
        return asdict(self)


@dataclass(frozen=True)
class Chosen:
    """Which images of a source's training part a run uses."""

    train: np.ndarray
    validation: np.ndarray


class ImageClassification:
    """The task of telling a picture's class."""

    name = "image_classification"

    def source_arguments(self, fields: Any, image_size: int, n_images: int | None) -> dict[str, Any]:
        """What `subsets.open_source` is told by `open_source`: equal arguments are one source."""
        return {
            "name": fields.source,
            "image_size": image_size,
            "image_column": fields.image_column,
            "label_column": fields.label_column,
            "classes": _number_or_path(fields.classes),
            "n_images": n_images if fields.source == "glyphs" and (n_images or 0) > _EMBEDDED_GLYPHS else None,
            "streaming": fields.streaming,
            "skip_corrupt": fields.skip_corrupt,
        }

    def open_source(self, fields: Any, image_size: int, n_images: int | None) -> subsets.Source:
        """Open the source that `fields` (`SourceFields`) names.

        Args:
            fields: Source, columns, classes and how to read.
            image_size: Side of the cached images in pixels.
            n_images: How many a run wants, None for all; `glyphs` draws more than it has by default if it must.

        Raises:
            InputError: See `subsets.open_source`.
        """
        return subsets.open_source(**self.source_arguments(fields, image_size, n_images))

    def choose(self, source: subsets.Source, field: str, n: int | None, seed: int, hold_out: bool) -> Chosen:
        """Choose `n` training images (None: all), and the validation part where one is held out.

        Raises:
            InputError: More than there are, or fewer than there are classes; `field` is named.
        """
        labels = source.train.labels
        kept, validation = np.arange(len(labels)), np.arange(0)
        if hold_out:
            kept, validation = subsets.hold_out_validation(labels, seed)
        try:
            chosen = subsets.nested_subset(labels[kept], len(kept) if n is None else n, seed)
        except InputError as error:
            raise InputError(f"{field}: {error}") from None
        return Chosen(kept[chosen], validation)

    def training_stream(
        self,
        source: subsets.Source,
        chosen: Chosen,
        statistics: models.ImageStatistics,
        length: int,
        seed: int,
        augmentation: Sequence[str],
    ) -> ImageStream:
        """The training images as a stream of `length` positions."""
        return ImageStream(source.train, chosen.train, statistics, length, seed, augmentation)

    def validation_set(
        self, source: subsets.Source, chosen: Chosen, statistics: models.ImageStatistics
    ) -> ImageSet | None:
        """The validation images; None where none are held out."""
        return ImageSet(source.train, chosen.validation, statistics) if len(chosen.validation) else None

    def evaluate(
        self,
        model: PreTrainedModel,
        processor: Callable,
        split: subsets.Split,
        batch_size: int,
        teacher: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> Measurement:
        """Read a split once, in float32, and score the model, and its teacher on the same images.

        Pixels go through the checkpoint's own processor, so that `pipeline` gives the same answers. The processes
        share the batches; every process gets the whole result.

        Raises:
            RunError: The loss is no number.
        """
        logits, teacher_logits = _all_logits(model, processor, split, batch_size, teacher)
        scores = metrics.score(logits, split.labels)
        if not np.isfinite(scores["loss"]):
            raise RunError(f"the loss on the evaluation images is {scores['loss']}")
        if teacher is None:
            return Measurement(n_eval=len(logits), **scores)
        of_teacher = metrics.score(teacher_logits, split.labels)
        return Measurement(
            n_eval=len(logits),
            **scores,
            agreement=metrics.agreement(logits, teacher_logits),
            teacher_error=of_teacher["error"],
            teacher_loss=of_teacher["loss"],
        )

    def seen(self, source: subsets.Source, chosen: Chosen) -> np.ndarray:
        """Hashes of the pixels that a run trains on, uint64 (n,): what overlap is looked for with."""
        return source.train.pixel_hashes()[chosen.train]

    def count_overlap(self, seen: np.ndarray, source: subsets.Source) -> int:
        """Evaluation images of `source` whose pixels are among those `seen`."""
        return int(np.isin(source.test.pixel_hashes(), seen).sum())


@torch.no_grad()
def _all_logits(model, processor, split, batch_size, teacher) -> tuple[np.ndarray, np.ndarray | None]:
    state = PartialState()
    model.eval()
    found = []
    starts = range(0, len(split), batch_size)[state.process_index :: state.num_processes]
    bar = tqdm(starts, desc="evaluating", delay=_SHOW_AFTER_SECONDS, disable=not state.is_local_main_process)
    for start in bar:
        images = to_tensor(split.images(np.arange(start, min(start + batch_size, len(split)))))
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device)
        logits = model(pixel_values=pixels).logits.float().cpu().numpy()
        found.append((start, logits, None if teacher is None else teacher(pixels).cpu().numpy()))
    found = sorted(gather_object(found), key=lambda each: each[0])
    logits = np.concatenate([each[1] for each in found])
    return logits, None if teacher is None else np.concatenate([each[2] for each in found])


def _number_or_path(classes: str | None) -> int | str | None:
    return int(classes) if classes is not None and str(classes).isdigit() else classes
