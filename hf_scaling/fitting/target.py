"""How a target is fitted: as it is where less is better, as 1 - target where it is a rate that rises, else negated.

Laws fall with size. A score that rises (accuracy, BLEU) is therefore fitted as a number that falls, and everything
that is said of it is converted back: `TargetScale` holds the conversion and the range that the target can take.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws.law import read_bounds

# Words of a column's name by which its direction is known; a word that falls decides where both occur.
_FALLING = re.compile(
    "loss|errors?|err|nll|ce|xent|entropy|perplexity|ppl|bpb|bpc|bits|nats|mse|mae|rmse|fid|wer|cer|ter|regret"
)
# Words of scores that are shares of something, between 0 and 1 or in percent, and of other scores that rise.
_RATE = re.compile(
    "acc[15]?|accuracy|accuracies|top[15]?|auc|auroc|auprc|f1|m?iou|map|recall|precision|em|exact|dice|ndcg|mrr"
    "|sensitivity|specificity|winrate"
)
_RISING = re.compile("bleu|rougel?|chrf|meteor|cider|spice|psnr|ssim|spearman|pearson|mcc|kappa|r2")
# Of these, scores that are at most 1 and may be negative.
_AT_MOST_ONE = re.compile("ssim|spearman|pearson|mcc|kappa|r2")
# Names of columns that hold an error rate.
_ERROR_RATE = re.compile(r"(teacher_|val_|valid_|validation_|test_)?(top_?[15]_?)?(error|err)([15]|_rate)?")
# What a column's name ends with where it is in percent.
_PERCENT = re.compile(r"[\s_]*([(\[]\s*(%|in %|percent|in percent|pct)\s*[)\]]|%|_percent|_pct)\s*$")
# A rise over the sizes counts where chance gives one at most this often.
_CHANCE = 0.01
# A loss that is not positive is a slip in less than this share of the rows; a normalised loss is so in more.
_SLIPS = 0.2


@dataclass(frozen=True)
class TargetScale:
    """What a target is fitted as, offset + factor * target, and the range of the target.

    Attributes:
        direction: "down" where less is better, "up" where more is.
        offset: 0 for a target fitted as it is, 1 for a rate that rises.
        factor: 1 for a target fitted as it is; negative for one that rises.
        low: The least that the target can be, in its own units.
        high: The most.
    """

    direction: Literal["down", "up"] = "down"
    offset: float = 0.0
    factor: float = 1.0
    low: float = -math.inf
    high: float = math.inf

    @property
    def is_identity(self) -> bool:
        """Whether the target is fitted as it is."""
        return self.offset == 0 and self.factor == 1

    @property
    def rises(self) -> bool:
        """Whether more is better."""
        return self.direction == "up"

    def to_fitted(self, values: np.ndarray) -> np.ndarray:
        """Values of the target as they are fitted."""
        return values if self.is_identity else self.offset + self.factor * np.asarray(values, dtype=float)

    def from_fitted(self, values: np.ndarray) -> np.ndarray:
        """Fitted values in the target's own units, within its range."""
        own = values if self.is_identity else (values - self.offset) / self.factor
        return own if math.isinf(self.low) and math.isinf(self.high) else np.clip(own, self.low, self.high)

    def describe(self, name: str) -> str:
        """What is fitted, as a formula of the column's name."""
        if self.is_identity:
            return name
        term = name if abs(self.factor) == 1 else f"{name} / {1 / abs(self.factor):g}"
        return f"{self.offset:g} - {term}" if self.offset else f"-{term}"

    def to_dict(self) -> dict[str, Any]:
        """The scale as plain numbers."""
        return {n: getattr(self, n) for n in ("direction", "offset", "factor", "low", "high")}


#: A target that is fitted as it is, of any value.
AS_IT_IS = TargetScale()
# Ranges of targets by name.
_RANGES = {"error": (0.0, 1.0), "loss": (0.0, math.inf)}


def stored_scale(settings: Mapping[str, Any], measured: Sequence[float]) -> TargetScale:
    """The scale in a fit's settings; laws stored by older versions have the range of their target's name alone.

    Args:
        settings: `LawFit.settings`.
        measured: The smallest and the largest measured value.
    """
    if "scale" in settings:
        return TargetScale(**settings["scale"])
    low, high = _RANGES.get(settings["target"], (-math.inf, math.inf))
    return TargetScale(low=low, high=high) if low <= measured[0] and measured[1] <= high else AS_IT_IS


