"""The best allocation of a budget by each law: which sizes it may buy, the search, and how sure the result is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.columns import SIZES, note
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.rows import thinned
from hf_scaling.planning.costs import CostModel
from hf_scaling.text import format_whole

#: n_params, n_pretrain and n_finetune to equally long arrays.
Sizes = dict[str, np.ndarray]
# How far beyond the measured sizes an optimum is searched for, as a factor.
_REACH, _MODEL_REACH = 1e6, 1e3

# --- What may be bought ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Problem:
    """The smallest predicted target that one arm's law gives for a budget.

    Attributes:
        fit: The law.
        costs: Costs of sizes.
        compute: Samples, FLOPs and pace of the runs behind the law (`compute_of`).
        bought: The sizes that the law takes and the budget buys, of n_pretrain and n_finetune.
        ends: n_pretrain and n_finetune to the least and the most that may be bought; equal where the size is fixed.
        n_params: (K,) model sizes to choose among; one NaN where the size is unknown and changes nothing.
        any_n_params: Whether every size between the ends of n_params may be chosen.
        without_pretraining: Whether the budget buys n_pretrain and the law is defined at 0.
        notes: Sizes that are fixed, and why.
    """

    fit: LawFit
    costs: CostModel
    compute: dict
    bought: tuple[str, ...]
    ends: dict[str, tuple[float, float]]
    n_params: np.ndarray
    any_n_params: bool
    without_pretraining: bool
    notes: tuple[dict, ...]

    def predict(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) predictions at sizes by column; infinite where a size or the prediction is undefined."""
        with np.errstate(all="ignore"):
            values = self.fit.values(sizes)
        return np.where(np.isfinite(values), values, np.inf)


def make_problem(
    fit: LawFit,
    costs: CostModel,
    compute: dict,
    n_params: float | Sequence[float] | str | None,
    at_most: Mapping[str, float],
    available: Mapping[str, float],
) -> Problem:
    """The problem that a law, its costs and the arguments `n_params` and `at_most` of `plan` set.

    Where `at_most` has no limit, what is `available` of a size is the most that is bought.

    Raises:
        InputError: A variable of the law is not a size that can be bought, none has a price, a limit is unusable, or
            the law rises with size.
    """
    columns, ranges, notes = tuple(fit.columns.values()), fit.data["ranges"], list[dict]()
    others = [column for column in columns if column not in SIZES]
    if others:
        raise InputError(
            f"{fit.law} depends on {', '.join(others)}, which no budget buys: fit a law of {', '.join(SIZES)} alone"
        )
    smallest, largest = ({column: np.array([span[end]]) for column, span in ranges.items()} for end in (0, 1))
    if fit.values(largest)[0] > fit.values(smallest)[0] or fit.scale.rises:
        raise InputError(
            f"{fit.law} predicts a {fit.settings['target']} that rises with size: a plan needs one that falls"
        )
    sizes = compute.get("sizes", {})
    models, any_size = _model_sizes(fit, costs, sizes.get("n_params", ()), n_params, notes)
    # The least and the most of a size that may be bought; equal where the law does not take it or it is free.
    ends = {}
    for name in SIZES[1:]:
        measured, limit = sizes.get(name, ()), at_most.get(name)
        if name not in columns:
            if len(measured) > 1:
                text = (
                    f"{fit.law} does not take {name}, which varies over the rows: it is not planned and costs nothing"
                )
                notes.append(note("not_in_law", "info", text))
            low = high = float(measured[0]) if len(measured) == 1 else float("nan")
        elif costs.has_price(name):
            reach = float(ranges[name][1]) * _REACH
            low, high = 1.0, reach if limit is None else min(limit, reach)
        else:
            low = high = float(ranges[name][1]) if limit is None else limit
            notes.append(_free_size(name, high))
        ends[name] = low, max(low, min(high, available.get(name, high)))
    bought = tuple(name for name, (least, most) in ends.items() if least < most)
    if not bought and not ("n_params" in columns and costs.has_price("n_params")):
        raise InputError(f"costs: no price of a size that {fit.law} depends on ({', '.join(columns)}); give one")
    with np.errstate(all="ignore"):
        at_zero = fit.values(largest | {"n_pretrain": np.zeros(1)})[0]
    without_pretraining = "n_pretrain" in bought and bool(np.isfinite(at_zero))
    return Problem(fit, costs, compute, bought, ends, models, any_size, without_pretraining, tuple(notes))


