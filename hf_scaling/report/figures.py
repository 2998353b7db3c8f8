"""How the panels of a report are drawn: each once, as SVG whose colours a page or a file fills in.

drawing = Drawing("1-loss", "Loss", "", "", "n_pretrain", "loss", curves_painter(curves, limits))
drawing.save_svg("loss.svg", LIGHT)
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from markupsafe import escape

from hf_scaling import files
from hf_scaling.boundary import Boundary
from hf_scaling.text import format_count, format_span, format_tick

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

# CSS pixels: matplotlib's points at 72 per inch. Edges are left, right, top, bottom.
_FONT = 12
_EDGES = (46, 14, 50, 40)
_LINE = 17

#: Colours of a file on light paper, by role. Series differ in lightness as well as in hue, and in marker and line too.
LIGHT = {
    "ink": "#1b1f24",
    "muted": "#5b6570",
    "rule": "#dfe3e8",
    "paper": "#ffffff",
    "accent": "#c2410c",
    "plain": "#33517a",
    "third": "#0b7a67",
    "fourth": "#8a4f9e",
    "fifth": "#7a6a00",
}
#: Colours of a file on dark paper.
DARK = {
    "ink": "#e8eaed",
    "muted": "#a2abb5",
    "rule": "#363d47",
    "paper": "#0f1318",
    "accent": "#ff8f5c",
    "plain": "#8fb4e8",
    "third": "#4fc3ac",
    "fourth": "#cf9be0",
    "fifth": "#d6c24a",
}
#: Colours of a figure inside a page, which defines them as CSS variables.
PAGE = {role: f"var(--{role})" for role in LIGHT}
# What a figure is drawn in before its colours are filled in: close to black, and used for nothing else.
_PLACEHOLDERS = {role: f"#{i:02x}{i:02x}{i:02x}" for i, role in enumerate(LIGHT, 1)}
_SERIES = ("plain", "accent", "third", "fourth", "fifth")
_MARKERS = ("o", "^", "s", "D", "v")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)))
_DOTTED = (0, (1, 2))
_SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"

Colours = Mapping[str, str]
#: Draws the content of a panel in the given colours, and sets scales and limits.
Painter = Callable[["Axes", Colours], None]


@dataclass(frozen=True)
class Drawing:
    """A panel that is drawn when it is written.

    Attributes:
        name: Name of its file, without suffix.
        heading: Shown above the panel.
        title: What it shows, for readers who do not see it.
        caption: What to see in it, in a sentence or two.
        x_label: Column and unit of the horizontal axis.
        y_label: Column and unit of the vertical axis, shown below the heading.
        paint: Draws the content.
        n_series: Number of series named above the axes, two a line; 0 for no legend.
        width: CSS pixels.
        height: CSS pixels, without the legend.
        scale: Factor on text and marks, for panels larger than a phone's column.
        marks: For each series of marks, in the order in which `paint` draws them, what each mark is: its <title>.
    """

    name: str
    heading: str
    title: str
    caption: str
    x_label: str
    y_label: str
    paint: Painter = field(repr=False)
    n_series: int = 0
    width: float = 360
    height: float = 266
    scale: float = 1.0
    marks: Sequence[Sequence[str]] = ()

    def svg(self, colours: Colours) -> str:
        """The panel as an <svg> element in the given colours: PAGE, LIGHT or DARK."""
        text = self._template
        for role, placeholder in _PLACEHOLDERS.items():
            text = text.replace(placeholder, colours[role])
        return text

    def save_svg(self, path: Path, colours: Colours) -> None:
        """Write the panel as an SVG file with a background."""
        background = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
        svg = re.sub(r"(<svg[^>]*>)", lambda m: m.group(1) + background, self.svg(colours), count=1)
        sized = re.sub(r'<svg([^>]*viewBox="0 0 ([\d.]+) ([\d.]+)")', r'<svg width="\2" height="\3"\1', svg, count=1)
        files.write_text(path, f'<?xml version="1.0" encoding="utf-8"?>\n{sized}\n')

    def save_png(self, path: Path, colours: Colours) -> None:
        """Write the panel as a PNG file, two pixels to the CSS pixel."""
        with self._style(colours), files.replacing(path) as temporary:
            self._figure(colours).savefig(temporary, format="png", dpi=144, facecolor=colours["paper"])

    @functools.cached_property
    def _template(self) -> str:
        """The <svg> element alone: no XML head, no styles that would affect a page, only ids that are referred to."""
        buffer = io.StringIO()
        with self._style(_PLACEHOLDERS):
            metadata = {"Date": None, "Creator": None}
            self._figure(_PLACEHOLDERS).savefig(buffer, format="svg", metadata=metadata, transparent=True)
        svg = buffer.getvalue()
        svg = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", svg[svg.index("<svg") :], flags=re.S)
        svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.S)
        for name in ("height", "width"):
            svg = re.sub(rf'(<svg[^>]*?) {name}="[^"]*"', r"\1", svg, count=1)
        # A <title> in each mark of the series that painters gave the ids marks0, marks1, ...
        for number, names in enumerate(self.marks):
            start = svg.find(f'<g id="{_marks_id(number)}">')
            end = svg.find("</g>\n   </g>", start)
            if start < 0 or end < 0:
                continue
            head, *uses = svg[start:end].split("<use ")
            # matplotlib leaves out marks that it cannot place: then none has a name rather than a wrong one.
            if len(uses) == len(names):
                named = (
                    re.sub(r"/>", f"><title>{escape(name)}</title></use>", use, count=1)
                    for use, name in zip(uses, names)
                )
                svg = svg[:start] + "<use ".join([head, *named]) + svg[end:]
        referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', svg))
        svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in referred else "", svg)
        svg = re.sub(
            r"font: (?:(\d+|bold) )?([\d.]+)px [^;\"]*",
            lambda m: f"{f'font-weight: {m[1]}; ' if m[1] else ''}font-size: {m[2]}px; font-family: {_SANS}",
            svg,
        )
        svg = re.sub(r">\s+<", "><", svg)
        # Coordinates to a hundredth of a pixel; numbers of labels and titles, which are between tags, as they are.
        return re.sub(r"<[^>]+>", lambda m: re.sub(r"(\d+\.\d{2})\d+", r"\1", m[0]), svg)

    @contextmanager
    def _style(self, colours: Colours) -> Iterator[None]:
        import matplotlib

        size, line = _FONT * self.scale, 0.8 * self.scale
        settings = {
            "svg.fonttype": "none",
            "svg.hashsalt": "hf_scaling",
            "font.family": "sans-serif",
            "text.parse_math": False,
            "text.color": colours["ink"],
            "grid.color": colours["rule"],
            "axes.facecolor": "none",
            **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"), colours["muted"]),
            **dict.fromkeys(("font.size", "axes.labelsize", "legend.fontsize"), size),
            **dict.fromkeys(("xtick.labelsize", "ytick.labelsize"), size),
            **dict.fromkeys(("xtick.minor.size", "ytick.major.size", "ytick.minor.size"), 0),
            **dict.fromkeys(("axes.linewidth", "grid.linewidth", "xtick.major.width"), line),
            "xtick.major.size": 4 * self.scale,
            "lines.linewidth": 1.8 * self.scale,
            "lines.markersize": 5.5 * self.scale,
        }
        with matplotlib.rc_context(settings), warnings.catch_warnings():
            # Names may be in scripts that matplotlib's own font lacks; the browser has a font for them.
            warnings.filterwarnings("ignore", message="Glyph")
            yield

    def _figure(self, colours: Colours) -> "Figure":
        from matplotlib.figure import Figure

        left, right, top, bottom = (edge * self.scale for edge in _EDGES)
        figure = Figure(figsize=(self.width / 72, self.height / 72))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        self.paint(axes, colours)
        labels = axes.get_legend_handles_labels()[1]
        half = -(-len(labels) // 2)
        longest = (max(map(len, column), default=0) for column in (labels[:half], labels[half:]))
        # A name is behind its mark; letters are about 0.55 of the font's size wide.
        needed = sum(2.4 + 0.55 * length for length in longest) * _FONT * self.scale
        # Two columns where the names of the series fit beside each other.
        columns = 2 if left + needed <= self.width else 1
        legend = _LINE * self.scale * -(-self.n_series // columns)
        height = self.height + legend
        figure.set_size_inches(self.width / 72, height / 72)
        inner = (1 - (left + right) / self.width, 1 - (top + legend + bottom) / height)
        axes.set_position((left / self.width, bottom / height, *inner))
        axes.set_xlabel(self.x_label)
        # Heading and vertical label are above the axes: readable without turning the head.
        size = _FONT * self.scale
        place = {"x": 0.3 * size / self.width, "va": "top", "size": size}
        figure.text(y=1 - 0.45 * size / height, s=self.heading, weight="bold", **place)
        figure.text(y=1 - 1.85 * size / height, s=self.y_label, color=colours["muted"], **place)
        if self.n_series:
            # Between the heading and the axes, where it hides no run.
            axes.legend(
                loc="lower left",
                bbox_to_anchor=(-0.01, 1.0),
                ncols=columns,
                frameon=False,
                handlelength=1.1,
                handletextpad=0.4,
                columnspacing=0.9,
                borderpad=0.2,
                labelspacing=(_LINE / _FONT - 1.0) * 0.7,
                fontsize=size,
            )
        return figure


def _marks_id(number: int) -> str:
    return f"marks{number}"


def series_style(number: int, colours: Colours) -> dict[str, object]:
    """Colour, marker and dashes of the n-th series: 0 is the plain arm, 1 the distilled one."""
    n = number % len(_SERIES)
    return {"color": colours[_SERIES[n]], "marker": _MARKERS[n], "dashes": _DASHES[n]}


def log_axis(axis: "Axis", low: float, high: float, most: int = 6) -> None:
    """Make an axis logarithmic, with a few round numbers on it; it stays linear where a value is not positive.

    Args:
        axis: axes.xaxis or axes.yaxis.
        low: Smallest value shown.
        high: Largest value shown.
        most: The most ticks.
    """
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    if low <= 0:
        return
    ticks = log_ticks(low, high, most)
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([format_tick(value) for value in ticks]))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two positive sizes: as many as fit, at least two where there are any."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    ticks: list[float] = []
    for steps in ([1.0], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], np.arange(1, 10, 0.5), np.arange(1, 10, 0.1)):
        values = [round(step * 10.0**k, 12) for k in decades for step in steps]
        inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if len(inside) > most:
            break
        ticks = inside
    return ticks if len(ticks) >= 2 else inside[:: -(-len(inside) // most) or 1]


def margins(values: Sequence[float] | np.ndarray, share: float = 0.06) -> tuple[float, float]:
    """Limits a little beyond values, evenly on the axis that `log_axis` makes for them."""
    low, high = float(np.min(values)), float(np.max(values))
    if low <= 0:
        reach = max((high - low) * share, 1e-9)
        return low - reach, high + reach
    reach = max(np.log(high / low) * share, 0.03)
    return low * np.exp(-reach), high * np.exp(reach)


def in_axis_unit(target: str, values):
    """A target's values as figures show them: errors in per cent."""
    return 100 * values if target == "error" else values


