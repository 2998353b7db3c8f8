"""The loop of a study: fit, judge, choose the next runs, measure them, until the questions are answered.

outcome = run_rounds(pool, [Question("boundary", "loss", n_params=211_338, full_range=(250, 60_000))])
outcome.status, outcome.answers["boundary"].text
"""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
import pandas as pd

from hf_scaling.boundary import Boundary
from hf_scaling.errors import InputError
from hf_scaling.planning import suggest_runs
from hf_scaling.planning.next_runs.gain import estimate_quantity
from hf_scaling.study.questions import Answer, Question, judge, of_student

if TYPE_CHECKING:
    from hf_scaling.results import ResultsTable

__all__ = ["Answer", "Outcome", "Pool", "Question", "Round", "judge", "run_rounds"]


class Pool(Protocol):
    """The runs that can be measured.

    Attributes:
        workers: Cells that are measured at once.
    """

    workers: int

    def candidates(self) -> pd.DataFrame:
        """The cells that have no row yet.

        Columns: stage, model, n_params, arm, n_pretrain, n_finetune, downstream (None in pretrain), seed, and seconds:
        what the cell takes with all that it still needs, such as its teacher and the checkpoint that it is fine-tuned
        from. The index identifies a cell, as text or a whole number, the same in every call.
        """

    def measure(self, cells: pd.Index) -> None:
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
    cells: pd.DataFrame
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


