"""Image classification: how to load, batch, evaluate and count."""

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
from transformers import PreTrainedModel

from hf_scaling import models
from hf_scaling.data import Source, Split, hold_out_validation, nested_subset
from hf_scaling.errors import InputError, RunError
from hf_scaling.tasks import base
from hf_scaling.tasks.base import Chosen, FinetuneFields, Measurement, PretrainFields
from hf_scaling.tasks.streams import ImageSet, ImageStream, to_tensor

#: How pixels of students trained from scratch are normalised: to -1..1, whatever the source, so that a checkpoint
#: means the same on every downstream set.
STATISTICS = models.ImageStatistics(mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

_EMBEDDED_GLYPHS = 50_000
_SHOW_AFTER_SECONDS = 3


@dataclass
class _ImageFields:
    image_column: str | None = field(default=None, metadata={"help": "column of the images; found where there is one"})
    label_column: str | None = field(default=None, metadata={"help": "column of the labels; found where there is one"})
    classes: str | None = field(
        default=None, metadata={"help": "train on this many classes, or on those of a list file"}
    )
    skip_corrupt: bool = field(default=False, metadata={"help": "leave corrupt images out, and count them"})
    augmentation: list[str] = field(
        default_factory=list,
        metadata={"help": "some of flip, shift, resized_crop, erase, applied in that order; or none"},
    )

    def __post_init__(self):
        if self.augmentation == ["none"]:
            self.augmentation = []
        super().__post_init__()


@dataclass
class PretrainImages(_ImageFields, PretrainFields):
    """Pretrain one student on an upstream source, plain or taught by a teacher."""

    EXAMPLE: ClassVar[str] = "accelerate launch recipes/pretrain.py --source glyphs --n_pretrain 2000 --teacher none"

    source: str = field(default="glyphs", metadata={"help": "glyphs, digits, a Hub id, a folder or a Parquet file"})
    model: str = field(
        default="vit-200k", metadata={"help": "student: a family name (vit-200k) or a timm architecture"}
    )
    image_size: int = field(default=28, metadata={"help": "side of the images in pixels"})
    patch_size: int | None = field(
        default=None, metadata={"help": "side of a patch in pixels; by image_size when absent"}
    )


@dataclass
class FinetuneImages(_ImageFields, FinetuneFields):
    """Fine-tune a checkpoint with a fresh head on a downstream source."""

    EXAMPLE: ClassVar[str] = "accelerate launch recipes/finetune.py --checkpoint runs/RUN_ID --source digits"

    source: str = field(default="digits", metadata={"help": "digits, glyphs, a Hub id, a folder or a Parquet file"})
    train_part: Literal["all", "head"] = field(
        default="all", metadata={"help": "weights to train: all, or the new head alone"}
    )


@dataclass(frozen=True)
class ImageInputs:
    """Side of the images in pixels, and how their pixels are normalised (None where only the side matters)."""

    image_size: int
    statistics: models.ImageStatistics | None = STATISTICS


class ImageClassification:
    """The task of telling a picture's class."""

    name, data, unit = "image_classification", "images", "image"
    fields: ClassVar[Mapping[str, type]] = {"pretrain": PretrainImages, "finetune": FinetuneImages}
    card, tag, sample = "student", "image-classification", "picture.png"
    guess: ClassVar[Mapping[str, int]] = {"n_classes": 1_000, "n_train": 1_000_000, "n_test": 10_000}

    def rule(self, fields: Any) -> dict[str, Any]:
        """The augmentation."""
        return {"augmentation": list(fields.augmentation)}

    def inputs(self, fields: PretrainImages, downstream: Any = None) -> ImageInputs:
        """Those of a student trained from scratch; fine-tuning keeps them."""
        return ImageInputs(fields.image_size)

    def inputs_of(self, folder: Path, model: PreTrainedModel, fields: Any) -> ImageInputs:
        """Those of a checkpoint.

        Raises:
            InputError: It does not say its image size, or how its images were normalised.
        """
        image_size = models.input_size(model)
        if image_size is None:
            raise InputError(f"checkpoint {folder}: its config states no image size")
        return ImageInputs(image_size, models.load_statistics(folder))

    def source_arguments(self, fields: Any, inputs: ImageInputs, n: int | None) -> dict[str, Any]:
        """What `data.open_source` is told; `glyphs` draws more than it has by default if it must."""
        return {
            "name": fields.source,
            "image_size": inputs.image_size,
            "image_column": fields.image_column,
            "label_column": fields.label_column,
            "classes": _number_or_path(fields.classes),
            "n_images": n if fields.source == "glyphs" and (n or 0) > _EMBEDDED_GLYPHS else None,
            "streaming": fields.streaming,
            "skip_corrupt": fields.skip_corrupt,
        }

    def choose(
        self,
        source: Source,
        field: str,
        n: int | None,
        seed: int,
        hold_out: bool,
        rungs: Sequence[int] = (),
    ) -> Chosen:
        """Choose `n` training images (None: all), and the validation part where one is held out.

        Raises:
            InputError: More than there are, or fewer than there are classes; `field` is named.
        """
        labels = source.train.labels
        kept, validation = np.arange(len(labels)), np.arange(0)
        if hold_out:
            kept, validation = hold_out_validation(labels, seed)
        train = np.arange(0)
        for size in (*rungs, len(kept) if n is None else n):
            try:
                chosen = kept[nested_subset(labels[kept], size, seed)]
            except InputError as error:
                raise InputError(f"{field}: {error}") from None
            train = np.concatenate([train, np.setdiff1d(chosen, train)])
        return Chosen(train, validation, lambda: source.train.pixel_hashes()[train], (*rungs, len(train)))

    def check_size(self, field: str, n: int, n_available: int, n_classes: int, inputs: ImageInputs) -> None:
        """Refuse a size that the subset's own choice would refuse, with its words.

        Raises:
            InputError: See `choose`.
        """
        if n_classes <= n <= n_available:
            return
        try:
            nested_subset(np.arange(n_available) % n_classes, n, seed=0)
        except InputError as error:
            raise InputError(f"{field}: {error}") from None

    def is_architecture(self, name: str) -> bool:
        """Whether it is a family or timm name."""
        return name in models.FAMILIES or timm.is_model(name)

    def families(self) -> Sequence[str]:
        """The ViT families."""
        return list(models.FAMILIES)

    def build(self, name: str, fields: PretrainImages, source: Source, seed: int) -> PreTrainedModel:
        """A student that knows the names of the source's classes."""
        model = models.build_student(name, len(source.class_names), fields.image_size, fields.patch_size, seed)
        models.name_classes(model, source.class_names)
        return model

    def sketch(self, name: str, n_classes: int, fields: PretrainImages) -> PreTrainedModel:
        """The same without its weights."""
        return models.sketch_student(name, n_classes, fields.image_size, fields.patch_size)

    def guess_checkpoint(self, name: str, fields: Any) -> tuple[ImageInputs, None]:
        """ImageNet's size; the name of a checkpoint says nothing of its weights."""
        return ImageInputs(224), None

    def configuration(self, model: PreTrainedModel) -> dict[str, Any]:
        """timm's architecture and arguments."""
        arguments = getattr(model.config, "model_args", None) or {}
        return {"architecture": getattr(model.config, "architecture", None), **arguments}

    def load_model(self, folder: Path) -> PreTrainedModel:
        """A trained classifier."""
        return models.load_model(folder)

    def teaching(self, folder: Path) -> dict[str, Any]:
        """How its images are normalised."""
        return {"statistics": models.load_statistics(folder)}

    def adapt(self, model: PreTrainedModel, fields: FinetuneImages, source: Source, seed: int) -> PreTrainedModel:
        """Give it a fresh head for the source's classes."""
        models.replace_head(model, len(source.class_names), seed)
        models.name_classes(model, source.class_names)
        return self.sketch_adapted(model, fields).train()

    def sketch_adapted(self, model: PreTrainedModel, fields: FinetuneImages) -> PreTrainedModel:
        """Leave only the head trainable where that is asked for."""
        if fields.train_part == "head":
            models.freeze_backbone(model)
        return model

    def finish(self, model: PreTrainedModel) -> PreTrainedModel:
        """It is finished as it was trained."""
        return model

    def processor(self, model: PreTrainedModel, inputs: ImageInputs) -> Any:
        """The image processor."""
        return models.build_processor(model, inputs.statistics.mean, inputs.statistics.std)

    def training_stream(
        self, source: Source, chosen: Chosen, inputs: ImageInputs, length: int, seed: int, fields: Any
    ) -> ImageStream:
        """The training images as a stream of `length` positions."""
        split, statistics = source.train, inputs.statistics
        return ImageStream(split, chosen.train, statistics, length, seed, fields.augmentation, chosen.rungs)

    def validation_set(self, source: Source, chosen: Chosen, inputs: ImageInputs) -> ImageSet | None:
        """The validation images; None where none are held out."""
        return ImageSet(source.train, chosen.validation, inputs.statistics) if len(chosen.validation) else None

    def evaluate(
        self,
        model: PreTrainedModel,
        processor: Callable,
        split: Split,
        batch_size: int,
        teacher: Callable | None = None,
    ) -> Measurement:
        """Read a split once, in float32, and score the model, and its teacher on the same images.

        Pixels go through the checkpoint's own processor, so that `pipeline` gives the same answers. The processes
        share the batches; every process gets the whole result.

        Raises:
            RunError: The loss is no number.
        """
        logits, teacher_logits = _all_logits(model, processor, split, batch_size, teacher)
        scores = base.score(logits, split.labels)
        if not np.isfinite(scores["loss"]):
            raise RunError(f"the loss on the evaluation images is {scores['loss']}")
        if teacher is None:
            return Measurement(n_eval=len(logits), **scores)
        of_teacher = base.score(teacher_logits, split.labels)
        return Measurement(
            n_eval=len(logits),
            **scores,
            agreement=base.agreement(logits, teacher_logits),
            teacher_error=of_teacher["error"],
            teacher_loss=of_teacher["loss"],
        )

    def overlap(
        self, chosen: Chosen, source: Source, upstream: np.ndarray | None, has_parent: bool
    ) -> dict[str, int | None]:
        """How many evaluation images' pixels were trained on: here, and by the parent (None: not known)."""
        seen = {"training": chosen.seen()} | ({"upstream": upstream} if has_parent else {})
        hashes = source.test.pixel_hashes()
        return {name: None if each is None else int(np.isin(hashes, each).sum()) for name, each in seen.items()}

    def describe_overlap(self, counts: Mapping[str, int | None]) -> str:
        """`overlap`'s counts as words."""
        words = {"training": "in this run's training images", "upstream": "in the upstream training images"}
        return ", ".join(
            f"{'an unknown number' if count is None else count} {'is' if count == 1 else 'are'} also {words[name]}"
            for name, count in counts.items()
        )

    def n_examples(self, n: int, inputs: ImageInputs) -> int:
        """An image is an example."""
        return n

    def example_size(self, inputs: ImageInputs) -> int:
        """An example is an image."""
        return 1

    def columns(self, inputs: ImageInputs) -> dict[str, Any]:
        """The side of the images."""
        return {"image_size": inputs.image_size}

    def forward_flops(self, model: torch.nn.Module, inputs: ImageInputs) -> float:
        """Operations of one image's way through a model."""
        return models.forward_flops(model, inputs.image_size)

    def training_flops(self, model: PreTrainedModel, inputs: ImageInputs) -> float:
        """Operations that training takes for one image: forward, and backward through the weights that are trained."""
        forward = self.forward_flops(model, inputs)
        if all(weight.requires_grad for weight in model.parameters()):
            return models.TRAINING * forward
        head = sum(weight.numel() for weight in models.head_parameters(model) if weight.ndim > 1)
        # Nothing lies below the head that wants its gradient: one product of its size, for the head's own weights.
        return forward + 2 * head

    def rehearse(
        self, name: str, n_classes: int, fields: PretrainImages, batch: int
    ) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """A student and blank images."""
        model = models.build_student(name, n_classes, fields.image_size, fields.patch_size)
        pixels = torch.zeros(batch, 3, fields.image_size, fields.image_size)
        return model, {"pixel_values": pixels, "labels": torch.zeros(batch, dtype=torch.long)}


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
        found.append((start, logits, None if teacher is None else teacher(pixel_values=pixels).cpu().numpy()))
    found = sorted(gather_object(found), key=lambda each: each[0])
    logits = np.concatenate([each[1] for each in found])
    return logits, None if teacher is None else np.concatenate([each[2] for each in found])


def _number_or_path(classes: str | None) -> int | str | None:
    return int(classes) if classes is not None and str(classes).isdigit() else classes