def target_scale(
    name: str,
    values: np.ndarray,
    labels: np.ndarray,
    sizes: Mapping[str, np.ndarray],
    direction: str | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    n_eval: np.ndarray | None = None,
) -> TargetScale:
    """How a target is fitted, from its name, its values and their trend over the sizes.

    Args:
        name: The column.
        values: (N,) its values, finite.
        labels: (N,) names of the rows for messages.
        sizes: The sizes that vary, by column, each (N,).
        direction: "up" where more is better, "down" where less is; by default by the name, else by the trend.
        bounds: The range of the target; by default 0 to 1 for `error` and for rates, 0 to infinity for `loss`.
        n_eval: (N,) what each row was evaluated on, for the message about counts of errors.

    Raises:
        InputError: The direction or the bounds are unusable, a value is outside them, or an error rate is in percent.
    """
    if direction not in (None, "up", "down"):
        raise InputError(f"direction {direction!r} is unknown: choose up (more is better) or down (less is)")
    given = None if bounds is None else read_bounds(bounds, "bounds")
    if given is None and _is_error_rate(name) and direction != "up":
        _check_error_rate(name, values, labels, n_eval)
    below = np.flatnonzero(values <= 0)
    if given is None and name == "loss" and 0 < len(below) < _SLIPS * len(values):
        place = f"column {name!r}, row {labels[below[0]]}: {values[below[0]]:g}"
        raise InputError(f"{place} is not positive, and a loss is; leave the row out, or set bounds= if it is right")
    known, is_rate = _direction_of_name(name)
    rises = direction == "up" or (direction is None and (known == "up" or (not known and _rises(values, sizes))))
    if given is not None:
        for row in np.flatnonzero((values < given[0]) | (values > given[1])):
            ends = f"{given[0]:g} to {given[1]:g}"
            raise InputError(f"column {name!r}, row {labels[row]}: {values[row]:g} is outside bounds, {ends}")
    within = bool((values >= 0).all())
    largest = float(values.max(initial=0.0))
    unit = 1.0 if within and largest <= 1 else 100.0 if within and is_rate and largest <= 100 else None
    if not rises:
        low, high = given or (-math.inf, math.inf)
        if given is None and (name == "error" or (is_rate and unit)):
            low, high = 0.0, unit or 1.0
        elif given is None and name == "loss" and bool((values > 0).all()):
            low = 0.0
        return TargetScale("down", low=low, high=high)
    if given is not None and math.isfinite(given[1]):
        unit = given[1] - given[0] if math.isfinite(given[0]) else 1.0
        return TargetScale("up", given[1] / unit, -1 / unit, *given)
    if given is None and unit is not None:
        return TargetScale("up", 1.0, -1 / unit, 0.0, unit)
    if given is None and largest <= 1 and any(map(_AT_MOST_ONE.fullmatch, _words(name))):
        return TargetScale("up", 1.0, -1.0, -math.inf, 1.0)
    return TargetScale("up", 0.0, -1.0, *(given or (-math.inf, math.inf)))


def _check_error_rate(name: str, values: np.ndarray, labels: np.ndarray, n_eval: np.ndarray | None) -> None:
    """Refuse an error rate that is not between 0 and 1, with the factor to divide by."""
    for row in np.flatnonzero(values < 0):
        raise InputError(f"column {name!r}, row {labels[row]}: {values[row]:g} is negative; an error rate is 0 to 1")
    highest = int(np.argmax(values)) if len(values) else 0
    if len(values) and _PERCENT.search(name) and values[highest] <= 100:
        raise InputError(
            f"column {name!r} is in percent by its name, and an error rate is 0 to 1: divide the column by 100, as in "
            f"map error={name}*0.01, or set bounds=(0, 100)"
        )
    if not len(values) or values[highest] <= 1:
        return
    place = f"column {name!r}, row {labels[highest]}: {values[highest]:g} is above 1, and an error rate is 0 to 1"
    n_above = int((values > 1).sum())
    if values[highest] <= 100 and 2 * n_above < len(values):
        raise InputError(f"{place}: {n_above} of {len(values)} rows seem to be in percent; divide these by 100")
    if values[highest] <= 100:
        raise InputError(f"{place}: these are percent; divide the column by 100")
    if n_eval is not None and bool((values <= n_eval).all()):
        raise InputError(f"{place}: these are counts of errors; divide the column by n_eval")
    raise InputError(f"{place}: divide the column by what was counted, or set bounds= where it is no rate")


def is_metric(name: str) -> bool:
    """Whether a column's name is that of a loss, an error or a score."""
    return bool(_direction_of_name(name)[0])


def _direction_of_name(name: str) -> tuple[str, bool]:
    """The direction ("" where the name does not say it), and whether it is the name of a rate."""
    words = _words(name)
    if any(map(_FALLING.fullmatch, words)) or re.match(r"\s*1\s*-", name):
        return "down", _is_error_rate(name)
    is_rate = any(map(_RATE.fullmatch, words))
    return ("up" if is_rate or any(map(_RISING.fullmatch, words)) else ""), is_rate


def _words(name: str) -> list[str]:
    """The words of a column's name, in lower case, and each with the next, and without its number."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word]
    return words + [a + b for a, b in pairwise(words)] + [word.rstrip("0123456789") for word in words]


def _is_error_rate(name: str) -> bool:
    """Whether a column's name is that of an error rate, its unit aside: "err (%)", "Top-1 error"."""
    bare = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", _PERCENT.sub("", name)).lower()
    return bool(_ERROR_RATE.fullmatch(re.sub(r"[^a-z0-9]+", "_", bare).strip("_")))


def _rises(values: np.ndarray, sizes: Mapping[str, np.ndarray]) -> bool:
    """Whether the ranks of the values clearly rise over the logarithms of the sizes (F test, 1 %)."""
    from scipy.special import fdtrc

    columns = []
    for size in sizes.values():
        usable = np.isfinite(size) & (size > 0)
        if usable.all() and len(np.unique(size)) > 1:
            logs = np.log(size)
            columns.append((logs - logs.mean()) / logs.std())
    freedom = len(values) - len(columns) - 1
    if not columns or freedom < 1 or np.ptp(values) == 0:
        return False
    ranks = np.unique(values, return_inverse=True)[1].astype(float)
    ranks -= ranks.mean()
    design = np.stack(columns, axis=1)
    slopes = np.linalg.lstsq(design, ranks, rcond=None)[0]
    explained, total = float(((design @ slopes) ** 2).sum()), float((ranks**2).sum())
    ratio = explained / len(columns) / max((total - explained) / freedom, 1e-12 * total)
    return bool(slopes.sum() > 0 and fdtrc(len(columns), freedom, ratio) < _CHANCE)
