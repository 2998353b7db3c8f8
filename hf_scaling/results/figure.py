"""The figure of a data set's card: error against data, a line a model and arm."""

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MOST_PANELS = 3
_MOST_MODELS = 6
_MOST_TICKS = 6
_UNITS = {"T": 1e12, "B": 1e9, "M": 1e6}
MARKERS = "osD^vP"
_LINES = {"plain": "-", "distilled": "--"}
_AXES = {
    "n_pretrain": "upstream images or tokens (n_pretrain)",
    "n_finetune": "labelled downstream images or tokens (n_finetune)",
    "error": "top-1 error rate, 0 to 1",
    "loss": "cross-entropy, nats",
}


def draw(frame: "pandas.DataFrame") -> bytes | None:
    """The measured rows as a PNG: a panel for each upstream set, then for each downstream set.

    Args:
        frame: Rows of one results table.

    Returns:
        The PNG, the same for the same rows; None where no row has a size and an error or a loss.
    """
    target = "error" if frame["error"].notna().any() else "loss"
    panels = _panels(frame[frame[target].notna() & (frame[target] > 0)])[:_MOST_PANELS]
    if not panels:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels) + 1.6, 4.2), dpi=120, layout="constrained")
    styles = _styles(frame)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, x, rows) in zip(axes, panels):
        _draw_panel(ax, title, x, target, rows, styles)
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    return to_png(figure)


def _panels(rows: "pandas.DataFrame") -> list[tuple[str, str, "pandas.DataFrame"]]:
    """Title, column of the x axis and rows of each panel."""
    found = []
    pretrained = rows[(rows["n_pretrain"] > 0) & (rows["stage"] != "finetune")]
    for upstream, part in pretrained.groupby("upstream", dropna=False):
        found.append((f"pretrained on {upstream}", "n_pretrain", part))
    tuned = rows[(rows["stage"] == "finetune") & (rows["n_finetune"] > 0)]
    for downstream, part in tuned.groupby("downstream", dropna=False):
        largest = part["n_pretrain"].max()
        part = part[part["n_pretrain"].isna() | (part["n_pretrain"] == largest)]
        after = "" if largest != largest else f" after {largest:,.0f} upstream"
        found.append((f"fine-tuned on {downstream}{after}", "n_finetune", part))
    return [panel for panel in found if len(panel[2])]


def _styles(frame: "pandas.DataFrame") -> dict[str, tuple]:
    """Model -> colour and marker, from the smallest model (light) to the largest (dark)."""
    sizes = frame.groupby("model", dropna=False)["n_params"].mean().sort_values().index[:_MOST_MODELS]
    return {model: (colour, marker) for model, colour, marker in zip(sizes, colours(len(sizes)), MARKERS)}


def _draw_panel(ax: "Axes", title: str, x: str, target: str, rows: "pandas.DataFrame", styles: dict) -> None:
    from matplotlib.ticker import NullLocator

    for model, (colour, marker) in styles.items():
        of_model = rows[rows["model"].isna() if model != model else rows["model"] == model]
        # A line a recipe: runs of two training rules are not one curve.
        for (arm, _), part in of_model.groupby(["arm", "recipe"], dropna=False):
            means = part.groupby(x)[target].mean()
            style = {"color": colour, "marker": marker, "linestyle": _LINES.get(arm, ":")}
            ax.plot(means.index, means, markersize=4, linewidth=1.4, label=f"{model}, {arm}", **style)
    style_axes(ax)
    sizes = sorted(rows[x].unique())
    ax.set_xticks(sizes[:: len(sizes) // _MOST_TICKS + 1])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel(_AXES[x], fontsize=9)
    ax.set_ylabel(_AXES[target], fontsize=9)


def style_axes(ax: "Axes") -> None:
    """Logarithmic axes, with numbers as people write them, as the figures of all cards have them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: in_words(value)))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}"))
    ax.tick_params(labelsize=9)
    ax.grid(True, alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def in_words(size: float) -> str:
    """A size with three digits as people write it: 12,800, 3.2M, 1B."""
    size = float(f"{size:.3g}")
    name, unit = next(((name, unit) for name, unit in _UNITS.items() if size >= unit), ("", 1))
    return f"{size / unit:,.10g}{name}"


def to_png(figure: "Figure") -> bytes:
    """A figure as a PNG without the library's name in it: equal rows give equal bytes on more machines."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def colours(count: int) -> list:
    """So many colours, from light to dark, that colour-blind readers tell apart too."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.7 - 0.7 * i / max(count - 1, 1)) for i in range(count)]
