"""`plan`: the sizes, and the arm, that a budget buys best, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.columns import SIZES, Columns, note, notes_on_rows
from hf_scaling.fitting.levels import level_notes, levels_of
from hf_scaling.fitting.target import TargetScale
from hf_scaling.planning.costs import CostOptions, LogCurve, check_prices, compute_of, cost_model, is_positive
from hf_scaling.planning.limits import Available, available_sizes, study_of
from hf_scaling.planning.optimum import (
    CLEAR_SHARE,
    Allocation,
    Uncertainty,
    best_by_arm,
    check_limits,
    frontier,
    judge_arms,
    judge_sizes,
    make_problem,
    marginal_values,
)
from hf_scaling.planning.transfer import LAWS_WITH_A_GAP, judge_gap
from hf_scaling.planning.verdicts import describe_plan
from hf_scaling.results.remedies import missing_columns
from hf_scaling.text import format_count, format_percent, format_whole

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table, TableLike

# Up to this factor outside the measured sizes a note is a warning, beyond it an error.
_FAR = 10.0
# Sizes are rounded to whole ones: this factor does not count as outside.
_INSIDE = 1.001
# Up to this factor passes over the images count as the measured ones.
_SAME_PASSES = 1.25


@dataclass(frozen=True)
class Plan:
    """The best use of a budget.

    Attributes:
        allocation: n_params, n_pretrain, n_finetune (None where the law does not determine it) and arm.
        predicted: value, low, high of the target there.
        intervals: Each chosen size to (low, high) of the best allocation over the bootstrap draws.
        regret: The share of the target that this allocation loses at most, in a share `level` of the draws, against
            each draw's own best; NaN without draws.
        verdict: clear, hardly_matters (the draws disagree on the sizes, and lose at most 1 % by it) or cannot_tell
            (they lose more, or a size to choose takes fewer than three levels); None without draws.
        cost: Costs of label, pretrain_image, pretrain_compute, teacher_compute, finetune_compute, and their total.
        frontier: The best allocation and prediction for each budget from a hundredth to a hundred times this one.
        marginal: The value of one more of each size, and of one more unit of cost spent on it.
        arms: A row an arm: its best allocation, its prediction, and p_better, the share of the draws in which it is
            ahead of the best other arm.
        gap: The transfer gap of the law (see `transfer_gaps`), where it has one and draws; else None.
        notes: Findings, each with code, grade and text.
        budget: The budget.
        costs: The prices.
        target: The predicted column.
        level: Of the intervals.
    """

    allocation: dict[str, int | str | None]
    predicted: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    regret: float
    verdict: str | None
    cost: dict[str, float]
    frontier: pd.DataFrame = field(repr=False)
    marginal: pd.DataFrame = field(repr=False)
    arms: pd.DataFrame = field(repr=False)
    gap: dict | None
    notes: list[dict]
    budget: float
    costs: dict[str, float]
    target: str
    level: float

    def summary(self) -> str:
        """The plan as text for a terminal."""
        return describe_plan(self)


def plan(
    fit: LawFit | Mapping[str, LawFit],
    budget: float,
    costs: Mapping[str, float],
    n_params: float | Sequence[float] | str | None = None,
    epochs: float | None = None,
    level: float = 0.95,
    reuse: float = 1,
    teacher_free: bool = False,
    at_most: Mapping[str, float] | None = None,
    flops_per_param: float | None = None,
    flops_per_second: float | None = None,
    table: "TableLike | None" = None,
    study: str | Path | None = None,
) -> Plan:
    """Find the allocation of a budget with the best predicted target: the smallest, or the highest of a score.

    Args:
        fit: A law of n_params, n_pretrain and n_finetune, or some of them; or each arm's name to its law: the arm is
            then chosen too.
        budget: In the unit of the prices.
        costs: Price of a label (a labelled downstream image), pretrain_image (a unique upstream image), flop, or hour
            (of the device that the runs were measured on). What is left out is free.
        n_params: Model sizes to choose among: one or several, "any" for every size; by default the measured ones.
        epochs: Passes over the upstream images; by default samples_seen follows n_pretrain as in the table.
        level: Of the intervals, between 0 and 1.
        reuse: Number of downstream sets that share one pre-trained model: each pays its share of pre-training.
        teacher_free: Whether the teacher of a distilled arm is not counted; by default its training and its forward
            passes are.
        at_most: The most n_pretrain and n_finetune that are available; by default what the sources of `study` have.
        flops_per_param: Training FLOPs per parameter and sample, instead of the table's train_flops.
        flops_per_second: FLOPs per second that the price of an hour is converted with, instead of the table's seconds.
        table: Results to read train_flops, samples_seen and seconds from; by default those stored with the law.
        study: Folder of the study whose sources.json says how many images and labels there are; by default `table`,
            where that is one.

    Returns:
        A Plan; doubts are in its verdict and notes.

    Raises:
        InputError: A variable of the law is not a size, an argument is unusable, compute has a price and its amount is
            unknown, or the budget buys no run.

    Example:
        `hs.plan(fit, budget=500, costs={"label": 0.5, "hour": 2.0}).allocation`
    """
    if not is_positive(budget):
        raise InputError(f"budget must be a positive number, in the unit of the costs, not {budget!r}")
    fits, limits = _fits_by_arm(fit), check_limits(at_most)
    # The search minimises what is fitted: 1 - accuracy for an accuracy.
    scale = next(iter(fits.values())).scale
    fits = {arm: law.in_fitted_units() for arm, law in fits.items()}
    options = CostOptions(epochs, reuse, teacher_free, flops_per_param, flops_per_second)
    problems, available = {}, {}
    folder = study_of(study, table)
    for arm, law in fits.items():
        compute = compute_of(law, table)
        model = cost_model(law.columns.values(), compute, costs, options)
        available[arm] = available_sizes(folder, law.columns.values(), law.data["study"], limits)
        problems[arm] = make_problem(law, model, compute, n_params, limits, available[arm].most)
    allocations = best_by_arm(problems, budget, level)
    if not allocations:
        least = min(
            problem.costs.total(
                {"n_params": problem.n_params, **{name: np.array([end]) for name, (end, _) in problem.ends.items()}}
            ).min()
            for problem in problems.values()
        )
        raise InputError(f"budget: {format_count(budget)} buys no run; the smallest costs {format_count(least)}")
    best = min(allocations, key=lambda arm: allocations[arm].predicted["value"])
    chosen = allocations[best]
    p_better, uncertainty = judge_arms(allocations, judge_sizes(chosen, budget, level), level)
    arms = _in_own_units(
        pd.DataFrame(
            [{"arm": arm, **a.sizes, **a.predicted, "p_better": p_better[arm]} for arm, a in allocations.items()]
        ),
        scale,
    )
    predicted = arms.iloc[list(allocations).index(best)]
    marginal = marginal_values(chosen, level)
    # Improvements of the target in its own units.
    marginal[["per_unit", "per_cost", "low", "high"]] /= abs(scale.factor)
    cost = {name: float(value[0]) for name, value in chosen.problem.costs.parts(chosen.arrays).items()}
    too_few = [found for arm, one in allocations.items() for found in _too_few_levels(one, available[arm])]
    notes = too_few + _size_notes(chosen, searched=n_params is None, source=available[best].source)
    notes += _certainty_notes(allocations, best, p_better[best], uncertainty, level)
    notes += available[best].notes(chosen.problem.bought)
    for arm, allocation in allocations.items():
        of_arm = f"{arm}: " if len(allocations) > 1 else ""
        assumed = (*allocation.problem.costs.notes, *allocation.problem.notes)
        notes += [{**n, "text": of_arm + n["text"]} for n in assumed]
    return Plan(
        allocation={**{n: None if np.isnan(v) else int(v) for n, v in chosen.sizes.items()}, "arm": best},
        predicted={name: float(predicted[name]) for name in ("value", "low", "high")},
        intervals=uncertainty.intervals,
        regret=uncertainty.regret,
        verdict="cannot_tell" if too_few else uncertainty.verdict,
        cost={**cost, "total": sum(cost.values())},
        frontier=_in_own_units(frontier(problems, budget, level), scale),
        marginal=marginal,
        arms=arms.drop(columns="extrapolation"),
        gap=judge_gap(fits[best], level) if fits[best].law in LAWS_WITH_A_GAP and len(fits[best].draws) else None,
        notes=notes,
        budget=float(budget),
        costs={name: price for name, price in check_prices(costs).items() if price},
        target=fits[best].settings["target"],
        level=level,
    )


def _fits_by_arm(fit: LawFit | Mapping[str, LawFit]) -> dict[str | None, LawFit]:
    """Arm to its law.

    Raises:
        InputError: It is neither a fit nor a mapping of fits, or the arms predict different targets.
    """
    if isinstance(fit, LawFit):
        arms = fit.data["study"].get("arm", [])
        return {arms[0] if len(arms) == 1 else None: fit}
    if not isinstance(fit, Mapping) or not fit or not all(isinstance(law, LawFit) for law in fit.values()):
        raise InputError("plan needs a fit, or a mapping of arms to fits: {'plain': fit, 'distilled': other}")
    targets = sorted({law.settings["target"] for law in fit.values()})
    if len(targets) > 1 or len({(law.scale.offset, law.scale.factor) for law in fit.values()}) > 1:
        raise InputError(f"the arms' laws predict different targets ({', '.join(targets)}): fit the same one")
    return {str(arm): law for arm, law in fit.items()}


def _in_own_units(frame: pd.DataFrame, scale: TargetScale) -> pd.DataFrame:
    """The frame with value, low and high converted from what is fitted to the target's own units."""
    value, low, high = (scale.from_fitted(frame[name].to_numpy(float)) for name in ("value", "low", "high"))
    return frame.assign(value=value, low=np.minimum(low, high), high=np.maximum(low, high))


