"""What can be said of a source before any of its pictures is wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_scaling.data.sources import open_source
from hf_scaling.data.text import open_text

#: Kind of data -> what opens a source of it.
OPENERS = {"images": open_source, "text": open_text}


@dataclass(frozen=True)
class SourceFacts:
    """A source in numbers, in images or tokens; the last three are None until its cache is filled.

    Attributes:
        name: What results call it.
        fingerprint: Of its content.
        n_classes: How many classes are chosen.
        n_train: For training.
        n_test: For evaluation.
        n_held_out: Of those for training, what a run that selects by a validation part cannot train on.
    """

    name: str
    fingerprint: str
    n_classes: int
    n_train: int | None
    n_test: int | None
    n_held_out: int | None


def source_facts(data: str, arguments: Mapping[str, Any], fill: bool) -> SourceFacts:
    """Open the source that `arguments` say, and count it.

    Args:
        data: Which opener they are told to: a key of `OPENERS`.
        arguments: What the opener is told.
        fill: Fill its cache where it is not filled, so that the sizes are known.

    Raises:
        InputError: See the opener and `Source.train`.
    """
    source = OPENERS[data](**arguments)
    if not (fill or source.is_at_hand):
        return SourceFacts(source.name, source.fingerprint, len(source.class_names), None, None, None)
    sizes = len(source.train), len(source.test), source.n_held_out
    return SourceFacts(source.name, source.fingerprint, len(source.class_names), *sizes)
