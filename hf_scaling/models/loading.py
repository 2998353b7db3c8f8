"""Trained models: checkpoints loaded without running their code, and how their images are sized and normalised."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    BitImageProcessor,
    PreTrainedModel,
)
from transformers.image_utils import PILImageResampling

from hf_scaling import hub
from hf_scaling.errors import InputError
from hf_scaling.models.vision import FAMILIES

# Downloaded from a repository on the Hub: no pickles, no training states.
_FILES = ["*.json", "*.safetensors"]
# Arguments with which timm would load weights or settings from outside the checkpoint.
_OUTSIDE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


@dataclass(frozen=True)
class ImageStatistics:
    """Mean and standard deviation of each channel, on pixels scaled to 0..1, by which images are normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise InputError(f"image mean {self.mean} and std {self.std}: give one of each per channel, std above 0")


def load_model(folder_or_hub_id: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Load an image classifier of transformers or timm.

    Args:
        folder_or_hub_id: A folder that `save_pretrained` wrote, or a Hub id (`google/vit-base-patch16-224`,
            `timm/resnet18.a1_in1k`); an existing folder wins.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model in evaluation mode on the CPU, in float32.

    Raises:
        InputError: No such folder or repository, offline, no usable weights, or not an image classifier.
    """
    name = str(folder_or_hub_id)
    if isinstance(folder_or_hub_id, str) and name in FAMILIES:
        raise InputError(f"{name} is a family name, not a checkpoint: give a folder or a Hub id")
    folder = checkpoint_folder(name, revision)
    if not (folder / "config.json").is_file():
        raise InputError(f"{name} holds no config.json: give a folder that save_pretrained wrote")
    if not list(folder.glob("model*.safetensors")):
        raise InputError(f"{name} holds no weights as model.safetensors (pickles are not loaded)")
    with loading_errors(name, "an image classifier"):
        config = AutoConfig.from_pretrained(folder)
        # timm writes the number of classes twice; transformers would pass both on and fail.
        (getattr(config, "model_args", None) or {}).pop("num_classes", None)
        model, report = AutoModelForImageClassification.from_pretrained(
            folder, config=config, dtype="float32", output_loading_info=True
        )
    check_complete(name, report, "classifier")
    if input_size(model) is None and (size := _processor_size(folder)) is not None:
        model.config.image_size = size
    if getattr(model.config, "pretrained_cfg", None):
        # Of timm's settings only the image size is kept, where native models have it. A checkpoint saved with the
        # others would be preprocessed by timm's settings, whatever image processor is saved beside it.
        model.config.image_size = input_size(model)
        del model.config.pretrained_cfg
    return model


def checkpoint_folder(name: str, revision: str | None) -> Path:
    """The local folder of a checkpoint, downloaded where `name` is a Hub id.

    A checkpoint is refused if its configuration names code to run, or files outside of it. (transformers would ask on
    the terminal; `trust_remote_code` is never set.)

    Raises:
        InputError: No such folder or repository, offline, or refused; the message names the file.
    """
    folder = hub.local_folder(name, revision=revision, allow_patterns=_FILES)
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError, OSError) as error:
            raise InputError(f"{name}: {path.name} is not JSON: {error}") from None
        if not isinstance(content, dict):
            continue
        if content.get("auto_map"):
            raise InputError(
                f"{name} would run code of its own (auto_map in {path.name}): "
                "only architectures of transformers and timm are loaded"
            )
        if path.name != "config.json":
            continue
        architecture, arguments = content.get("architecture"), content.get("model_args")
        if isinstance(architecture, str) and (":" in architecture or "/" in architecture):
            raise InputError(f"{name}: the architecture {architecture!r} in config.json is outside the checkpoint")
        outside = [key for key in _OUTSIDE if isinstance(arguments, dict) and arguments.get(key)]
        if outside:
            raise InputError(
                f"{name}: {outside[0]} in config.json loads files from elsewhere: remove it from model_args"
            )
    return folder


@contextmanager
def loading_errors(name: str, kind: str) -> Iterator[None]:
    """Turn what transformers raises for an unusable checkpoint into one line.

    Raises:
        InputError: In place of such an error; `kind` is the requested kind of model.
    """
    try:
        yield
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{name} cannot be loaded as {kind}: {reason}") from error


def check_complete(name: str, report: Mapping, kind: str) -> None:
    """Refuse a checkpoint that transformers completes with random weights: a backbone without a head is no teacher.

    Raises:
        InputError: A weight of the `kind` of model that is wanted is missing.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"{name} lacks trained weights for {', '.join(missing[:3])}: it is not a trained {kind}")


