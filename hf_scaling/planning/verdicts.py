"""A plan, and transfer gaps, in words."""

import textwrap

import numpy as np

from hf_scaling.fitting.bootstrap import SIZES

_UNITS = {
    "n_params": "parameters",
    "n_pretrain": "upstream images (or tokens), unique",
    "n_finetune": "labelled images (or tokens), unique",
}
_VERDICTS = {
    "clear": "clear: the law's uncertainty leaves these sizes as they are, to within a factor of four",
    "hardly_matters": "hardly_matters: other splits of the budget are as good",
    "cannot_tell": "cannot_tell: these runs do not fix where the budget should go",
}
_ADVICE = {
    "low": "low: pre-train more",
    "high": "high: label more",
    "cannot_tell": "cannot_tell: these runs do not say whether to pre-train or to label",
}
# Below this a coefficient is 0: its logarithm moves towards minus infinity in the solver.
_NOTHING = 1e-9
_WIDTH = 110
# Every fourth budget of the frontier is printed: one a decade.
_STEP = 4


def describe_plan(plan) -> str:
    """The answer first, then what it costs, the frontier, what the next unit brings, and the notes."""
    lines = [*_answer(plan), "", *_spending(plan), "", *_frontier(plan), "", *_marginal(plan)]
    if len(plan.arms) > 1:
        lines += ["", *_arms(plan)]
    return "\n".join([*lines, *_notes(plan.notes)])


def describe_gaps(gaps) -> str:
    """Each downstream set's gap and verdict, then what its pre-training was worth, and the notes."""
    lines = []
    for row in gaps.table.to_dict("records"):
        lines += [f"{row['downstream']}: transfer gap {_gap(row, gaps.target, gaps.level)}"]
    lines += ["", *_worth(gaps)]
    return "\n".join([*lines, *_notes(gaps.notes)])


def _gap(row: dict, target: str, level: float) -> str:
    """The verdict on one transfer gap, and what it rests on."""
    advice = _ADVICE[row["verdict"]] + (", or a larger model" if row["larger_model_helps"] else "")
    gap, low, high = (0.0 if row[name] < _NOTHING else row[name] for name in ("G", "low", "high"))
    return (
        f"{advice}\n"
        f"  G {gap:.4g}   {level:.0%} [{low:.4g}, {high:.4g}]\n"
        f"  {target} above the floor at the largest sizes measured: {row['never_closed']:.3g} that more pre-training "
        f"never closes, {row['closable']:.3g} that it may\n"
        f"  share never closed {row['share']:.0%}   {level:.0%} [{row['share_low']:.0%}, {row['share_high']:.0%}]"
    )


def _worth(gaps) -> list[str]:
    ends, known = f"{gaps.level:.0%}", gaps.worth["from_scratch"].notna().any()
    heads = ["downstream", "n_finetune", "n_pretrain", "against", "worth", ends]
    heads += ["against 0", ends] if known else []
    rows = []
    for row in gaps.worth.to_dict("records"):
        cells = [_number(row[name]) for name in ("n_finetune", "n_pretrain", "against", "worth")]
        alone = [_number(row["from_scratch"]), _ends(row["from_scratch_low"], row["from_scratch_high"])]
        ends = _ends(row["worth_low"], row["worth_high"])
        rows.append([row["downstream"], *cells, ends, *(alone if known else [])])
    return ["what the larger n_pretrain was worth in n_finetune, against the smaller one", *_columns(heads, rows)]


def _ends(low: float, high: float) -> str:
    return "" if np.isnan(low) else f"{_number(low)} to {_number(high)}"


def _notes(notes: list[dict]) -> list[str]:
    lines = [line for n in notes for line in _wrapped(f"[{n['grade']}] {n['code']}: {n['text']}")]
    return ["", "notes (docs/planning.md says what to do about each)", *lines] if lines else []