def _model_sizes(
    fit: LawFit,
    costs: CostModel,
    measured: Sequence[float],
    n_params: float | Sequence[float] | str | None,
    notes: list[dict],
) -> tuple[np.ndarray, bool]:
    """Model sizes to choose among, and whether those between them may be chosen too.

    A law that does not take n_params has one model size, NaN where nothing depends on it.
    """
    measured = [size for size in measured if size > 0]
    given = None if n_params is None or isinstance(n_params, str) else _positive(n_params, "n_params")
    if "n_params" not in fit.columns.values():
        if n_params is not None and (given is None or len(given) != 1):
            raise InputError(f"n_params={n_params!r}: {fit.law} does not take n_params; give one size, or none")
        if given is not None or len(measured) == 1:
            return np.array(measured) if given is None else given, False
        if any(stage is not None and stage.flops.constant is None for stage in (costs.pretraining, costs.finetuning)):
            raise InputError(
                f"compute has a price, {fit.law} does not take n_params and the rows have {len(measured) or 'no'} "
                "model sizes: set n_params= to one of them, or fit a law that takes it"
            )
        return np.array([np.nan]), False
    low, high = fit.data["ranges"]["n_params"]
    if given is not None:
        return given, False
    if n_params is None:
        return np.array(measured or [low, high]), not measured
    if n_params != "any":
        raise InputError(f"n_params {n_params!r} is unknown: give numbers, any, or none for the measured sizes")
    if costs.has_price("n_params"):
        return np.array([low / _MODEL_REACH, high * _MODEL_REACH]), True
    notes.append(_free_size("n_params", high))
    return np.array([high]), False


def _free_size(name: str, value: float) -> dict:
    text = f"{name} has no price: it is fixed at {format_whole(value)}, its at_most= or else the largest measured"
    return note("free_size", "info", text)


def check_limits(at_most: Mapping[str, float] | None) -> dict[str, float]:
    """The user's limits as floats.

    Raises:
        InputError: A name is not n_pretrain or n_finetune, or a limit is not a number of at least 1.
    """
    limits = {}
    for name, value in (at_most or {}).items():
        if name not in SIZES[1:]:
            raise InputError(f"at_most: unknown name {name!r}; use {' or '.join(SIZES[1:])}; n_params= sets models")
        limits[name] = float(_positive(value, f"at_most {name}")[0])
        if limits[name] < 1:
            raise InputError(f"at_most {name} must be at least 1, not {value}")
    return limits


def _positive(values: float | Sequence[float], name: str) -> np.ndarray:
    try:
        numbers = np.unique(np.atleast_1d(np.asarray(values, dtype=float)))
    except (TypeError, ValueError):
        numbers = np.array([np.nan])
    if not len(numbers) or not (np.isfinite(numbers) & (numbers > 0)).all():
        raise InputError(f"{name} must be positive numbers, not {values!r}")
    return numbers


# --- The search -----------------------------------------------------------------------------------------------------

# The logit of the share of the budget for pre-training: from a hundred-millionth to all but that.
_LARGEST_LOGIT = 18.0
_SCAN, _FINER, _ROUNDS = 49, 9, 6
_MODELS, _FINER_MODELS, _MODEL_ROUNDS = 31, 7, 7
# Halvings of the logarithm of a size until it is known to ten digits.
_HALVINGS = 40


@dataclass(frozen=True)
class Allocation:
    """The best sizes of one arm for a budget.

    Attributes:
        problem: The arm's law and costs.
        sizes: n_params, n_pretrain and n_finetune, whole numbers; NaN where unknown.
        predicted: value, low, high and extrapolation of the target there.
    """

    problem: Problem
    sizes: dict[str, float]
    predicted: dict[str, float]

    @property
    def arrays(self) -> Sizes:
        """The sizes as arrays of one value."""
        return {name: np.array([value]) for name, value in self.sizes.items()}


