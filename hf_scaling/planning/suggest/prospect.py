"""How much narrower an interval will be after further runs: the bootstrap draws, read as what is believed today.

Every draw says what the quantity may be and what each candidate run would then show. The closer the two go together
over the draws, the more a run tells of the quantity. In normal scores of the draws (van der Waerden 1952) this is the
linear normal case of preposterior analysis (Raiffa and Schlaifer 1961): a run narrows the quantity by an amount that
does not depend on what it will show, so that several runs can be chosen before the first is made. Scores instead of
the draws themselves, because draws of loose laws are skewed, stop at bounds, have two modes, or are infinite.
"""

from copy import copy

import numpy as np

# The share of a normal sample that an interval of +-1.96 deviations holds.
_CENTRAL = 0.95
_DEVIATIONS = 1.959964
# As in the bootstrap: a configuration that alone decides its fit has no residual to speak of.
_LEAST_REST = 0.05


class Prospect:
    """What is expected of a quantity's interval while runs are chosen one after another.

    Plainly, the interval follows what is known, and Student's quantile of the configurations beyond the parameters.
    A careful prospect expects what a fit will do: it judges the noise of a size by the size's own residual, which is
    inflated for leverage (HC3, docs/fitting.md), and where few residuals decide, the interval itself is uncertain,
    which counts as few degrees of freedom (Satterthwaite 1946). It spreads runs over neighbouring sizes.

    Args:
        quantity: (B,) draws of the quantity; infinities are allowed.
        seen: (B, C) draws of what a run of each of C configurations would show, noise apart.
        noise: Variance of one run about that.
        is_new: (C,) whether the configuration has not been measured; None where each run is judged by itself, as the
            pairs of a boundary are.
        spare: Degrees of freedom of today's interval.
    """

    def __init__(
        self,
        quantity: np.ndarray,
        seen: np.ndarray,
        noise: float,
        is_new: np.ndarray | None,
        spare: float,
    ):
        # The quantity's own scale plays no part: its scores have variance one.
        aim = normal_scores(quantity[:, None])[:, 0]
        self._seen = normal_scores(seen) * _scales(seen)
        # Without any noise a second look at what is known would divide nothing by nothing.
        self._noise, self._is_new, self._spare = max(noise, 1e-12), is_new, max(spare, 1.0)
        self._today = float(aim @ aim / len(aim))
        self._toward = aim @ self._seen / len(aim)
        self._spread = np.einsum("bc,bc->c", self._seen, self._seen) / len(aim)
        # Of the runs so far: the inverse of their covariance, and its products with their covariance with the quantity
        # and with all configurations; of the configurations, what the runs leave to be learned.
        self._runs: list[int] = []
        self._inverse, self._before = np.empty((0, 0)), np.empty(0)
        self._columns = self._through = np.empty((0, len(self._toward)))
        self._news = self._spread + self._noise
        self._careful, self.width = False, 1.0
        self._next = self._widths()

    def carefully(self) -> "Prospect":
        """The same, expected carefully."""
        found = copy(self)
        found._careful = True
        found._next = found._widths()
        return found

    def gains(self) -> np.ndarray:
        """(C,) by how much one further run of each configuration lowers `width`, the share of today's interval."""
        return self.width - self._next

    def learn(self, configuration: int) -> None:
        """Take a run of this configuration as made."""
        self.width = float(self._next[configuration])
        column = self._seen.T @ self._seen[:, configuration] / len(self._seen)
        row, news = self._through[:, configuration], self._news[configuration]
        rest = column - row @ self._columns
        toward = self._toward[configuration] - row @ self._toward[self._runs]
        corner = np.append(-row, 1.0)
        self._inverse = np.pad(self._inverse, (0, 1)) + np.outer(corner, corner) / news
        self._before = np.append(self._before, 0.0) + corner * toward / news
        self._through = np.pad(self._through, ((0, 1), (0, 0))) + np.outer(corner, rest) / news
        self._news = np.maximum(self._news - rest**2 / news, self._noise)
        self._columns = np.concatenate([self._columns, column[None]])
        self._runs = [*self._runs, configuration]
        self._next = self._widths()

    def _widths(self) -> np.ndarray:
        """(C,) the width after the R runs so far and one of each configuration, as a share of today's.

        The inverse of the runs' covariance is extended by the further run, for all configurations at once: it gives
        the weights with which what the runs show moves the quantity, and the runs' leverages.
        """
        through, news = self._through, self._news
        weight = (self._toward - self._before @ self._columns) / news
        weights = np.concatenate([self._before[:, None] - through * weight, weight[None]])
        known = self._toward[self._runs] @ weights[:-1] + self._toward * weight
        left = np.maximum(self._today - known, 1e-12 * self._today)
        if not self._careful:
            return np.sqrt(left / self._today) * self._student(self._spare + self._n_new())
        diagonal = np.concatenate([np.diag(self._inverse)[:, None] + through**2 / news, 1 / news[None]])
        parts = self._by_cluster(self._noise * weights**2)
        old = np.maximum(left - parts.sum(axis=0), 0.0)
        parts = parts / np.maximum(1 - self._by_cluster(1 - self._noise * diagonal), _LEAST_REST)
        left = old + parts.sum(axis=0)
        return np.sqrt(left / self._today) * self._student(left**2 / (old**2 / self._spare + (parts**2).sum(axis=0)))

    def _n_new(self) -> np.ndarray:
        """(C,) how many new configurations, or runs judged by themselves, there are with one run more."""
        if self._is_new is None:
            return np.full(len(self._toward), len(self._runs) + 1)
        begun = np.isin(np.arange(len(self._toward)), self._runs)
        return (self._is_new & begun).sum() + (self._is_new & ~begun)

    def _student(self, freedom: np.ndarray) -> np.ndarray:
        """Student's quantile as a share of today's."""
        from scipy.special import stdtrit

        return stdtrit(freedom, 0.975) / stdtrit(self._spare, 0.975)

    def _by_cluster(self, values: np.ndarray) -> np.ndarray:
        """Sum over the runs (R + 1, C) of each cluster; the last row is the further run's where it begins one."""
        if self._is_new is None or not self._runs:
            return values
        distinct, which = np.unique(self._runs, return_inverse=True)
        found = np.zeros((len(distinct) + 1, values.shape[1]))
        np.add.at(found, which, values[:-1])
        found[-1] = values[-1]
        found[np.arange(len(distinct)), distinct] += values[-1, distinct]
        found[-1, distinct] = 0.0
        return found


def normal_scores(draws: np.ndarray) -> np.ndarray:
    """(B, N) standard normal quantiles of the ranks within each column; what is undefined counts as the middle."""
    import pandas as pd
    from scipy.special import ndtri

    ranks = pd.DataFrame(np.where(np.isnan(draws), _middle(draws), draws)).rank().to_numpy()
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
