"""What a process that makes many runs keeps between them."""

import copy
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_scaling import subsets
from hf_scaling.tasks import Task


class Warm:
    """Open sources, and the checkpoint that was last asked for: many fine-tunings in a row start from the same one."""

    def __init__(self):
        self._sources: dict[tuple, Any] = {}
        self._last: tuple[Path, PreTrainedModel] | None = None

    def source(self, task: Task, fields: Any, inputs: Any, n: int | None) -> Any:
        """The source that `fields` name; one that is open already is given again.

        Raises:
            InputError: See the opener in `subsets`.
        """
        arguments = task.source_arguments(fields, inputs, n)
        key = (task.data, *arguments.items())
        if key not in self._sources:
            self._sources[key] = subsets.OPENERS[task.data](**arguments)
        return self._sources[key]

    def model(self, task: Task, folder: Path) -> PreTrainedModel:
        """As `task.load_model`, but the last folder's model is copied rather than read again."""
        if self._last is None or self._last[0] != folder:
            self._last = (folder, task.load_model(folder))
        return copy.deepcopy(self._last[1])
