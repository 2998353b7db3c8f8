"""The card of a results data set."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_scaling.hub import cards
from hf_scaling.results.schema import MEANINGS, SCHEMA

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


_SIZES = {1_000: "n<1K", 10_000: "1K<n<10K", 100_000: "10K<n<100K", 1_000_000: "100K<n<1M"}
_TASKS = {"image_classification": "image-classification", "causal_lm": "text-generation"}
_MOST_NAMED = 5


def write_card(
    repo_id: str,
    config_name: str,
    frames: Mapping[str, "pandas.DataFrame"],
    figures: Mapping[str, str],
    configs: Sequence[Mapping[str, Any]],
    grid: bool,
) -> str:
    """The README of a results data set.

    Args:
        repo_id: The data set.
        config_name: The table that the examples load.
        frames: The results tables of the repository: name of the config to its rows.
        figures: Name of the config to the path of its figure.
        configs: What the head says of all tables of the repository, also of those with other columns.
        grid: Whether the repository holds the grid.yaml that the runs were made from.
    """
    frame = frames[config_name]
    default = config_name == "default"
    values = {
        "title": repo_id.rpartition("/")[2],
        "summary": _summary(frame),
        "tables": "\n\n".join(_section(name, frames[name], figures.get(name)) for name in frames),
        "repo_id": repo_id,
        "config_name": config_name,
        "chosen": "" if default else f', config_name="{config_name}"',
        "chosen_flag": "" if default else f" --config {config_name}",
        "columns": cards.markdown_table(
            ("column", "type", "meaning"), [(f"`{name}`", kind, MEANINGS[name]) for name, kind in SCHEMA.items()]
        ),
        "reproduce": _reproduce(repo_id, grid),
        "limits": "\n".join(f"- {each}" for each in _limits(frame)),
        "citation": cards.CITATION,
    }
    return cards.render_card("results_dataset", values, _metadata(repo_id, frames, configs))


def file_of(config_name: str) -> str:
    """Where a table of a data set lies."""
    return f"{'results' if config_name == 'default' else config_name}/results.parquet"


def _metadata(
    repo_id: str, frames: Mapping[str, "pandas.DataFrame"], configs: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    count = sum(map(len, frames.values()))
    tasks = sorted({_TASKS[task] for frame in frames.values() for task in frame["task"].dropna() if task in _TASKS})
    return {
        "license": "apache-2.0",
        "pretty_name": repo_id.rpartition("/")[2],
        "tags": ["hf_scaling", "scaling-laws", *tasks],
        "size_categories": [next((text for size, text in _SIZES.items() if count < size), "1M<n<10M")],
        "configs": list(configs),
    }


def _summary(frame: "pandas.DataFrame") -> str:
    models = frame.groupby("model")["n_params"].mean().sort_values()
    sizes = f", {models.iloc[0]:,.0f} to {models.iloc[-1]:,.0f} parameters" if len(models) else ""
    parts = [f"{len(frame):,} runs of {_named(models.index)}{sizes}"]
    if frame["upstream"].notna().any():
        parts.append(f"pretrained on {_named(frame['upstream'].dropna().unique())}{_span(frame, 'n_pretrain')}")
    if frame["downstream"].notna().any():
        tuned = frame[frame["downstream"].notna()]
        parts.append(f"fine-tuned on {_named(tuned['downstream'].unique())}{_span(tuned, 'n_finetune')}")
    arms = " and ".join(sorted(frame["arm"].dropna().unique()))
    return f"{'; '.join(parts)}. Arms: {arms or 'not said'}."


def _span(frame: "pandas.DataFrame", name: str) -> str:
    sizes = frame[name][frame[name] > 0]
    return f" ({name} {_range(sizes)})" if len(sizes) else ""


def _range(values: Sequence[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:,.0f}" if low == high else f"{low:,.0f} to {high:,.0f}"


def _named(names: Sequence[str]) -> str:
    rest = len(names) - _MOST_NAMED
    return ", ".join(map(str, names[:_MOST_NAMED])) + (f" and {rest} more" if rest > 0 else "")


def _section(name: str, frame: "pandas.DataFrame", figure: str | None) -> str:
    lines = [f"## Table `{name}`: {len(frame):,} runs", ""]
    if figure:
        lines += [f"![Error against the amount of data, a line for each model and arm]({figure})", ""]
    keys = ["stage", "arm", "upstream", "downstream"]
    rows = [_group(key, part) for key, part in frame.groupby(keys, dropna=False)]
    heads = (*keys, "runs", "models", "n_pretrain", "n_finetune", "best error", "n_eval")
    return "\n".join([*lines, cards.markdown_table(heads, rows)])


def _group(key: tuple, part: "pandas.DataFrame") -> list[Any]:
    named = [None if each != each else each for each in key]
    spans = [
        _range(part[each].dropna()) if part[each].notna().any() else None for each in ("n_pretrain", "n_finetune")
    ]
    if not part["error"].notna().any():
        return [*named, len(part), part["model"].nunique(), *spans, None, None]
    best = part.loc[part["error"].idxmin()]
    n_eval = f"{best['n_eval']:,.0f}" if best["n_eval"] == best["n_eval"] else None
    return [*named, len(part), part["model"].nunique(), *spans, float(best["error"]), n_eval]


def _reproduce(repo_id: str, grid: bool) -> str:
    if not grid:
        return "The card of each model holds its `run.yaml`: the configuration as it was resolved."
    folder = f"studies/{repo_id.rpartition('/')[2]}"
    return (
        "The runs follow from `grid.yaml`. This brings the study back and makes what is missing:\n\n"
        f"```bash\nhf-scaling pull {repo_id} --out {folder}\n"
        f"hf-scaling run {folder}/grid.yaml --out {folder}\n```"
    )


def _limits(frame: "pandas.DataFrame") -> list[str]:
    found = [
        "`error` and `loss` were read once, on the test split, at the end of each run; nothing was chosen by them."
    ]
    # Of images, which err one by one; the tokens of a text do not.
    if (frame["n_eval"] > 0).any() and set(frame["task"].dropna()) <= {"image_classification"}:
        n = frame["n_eval"].dropna().min()
        found.append(f"On {n:,.0f} evaluation images an error of 0.1 has a standard error of {(0.09 / n) ** 0.5:.4f}.")
    seeds = frame["seed"].nunique()
    found.append(f"{seeds} seed{'s' * (seeds != 1)}{'' if seeds > 1 else ': nothing here says how far seeds differ'}.")
    recipes = frame.groupby("stage")["recipe"].nunique().max()
    if recipes > 1:
        found.append(f"Up to {recipes} training rules (`recipe`) a stage: runs of different rules are not comparable.")
    found.append(f"Training took {frame['train_flops'].sum() + frame['teacher_flops'].sum():.3g} FLOPs in all.")
    return found
