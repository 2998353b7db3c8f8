"""Which runs to make with a budget: one after another, each where the interval gives most."""

from copy import copy
from dataclasses import dataclass

import numpy as np

from hf_scaling.planning.suggest.bill import Bill
from hf_scaling.planning.suggest.prospect import Prospect

# While money is spent, a run may take as little of the interval as this; in the end it must take as much as that.
_LEAST_TRIED, _LEAST_KEPT = 0.002, 0.005
# Gains are weighed against these powers of the cost, and money left over is spent again this often.
_POWERS, _ROUNDS = (0.0, 0.5, 1.0), 2
# Up to this factor one set of runs tells as much as another.
_NEARLY = 1.1


@dataclass(frozen=True)
class Choice:
    """Runs, those that narrow the interval most first.

    Attributes:
        rows: Which candidates.
        cost: What each adds to the bill of those before it.
        width: The expected width of the interval after each, as a share of today's.
    """

    rows: list[int]
    cost: list[float]
    width: list[float]

    @property
    def final(self) -> float:
        """The width after all of them."""
        return self.width[-1] if self.width else 1.0


def choose(prospect: Prospect, bill: Bill, configuration: np.ndarray, budget: float) -> Choice:
    """Choose runs within a budget.

    The runs that a careful prospect asks for are taken where they tell nearly as much as those that the plain one
    asks for: their interval is more to be relied on. The widths are the plain prospect's.

    Args:
        prospect: What is expected before any choice; left as it is.
        bill: The bill before any choice; left as it is.
        configuration: (N,) which of the prospect's configurations each candidate is.
        budget: In the bill's unit.
    """
    best = _best(prospect, bill, configuration, budget)
    if not best.rows:
        return best
    careful = _best(prospect.carefully(), bill, configuration, budget)
    spread = _in_order(prospect, bill, configuration, careful.rows, 0.0)
    return spread if spread.final <= _NEARLY * best.final else best


def _best(prospect: Prospect, bill: Bill, configuration: np.ndarray, budget: float) -> Choice:
    """The narrowest interval that a budget buys.

    By gain alone dear runs leave no money for others, by gain per cost cheap ones use it up: both are tried, and gain
    per root of cost between them; the best is never far from the best there is (Leskovec et al. 2007). What others
    make superfluous is dropped, and the money spent again.
    """
    found = [Choice([], [], [])]
    for power in _POWERS:
        chosen = found[0]
        for _ in range(_ROUNDS):
            rows = _spend(prospect, bill, configuration, budget, power, chosen.rows)
            if len(rows) == len(chosen.rows):
                break
            chosen = _in_order(prospect, bill, configuration, rows, _LEAST_KEPT)
            found.append(chosen)
    return min(found, key=lambda choice: choice.final)


def _spend(prospect: Prospect, bill: Bill, configuration: np.ndarray, budget: float, power: float, first: list[int]):
    """The candidates that a budget buys: those bought first, then greedily by gain over a power of the cost."""
    prospect, bill = copy(prospect), copy(bill)
    rows, waiting = [], np.ones(len(configuration), dtype=bool)
    for row in first:
        budget -= bill.cost()[row]
        _take(row, prospect, bill, configuration)
        rows.append(row)
        waiting[row] = False
    while True:
        gain, cost = prospect.gains()[configuration], bill.cost()
        possible = waiting & (cost <= budget) & (gain >= _LEAST_TRIED)
        if not possible.any():
            return rows
        value = np.log(np.where(possible, gain, 1.0)) - power * np.log(np.maximum(cost, 1e-300))
        row = int(np.argmax(np.where(possible, value, -np.inf)))
        _take(row, prospect, bill, configuration)
        rows.append(row)
        waiting[row], budget = False, budget - cost[row]


def _take(row: int, prospect: Prospect, bill: Bill, configuration: np.ndarray) -> None:
    prospect.learn(configuration[row])
    bill.pay(row)


def _in_order(prospect: Prospect, bill: Bill, configuration: np.ndarray, rows: list[int], least: float) -> Choice:
    """The same runs by what each still adds, largest first, up to where it is less than `least`."""
    prospect, bill = copy(prospect), copy(bill)
    waiting, found = list(rows), Choice([], [], [])
    while waiting:
        gain = prospect.gains()[configuration[waiting]]
        if gain.max() < least:
            break
        row = waiting.pop(int(np.argmax(gain)))
        found.rows.append(row)
        found.cost.append(float(bill.cost()[row]))
        _take(row, prospect, bill, configuration)
        found.width.append(prospect.width)
    return found
