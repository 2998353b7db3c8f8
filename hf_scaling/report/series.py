"""The runs and fitted lines of one curve: at one model size, along one amount of data, at one level of the other."""

from dataclasses import dataclass

import numpy as np

from hf_scaling.report.laws import ArmLaw
from hf_scaling.report.numbers import count, shown, tick
from hf_scaling.report.parts import Arm, Part, levels

# More distinct sizes than this are no levels: they are cut into bins.
_MOST_LEVELS = 12
_MOST_MODELS = 4
# How far beyond the measured sizes a line is drawn.
_BEYOND = 2.0
_POINTS = 60


@dataclass(frozen=True)
class Level:
    """One value of a column, or a bin of them.

    Attributes:
        column: The column; "" for all rows.
        low: Rows from here on.
        high: Rows up to here.
        label: For a heading or a legend.
        first: Whether it is the lower of two that are shown together.
    """

    column: str = ""
    low: float = 0.0
    high: float = np.inf
    label: str = ""
    first: bool = False

    @property
    def centre(self) -> float:
        """The value that the law is drawn at."""
        return float(np.sqrt(self.low * self.high))

    def keeps(self, frame) -> np.ndarray:
        """(N,) which rows are of this level."""
        if not self.column:
            return np.ones(len(frame), dtype=bool)
        values = _numbers(frame, self.column)
        return (values >= self.low * (1 - 1e-9)) & (values <= self.high * (1 + 1e-9))


def model_levels(part: Part, axis: str) -> list[Level]:
    """The model sizes that get a panel each, at most four, or one level of all rows where sizes do not vary."""
    sizes = part.levels("n_params")
    if axis == "n_params" or len(sizes) < 2:
        return [Level(label=_only_model(part))]
    return [Level("n_params", low, high, _model_label(part, low, high)) for low, high in _chosen(sizes, _MOST_MODELS)]


def outer_levels(arm: Arm, axis: str) -> list[Level]:
    """The smallest and the largest amount of the data that is not on the axis; all rows where none varies."""
    other = {"n_pretrain": "n_finetune", "n_finetune": "n_pretrain"}.get(axis)
    sizes = levels(arm.rows.to_pandas(), other) if other else np.empty(0)
    if len(sizes) < 2:
        return [Level()]
    what = "labels" if other == "n_finetune" else "upstream"
    return [
        Level(other, low, high, f"{tick(low)}{f' to {tick(high)}' if high > low else ''} {what}", first=i == 0)
        for i, (low, high) in enumerate(_chosen(sizes, 2))
    ]


def runs_at(law: ArmLaw, axis: str, *at: Level) -> tuple[np.ndarray, np.ndarray]:
    """(N,), (N,) sizes and targets of an arm's runs at given levels, those that a logarithmic axis can show."""
    frame = law.arm.rows.to_pandas()
    if axis not in frame.columns:
        return np.empty(0), np.empty(0)
    x, y = _numbers(frame, axis), law.measured
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    for level in at:
        keep &= level.keeps(frame)
    return x[keep], shown(law.target, y[keep])


def line_of(law: ArmLaw, axis: str, model: Level, held: Level, level: float) -> tuple[np.ndarray, ...]:
    """Sizes, fitted values, low and high along an axis, a little beyond the runs; empty where no law is fitted."""
    empty = (np.empty(0),) * 4
    if law.fit is None or axis not in law.fit.columns.values():
        return empty
    x, _ = runs_at(law, axis, model, held)
    sizes = {axis: np.geomspace(x.min(), x.max() * _BEYOND, _POINTS)}
    for column in set(law.fit.columns.values()) - {axis}:
        at = next((each for each in (model, held) if each.column == column), None)
        low, high = law.fit.data["ranges"][column]
        sizes[column] = np.full(_POINTS, at.centre if at else np.sqrt(max(low, 1e-12) * high))
    band = law.fit.predict(sizes, level=level)
    return sizes[axis], *(shown(law.target, band[name].to_numpy()) for name in ("value", "low", "high"))


def _chosen(sizes: np.ndarray, most: int) -> list[tuple[float, float]]:
    """At most so many single sizes, the outer ones among them; bins where there are too many to be levels."""
    if len(sizes) <= _MOST_LEVELS:
        at = np.unique(np.linspace(0, len(sizes) - 1, min(most, len(sizes))).round().astype(int))
        return [(float(sizes[i]), float(sizes[i])) for i in at]
    bins = np.array_split(sizes, 4)
    bins = bins if most >= 4 else [bins[0], bins[-1]]
    return [(float(each[0]), float(each[-1])) for each in bins]


def _model_label(part: Part, low: float, high: float) -> str:
    names = _names(part, Level("n_params", low, high))
    if len(names) == 1 and low == high:
        return f"{names[0]}, {count(low)} parameters"
    return f"{_span(low, high)} parameters"


def _only_model(part: Part) -> str:
    names, sizes = _names(part, Level()), part.levels("n_params")
    if len(names) != 1:
        return f"{count(sizes[0])} parameters" if len(sizes) == 1 else ""
    return f"{names[0]}, {count(sizes[0])} parameters" if len(sizes) == 1 else names[0]


def _names(part: Part, level: Level) -> list[str]:
    frame = part.rows.to_pandas()
    if "model" not in frame.columns:
        return []
    return sorted({str(name) for name in frame["model"][level.keeps(frame)].dropna()})


def _span(low: float, high: float) -> str:
    return count(low) if low == high else f"{count(low)} to {count(high)}"


def _numbers(frame, column: str) -> np.ndarray:
    import pandas as pd

    return pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
