"""Image classifiers and language models by name and size, built or loaded."""

from hf_scaling.models.flops import TRAINING, count_params, flops_of, forward_flops, try_forward
from hf_scaling.models.language import (
    LANGUAGE_FAMILIES,
    build_language_model,
    load_language_model,
)
from hf_scaling.models.loading import ImageStatistics, build_processor, input_size, load_model, load_statistics
from hf_scaling.models.vision import (
    FAMILIES,
    build_student,
    default_patch_size,
    freeze_backbone,
    head_parameters,
    name_classes,
    recording_features,
    replace_head,
    seeded,
)

__all__ = [
    "FAMILIES",
    "LANGUAGE_FAMILIES",
    "TRAINING",
    "ImageStatistics",
    "build_language_model",
    "build_processor",
    "build_student",
    "count_params",
    "default_patch_size",
    "flops_of",
    "forward_flops",
    "freeze_backbone",
    "head_parameters",
    "input_size",
    "load_language_model",
    "load_model",
    "load_statistics",
    "name_classes",
    "recording_features",
    "replace_head",
    "seeded",
    "try_forward",
]
