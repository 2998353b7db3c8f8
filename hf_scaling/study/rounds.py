"""The loop of a study: fit, judge, choose the next runs, measure them, until the questions are answered.

outcome = run_rounds(pool, [Question("boundary", "loss", n_params=211_338, full_range=(250, 60_000))])
outcome.status, outcome.answers["boundary"].text
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

from hf_scaling.study.questions import Answer, Question, judge

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.results import ResultsTable

__all__ = ["Answer", "Outcome", "Pool", "Question", "Round", "judge", "run_rounds"]


class Pool(Protocol):
    """The runs that can be measured."""

    def candidates(self) -> "pd.DataFrame":
        """The cells that have no row yet.

        Columns: stage, model, n_params, arm, n_pretrain, n_finetune, downstream (None in pretrain), seed, and seconds:
        what the cell takes with all that it still needs, such as its teacher and the checkpoint that it is fine-tuned
        from. The index identifies a cell, as text or a whole number, the same in every call.
        """

    def measure(self, cells: "pd.Index") -> None:
        """Train these cells and what they need; return when each has a row or has failed for good."""

    def table(self) -> "ResultsTable":
        """All finished rows."""

    def seconds_left(self) -> float:
        """Seconds that the study may still take."""


@dataclass(frozen=True)
class Round:
    """What one round learned and what comes next. The callback gets it before its cells are measured.

    Attributes:
        number: 0 for the pilot.
        answers: By the question's name; empty before the pilot.
        question: The question that the next cells are chosen for; None for the pilot, and where nothing comes next.
        cells: The cells that come next, a part of the pool's candidates; empty at the end.
        seconds: What they are expected to take.
        state: What to give to `run_rounds` to resume from here, as JSON. Write it before anything else.
    """

    number: int
    answers: Mapping[str, Answer]
    question: str | None
    cells: "pd.DataFrame"
    seconds: float
    state: dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """How the rounds ended.

    Attributes:
        status: answered (every question, confirmed by one more round), spent (of the seconds too few are left for a
            further run) or exhausted (no candidate is left).
        answers: The last answers by the question's name.
        rounds: All rounds of this call.
        state: What to give to `run_rounds` to continue, with more seconds or candidates.
    """

    status: Literal["answered", "spent", "exhausted"]
    answers: Mapping[str, Answer]
    rounds: Sequence[Round] = field(repr=False)
    state: dict[str, Any] = field(repr=False)


def run_rounds(
    pool: Pool,
    questions: Sequence[Question],
    report: Callable[[Round], None] | None = None,
    state: Mapping[str, Any] | None = None,
    share: float = 0.25,
    seed: int = 0,
) -> Outcome:
    """Measure a pilot, then round after round what narrows the nearest question most, until all are answered.

    Args:
        pool: What can be measured.
        questions: What is asked; they are taken in turn, the one nearest to an answer first.
        report: Called with each round before its cells are measured, and once at the end.
        state: `Round.state` or `Outcome.state` of an earlier call on the same pool: resumes there.
        share: Of the seconds left that a round may take.
        seed: Of the bootstrap draws.
    """
    raise NotImplementedError
