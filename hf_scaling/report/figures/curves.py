"""Target against an amount of data, for one model size: runs, fitted curves, bands."""

from dataclasses import dataclass

import numpy as np

from hf_scaling.report.figures.canvas import (
    Drawing,
    log_axis,
    margins,
    series_style,
    title,
)


@dataclass(frozen=True)
class Curve:
    """One series of a panel.

    Attributes:
        label: Its name in the legend.
        number: Its colour and marker.
        x: (N,) sizes of the runs.
        y: (N,) what they measured.
        line_x: (K,) sizes along the fitted curve; empty without a fit.
        line: (K,) the curve.
        low: (K,) its band.
        high: See low.
        reach: The largest and smallest size fitted: beyond, the line is dotted.
        faint: Drawn lighter: the second level of what the panel holds fixed.
    """

    label: str
    number: int
    x: np.ndarray
    y: np.ndarray
    line_x: np.ndarray
    line: np.ndarray
    low: np.ndarray
    high: np.ndarray
    reach: tuple[float, float]
    faint: bool = False


def curves(name: str, heading: str, curves: list[Curve], x_label: str, y_label: str, limits, **words) -> Drawing:
    """A panel of curves on logarithmic axes.

    Args:
        name: Of the file.
        heading: Over the panel: the model.
        curves: The series.
        x_label: With its unit.
        y_label: With its unit.
        limits: x and y limits that the panels of a group share.
        **words: title, caption and group of the `Drawing`.
    """

    def paint(axes, colours):
        for curve in curves:
            _paint_curve(axes, curve, colours)
        for axis, span in zip((axes.xaxis, axes.yaxis), limits):
            log_axis(axis, *span)
        axes.set_xlim(*limits[0])
        axes.set_ylim(*limits[1])
        axes.set_xlabel(x_label)
        title(axes, heading, y_label, colours)

    return Drawing(name=name, paint=paint, names=len(curves) if len(curves) > 1 else 0, **words)


def shared_limits(curves: list[Curve]) -> tuple[tuple[float, float], tuple[float, float]]:
    """x and y limits that hold every run and curve; bands may reach beyond."""
    x = np.concatenate([np.concatenate([c.x, c.line_x]) for c in curves])
    y = np.concatenate([np.concatenate([c.y, c.line]) for c in curves])
    y = y[np.isfinite(y) & (y > 0)]
    return margins(x, 0.03), margins(y)


def _paint_curve(axes, curve: Curve, colours) -> None:
    style = series_style(curve.number, colours)
    alpha = 0.55 if curve.faint else 1.0
    inside = (curve.line_x >= curve.reach[0] * 0.999) & (curve.line_x <= curve.reach[1] * 1.001)
    if len(curve.line_x):
        axes.fill_between(curve.line_x, curve.low, curve.high, color=style["color"], alpha=0.14 * alpha, linewidth=0)
        axes.plot(
            curve.line_x, np.where(inside, curve.line, np.nan), color=style["color"], alpha=alpha, ls=style["dashes"]
        )
        beyond = curve.line_x >= curve.reach[1] * 0.999
        axes.plot(curve.line_x[beyond], curve.line[beyond], color=style["color"], alpha=alpha, ls=(0, (1, 2)), lw=1.4)
    axes.plot(
        curve.x,
        curve.y,
        label=curve.label,
        color=style["color"],
        marker=style["marker"],
        linestyle="none",
        alpha=alpha,
        markerfacecolor=colours["paper"] if curve.faint else style["color"],
        markeredgecolor=style["color"],
        markeredgewidth=1.0,
    )