def best_by_arm(problems: Mapping[str | None, Problem], budget: float, level: float) -> dict[str | None, Allocation]:
    """The best allocation of each arm, with intervals at `level`; without arms in which the budget buys no run."""
    best = {}
    for arm, problem in problems.items():
        sizes = best_sizes(problem, budget)
        if sizes is not None:
            row = problem.fit.predict(sizes, level=level).iloc[0]
            best[arm] = Allocation(problem, sizes, {str(name): float(value) for name, value in row.items()})
    return best


def best_sizes(problem: Problem, budget: float) -> dict[str, float] | None:
    """The optimum in whole parameters and images, within the budget; None where it buys no run.

    Of a few labelled images each one counts, so both whole numbers around the optimum are tried, and the money that is
    left is spent on pre-training.
    """
    optimum = solve(problem, budget)
    if optimum is None:
        return None
    sizes = {name: float(_floor(value)) for name, value in optimum.items()}
    if len(problem.bought) < 2:
        return sizes
    labelled = np.clip(sizes["n_finetune"] + np.arange(2), *problem.ends["n_finetune"])
    tried = _spend_the_rest(problem, budget, np.full(2, sizes["n_params"]), labelled)
    tried = {name: np.append(_floor(values), sizes[name]) for name, values in tried.items()}
    best = int(np.argmin(problem.predict(tried)))
    return {name: float(values[best]) for name, values in tried.items()}


def _floor(values: float | np.ndarray) -> np.ndarray:
    """Whole numbers; a value equal to the next one to ten digits is that one."""
    return np.floor(values * (1 + 1e-10))


def solve(problem: Problem, budget: float) -> dict[str, float] | None:
    """The best sizes, not rounded: n_params, n_pretrain, n_finetune; None where the budget buys no run."""
    if not problem.any_n_params:
        return _better(problem, *_best_of_each_model(problem, budget, problem.n_params))
    centre, reach = np.log(problem.n_params).mean(), np.ptp(np.log(problem.n_params)) / 2
    best, count = None, _MODELS
    for _ in range(1 + _MODEL_ROUNDS):
        inside = np.clip(centre + reach * np.linspace(-1, 1, count), *np.log(problem.n_params))
        best = _better(problem, *_best_of_each_model(problem, budget, np.exp(inside)), best)
        if best is None:
            return None
        centre = np.log(best["n_params"])
        reach, count = 3 * reach / (count - 1), _FINER_MODELS
    return best


def _better(
    problem: Problem, sizes: Sizes, values: np.ndarray, before: dict[str, float] | None = None
) -> dict[str, float] | None:
    """The best of several candidates, or the best one before where no candidate is better."""
    place = int(np.argmin(values))
    if not np.isfinite(values[place]):
        return before
    best = {name: float(column[place]) for name, column in sizes.items()}
    if before is None:
        return best
    earlier = problem.predict({name: np.array([value]) for name, value in before.items()})[0]
    return before if earlier <= values[place] else best


def _best_of_each_model(problem: Problem, budget: float, n_params: np.ndarray) -> tuple[Sizes, np.ndarray]:
    """The best sizes of each model size and the prediction there, each (K,)."""
    rounds, count = (1 + _ROUNDS, _SCAN) if len(problem.bought) > 1 else (1, 1)
    centre, reach, rows = np.zeros(len(n_params)), _LARGEST_LOGIT, np.arange(len(n_params))
    for _ in range(rounds):
        logits = centre[:, None] + reach * np.linspace(-1, 1, count)
        sizes = _spend(problem, budget, n_params, np.clip(logits, -2 * _LARGEST_LOGIT, 2 * _LARGEST_LOGIT))
        values = problem.predict(sizes).reshape(logits.shape)
        place = values.argmin(axis=1)
        centre, reach, count = logits[rows, place], 3 * reach / max(count - 1, 1), _FINER
    best = values[rows, place]
    sizes = {name: column.reshape(logits.shape)[rows, place] for name, column in sizes.items()}
    if not problem.without_pretraining:
        return sizes, best
    none = _spend_without_pretraining(problem, budget, n_params)
    values = problem.predict(none)
    better = values < best
    return {name: np.where(better, none[name], sizes[name]) for name in sizes}, np.where(better, values, best)


