"""The figure of a law's card: the fitted curves with their bands, and the runs behind them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.fitting.lawfit import LawFit
from hf_scaling.laws import COLUMNS
from hf_scaling.results.figure import MARKERS, colours, in_words, style_axes, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# What goes along the x axis, if the law has it.
_ALONG = ("n_pretrain", "n_finetune", "n_params")
_POINTS = 160
_MOST_CURVES = 5
# How far the curves go on before the smallest and beyond the largest measured size, as factors.
_BEFORE, _BEYOND = 1.3, 10.0


def draw_fit(fit: LawFit) -> bytes:
    """A PNG, the same for the same fit: a curve a level of the second variable, forecasts on grey ground."""
    from matplotlib.figure import Figure

    x, curves = _curves(fit)
    figure = Figure(figsize=(7.2, 4.4), dpi=120, layout="constrained")
    ax = figure.subplots()
    high = fit.data["ranges"][x][1]
    along = np.geomspace(_smallest(fit, x) / _BEFORE, high * _BEYOND, _POINTS)
    for at, colour, marker in zip(curves, colours(len(curves)), MARKERS):
        _draw_curve(ax, fit, x, along, at, colour)
        _draw_runs(ax, fit, x, at, colour, marker)
    ax.axvspan(high, along[-1], color="0.93", zorder=0, label="beyond what was measured")
    _finish_axes(ax, fit, x, along)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return to_png(figure)


def _curves(fit: LawFit) -> tuple[str, list[dict[str, float]]]:
    """The column along the axis, and for each curve the values of the others: measured ones where they are kept."""
    ranges = fit.data["ranges"]
    x = next((name for name in _ALONG if name in ranges), next(iter(ranges)))
    others = [name for name in ranges if name != x]
    levels = {name: _levels(fit, name) for name in others}
    # One variable is shown at several values; any further one at its largest.
    at = {name: levels[name][-1] for name in others}
    return x, [{**at, others[0]: level} for level in levels[others[0]]] if others else [{}]


def _levels(fit: LawFit, name: str) -> list[float]:
    values = np.unique(fit.data.get("measured", {}).get(name, fit.data["ranges"][name]))
    kept = np.linspace(0, len(values) - 1, min(len(values), _MOST_CURVES)).round().astype(int)
    return [float(values[i]) for i in np.unique(kept)]


def _smallest(fit: LawFit, name: str) -> float:
    """The smallest measured size that a logarithmic axis can show."""
    low, high = fit.data["ranges"][name]
    return min((value for value in fit.data.get("measured", {}).get(name, ()) if value > 0), default=low or high)


def _draw_curve(ax: "Axes", fit: LawFit, x: str, along: np.ndarray, at: Mapping[str, float], colour) -> None:
    predicted = fit.predict({x: along, **at})
    label = ", ".join(f"{name} {in_words(value)}" for name, value in at.items()) or fit.law
    ax.plot(along, predicted["value"], color=colour, linewidth=1.5, label=label)
    if predicted["low"].notna().any():
        ax.fill_between(along, predicted["low"], predicted["high"], color=colour, alpha=0.15, linewidth=0)


def _draw_runs(ax: "Axes", fit: LawFit, x: str, at: Mapping[str, float], colour, marker: str) -> None:
    measured = {name: np.asarray(values) for name, values in fit.data.get("measured", {}).items()}
    if x not in measured:
        return
    here = np.ones(len(measured[x]), dtype=bool)
    for name, value in at.items():
        here &= measured.get(name, np.nan) == value
    ax.plot(measured[x][here], measured[fit.settings["target"]][here], marker, color=colour, markersize=4)


def _finish_axes(ax: "Axes", fit: LawFit, x: str, along: np.ndarray) -> None:
    style_axes(ax)
    if fit.data["target_range"][0] <= 0:
        ax.set_yscale("linear")
    ax.set_xlim(along[0], along[-1])
    unit = COLUMNS[x].unit if x in COLUMNS else ""
    ax.set_xlabel(f"{x} ({unit})" if unit else x, fontsize=9)
    ax.set_ylabel(fit.settings["target"], fontsize=9)
