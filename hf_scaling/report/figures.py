"""What a budget buys: the best prediction at each cost."""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from hf_scaling import files
from hf_scaling.boundary import Boundary
from hf_scaling.text import axis_label, format_count, format_tick

# All in CSS pixels: matplotlib's points at 72 to the inch. Edges are left, right, top, bottom.
_FONT = 12
_EDGES = (46, 14, 50, 40)
_LINE = 17

#: Role -> the placeholder it is drawn in. Close to black, and used for nothing else.
_PLACEHOLDERS = {
    "ink": "#010101",
    "muted": "#020202",
    "rule": "#030303",
    "paper": "#040404",
    "accent": "#050505",
    "plain": "#060606",
    "third": "#070707",
    "fourth": "#080808",
    "fifth": "#090909",
}
#: The values on a page, and in a file on light or dark paper. The series differ in lightness as well as in hue, and
#: are told apart by marker and line too.
PAGE = {role: f"var(--{role})" for role in _PLACEHOLDERS}
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
_SERIES = ("plain", "accent", "third", "fourth", "fifth")
_MARKERS = ("o", "^", "s", "D", "v")
_DASHES = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1)))
_SANS = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Drawing:
    """A panel, not yet drawn.

    Attributes:
        name: Of its file, without an ending.
        title: What it shows, in a few words.
        caption: What to see in it, in a sentence or two.
        paint: Takes the axes and the colours (role to colour), and paints.
        group: Panels of one group stand side by side under one heading.
        width: In CSS pixels.
        height: See width.
        scale: Of text and marks, for panels larger than a phone's column.
        names: How many series are named above the axes, two a line.
    """

    name: str
    title: str
    caption: str
    paint: Callable = field(repr=False)
    group: str = ""
    width: float = 360
    height: float = 266
    scale: float = 1.0
    names: int = 0

    @functools.cached_property
    def _template(self) -> str:
        import matplotlib

        with matplotlib.rc_context(_settings(self.scale, _PLACEHOLDERS)), _any_script():
            buffer = io.StringIO()
            metadata = {"Date": None, "Creator": None}
            self._figure(_PLACEHOLDERS).savefig(buffer, format="svg", metadata=metadata, transparent=True)
        return _tidy(buffer.getvalue())

    def svg(self, colours: Mapping[str, str]) -> str:
        """The panel as an <svg> element in the given colours: PAGE, LIGHT or DARK."""
        text = self._template
        for role, placeholder in _PLACEHOLDERS.items():
            text = text.replace(placeholder, colours[role])
        return text

    def save_svg(self, path, colours: Mapping[str, str]) -> None:
        """The panel as an SVG file on paper of its own."""
        head = '<?xml version="1.0" encoding="utf-8"?>\n'
        paper = f'<rect width="100%" height="100%" fill="{colours["paper"]}"/>'
        svg = re.sub(r"(<svg[^>]*>)", lambda m: m.group(1) + paper, self.svg(colours), count=1)
        sized = re.sub(r'<svg([^>]*viewBox="0 0 ([\d.]+) ([\d.]+)")', r'<svg width="\2" height="\3"\1', svg, count=1)
        files.write_text(path, head + sized + "\n")

    def save_png(self, path, colours: Mapping[str, str]) -> None:
        """The panel as a PNG file, two pixels to the CSS pixel."""
        import matplotlib

        with matplotlib.rc_context(_settings(self.scale, colours)), _any_script(), files.replacing(path) as temporary:
            self._figure(colours).savefig(temporary, format="png", dpi=144, facecolor=colours["paper"])

    def _figure(self, colours: Mapping[str, str]):
        from matplotlib.figure import Figure

        left, right, top, bottom = (edge * self.scale for edge in _EDGES)
        lines = _LINE * self.scale * -(-self.names // 2)
        height = self.height + lines
        figure = Figure(figsize=(self.width / 72, height / 72))
        inner = (1 - (left + right) / self.width, 1 - (top + lines + bottom) / height)
        axes = figure.add_axes((left / self.width, bottom / height, *inner))
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(True, axis="y")
        axes.set_axisbelow(True)
        self.paint(axes, colours)
        if self.names:
            _legend(axes)
        return figure


@contextmanager
def _any_script() -> Iterator[None]:
    """Names may be in scripts that matplotlib's own font lacks: the browser has a font that does not."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")
        yield


def series_style(number: int, colours: Mapping[str, str]) -> dict:
    """Colour, marker and dashes of the n-th series: 0 is the plain arm, 1 the distilled one."""
    n = number % len(_SERIES)
    return {"color": colours[_SERIES[n]], "marker": _MARKERS[n], "dashes": _DASHES[n]}


def _settings(scale: float, colours: Mapping[str, str]) -> dict:
    size = _FONT * scale
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "hf_scaling",
        "font.family": "sans-serif",
        "font.size": size,
        "axes.labelsize": size,
        "xtick.labelsize": size,
        "ytick.labelsize": size,
        "legend.fontsize": size,
        "text.color": colours["ink"],
        "axes.labelcolor": colours["muted"],
        "xtick.color": colours["muted"],
        "ytick.color": colours["muted"],
        "axes.edgecolor": colours["muted"],
        "axes.facecolor": "none",
        "axes.linewidth": 0.8 * scale,
        "grid.color": colours["rule"],
        "grid.linewidth": 0.8 * scale,
        "lines.linewidth": 1.8 * scale,
        "lines.markersize": 5.5 * scale,
        "xtick.major.size": 4 * scale,
        "xtick.minor.size": 0,
        "ytick.major.size": 0,
        "ytick.minor.size": 0,
        "xtick.major.width": 0.8 * scale,
        "text.parse_math": False,
    }


def _tidy(svg: str) -> str:
    """The <svg> element alone: no XML head, no styles that would reach the page, only ids that are referred to."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", body, flags=re.S)
    body = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", body, count=1)
    body = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", body, count=1)
    referred = set(re.findall(r'(?:url\(|href=")#([^")]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in referred else "", body)
    body = re.sub(r"font: (?:(\d+|bold) )?([\d.]+)px [^;\"]*", _font, body)
    body = re.sub(r">\s+<", "><", body)
    return re.sub(r"(\d+\.\d{2})\d+", r"\1", body)


def _font(match: re.Match) -> str:
    weight = f"font-weight: {match.group(1)}; " if match.group(1) else ""
    return f"{weight}font-size: {match.group(2)}px; font-family: {_SANS}".replace('"', "'")


def title(axes, text: str, unit: str, colours: Mapping[str, str]) -> None:
    """The panel's name and, below it, what its height measures: read without turning the head."""
    figure, size = axes.get_figure(), axes.xaxis.label.get_fontsize()
    width, height = (72 * inches for inches in figure.get_size_inches())
    place = {"x": 0.3 * size / width, "va": "top", "size": size}
    figure.text(y=1 - 0.45 * size / height, s=text, weight="bold", **place)
    figure.text(y=1 - 1.85 * size / height, s=unit, color=colours["muted"], **place)


def _legend(axes) -> None:
    """The names of the series, between the head and the axes, where no run can hide them."""
    size = axes.xaxis.label.get_fontsize()
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=2,
        frameon=False,
        handlelength=1.1,
        handletextpad=0.4,
        columnspacing=0.9,
        borderpad=0.2,
        labelspacing=(_LINE / _FONT - 1.0) * 0.7,
        fontsize=size,
    )


def log_axis(axis, low: float, high: float, most: int = 6) -> None:
    """A logarithmic axis with a few round numbers written out."""
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    ticks = log_ticks(low, high, most)
    axis.axes.set_xscale("log") if axis.axis_name == "x" else axis.axes.set_yscale("log")
    axis.set_major_locator(FixedLocator(ticks))
    axis.set_major_formatter(FixedFormatter([format_tick(value) for value in ticks]))
    axis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between two sizes: as many as fit, at least two where there are any."""
    decades = np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)) + 1)
    found: list[float] = []
    for steps in ([1.0], [1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7], np.arange(1, 10, 0.5), np.arange(1, 10, 0.1)):
        values = [round(step * 10.0**k, 12) for k in decades for step in steps]
        inside = [value for value in values if low * 0.999 <= value <= high * 1.001]
        if len(inside) > most:
            break
        found = inside
    if len(found) >= 2:
        return found
    every = int(np.ceil(len(inside) / most)) if inside else 1
    return inside[::every]


def margins(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Limits a little beyond positive values, evenly on a logarithmic axis."""
    low, high = float(np.min(values)), float(np.max(values))
    reach = max(np.log(high / low) * share, 0.03)
    return low * np.exp(-reach), high * np.exp(reach)


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
        axes.set_xlabel(f"{boundary.x}: {axis_label(boundary.x, noun)}")
        title(axes, heading, f"plain minus distilled: {axis_label(target)}", colours)

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
        f"{format_count(boundary.n_pretrain)}\n{format_count(boundary.low)} to {format_count(boundary.high)}",
        (boundary.high if right else boundary.low, 0),
        xytext=(size / 2 if right else -size / 2, size / 2),
        textcoords="offset points",
        ha="left" if right else "right",
        va="bottom",
        color=colours["accent"],
        weight="bold",
    )


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


def shown(target: str, values):
    """A target's values as figures draw them: errors in per cent."""
    return 100 * values if target == "error" else values