@dataclass(frozen=True)
class Points:
    """Runs of one arm in a check of its law.

    Attributes:
        label: Name in the legend.
        number: Number of its series style.
        x: (N,) horizontal values.
        y: (N,) vertical values.
        hollow: Drawn hollow and larger: predictions of held-out scales.
        names: What each mark is.
    """

    label: str
    number: int
    x: np.ndarray
    y: np.ndarray
    hollow: bool = False
    names: tuple[str, ...] = ()


def predictions_painter(points: Sequence[Points]) -> Painter:
    """Measured against predicted values; on the diagonal a prediction is right."""

    def paint(axes: "Axes", colours: Colours) -> None:
        values = np.concatenate([v for p in points for v in (p.x, p.y)])
        limits = margins(values[np.isfinite(values)])
        for axis in (axes.xaxis, axes.yaxis):
            log_axis(axis, *limits, most=5)
        axes.plot(limits, limits, color=colours["muted"], linewidth=1, zorder=1)
        _paint_points(axes, points, colours)
        axes.set(xlim=limits, ylim=limits)

    return paint


def residuals_painter(points: Sequence[Points]) -> Painter:
    """Relative residuals along a size: noise scatters about zero, a wrong shape bends."""

    def paint(axes: "Axes", colours: Colours) -> None:
        x, y = (np.concatenate([getattr(p, name) for p in points]) for name in "xy")
        limits = margins(x[np.isfinite(x) & (x > 0)])
        log_axis(axes.xaxis, *limits)
        reach = 1.15 * max(float(np.nanmax(np.abs(y))), 1e-3)
        axes.axhline(0, color=colours["muted"], linewidth=1)
        _paint_points(axes, points, colours)
        axes.set(xlim=limits, ylim=(-reach, 1.25 * reach))

    return paint


