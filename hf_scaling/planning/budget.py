"""`plan`: the sizes, and the arm, that a budget buys best, and how sure that is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.planning.costs import check_prices, compute_of, cost_model, is_positive
from hf_scaling.planning.findings import findings
from hf_scaling.planning.frontier import best_allocation, frontier, predict_at
from hf_scaling.planning.marginal import marginal_values
from hf_scaling.planning.problem import Problem, check_limits, make_problem
from hf_scaling.planning.transfer import LAWS_WITH_A_GAP, judge_gap
from hf_scaling.planning.uncertainty import compare_arms, judge, with_arms


@dataclass(frozen=True)
class Plan:
    """What a budget buys best.

    Attributes:
        allocation: n_params, n_pretrain, n_finetune (None where the law does not say) and arm.
        predicted: value, low, high of the target there.
        intervals: Each size that was chosen to (low, high) of the best allocation over the bootstrap draws.
        regret: The share of the target that this allocation loses at most, in a share `level` of the draws, against
            each draw's own best; NaN without draws.
        verdict: clear, hardly_matters (the draws disagree on the sizes, and lose at most 1 % by it) or cannot_tell;
            None without draws.
        cost: What is paid for what: label, pretrain_image, pretrain_compute, teacher_compute, finetune_compute, total.
        frontier: A DataFrame: the best allocation and prediction for each budget from a hundredth to a hundredfold.
        marginal: A DataFrame: what one more of each size would bring, and one more unit of cost spent on it.
        arms: A DataFrame, a row an arm: its own best allocation, its prediction, and p_better, the share of the draws
            in which it is ahead of the best other one.
        gap: The transfer gap of the law (see `transfer_gaps`), where it has one and draws; else None.
        notes: Findings.
        budget: The budget.
        costs: The prices.
        target: What is predicted.
        level: Of the intervals.
    """

    allocation: dict[str, int | str | None]
    predicted: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    regret: float
    verdict: str | None
    cost: dict[str, float]
    frontier: object = field(repr=False)
    marginal: object = field(repr=False)
    arms: object = field(repr=False)
    gap: dict | None
    notes: list[dict]
    budget: float
    costs: dict[str, float]
    target: str
    level: float

    def summary(self) -> str:
        """The plan in words."""
        from hf_scaling.planning.words import describe_plan

        return describe_plan(self)


@dataclass(frozen=True)
class _Answer:
    """One arm's best."""

    problem: Problem
    sizes: dict[str, float]
    predicted: dict[str, float]


def plan(
    fit: LawFit | Mapping[str, LawFit],
    budget: float,
    costs: Mapping[str, float],
    n_params: float | Iterable[float] | str | None = None,
    epochs: float | None = None,
    level: float = 0.95,
    reuse: float = 1,
    teacher_free: bool = False,
    at_most: Mapping[str, float] | None = None,
    flops_per_param: float | None = None,
    flops_per_second: float | None = None,
    table=None,
) -> Plan:
    """Find the allocation of a budget whose predicted target is smallest.

    Args:
        fit: A law of n_params, n_pretrain and n_finetune, or some of them; or each arm's name to its law: the arm is
            then chosen too.
        budget: In the unit of the costs.
        costs: What one unit costs: label (a labelled downstream image), pretrain_image (a unique upstream image),
            flop, hour (of the device that the runs were measured on). What is left out is free.
        n_params: The model sizes to choose among: a number or several, "any" for every size; by default those
            measured.
        epochs: Passes over the upstream images; by default samples_seen follows n_pretrain as the table measured.
        level: Of the intervals.
        reuse: Over how many downstream sets one pre-trained model is used: each pays its share of pre-training.
        teacher_free: Do not count the teacher of a distilled arm; by default its training and its forward passes are.
        at_most: The most n_pretrain and n_finetune that may be had.
        flops_per_param: Training FLOPs a parameter and sample, instead of the table's train_flops.
        flops_per_second: The pace that an hour's price is turned into FLOPs by, instead of the table's seconds.
        table: Where train_flops, samples_seen and seconds are read; by default as kept with the law.

    Raises:
        InputError: The law's variables are not sizes, an argument cannot be used, nothing says how much compute a run
            takes although compute has a price, or the budget buys no run.
    """
    if not is_positive(budget):
        raise InputError(f"budget is a positive number, in the unit of the costs, not {budget!r}")
    fits, limits = _arms(fit), check_limits(at_most)
    problems = {}
    for arm, law in fits.items():
        model = cost_model(law, costs, table, epochs, reuse, teacher_free, flops_per_param, flops_per_second)
        sizes = compute_of(law, table).get("sizes", {})
        problems[arm] = make_problem(law, model, sizes, n_params, limits)
    answers = _answers(problems, budget, level)
    best = min(answers, key=lambda arm: answers[arm].predicted["value"])
    arms, doubt = _compare(answers, best, judge(answers[best].problem, budget, answers[best].sizes, level), level)
    settings = {"n_params": n_params, "table": table, "level": level}
    return Plan(
        allocation={**{name: _whole(value) for name, value in answers[best].sizes.items()}, "arm": best},
        predicted={name: answers[best].predicted[name] for name in ("value", "low", "high")},
        intervals=doubt.intervals,
        regret=doubt.regret,
        verdict=doubt.verdict,
        cost=_paid(answers[best]),
        frontier=frontier(problems, budget, level),
        marginal=marginal_values(answers[best].problem, answers[best].sizes, level),
        arms=arms,
        gap=_gap(fits[best], level),
        notes=findings({arm: (a.problem, a.sizes) for arm, a in answers.items()}, best, arms, doubt, settings),
        budget=float(budget),
        costs={name: price for name, price in check_prices(costs).items() if price},
        target=answers[best].problem.fit.settings["target"],
        level=level,
    )