def _too_few_levels(allocation: Allocation, available: Available) -> list[dict]:
    """Errors for sizes that were chosen by the law and take too few levels for one."""
    problem, fit = allocation.problem, allocation.problem.fit
    names = list(problem.bought)
    if "n_params" in fit.columns.values():
        low, high = fit.data["ranges"]["n_params"]
        inside = low / _INSIDE <= allocation.sizes["n_params"] <= high * _INSIDE
        names += ["n_params"] if problem.any_n_params or len(problem.n_params) > 1 or not inside else []
    return level_notes({name: levels_of(fit, name) for name in names}, "what more of it is worth", most=available.most)


def _size_notes(chosen: Allocation, searched: bool, source: Mapping[str, str]) -> list[dict]:
    """Sizes, and passes over the images, outside the measured ones; sizes that could grow.

    Args:
        chosen: The best allocation.
        searched: Whether the measured model sizes were searched, rather than given ones.
        source: Size to the name of the source that has no more of it.
    """
    problem, sizes, notes = chosen.problem, chosen.sizes, []
    for name, (low, high) in problem.fit.data["ranges"].items():
        above, below = sizes[name] > high, 0 < sizes[name] < low
        factor = sizes[name] / high if above else low / sizes[name] if below else 1.0
        if factor > _INSIDE:
            side, end = ("the largest", high) if above else ("smaller than the smallest", low)
            text = f"{name} {format_whole(sizes[name])} is {format_count(factor)} times {side} measured "
            text += f"({format_whole(end)}): measure nearer to it before spending"
            notes.append(note("out_of_range", "error" if factor > _FAR else "warn", text))
    searched = searched and "n_params" in problem.fit.columns.values()
    if searched and sizes["n_params"] >= max(problem.n_params) / _INSIDE:
        text = "the best of the measured models is the largest: n_params='any' searches beyond it"
        notes.append(note("largest_model", "info", text))
    for name in problem.bought:
        if sizes[name] >= problem.ends[name][1] / _INSIDE:
            all_of = f"all that {source[name]} has" if name in source else "the most that may be bought"
            text = f"{name} {format_whole(sizes[name])} is {all_of}: see the marginal value of more"
            notes.append(note("limit_reached", "info", text))
    samples, training = problem.compute.get("pretrain", {}).get("samples", []), problem.costs.pretraining
    if training is not None and len(samples) and sizes["n_pretrain"] > 0:
        at, largest = np.array([sizes["n_pretrain"]]), samples[-1][0]
        measured, planned = (
            float(curve(at)[0] / at[0]) for curve in (LogCurve(samples, below="first"), training.samples)
        )
        own = f"{format_count(measured)} of the law's own runs"
        if abs(np.log(planned / measured)) > np.log(_SAME_PASSES):
            text = f"{format_count(planned)} passes over {format_whole(at[0])} images differ from the {own}"
            notes.append(note("passes_not_measured", "warn", text))
        elif at[0] > largest:
            text = f"beyond {format_whole(largest)} images the passes stay the {own}; epochs= sets others"
            notes.append(note("passes_carried_on", "info", text))
    return notes


