"""A fit in words: for the terminal and for its card."""

import importlib.metadata
import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling import hub
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.hub.cards import CITATION, markdown_table
from hf_scaling.laws import COLUMNS
from hf_scaling.results.card import MARKERS, colours, style_axes, to_png
from hf_scaling.text import format_count

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData
    from matplotlib.axes import Axes


# What goes along the x axis, if the law has it.
_ALONG = ("n_pretrain", "n_finetune", "n_params")
_POINTS = 160
_MOST_CURVES = 5
# How far the curves go on before the smallest and beyond the largest measured size, as factors.
_BEFORE, _BEYOND = 1.3, 10.0


def draw_fit(fit: LawFit) -> bytes:
    """A PNG, the same for the same fit: a curve a level of the second variable, forecasts on grey ground."""
    from matplotlib.figure import Figure

    x, curves = _curves(fit)
    figure = Figure(figsize=(7.2, 4.4), dpi=120, layout="constrained")
    ax = figure.subplots()
    high = fit.data["ranges"][x][1]
    along = np.geomspace(_smallest(fit, x) / _BEFORE, high * _BEYOND, _POINTS)
    for at, colour, marker in zip(curves, colours(len(curves)), MARKERS):
        _draw_curve(ax, fit, x, along, at, colour)
        _draw_runs(ax, fit, x, at, colour, marker)
    ax.axvspan(high, along[-1], color="0.93", zorder=0, label="beyond what was measured")
    _finish_axes(ax, fit, x, along)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return to_png(figure)


def _curves(fit: LawFit) -> tuple[str, list[dict[str, float]]]:
    """The column along the axis, and for each curve the values of the others: measured ones where they are kept."""
    ranges = fit.data["ranges"]
    x = next((name for name in _ALONG if name in ranges), next(iter(ranges)))
    others = [name for name in ranges if name != x]
    levels = {name: _levels(fit, name) for name in others}
    # One variable is shown at several values; any further one at its largest.
    at = {name: levels[name][-1] for name in others}
    return x, [{**at, others[0]: level} for level in levels[others[0]]] if others else [{}]


def _levels(fit: LawFit, name: str) -> list[float]:
    values = np.unique(fit.data.get("measured", {}).get(name, fit.data["ranges"][name]))
    kept = np.linspace(0, len(values) - 1, min(len(values), _MOST_CURVES)).round().astype(int)
    return [float(values[i]) for i in np.unique(kept)]


def _smallest(fit: LawFit, name: str) -> float:
    """The smallest measured size that a logarithmic axis can show."""
    low, high = fit.data["ranges"][name]
    return min((value for value in fit.data.get("measured", {}).get(name, ()) if value > 0), default=low or high)


def _draw_curve(ax: "Axes", fit: LawFit, x: str, along: np.ndarray, at: Mapping[str, float], colour) -> None:
    predicted = fit.predict({x: along, **at})
    label = ", ".join(f"{name} {format_count(value)}" for name, value in at.items()) or fit.law
    ax.plot(along, predicted["value"], color=colour, linewidth=1.5, label=label)
    if predicted["low"].notna().any():
        ax.fill_between(along, predicted["low"], predicted["high"], color=colour, alpha=0.15, linewidth=0)


def _draw_runs(ax: "Axes", fit: LawFit, x: str, at: Mapping[str, float], colour, marker: str) -> None:
    measured = {name: np.asarray(values) for name, values in fit.data.get("measured", {}).items()}
    if x not in measured:
        return
    here = np.ones(len(measured[x]), dtype=bool)
    for name, value in at.items():
        here &= measured.get(name, np.nan) == value
    ax.plot(measured[x][here], measured[fit.settings["target"]][here], marker, color=colour, markersize=4)


def _finish_axes(ax: "Axes", fit: LawFit, x: str, along: np.ndarray) -> None:
    style_axes(ax)
    if fit.data["target_range"][0] <= 0:
        ax.set_yscale("linear")
    ax.set_xlim(along[0], along[-1])
    unit = COLUMNS[x].unit if x in COLUMNS else ""
    ax.set_xlabel(f"{x} ({unit})" if unit else x, fontsize=9)
    ax.set_ylabel(fit.settings["target"], fontsize=9)


_VERDICTS = {
    "ok": "these runs fix the law",
    "not_identifiable": "these runs leave the law open: trust it inside the measured range at most",
    "at_bound": "a parameter ended on its bound: read it as a limit",
    "poor_fit": "the law does not describe these runs",
}
# How each target was collected; the sizes' units stand in COLUMNS.
_TARGETS = {"loss": "cross-entropy, nats per image or token", "error": "top-1 error rate, 0 to 1"}
# Below this a coefficient is 0: its logarithm moves towards minus infinity in the solver.
_NOTHING = 1e-30
_MOST_NAMES = 6
_WIDTH = 110


