"""Students and teachers by name and size, built or loaded."""

from hf_scaling.models.building import FAMILIES, build_student, default_patch_size, seeded, sketch_student
from hf_scaling.models.counting import TRAINING, count_params, flops_of, forward_flops
from hf_scaling.models.heads import freeze_backbone, head_parameters, name_classes, replace_head
from hf_scaling.models.language import (
    LANGUAGE_FAMILIES,
    build_language_model,
    load_language_model,
    sketch_language_model,
)
from hf_scaling.models.loading import load_model
from hf_scaling.models.processing import ImageStatistics, build_processor, input_size, load_statistics

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
    "replace_head",
    "seeded",
    "sketch_language_model",
    "sketch_student",
]
