"""What a model expects of an image: its size and how its pixels are normalised."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import AutoImageProcessor, BitImageProcessor, PreTrainedModel
from transformers.image_utils import PILImageResampling

from hf_scaling import transport
from hf_scaling.errors import InputError
from hf_scaling.models.refusing import refuse_code

# What is asked for of a repository on the Hub: no pickles, no training states.
FILES = ["*.json", "*.safetensors"]


@dataclass(frozen=True)
class ImageStatistics:
    """Mean and standard deviation of each channel, on pixels scaled to 0..1, by which images are normalised."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self):
        if len(self.mean) != len(self.std) or not all(value > 0 for value in self.std):
            raise InputError(f"image mean {self.mean} and std {self.std}: give one of each a channel, std above 0")


def build_processor(model: PreTrainedModel, mean: Sequence[float], std: Sequence[float]) -> BitImageProcessor:
    """Build the image processor that makes a checkpoint of `model` work in `pipeline("image-classification")`.

    An image that has the model's size is converted to RGB and normalised, nothing else: in float32,
    `(pixels - 255 * mean) / (255 * std)` with pixels 0..255, channels first. Another one has its shorter side resized
    (bicubic, antialiased) and its centre cut out.

    Args:
        model: Gives the image size (`input_size`).
        mean, std: Of each channel, on pixels scaled to 0..1.

    Returns:
        A processor whose `save_pretrained(folder)` writes preprocessor_config.json. (timm's own processor writes
        nothing, and could not know these statistics.)

    Raises:
        InputError: The model states no image size, or the statistics are none.
    """
    size = input_size(model)
    if size is None:
        raise InputError("the model's config states no image size: set config.image_size")
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


def input_size(model: PreTrainedModel) -> int | None:
    """The side of the square images that `model` was built for, in pixels; None where its config does not say."""
    config = model.config
    timm_size = (getattr(config, "model_args", None) or {}).get("img_size")
    pretrained = (getattr(config, "pretrained_cfg", None) or {}).get("input_size")
    size = getattr(config, "image_size", None) or timm_size or (pretrained and pretrained[-1])
    if isinstance(size, Sequence):
        size = size[-1]
    return size or None


def load_statistics(folder_or_hub_id: str | Path, revision: str | None = None) -> ImageStatistics:
    """Read from a checkpoint how its images were normalised.

    Raises:
        InputError: No such checkpoint, offline, or one without an image processor that normalises.
    """
    name = str(folder_or_hub_id)
    folder = transport.local_folder(name, revision=revision, allow_patterns=FILES)
    refuse_code(folder, name)
    try:
        processor = AutoImageProcessor.from_pretrained(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{name} holds no image processor: state its image mean and std") from error
    timm_config = getattr(processor, "data_config", {})
    mean = timm_config.get("mean", getattr(processor, "image_mean", None))
    std = timm_config.get("std", getattr(processor, "image_std", None))
    if mean is None or std is None:
        raise InputError(f"{name}: its image processor states no mean and std: state them")
    return ImageStatistics(tuple(mean), tuple(std))
