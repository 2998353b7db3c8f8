"""Verdicts of plans, transfer gaps and suggested runs: what each code means, and their summaries for a terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from hf_scaling.fitting.columns import SIZES
from hf_scaling.text import (
    MISSING,
    format_count,
    format_interval,
    format_percent,
    format_value,
    format_whole,
    text_table,
    unit_of,
    wrap,
)

if TYPE_CHECKING:
    from hf_scaling.planning.budget import Plan
    from hf_scaling.planning.need import Need
    from hf_scaling.planning.next_runs.suggest import SuggestedRuns
    from hf_scaling.planning.transfer import TransferGaps

#: Verdict of a plan to its meaning.
PLAN_VERDICTS = {
    "clear": "the law's uncertainty changes these sizes by less than a factor of four",
    "hardly_matters": "other splits of the budget are as good",
    "cannot_tell": "these runs do not determine where the budget should go",
}
#: Verdict of a transfer gap to its meaning.
GAP_VERDICTS = {
    "low": "pre-train more",
    "high": "label more",
    "cannot_tell": "these runs do not determine whether to pre-train or to label more",
}
#: Verdict on a need to its meaning.
NEED_VERDICTS = {
    "reached_inside": "reached at measured sizes",
    "extrapolated": "reached beyond the measured sizes, if the law holds there",
    "never": "not reached by any amount, if the law holds",
    "cannot_tell": "these runs do not determine how much the target takes",
}
#: Verdict on suggested runs to its meaning.
RUN_VERDICTS = {"cannot_tell": "a size takes too few levels for any law; these runs add levels"}
# Below this a coefficient or a size is printed as 0: its logarithm moves towards minus infinity in the solver.
_ZERO = 1e-9
# Every fourth budget of the frontier is printed: one a decade.
_EVERY = 4


def describe_plan(plan: "Plan") -> str:
    """The allocation and its verdict, then its costs, other budgets, the value of one more of each size, and notes."""
    level, with_arms = format_percent(plan.level), len(plan.arms) > 1
    arm = f", arm {plan.allocation['arm']}" if plan.allocation["arm"] else ""
    lines = [f"for a budget of {format_count(plan.budget)}{arm}:"]
    for name in SIZES:
        size, ends = plan.allocation[name], plan.intervals.get(name)
        if isinstance(size, int) and not (name == "n_finetune" and size == 0):
            chosen = ends is not None and ends[0] < ends[1]
            interval = f"   {level} [{format_whole(ends[0])}, {format_whole(ends[1])}]" if ends and chosen else ""
            lines.append(f"  {name:<11}{format_whole(size):>16}  {unit_of(name)}{interval}")
    value, low, high = (plan.predicted[name] for name in ("value", "low", "high"))
    interval = f"   {level} [{format_interval(plan.target, low, high)}]" if np.isfinite(low) else ""
    lines.append(f"  {plan.target:<11}{format_value(plan.target, value):>16}  predicted{interval}")
    if plan.verdict:
        lines.append(f"{plan.verdict}: {PLAN_VERDICTS[plan.verdict]}")
    if plan.gap:
        lines += _gap_lines(f"transfer gap {plan.gap['verdict']}", plan.gap, plan.target, plan.level)
    prices = ", ".join(f"{name} {format_count(price)}" for name, price in plan.costs.items())
    items = [
        f"{name} {format_count(value)} ({format_percent(value / plan.cost['total'])})"
        for name, value in plan.cost.items()
        if value and name != "total"
    ]
    lines += ["", f"prices: {prices}", f"cost: {', '.join(items) or 'nothing'}"]
    middle = int(np.argmin(np.abs(np.log(plan.frontier["budget"] / plan.budget))))
    frontier = plan.frontier.iloc[middle % _EVERY :: _EVERY]
    names = [*(name for name in SIZES if (frontier[name] > 0).any()), *(["arm"] if with_arms else [])]
    beyond = [f"{format_count(np.exp(distance))}x" if distance > 0 else "" for distance in frontier["extrapolation"]]
    heads = ["budget", *names, plan.target, level, "beyond"]
    columns = [map(format_count, frontier["budget"]), *_allocations(frontier, names, plan.target), beyond]
    lines += ["", "other budgets (beyond: factor outside the measured sizes)"]
    lines += text_table(heads, list(zip(*columns)))
    marginal = [
        [
            row["size"],
            format_value(plan.target, row["per_unit"]),
            format_count(row["cost"]),
            "free" if np.isnan(row["per_cost"]) else format_value(plan.target, row["per_cost"]),
            format_interval(plan.target, row["low"], row["high"]) if np.isfinite(row["low"]) else "",
        ]
        for row in plan.marginal.to_dict("records")
    ]
    lines += ["", "one more of each size"]
    lines += text_table(["size", f"improves {plan.target} by", "costs", "by unit of cost", level], marginal)
    if with_arms:
        ahead = ["" if np.isnan(share) else format_percent(share) for share in plan.arms["p_better"]]
        columns = [plan.arms["arm"], *_allocations(plan.arms, list(SIZES), plan.target), ahead]
        lines += ["", "each arm at its best allocation"]
        lines += text_table(["arm", *SIZES, plan.target, level, "ahead in"], list(zip(*columns)))
    return "\n".join([*lines, *_note_lines(plan.notes)])


def _allocations(table: pd.DataFrame, names: list[str], target: str) -> list[list[str]]:
    """Columns of sizes (and arms), predictions and intervals, as text."""
    sizes = [[value if name == "arm" else format_whole(value) for value in table[name]] for name in names]
    values = [format_value(target, value) for value in table["value"]]
    ends = zip(table["low"], table["high"])
    return [*sizes, values, [format_interval(target, low, high) if np.isfinite(low) else "" for low, high in ends]]


def describe_gaps(gaps: "TransferGaps") -> str:
    """The gap and verdict of each downstream set, then the worth of its pre-training, and the notes."""
    lines = []
    for row in gaps.table.to_dict("records"):
        lines += _gap_lines(f"{row['downstream']}: transfer gap {row['verdict']}", row, gaps.target, gaps.level)
    level, with_scratch = format_percent(gaps.level), gaps.worth["from_scratch"].notna().any()
    heads = ["downstream", "n_finetune", "n_pretrain", "against", "worth", level]
    heads += ["against 0", level] if with_scratch else []
    rows = []
    for row in gaps.worth.to_dict("records"):
        cells = [row["downstream"], *(format_count(row[name]) for name in ("n_finetune", "n_pretrain", "against"))]
        for name in ("worth", "from_scratch") if with_scratch else ("worth",):
            low, high = row[f"{name}_low"], row[f"{name}_high"]
            cells += [format_count(row[name]), "" if np.isnan(low) else f"{format_count(low)} to {format_count(high)}"]
        rows.append(cells)
    lines += ["", "worth of the larger n_pretrain against the smaller one, in labelled images"]
    lines += text_table(heads, rows)
    if sentences := [describe_contrast(row, gaps.target) for row in gaps.contrasts.to_dict("records")]:
        lines += ["", *sentences]
    return "\n".join([*lines, *_note_lines(gaps.notes)])


def describe_contrast(row: dict, target: str, noun: str = "images") -> str:
    """Which of two downstream sets pre-training helped more, a row of `TransferGaps.contrasts`, as a sentence."""
    shares = {row["more"]: row["benefit_more"], row["less"]: row["benefit_less"]}
    changes = [f"{format_percent(abs(x))} {'lower' if x >= 0 else 'higher'} on {name}" for name, x in shares.items()]
    text = f"{format_count(row['n_pretrain'])} {noun} instead of {format_count(row['against'])} leave the {target} "
    text += " and ".join(changes)
    if row["verdict"] == "cannot_tell":
        return f"Whether pre-training helps {row['more']} more than {row['less']} is open: {text}"
    return f"Pre-training helps {row['more']} more than {row['less']}: {text}"


def _gap_lines(head: str, row: dict, target: str, level: float) -> list[str]:
    """Verdict on one transfer gap, and the numbers that it follows from."""
    gap, low, high = (format_count(0.0 if row[name] < _ZERO else row[name]) for name in ("G", "low", "high"))
    share, share_low, share_high = (format_percent(row[name]) for name in ("share", "share_low", "share_high"))
    never, closable = (format_value(target, row[name]) for name in ("never_closed", "closable"))
    return [
        f"{head}: {GAP_VERDICTS[row['verdict']]}{', or use a larger model' if row['larger_model_helps'] else ''}",
        f"  G {gap}   {format_percent(level)} [{low}, {high}]",
        f"  {target} above the floor at the largest measured sizes: {never} that more pre-training never closes, "
        f"{closable} that it may",
        f"  share never closed {share}   {format_percent(level)} [{share_low}, {share_high}]",
        *([] if (stages := describe_stages(row, target)) is None else [f"  {stages}"]),
    ]


def describe_stages(row: Mapping[str, Any], target: str, noun: str = "images") -> str | None:
    """What twice the data of either stage changed, a row of `TransferGaps.table`, as a clause; None where unknown."""
    if not row.get("over"):
        return None
    changes = []
    for name in ("images_doubled", "labels_doubled"):
        # The fall of the target; a rise is a fall below 0.
        fall, most, least = (-100 * row[f"{name}{end}"] for end in ("", "_low", "_high"))
        changes.append(f"{fall:.2g} % ({least:.2g} to {most:.2g} %)")
    where = "the upper half of the measured sizes" if row["over"] == "upper_half" else "the measured sizes"
    return (
        f"over {where}, twice the upstream {noun} lowered the {target} by {changes[0]}, "
        f"twice the labelled {noun} by {changes[1]}"
    )


def describe_runs(runs: "SuggestedRuns") -> str:
    """The quantity and its interval before and after, the runs, and the notes."""
    aim = runs.aim
    lines = [f"{aim.quantity}: {_number(aim.value)}, {format_percent(aim.level)} {_ends(aim.low, aim.high)}"]
    if runs.empty:
        lines.append("no run is suggested")
    else:
        kind = "pairs of runs" if "arm" in runs and (runs["arm"] == "both").all() else "runs"
        if aim.verdict:
            lines.append(f"{aim.verdict}: {RUN_VERDICTS[aim.verdict]}: {len(runs)} {kind}")
        else:
            narrower = format_percent(runs["gain"].sum())
            lines.append(f"{_ends(*runs.after)} expected after {len(runs)} {kind}, {narrower} narrower")
        unit = "FLOPs"
        if aim.costs != {"flop": 1.0}:
            unit = ", ".join(f"{name} {format_count(price)}" for name, price in (aim.costs or {}).items())
        lines.append(f"cost {format_count(runs['cost'].sum())} of {format_count(aim.budget)} {unit}".rstrip())
        table = (
            pd.DataFrame(runs)
            .drop(columns="gain")
            .assign(gain=[MISSING if np.isnan(gain) else format_percent(gain, 3) for gain in runs["gain"]])
        )
        columns = [
            map(_number if name != "seed" and table[name].dtype.kind in "if" else str, table[name]) for name in runs
        ]
        lines += ["", *text_table([str(name) for name in runs], list(zip(*columns)))]
    return "\n".join([*lines, *_note_lines(aim.notes)])


def describe_need(need: "Need") -> str:
    """The size that a target takes with its interval, the verdict, what to collect now, and the notes."""
    at = "".join(f", {name} {format_count(size)}" for name, size in need.sizes.items())
    lines = [f"{need.solve_for} for {need.target} {format_value(need.target, need.target_value)}{at}:"]
    interval = f"   {format_percent(need.level)} {_ends(need.low, need.high)}" if not np.isnan(need.low) else ""
    lines.append(f"  {_number(need.value)}  {unit_of(need.solve_for)}{interval}")
    lines.append(f"{need.verdict}: {NEED_VERDICTS[need.verdict]}")
    if need.collect is not None:
        lines.append(f"collect now: up to {format_count(need.collect)} {need.solve_for} in all, then ask again")
    return "\n".join([*lines, *_note_lines(need.notes)])


def _number(value: float | None) -> str:
    """A size, cost or parameter; 0 for a draw that stopped at a bound."""
    return MISSING if value is None else format_count(0.0 if abs(value) < _ZERO else value)


def _ends(low: float, high: float) -> str:
    return f"[{_number(low)}, {_number(high)}]"


def _note_lines(notes: list[dict]) -> list[str]:
    lines = [line for n in notes for line in wrap(f"[{n['grade']}] {n['code']}: {n['text']}", "  ", "    ")]
    return ["", "notes (docs/planning.md, docs/suggest.md)", *lines] if lines else []
