"""One small object a task: how to load, batch, evaluate and count.

Outside this folder nothing knows which task runs.
"""

from hf_scaling.tasks.base import Chosen, FinetuneFields, Measurement, PretrainFields, RunFields, Task, find
from hf_scaling.tasks.image_classification import ImageClassification
from hf_scaling.tasks.streams import collate

__all__ = [
    "Chosen",
    "FinetuneFields",
    "ImageClassification",
    "Measurement",
    "PretrainFields",
    "RunFields",
    "Task",
    "collate",
    "find",
]