def _spend(problem: Problem, budget: float, n_params: np.ndarray, logits: np.ndarray) -> Sizes:
    """Sizes (K * J,) that spend the budget, for model sizes (K,) and logits (K, J) of the share for pre-training.

    NaN where the budget does not reach.
    """
    models = np.repeat(n_params, logits.shape[1])
    upstream, labelled = (np.full(len(models), problem.ends[name][0]) for name in SIZES[1:])
    if problem.bought == ("n_pretrain",):
        return _spend_the_rest(problem, budget, models, labelled)
    if "n_pretrain" in problem.bought:
        upstream = _most(problem, "n_pretrain", models, budget / (1 + np.exp(-logits.ravel())))
    if "n_finetune" in problem.bought:
        labelled = _most(problem, "n_finetune", models, budget - _stage_cost(problem, "n_pretrain", models, upstream))
    return _affordable(problem, budget, {"n_params": models, "n_pretrain": upstream, "n_finetune": labelled})


def _spend_without_pretraining(problem: Problem, budget: float, n_params: np.ndarray) -> Sizes:
    """Sizes (K,) with the whole budget spent on fine-tuning."""
    labelled = np.full(len(n_params), problem.ends["n_finetune"][0])
    if "n_finetune" in problem.bought:
        labelled = _most(problem, "n_finetune", n_params, budget)
    sizes = {"n_params": n_params, "n_pretrain": np.zeros(len(n_params)), "n_finetune": labelled}
    return _affordable(problem, budget, sizes)


def _spend_the_rest(problem: Problem, budget: float, models: np.ndarray, labelled: np.ndarray) -> Sizes:
    """Sizes (N,) with n_finetune given and the rest spent on pre-training; NaN where the budget is too small."""
    upstream = _most(problem, "n_pretrain", models, budget - _stage_cost(problem, "n_finetune", models, labelled))
    return _affordable(problem, budget, {"n_params": models, "n_pretrain": upstream, "n_finetune": labelled})


def _affordable(problem: Problem, budget: float, sizes: Sizes) -> Sizes:
    """The candidates, NaN in every size where they cost more than the budget or lack a size that it buys."""
    lost = problem.costs.total(sizes) > budget * (1 + 1e-9)
    for name in problem.bought:
        lost |= np.isnan(sizes[name])
    return {name: np.where(lost, np.nan, values) for name, values in sizes.items()}


def _stage_cost(problem: Problem, name: str, models: np.ndarray, size: np.ndarray) -> np.ndarray:
    """(N,) costs of one stage; 0 where its size is unknown."""
    return np.where(np.isnan(size), 0.0, problem.costs.stage(name, models)(np.nan_to_num(size)))


def _most(problem: Problem, name: str, models: np.ndarray, budget: float | np.ndarray) -> np.ndarray:
    """(N,) the most of one size that a budget pays for; NaN where it does not pay for the least."""
    cost, ends = problem.costs.stage(name, models), problem.ends[name]
    below, above = (np.full(len(models), np.log(end)) for end in ends)
    reached, everything = (cost(np.full(len(models), end)) <= budget * (1 + 1e-12) for end in ends)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        pays = cost(np.exp(middle)) <= budget
        below, above = np.where(pays, middle, below), np.where(pays, above, middle)
    return np.where(reached, np.where(everything, ends[1], np.exp(below)), np.nan)


# --- Around the optimum ---------------------------------------------------------------------------------------------

# Budgets of the frontier: from a hundredth to a hundred times the one given, four a decade.
_DECADES, _PER_DECADE = 2, 4
# Differences rather than derivatives, since numbers of steps are not smooth.
_STEP = 1.01


