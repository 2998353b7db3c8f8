"""What a little more of each size would bring, and cost, at a given allocation."""

import numpy as np

from hf_scaling.fitting.compute import SIZES
from hf_scaling.fitting.lawfit import quantiles
from hf_scaling.planning.problem import Problem

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
