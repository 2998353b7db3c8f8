"""Whether the laws hold: predicted against measured, and what is left over."""

from dataclasses import dataclass

import numpy as np

from hf_scaling.report.figures.canvas import Drawing, log_axis, margins, series_style, title


@dataclass(frozen=True)
class Points:
    """Runs of one arm, for a check.

    Attributes:
        label: Its name in the legend.
        number: Its colour and marker.
        x: (N,) what stands on the horizontal axis.
        y: (N,) what stands on the vertical one.
        hollow: Drawn hollow and larger: predictions of held-out scales.
    """

    label: str
    number: int
    x: np.ndarray
    y: np.ndarray
    hollow: bool = False


def predicted_against_measured(name: str, heading: str, points: list[Points], label: str, **words) -> Drawing:
    """Both axes are the target, `label` with its unit; on the diagonal a prediction is right."""

    def paint(axes, colours):
        values = np.concatenate([v for p in points for v in (p.x, p.y)])
        limits = margins(values[np.isfinite(values) & (values > 0)])
        for axis in (axes.xaxis, axes.yaxis):
            log_axis(axis, *limits, most=5)
        axes.plot(limits, limits, color=colours["muted"], linewidth=1, zorder=1)
        _paint(axes, points, colours)
        axes.set_xlim(*limits)
        axes.set_ylim(*limits)
        axes.set_xlabel(f"predicted {label}")
        title(axes, heading, f"measured {label}", colours)

    return Drawing(name=name, paint=paint, names=len(points) if len(points) > 1 else 0, **words)


def residuals(name: str, heading: str, points: list[Points], x_label: str, y_label: str, **words) -> Drawing:
    """Measured over predicted, in per cent, along a size: noise scatters about zero, a wrong shape bends."""

    def paint(axes, colours):
        x = np.concatenate([p.x for p in points])
        y = np.concatenate([p.y for p in points])
        limits = margins(x[np.isfinite(x) & (x > 0)])
        log_axis(axes.xaxis, *limits)
        axes.set_xlim(*limits)
        reach = 1.15 * max(float(np.nanmax(np.abs(y))), 1e-3)
        axes.set_ylim(-reach, 1.25 * reach)
        axes.axhline(0, color=colours["muted"], linewidth=1)
        _paint(axes, points, colours)
        axes.set_xlabel(x_label)
        title(axes, heading, y_label, colours)

    return Drawing(name=name, paint=paint, names=len(points) if len(points) > 1 else 0, **words)


def moving_boundary(name: str, heading: str, found: list, x_label: str, y_label: str, **words) -> Drawing:
    """The boundary at each size of something else, with its interval.

    Args:
        name: Of the file.
        heading: Over the panel.
        found: (size, n_pretrain, low, high), those alone that cross.
        x_label: With its unit.
        y_label: With its unit.
        **words: title, caption and group.
    """
    sizes, values, low, high = (np.array(column, dtype=float) for column in zip(*found))

    def paint(axes, colours):
        log_axis(axes.xaxis, *margins(sizes, 0.2))
        log_axis(axes.yaxis, *margins(np.concatenate([low, high]), 0.1), most=5)
        axes.errorbar(
            sizes, values, yerr=(values - low, high - values), fmt="D", color=colours["accent"], linewidth=2, zorder=3
        )
        axes.set_xlim(*margins(sizes, 0.2))
        axes.set_xlabel(x_label)
        title(axes, heading, y_label, colours)

    return Drawing(name=name, paint=paint, **words)


def _paint(axes, points: list[Points], colours) -> None:
    for each in points:
        style = series_style(each.number, colours)
        axes.plot(
            each.x,
            each.y,
            label=each.label,
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            markersize=(1.5 if each.hollow else 1.0) * 5.0,
            markerfacecolor="none" if each.hollow else style["color"],
            alpha=1.0 if each.hollow else 0.75,
        )
