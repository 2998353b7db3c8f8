"""The boundary without any law: the mean paired difference at each measured size, and where it changes sign."""

from dataclasses import dataclass

import numpy as np

from hf_scaling.boundary.crossing import interval


@dataclass(frozen=True)
class PairedCurve:
    """Mean paired differences at L measured sizes.

    Attributes:
        sizes: (L,) the sizes.
        log_ratio: (L,) mean log(plain / distilled).
        difference: (L,) mean plain minus distilled.
        counts: (L,) pairs at each size.
        draws: (B, L) bootstrap draws of log_ratio; empty where no size has two pairs.
    """

    sizes: np.ndarray
    log_ratio: np.ndarray
    difference: np.ndarray
    counts: np.ndarray
    draws: np.ndarray

    def zero(self, level: float) -> tuple[float, float, float]:
        """The size of the fall through zero with its interval; inf or 0 beyond the sizes, NaN without draws."""
        value = float(_falls(np.log(self.sizes), self.log_ratio[None])[0])
        if not len(self.draws):
            return value, float("nan"), float("nan")
        return value, *interval(_falls(np.log(self.sizes), self.draws), level)


def paired_curve(x: np.ndarray, plain: np.ndarray, distilled: np.ndarray, bootstrap: int, seed: int) -> PairedCurve:
    """Average the pairs at each size and redraw the averages.

    Pairs of one size differ by seed. Their scatter is pooled over the sizes, so that sizes with one pair share it.
    """
    sizes, group = np.unique(x, return_inverse=True)
    counts = np.bincount(group)
    logs = np.log(plain / distilled)
    mean = np.bincount(group, logs) / counts
    difference = np.bincount(group, plain - distilled) / counts
    freedom = len(logs) - len(sizes)
    if freedom < 1:
        return PairedCurve(sizes, mean, difference, counts, np.empty((0, len(sizes))))
    spread = np.sqrt(((logs - mean[group]) ** 2).sum() / freedom)
    generator = np.random.default_rng(seed)
    return PairedCurve(sizes, mean, difference, counts, _redraw(generator, mean, spread, counts, freedom, bootstrap))


def _redraw(generator, mean, spread, counts, freedom, bootstrap: int) -> np.ndarray:
    """Means with normal noise of the pooled spread, scaled by Student's chi for the freedom it has.

    A zero leans on the means of two or three sizes: too few for weights of six values to add up to a bell.
    """
    scale = spread * np.sqrt(freedom / generator.chisquare(freedom, size=(bootstrap, 1)))
    return mean + scale * generator.standard_normal((bootstrap, len(mean))) / np.sqrt(counts)


def _falls(log_sizes: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """(B,) where each curve (B, L) falls through zero.

    Noise makes a curve change sign often around its zero. The fall taken is the one after which the running sum of the
    curve is largest: it has the most on the right side of it before and after.
    """
    total = np.cumsum(curves, axis=1)
    last = np.where(total.max(axis=1) > 0, total.argmax(axis=1), -1)
    following = np.minimum(last + 1, curves.shape[1] - 1)
    rows = np.arange(len(curves))
    before, after = curves[rows, last], curves[rows, following]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(before > after, before / (before - after), 0.5)
        zero = np.exp(log_sizes[last] + np.clip(share, 0, 1) * (log_sizes[following] - log_sizes[last]))
    return np.where(last < 0, 0.0, np.where(last == curves.shape[1] - 1, np.inf, zero))
