"""A fit in words: for the terminal and for its card."""

import importlib.metadata

from hf_scaling.cards import markdown_table
from hf_scaling.fitting.lawfit import LawFit

_VERDICTS = {
    "ok": "these runs fix the law",
    "not_identifiable": "these runs do not fix the law: its parameters and anything outside the measured range are open",
    "at_bound": "a parameter ended on its bound: read it as a limit",
    "poor_fit": "the law does not describe these runs",
}


def describe_fit(fit: LawFit) -> str:
    """Everything that (Mis)Fitting (2025) asks a report of a scaling law to state, as text for a terminal."""
    lines = [f"{fit.law}: {formula_of(fit)}", f"status: {fit.status} ({_VERDICTS[fit.status]})", ""]
    lines += _parameter_lines(fit)
    lines += ["", *(f"  {name}: {value}" for name, value in facts_of(fit).items())]
    if fit.notes:
        lines += ["", "notes"]
        lines += [f"  [{n['grade']}] {n['code']}: {n['text']}" for n in fit.notes]
    return "\n".join(lines)


def formula_of(fit: LawFit) -> str:
    """The formula, or the mixture's parts with their weights."""
    if not fit.members:
        return fit.definition.formula
    parts = ", ".join(f"{weight:.2f} {law}" for law, weight in fit.weights.items())
    return f"the weighted geometric mean of {parts}" if fit.settings["objective"] != "mse" else f"the mean of {parts}"


def _parameter_lines(fit: LawFit) -> list[str]:
    width = max(len(name) for name in fit.params)
    lines = []
    for name, value in fit.params.items():
        ends = fit.intervals.get(name)
        interval = f"   {fit.settings['level']:.0%} [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else ""
        lines.append(f"  {name:<{width}}  {value:<12.6g}{interval}")
    return lines


def facts_of(fit: LawFit) -> dict[str, str]:
    """Name to text: the runs, the data, the objective, the algorithm, the starts, the validation, the versions."""
    settings, scores, data = fit.settings, fit.scores, fit.data
    interval = (
        "none"
        if not settings["bootstrap"]
        else (
            f"{settings['bootstrap']} {settings['method']} bootstrap refits by configuration, level {settings['level']:g}"
        )
    )
    delta = f", delta {settings['delta']:.3g}" if settings.get("delta") is not None else ""
    held = {
        **{f"{n} = {v:g}": "" for n, v in settings["fixed"].items()},
        **{" = ".join(g): "" for g in settings["tied"]},
    }
    facts = {
        "target": f"{settings['target']}, {data['target_range'][0]:.4g} to {data['target_range'][1]:.4g}",
        "runs": f"{scores['n_rows']} rows, {scores['n_configurations']} configurations",
        "sizes": "; ".join(
            f"{c} {low:.4g} to {high:.4g} ({data['levels'][c]} levels)" for c, (low, high) in data["ranges"].items()
        ),
        "data": "; ".join(f"{name} {', '.join(values[:6])}" for name, values in data["study"].items()) or "not stated",
        "held": ", ".join(held) or "nothing",
        "objective": f"{settings['objective']}{delta}, summed; weights {settings['weights']}",
        "algorithm": f"variable projection over a grid, then Levenberg-Marquardt from {settings['n_starts']} starts",
        "intervals": interval,
        "in range": f"log RMSE {scores['log_rmse']:.4g}, RMSE {scores['rmse']:.4g}, AICc {scores['aicc']:.4g}",
        "held out": settings.get("validation", "nothing: `hf-scaling compare` holds out the largest scales"),
        "versions": f"hf_scaling {importlib.metadata.version('hf_scaling')}, seed {settings['seed']}",
    }
    return facts


def card_values(fit: LawFit) -> tuple[dict[str, str], dict]:
    """What the card template asks for, and the metadata the Hub reads."""
    rows = [[name, value, *(fit.intervals.get(name) or (None, None))] for name, value in fit.params.items()]
    values = {
        "law": fit.law,
        "formula": formula_of(fit),
        "latex": f"$$ {fit.definition.latex} $$" if fit.definition else "",
        "paper": fit.definition.paper if fit.definition else "a combination of published laws",
        "status": fit.status,
        "verdict": _VERDICTS[fit.status],
        "parameters": markdown_table(["parameter", "estimate", "low", "high"], rows),
        "facts": markdown_table(["", ""], [[name, value] for name, value in facts_of(fit).items()]),
        "notes": "\n".join(f"- **{n['code']}** ({n['grade']}): {n['text']}" for n in fit.notes) or "none",
        "range": "; ".join(f"{c} from {low:.4g} to {high:.4g}" for c, (low, high) in fit.data["ranges"].items()),
        "example": ", ".join(f'"{c}": {high:.6g}' for c, (_, high) in fit.data["ranges"].items()),
    }
    return values, {"library_name": "hf_scaling", "tags": ["scaling-law", fit.law]}


def describe_ranking(ranking) -> str:
    """A ranking of laws as text for a terminal."""
    table = ranking.table
    width = max(len(name) for name in table["law"])
    lines = [f"{'law':<{width}}  held-out log RMSE      AICc  status"]
    for row in table.itertuples():
        aicc = "" if row.aicc != row.aicc else f"{row.aicc:.1f}"
        lines.append(f"{row.law:<{width}}  {row.holdout_log_rmse:<17.4g} {aicc:>9}  {row.status}")
    lines += ["", f"held out: the largest scales, up to {table['factor_out'].iloc[0]:.3g} times the largest fitted"]
    if ranking.p_better == ranking.p_better:
        lines.append(
            f"best: {ranking.best}, ahead of the next in {100 * ranking.p_better:.0f} % of paired bootstrap draws"
        )
    else:
        lines.append(f"best: {ranking.best}")
    lines += [f"[{n['grade']}] {n['code']}: {n['text']}" for n in ranking.notes]
    return "\n".join(lines)
