"""What a budget buys in one part; without a budget, what compute buys."""

from collections.abc import Sequence
from dataclasses import dataclass

from hf_scaling.errors import InputError
from hf_scaling.planning import Plan, plan
from hf_scaling.report.asking import Asked
from hf_scaling.report.laws import ArmLaw
from hf_scaling.report.parts import Part, Rows, levels


@dataclass(frozen=True)
class Spending:
    """A plan for one target of a part, or why there is none.

    Attributes:
        target: What is predicted.
        plan: The plan; None where there is none.
        asked: Whether the budget is the user's; else it is the FLOPs of the dearest measured run, priced by the FLOP,
            for the frontier's sake.
        problem: Why there is no plan; "" otherwise.
    """

    target: str
    plan: Plan | None = None
    asked: bool = False
    problem: str = ""


def find_spending(part: Part, target: str, laws: Sequence[ArmLaw], table: Rows, asked: Asked) -> Spending:
    """Plan over the arms whose laws could be fitted; with several ways of teaching, each is an arm.

    Args:
        part: The runs.
        target: What to make small.
        laws: The part's.
        table: All rows, of every stage: a fine-tuned model's pre-training is in rows of its own.
        asked: What was asked.
    """
    fits = {law.arm.label: law.fit for law in laws if law.fit is not None and law.target == target}
    given = asked.budget is not None
    if not fits:
        return Spending(target, asked=given, problem="no law could be fitted")
    budget, costs = (asked.budget, asked.costs) if given else (_dearest(table), {"flop": 1.0})
    if budget is None:
        return Spending(target, problem="the table has no train_flops: give a budget and costs")
    try:
        chosen = next(iter(fits.values())) if len(fits) == 1 else fits
        found = plan(chosen, budget, costs or {}, n_params=_size(part, fits), level=asked.level)
    except InputError as error:
        return Spending(target, asked=given, problem=str(error))
    return Spending(target, found, given)


def _size(part: Part, fits: dict) -> float | None:
    """The largest measured model where a law does not know the models' size; None lets the plan choose."""
    sizes = part.levels("n_params")
    knows = all("n_params" in fit.columns.values() for fit in fits.values())
    return None if knows or not len(sizes) else float(sizes[-1])


def _dearest(table: Rows) -> float | None:
    """FLOPs of the dearest run of each stage together, None where the table has none."""
    frame = table.to_pandas()
    stages = [frame] if "stage" not in frame.columns else [rows for _, rows in frame.groupby("stage")]
    flops = [levels(rows, "train_flops") for rows in stages]
    return sum(float(each[-1]) for each in flops if len(each)) or None
