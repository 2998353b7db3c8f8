"""Whether rows can separate what a decision rests on: how many levels each size takes, and which to add.

A power of a size and a constant beside it (a floor, a transfer gap) are two numbers of one curve with an exponent: two
levels of the size never separate them, however many seeds are run, and a fit still returns narrow intervals there.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling.fitting.columns import note
from hf_scaling.text import format_count, listing

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from hf_scaling.fitting.law_fit import LawFit

#: A curve with an exponent and a constant needs this many levels of its size.
LEAST_LEVELS = 3
# Levels within this factor count as one; a level that is added is at least the other factor away from the next.
_SAME, _STEP = 1.1, 4.0


def distinct_levels(values: "ArrayLike") -> np.ndarray:
    """The levels of a size, ascending; levels within 10 % of the one below count as one."""
    levels: list[float] = []
    for value in np.unique(np.asarray(values, dtype=float)):
        if np.isfinite(value) and not (levels and value <= _SAME * levels[-1]):
            levels.append(float(value))
    return np.array(levels)


def levels_of(fit: "LawFit", column: str) -> np.ndarray:
    """The measured levels of one of a law's sizes; evenly spaced ones for a law stored without its rows' sizes."""
    measured = fit.data.get("measured", {}).get(column)
    if measured is None:
        (low, high), count = fit.data["ranges"][column], fit.data["levels"][column]
        measured = np.geomspace(low, high, count) if low > 0 else np.linspace(low, high, count)
    return distinct_levels(measured)


def levels_to_add(
    levels: np.ndarray, least: int = LEAST_LEVELS, span: float = 1.0, most: float = np.inf
) -> list[float]:
    """The levels that make a size's levels enough; none where they are.

    Args:
        levels: The distinct levels, ascending.
        least: How many are needed.
        span: The factor that they must span.
        most: The largest level that there can be.

    Returns:
        Levels in ascending order, rounded to three digits: the middle of a gap that is wide enough, else beyond the
        ends.
    """
    # A law that is defined at zero knows its value there: zero counts as a level, but nothing lies halfway to it.
    least, levels, added = least - int((levels == 0).sum()), levels[levels > 0], list[float]()
    if not len(levels):
        return added
    while len(levels) < least or levels[-1] < span * levels[0]:
        ratios = levels[1:] / levels[:-1]
        if len(ratios) and ratios.max() >= _STEP**1.5 and levels[-1] >= span * levels[0]:
            place = int(ratios.argmax())
            new = np.sqrt(levels[place] * levels[place + 1])
        else:
            new = levels[-1] * _STEP if len(added) % 2 == 0 else levels[0] / _STEP
            if new > most:
                # All there is, with three digits, unless that is too near to what is measured.
                digit = 10 ** (np.floor(np.log10(most)) - 2)
                new = np.floor(most / digit) * digit
                new = new if new >= np.sqrt(_STEP) * levels[-1] else levels[0] / _STEP
        added.append(float(f"{new:.3g}"))
        levels = np.sort(np.append(levels, added[-1]))
    return sorted(added)


def level_notes(
    levels: Mapping[str, np.ndarray],
    question: str,
    least: int = LEAST_LEVELS,
    span: float = 1.0,
    most: Mapping[str, float] | None = None,
) -> list[dict[str, Any]]:
    """An error for each size that takes too few levels for a question.

    Args:
        levels: Column to its distinct levels.
        question: What cannot be separated, as the end of the sentence.
        least: How many levels are needed.
        span: The factor that they must span.
        most: Column to the largest level that there can be.

    Returns:
        Notes `too_few_levels`; beside code, grade and text each has `add`, the column to the levels to add.
    """
    notes = []
    for column, values in levels.items():
        added = levels_to_add(values, least, span, (most or {}).get(column, np.inf))
        if not added:
            continue
        have = listing(map(format_count, values)) if len(values) else "none"
        text = f"{column} takes {len(values)} level{'s' * (len(values) != 1)} ({have}): at least {least}"
        text += f", spread over a factor of {format_count(span)}," if span > 1 else ""
        text += f" are needed to tell {question}; add runs with {column} {listing(map(format_count, added))}"
        notes.append({**note("too_few_levels", "error", text), "add": {column: added}})
    return notes