def frontier(problems: Mapping[str | None, Problem], budget: float, level: float) -> pd.DataFrame:
    """The best allocation for each budget around one, and its prediction with intervals at `level`.

    Returns:
        A row a budget that buys a run: budget, n_params, n_pretrain, n_finetune (NaN where unknown), arm, value, low,
        high, extrapolation (natural-log distance outside the measured sizes, 0 inside).
    """
    rows = []
    for one in budget * 10.0 ** (np.arange(-_DECADES * _PER_DECADE, _DECADES * _PER_DECADE + 1) / _PER_DECADE):
        best = best_by_arm(problems, one, level)
        if best:
            arm = min(best, key=lambda arm: best[arm].predicted["value"])
            rows.append({"budget": float(one), **best[arm].sizes, "arm": arm, **best[arm].predicted})
    return pd.DataFrame(rows)


def marginal_values(allocation: Allocation, level: float) -> pd.DataFrame:
    """The value of one more of each size that the law takes.

    Returns:
        A row a size: size; per_unit, the decrease of the target from one more, by 1 % more of the size; cost of that
        one more; per_cost, the decrease per unit of cost, with low and high from the draws. Free sizes have cost 0 and
        no per_cost. At an optimum inside its limits, all per_cost are equal (Barnett 2024).
    """
    problem, sizes = allocation.problem, allocation.sizes
    names = [name for name in SIZES if name in problem.fit.columns.values() and sizes[name] > 0]
    rows = {name: np.full(1 + len(names), sizes[name]) for name in SIZES}
    for i, name in enumerate(names):
        rows[name][1 + i] *= _STEP
    with np.errstate(all="ignore"):
        values, drawn = problem.fit.values(rows), problem.fit.draw_values(rows)
    cost = problem.costs.total(rows)
    steps = np.array([sizes[name] * (_STEP - 1) for name in names])
    price = (cost[1:] - cost[0]) / steps
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (values[0] - values[1:]) / steps
        per_cost = np.where(price > 0, gain / price, np.nan)
        draws = np.where(price > 0, (drawn[:, :1] - drawn[:, 1:]) / steps / price, np.nan)
    low, high = quantiles(draws, level, per_cost) if len(draws) else (np.full(len(names), np.nan),) * 2
    columns = {"size": names, "per_unit": gain, "cost": price, "per_cost": per_cost, "low": low, "high": high}
    return pd.DataFrame(columns)


# --- How sure it is -------------------------------------------------------------------------------------------------

# Draws in which the best allocation is searched for, and the candidates of each: shares of the budget and model sizes,
# close together near the plan's own and far apart away from it.
_DRAWS = 200
_SHARES, _LARGEST_SPREAD = 121, 12.0
_N_MODELS, _MODEL_FACTOR = 61, 100.0
#: An allocation is clear where its interval spans less than this factor in every size that is bought.
CLEAR_FACTOR = 4.0
#: Where it is wider, but the draws lose at most this share of the target by it, the choice hardly matters.
SMALL_REGRET = 0.01
#: An arm is ahead where it is so in this share of the paired draws.
CLEAR_SHARE = 0.95


@dataclass(frozen=True)
class Uncertainty:
    """How far the bootstrap draws agree with an allocation.

    Attributes:
        intervals: Each bought size to the (low, high) of the draws' own best.
        regret: The share of the target lost by the allocation against each draw's own best, at `level`, one-sided.
        verdict: clear, hardly_matters or cannot_tell; None without draws.
    """

    intervals: dict[str, tuple[float, float]]
    regret: float
    verdict: str | None


