"""A size's effect on what a run takes, between the sizes measured and beyond them."""

import numpy as np


class LogCurve:
    """Straight lines between measured points in logarithms, that never fall: more does not cost less.

    Beyond the largest x the curve stays proportional to x: as many passes over the images as at the largest measured,
    as many FLOPs a parameter. Below the smallest it is proportional too, or keeps to its first line ("first"): where a
    training rule asks for a least number of steps, fewer images are passed over more often, and cost as much.

    Args:
        points: Pairs of x and y, positive, x ascending; a single pair without x (None) is a constant.
        below: "proportional" or "first".
    """

    def __init__(self, points, below: str = "proportional"):
        self.constant = float(points[0][1]) if points[0][0] is None else None
        if self.constant is not None:
            return
        self.x, y = np.log(np.asarray(points, dtype=float)).T
        self.y = np.maximum.accumulate(y)
        self.first = 1.0
        if below == "first" and len(self.x) > 1:
            self.first = float(np.clip((self.y[1] - self.y[0]) / (self.x[1] - self.x[0]), 0, 1))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at sizes x, 0 or more."""
        if self.constant is not None:
            return np.full(np.shape(x), self.constant)
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(np.asarray(x, dtype=float)), -700.0)
        inside = np.interp(logs, self.x, self.y)
        below, above = np.minimum(logs - self.x[0], 0.0), np.maximum(logs - self.x[-1], 0.0)
        return np.exp(inside + self.first * below + above)