def _paint_points(axes: "Axes", points: Sequence[Points], colours: Colours) -> None:
    for number, series in enumerate(points):
        style = series_style(series.number, colours)
        axes.plot(
            series.x,
            series.y,
            gid=_marks_id(number),
            label=series.label,
            color=style["color"],
            marker=style["marker"],
            linestyle="none",
            markersize=7.5 if series.hollow else 5.0,
            markerfacecolor="none" if series.hollow else style["color"],
            alpha=1.0 if series.hollow else 0.75,
        )


def moving_boundary_painter(boundaries: Sequence[tuple[float, float, float, float]]) -> Painter:
    """The boundary with its interval against another size.

    Args:
        boundaries: (size, n_pretrain, low, high) of those that cross.
    """
    sizes, values, low, high = (np.array(column, dtype=float) for column in zip(*boundaries))

    def paint(axes: "Axes", colours: Colours) -> None:
        log_axis(axes.xaxis, *margins(sizes, 0.2))
        log_axis(axes.yaxis, *margins(np.concatenate([low, high]), 0.1), most=5)
        style = {"fmt": "D", "color": colours["accent"], "linewidth": 2, "zorder": 3}
        axes.errorbar(sizes, values, yerr=(values - low, high - values), **style)[0].set_gid(_marks_id(0))
        axes.set_xlim(*margins(sizes, 0.2))

    return paint


