"""The error difference curve of Yang et al. 2025: plain minus distilled, and where it falls through zero."""

import numpy as np

from hf_scaling.boundary import Boundary
from hf_scaling.report.figures.canvas import Drawing, log_axis, margins, series_style, title
from hf_scaling.report.numbers import count, shown, unit_of


def difference(name: str, heading: str, boundary: Boundary, target: str, noun: str, **words) -> Drawing:
    """The curve with its band, the measured paired differences, and the boundary with its interval.

    Args:
        name: Of the file.
        heading: Over the panel.
        boundary: Along n_pretrain.
        target: What is compared.
        noun: What n_pretrain counts.
        **words: title, caption, group and, where it is drawn larger, width, height and scale of the `Drawing`.
    """
    values = {c: shown(target, boundary.difference[c]) for c in ("difference", "low", "high", "measured")}
    table = boundary.difference.assign(**values)

    def paint(axes, colours):
        x = table[boundary.x].to_numpy()
        log_axis(axes.xaxis, *margins(x))
        axes.set_xlim(*margins(x))
        axes.set_ylim(*_height(table))
        axes.axhline(0, color=colours["ink"], linewidth=1)
        _paint_band(axes, boundary, table, colours)
        _paint_runs(axes, table, x, colours)
        _name_sides(axes, colours)
        _paint_boundary(axes, boundary, colours)
        axes.set_xlabel(f"{boundary.x}: {unit_of(boundary.x, noun)}")
        title(axes, heading, f"plain minus distilled: {unit_of(target)}", colours)

    return Drawing(name=name, paint=paint, **words)


def _height(table) -> tuple[float, float]:
    """Limits that hold the curve and the runs, with room to name both sides of zero; wide bands reach beyond."""
    shown = np.concatenate([table["difference"], table["measured"]])
    shown = shown[np.isfinite(shown)]
    span = max(shown.max(), 0) - min(shown.min(), 0) or 1.0
    return min(shown.min(), 0) - 0.28 * span, max(shown.max(), 0) + 0.28 * span


def _paint_band(axes, boundary: Boundary, table, colours) -> None:
    """The laws' difference between the measured sizes, where alone it is tabled; it is smooth in log size."""
    from scipy.interpolate import PchipInterpolator

    x = table[boundary.x].to_numpy()
    if len(x) < 2:
        return
    fine = np.geomspace(x[0], x[-1], 120)
    bent = {column: PchipInterpolator(np.log(x), table[column])(np.log(fine)) for column in ("low", "high")}
    zeros = [c["n_pretrain"] for c in boundary.crossings if x[0] < c["n_pretrain"] < x[-1]]
    knots = sorted([*zip(x, table["difference"]), *((zero, 0.0) for zero in zeros)])
    knots = dict(knots)
    curve = PchipInterpolator(np.log(list(knots)), list(knots.values()))(np.log(fine))
    axes.fill_between(fine, bent["low"], bent["high"], color=colours["plain"], alpha=0.16, linewidth=0)
    axes.plot(fine, curve, color=colours["plain"])


def _paint_runs(axes, table, x: np.ndarray, colours) -> None:
    style = series_style(0, colours)
    axes.plot(x, table["measured"], linestyle="none", color=style["color"], marker=style["marker"])


def _name_sides(axes, colours) -> None:
    place = {"transform": axes.transAxes, "color": colours["muted"]}
    axes.text(0.99, 0.98, "the teacher helps ↑", ha="right", va="top", **place)
    axes.text(0.02, 0.02, "the plain student is ahead ↓", ha="left", va="bottom", **place)


def _paint_boundary(axes, boundary: Boundary, colours) -> None:
    if boundary.status != "crossing":
        return
    axes.axvspan(boundary.low, boundary.high, color=colours["accent"], alpha=0.16, linewidth=0)
    size = axes.xaxis.label.get_fontsize()
    axes.plot(boundary.n_pretrain, 0, marker="D", color=colours["accent"], markersize=0.65 * size, zorder=5)
    low, high = axes.get_xlim()
    right = np.log(boundary.high / low) < 0.6 * np.log(high / low)
    axes.annotate(
        f"{count(boundary.n_pretrain)}\n{count(boundary.low)} to {count(boundary.high)}",
        (boundary.high if right else boundary.low, 0),
        xytext=(size / 2 if right else -size / 2, size / 2),
        textcoords="offset points",
        ha="left" if right else "right",
        va="bottom",
        color=colours["accent"],
        weight="bold",
    )