def input_size(model: PreTrainedModel) -> int | None:
    """Side in pixels of the square images that `model` was built for; None where its config does not state it.

    It is looked for in `image_size`, timm's `img_size`, `vision_config` (CLIP, SigLIP) and timm's `pretrained_cfg`;
    `load_model` sets `image_size` by the checkpoint's image processor where none of them has it.
    """
    config = model.config
    vision = getattr(config, "vision_config", None)
    pretrained = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")
    sizes = (
        getattr(config, "image_size", None),
        (getattr(config, "model_args", None) or {}).get("img_size"),
        vision.get("image_size") if isinstance(vision, Mapping) else getattr(vision, "image_size", None),
        pretrained and pretrained[-1],
    )
    size = next((size for size in sizes if size), None)
    return size[-1] if isinstance(size, Sequence) else size


def _processor_size(folder: Path) -> int | None:
    """The side of the images that a checkpoint's image processor gives."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    content = json.loads(path.read_text(encoding="utf-8"))
    for name in ("crop_size", "size"):
        size = content.get(name)
        if name == "crop_size" and content.get("do_center_crop") is False:
            continue
        if isinstance(size, Mapping):
            size = size.get("height") or size.get("shortest_edge")
        if isinstance(size, int) and size > 0:
            return size
    return None


def load_statistics(folder_or_hub_id: str | Path, revision: str | None = None) -> ImageStatistics:
    """Read from a checkpoint how its images are normalised.

    What its image processor does to pixels of 0 to 255, scaled and shifted in whichever steps, is one mean and one
    standard deviation a channel on pixels of 0 to 1.

    Raises:
        InputError: No such checkpoint, offline, or one without an image processor, or with one that normalises without
            a mean, or gives the channels in another order.
    """
    name = str(folder_or_hub_id)
    folder = checkpoint_folder(name, revision)
    try:
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{name} holds no image processor: save the preprocessor_config.json of its training beside it, or give "
            "its image mean and std"
        ) from error
    timm_config = getattr(processor, "data_config", {})
    mean = timm_config.get("mean", getattr(processor, "image_mean", None))
    std = timm_config.get("std", getattr(processor, "image_std", None))
    if getattr(processor, "do_flip_channel_order", False):
        raise InputError(f"{name}: its image processor gives the channels as BGR; only RGB is supported")
    # Scales pixels to 0..1 and normalises them once, as nearly all do.
    is_plain = (
        getattr(processor, "do_normalize", True)
        and getattr(processor, "do_rescale", True)
        and abs(255 * getattr(processor, "rescale_factor", 1 / 255) - 1) < 1e-6
        and not getattr(processor, "rescale_offset", False)
        and not getattr(processor, "include_top", False)
    )
    if timm_config or is_plain:
        if mean is None or std is None:
            raise InputError(f"{name}: its image processor has no mean and std: give them")
        return ImageStatistics(tuple(mean), tuple(std))
    # Steps of x in 0..1: scale * x - shift, less the mean, divided by std; and by std again for EfficientNet's top.
    again = tuple(std) if std and getattr(processor, "include_top", False) else (1.0,) * 3
    if not getattr(processor, "do_normalize", True) or mean is None or std is None:
        mean, std = (0.0,) * 3, (1.0,) * 3
    rescales = getattr(processor, "do_rescale", True)
    scale = 255 * getattr(processor, "rescale_factor", 1 / 255) if rescales else 255.0
    shift = 1.0 if rescales and getattr(processor, "rescale_offset", False) else 0.0
    return ImageStatistics(
        tuple(float(f"{(m + shift) / scale:.12g}") for m in mean),
        tuple(float(f"{s * t / scale:.12g}") for s, t in zip(std, again)),
    )


def build_processor(model: PreTrainedModel, mean: Sequence[float], std: Sequence[float]) -> BitImageProcessor:
    """Build the image processor that makes a checkpoint of `model` work in `pipeline("image-classification")`.

    An image of the model's size is converted to RGB and normalised, nothing else: in float32,
    `(pixels - 255 * mean) / (255 * std)` with pixels 0..255, channels first. The shorter side of any other image is
    resized (bicubic, antialiased) and its centre is cropped.

    Args:
        model: Gives the image size (`input_size`).
        mean, std: Of each channel, on pixels scaled to 0..1.

    Returns:
        A processor whose `save_pretrained(folder)` writes preprocessor_config.json. (timm's own processor writes
        nothing, and could not know these statistics.)

    Raises:
        InputError: The model's config has no image size, or the statistics are invalid.
    """
    size = input_size(model)
    if size is None:
        raise InputError("the model's config has no image size: set config.image_size")
    statistics = ImageStatistics(tuple(mean), tuple(std))
    return BitImageProcessor(
        do_convert_rgb=True,
        do_resize=True,
        size={"shortest_edge": size},
        resample=PILImageResampling.BICUBIC,
        do_center_crop=True,
        crop_size={"height": size, "width": size},
        do_rescale=True,
        rescale_factor=1 / 255,
        do_normalize=True,
        image_mean=list(statistics.mean),
        image_std=list(statistics.std),
    )