def _answer(plan) -> list[str]:
    arm = f", arm {plan.allocation['arm']}" if plan.allocation["arm"] else ""
    lines = [f"for a budget of {plan.budget:,.6g}{arm}:"]
    for name in SIZES:
        value = plan.allocation[name]
        if value is None or (name == "n_finetune" and value == 0):
            continue
        ends = plan.intervals.get(name)
        chosen = ends and ends[0] < ends[1]
        interval = f"   {plan.level:.0%} [{_number(ends[0])}, {_number(ends[1])}]" if chosen else ""
        lines.append(f"  {name:<11}{_number(value):>16}  {_UNITS[name]}{interval}")
    value, low, high = (plan.predicted[name] for name in ("value", "low", "high"))
    interval = f"   {plan.level:.0%} [{low:.4g}, {high:.4g}]" if np.isfinite(low) else ""
    lines.append(f"  {plan.target:<11}{value:>16.4g}  predicted{interval}")
    if plan.verdict:
        lines.append(_VERDICTS[plan.verdict])
    return [*lines, *([f"transfer gap {_gap(plan.gap, plan.target, plan.level)}"] if plan.gap else [])]


def _spending(plan) -> list[str]:
    prices = ", ".join(f"{name} {price:.4g}" for name, price in plan.costs.items())
    parts = {name: value for name, value in plan.cost.items() if value and name != "total"}
    paid = ", ".join(f"{name} {value:,.4g} ({value / plan.cost['total']:.0%})" for name, value in parts.items())
    return [f"prices: {prices}", f"spent: {paid or 'nothing'}"]


def _frontier(plan) -> list[str]:
    table = plan.frontier
    middle = int(np.argmin(np.abs(np.log(table["budget"] / plan.budget))))
    table = table.iloc[middle % _STEP :: _STEP]
    names = [name for name in SIZES if table[name].notna().any() and (table[name] > 0).any()]
    heads = ["budget", *names, *(["arm"] if len(plan.arms) > 1 else []), plan.target, f"{plan.level:.0%}", "beyond"]
    rows = [
        [
            f"{row['budget']:,.4g}",
            *(_number(row[name]) for name in names),
            *([row["arm"]] if len(plan.arms) > 1 else []),
            f"{row['value']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}" if np.isfinite(row["low"]) else "",
            f"{np.exp(row['extrapolation']):.3g}x" if row["extrapolation"] > 0 else "",
        ]
        for row in table.to_dict("records")
    ]
    return ["other budgets (beyond: how far outside the measured sizes)", *_columns(heads, rows)]


def _marginal(plan) -> list[str]:
    rows = [
        [
            row["size"],
            f"{row['per_unit']:.3g}",
            f"{row['cost']:.3g}",
            "free" if np.isnan(row["per_cost"]) else f"{row['per_cost']:.3g}",
            f"{row['low']:.3g} to {row['high']:.3g}" if np.isfinite(row["low"]) else "",
        ]
        for row in plan.marginal.to_dict("records")
    ]
    heads = ["one more of", f"lowers {plan.target} by", "costs", "by unit of cost", f"{plan.level:.0%}"]
    return ["the next unit", *_columns(heads, rows)]


def _arms(plan) -> list[str]:
    rows = [
        [
            row["arm"],
            *(_number(row[name]) for name in SIZES),
            f"{row['value']:.4g}",
            f"{row['low']:.4g} to {row['high']:.4g}" if np.isfinite(row["low"]) else "",
            "" if np.isnan(row["p_better"]) else f"{row['p_better']:.0%}",
        ]
        for row in plan.arms.to_dict("records")
    ]
    return [
        "the arms, each at its best",
        *_columns(["arm", *SIZES, plan.target, f"{plan.level:.0%}", "ahead in"], rows),
    ]


def _columns(heads: list[str], rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(heads, *rows)]
    return ["  " + "  ".join(cell.rjust(w) for cell, w in zip(row, widths)).rstrip() for row in [heads, *rows]]


def _number(value) -> str:
    """A count as people write it: whole up to ten million, short beyond."""
    if value is None or value != value:
        return "-"
    return f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False)
