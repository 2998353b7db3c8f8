"""Image classification: how to load, batch, evaluate and count."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import timm
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import BitImageProcessor, PreTrainedModel

from hf_scaling import models
from hf_scaling.data import Source, Split, hold_out_validation, nested_subset
from hf_scaling.errors import InputError, RunError
from hf_scaling.tasks.base import FinetuneFields, Measurement, PretrainFields, Subset, cross_entropy, top_one_error
from hf_scaling.tasks.streams import ImageSet, ImageStream, to_tensor

#: How the pixels of students trained from scratch are normalised: to -1..1, whatever the source, so that a checkpoint
#: expects the same on every downstream set.
STATISTICS = models.ImageStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_DEFAULT_GLYPHS = 50_000
_SHOW_AFTER_SECONDS = 3


@dataclass
class _ImageFields:
    image_column: str | None = field(
        default=None, metadata={"help": "column of the images; needed only where there are several"}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "column of the labels; needed only where there are several"}
    )
    classes: str | None = field(
        default=None, metadata={"help": "use this many of the classes, or those listed in a file"}
    )
    skip_corrupt: bool = field(default=False, metadata={"help": "leave corrupt images out, and count them"})
    background: str | None = field(
        default=None,
        metadata={"help": "colour behind transparent parts; by default white, or black where that shows more"},
    )
    augmentation: list[str] = field(
        default_factory=list,
        metadata={"help": "some of flip, shift, resized_crop, erase, applied in that order; or none"},
    )
    n_eval: int | None = field(
        default=None,
        metadata={"help": "evaluate on at most this many of the test images, drawn once by key; by default on all"},
    )

    def __post_init__(self):
        if self.augmentation == ["none"]:
            self.augmentation = []
        if self.n_eval is not None and self.n_eval < 1:
            raise InputError(f"n_eval {self.n_eval}: must be 1 image or more")
        super().__post_init__()


@dataclass
class PretrainImages(_ImageFields, PretrainFields):
    """Pretrain one student on an upstream source of images, with or without distillation."""

    EXAMPLE: ClassVar[str] = "accelerate launch recipes/pretrain.py --source glyphs --n_pretrain 2000 --teacher none"

    source: str = field(default="glyphs", metadata={"help": "glyphs, digits, a Hub id, a folder or a Parquet file"})
    model: str = field(
        default="vit-200k", metadata={"help": "student: a family name (vit-200k) or a timm architecture"}
    )
    image_size: int = field(default=28, metadata={"help": "side of the images in pixels"})
    patch_size: int | None = field(
        default=None, metadata={"help": "side of a patch in pixels; by default it follows image_size"}
    )


@dataclass
class FinetuneImages(_ImageFields, FinetuneFields):
    """Fine-tune a checkpoint with a fresh head on a downstream source of images."""

    EXAMPLE: ClassVar[str] = "accelerate launch recipes/finetune.py --checkpoint runs/RUN_ID --source digits"
    OF_A_NEW_MODEL: ClassVar[tuple[str, ...]] = ("image_size", "patch_size")

    source: str = field(default="digits", metadata={"help": "digits, glyphs, a Hub id, a folder or a Parquet file"})
    train_part: Literal["all", "head"] = field(
        default="all", metadata={"help": "weights to train: all, or the new head alone"}
    )
    class_errors: bool = field(default=False, metadata={"help": "store the error of each downstream class in the row"})
    image_size: int | None = field(
        default=None, metadata={"help": "with model: side of the images in pixels, as in pretraining"}
    )
    patch_size: int | None = field(
        default=None, metadata={"help": "with model: side of a patch in pixels, as in pretraining"}
    )


@dataclass(frozen=True)
class ImageInputs:
    """Square RGB images.

    Attributes:
        image_size: Side in pixels.
        statistics: How pixels are normalised; None where only the size matters.
    """

    image_size: int
    statistics: models.ImageStatistics | None = STATISTICS

    #: An example is one image.
    example_size: ClassVar[int] = 1

    @property
    def columns(self) -> dict[str, Any]:
        """The column that only images have."""
        return {"image_size": self.image_size}

    def n_examples(self, n: int, n_classes: int = 0) -> int:
        """`n` itself: an image is an example.

        Raises:
            InputError: Fewer images than classes.
        """
        if n < n_classes:
            raise InputError(
                f"{n:,} images cannot hold the {n_classes:,} classes: ask for at least one image per class"
            )
        return n

    def blank(self, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        """`n` black images."""
        return {"pixel_values": torch.zeros(n, 3, self.image_size, self.image_size, device=device)}


class ImageClassification:
    """The task of predicting the class of an image."""

    name, data, unit = "image_classification", "images", "image"
    fields: ClassVar[Mapping[str, type]] = {"pretrain": PretrainImages, "finetune": FinetuneImages}
    families: ClassVar[Sequence[str]] = tuple(models.FAMILIES)
    card, tag, sample = "student", "image-classification", "image.png"
    guess: ClassVar[Mapping[str, int]] = {"n_classes": 1_000, "n_train": 1_000_000, "n_test": 10_000}

    def rule(self, fields: Any) -> dict[str, Any]:
        """The augmentation."""
        return {"augmentation": list(fields.augmentation)}

    def inputs(self, fields: Any, parent: ImageInputs | None = None) -> ImageInputs:
        """Images as a new model takes them by the fields of pretraining; fine-tuning keeps the parent's."""
        return ImageInputs(fields.image_size) if parent is None else parent

    def checkpoint_inputs(self, folder: Path, model: PreTrainedModel) -> ImageInputs:
        """Images as a trained checkpoint takes them.

        Raises:
            InputError: It does not state its image size, or how its images were normalised.
        """
        image_size = models.input_size(model)
        if image_size is None:
            raise InputError(f"checkpoint {folder}: its config states no image size")
        return ImageInputs(image_size, models.load_statistics(folder))

    def guess_checkpoint(self, name: str, fields: Any) -> tuple[ImageInputs, None]:
        """The size of ImageNet's images; the model is not known."""
        return ImageInputs(224), None

    def source_arguments(self, fields: Any, inputs: ImageInputs, n: int | None) -> dict[str, Any]:
        """The arguments of `data.open_source`; `glyphs` draws more images than its default where `n` is larger."""
        classes = fields.classes
        return {
            "name": fields.source,
            "image_size": inputs.image_size,
            "image_column": fields.image_column,
            "label_column": fields.label_column,
            "classes": int(classes) if classes is not None and str(classes).isdigit() else classes,
            "n_images": n if fields.source == "glyphs" and (n or 0) > _DEFAULT_GLYPHS else None,
            "streaming": fields.streaming,
            "skip_corrupt": fields.skip_corrupt,
            "background": fields.background,
        }

    def choose(
        self, source: Source, field: str, n: int | None, seed: int, hold_out: bool, rungs: Sequence[int] = ()
    ) -> Subset:
        """Choose `n` training images (None: all), balanced over the classes, nested in every larger subset.

        Raises:
            InputError: There are fewer, or fewer than classes; `field` is named.
        """
        labels = source.train.labels
        kept, validation = np.arange(len(labels)), np.arange(0)
        if hold_out:
            kept, validation = hold_out_validation(labels, seed)
        train = np.arange(0)
        for size in (*rungs, len(kept) if n is None else n):
            try:
                subset = kept[nested_subset(labels[kept], size, seed)]
            except InputError as error:
                raise InputError(f"{field}: {error}") from None
            train = np.concatenate([train, np.setdiff1d(subset, train)])
        return Subset(train, validation, lambda: source.train.pixel_hashes()[train], (*rungs, len(train)))

    def hashes(self, split: Split) -> np.ndarray:
        """Hashes of the pixels."""
        return split.pixel_hashes()

    def is_architecture(self, name: str) -> bool:
        """Whether it is a family name or an architecture of timm."""
        return name in models.FAMILIES or timm.is_model(name)

    def build(self, name: str, fields: PretrainImages, source: Source, seed: int) -> PreTrainedModel:
        """A student with random weights that has the names of the source's classes."""
        model = models.build_student(name, len(source.class_names), fields.image_size, fields.patch_size, seed)
        models.name_classes(model, source.class_names)
        return model

    def configuration(self, model: PreTrainedModel) -> dict[str, Any]:
        """timm's architecture and arguments."""
        arguments = getattr(model.config, "model_args", None) or {}
        return {"architecture": getattr(model.config, "architecture", None), **arguments}

    def load_model(self, folder: Path) -> PreTrainedModel:
        """A trained classifier."""
        return models.load_model(folder)

    def teacher_terms(self, folder: Path) -> dict[str, Any]:
        """How the checkpoint's images are normalised."""
        return {"statistics": models.load_statistics(folder)}

    def adapt(self, model: PreTrainedModel, fields: FinetuneImages, source: Source, seed: int) -> PreTrainedModel:
        """Give the model a fresh head for the source's classes."""
        models.replace_head(model, len(source.class_names), seed)
        models.name_classes(model, source.class_names)
        return model

    def limit_training(self, model: PreTrainedModel, fields: FinetuneImages, seed: int) -> PreTrainedModel:
        """Freeze all but the head where `train_part` says so."""
        if fields.train_part == "head":
            models.freeze_backbone(model)
        return model.train()

    def processor(self, model: PreTrainedModel, inputs: ImageInputs) -> BitImageProcessor:
        """The image processor."""
        return models.build_processor(model, inputs.statistics.mean, inputs.statistics.std)

    def training_sets(
        self, source: Source, subset: Subset, inputs: ImageInputs, length: int, seed: int, fields: Any
    ) -> tuple[ImageStream, ImageSet | None]:
        """The training images as a stream of `length` positions, and the validation images."""
        split, statistics = source.train, inputs.statistics
        stream = ImageStream(split, subset.train, statistics, length, seed, fields.augmentation, subset.rungs)
        return stream, ImageSet(split, subset.validation, statistics) if len(subset.validation) else None

    def evaluate(
        self,
        model: PreTrainedModel,
        processor: Callable,
        split: Split,
        batch_size: int,
        teacher: Callable | None = None,
        class_names: Sequence[str] | None = None,
    ) -> Measurement:
        """Read a split once, in float32, and score the model, and its teacher on the same images.

        Pixels go through the checkpoint's own processor, so that `pipeline` gives the same predictions. The processes
        share the batches; every process gets the whole result. With `class_names`, in label order, each class's error
        is measured too; classes without images are left out.

        Raises:
            RunError: The loss is not a finite number.
        """
        logits, teacher_logits = _predict(model, processor, split, batch_size, teacher)
        error, loss = top_one_error(logits, split.labels), cross_entropy(logits, split.labels)
        if not np.isfinite(loss):
            raise RunError(f"the loss on the evaluation images is {loss}")
        of_classes = None
        if class_names is not None:
            wrong = logits.argmax(axis=1) != split.labels
            errors = {
                class_names[label]: float(wrong[split.labels == label].mean()) for label in np.unique(split.labels)
            }
            of_classes = json.dumps(errors, ensure_ascii=False)
        if teacher is None:
            return Measurement(len(logits), error, loss, class_errors=of_classes)
        return Measurement(
            len(logits),
            error,
            loss,
            agreement=1 - top_one_error(logits, np.argmax(teacher_logits, axis=1)),
            teacher_error=top_one_error(teacher_logits, split.labels),
            teacher_loss=cross_entropy(teacher_logits, split.labels),
            class_errors=of_classes,
        )

    def training_flops(self, model: PreTrainedModel, inputs: ImageInputs, forward: float | None = None) -> float:
        """FLOPs of training on one image: forward, and backward through the weights that are trained."""
        if forward is None:
            forward = models.flops_of(model, inputs.blank(1, next(model.parameters()).device))
        if all(weight.requires_grad for weight in model.parameters()):
            return models.TRAINING * forward
        head = sum(weight.numel() for weight in models.head_parameters(model) if weight.ndim > 1)
        # No layer before the head needs a gradient: one product of the head's size, for its own weights.
        return forward + 2 * head


@torch.no_grad()
def _predict(
    model: PreTrainedModel, processor: Callable, split: Split, batch_size: int, teacher: Callable | None
) -> tuple[np.ndarray, np.ndarray | None]:
    """Logits of the model and of its teacher on every image of a split, float32 (n, classes)."""
    state = PartialState()
    model.eval()
    answers = []
    starts = range(0, len(split), batch_size)[state.process_index :: state.num_processes]
    for start in tqdm(starts, "evaluating", delay=_SHOW_AFTER_SECONDS, disable=not state.is_local_main_process):
        images = to_tensor(split.images(np.arange(start, min(start + batch_size, len(split)))))
        pixels = processor(images=images, return_tensors="pt")["pixel_values"].to(model.device)
        logits = model(pixel_values=pixels).logits.float().cpu().numpy()
        answers.append((start, logits, None if teacher is None else teacher(pixel_values=pixels).cpu().numpy()))
    _, logits, teacher_logits = zip(*sorted(gather_object(answers), key=lambda answer: answer[0]))
    return np.concatenate(logits), None if teacher is None else np.concatenate(teacher_logits)
