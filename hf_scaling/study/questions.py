"""What a study asks, and when its rows answer it: one judge for real studies, replays and simulations."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from hf_scaling.fitting.rows import TableLike

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
        distance: How far from an answer, 0 where answered; infinite where nothing can be fitted. By it `all` takes
            the nearest question first.
        missing: Levels of n_pretrain that must be measured before the verdict counts.
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


def judge(table: "TableLike", question: Question, look: int = 1, seed: int = 0) -> Answer:
    """What the rows of a table say of a question.

    Args:
        table: The rows so far.
        question: The question.
        look: Which look at growing rows this is, from 1: later looks count for less, so that stopping at a good
            moment does not bias what is reported (docs/study.md).
        seed: Of the bootstrap draws.
    """
    raise NotImplementedError
