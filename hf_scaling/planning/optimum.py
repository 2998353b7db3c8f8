"""How sure a plan is: the same question put to the bootstrap draws of the law."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.bootstrap import SIZES
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.rows import note
from hf_scaling.planning.costs import CostModel

# How far beyond the measured sizes an optimum is looked for, as a factor; notes say how far out it is.
REACH = 1e6
_MODEL_REACH = 1e3


@dataclass(frozen=True)
class Problem:
    """One arm's question: the smallest predicted target for a budget.

    Attributes:
        fit: The law.
        costs: What sizes cost.
        bought: The sizes that the law takes and the budget buys, of n_pretrain and n_finetune.
        ends: n_pretrain and n_finetune to the least and the most that may be bought; equal ends where held.
        n_params: (K,) model sizes to choose among; a single NaN where the size is not known and does not matter.
        any_n_params: Whether every size from the least to the largest of n_params may be chosen.
        zero: Whether the budget buys n_pretrain, and the law is defined without any.
        notes: What was held, and why.
    """

    fit: LawFit
    costs: CostModel
    bought: tuple[str, ...]
    ends: dict[str, tuple[float, float]]
    n_params: np.ndarray
    any_n_params: bool
    zero: bool
    notes: tuple[dict, ...]

    def predict(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) predictions at sizes by column; infinite where a size or the prediction is undefined."""
        with np.errstate(all="ignore"):
            values = self.fit.values(sizes)
        return np.where(np.isfinite(values), values, np.inf)


def make_problem(
    fit: LawFit, costs: CostModel, sizes: Mapping[str, list[float]], n_params, at_most: Mapping[str, float]
) -> Problem:
    """The question that a fit, its costs and the user's limits ask.

    Args:
        fit: The law.
        costs: What sizes cost.
        sizes: n_params, n_pretrain and n_finetune to the values measured.
        n_params: A number or several to choose among, "any", or None for the measured ones.
        at_most: n_pretrain and n_finetune to the most that may be had.

    Raises:
        InputError: The law's variables are no sizes that can be bought, none has a price, a limit cannot be used, or
            the law does not fall with size.
    """
    refuse_others(fit)
    _refuse_rising(fit)
    notes: list[dict] = []
    models, any_size = _models(fit, costs, sizes, n_params, notes)
    ends = {name: _ends(fit, costs, name, sizes, at_most, notes) for name in SIZES[1:]}
    bought = tuple(n for n in SIZES[1:] if ends[n][0] < ends[n][1])
    if not bought and not ("n_params" in fit.columns.values() and costs.prices("n_params")):
        wanted = ", ".join(fit.columns.values())
        raise InputError(
            f"these prices buy nothing that {fit.law} depends on ({wanted}): give the price of one of them"
        )
    zero = "n_pretrain" in bought and _defined_at_zero(fit)
    return Problem(fit, costs, bought, ends, models, any_size, zero, tuple(notes))


def refuse_others(fit: LawFit) -> None:
    """Raise unless every variable of the law is a size that a budget buys."""
    others = [column for column in fit.columns.values() if column not in SIZES]
    if others:
        raise InputError(
            f"plan buys {', '.join(SIZES)}, and {fit.law} depends on {', '.join(others)} as well: fit a law without"
        )


def _refuse_rising(fit: LawFit) -> None:
    ends = [{c: np.array([span[i]]) for c, span in fit.data["ranges"].items()} for i in (0, 1)]
    smallest, largest = (float(fit.values(at)[0]) for at in ends)
    if largest > smallest:
        target = fit.settings["target"]
        raise InputError(
            f"{fit.law} predicts {target} {smallest:.4g} at the smallest sizes measured and {largest:.4g} at the "
            "largest: plan buys sizes to make its target small"
        )


