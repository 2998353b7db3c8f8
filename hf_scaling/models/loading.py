"""Classifiers with trained weights, from a folder or the Hub."""

from pathlib import Path

from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from hf_scaling import transport
from hf_scaling.errors import InputError
from hf_scaling.models.building import FAMILIES
from hf_scaling.models.processing import FILES, input_size
from hf_scaling.models.refusing import refuse_code


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
    folder = transport.local_folder(name, revision=revision, allow_patterns=FILES)
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