def _certainty_notes(
    allocations: Mapping[str | None, Allocation],
    best: str | None,
    p_better: float,
    uncertainty: Uncertainty,
    level: float,
) -> list[dict]:
    """Doubts about the law, the arm and the sizes."""
    fit = allocations[best].problem.fit
    notes = notes_on_rows(fit.notes)
    if fit.status != "ok":
        text = f"the law's own status is {fit.status}: read this plan as one possibility (docs/fitting.md)"
        notes.append(note("law_in_doubt", "warn", text))
    if len(allocations) > 1:
        if p_better < CLEAR_SHARE:
            text = f"{best} is ahead in {format_percent(p_better)} of the draws only: the arms cannot be told apart"
            notes.append(note("arms_open", "warn", text))
        # Draw b of each fit has the same multipliers where seed, number of draws, method and configurations agree.
        keys = [
            (
                [one.settings[name] for name in ("seed", "bootstrap", "method")],
                one.scores["n_configurations"],
                one.data["ranges"],
                one.data["levels"],
            )
            for one in (allocation.problem.fit for allocation in allocations.values())
        ]
        if any(key != keys[0] for key in keys):
            text = "the arms' rows differ in their sizes, so that their draws are not paired: p_better is rough"
            notes.append(note("arms_unpaired", "info", text))
    if uncertainty.verdict is None:
        text = "the fit has no usable bootstrap draws: the plan has no intervals and no verdict"
        notes.append(note("no_draws", "warn", text))
    elif uncertainty.verdict != "clear":
        ends = uncertainty.intervals.items()
        spans = "; ".join(f"{name} {format_whole(low)} to {format_whole(high)}" for name, (low, high) in ends)
        text = (
            f"in {format_percent(level)} of the draws this allocation is at most "
            f"{format_percent(uncertainty.regret, 2)} worse than the draw's own best, at {spans or 'the same sizes'}"
        )
        if uncertainty.verdict == "hardly_matters":
            notes.append(note("flat_optimum", "info", text))
        else:
            notes.append(note("allocation_open", "warn", f"{text}: measure the runs of suggest_runs first"))
    return notes