@dataclass(frozen=True)
class Curve:
    """One series of runs with its fitted curve.

    Attributes:
        label: Name in the legend.
        number: Number of its series style.
        x: (N,) sizes of the runs.
        y: (N,) measured values.
        line_x: (K,) sizes along the fitted curve; empty without a fit.
        line: (K,) the curve.
        low: (K,) lower end of its band.
        high: (K,) upper end of its band.
        faint: Drawn lighter: the smaller of two amounts of the data that is not on the axis.
        names: What each mark is.
    """

    label: str
    number: int
    x: np.ndarray
    y: np.ndarray
    line_x: np.ndarray
    line: np.ndarray
    low: np.ndarray
    high: np.ndarray
    faint: bool = False
    names: tuple[str, ...] = ()


def curves_painter(curves: Sequence[Curve], limits: Sequence[tuple[float, float]]) -> Painter:
    """Runs and fitted curves on logarithmic axes, dotted beyond the runs.

    Args:
        curves: The series.
        limits: x and y limits, which the panels of a group share.
    """

    def paint(axes: "Axes", colours: Colours) -> None:
        for number, curve in enumerate(curves):
            style = series_style(curve.number, colours)
            colour, alpha = style["color"], 0.55 if curve.faint else 1.0
            if len(curve.line_x):
                x, line = curve.line_x, curve.line
                inside = (x >= curve.x.min() * 0.999) & (x <= curve.x.max() * 1.001)
                beyond = x >= curve.x.max() * 0.999
                axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.14 * alpha, linewidth=0)
                axes.plot(x, np.where(inside, line, np.nan), color=colour, alpha=alpha, ls=style["dashes"])
                axes.plot(x[beyond], line[beyond], color=colour, alpha=alpha, ls=_DOTTED, lw=1.4)
            axes.plot(
                curve.x,
                curve.y,
                gid=_marks_id(number),
                label=curve.label,
                color=colour,
                marker=style["marker"],
                linestyle="none",
                alpha=alpha,
                markerfacecolor=colours["paper"] if curve.faint else colour,
                markeredgecolor=colour,
                markeredgewidth=1.0,
            )
        for axis, span in zip((axes.xaxis, axes.yaxis), limits):
            log_axis(axis, *span)
        axes.set(xlim=limits[0], ylim=limits[1])

    return paint


def shared_limits(curves: Sequence[Curve]) -> tuple[tuple[float, float], tuple[float, float]]:
    """x and y limits that contain every run and curve; bands may extend beyond."""
    x = np.concatenate([np.concatenate([c.x, c.line_x]) for c in curves])
    y = np.concatenate([np.concatenate([c.y, c.line]) for c in curves])
    lowest = min(np.nanmin(c.y) for c in curves)
    return margins(x, 0.03), margins(y[np.isfinite(y) & ((y > 0) | (lowest <= 0))])


