"""What a model expects of an image: its size and how its pixels are normalised."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

# What timm would load weights or settings from that lie elsewhere.
_ELSEWHERE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def refuse_code(folder: Path, name: str) -> None:
    """Refuse a checkpoint whose configuration names code to be run, or files that are not its own.

    transformers would ask on the terminal whether to run it; `trust_remote_code` is never set here, and nobody is
    asked.

    Args:
        folder: The checkpoint.
        name: What messages call it.

    Raises:
        InputError: Says which file asks for what, or which is no JSON.
    """
    for path in sorted(folder.glob("*.json")):
        content = _read(path, name)
        if not isinstance(content, dict):
            continue
        if content.get("auto_map"):
            raise InputError(
                f"{name} asks for code of its own to be run (auto_map in {path.name}): "
                f"only architectures of transformers and timm are loaded"
            )
        if path.name == "config.json":
            _refuse_elsewhere(content, name)


def _refuse_elsewhere(config: dict[str, Any], name: str) -> None:
    architecture, arguments = config.get("architecture"), config.get("model_args")
    if isinstance(architecture, str) and (":" in architecture or "/" in architecture):
        raise InputError(f"{name}: its config names the architecture {architecture!r}, which lies elsewhere")
    named = [key for key in _ELSEWHERE if isinstance(arguments, dict) and arguments.get(key)]
    if named:
        raise InputError(f"{name}: its config has timm load {named[0]} from elsewhere: remove it from model_args")


def _read(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{name}: {path.name} is not JSON: {error}") from None


def load_model(folder_or_hub_id: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Load an image classifier of transformers or timm.

    Args:
        folder_or_hub_id: A folder that `save_pretrained` wrote, or a Hub id (`google/vit-base-patch16-224`,
            `timm/resnet18.a1_in1k`); a folder that exists wins.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model in evaluation mode on the CPU, in float32.

    Raises:
        InputError: No such folder or repository, offline, no usable weights, or not an image classifier.
    """
    name = str(folder_or_hub_id)
    if name in FAMILIES and not Path(name).exists():
        raise InputError(f"{name} is a family name, not a checkpoint: give a folder or a Hub id")
    folder = hub.local_folder(name, revision=revision, allow_patterns=FILES)
    if not (folder / "config.json").is_file():
        raise InputError(f"{name} holds no config.json: give a folder that save_pretrained wrote")
    refuse_code(folder, name)
    if not list(folder.glob("model*.safetensors")):
        raise InputError(f"{name} holds no weights as model.safetensors (pickles are not loaded)")
    try:
        config = AutoConfig.from_pretrained(folder)
        # timm writes the number of classes twice; transformers would hand both on and fail.
        (getattr(config, "model_args", None) or {}).pop("num_classes", None)
        model, report = AutoModelForImageClassification.from_pretrained(
            folder, config=config, dtype="float32", output_loading_info=True
        )
    except (ValueError, TypeError, KeyError, OSError, ImportError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{name} cannot be loaded as an image classifier: {_first_line(error)}") from error
    check_whole(name, report, "classifier")
    _settle_image_size(model)
    return model


def check_whole(name: str, report: dict, kind: str) -> None:
    """Refuse what transformers fills with random weights: a backbone without a head is no teacher.

    Raises:
        InputError: A weight of the `kind` of model that is wanted is missing.
    """
    missing = sorted(report["missing_keys"])
    if missing:
        raise InputError(f"{name} lacks trained weights for {', '.join(missing[:3])}: it is no trained {kind}")


def _settle_image_size(model: PreTrainedModel) -> None:
    """Keep of timm's own settings the image size alone, and keep it where native models do.

    A checkpoint saved with the rest of them would be fed by timm's preprocessing: an image processor saved beside it
    is passed over.
    """
    timm_settings = getattr(model.config, "pretrained_cfg", None)
    if timm_settings:
        model.config.image_size = input_size(model)
        del model.config.pretrained_cfg


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


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
    folder = hub.local_folder(name, revision=revision, allow_patterns=FILES)
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
