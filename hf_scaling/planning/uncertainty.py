"""How sure a plan is: the same question put to the bootstrap draws of the law."""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting import LawFit
from hf_scaling.planning.optimum import candidates
from hf_scaling.planning.problem import Problem

# Draws that the best allocation is looked for in, and the candidates each chooses among: shares of the budget and
# model sizes, close together near the plan's own and wide apart far from it.
_DRAWS = 200
_SHARES, _LARGEST_LOGIT = 121, 12.0
_MODELS, _MODEL_FACTOR = 61, 100.0
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
    models = _models(problem, sizes["n_params"])
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


def _models(problem: Problem, chosen: float) -> np.ndarray:
    """The model sizes that a draw may choose: all, or as many as the work allows."""
    if not problem.any_n_params:
        places = np.linspace(0, len(problem.n_params) - 1, min(len(problem.n_params), _MODELS))
        return problem.n_params[np.unique(places.round().astype(int))]
    low, high = problem.n_params
    models = chosen * np.exp(_spread(_MODELS, np.log(_MODEL_FACTOR)))
    return models[(models >= low) & (models <= high)]


def _logits(problem: Problem, budget: float, sizes: dict[str, float]) -> np.ndarray:
    """Logits of the share of the budget for pre-training, around the plan's own."""
    if len(problem.bought) < 2:
        return np.zeros(1)
    paid = problem.costs.parts({name: np.array([value]) for name, value in sizes.items()})
    share = sum(paid[name][0] for name in paid if name not in ("label", "finetune_compute")) / budget
    centre = np.log(np.clip(share, 1e-8, 1 - 1e-8) / (1 - np.clip(share, 1e-8, 1 - 1e-8)))
    return centre + _spread(_SHARES, _LARGEST_LOGIT)


def _spread(count: int, reach: float) -> np.ndarray:
    """Offsets from -reach to reach, their distances growing from the middle outwards."""
    steps = np.linspace(-1, 1, count)
    return reach * steps * np.abs(steps)


def _verdict(intervals: dict[str, tuple[float, float]], regret: float) -> str:
    if all(high <= CLEAR_FACTOR * max(low, 1e-300) for low, high in intervals.values()):
        return "clear"
    return "hardly_matters" if regret <= SMALL_REGRET else "cannot_tell"
