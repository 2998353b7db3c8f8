"""The README and the figure of a results data set; the style of the figures of all cards."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_scaling.hub import cards
from hf_scaling.results.schema import MEANINGS, SCHEMA
from hf_scaling.text import axis_label, format_tick, format_whole, listing, unit_of

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Markers of the series of a figure, in order.
MARKERS = "osD^vP"
_LINES = {"plain": "-", "distilled": "--"}
_MOST_PANELS = 3
_MOST_MODELS = 6
_MOST_TICKS = 6
_MOST_NAMES = 5
# Number of rows below which the Hub's size category holds.
_SIZE_CATEGORIES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
# Task of a row -> tag of the Hub.
_TAGS = {"image_classification": "image-classification", "causal_lm": "text-generation"}


def write_card(
    repo_id: str,
    config_name: str,
    frames: Mapping[str, "pd.DataFrame"],
    figures: Mapping[str, str],
    configs: Sequence[Mapping[str, Any]],
    grid: bool,
) -> str:
    """Render the README of a results data set.

    Args:
        repo_id: The data set.
        config_name: The table that the examples load.
        frames: Config name -> results table, for every results table of the repository.
        figures: Config name -> path of the table's figure.
        configs: `configs` of the head: all tables of the repository, also those with other columns.
        grid: Whether the repository contains the grid.yaml of the runs.
    """
    from huggingface_hub import DatasetCardData

    frame, title = frames[config_name], repo_id.rpartition("/")[2]
    count = sum(map(len, frames.values()))
    tasks = {task for rows in frames.values() for task in rows["task"].dropna()}
    metadata = DatasetCardData(
        license="apache-2.0",
        pretty_name=title,
        tags=["hf_scaling", "scaling-laws", *sorted(_TAGS[task] for task in tasks if task in _TAGS)],
        size_categories=[next((text for size, text in _SIZE_CATEGORIES.items() if count < size), "1M<n<10M")],
        configs=list(configs),
    )
    values = {
        "title": title,
        **_describe(frame),
        "tables": [
            {"name": name, "n_runs": f"{len(rows):,}", "figure": figures.get(name), "groups": _groups(rows)}
            for name, rows in frames.items()
        ],
        "repo_id": repo_id,
        "config_name": config_name,
        "columns": cards.markdown_table(
            ("column", "type", "meaning"), [(f"`{name}`", kind, MEANINGS[name]) for name, kind in SCHEMA.items()]
        ),
        "grid": grid,
        "citation": cards.CITATION,
    }
    return cards.render_card("results_dataset", values, metadata)


def file_of(config_name: str) -> str:
    """Path of a table inside its data set."""
    return f"{'results' if config_name == 'default' else config_name}/results.parquet"


def _describe(frame: "pd.DataFrame") -> dict[str, Any]:
    """Two sentences on runs, models, data sets and arms; and what a reader should not conclude from the table."""
    models = frame.groupby("model")["n_params"].mean().sort_values()
    sizes = f", {models.iloc[0]:,.0f} to {models.iloc[-1]:,.0f} parameters" if len(models) else ""
    parts = [f"{len(frame):,} runs of {listing(models.index, _MOST_NAMES)}{sizes}"]
    for done, source, size in (("pretrained", "upstream", "n_pretrain"), ("fine-tuned", "downstream", "n_finetune")):
        rows = frame[frame[source].notna()]
        if len(rows):
            span = _span(rows[size][rows[size] > 0])
            sets = listing(rows[source].unique(), _MOST_NAMES)
            parts.append(f"{done} on {sets}{f' ({size} {span})' if span else ''}")
    arms = " and ".join(sorted(frame["arm"].dropna().unique()))
    limits = [
        "`error` and `loss` were read once, on the evaluation split, at the end of each run; no run selects by them."
    ]
    # Holds for images, whose errors are independent; the tokens of a text are not.
    if (frame["n_eval"] > 0).any() and set(frame["task"].dropna()) <= {"image_classification"}:
        n = frame["n_eval"].dropna().min()
        limits.append(
            f"On {n:,.0f} evaluation images an error of 0.1 has a standard error of {(0.09 / n) ** 0.5:.4f}."
        )
    seeds = frame["seed"].nunique()
    limits.append(f"{seeds} seeds." if seeds > 1 else f"{seeds} seed: the spread between seeds is unknown.")
    recipes = frame.groupby("stage")["recipe"].nunique().max()
    if recipes > 1:
        limits.append(f"Up to {recipes} recipes in a stage: runs of different recipes are not comparable.")
    limits.append(f"Training took {frame['train_flops'].sum() + frame['teacher_flops'].sum():.3g} FLOPs in total.")
    return {"summary": f"{'; '.join(parts)}. Arms: {arms or 'unknown'}.", "limits": limits}


def _groups(frame: "pd.DataFrame") -> str:
    """A Markdown table with a row for each stage, arm and pair of data sets."""
    keys = ["stage", "arm", "upstream", "downstream"]
    rows = []
    for key, part in frame.groupby(keys, dropna=False):
        best = part[part["error"] == part["error"].min()].head(1)
        rows.append(
            [
                *(None if value != value else value for value in key),
                len(part),
                part["model"].nunique(),
                _span(part["n_pretrain"].dropna()),
                _span(part["n_finetune"].dropna()),
                float(best["error"].iloc[0]) if len(best) else None,
                format_whole(best["n_eval"].iloc[0]) if len(best) else None,
            ]
        )
    heads = (*keys, "runs", "models", "n_pretrain", "n_finetune", "best error", "n_eval")
    return cards.markdown_table(heads, rows)


def _span(values: "pd.Series") -> str | None:
    """Smallest and largest value; None without values."""
    if not len(values):
        return None
    low, high = values.min(), values.max()
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def draw(frame: "pd.DataFrame") -> bytes | None:
    """Draw the measured rows: a panel for each upstream set, then for each downstream set.

    Args:
        frame: Rows of one results table.

    Returns:
        A PNG, equal for equal rows; None where no row has both a size and an error or a loss.
    """
    target = "error" if frame["error"].notna().any() else "loss"
    rows = frame[frame[target] > 0]
    pretrained = rows[(rows["n_pretrain"] > 0) & (rows["stage"] != "finetune")]
    panels = [
        (f"pretrained on {upstream}", "n_pretrain", part)
        for upstream, part in pretrained.groupby("upstream", dropna=False)
    ]
    tuned = rows[(rows["stage"] == "finetune") & (rows["n_finetune"] > 0)]
    for downstream, part in tuned.groupby("downstream", dropna=False):
        largest = part["n_pretrain"].max()
        part = part[part["n_pretrain"].isna() | (part["n_pretrain"] == largest)]
        after = "" if largest != largest else f" after {largest:,.0f} upstream"
        panels.append((f"fine-tuned on {downstream}{after}", "n_finetune", part))
    panels = panels[:_MOST_PANELS]
    if not panels:
        return None
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6 * len(panels) + 1.6, 4.2), dpi=120, layout="constrained")
    # The smallest models have the lightest colours.
    models = frame.groupby("model", dropna=False)["n_params"].mean().sort_values().index[:_MOST_MODELS]
    styles = {model: (colour, marker) for model, colour, marker in zip(models, colours(len(models)), MARKERS)}
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, x, rows) in zip(axes, panels):
        _draw_panel(ax, title, x, target, rows, styles)
    handles = {label: handle for ax in axes for handle, label in zip(*ax.get_legend_handles_labels())}
    figure.legend(handles.values(), handles.keys(), loc="outside right center", frameon=False, fontsize=9)
    return to_png(figure)


def _draw_panel(
    ax: "Axes", title: str, x: str, target: str, rows: "pd.DataFrame", styles: Mapping[str, tuple[Any, str]]
) -> None:
    from matplotlib.ticker import NullLocator

    for model, (colour, marker) in styles.items():
        of_model = rows[rows["model"].isna() if model != model else rows["model"] == model]
        # A line for each recipe: runs of two recipes are not one curve.
        for (arm, _), part in of_model.groupby(["arm", "recipe"], dropna=False):
            means = part.groupby(x)[target].mean()
            style = {"color": colour, "marker": marker, "linestyle": _LINES.get(str(arm), ":")}
            ax.plot(means.index, means, markersize=4, linewidth=1.4, label=f"{model}, {arm}", **style)
    style_axes(ax)
    sizes = sorted(rows[x].unique())
    ax.set_xticks(sizes[:: len(sizes) // _MOST_TICKS + 1])
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_title(title, fontsize=10, loc="left")
    ax.set_xlabel(f"{x}: {axis_label(x, 'images or tokens')}", fontsize=9)
    ax.set_ylabel(f"{target}: {unit_of(target)}", fontsize=9)


def style_axes(ax: "Axes") -> None:
    """Give a card's figure logarithmic axes, readable numbers and a light grid."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: format_tick(value)))
    ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5, 7)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.3g}"))
    ax.tick_params(labelsize=9)
    ax.grid(True, alpha=0.25, linewidth=0.6)
    ax.spines[["top", "right"]].set_visible(False)


def to_png(figure: "Figure") -> bytes:
    """A figure as PNG, without the library's name in it, so that equal rows give equal bytes on more machines."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def colours(count: int) -> list[tuple[float, float, float, float]]:
    """Colours from light to dark that colour-blind readers can tell apart."""
    from matplotlib import colormaps

    return [colormaps["viridis"](0.7 - 0.7 * i / max(count - 1, 1)) for i in range(count)]
