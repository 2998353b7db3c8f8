"""One panel: its paper, its colours that follow the page's scheme, its axes.

Panels are as wide as a phone's column, so that their text is as large there as it is drawn; a wide page sets several
side by side. Colours are drawn as placeholders and take their values when a panel is written: CSS variables for the
page, plain colours for files.
"""

import functools
import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from hf_scaling import files
from hf_scaling.report.numbers import tick

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
    axis.set_major_formatter(FixedFormatter([tick(value) for value in ticks]))
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