def describe_fit(fit: LawFit) -> str:
    """Everything that (Mis)Fitting (2025) asks a report of a scaling law to state, as text for a terminal."""
    lines = [*_wrapped(f"{fit.law}: {formula_of(fit)}"), f"status: {fit.status} ({_VERDICTS[fit.status]})", ""]
    lines += _parameter_lines(fit)
    facts = facts_of(fit)
    width = max(map(len, facts)) + 2
    lines += ["", *(line for name, text in facts.items() for line in _wrapped(f"  {name:<{width}}{text}", width + 2))]
    return "\n".join([*lines, *_note_lines(fit.notes)])


def formula_of(fit: LawFit) -> str:
    """The formula, or the mixture's parts with their weights."""
    if not fit.members:
        return fit.definition.formula
    parts = ", ".join(f"{weight:.2f} {law}" for law, weight in fit.weights.items())
    return f"the weighted geometric mean of {parts}" if fit.settings["objective"] != "mse" else f"the mean of {parts}"


def _wrapped(text: str, indent: int = 2) -> list[str]:
    # A no-break space keeps a number and its per cent sign on one line.
    lines = textwrap.wrap(text.replace(" %", "\xa0%"), _WIDTH, subsequent_indent=" " * indent, break_on_hyphens=False)
    return [line.replace("\xa0", " ") for line in lines]


def _note_lines(notes: list[dict]) -> list[str]:
    lines = [line for n in notes for line in _wrapped(f"  [{n['grade']}] {n['code']}: {n['text']}", 4)]
    return ["", "notes (docs/fitting.md says what to do about each)", *lines] if lines else []


def _parameter_lines(fit: LawFit) -> list[str]:
    width = max(len(name) for name in fit.params)
    level = f"{100 * fit.settings['level']:g} %"
    lines = []
    for name, value in fit.params.items():
        ends = fit.intervals.get(name)
        interval = f"   {level} [{_short(ends[0])}, {_short(ends[1])}]" if ends else ""
        lines.append(f"  {name:<{width}}  {_short(value, 6):<12}{interval}".rstrip())
    return lines


def _short(value: float, digits: int = 4) -> str:
    """A number as people write it; a coefficient that the solver drove towards 0 is 0."""
    return "0" if abs(value) < _NOTHING else f"{value:.{digits}g}"


def facts_of(fit: LawFit) -> dict[str, str]:
    """Name to text: the runs, the data, the objective, the algorithm, the starts, the validation, the versions."""
    settings, scores = fit.settings, fit.scores
    rows = f"{scores['n_rows']} rows, {scores['n_configurations']} distinct sizes"
    return {
        **_data_facts(fit, rows),
        "fixed or tied": _held_in_words(settings),
        "objective": f"{settings['objective']}{_delta_in_words(fit)}, summed over rows; weights {settings['weights']}",
        "algorithm": (
            "variable projection over a grid of the nonlinear parameters, then bounded Levenberg-Marquardt from "
            f"{settings['n_starts']} starts"
        ),
        "intervals": _intervals_in_words(settings),
        "in range": f"log RMSE {scores['log_rmse']:.4g}, RMSE {scores['rmse']:.4g}, AICc {scores['aicc']:.4g}",
        "held out": settings.get("validation", "nothing; `hf-scaling compare` holds out the largest scales"),
        "versions": _versions(settings),
    }


def _versions(settings: dict) -> str:
    return f"hf_scaling {importlib.metadata.version('hf_scaling')}, seed {settings['seed']}"


def _data_facts(fit: LawFit, rows: str) -> dict[str, str]:
    data, target = fit.data, fit.settings["target"]
    sizes = [
        f"{column} {low:.4g} to {high:.4g} ({data['levels'][column]} levels; {_unit(column)})"
        for column, (low, high) in data["ranges"].items()
    ]
    low, high = data["target_range"]
    return {
        "target": f"{target}, {low:.4g} to {high:.4g} ({_unit(target)})",
        "runs": rows,
        "sizes": "; ".join(sizes),
        "data": "; ".join(f"{name} {_listed(values)}" for name, values in data["study"].items())
        or "the table names no task, model or data set",
    }


def _unit(column: str) -> str:
    known = COLUMNS.get(column)
    return known.unit if known else _TARGETS.get(column, "as the table has it")


