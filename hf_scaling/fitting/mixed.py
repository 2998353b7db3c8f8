"""Rows of different kinds under one size: several models or conditions in a column that the law does not take.

Such rows are no repeats of one run: what they differ by would be taken for the noise of seeds.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.target import is_metric
from hf_scaling.text import format_count, format_percent, listing

# Columns in which repeats of one run differ, and columns that are measured.
_REPEATS = re.compile(
    r"run|run_id|(run|experiment)[ _]?name|experiment"
    r"|parent|ladder|.*seed.*|rep|repeats?|replicates?|trial|fold|index|idx|id|.*_id|unnamed.*|name|time.*|date.*"
    r"|created_at|device|host(name)?|versions?|schema_version|study|seconds|train_flops|teacher_flops|n_eval|\(.*\)"
    r"|error|loss|agreement|teacher_loss|teacher_error|teacher|downstream|upstream|task|stage|arm|eval_split"
)
# More levels than this name rows rather than kinds of rows.
_MOST_LEVELS = 12
# Standard errors of the difference of two levels at which their rows are not fitted together; more where there are so
# few degrees of freedom that chance reaches as many more often than this.
_APART, _CHANCE = 4.0, 1e-3
# Share of all pairs of a size and a level at which the levels of a number are those of a condition.
_CROSSED = 0.5
# With fewer degrees of freedom, standard errors say nothing.
_FEWEST_FREEDOM = 3


class MixedRowsError(InputError):
    """Rows of different kinds under one size, too far apart for a law that does not take the column they differ in."""


@dataclass(frozen=True)
class MixedColumn:
    """A column whose levels meet under one size.

    Attributes:
        name: The column.
        levels: (N,) a number for the level of each row.
        apart: Largest difference of two levels, in standard errors; 0 where these cannot be computed.
        text: What differs, as part of a sentence.
    """

    name: str
    levels: np.ndarray
    apart: float
    text: str


def mixed_columns(
    data: Mapping[str, np.ndarray], taken: Iterable[str], configuration: np.ndarray, target: np.ndarray, law: str
) -> list[MixedColumn]:
    """The columns whose levels meet under one size.

    Args:
        data: Column name to values (N,).
        taken: Columns that the law takes, and its target.
        configuration: (N,) a number for each distinct set of the law's sizes.
        target: (N,) what is fitted.
        law: The law's name, for the message.

    Raises:
        MixedRowsError: Two levels of a column differ by more than four standard errors.
    """
    scaled = np.log(target) if (target > 0).all() else target
    is_log = scaled is not target
    mixed, taken, count = [], set(taken), len(target)
    for name, values in data.items():
        if name in taken or _REPEATS.fullmatch(name.lower()):
            continue
        texts = np.array(["" if value is None or value != value else str(value) for value in values])
        names, levels = np.unique(texts, return_inverse=True)
        levels = levels.reshape(-1)
        # Levels of a condition are few and repeated; those of numbers also occur at most sizes: others are measured.
        if not 2 <= len(names) <= min(_MOST_LEVELS, count // 2):
            continue
        meeting = np.unique(np.stack([configuration, levels], axis=1), axis=0)
        if not (np.bincount(meeting[:, 0]) > 1).any():
            continue
        if _is_numeric(values) and (
            is_metric(name) or len(meeting) < _CROSSED * len(names) * (configuration.max() + 1)
        ):
            continue
        difference, apart, limit, (one, two) = _largest_difference(scaled, configuration, levels, len(names))
        size = format_percent(float(np.expm1(difference)), 2) if is_log else f"{difference:.3g}"
        if _is_numeric(values):
            names = np.array([format_count(float(level)) if level else "none" for level in names])
        text = f"rows of one size differ in {name} ({listing(names, 4)})"
        if apart > limit:
            ends = f"{name} {names[one]} and {names[two]} are {size} apart, {apart:.0f} standard errors"
            remedy = (
                f"fit one {name} at a time, all as curves that share a distribution (pool={name}; --pool {name}), "
            )
            remedy += f"or a law that takes {name} instead of {law}"
            raise MixedRowsError(f"{text}, and {ends}: {remedy}")
        mixed.append(MixedColumn(name, levels, apart, text))
    return mixed


def _is_numeric(values: np.ndarray) -> bool:
    try:
        values.astype(float)
    except (TypeError, ValueError):
        return False
    return values.dtype != bool


def _largest_difference(
    target: np.ndarray, configuration: np.ndarray, levels: np.ndarray, count: int
) -> tuple[float, float, float, tuple[int, int]]:
    """The difference of the two levels that are most standard errors apart, that number, its limit, and the levels.

    Least squares with an effect of each level beside one of each size; 0 standard errors where too few rows are left.
    """
    from scipy.special import stdtrit

    sizes = np.bincount(configuration)

    def centred(values: np.ndarray) -> np.ndarray:
        return values - (np.bincount(configuration, values) / sizes)[configuration]

    design = np.stack([centred((levels == level).astype(float)) for level in range(1, count)], axis=1)
    gram, own = np.linalg.pinv(design.T @ design, hermitian=True), centred(target)
    effects = gram @ (design.T @ own)
    rank = int(np.linalg.matrix_rank(design))
    freedom = len(target) - len(sizes) - rank
    effects = np.append(0.0, effects)
    if freedom < _FEWEST_FREEDOM:
        return float(np.ptp(effects)), 0.0, _APART, (int(np.argmin(effects)), int(np.argmax(effects)))
    residual = own - design @ effects[1:]
    variance = max(float(residual @ residual) / freedom, 1e-24)
    spread = np.zeros((count, count))
    spread[1:, 1:] = gram
    limit = max(_APART, float(stdtrit(freedom, 1 - _CHANCE / 2)))
    best = (0.0, 0.0, limit, (0, 1))
    for one in range(count):
        for two in range(one + 1, count):
            together = np.isin(levels, (one, two))
            if not set(configuration[levels == one]) & set(configuration[levels == two]) or not together.any():
                continue
            error = np.sqrt(variance * (spread[one, one] + spread[two, two] - 2 * spread[one, two]))
            apart = abs(effects[one] - effects[two]) / max(float(error), 1e-12)
            if apart > best[1]:
                best = (float(abs(effects[one] - effects[two])), float(apart), limit, (one, two))
    return best
