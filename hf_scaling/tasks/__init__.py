"""One small object a task: how to load, batch, evaluate and count.

Outside this folder nothing knows which task runs. The one task so far is image classification.
"""

from hf_scaling.tasks.image_classification import STATISTICS, Chosen, ImageClassification, Measurement
from hf_scaling.tasks.stream import collate

__all__ = ["STATISTICS", "Chosen", "ImageClassification", "Measurement", "collate"]