def difference_painter(boundary: Boundary, target: str) -> Painter:
    """Plain minus distilled with its band, the measured paired differences, and the boundary with its interval.

    Args:
        boundary: Along n_pretrain.
        target: The column compared.
    """
    from scipy.interpolate import PchipInterpolator

    columns = ("difference", "low", "high", "measured")
    table = boundary.difference.assign(**{c: in_axis_unit(target, boundary.difference[c]) for c in columns})
    x = table[boundary.x].to_numpy()
    values = np.concatenate([table["difference"], table["measured"]])
    values = values[np.isfinite(values)]
    bottom, top = min(values.min(), 0), max(values.max(), 0)
    # Room to name both sides of zero; wide bands extend beyond.
    room = 0.28 * (top - bottom or 1.0)

    def paint(axes: "Axes", colours: Colours) -> None:
        log_axis(axes.xaxis, *margins(x))
        axes.set(xlim=margins(x), ylim=(bottom - room, top + room))
        axes.axhline(0, color=colours["ink"], linewidth=1)
        if len(x) > 1:
            # The laws' difference is tabulated at the measured sizes, and smooth in log size between them.
            fine = np.geomspace(x[0], x[-1], 120)
            low, high = (PchipInterpolator(np.log(x), table[column])(np.log(fine)) for column in ("low", "high"))
            zeros = [c["n_pretrain"] for c in boundary.crossings if x[0] < c["n_pretrain"] < x[-1]]
            knots = dict(sorted([*zip(x, table["difference"]), *((zero, 0.0) for zero in zeros)]))
            curve = PchipInterpolator(np.log(list(knots)), list(knots.values()))(np.log(fine))
            axes.fill_between(fine, low, high, color=colours["plain"], alpha=0.16, linewidth=0)
            axes.plot(fine, curve, color=colours["plain"])
        style = series_style(0, colours)
        marks = {"linestyle": "none", "color": style["color"], "marker": style["marker"], "gid": _marks_id(0)}
        axes.plot(x, table["measured"], **marks)
        place = {"transform": axes.transAxes, "color": colours["muted"]}
        axes.text(0.99, 0.98, "distillation helps ↑", ha="right", va="top", **place)
        axes.text(0.02, 0.02, "better without distillation ↓", ha="left", va="bottom", **place)
        if boundary.status == "crossing":
            _paint_boundary(axes, boundary, colours)

    return paint


def _paint_boundary(axes: "Axes", boundary: Boundary, colours: Colours) -> None:
    axes.axvspan(boundary.low, boundary.high, color=colours["accent"], alpha=0.16, linewidth=0)
    size = axes.xaxis.label.get_fontsize()
    axes.plot(boundary.n_pretrain, 0, marker="D", color=colours["accent"], markersize=0.65 * size, zorder=5)
    low, high = np.log(axes.get_xlim())
    # The curve falls through zero: right of the interval there is room above zero, left of it there is none.
    right_room, place = ((np.log(end) - low) / (high - low) for end in (boundary.high, boundary.n_pretrain))
    side = "left" if right_room < 0.6 else "center" if place < 0.75 else "right"
    at = {"left": boundary.high, "center": boundary.n_pretrain, "right": min(boundary.high, axes.get_xlim()[1])}[side]
    offset = {"left": size / 2, "right": -size / 2, "center": 0.0}[side]
    axes.annotate(
        f"{format_count(boundary.n_pretrain)}\n{format_span(boundary.low, boundary.high)}",
        (at, 0),
        xytext=(offset, size / 2 if side == "left" else size),
        textcoords="offset points",
        ha=side,
        va="bottom",
        color=colours["accent"],
        weight="bold",
    )


def frontier_painter(table: pd.DataFrame, plan: tuple[float, float] | None) -> Painter:
    """The best predicted target against its cost, with its interval, dotted outside the measured sizes.

    Args:
        table: budget, value, low, high, extrapolation.
        plan: Cost and prediction of the plan; None without a budget.
    """
    cost, value = table["budget"].to_numpy(dtype=float), table["value"].to_numpy(dtype=float)
    outside = table["extrapolation"].to_numpy() > 0.01

    def paint(axes: "Axes", colours: Colours) -> None:
        log_axis(axes.xaxis, *margins(cost, 0.03))
        log_axis(axes.yaxis, *margins(value))
        axes.fill_between(cost, table["low"], table["high"], color=colours["plain"], alpha=0.16, linewidth=0)
        axes.plot(cost, value, color=colours["plain"], linestyle=_DOTTED, linewidth=1.4)
        axes.plot(cost, np.where(outside, np.nan, value), color=colours["plain"])
        axes.plot(cost[~outside], value[~outside], color=colours["plain"], marker="o", ls="none", gid=_marks_id(0))
        if plan is not None:
            axes.plot(*plan, marker="D", color=colours["accent"], markersize=8, zorder=5)
        axes.set(xlim=margins(cost, 0.03), ylim=margins([*value, *([plan[1]] if plan else [])], 0.15))

    return paint
