"""Solving a law for one variable: the value at which it reaches a target."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike

from hf_scaling.errors import InputError
from hf_scaling.laws.evaluator import Program
from hf_scaling.text import COLUMNS

# Points of the first scan, evenly spaced in the logarithm; two crossings between two points are not seen.
_N_SCAN = 160
# Bisections of one such interval, until it is as narrow as a double allows.
_N_BISECTIONS = 56


def solve(
    program: Program, solve_for: str, theta: np.ndarray, target: np.ndarray, variables: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The values (B, N) of one variable at which a law reaches its targets, searched for in the variable's logarithm.

    Args:
        program: `Formula.excess_program` of the variable.
        solve_for: The variable's name; `COLUMNS` gives the range that is searched.
        theta: Parameter vectors (B, P).
        target: Targets (B, N).
        variables: The other variables, name to sizes (N,).
    """
    column = COLUMNS.get(solve_for, COLUMNS["x"])
    scan = np.linspace(np.log(column.low), np.log(column.high), _N_SCAN)
    solutions = np.empty(target.shape)
    with np.errstate(all="ignore"):
        for n in range(target.shape[1]):
            point = {name: sizes[n : n + 1] for name, sizes in variables.items()}
            solutions[:, n] = _solve_point(program, scan, np.column_stack([theta, target[:, n]]), point)
    return solutions


def _solve_point(program: Program, scan: np.ndarray, theta: np.ndarray, point: Mapping[str, np.ndarray]) -> np.ndarray:
    prepared = program.prepare(point)

    def excess(position: np.ndarray) -> np.ndarray:
        result = np.empty(position.shape)
        program.run(theta, prepared, [result], position)
        return result

    scanned = np.stack([excess(np.full((len(theta), 1), u))[:, 0] for u in scan], axis=1)
    signs = np.sign(scanned)
    # Far out a law may equal its floor to the last bit; a value at the target is not yet beyond it.
    signs = np.where(signs == 0, _start_side(scanned)[:, None], signs)
    crosses = signs[:, :-1] * signs[:, 1:] < 0
    first = np.argmax(crosses, axis=1)
    low, high = scan[first][:, None], scan[first + 1][:, None]
    side = np.take_along_axis(signs, first[:, None], axis=1)
    for _ in range(_N_BISECTIONS):
        middle = (low + high) / 2
        same = np.sign(excess(middle)) == side
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    solution = np.exp((low + high) / 2)[:, 0]
    # Without a crossing: 0 where the curve is beyond the target throughout, infinity where it never is.
    start, _ = _ends(scanned)
    reached = np.where(np.isnan(start), np.nan, np.where(start * _start_side(scanned) <= 0, 0.0, np.inf))
    return np.where(crosses.any(axis=1), solution, reached)


def _ends(excess: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the last finite value of each row, NaN where there is none."""
    finite = np.isfinite(excess)
    rows = np.arange(len(excess))
    last = excess.shape[1] - 1 - np.argmax(finite[:, ::-1], axis=1)
    return excess[rows, np.argmax(finite, axis=1)], excess[rows, last]


def _start_side(excess: np.ndarray) -> np.ndarray:
    """The sign of the excess before the target is reached: 1 for curves that fall, -1 for those that rise."""
    first, last = _ends(excess)
    return np.where(last > first, -1.0, 1.0)


def checked_target(target: ArrayLike, owner: str, signed: bool = False) -> np.ndarray:
    """The target as a float64 array; InputError unless it is finite and, where it is not `signed`, positive."""
    values = np.asarray(target, dtype=float)
    if not np.all(np.isfinite(values) & ((values > 0) | signed)):
        raise InputError(
            f"{owner}: the target to reach must be {'' if signed else 'positive and '}finite, not {target!r}"
        )
    return values
