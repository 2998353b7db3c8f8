"""`plan`: the sizes, and the arm, that a budget buys best, and how sure that is."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.rows import note
from hf_scaling.planning.costs import LogCurve, check_prices, compute_of, cost_model, is_positive
from hf_scaling.planning.optimum import (
    CLEAR_SHARE,
    Problem,
    best_allocation,
    check_limits,
    compare_arms,
    frontier,
    judge,
    make_problem,
    marginal_values,
    predict_at,
    with_arms,
)
from hf_scaling.planning.transfer import LAWS_WITH_A_GAP, judge_gap

# Up to this factor outside the measured sizes a warning will do.
_FAR = 10.0
# Sizes are rounded to whole ones: that is not outside.
_INSIDE = 1.001
# Passes over the images count as those measured up to this factor.
_SAME_PASSES = 1.25


def findings(answers: dict, best: str | None, arms, doubt, settings: dict) -> list[dict]:
    """All notes of a plan.

    Args:
        answers: Arm to its problem and its best sizes.
        best: The arm chosen.
        arms: The arms' table.
        doubt: What the draws say.
        settings: n_params, table and level of the plan.
    """
    problem, sizes = answers[best]
    notes = _out_of_range(problem, sizes) + _largest_model(problem, sizes, settings)
    notes += _limits(problem, sizes) + _passes(problem, sizes, settings)
    notes += _law_notes(problem.fit) + _arm_notes(answers, best, arms) + _doubt_notes(doubt, settings["level"])
    for arm, (each, _) in answers.items():
        of_arm = f"{arm}: " if len(answers) > 1 else ""
        notes += [{**n, "text": of_arm + n["text"]} for n in (*each.costs.notes, *each.notes)]
    return notes


def _out_of_range(problem, sizes: dict[str, float]) -> list[dict]:
    notes = []
    for name, (low, high) in problem.fit.data["ranges"].items():
        factor = sizes[name] / high if sizes[name] > high else low / sizes[name] if 0 < sizes[name] < low else 1.0
        if factor <= _INSIDE:
            continue
        side = f"{factor:.3g} times the largest measured ({high:,.10g})"
        if sizes[name] < low:
            side = f"{factor:.3g} times smaller than the smallest measured ({low:,.10g})"
        text = f"{name} {sizes[name]:,.10g} is {side}: measure nearer to it before spending"
        notes.append(note("out_of_range", "error" if factor > _FAR else "warn", text))
    return notes


def _largest_model(problem, sizes: dict[str, float], settings: dict) -> list[dict]:
    """Say that a larger model may be better still, where only the measured ones were looked at."""
    looked = "n_params" in problem.fit.columns.values() and settings["n_params"] is None
    if not looked or sizes["n_params"] < max(problem.n_params) / _INSIDE:
        return []
    text = "the largest model measured is the best of those measured: n_params='any' looks beyond"
    return [note("largest_model", "info", text)]


def _limits(problem, sizes: dict[str, float]) -> list[dict]:
    """Say where a size would go on growing, were there more of it."""
    held = [name for name in problem.bought if sizes[name] >= problem.ends[name][1] / _INSIDE]
    text = "{} {:,.10g} is the most that may be bought: the marginal values say what more of it would bring"
    return [note("limit_reached", "info", text.format(name, sizes[name])) for name in held]


def _passes(problem, sizes: dict[str, float], settings: dict) -> list[dict]:
    """Say where the passes over the images are not those that the law was fitted to."""
    samples = compute_of(problem.fit, settings["table"]).get("pretrain", {}).get("samples", [])
    training, size = problem.costs.pretraining, sizes["n_pretrain"]
    if training is None or not len(samples) or not size > 0:
        return []
    at, largest = np.array([size]), samples[-1][0]
    passes = float(LogCurve(samples, below="first")(at)[0] / size)
    asked = float(training.samples(at)[0] / size)
    if abs(np.log(asked / passes)) > np.log(_SAME_PASSES):
        own = f"the runs' own {passes:.3g}"
        text = f"{asked:.3g} passes over {size:,.10g} images are not {own}: the law knows nothing of them"
        return [note("passes_not_measured", "warn", text)]
    if size > largest:
        text = (
            f"beyond {largest:,.10g} images as many passes are counted as there, {passes:.3g}; epochs= says otherwise"
        )
        return [note("passes_carried_on", "info", text)]
    return []


def _law_notes(fit) -> list[dict]:
    notes = []
    if fit.status != "ok":
        text = f"the law's own verdict is {fit.status}: read this plan as one possibility (docs/fitting.md)"
        notes.append(note("law_in_doubt", "warn", text))
    return notes


def _arm_notes(answers: dict, best: str | None, arms) -> list[dict]:
    if len(answers) < 2:
        return []
    ahead = float(arms.set_index("arm")["p_better"][best])
    notes = []
    if ahead < CLEAR_SHARE:
        text = f"{best} is ahead in {100 * ahead:.0f} % of the draws only: the arms cannot be told apart here"
        notes.append(note("arms_open", "warn", text))
    if not _paired([problem.fit for problem, _ in answers.values()]):
        text = "the arms' rows differ in their sizes, so their draws are not paired: p_better is rough"
        notes.append(note("arms_unpaired", "info", text))
    return notes


def _paired(fits) -> bool:
    """Whether draw b of each fit used the same multipliers for the same configurations."""
    settings = ("seed", "bootstrap", "method")
    found = [(*(fit.settings[name] for name in settings), fit.scores["n_configurations"], _spans(fit)) for fit in fits]
    return all(each == found[0] for each in found)


def _spans(fit) -> dict[str, tuple]:
    return {name: (*fit.data["ranges"][name], fit.data["levels"][name]) for name in fit.data["ranges"]}


def _doubt_notes(doubt, level: float) -> list[dict]:
    if doubt.verdict is None:
        return [note("no_draws", "warn", "the fit holds no usable bootstrap draws: nothing says how sure this is")]
    if doubt.verdict == "clear":
        return []
    spans = "; ".join(f"{name} {_count(low)} to {_count(high)}" for name, (low, high) in doubt.intervals.items())
    lost = f"in {level:.0%} of the draws this allocation is at most {doubt.regret:.1%} worse than the draw's own best"
    if doubt.verdict == "hardly_matters":
        return [note("flat_optimum", "info", f"{lost}, which lies at {spans or 'the same sizes'}")]
    text = f"{lost}, which lies at {spans or 'the same sizes'}: run what suggest_runs names first"
    return [note("allocation_open", "warn", text)]


def _count(value: float) -> str:
    return f"{value:,.0f}" if value < 1e7 else f"{value:.3g}"


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
        from hf_scaling.planning.verdicts import describe_plan

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