_DEFAULT_LAWS = {
    ("n_params", "n_pretrain"): "chinchilla",
    ("n_params", "n_finetune"): "joint_multiplicative",
    ("n_pretrain", "n_finetune"): "transfer_gap",
    SIZES: "transfer_gap_joint",
}


def rows_of_stage(table: "Table", stage: str | None = None) -> Columns:
    """The rows that a plan is for: those of a stage, by default finetune where there are such rows, else all.

    Raises:
        InputError: There are stages, and no row of this one.
    """
    columns = Columns.of(table)
    stage = stage or ("finetune" if "finetune" in columns.distinct("stage") else None)
    return columns.where_equal("stage", stage) if stage and "stage" in columns.data else columns


def default_law(table: "Table", stage: str | None = None, target: str = "loss") -> tuple[str, str | None]:
    """The law for the sizes that a table varies, in its fine-tuned rows where it has any.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of columns.
        stage: pretrain or finetune; by default finetune where there are such rows.
        target: The column to fit, which an error about missing columns names too.

    Returns:
        Name of the law, and the column of its variable where it has only one.

    Raises:
        InputError: The rows vary none of n_params, n_pretrain and n_finetune.
    """
    columns, varied = rows_of_stage(table, stage), []
    for name in SIZES:
        values = columns.numbers(name) if name in columns.data else np.empty(0)
        if len(np.unique(values[np.isfinite(values) & (values > 0)])) > 1:
            varied.append(name)
    if not any(name in columns.data for name in SIZES):
        raise missing_columns(columns.data, SIZES, target, any_size=True)
    if not varied:
        raise InputError(f"the rows vary none of {', '.join(SIZES)}: a plan needs at least two values of one")
    return (_DEFAULT_LAWS[tuple(varied)], None) if len(varied) > 1 else ("power_law", varied[0])
