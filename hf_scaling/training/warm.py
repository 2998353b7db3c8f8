"""What a process that makes many runs keeps between them."""

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_scaling import models, subsets
from hf_scaling.tasks import ImageClassification


class Warm:
    """Open sources, and the checkpoint that was last asked for: many fine-tunings in a row start from the same one."""

    def __init__(self):
        self._sources: dict[tuple, subsets.Source] = {}
        self._last: tuple[Path, PreTrainedModel] | None = None

    def source(self, task: ImageClassification, fields: Any, image_size: int, n_images: int | None) -> subsets.Source:
        """As `ImageClassification.open_source`, but a source that is open already is given again."""
        key = tuple(task.source_arguments(fields, image_size, n_images).items())
        if key not in self._sources:
            self._sources[key] = task.open_source(fields, image_size, n_images)
        return self._sources[key]

    def model(self, folder: Path) -> PreTrainedModel:
        """As `models.load_model`, but the last folder's model is copied rather than read again."""
        if self._last is None or self._last[0] != folder:
            self._last = (folder, models.load_model(folder))
        return copy.deepcopy(self._last[1])