# An answer counts when it has stayed the same in this many judgements: the runs of one more round have not undone it.
_CONFIRMED = 2
# Levels of n_pretrain, of each arm, and of n_finetune in the pilot.
_PILOT_LEVELS, _PILOT_LABELS = 5, 3
# Of the seconds spent so far a round may take the first share, and one that confirms an answer the second.
_GROWTH, _CONFIRMING = 0.5, 0.15
# Students whose sizes differ by less than this factor are one: heads differ.
_SAME_SIZE = 1.3
# The least distance by which what a question has cost is multiplied: one that only lacks confirming is near.
_NEAREST = 0.25
# With this many pairs a crossing inside shows in most studies; where none does, its place is noise.
_SEARCHED_PAIRS = 10
# Share of the seconds that both arms of one level of the pilot may take.
_PILOT_PRICE = 0.02


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
        questions: What is asked; they are taken in turn, the nearest to an answer first and more often.
        report: Called with each round before its cells are measured, and once at the end.
        state: `Round.state` or `Outcome.state` of an earlier call on the same pool: resumes there.
        share: Of the seconds left that a round may take.
        seed: Of the bootstrap draws.

    Returns:
        The outcome. With the same pool, questions and seed the rounds are the same, interrupted or not.
    """
    loop = _Loop(pool, questions, report or (lambda _: None), dict(state or {}), share, seed)
    return loop.run()


@dataclass
class _Loop:
    """The loop's state: the number of the round, the cells it measures, and how often each answer has stayed."""

    pool: Pool
    questions: Sequence[Question]
    report: Callable[[Round], None]
    state: dict[str, Any]
    share: float
    seed: int
    rounds: list[Round] = field(default_factory=list)

    def run(self) -> Outcome:
        number, stayed = self.state.get("round", 0), dict(self.state.get("stayed", {}))
        chosen = self.state.get("cells")
        if chosen is None:
            chosen = list(self._pilot().index)
            self._begin(number, {}, None, chosen, stayed)
        self._measure(chosen)
        while True:
            number += 1
            table = self.pool.table()
            answers = {question.name: judge(table, question, self.seed) for question in self.questions}
            # Runs measured for another question confirm nothing.
            asked, before, stayed = self.state.get("question"), stayed, {}
            for name, answer in answers.items():
                last = before.get(name)
                same = last is not None and last["times"] > 0 and last["verdict"] == answer.verdict
                times = last["times"] + (asked in (None, name)) if last is not None and same else 1
                stayed[name] = {"verdict": answer.verdict, "times": times if answer.answered else 0}
            if all(kept["times"] >= _CONFIRMED for kept in stayed.values()):
                return self._end("answered", number, answers, stayed)
            if not len(self.pool.candidates()):
                return self._end("exhausted", number, answers, stayed)
            question, cells = self._next(answers, stayed)
            if not len(cells):
                return self._end("spent", number, answers, stayed)
            self._begin(number, answers, question, list(cells.index), stayed)
            self._measure(list(cells.index))

    def _begin(
        self, number: int, answers: Mapping[str, Answer], question: str | None, cells: list, stayed: Mapping[str, Any]
    ) -> None:
        candidates = self.pool.candidates()
        chosen = candidates.loc[candidates.index.intersection(cells, sort=False)]
        seconds = float(chosen["seconds"].sum())
        spent = self.state.get("spent", 0.0) + seconds
        spent_on = dict(self.state.get("spent_on", {}))
        if question is not None:
            spent_on[question] = spent_on.get(question, 0.0) + seconds
        self.state = {
            "round": number, "cells": cells, "question": question, "stayed": dict(stayed), "spent": spent,
            "spent_on": spent_on,
        }  # fmt: skip
        begun = Round(number, answers, question, chosen, seconds, self.state)
        self.rounds.append(begun)
        self.report(begun)

    def _measure(self, cells: list) -> None:
        # After an interruption some of the cells have rows already.
        left = self.pool.candidates().index.intersection(cells, sort=False)
        if len(left):
            self.pool.measure(left)

    def _end(
        self, status: Literal["answered", "spent", "exhausted"], number: int, answers: dict[str, Answer], stayed: dict
    ) -> Outcome:
        # Continued with more seconds, the loop judges once more before it chooses.
        self.state = {**self.state, "round": number - 1, "cells": []}
        candidates = self.pool.candidates()
        last = Round(number, answers, None, candidates.iloc[:0], 0.0, self.state)
        self.rounds.append(last)
        self.report(last)
        return Outcome(status, answers, self.rounds, self.state)

    def _pilot(self) -> pd.DataFrame:
        """Few levels of both arms at the middle student, then few labels of the plain arm, cheapest first."""
        candidates, seconds = self.pool.candidates(), self.pool.seconds_left()
        middle = of_student(candidates, self.questions[0].n_params)
        first = middle[middle["seed"] == middle["seed"].min()]
        upstream = first[first["stage"] == "pretrain"]
        levels = np.sort(upstream["n_pretrain"].unique())
        least, most = self.questions[0].full_range
        levels = levels[(levels >= least * 0.999) & (levels <= most * 1.001)]
        # The largest levels are dear, and need not be measured where the arms cross below them.
        price = upstream.groupby("n_pretrain")["seconds"].sum()
        levels = levels[(price[levels] <= seconds * _PILOT_PRICE) | (np.arange(len(levels)) < _PILOT_LEVELS - 1)]
        chosen = [upstream[upstream["n_pretrain"].isin(spread(levels, _PILOT_LEVELS))]]
        if any(question.name != "boundary" for question in self.questions):
            tuned = first[(first["stage"] == "finetune") & (first["arm"] == "plain")]
            labelled = tuned[tuned["n_pretrain"] > 0]
            for _, cells in labelled.groupby("downstream"):
                pretrained = spread(np.sort(cells["n_pretrain"].unique()), 3)
                labels = spread(np.sort(cells["n_finetune"].unique()), _PILOT_LABELS)
                chosen.append(cells[cells["n_pretrain"].isin(pretrained) & cells["n_finetune"].isin(labels)])
            # What pre-training is worth at all is asked first: the same without it.
            chosen.append(tuned[(tuned["n_pretrain"] == 0) & tuned["n_finetune"].isin(chosen[-1]["n_finetune"])])
        cells = pd.concat(chosen).sort_values("seconds", kind="stable")
        # A pilot that takes all the time leaves none for the answer; both arms of a level or neither.
        affordable = cells[cells["seconds"].cumsum() <= max(seconds * 0.5, cells["seconds"].iloc[:4].sum())]
        return affordable[_in_pairs(affordable) | (affordable["stage"] == "finetune")]

    def _next(
        self, answers: Mapping[str, Answer], stayed: Mapping[str, Mapping[str, Any]]
    ) -> tuple[str | None, pd.DataFrame]:
        """The open question whose turn it is among those for which something affordable is left, and its cells.

        The nearest to an answer comes first; what a question has cost so far puts it back, the more the farther it is,
        so that one that no run brings nearer does not take the time of the others.
        """
        candidates, left = self.pool.candidates(), self.pool.seconds_left()
        by_name = {question.name: question for question in self.questions}
        still = [name for name in answers if stayed[name]["times"] < _CONFIRMED]
        spent_on = self.state.get("spent_on", {})

        def turn(name: str) -> tuple[bool, float, float]:
            # What cannot be fitted yet lacks a part of its pilot, which comes first.
            answer = answers[name]
            cost = spent_on.get(name, 0.0)
            return answer.verdict != "too_few", cost * max(answer.distance, _NEAREST) if cost else 0.0, answer.distance

        for name in sorted(still, key=turn):
            question = by_name[name]
            # The cheapest cell may be taken whatever its share.
            growth = _CONFIRMING if answers[name].answered else _GROWTH
            budget = min(left * self.share, self.state["spent"] * growth)
            cells = self._of_boundary(candidates, answers[name], budget, left) if name == "boundary" else None
            if cells is None:
                cells = self._of_labels(candidates, question, answers[name], budget, left)
            if len(cells):
                return name, cells
        return None, candidates.iloc[:0]

    def _of_boundary(self, candidates: pd.DataFrame, answer: Answer, budget: float, left: float) -> pd.DataFrame:
        """Pairs of runs of the middle student, for the crossing."""
        middle = _at(candidates[candidates["stage"] == "pretrain"], answer.question.n_params)
        pairs = middle[_in_pairs(middle)] if len(middle) else middle
        if not len(pairs):
            return pairs
        grouped = pairs.groupby(["n_pretrain", "seed"], sort=True)["seconds"].sum().reset_index(name="cost")
        grouped = grouped[grouped["cost"] <= left]
        if not len(grouped):
            return pairs.iloc[:0]
        budget = max(budget, grouped["cost"].min())
        picked: set[tuple] = set()
        for level in answer.missing:
            nearest = grouped.iloc[np.argmin(np.abs(np.log(grouped["n_pretrain"] / level)) + 1e-6 * grouped["seed"])]
            if nearest["cost"] <= left:
                picked.add((nearest["n_pretrain"], nearest["seed"]))
        boundary = answer.evidence
        if not picked and boundary is not None:
            is_seen = boundary.status == "crossing" or len(boundary.leads) == 2
            # One arm is ahead somewhere and the curve has no zero inside: always or never depends on the other levels.
            least, most = answer.question.full_range
            inside = [cross for cross in boundary.crossings if least <= cross["n_pretrain"] <= most]
            is_one_sided = len(boundary.leads) == 1 and not inside
            if is_seen or (len(boundary.evidence.pairs) < _SEARCHED_PAIRS and not is_one_sided):
                # Nothing where it cannot be said which pairs narrow the interval of the crossing most.
                with contextlib.suppress(InputError):
                    runs = suggest_runs(boundary, grouped, budget=budget, quantity="boundary")
                    picked = set(zip(runs["n_pretrain"], runs["seed"]))
            else:
                picked = _over_levels(grouped, boundary, budget)
        if not picked:
            # Nearest to where the arms may cross.
            centre = float(np.exp(np.mean(np.log(answer.question.full_range))))
            if boundary is not None and boundary.crossings:
                centre = float(np.clip(boundary.crossings[0]["n_pretrain"], *answer.question.full_range))
            distance = np.abs(np.log(grouped["n_pretrain"] / centre)) + 0.5 * grouped["seed"]
            ordered = grouped.iloc[np.argsort(distance, kind="stable")]
            within = ordered[(ordered["cost"].cumsum() <= budget) | (np.arange(len(ordered)) == 0)]
            picked = set(zip(within["n_pretrain"], within["seed"]))
        return pairs[[key in picked for key in zip(pairs["n_pretrain"], pairs["seed"])]]

    def _of_labels(
        self, candidates: pd.DataFrame, question: Question, answer: Answer, budget: float, left: float
    ) -> pd.DataFrame:
        """Fine-tuned (without a downstream set: pretrained) runs of the plain arm, for a gap or a plan."""
        stage = "pretrain" if question.downstream is None and question.name == "plan" else "finetune"
        cells = candidates[(candidates["stage"] == stage) & (candidates["arm"] == "plain")]
        cells = cells[(cells["seconds"] <= left) & (cells["n_pretrain"] > 0)]
        if question.downstream is not None:
            cells = cells[cells["downstream"] == question.downstream]
        if question.name == "gap":
            cells = _at(cells, question.n_params)
        if not len(cells):
            return cells
        # Fewer runs than workers leave some of them idle.
        budget = max(budget, cells["seconds"].nsmallest(self.pool.workers).sum())
        if answer.evidence is not None:
            sizes = ["n_params", "n_pretrain", "n_finetune"]
            frame = cells[[*sizes, "seed"]].assign(cost=cells["seconds"])
            try:
                quantity = "G" if question.name == "gap" else "prediction"
                runs = suggest_runs(answer.evidence, frame, budget=budget, quantity=quantity)
                if len(runs):
                    return cells.loc[cells.index.intersection(runs.index, sort=False)]
            except InputError:
                pass
        # What is not known yet first: new sizes before repeats, spread from small to large, cheapest first.
        ordered = cells.sort_values(["seed", "seconds"], kind="stable")
        return ordered[ordered["seconds"].cumsum() <= budget]


