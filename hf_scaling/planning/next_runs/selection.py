"""Which runs a budget buys: greedily by expected error or by expected width, or the cheapest at missing levels."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from hf_scaling.fitting.levels import distinct_levels
from hf_scaling.planning.next_runs.candidates import MeasuredRuns
from hf_scaling.planning.next_runs.costs import RunCosts
from hf_scaling.planning.next_runs.error import ExpectedError
from hf_scaling.planning.next_runs.gain import ExpectedGain

# Least share of the interval that a run takes away: while money is spent, and in the end.
_LEAST_TRIED, _LEAST_KEPT = 0.002, 0.005
# Least share of the expected error that a run takes away; the power of the cost that it is divided by; the share of
# the budget below which a cost is small: cheaper runs are not preferred to it.
_LEAST_FALL, _COST_POWER, _SMALL_COST = 1e-4, 0.75, 0.005
# Gains are divided by these powers of the cost, and money that is left over is spent again this often.
_POWERS, _ROUNDS = (0.0, 0.5, 1.0), 2
# Up to this factor two intervals count as equally narrow.
_NEARLY = 1.1


@dataclass(frozen=True)
class Selection:
    """Runs, those that narrow the interval most first.

    Attributes:
        rows: Positions among the candidates.
        cost: What each adds to the costs of those before it.
        width: The expected width of the interval after each, as a share of today's.
    """

    rows: list[int]
    cost: list[float]
    width: list[float]

    @property
    def final(self) -> float:
        """The width after all of them."""
        return self.width[-1] if self.width else 1.0

    def without_width(self) -> "Selection":
        """The same runs where no width can be expected: NaN."""
        return replace(self, width=[float("nan")] * len(self.rows))


def select_runs(expected: ExpectedGain, costs: RunCosts, configuration: np.ndarray, budget: float) -> Selection:
    """Select runs within a budget.

    The runs of the conservative expectation are taken where they narrow the interval nearly as much as those of the
    default one: they leave an interval that is more reliable. The widths are those of the default expectation.

    Args:
        expected: What is expected before any selection; not changed.
        costs: Costs of the N candidates before any selection; not changed.
        configuration: (N,) the configuration of each candidate.
        budget: In the unit of the costs.
    """
    best = _best(expected, costs, configuration, budget)
    if not best.rows:
        return best
    conservative = _best(expected.conservative(), costs, configuration, budget)
    spread = in_order(expected, costs, configuration, conservative.rows, 0.0)
    return spread if spread.final <= _NEARLY * best.final else best


def select_by_error(
    error: ExpectedError, costs: RunCosts, configuration: np.ndarray, budget: float, together: bool
) -> list[int]:
    """Select runs within a budget, greedily by how much each lowers the expected error for its cost.

    Gains are divided by a power of the cost: by gain alone expensive runs leave no money for others, by gain per cost
    cheap ones crowd out those that are near the place of the prediction (docs/suggest.md).

    Args:
        error: Before any selection; it counts the selected runs afterwards.
        costs: Costs of the N candidates before any selection; not changed.
        configuration: (N,) the configuration of each candidate.
        budget: In the unit of the costs.
        together: Whether the candidates of one configuration are taken together or not at all, unless the budget is
            too small for those of any. Finished runs of one size often differ by a condition that no column holds: one
            has its effect, all have the mean.
    """
    costs, rows, before = copy(costs), list[int](), error.level()
    least, waiting = budget * _SMALL_COST, np.ones(len(configuration), dtype=bool)
    numbers = np.bincount(configuration)
    whole = together & (numbers > 1)
    while True:
        added = costs.added()
        price = np.where(whole[configuration], np.bincount(configuration, added)[configuration], added)
        gain = error.gains(np.where(whole, numbers, 1))[configuration]
        possible = waiting & (price <= budget) & (gain >= _LEAST_FALL)
        if not possible.any():
            break
        value = np.log(np.where(possible, gain, 1.0)) - _COST_POWER * np.log(np.maximum(price, least))
        row = int(np.argmax(np.where(possible, value, -np.inf)))
        same = waiting & (configuration == configuration[row])
        batch = np.flatnonzero(same).tolist() if whole[configuration[row]] else [row]
        error.add(configuration[row], len(batch))
        for taken in batch:
            costs.pay(taken)
        rows += batch
        waiting[batch], budget = False, budget - float(price[row])
    if together and not rows:
        return select_by_error(error, costs, configuration, budget, together=False)
    return rows if error.level() < (1 - _LEAST_KEPT) * before else []


def _best(expected: ExpectedGain, costs: RunCosts, configuration: np.ndarray, budget: float) -> Selection:
    """The narrowest interval that a budget buys.

    By gain alone expensive runs leave no money for others, by gain per cost cheap ones use it up: both are tried, and
    gain per root of cost between them; the best is never far from the optimum (Leskovec et al. 2007). Runs that others
    make superfluous are dropped, and the money is spent again.
    """
    tried = [Selection([], [], [])]
    for power in _POWERS:
        selection = tried[0]
        for _ in range(_ROUNDS):
            rows = _spend(expected, costs, configuration, budget, power, selection.rows)
            if len(rows) == len(selection.rows):
                break
            selection = in_order(expected, costs, configuration, rows, _LEAST_KEPT)
            tried.append(selection)
    return min(tried, key=lambda selection: selection.final)


def _spend(
    expected: ExpectedGain,
    costs: RunCosts,
    configuration: np.ndarray,
    budget: float,
    power: float,
    first: Sequence[int],
) -> list[int]:
    """The candidates that a budget buys: those of `first`, then greedily by gain over a power of the cost."""
    expected, costs, rows = copy(expected), copy(costs), list[int]()
    waiting, queue = np.ones(len(configuration), dtype=bool), list(first)
    while True:
        gain, cost = expected.gains()[configuration], costs.added()
        if queue:
            row = queue.pop(0)
        else:
            possible = waiting & (cost <= budget) & (gain >= _LEAST_TRIED)
            if not possible.any():
                return rows
            value = np.log(np.where(possible, gain, 1.0)) - power * np.log(np.maximum(cost, 1e-300))
            row = int(np.argmax(np.where(possible, value, -np.inf)))
        expected.add(configuration[row])
        costs.pay(row)
        rows.append(row)
        waiting[row], budget = False, budget - cost[row]


def in_order(
    expected: ExpectedGain, costs: RunCosts, configuration: np.ndarray, rows: Sequence[int], least: float
) -> Selection:
    """The same runs by what each still adds, largest first, up to where it is less than `least`."""
    expected, costs = copy(expected), copy(costs)
    waiting, ordered = list(rows), Selection([], [], [])
    while waiting:
        gain = expected.gains()[configuration[waiting]]
        if gain.max() < least:
            break
        row = waiting.pop(int(np.argmax(gain)))
        ordered.rows.append(row)
        ordered.cost.append(float(costs.added()[row]))
        expected.add(configuration[row])
        costs.pay(row)
        ordered.width.append(expected.width)
    return ordered


def select_levels(
    frame: pd.DataFrame,
    measured: MeasuredRuns,
    missing: Mapping[str, Sequence[float]],
    costs: RunCosts,
    configuration: np.ndarray,
    budget: float,
) -> Selection:
    """Runs that add missing levels, one of each size, the cheapest of each level in turn, within a budget.

    Nothing can be expected of their gain before the rows determine a law: their widths are NaN.

    Args:
        frame: The N candidates.
        measured: The runs that exist.
        missing: Column to the levels that would be enough; candidates with the nearest new levels are taken.
        costs: Costs of the candidates before any selection; not changed.
        configuration: (N,) the configuration of each candidate.
        budget: In the unit of the costs.
    """
    costs, selection, queues = copy(costs), Selection([], [], []), list[list[int]]()
    first = np.sort(np.unique(configuration, return_index=True)[1])
    for column, wanted in missing.items():
        known, values = distinct_levels(measured.runs[column]), frame[column].to_numpy(dtype=float)
        new = [v for v in np.unique(values[values > 0]) if len(distinct_levels([*known, v])) > len(known)]
        for level in wanted:
            if new:
                nearest = min(new, key=lambda value: abs(np.log(value / level)))
                new.remove(nearest)
                queues.append([int(row) for row in first if values[row] == nearest])
    while any(queues):
        for queue in queues:
            added = costs.added()
            queue.sort(key=lambda row: added[row], reverse=True)
            row = queue.pop() if queue else None
            if row is None or added[row] > budget or row in selection.rows:
                continue
            budget -= added[row]
            costs.pay(row)
            selection.rows.append(row)
            selection.cost.append(float(added[row]))
            selection.width.append(float("nan"))
    return selection
