"""The best allocation for every budget over orders of magnitude: what more money, or less, would change."""

import numpy as np

from hf_scaling.planning.optimum import solve, spend_the_rest
from hf_scaling.planning.problem import Problem

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
