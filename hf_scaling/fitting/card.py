"""Fits and rankings as text for the terminal, and the card and figure of a stored law."""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling import hub
from hf_scaling.fitting.law_fit import VERDICTS, LawFit
from hf_scaling.fitting.rows import thinned
from hf_scaling.hub.cards import CITATION, markdown_table
from hf_scaling.results.card import MARKERS, colours, style_axes, to_png
from hf_scaling.text import (
    COLUMNS,
    format_count,
    format_number,
    format_percent,
    format_span,
    listing,
    text_table,
    unit_of,
    wrap,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from matplotlib.axes import Axes

    from hf_scaling.fitting.selection import Ranking

# The column along the x axis of a figure: the first that the law has.
_ALONG = ("n_pretrain", "n_finetune", "n_params")
_MOST_CURVES = 5
# Names listed for each column, such as models or seeds.
_MOST_NAMES = 6


def describe_fit(fit: LawFit) -> str:
    """Everything that (Mis)Fitting (2025) asks a report of a scaling law to state, as text for a terminal."""
    facts = facts_of(fit)
    width = max(map(len, facts)) + 2
    lines = wrap(f"{fit.law}: {formula_of(fit)}", hanging="  ")
    lines += [f"status: {fit.status} ({VERDICTS[fit.status]})", ""]
    longest = max(map(len, fit.params))
    for name, value in fit.params.items():
        line = f"  {name:<{longest}}  {format_number(value, 6):<12}"
        if name in fit.intervals:
            low, high = fit.intervals[name]
            ends = "no interval" if low != low or high != high else f"[{format_number(low)}, {format_number(high)}]"
            line += f"   {format_percent(fit.settings['level'])} {ends}"
        lines.append(line.rstrip())
    lines.append("")
    for name, text in facts.items():
        lines += wrap(f"{name:<{width}}{text}", "  ", " " * (width + 2))
    return "\n".join(lines + _note_lines(fit.notes))


def describe_ranking(ranking: "Ranking") -> str:
    """A ranking of laws as text for a terminal."""
    best = ranking.fits[ranking.best]
    facts = {
        **_facts_of_data(best, f"{best.scores['n_rows']} rows, which every law can use"),
        "objective": f"{best.settings['objective']}, summed over rows; weights {best.settings['weights']}",
        "versions": _versions(best),
    }
    lines = [line for name, text in facts.items() for line in wrap(f"{name:<11}{text}", hanging=" " * 11)]
    rows = []
    for row in ranking.table.to_dict("records"):
        error, aicc = row["holdout_log_rmse"], row["aicc"]
        numbers = ["" if error != error else format_number(error), "" if aicc != aicc else f"{aicc:.1f}"]
        rows.append([row["law"], *numbers, row["status"]])
    lines += ["", *text_table(["law", "held-out log RMSE", "AICc", "status"], rows), ""]
    folds = ranking.backtest.folds
    columns = " and, in turn, ".join(dict.fromkeys(fold.column for fold in folds))
    factor = f"{ranking.table['factor_out'].iloc[0]:.3g}"
    text = f"the largest {columns}, in {len(folds)} windows, up to {factor} times the largest fitted"
    lines += wrap(f"held out: {text if folds else 'nothing'}")
    ahead = ""
    if ranking.p_better == ranking.p_better:
        second = next(name for name in ranking.table["law"] if name != ranking.best)
        ahead = f", ahead of {second} in {format_percent(ranking.p_better)} of paired bootstrap draws"
    return "\n".join([*lines, f"best: {ranking.best}{ahead}", *_note_lines(ranking.notes)])


def formula_of(fit: LawFit) -> str:
    """The formula, or the laws of a mixture with their weights."""
    if fit.definition is not None:
        return fit.definition.formula
    parts = ", ".join(f"{weight:.2f} {law}" for law, weight in fit.weights.items())
    return f"the weighted geometric mean of {parts}" if fit.settings["objective"] != "mse" else f"the mean of {parts}"


def _note_lines(notes: list[dict]) -> list[str]:
    lines = [line for n in notes for line in wrap(f"[{n['grade']}] {n['code']}: {n['text']}", "  ", "    ")]
    return ["", "notes (docs/fitting.md says what to do about each)", *lines] if lines else []


def facts_of(fit: LawFit) -> dict[str, str]:
    """Name to text: the runs, the data, the objective, the algorithm, the starts, the validation, the versions."""
    settings, scores = fit.settings, fit.scores
    fixed = [f"{name} = {value:g}" for name, value in settings["fixed"].items()]
    deltas = {m.law: m.settings["delta"] for m in fit.members} or {"": settings["delta"]}
    known = ", ".join(f"{law} {delta:.3g}".strip() for law, delta in deltas.items() if delta is not None)
    kind = {"wild": "wild cluster", "pairs": "pairs cluster"}[settings["method"]]
    draws = f"{settings['bootstrap']} {kind} bootstrap refits, level {settings['level']:g}"
    pooled = {}
    if fit.pool:
        curves = fit.curves
        kinds = curves["status"].value_counts().to_dict()
        listed = ", ".join(f"{number} {status}" for status, number in kinds.items())
        draws = f"{settings['bootstrap']} draws of the posterior, level {settings['level']:g}"
        pooled = {"pool": f"{len(curves)} curves by {listing(fit.pool)}: {listed}; parameters are the centre's"}
    runs = ", ".join((_plural(scores["n_rows"], "row"), _plural(scores["n_configurations"], "distinct size")))
    return {
        **_facts_of_data(fit, runs),
        **pooled,
        "fixed or tied": ", ".join([*fixed, *(" = ".join(group) for group in settings["tied"])]) or "nothing",
        "objective": (
            f"{settings['objective']}{f', delta {known}' if known else ''}, summed over rows; weights "
            f"{settings['weights']}"
        ),
        "algorithm": (
            "curves and the distribution they share in turn (empirical Bayes), by bounded Levenberg-Marquardt from "
            f"{settings['n_starts']} starts"
            if fit.pool
            else "variable projection over a grid of the nonlinear parameters, then bounded Levenberg-Marquardt from "
            f"{settings['n_starts']} starts"
        ),
        "intervals": draws if settings["bootstrap"] else "none",
        "in range": f"log RMSE {scores['log_rmse']:.4g}, RMSE {scores['rmse']:.4g}, AICc {scores['aicc']:.4g}",
        "held out": settings.get("validation", "nothing; `hf-scaling compare` holds out the largest scales"),
        "versions": _versions(fit),
    }


def _versions(fit: LawFit) -> str:
    return f"hf_scaling {importlib.metadata.version('hf_scaling')}, seed {fit.settings['seed']}"


def _plural(count: float, noun: str) -> str:
    return f"{count:.0f} {noun}{'' if count == 1 else 's'}"


def _facts_of_data(fit: LawFit, rows: str) -> dict[str, str]:
    data, target = fit.data, fit.settings["target"]
    sizes = [
        f"{column} {format_span(low, high)} ({_plural(data['levels'][column], 'level')}; {unit_of(column)})"
        for column, (low, high) in data["ranges"].items()
    ]
    names = [f"{name} {listing(values, _MOST_NAMES)}" for name, values in data["study"].items()]
    low, high = data["target_range"]
    fitted = "" if fit.scale.is_identity else f", fitted as {fit.scale.describe(target)}"
    return {
        "target": f"{target}, {low:.4g} to {high:.4g} ({unit_of(target)}){fitted}",
        "runs": rows,
        "sizes": "; ".join(sizes),
        "data": "; ".join(names) or "the table names no task, model or data set",
    }


def card_values(
    fit: LawFit, where: str, figure: str, dataset: str | None = None
) -> tuple[dict[str, str], "ModelCardData"]:
    """The values of the card template, and the metadata that the Hub reads.

    Args:
        fit: The law.
        where: The folder's name or the Hub id that the example loads.
        figure: The path of the figure beside the card.
        dataset: The data set of the Hub that holds the rows; None where none is known.
    """
    from huggingface_hub import ModelCardData

    law, ranges = fit.definition, fit.data["ranges"]
    rows = [[k, format_number(v, 6), *map(format_number, fit.intervals.get(k, ()))] for k, v in fit.params.items()]
    heads = ["parameter", "estimate", f"{format_percent(fit.settings['level'])} from", "to"]
    parts = [f"- {member.law}: `{formula_of(member)}`" for member in fit.members]
    columns = [f"`{column}`" for column in ranges]
    values = {
        "law": fit.law,
        "target": fit.settings["target"],
        "columns": " and ".join([", ".join(columns[:-1]), columns[-1]]) if len(columns) > 1 else columns[0],
        "where": where,
        "rows": f"the rows of [{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else "measured runs",
        "figure": figure,
        # Indented as code: Markdown would take its stars for emphasis.
        "formula": f"    {formula_of(fit)}" if law else f"It is {formula_of(fit)}.",
        "latex": f"$$ {law.latex} $$" if law else "\n".join(parts),
        "paper": law.paper if law else "a combination of published laws",
        "status": fit.status,
        "verdict": VERDICTS[fit.status],
        "parameters": markdown_table(heads[: 4 if fit.intervals else 2], rows),
        "facts": markdown_table(["", ""], [[name, value] for name, value in facts_of(fit).items()]),
        "notes": "\n".join(f"- **{n['code']}** ({n['grade']}): {n['text']}" for n in fit.notes) or "none",
        "curves": _curves_table(fit) if fit.pool else "",
        "range": "; ".join(f"{column} from {format_span(*ends)}" for column, ends in ranges.items()),
        "example": ", ".join(
            [
                *(f'"{name}": {json.dumps(str(fit.curves[name].iloc[0]))}' for name in fit.pool),
                *(f'"{c}": {high:.6g}' for c, (_, high) in ranges.items()),
            ]
        ),
        "citation": CITATION,
    }
    names = {name for column in ("upstream", "downstream") for name in fit.data["study"].get(column, ())}
    # The name of a local data set has no slash.
    on_hub = sorted(name for name in names if "/" in name and hub.is_hub_id(name))
    head = ModelCardData(
        license="apache-2.0",
        library_name="hf_scaling",
        pipeline_tag="tabular-regression",
        tags=["hf_scaling", "scaling-law", fit.law],
        datasets=([dataset] if dataset else []) + on_hub or None,
    )
    return values, head


def _curves_table(fit: LawFit) -> str:
    """The curves of a pooled fit as Markdown: names, status and parameters."""
    columns = [*fit.pool, "status", *fit.params]
    rows = [
        [str(row[name]) if name in (*fit.pool, "status") else format_number(row[name]) for name in columns]
        for row in fit.curves.to_dict("records")
    ]
    return markdown_table(columns, rows)


def draw_fit(fit: LawFit) -> bytes:
    """A PNG, equal for equal fits: a curve for each level of the second variable, extrapolations on grey ground."""
    from matplotlib.figure import Figure

    # Of a pooled fit, some of its curves, each where it is cut along its own sizes.
    shown_curves = []
    if fit.pool:
        names = fit.curves[fit.pool].to_dict("records")
        shown_curves = [names[i] for i in thinned(len(names), _MOST_CURVES)]
    ranges, measured = fit.data["ranges"], fit.data.get("measured", {})
    x = next((name for name in _ALONG if name in ranges), next(iter(ranges)))
    others = [name for name in ranges if name != x]
    levels = {name: np.unique(measured.get(name, ranges[name])) for name in others}
    # The second variable is shown at several values, any further one at its largest.
    largest = {name: float(values[-1]) for name, values in levels.items()}
    shown = levels[others[0]][thinned(len(levels[others[0]]), _MOST_CURVES)] if others else ()
    curves = [{**largest, others[0]: float(level)} for level in shown] if others else [{}]
    low, high = ranges[x]
    smallest = min((value for value in measured.get(x, ()) if value > 0), default=low or high)
    # From somewhat below the smallest to ten times the largest measured size.
    along = np.geomspace(smallest / 1.3, high * 10, 160)
    figure = Figure(figsize=(7.2, 4.4), dpi=120, layout="constrained")
    ax = figure.subplots()
    if shown_curves:
        for names, colour, marker in zip(shown_curves, colours(len(shown_curves)), MARKERS):
            label = ", ".join(map(str, names.values()))
            _draw_curve(ax, fit.curve(**names), x, along, largest, colour, marker, label)
    for at, colour, marker in zip(() if shown_curves else curves, colours(len(curves)), MARKERS):
        _draw_curve(ax, fit, x, along, at, colour, marker)
    ax.axvspan(high, along[-1], color="0.93", zorder=0, label="beyond what was measured")
    style_axes(ax)
    if fit.data["target_range"][0] <= 0:
        ax.set_yscale("linear")
    ax.set_xlim(along[0], along[-1])
    ax.set_xlabel(f"{x} ({unit_of(x)})" if x in COLUMNS else x, fontsize=9)
    ax.set_ylabel(fit.settings["target"], fontsize=9)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return to_png(figure)


def _draw_curve(
    ax: "Axes",
    fit: LawFit,
    x: str,
    along: np.ndarray,
    at: Mapping[str, float],
    colour: Any,
    marker: str,
    label: str | None = None,
) -> None:
    """A curve with its band, and the measured means at the same other sizes."""
    predicted = fit.predict({x: along, **at})
    label = label or ", ".join(f"{name} {format_count(value)}" for name, value in at.items()) or fit.law
    ax.plot(along, predicted["value"], color=colour, linewidth=1.5, label=label)
    if predicted["low"].notna().any():
        ax.fill_between(along, predicted["low"], predicted["high"], color=colour, alpha=0.15, linewidth=0)
    measured = {name: np.asarray(values) for name, values in fit.data.get("measured", {}).items()}
    if x in measured:
        here = np.ones(len(measured[x]), dtype=bool)
        for name, value in at.items():
            here &= measured.get(name, np.nan) == value
        ax.plot(measured[x][here], measured[fit.settings["target"]][here], marker, color=colour, markersize=4)
