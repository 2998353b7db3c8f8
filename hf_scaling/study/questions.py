"""What a study asks, and when its rows answer it: one judge for real studies, replays and simulations."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_scaling.boundary import find_boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import fit_law
from hf_scaling.planning import plan, transfer_gaps
from hf_scaling.planning.verdicts import describe_stages
from hf_scaling.report.answers import describe_boundary
from hf_scaling.text import format_percent

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.fitting.columns import TableLike

#: The questions in the order in which they are asked.
QUESTIONS = ("boundary", "gap", "plan")


@dataclass(frozen=True)
class Question:
    """A question about one target.

    Attributes:
        name: boundary (up to how many images does distillation pay?), gap (pre-train more, or label more?) or plan
            (what does a budget buy best?).
        target: The column asked about.
        n_params: Parameters of the student at which the boundary is asked: the middle one.
        full_range: The smallest n_pretrain that beats guessing, and all images of the source.
        downstream: The downstream set of gap and plan; None for the first with rows.
        budget: Of a plan, in the unit of its costs.
        costs: Prices of a plan, by name.
    """

    name: Literal["boundary", "gap", "plan"]
    target: str
    n_params: float
    full_range: tuple[float, float]
    downstream: str | None = None
    budget: float | None = None
    costs: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Answer:
    """What the rows say of a question.

    Attributes:
        question: The question.
        answered: Whether it counts as answered by these rows.
        verdict: A code of `find_boundary` (crossing, distillation_always, ...), `transfer_gaps` (low, high,
            cannot_tell) or `plan` (clear, hardly_matters, cannot_tell); too_few where the rows cannot be fitted.
        low: Lower end of the interval of `value`.
        high: Upper end of it.
        value: Of a boundary its n_pretrain, of a gap its share, of a plan the predicted target.
        text: The answer as one line.
        distance: How far from an answer: 0 where answered, up to 1.5 where the rows say nothing, infinite where
            nothing can be fitted. By it `all` takes the nearest question first, so it has one scale for all questions.
        missing: Levels of n_pretrain that must be measured before the verdict counts.
        evidence: What the next runs are chosen by: a `Boundary` or a `LawFit`; None where nothing can be fitted.
    """

    question: Question
    answered: bool
    verdict: str
    low: float
    high: float
    value: float
    text: str
    distance: float
    missing: Sequence[float] = ()
    evidence: Any = field(default=None, repr=False, compare=False)


#: Level of the intervals that decide. A study looks at its growing rows several times and stops when they look good:
#: each look is held to more than the 95 % that is meant for the whole (benchmarks/simulated_studies.py).
LEVEL = 0.97
# Draws of a look: a look in the loop must be quick.
_DRAWS = 300
# A crossing is known well enough when the ends of its interval differ by at most this factor.
_NARROW = 2.0
# A verdict on the whole range needs this many levels of n_pretrain, which reach its ends up to this factor.
_LEAST_LEVELS, _REACHED = 5, 1.05


def judge(table: "TableLike", question: Question, seed: int = 0) -> Answer:
    """What the rows of a table say of a question.

    Args:
        table: The rows so far.
        question: The question.
        seed: Of the bootstrap draws.
    """
    import pandas as pd

    frame = table.to_pandas() if hasattr(table, "to_pandas") else pd.DataFrame(table)
    try:
        if question.name == "boundary":
            return _judge_boundary(frame, question, seed)
        return _judge_gap(frame, question, seed) if question.name == "gap" else _judge_plan(frame, question, seed)
    except InputError as error:
        text = f"not answered yet: {error}"
        return Answer(question, False, "too_few", math.nan, math.nan, math.nan, text, math.inf)


def of_student(frame: "pd.DataFrame", n_params: float) -> "pd.DataFrame":
    """The rows of the student whose size is nearest to `n_params`.

    By the names of models where there are any: a head makes a fine-tuned row's size differ a little from its parent's.
    """
    if "n_params" not in frame or not len(frame):
        return frame
    nearest = np.abs(np.log(frame["n_params"].astype(float) / n_params)).idxmin()
    if "model" in frame:
        return frame[frame["model"] == frame.at[nearest, "model"]]
    return frame[frame["n_params"] == frame.at[nearest, "n_params"]]


def _judge_boundary(frame: "pd.DataFrame", question: Question, seed: int) -> Answer:
    rows = of_student(frame[frame["stage"] == "pretrain"] if "stage" in frame else frame, question.n_params)
    boundary = find_boundary(rows, question.target, bootstrap=_DRAWS, level=LEVEL, seed=seed)
    levels = boundary.difference["n_pretrain"].to_numpy()
    ends = question.full_range
    missing = [
        end
        for end, reached in zip(ends, (levels[0] / _REACHED <= ends[0], levels[-1] * _REACHED >= ends[1]))
        if not reached
    ]
    low, high = boundary.low, boundary.high
    if boundary.status == "crossing":
        assert low is not None and high is not None
        # Widths are compared in logarithms: nothing is left where the ends differ by the factor that is narrow enough.
        distance, missing = min(0.5, max(0.0, 0.5 * math.log(high / low) / math.log(_NARROW) - 0.5)), []
    elif boundary.status == "not_resolved":
        # As for the gap, the width of the interval as a share of what it could be: the whole range.
        widths = [math.log(c["high"] / c["low"]) for c in boundary.crossings if c["low"] > 0 and c["high"] < math.inf]
        distance = 0.5 + min(1.0, min(widths, default=math.inf) / math.log(max(ends[1] / ends[0], _NARROW)))
        falls = [c["n_pretrain"] for c in boundary.crossings if c["direction"] < 0]
        if any(levels[0] < size < levels[-1] for size in falls):
            # Runs around the crossing decide, not the dearest ones at the ends.
            missing = []
    else:
        distance = 0.25 * len(missing) + 0.25 * max(0, _LEAST_LEVELS - len(levels))
    value = math.nan if boundary.n_pretrain is None else boundary.n_pretrain
    return Answer(
        question,
        answered=distance == 0,
        verdict=boundary.status,
        low=math.nan if low is None else low,
        high=math.nan if high is None else high,
        value=value,
        text=describe_boundary(boundary, question.target, "images"),
        distance=distance,
        missing=missing,
        evidence=boundary,
    )


def _judge_gap(frame: "pd.DataFrame", question: Question, seed: int) -> Answer:
    rows = of_student(frame[(frame["stage"] == "finetune") & (frame["arm"] == "plain")], question.n_params)
    if question.downstream is not None:
        rows = rows[rows["downstream"] == question.downstream]
    gaps = transfer_gaps(rows, question.target, level=LEVEL, bootstrap=_DRAWS, seed=seed)
    gap = gaps.table.iloc[0].to_dict()
    share, low, high = gap["share"], gap["share_low"], gap["share_high"]
    answered = gap["verdict"] in ("low", "high")
    ends = (
        f"{format_percent(low)} to {format_percent(high)} of what the {question.target} can lose is the transfer gap"
    )
    meaning = {"low": "pre-train more", "high": "label more"}.get(
        gap["verdict"], "pre-train more, or label more, is open"
    )
    text = f"{gap['downstream']}: {meaning}; {ends}"
    if not answered and gap["helps_more"] != "cannot_tell":
        text += f"; {describe_stages(gap, question.target)}"
    width = high - low if high == high else 1.0
    return Answer(
        question, answered, gap["verdict"], low, high, share, text, 0.0 if answered else 0.5 + width,
        evidence=gaps.fits[gap["downstream"]],
    )  # fmt: skip


def _judge_plan(frame: "pd.DataFrame", question: Question, seed: int) -> Answer:
    rows = frame[frame["arm"] == "plain"] if "arm" in frame else frame
    if question.downstream is None:
        rows, law = rows[rows["stage"] == "pretrain"], "chinchilla"
    else:
        rows, law = (
            rows[(rows["stage"] == "finetune") & (rows["downstream"] == question.downstream)],
            "transfer_gap_joint",
        )
    if rows["model"].nunique() < 2:
        law = "power_law" if question.downstream is None else "transfer_gap"
    fit = fit_law(rows, law=law, target=question.target, bootstrap=_DRAWS, seed=seed)
    best = plan(fit, question.budget, question.costs or {}, level=LEVEL, table=frame)
    sizes = ", ".join(f"{name} {value:,}" for name, value in best.allocation.items() if isinstance(value, int))
    answered = best.verdict in ("clear", "hardly_matters")
    return Answer(
        question, answered, best.verdict or "cannot_tell", best.predicted["low"], best.predicted["high"],
        best.predicted["value"], f"the best use of the budget: {sizes}",
        0.0 if answered else 1.0 + min(0.5, best.regret),
        evidence=fit,
    )  # fmt: skip