def judge_sizes(allocation: Allocation, budget: float, level: float) -> Uncertainty:
    """Search the best allocation of each of up to 200 draws, among candidates that spend the same budget."""
    problem, sizes, logits = allocation.problem, allocation.sizes, np.zeros(1)
    if problem.any_n_params:
        models = sizes["n_params"] * np.exp(_spread(_N_MODELS, np.log(_MODEL_FACTOR)))
        models = models[(models >= problem.n_params[0]) & (models <= problem.n_params[1])]
    else:
        models = problem.n_params[thinned(len(problem.n_params), _N_MODELS)]
    if len(problem.bought) > 1:
        parts = problem.costs.parts(allocation.arrays)
        upstream = sum(parts[name][0] for name in parts if name not in ("label", "finetune_compute"))
        share = np.clip(upstream / budget, 1e-8, 1 - 1e-8)
        logits = np.log(share / (1 - share)) + _spread(_SHARES, _LARGEST_SPREAD)
    candidates = _spend(problem, budget, models, np.broadcast_to(logits, (len(models), len(logits))))
    if problem.without_pretraining:
        none = _spend_without_pretraining(problem, budget, models)
        candidates = {name: np.concatenate([values, none[name]]) for name, values in candidates.items()}
    usable = np.isfinite(problem.predict(candidates))
    candidates = {name: np.append(values[usable], sizes[name]) for name, values in candidates.items()}
    with np.errstate(all="ignore"):
        drawn = thin_draws(problem.fit, _DRAWS).draw_values(candidates)
    drawn = drawn[np.isfinite(drawn[:, -1])]
    if not len(drawn):
        return Uncertainty({}, float("nan"), None)
    best = np.where(np.isfinite(drawn), drawn, np.inf).argmin(axis=1)
    reached = drawn[np.arange(len(drawn)), best]
    regret = float(np.quantile((drawn[:, -1] - reached) / np.abs(reached), level))
    tail, intervals = (1 - level) / 2, {}
    for name in sorted([*problem.bought, *(["n_params"] if len(models) > 1 else [])]):
        low, high = np.quantile(candidates[name][best], (tail, 1 - tail), method="nearest")
        # The allocation is a candidate, but lies between two of the grid's: an interval reaches back to it.
        intervals[name] = (min(float(low), sizes[name]), max(float(high), sizes[name]))
    if all(high <= CLEAR_FACTOR * max(low, 1e-300) for low, high in intervals.values()):
        return Uncertainty(intervals, regret, "clear")
    return Uncertainty(intervals, regret, "hardly_matters" if regret <= SMALL_REGRET else "cannot_tell")


def _spread(count: int, reach: float) -> np.ndarray:
    """Offsets from -reach to reach, whose distances grow from the middle outwards."""
    steps = np.linspace(-1, 1, count)
    return reach * steps * np.abs(steps)


def thin_draws(fit: LawFit, count: int) -> LawFit:
    """The fit with at most `count` of its draws, evenly spaced."""
    draws = fit.draws[:: max(1, -(-len(fit.draws) // count))]
    return replace(fit, draws=draws, members=tuple(thin_draws(member, count) for member in fit.members))


def judge_arms(
    allocations: Mapping[str | None, Allocation], sizes: Uncertainty, level: float
) -> tuple[dict[str | None, float], Uncertainty]:
    """How sure the choice of the arm is, from paired draws of each arm's prediction at its own best allocation.

    Returns:
        Arm to the share of draws in which it is ahead of the best other arm (ties count half, NaN without draws), and
        the worse of that uncertainty and that of the `sizes` of the best arm.
    """
    if len(allocations) < 2:
        return dict.fromkeys(allocations, 1.0), sizes
    order = sorted(allocations, key=lambda arm: allocations[arm].predicted["value"])
    drawn = {arm: one.problem.fit.draw_values(one.arrays)[:, 0] for arm, one in allocations.items()}
    count, shares = min(map(len, drawn.values())), {}
    for arm in allocations:
        this, other = drawn[arm][:count], drawn[order[1] if arm == order[0] else order[0]][:count]
        known = np.isfinite(this) & np.isfinite(other)
        ahead = np.mean((this < other)[known]) + np.mean((this == other)[known]) / 2 if known.any() else np.nan
        shares[arm] = float(ahead)
    reached = np.min([values[:count] for values in drawn.values()], axis=0)
    loss = (drawn[order[0]][:count] - reached) / np.abs(reached)
    loss = loss[np.isfinite(loss)]
    if sizes.verdict is None or np.isnan(shares[order[0]]) or shares[order[0]] >= CLEAR_SHARE:
        return shares, sizes
    regret = max(float(np.quantile(loss, level)) if len(loss) else float("nan"), sizes.regret)
    return shares, Uncertainty(sizes.intervals, regret, "hardly_matters" if regret <= SMALL_REGRET else "cannot_tell")
