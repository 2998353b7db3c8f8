"""What a budget buys: the best prediction at each cost."""

import numpy as np

from hf_scaling.report.figures.canvas import Drawing, log_axis, margins, title


def frontier(name: str, heading: str, table, chosen: tuple[float, float] | None, labels, **words) -> Drawing:
    """The best predicted target against what it costs, with its interval.

    Args:
        name: Of the file.
        heading: Over the panel.
        table: A DataFrame: budget, value, low, high, extrapolation.
        chosen: The plan's own cost and prediction; None without a budget.
        labels: Of x and y, with their units.
        **words: title, caption and group.
    """
    cost, value = table["budget"].to_numpy(dtype=float), table["value"].to_numpy(dtype=float)
    outside = table["extrapolation"].to_numpy() > 0.01

    def paint(axes, colours):
        log_axis(axes.xaxis, *margins(cost, 0.03))
        log_axis(axes.yaxis, *margins(value))
        axes.fill_between(cost, table["low"], table["high"], color=colours["plain"], alpha=0.16, linewidth=0)
        axes.plot(cost, value, color=colours["plain"], linestyle=(0, (1, 2)), linewidth=1.4)
        axes.plot(cost, np.where(outside, np.nan, value), color=colours["plain"], marker="o")
        if chosen is not None:
            axes.plot(*chosen, marker="D", color=colours["accent"], markersize=8, zorder=5)
        axes.set_xlim(*margins(cost, 0.03))
        axes.set_ylim(*margins(np.concatenate([value, [chosen[1]] if chosen else []]), 0.15))
        axes.set_xlabel(labels[0])
        title(axes, heading, labels[1], colours)

    return Drawing(name=name, paint=paint, **words)
