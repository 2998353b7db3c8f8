"""How much narrower an interval will be after further runs: the bootstrap draws, read as what is believed today.

Every draw says what the quantity may be and what each candidate run would then show. The closer the two go together
over the draws, the more a run tells of the quantity. In normal scores of the draws (van der Waerden 1952) this is the
linear normal case of preposterior analysis (Raiffa and Schlaifer 1961): a run narrows the quantity by an amount that
does not depend on what it will show, so that several runs can be chosen before the first is made. Scores instead of
the draws themselves, because draws of loose laws are skewed, stop at bounds, have two modes, or are infinite.
"""

import numpy as np

# The share of a normal sample that an interval of +-1.96 deviations holds.
_CENTRAL = 0.95
_DEVIATIONS = 1.959964


class Prospect:
    """What is expected of a quantity's interval while runs are chosen one after another.

    Args:
        quantity: (B,) draws of the quantity; infinities are allowed.
        seen: (B, C) draws of what a run of each of C configurations would show, noise apart.
        noise: Variance of one run about that.
        is_new: (C,) whether the configuration has not been measured.
        spare: Configurations measured beyond the law's free parameters: an interval's Student factor falls with every
            new one. None where the interval has no such factor.
    """

    def __init__(
        self, quantity: np.ndarray, seen: np.ndarray, noise: float, is_new: np.ndarray, spare: int | None = None
    ):
        # The quantity's own scale plays no part: its scores have variance one.
        aim = normal_scores(quantity[:, None])[:, 0]
        self._seen = normal_scores(seen) * _scales(seen)
        self._noise, self._is_new, self._spare = noise, is_new.copy(), spare
        count = len(aim)
        self._spread = np.einsum("bc,bc->c", self._seen, self._seen) / count
        self._shared = aim @ self._seen / count
        self._left = self._at_first = float(aim @ aim / count)
        self._learned: list[np.ndarray] = []
        self._n_new = 0

    @property
    def width(self) -> float:
        """The expected width of the interval, as a share of today's."""
        return float(np.sqrt(max(self._left, 0.0) / self._at_first) * self._student(0))

    def gains(self) -> np.ndarray:
        """(C,) by how much one further run of each configuration lowers `width`."""
        left = np.maximum(self._left - self._shared**2 / (self._spread + self._noise), 0.0)
        student = np.where(self._is_new, self._student(1), self._student(0))
        return self.width - np.sqrt(left / self._at_first) * student

    def learn(self, configuration: int) -> None:
        """Take a run of this configuration as made.

        One step of a pivoted Cholesky decomposition of the scores' covariance, noise added at what is measured.
        """
        column = self._seen.T @ self._seen[:, configuration] / len(self._seen)
        for step in self._learned:
            column = column - step * step[configuration]
        deviation = np.sqrt(self._spread[configuration] + self._noise)
        step, toward = column / deviation, self._shared[configuration] / deviation
        self._spread = np.maximum(self._spread - step**2, 0.0)
        self._shared = self._shared - step * toward
        self._left -= toward**2
        self._learned.append(step)
        self._n_new += int(self._is_new[configuration])
        self._is_new[configuration] = False

    def _student(self, more: int) -> float:
        """Student's quantile with `more` new configurations, as a share of today's."""
        from scipy.special import stdtrit

        if self._spare is None:
            return 1.0
        now, then = max(self._spare, 1), max(self._spare + self._n_new + more, 1)
        return float(stdtrit(then, 0.975) / stdtrit(now, 0.975))


def normal_scores(draws: np.ndarray) -> np.ndarray:
    """(B, N) standard normal quantiles of the ranks within each column; what is undefined counts as the middle."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    ranks = rankdata(np.where(np.isnan(draws), _middle(draws), draws), axis=0)
    return ndtri((ranks - 0.5) / len(draws))


def _middle(draws: np.ndarray) -> np.ndarray:
    """(N,) medians of what is defined; 0 where nothing is."""
    empty = np.isnan(draws).all(axis=0)
    return np.where(empty, 0.0, np.nanmedian(np.where(empty, 0.0, draws), axis=0))


def _scales(draws: np.ndarray) -> np.ndarray:
    """(N,) standard deviations that the central 95 % of each column amount to."""
    filled = np.where(np.isfinite(draws), draws, _middle(draws))
    low, high = np.quantile(filled, [(1 - _CENTRAL) / 2, (1 + _CENTRAL) / 2], axis=0)
    return (high - low) / (2 * _DEVIATIONS)


def narrowed(draws: np.ndarray, value: float, level: float, width: float) -> tuple[float, float]:
    """The central interval of draws (B,) shrunk towards a value, to a share `width` of its width in normal scores.

    Returns:
        low, high: quantiles of the draws, so that they respect bounds and may be infinite.
    """
    from scipy.special import ndtr, ndtri

    draws = np.sort(draws[~np.isnan(draws)])
    tail = ndtri((1 + level) / 2)
    below = (np.searchsorted(draws, value) + np.searchsorted(draws, value, side="right")) / 2
    centre = float(np.clip(ndtri(np.clip(below / len(draws), 1e-6, 1 - 1e-6)), -tail, tail))
    ends = ndtr(centre + (np.array([-tail, tail]) - centre) * width)
    method = "linear" if np.isfinite(draws).all() else "nearest"
    low, high = np.quantile(draws, ends, method=method)
    return float(min(low, value)), float(max(high, value))
