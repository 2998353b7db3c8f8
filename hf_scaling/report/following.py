"""Which runs to make next: those that narrow a part's most open interval most for a quarter of what it has cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.planning import suggest_runs
from hf_scaling.report.crossing import Crossing
from hf_scaling.report.laws import ArmLaw
from hf_scaling.report.parts import Part, Rows

# Of the FLOPs that the part's runs took: enough for a few more, and less than doing it again.
_SHARE = 0.25


@dataclass(frozen=True)
class Following:
    """The runs suggested next for one target of a part, or why there are none.

    Attributes:
        target: What they are about.
        quantity: boundary or prediction.
        budget: FLOPs that they may take.
        runs: As `suggest_runs` gives them; None where it cannot.
        problem: Why it cannot; "" otherwise.
    """

    target: str
    quantity: str
    budget: float
    runs: object = None
    problem: str = ""


def find_following(
    part: Part, target: str, laws: Sequence[ArmLaw], crossings: Sequence[Crossing], table: Rows
) -> Following | None:
    """Aim at the boundary where it was looked for and is not settled, else at the best arm's prediction.

    Args:
        part: The runs.
        target: What to aim at.
        laws: The part's, of every target.
        crossings: Likewise.
        table: All rows, of every stage: which checkpoints there are, and what they took.

    Returns:
        None where the runs' FLOPs are not known or nothing was fitted.
    """
    budget = _SHARE * _taken(part)
    aims = [("boundary", c.boundary) for c in crossings if c.target == target and _open(c)]
    fitted = [law for law in laws if law.target == target and law.fit is not None]
    best = min(fitted, key=lambda law: law.best[target], default=None)
    aims += [("prediction", best.fit)] if best else []
    if not aims or not budget > 0:
        return None
    quantity, aim = aims[0]
    try:
        return Following(target, quantity, budget, suggest_runs(aim, budget=budget, quantity=quantity, table=table))
    except InputError as error:
        return Following(target, quantity, budget, problem=str(error))


def _open(crossing: Crossing) -> bool:
    return crossing.boundary is not None and crossing.boundary.status in ("crossing", "not_resolved")


def _taken(part: Part) -> float:
    frame = part.rows.to_pandas()
    columns = [name for name in ("train_flops", "teacher_flops") if name in frame.columns]
    return float(np.nansum(frame[columns].to_numpy(dtype=float, na_value=np.nan))) if columns else 0.0
