"""What other budgets buy: the frontier of a plan as sentences, which the page shows as a table and behind a slider."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_scaling.fitting.columns import SIZES
from hf_scaling.report.answers import amounts
from hf_scaling.report.findings import Findings
from hf_scaling.text import format_count, format_flops, format_interval, format_value


@dataclass(frozen=True)
class Budgets:
    """The plans for the budgets of one frontier.

    Attributes:
        title: Target, and the part of the table where there are several.
        lines: A sentence for each budget, the smallest first.
        start: Index of the budget that was given, or of the middle one.
    """

    title: str
    lines: tuple[str, ...]
    start: int


def budgets_of(findings: Findings) -> list[Budgets]:
    """One for each part and target that has a plan with several budgets."""
    found = []
    for part in findings.parts:
        for one in part.plans:
            plan = one.plan
            if plan is None or len(plan.frontier) < 2:
                continue
            amount = format_count if one.asked else format_flops
            rows = plan.frontier.to_dict("records")
            lines = tuple(plan_line(row, one.target, part.part.noun, amount) for row in rows)
            start = int(np.argmin(np.abs(np.log(plan.frontier["budget"] / plan.budget))))
            title = one.target if len(findings.parts) == 1 else f"{part.part.title}: {one.target}"
            found.append(Budgets(title, lines, start))
    return found


def plan_line(row: Mapping[str, Any], target: str, noun: str, amount: Callable[[float], str]) -> str:
    """The best allocation for a budget of a frontier, in a sentence.

    Args:
        row: A row of `Plan.frontier`.
        target: The predicted column.
        noun: What the rows count.
        amount: How a budget is written.
    """
    sizes = {name: float(row[name]) for name in SIZES if name in row and row[name] == row[name] and row[name] > 0}
    arm = f", {row['arm']}" if isinstance(row.get("arm"), str) else ""
    beyond = row["extrapolation"]
    factor = format_count(float(f"{np.exp(beyond):.2g}"))
    doubt = f"; outside the measured sizes by a factor of {factor}" if beyond > 0.01 else ""
    ends = format_interval(target, row["low"], row["high"])
    value = f"predicted {target} {format_value(target, row['value'])} ({ends})"
    return f"{amount(row['budget'])}: {amounts(sizes, noun)}{arm}; {value}{doubt}"
