"""One small object a task: how to load, batch, evaluate and count.

Outside this folder nothing knows which task runs.
"""

from hf_scaling.tasks.epochs import collate
from hf_scaling.tasks.fields import FinetuneFields, PretrainFields, RunFields
from hf_scaling.tasks.image_classification import ImageClassification
from hf_scaling.tasks.task import Chosen, Measurement, Task, find

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