def _listed(values: list[str]) -> str:
    rest = len(values) - _MOST_NAMES
    return ", ".join(values[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _held_in_words(settings: dict) -> str:
    fixed = [f"{name} = {value:g}" for name, value in settings["fixed"].items()]
    return ", ".join([*fixed, *(" = ".join(group) for group in settings["tied"])]) or "nothing"


def _delta_in_words(fit: LawFit) -> str:
    deltas = {m.law: m.settings["delta"] for m in fit.members} or {"": fit.settings["delta"]}
    known = [f"{law} {delta:.3g}".strip() for law, delta in deltas.items() if delta is not None]
    return f", delta {', '.join(known)}" if known else ""


def _intervals_in_words(settings: dict) -> str:
    if not settings["bootstrap"]:
        return "none asked for"
    kind = {"wild": "wild cluster", "pairs": "pairs cluster"}[settings["method"]]
    return f"{settings['bootstrap']} {kind} bootstrap refits, level {settings['level']:g}"


def card_values(
    fit: LawFit, where: str, figure: str, dataset: str | None = None
) -> tuple[dict[str, str], "ModelCardData"]:
    """What the card template asks for, and the metadata the Hub reads.

    Args:
        fit: The law.
        where: The folder's name or the Hub id that the example loads.
        figure: The path of the figure beside the card.
        dataset: The data set of the Hub that holds the rows; None where none is known.
    """
    rows = [[name, _short(value, 6), *map(_short, fit.intervals.get(name, ()))] for name, value in fit.params.items()]
    level = f"{100 * fit.settings['level']:g} %"
    heads = ["parameter", "estimate", f"{level} from", "to"][: 4 if fit.intervals else 2]
    values = {
        "law": fit.law,
        "target": fit.settings["target"],
        "columns": _joined([f"`{column}`" for column in fit.data["ranges"]]),
        "where": where,
        "rows": f"the rows of [{dataset}](https://huggingface.co/datasets/{dataset})" if dataset else "measured runs",
        "figure": figure,
        # Its stars would be taken for emphasis.
        "formula": f"    {formula_of(fit)}" if fit.definition else f"It is {formula_of(fit)}.",
        "latex": f"$$ {fit.definition.latex} $$" if fit.definition else _parts_of(fit),
        "paper": fit.definition.paper if fit.definition else "a combination of published laws",
        "status": fit.status,
        "verdict": _VERDICTS[fit.status],
        "parameters": markdown_table(heads, rows),
        "facts": markdown_table(["", ""], [[name, value] for name, value in facts_of(fit).items()]),
        "notes": "\n".join(f"- **{n['code']}** ({n['grade']}): {n['text']}" for n in fit.notes) or "none",
        "range": "; ".join(f"{c} from {low:.4g} to {high:.4g}" for c, (low, high) in fit.data["ranges"].items()),
        "example": ", ".join(f'"{c}": {high:.6g}' for c, (_, high) in fit.data["ranges"].items()),
    }
    return {**values, "citation": CITATION}, _card_head(fit, dataset)


def _parts_of(fit: LawFit) -> str:
    """A mixture's laws with their formulas."""
    return "\n".join(f"- {member.law}: `{member.definition.formula}`" for member in fit.members)


def _card_head(fit: LawFit, dataset: str | None) -> "ModelCardData":
    """The head that the Hub reads, with the data sets of the Hub that the rows are of."""
    from huggingface_hub import ModelCardData

    names = {name for column in ("upstream", "downstream") for name in fit.data["study"].get(column, ())}
    on_hub = [dataset] if dataset else []
    # The name of a local data set has no slash.
    on_hub += sorted(name for name in names if "/" in name and hub.is_hub_id(name))
    return ModelCardData(
        license="apache-2.0",
        library_name="hf_scaling",
        pipeline_tag="tabular-regression",
        tags=["hf_scaling", "scaling-law", fit.law],
        datasets=on_hub or None,
    )


def _joined(names: list[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def describe_ranking(ranking) -> str:
    """A ranking of laws as text for a terminal."""
    best = ranking.fits[ranking.best]
    facts = _data_facts(best, f"{best.scores['n_rows']} rows that every law takes")
    facts["objective"] = f"{best.settings['objective']}, summed over rows; weights {best.settings['weights']}"
    facts["versions"] = _versions(best.settings)
    lines = [line for name, text in facts.items() for line in _wrapped(f"{name:<11}{text}", 11)]
    lines += ["", *_table_lines(ranking.table), "", *_wrapped(_holdout_in_words(ranking), 0)]
    return "\n".join([*lines, _best_in_words(ranking), *_note_lines(ranking.notes)])


def _table_lines(table) -> list[str]:
    width = max(len(name) for name in table["law"])
    lines = [f"{'law':<{width}}  {'held-out log RMSE':>17}  {'AICc':>9}  status"]
    for row in table.itertuples():
        held_out, aicc = (
            "" if value != value else f"{value:{form}}"
            for value, form in ((row.holdout_log_rmse, ".4g"), (row.aicc, ".1f"))
        )
        lines.append(f"{row.law:<{width}}  {held_out:>17}  {aicc:>9}  {row.status}")
    return lines


def _holdout_in_words(ranking) -> str:
    folds = ranking.backtest.folds
    if not folds:
        return "held out: nothing"
    columns = list(dict.fromkeys(fold.column for fold in folds))
    return (
        f"held out: the largest {' and, in turn, '.join(columns)}, in {len(folds)} windows, "
        f"up to {ranking.table['factor_out'].iloc[0]:.3g} times the largest fitted"
    )


def _best_in_words(ranking) -> str:
    if ranking.p_better != ranking.p_better:
        return f"best: {ranking.best}"
    second = next(name for name in ranking.table["law"] if name != ranking.best)
    return f"best: {ranking.best}, ahead of {second} in {100 * ranking.p_better:.0f} % of paired bootstrap draws"