def _models(fit: LawFit, costs: CostModel, sizes, n_params, notes: list[dict]) -> tuple[np.ndarray, bool]:
    """The model sizes to choose among, and whether those between them may be chosen too."""
    known = [size for size in sizes.get("n_params", ()) if size > 0]
    if "n_params" not in fit.columns.values():
        return np.array([_model_held(fit, costs, known, n_params, notes)]), False
    low, high = fit.data["ranges"]["n_params"]
    if isinstance(n_params, str):
        if n_params != "any":
            raise InputError(
                f"n_params {n_params!r} is unknown: give numbers, any, or leave it out for those measured"
            )
        if costs.prices("n_params"):
            return np.array([low / _MODEL_REACH, high * _MODEL_REACH]), True
        notes.append(_free("n_params", high))
        return np.array([high]), False
    if n_params is not None:
        return _positive(n_params, "n_params"), False
    return (np.array(known) if known else np.array([low, high])), not known


def _model_held(fit: LawFit, costs: CostModel, known: list[float], n_params, notes: list[dict]) -> float:
    """The one model size of a law that does not take it; NaN where nothing depends on it."""
    if n_params is not None and not isinstance(n_params, str):
        given = _positive(n_params, "n_params")
        if len(given) == 1:
            return float(given[0])
    if n_params is not None:
        raise InputError(f"{fit.law} does not take n_params: give the one size to plan for, or nothing")
    if len(known) == 1:
        return known[0]
    trainings = [t for t in (costs.pretraining, costs.finetuning) if t is not None]
    if any(t.flops.constant is None for t in trainings):
        raise InputError(
            f"compute has a price, {fit.law} does not take n_params and the rows hold {len(known) or 'no'} model "
            "sizes: say with n_params= which size to plan for, or fit a law that takes it"
        )
    return float("nan")


def _ends(
    fit: LawFit, costs: CostModel, name: str, sizes, at_most: Mapping[str, float], notes: list[dict]
) -> tuple[float, float]:
    """The least and the most of a size that may be bought; held where the law does not take it or it costs nothing."""
    limit = float(at_most.get(name, np.inf))
    if name not in fit.columns.values():
        known = sizes.get(name, ())
        held = float(known[0]) if len(known) == 1 else float("nan")
        if len(known) > 1:
            text = f"{fit.law} does not take {name}: it is taken as settled, and not paid for"
            notes.append(note("not_in_law", "info", text))
        return held, held
    high = fit.data["ranges"][name][1]
    if costs.prices(name):
        return 1.0, min(limit, high * REACH)
    held = limit if np.isfinite(limit) else high
    notes.append(_free(name, held))
    return held, held


def _free(name: str, held: float) -> dict:
    text = f"{name} costs nothing at these prices: held at {held:,.10g}, the most that at_most= allows or was measured"
    return note("free_size", "info", text)


def _defined_at_zero(fit: LawFit) -> bool:
    at = {column: np.array([span[1]]) for column, span in fit.data["ranges"].items()} | {"n_pretrain": np.zeros(1)}
    with np.errstate(all="ignore"):
        return bool(np.isfinite(fit.values(at)[0]))


def check_limits(at_most: Mapping[str, float] | None) -> dict[str, float]:
    """The user's limits as numbers.

    Raises:
        InputError: A name is none of n_pretrain and n_finetune, or a limit is below 1.
    """
    found = {}
    for name, value in (at_most or {}).items():
        if name not in SIZES[1:]:
            raise InputError(f"at_most has no {name!r}: there are {' and '.join(SIZES[1:])}; n_params= chooses models")
        found[name] = float(_positive(value, f"at_most {name}")[0])
        if found[name] < 1:
            raise InputError(f"at_most {name} is {value}: at least 1")
    return found


def _positive(values, name: str) -> np.ndarray:
    try:
        found = np.unique(np.atleast_1d(np.asarray(values, dtype=float)))
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if not len(found) or not (np.isfinite(found) & (found > 0)).all():
        raise InputError(f"{name} takes positive numbers, not {values!r}")
    return found


# The logit of the share that goes to pre-training: from a hundred-millionth to all but that.
_LARGEST_LOGIT = 18.0
_SCAN, _FINER, _ROUNDS = 49, 9, 6
_MODELS, _FINER_MODELS, _MODEL_ROUNDS = 31, 7, 7
# Halvings of the logarithm of a size until it is known to ten digits.
_HALVINGS = 40


