"""Rows that are worse than guessing: a loss above ln K, or an error above 1 - 1/K, where there are K classes.

Such a run has learned its training examples by heart, or nothing: it says little about how a score scales.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

#: The key under which the number of classes of each row (NaN where it is not known) passes through filters.
CLASSES = "(classes)"
# What giving every one of K classes the same probability costs.
_GUESSING: dict[str, Callable[[np.ndarray], np.ndarray]] = {"loss": np.log, "error": lambda classes: 1 - 1 / classes}


def count_classes(data: Mapping[str, np.ndarray], sources: Mapping[str, Mapping[str, Any]]) -> np.ndarray | None:
    """The number of classes that each row was evaluated on.

    Args:
        data: Column name to values (N,).
        sources: Name of a source to its counts, as `read_sources` gives them; empty where nothing is known.

    Returns:
        (N,), NaN where it is not known: of a pre-trained row what its column `classes` lists, else what its source
        has; of a fine-tuned one what its downstream source has. None where it is known of no row.
    """
    count = len(next(iter(data.values()), ()))
    if "classes" not in data and not sources:
        return None
    selected, upstream, downstream = (data.get(name, [None] * count) for name in ("classes", "upstream", "downstream"))
    known: dict[tuple[Any, ...], float] = {}
    classes = np.full(count, np.nan)
    for row, key in enumerate(zip(map(str, selected), map(str, upstream), map(str, downstream))):
        if key not in known:
            is_tuned = downstream[row] is not None and downstream[row] == downstream[row]
            source = sources.get(key[2] if is_tuned else key[1], {}).get("classes")
            listed = None if is_tuned else _listed(selected[row])
            known[key] = float(listed or source or np.nan)
        classes[row] = known[key]
    return None if np.isnan(classes).all() else classes


def _listed(classes: Any) -> int | None:
    """How many classes a value of the column `classes` lists; None where it is not a list."""
    try:
        names = json.loads(classes)
    except (TypeError, ValueError):
        return None
    return len(names) if isinstance(names, list) else None


def worse_than_guessing(target: str, values: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Whether each value (N,) of loss or error is worse than guessing among (N,) classes; False where not known."""
    if target not in _GUESSING:
        return np.zeros(len(values), dtype=bool)
    return (classes > 1) & (values > _GUESSING[target](classes))