def _at(cells: pd.DataFrame, n_params: float) -> pd.DataFrame:
    """The cells of the student of about this size; none where only other students have cells left."""
    return of_student(cells[np.abs(np.log(cells["n_params"].astype(float) / n_params)) < np.log(_SAME_SIZE)], n_params)


def spread(levels: np.ndarray, n: int) -> np.ndarray:
    """At most n of the levels, both ends among them, evenly spread."""
    return levels[np.unique(np.round(np.linspace(0, len(levels) - 1, min(n, len(levels)))).astype(int))]


def _in_pairs(cells: pd.DataFrame) -> np.ndarray:
    """Whether each pretraining cell has its partner in the other arm among the cells."""
    arms = cells[cells["stage"] == "pretrain"].groupby(["model", "n_pretrain", "seed"])["arm"].transform("nunique")
    return arms.reindex(cells.index).eq(2).to_numpy()


def _over_levels(grouped: pd.DataFrame, boundary: Boundary, budget: float) -> set[tuple]:
    """Pairs that narrow the difference of the arms over all levels most for their seconds, while no crossing shows.

    A zero of a curve whose intervals hold zero everywhere is noise: runs around it would say nothing of the other
    levels, on which always, never and no_difference depend as much. Pairs are taken one by one, each by how much it
    lowers the sum of the variances of the curve at all levels, a normal approximation of its draws.
    """
    estimate = estimate_quantity(boundary, "boundary", None)
    levels = np.union1d(grouped["n_pretrain"], boundary.difference["n_pretrain"]).astype(float)
    others = {name: np.full(len(levels), size) for name, size in boundary.sizes.items()}
    covariance = np.atleast_2d(np.cov(estimate.predict_runs({"n_pretrain": levels, **others}), rowvar=False))
    noise = max(estimate.noise, 1e-8)
    open_pairs = grouped.sort_values("seed")
    picked: set[tuple] = set()
    while len(open_pairs):
        first = open_pairs.groupby("n_pretrain", as_index=False).first()
        place = np.searchsorted(levels, first["n_pretrain"])
        lowered = (covariance[:, place] ** 2).sum(axis=0) / (covariance[place, place] + noise)
        best = first.iloc[int(np.argmax(lowered / first["cost"]))]
        budget -= best["cost"]
        picked.add((best["n_pretrain"], best["seed"]))
        at = int(np.searchsorted(levels, best["n_pretrain"]))
        covariance = covariance - np.outer(covariance[:, at], covariance[at]) / (covariance[at, at] + noise)
        taken = (open_pairs["n_pretrain"] == best["n_pretrain"]) & (open_pairs["seed"] == best["seed"])
        open_pairs = open_pairs[~taken & (open_pairs["cost"] <= budget)]
    return picked
