"""Which value of one variable reaches a target."""

from collections.abc import Mapping

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws.formula import Graph, Program
from hf_scaling.text import COLUMNS

# Points of the first scan, evenly spaced in the logarithm; a crossing and its way back between two go unseen.
_SCAN = 160
# Halvings of one such interval until it is as narrow as a double can tell.
_HALVINGS = 56
_TARGET = "the target"
_POSITION = "log of the variable"


class Inverse:
    """Solves law(variable) = target for one variable, per parameter vector and point, in the variable's logarithm."""

    def __init__(self, source, parameters, variables, solve_for: str):
        graph = Graph()
        leaves = {p.name: graph.parameter(p.name, nonnegative=p.low >= 0) for p in parameters}
        leaves |= {name: graph.variable(name) for name in variables}
        leaves[solve_for] = graph.exp(graph.hidden(_POSITION))
        excess = source.lower_excess(graph, leaves, graph.parameter(_TARGET, nonnegative=True))
        self._program = Program([excess], (*(p.name for p in parameters), _TARGET))
        column = COLUMNS.get(solve_for, COLUMNS["x"])
        self._low, self._high = np.log(column.low), np.log(column.high)

    def solve(
        self, theta: np.ndarray, target: np.ndarray, variables: Mapping[str, np.ndarray], size: int
    ) -> np.ndarray:
        """Solutions (B, N) for theta (B, P), target (B, N) and the other variables (N,)."""
        solutions = np.empty((len(theta), size))
        with np.errstate(all="ignore"):
            for n in range(size):
                point = {name: column[n : n + 1] for name, column in variables.items()}
                solutions[:, n] = self._solve_point(np.column_stack([theta, target[:, n]]), point)
        return solutions

    def _solve_point(self, theta: np.ndarray, point: Mapping[str, np.ndarray]) -> np.ndarray:
        data = self._program.prepare(point)

        def excess(position):
            result = np.empty(position.shape)
            self._program.run(theta, data, [result], position)
            return result

        scan = np.linspace(self._low, self._high, _SCAN)
        scanned = np.stack([excess(np.full((len(theta), 1), u))[:, 0] for u in scan], axis=1)
        signs = np.sign(scanned)
        # Far out a law may equal its floor to the last bit; being at the target is not yet being past it.
        signs = np.where(signs == 0, _start_side(scanned)[:, None], signs)
        crosses = signs[:, :-1] * signs[:, 1:] < 0
        first = np.argmax(crosses, axis=1)
        low, high = scan[first][:, None], scan[first + 1][:, None]
        side = np.take_along_axis(signs, first[:, None], axis=1)
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            same = np.sign(excess(middle)) == side
            low, high = np.where(same, middle, low), np.where(same, high, middle)
        found = np.exp((low + high) / 2)[:, 0]
        return np.where(crosses.any(axis=1), found, _without_crossing(scanned))


def _ends(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last finite value of each row, NaN where there is none."""
    finite = np.isfinite(excess)
    rows = np.arange(len(excess))
    last = excess.shape[1] - 1 - np.argmax(finite[:, ::-1], axis=1)
    return excess[rows, np.argmax(finite, axis=1)], excess[rows, last]


def _start_side(excess: np.ndarray) -> np.ndarray:
    """1 for curves that fall, -1 for those that rise: the sign of the excess before the target is reached."""
    first, last = _ends(excess)
    return np.where(last > first, -1.0, 1.0)


def _without_crossing(excess: np.ndarray) -> np.ndarray:
    """0 where the curve is past the target throughout, infinity where it never is."""
    first, _ = _ends(excess)
    reached = first * _start_side(excess) <= 0
    return np.where(np.isnan(first), np.nan, np.where(reached, 0.0, np.inf))


def checked_target(target: object, owner: str) -> np.ndarray:
    """The target as a float64 array; InputError unless it is positive and finite."""
    values = np.asarray(target, dtype=float)
    if not np.all(np.isfinite(values) & (values > 0)):
        raise InputError(f"{owner}: the target to reach must be positive and finite, not {target}")
    return values