def solve(problem: Problem, budget: float) -> dict[str, float] | None:
    """The best sizes for a budget: n_params, n_pretrain, n_finetune (NaN where unknown); None where it buys no run."""
    if not problem.any_n_params:
        return _best(problem, *_profile(problem, budget, problem.n_params))
    centre, reach = np.log(problem.n_params).mean(), np.ptp(np.log(problem.n_params)) / 2
    best, count = None, _MODELS
    for _ in range(1 + _MODEL_ROUNDS):
        inside = np.clip(centre + reach * np.linspace(-1, 1, count), *np.log(problem.n_params))
        found = _best(problem, *_profile(problem, budget, np.exp(inside)), best)
        if found is None:
            return None
        best, centre = found, np.log(found["n_params"])
        reach, count = 3 * reach / (count - 1), _FINER_MODELS
    return best


def candidates(problem: Problem, budget: float, n_params: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes that spend the budget, for model sizes (K,) and logits of the share for pre-training (J,).

    Returns:
        n_params, n_pretrain, n_finetune, each (K * J,), and (K,) more without any pre-training where the law is
        defined there; NaN where the budget does not reach so far.
    """
    line = _line(problem, budget, n_params, np.broadcast_to(logits, (len(n_params), len(logits))))
    if not problem.zero:
        return line
    none = _without_pretraining(problem, budget, n_params)
    return {name: np.concatenate([line[name], none[name]]) for name in line}


def _line(problem: Problem, budget: float, n_params: np.ndarray, logits: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes (K * J,) for model sizes (K,) and their own logits (K, J)."""
    models = np.repeat(n_params, logits.shape[1])
    upstream, labelled = (np.full(len(models), problem.ends[name][0]) for name in ("n_pretrain", "n_finetune"))
    if problem.bought == ("n_pretrain",):
        return spend_the_rest(problem, budget, models, labelled)
    if "n_pretrain" in problem.bought:
        upstream = _most(problem, "n_pretrain", models, budget / (1 + np.exp(-logits.ravel())))
    if "n_finetune" in problem.bought:
        labelled = _most(problem, "n_finetune", models, budget - _paid(problem, "n_pretrain", models, upstream))
    return _affordable(problem, budget, {"n_params": models, "n_pretrain": upstream, "n_finetune": labelled})


def _without_pretraining(problem: Problem, budget: float, n_params: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes (K,) with the whole budget spent on fine-tuning."""
    labelled = np.full(len(n_params), problem.ends["n_finetune"][0])
    if "n_finetune" in problem.bought:
        labelled = _most(problem, "n_finetune", n_params, budget)
    sizes = {"n_params": n_params, "n_pretrain": np.zeros(len(n_params)), "n_finetune": labelled}
    return _affordable(problem, budget, sizes)


def spend_the_rest(problem: Problem, budget: float, models: np.ndarray, labelled: np.ndarray) -> dict[str, np.ndarray]:
    """Sizes (N,) with n_finetune given and the rest spent on pre-training; all NaN where the budget is too small."""
    upstream = _most(problem, "n_pretrain", models, budget - _paid(problem, "n_finetune", models, labelled))
    return _affordable(problem, budget, {"n_params": models, "n_pretrain": upstream, "n_finetune": labelled})


def _affordable(problem: Problem, budget: float, sizes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The candidates, all NaN where they cost more than the budget or lack a size that it buys."""
    lost = problem.costs.total(sizes) > budget * (1 + 1e-9)
    for name in problem.bought:
        lost |= np.isnan(sizes[name])
    return {name: np.where(lost, np.nan, values) for name, values in sizes.items()}


def _paid(problem: Problem, name: str, models: np.ndarray, size: np.ndarray) -> np.ndarray:
    """What one stage costs at sizes (N,); a size that is not known is not paid for."""
    return np.where(np.isnan(size), 0.0, problem.costs.stage(name, models)(np.nan_to_num(size)))


def _most(problem: Problem, name: str, models: np.ndarray, budget) -> np.ndarray:
    """The most of one size (N,) that a budget (N,) pays for; NaN where not even the least."""
    price, ends = problem.costs.stage(name, models), problem.ends[name]
    below, above = (np.full(len(models), np.log(end)) for end in ends)
    reached, everything = (price(np.full(len(models), end)) <= budget * (1 + 1e-12) for end in ends)
    for _ in range(_HALVINGS):
        middle = (below + above) / 2
        pays = price(np.exp(middle)) <= budget
        below, above = np.where(pays, middle, below), np.where(pays, above, middle)
    return np.where(reached, np.where(everything, ends[1], np.exp(below)), np.nan)


def _profile(problem: Problem, budget: float, n_params: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The best sizes of each model size and what is predicted there, each (K,)."""
    rounds, count = (1 + _ROUNDS, _SCAN) if len(problem.bought) > 1 else (1, 1)
    centre, reach, rows = np.zeros(len(n_params)), _LARGEST_LOGIT, np.arange(len(n_params))
    for _ in range(rounds):
        logits = centre[:, None] + reach * np.linspace(-1, 1, count)
        sizes = _line(problem, budget, n_params, np.clip(logits, -2 * _LARGEST_LOGIT, 2 * _LARGEST_LOGIT))
        values = problem.predict(sizes).reshape(logits.shape)
        place = values.argmin(axis=1)
        centre, reach, count = logits[rows, place], 3 * reach / max(count - 1, 1), _FINER
    values = values[rows, place]
    sizes = {name: column.reshape(logits.shape)[rows, place] for name, column in sizes.items()}
    if not problem.zero:
        return sizes, values
    none = _without_pretraining(problem, budget, n_params)
    better = problem.predict(none) < values
    return {n: np.where(better, none[n], sizes[n]) for n in sizes}, np.where(better, problem.predict(none), values)


def _best(problem: Problem, sizes: dict[str, np.ndarray], values: np.ndarray, before=None) -> dict[str, float] | None:
    """The best of several candidates, or what was the best before where none is better."""
    place = int(np.argmin(values))
    if not np.isfinite(values[place]):
        return before
    found = {name: float(column[place]) for name, column in sizes.items()}
    if before is None:
        return found
    earlier = problem.predict({name: np.array([value]) for name, value in before.items()})[0]
    return before if earlier <= values[place] else found


# "A little": differences rather than derivatives, since training rules have steps.
_MORE = 1.01


def marginal_values(problem: Problem, sizes: dict[str, float], level: float):
    """The value of the next unit of each size that the law takes.

    Returns:
        A DataFrame, a row a size: size; per_unit, by how much one more lowers the target, from 1 % more of it; cost of
        that one more; per_cost, by how much one more unit of cost spent on it lowers the target, with low and high
        from the draws. Free sizes have cost 0 and no per_cost. At an optimum that no limit holds, all per_cost are
        equal (Barnett 2024).
    """
    import pandas as pd

    names = [name for name in SIZES if name in problem.fit.columns.values() and sizes[name] > 0]
    rows = {name: np.full(1 + len(names), sizes[name]) for name in SIZES}
    for i, name in enumerate(names):
        rows[name][1 + i] *= _MORE
    with np.errstate(all="ignore"):
        values, drawn = problem.fit.values(rows), problem.fit.draw_values(rows)
    cost = problem.costs.total(rows)
    steps = np.array([sizes[name] * (_MORE - 1) for name in names])
    price = (cost[1:] - cost[0]) / steps
    with np.errstate(divide="ignore", invalid="ignore"):
        gain = (values[0] - values[1:]) / steps
        worth = np.where(price > 0, gain / price, np.nan)
        draws = np.where(price > 0, (drawn[:, :1] - drawn[:, 1:]) / steps / price, np.nan)
    low, high = quantiles(draws, level, worth) if len(draws) else (np.full(len(names), np.nan),) * 2
    return pd.DataFrame({"size": names, "per_unit": gain, "cost": price, "per_cost": worth, "low": low, "high": high})


# Budgets from a hundredth to a hundred times the one asked about, four a decade.
_DECADES, _A_DECADE = 2, 4


def budgets_around(budget: float) -> np.ndarray:
    """Budgets evenly spaced in logarithms, the one asked about in the middle."""
    exponents = np.arange(-_DECADES * _A_DECADE, _DECADES * _A_DECADE + 1) / _A_DECADE
    return budget * 10.0**exponents


def frontier(problems: dict[str | None, Problem], budget: float, level: float):
    """The best allocation for each budget and what it is predicted to reach.

    Args:
        problems: Arm to its question.
        budget: The one in the middle.
        level: Of the intervals.

    Returns:
        A DataFrame, a row a budget that buys a run: budget, n_params, n_pretrain, n_finetune (NaN where unknown), arm,
        value, low, high, extrapolation (natural-log distance outside the measured sizes, 0 inside).
    """
    import pandas as pd

    rows = []
    for each in budgets_around(budget):
        found = {arm: best_allocation(problem, each) for arm, problem in problems.items()}
        found = {arm: sizes for arm, sizes in found.items() if sizes is not None}
        if not found:
            continue
        predictions = {arm: predict_at(problems[arm], sizes, level) for arm, sizes in found.items()}
        arm = min(found, key=lambda arm: predictions[arm]["value"])
        rows.append({"budget": float(each), **found[arm], "arm": arm, **predictions[arm]})
    return pd.DataFrame(rows)


def best_allocation(problem: Problem, budget: float) -> dict[str, float] | None:
    """The optimum in whole parameters and images, within the budget; None where it buys no run.

    Of a few labelled images each one counts, so both whole numbers around the optimum are tried, and what the one
    chosen leaves is spent on pre-training.
    """
    sizes = solve(problem, budget)
    if sizes is None:
        return None
    sizes = {name: float(_floor(value)) for name, value in sizes.items()}
    if len(problem.bought) < 2:
        return sizes
    labelled = np.clip(sizes["n_finetune"] + np.arange(2), *problem.ends["n_finetune"])
    tried = spend_the_rest(problem, budget, np.full(2, sizes["n_params"]), labelled)
    tried = {name: np.append(_floor(values), sizes[name]) for name, values in tried.items()}
    best = int(np.argmin(problem.predict(tried)))
    return {name: float(values[best]) for name, values in tried.items()}


def _floor(values):
    """Whole numbers; what ten digits cannot tell from the next one is that."""
    return np.floor(values * (1 + 1e-10))


def predict_at(problem: Problem, sizes: dict[str, float], level: float) -> dict[str, float]:
    """value, low, high and extrapolation at one allocation."""
    return {name: float(v) for name, v in problem.fit.predict(sizes, level=level).iloc[0].items()}


# Draws that the best allocation is looked for in, and the candidates each chooses among: shares of the budget and
# model sizes, close together near the plan's own and wide apart far from it.
_DRAWS = 200
_SHARES, _LARGEST_SPREAD = 121, 12.0
_N_MODELS, _MODEL_FACTOR = 61, 100.0
#: An allocation is clear when its interval spans less than this factor in every size that is bought.
CLEAR_FACTOR = 4.0
#: Where it is wider but the draws lose no more than this share of the target by it, the choice hardly matters.
SMALL_REGRET = 0.01
#: An arm is ahead when it is so in this share of the paired draws.
CLEAR_SHARE = 0.95


@dataclass(frozen=True)
class Doubt:
    """What the draws say of an allocation.

    Attributes:
        intervals: Each bought size to the (low, high) of the draws' own best.
        regret: The share of the target lost by the allocation against each draw's own best, at `level`, one-sided.
        verdict: clear, hardly_matters or cannot_tell; None without draws.
    """

    intervals: dict[str, tuple[float, float]]
    regret: float
    verdict: str | None


def judge(problem: Problem, budget: float, sizes: dict[str, float], level: float) -> Doubt:
    """Look for the best allocation in each of up to 200 draws, among candidates that spend the same budget."""
    fit = thinned(problem.fit, _DRAWS)
    models = _models_uncertainty(problem, sizes["n_params"])
    found = candidates(problem, budget, models, _logits(problem, budget, sizes))
    keep = np.isfinite(problem.predict(found))
    found = {name: np.append(values[keep], sizes[name]) for name, values in found.items()}
    with np.errstate(all="ignore"):
        drawn = fit.draw_values(found)
    drawn = drawn[np.isfinite(drawn[:, -1])]
    if not len(drawn):
        return Doubt({}, float("nan"), None)
    best = np.where(np.isfinite(drawn), drawn, np.inf).argmin(axis=1)
    regret = drawn[:, -1] / drawn[np.arange(len(drawn)), best] - 1
    tail = (1 - level) / 2
    chosen = [*problem.bought, *(["n_params"] if len(models) > 1 else [])]
    intervals = {
        name: tuple(float(v) for v in np.quantile(found[name][best], (tail, 1 - tail), method="nearest"))
        for name in sorted(chosen)
    }
    # The chosen allocation is among the candidates, but between two of the grid's: an interval reaches back to it.
    intervals = {name: (min(low, sizes[name]), max(high, sizes[name])) for name, (low, high) in intervals.items()}
    regret = float(np.quantile(regret, level))
    return Doubt(intervals, regret, _verdict(intervals, regret))


def thinned(fit: LawFit, count: int) -> LawFit:
    """The fit with at most `count` of its draws, evenly taken."""
    draws = fit.draws[:: max(1, -(-len(fit.draws) // count))]
    return replace(fit, draws=draws, members=tuple(thinned(member, count) for member in fit.members))


def compare_arms(drawn: dict[str | None, np.ndarray], values: dict[str | None, float], level: float):
    """How sure the choice of the arm is, from paired draws of each arm's prediction at its own best allocation.

    Args:
        drawn: Arm to its draws (B,).
        values: Arm to its prediction.
        level: Of the regret.

    Returns:
        Arm to the share of draws in which it is ahead of the best other arm (ties count half, NaN without draws), and
        the regret of the best arm: the share of the target it loses at most, against the best in each draw.
    """
    order = sorted(values, key=values.get)
    count = min(map(len, drawn.values()))
    kept = {arm: each[:count] for arm, each in drawn.items()}
    shares = {arm: _share_ahead(kept[arm], kept[order[1] if arm == order[0] else order[0]]) for arm in order}
    least = np.min([kept[arm] for arm in order], axis=0)
    loss = kept[order[0]] / least - 1
    loss = loss[np.isfinite(loss)]
    return shares, float(np.quantile(loss, level)) if len(loss) else float("nan")


def _share_ahead(one: np.ndarray, other: np.ndarray) -> float:
    known = np.isfinite(one) & np.isfinite(other)
    if not known.any():
        return float("nan")
    return float(np.mean((one < other)[known]) + np.mean((one == other)[known]) / 2)


def with_arms(doubt: Doubt, ahead: float, regret: float) -> Doubt:
    """The doubt about sizes and arm together: the worse of the two."""
    if doubt.verdict is None or np.isnan(ahead) or ahead >= CLEAR_SHARE:
        return doubt
    verdict = "hardly_matters" if max(regret, doubt.regret) <= SMALL_REGRET else "cannot_tell"
    return Doubt(doubt.intervals, max(regret, doubt.regret), verdict)


def _models_uncertainty(problem: Problem, chosen: float) -> np.ndarray:
    """The model sizes that a draw may choose: all, or as many as the work allows."""
    if not problem.any_n_params:
        places = np.linspace(0, len(problem.n_params) - 1, min(len(problem.n_params), _N_MODELS))
        return problem.n_params[np.unique(places.round().astype(int))]
    low, high = problem.n_params
    models = chosen * np.exp(_spread(_N_MODELS, np.log(_MODEL_FACTOR)))
    return models[(models >= low) & (models <= high)]


def _logits(problem: Problem, budget: float, sizes: dict[str, float]) -> np.ndarray:
    """Logits of the share of the budget for pre-training, around the plan's own."""
    if len(problem.bought) < 2:
        return np.zeros(1)
    paid = problem.costs.parts({name: np.array([value]) for name, value in sizes.items()})
    share = sum(paid[name][0] for name in paid if name not in ("label", "finetune_compute")) / budget
    centre = np.log(np.clip(share, 1e-8, 1 - 1e-8) / (1 - np.clip(share, 1e-8, 1 - 1e-8)))
    return centre + _spread(_SHARES, _LARGEST_SPREAD)


def _spread(count: int, reach: float) -> np.ndarray:
    """Offsets from -reach to reach, their distances growing from the middle outwards."""
    steps = np.linspace(-1, 1, count)
    return reach * steps * np.abs(steps)


def _verdict(intervals: dict[str, tuple[float, float]], regret: float) -> str:
    if all(high <= CLEAR_FACTOR * max(low, 1e-300) for low, high in intervals.values()):
        return "clear"
    return "hardly_matters" if regret <= SMALL_REGRET else "cannot_tell"
