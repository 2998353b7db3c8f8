"""Where a difference curve goes from positive to negative, for the curve and for each of its bootstrap draws."""

import numpy as np

# How far outside the measured sizes a zero is looked for, as a factor: beyond it no zero counts as found.
REACH = 30.0


def search_grid(measured: np.ndarray, points: int = 200) -> np.ndarray:
    """Sizes from far below to far above the measured ones, evenly in logarithms."""
    return np.geomspace(measured.min() / REACH, measured.max() * REACH, points)


def sign_changes(grid: np.ndarray, curve: np.ndarray) -> list[tuple[float, int]]:
    """Every zero of a curve (N,) on a grid (N,): its size, with +1 for a rise and -1 for a fall."""
    found = []
    for i in np.flatnonzero(np.sign(curve[:-1]) * np.sign(curve[1:]) < 0):
        share = curve[i] / (curve[i] - curve[i + 1])
        size = np.exp(np.log(grid[i]) + share * np.log(grid[i + 1] / grid[i]))
        found.append((float(size), 1 if curve[i + 1] > curve[i] else -1))
    return found


def nearest_zeros(grid: np.ndarray, curves: np.ndarray, near: float, direction: int) -> np.ndarray:
    """For each curve (B, N) its zero of one direction nearest to `near`.

    Returns:
        (B,) sizes; inf where the curve keeps to the side it starts from (the zero lies beyond), 0 where it is past it.
    """
    before, after = curves[:, :-1] * -direction, curves[:, 1:] * -direction
    crosses = (before > 0) & (after <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = before / (before - after)
    logs = np.log(grid[:-1]) + share * np.diff(np.log(grid))
    apart = np.where(crosses, np.abs(logs - np.log(near)), np.inf)
    best = np.argmin(apart, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        zero = np.exp(logs[np.arange(len(curves)), best])
    still = before[:, before.shape[1] // 2] > 0
    return np.where(crosses.any(axis=1), zero, np.where(still, np.inf, 0.0))


def interval(zeros: np.ndarray, level: float) -> tuple[float, float]:
    """The central interval of zeros, some of which may be 0 or infinite."""
    tail = (1 - level) / 2
    ordered = np.sort(zeros)
    low = ordered[int(np.floor(tail * (len(ordered) - 1)))]
    high = ordered[int(np.ceil((1 - tail) * (len(ordered) - 1)))]
    return float(low), float(high)
