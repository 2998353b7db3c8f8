"""The tasks: how image classification and language modelling load, batch, evaluate and count.

Code outside of this folder does not depend on which task runs.
"""

from hf_scaling.tasks.base import (
    FinetuneFields,
    Inputs,
    Measurement,
    PretrainFields,
    RunFields,
    Subset,
    Task,
    find,
    new_model_fields,
)
from hf_scaling.tasks.image_classification import ImageClassification
from hf_scaling.tasks.streams import collate

__all__ = [
    "FinetuneFields",
    "ImageClassification",
    "Inputs",
    "Measurement",
    "PretrainFields",
    "RunFields",
    "Subset",
    "Task",
    "collate",
    "find",
    "new_model_fields",
]