def _arms(fit) -> dict[str | None, LawFit]:
    """Arm to its law.

    Raises:
        InputError: It is neither a fit nor a mapping of fits, or the arms predict different targets.
    """
    if isinstance(fit, LawFit):
        named = fit.data["study"].get("arm", [])
        return {named[0] if len(named) == 1 else None: fit}
    if not isinstance(fit, Mapping) or not fit or not all(isinstance(each, LawFit) for each in fit.values()):
        raise InputError("plan takes a fit, or a mapping of arms to fits: {'plain': fit, 'distilled': other}")
    targets = sorted({each.settings["target"] for each in fit.values()})
    if len(targets) > 1:
        raise InputError(f"the arms' laws predict different targets ({', '.join(targets)}): fit the same one")
    return {str(arm): each for arm, each in fit.items()}


def _answers(problems: dict, budget: float, level: float) -> dict[str | None, _Answer]:
    """Each arm's best, of those that the budget buys a run in.

    Raises:
        InputError: It buys none.
    """
    found = {arm: best_allocation(problem, budget) for arm, problem in problems.items()}
    if all(sizes is None for sizes in found.values()):
        least = min(_least(problem) for problem in problems.values())
        raise InputError(f"a budget of {budget:g} buys no run: the smallest costs {least:.3g} at these prices")
    return {
        arm: _Answer(problems[arm], sizes, predict_at(problems[arm], sizes, level))
        for arm, sizes in found.items()
        if sizes is not None
    }


def _least(problem: Problem) -> float:
    smallest = {name: np.array([ends[0]]) for name, ends in problem.ends.items()}
    costs = [problem.costs.total({"n_params": np.array([m]), **smallest})[0] for m in problem.n_params]
    return float(np.min(costs))


def _compare(answers: dict, best: str | None, doubt, level: float):
    """A table of the arms, each at its own best, and the doubt with the choice of the arm counted in."""
    import pandas as pd

    drawn, shares = {}, dict.fromkeys(answers, 1.0)
    if len(answers) > 1:
        for arm, a in answers.items():
            drawn[arm] = a.problem.fit.draw_values({name: np.array([v]) for name, v in a.sizes.items()})[:, 0]
        values = {arm: a.predicted["value"] for arm, a in answers.items()}
        shares, regret = compare_arms(drawn, values, level)
        doubt = with_arms(doubt, shares[best], regret)
    rows = [{"arm": arm, **a.sizes, **a.predicted, "p_better": shares[arm]} for arm, a in answers.items()]
    return pd.DataFrame(rows).drop(columns="extrapolation"), doubt


def _paid(answer: _Answer) -> dict[str, float]:
    parts = answer.problem.costs.parts({name: np.array([value]) for name, value in answer.sizes.items()})
    paid = {name: float(value[0]) for name, value in parts.items()}
    return {**paid, "total": sum(paid.values())}


def _gap(fit: LawFit, level: float) -> dict | None:
    return judge_gap(fit, level) if fit.law in LAWS_WITH_A_GAP and len(fit.draws) else None


def _whole(value: float) -> int | None:
    return None if np.isnan(value) else int(value)
