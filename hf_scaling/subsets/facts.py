"""What can be said of a source before any of its pictures is wanted."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_scaling.subsets.sources import open_source


@dataclass(frozen=True)
class SourceFacts:
    """A source in numbers; the two sizes are None until its cache is filled.

    Attributes:
        name: What results call it.
        fingerprint: Of its content.
        n_classes: How many classes are chosen.
        n_train: Training pictures.
        n_test: Pictures that evaluation reads.
    """

    name: str
    fingerprint: str
    n_classes: int
    n_train: int | None
    n_test: int | None


def source_facts(arguments: Mapping[str, Any], fill: bool) -> SourceFacts:
    """Open the source that `arguments` (of `open_source`) say, and count it.

    Args:
        arguments: What `open_source` is told.
        fill: Fill its cache where it is not filled, so that the sizes are known.

    Raises:
        InputError: See `open_source` and `Source.train`.
    """
    source = open_source(**arguments)
    counted = fill or source.is_at_hand
    return SourceFacts(
        source.name,
        source.fingerprint,
        len(source.class_names),
        len(source.train) if counted else None,
        len(source.test) if counted else None,
    )
