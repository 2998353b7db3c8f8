"""The logarithm of plain over distilled as a smooth function of the sizes, with draws from its posterior.

The arms' difference need not have the shape of any law: measured ones fall steeply, turn, and come back towards zero.
So the curve is a straight line in log n_pretrain plus a smooth part, a cubic smoothing spline (Wahba 1978: an
integrated Wiener process), and how smooth it is is averaged over, weighted by the restricted likelihood of the pairs.
Other sizes shift and tilt the line, and bend the curve as much as the pairs call for.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.special import ndtri
from scipy.stats import qmc

from hf_scaling.boundary.arms import ARMS, Pairs
from hf_scaling.errors import InputError
from hf_scaling.fitting.fit import FitOptions
from hf_scaling.text import format_span, format_whole

#: Curves reach this factor beyond the measured sizes.
REACH = 30.0
_KNOTS = 121
# Terms of the smooth part along n_pretrain, and of its products with other sizes.
_TERMS, _CROSSED, _ACROSS = 30, 16, 3
# Standard deviations of the random parts, relative to the noise of one row: logarithms searched, and rounds of search.
_SEARCHED, _POINTS_LOG2, _ROUNDS = (-3.0, 6.0), 6, 2


@dataclass(frozen=True)
class _Axis:
    """One size, and the terms of a smooth curve along it, which measured sizes cannot tell from no line.

    Attributes:
        levels: (L,) logarithms of the measured sizes.
        knots: (K,) logarithms between which the terms are interpolated.
        terms: (K, T) their values, scaled to a mean square of 1 at the measured sizes.
    """

    levels: np.ndarray
    knots: np.ndarray
    terms: np.ndarray

    @classmethod
    def of(cls, sizes: np.ndarray, most: int) -> "_Axis":
        levels = np.unique(np.log(sizes))
        knots = np.linspace(levels[0] - np.log(REACH), levels[-1] + np.log(REACH), _KNOTS)
        if len(levels) < 3:
            return cls(levels, knots, np.zeros((_KNOTS, 0)))
        places = np.concatenate([knots, levels]) - knots[0]
        one, two = places[:, None], places[None]
        wiener = np.minimum(one, two) ** 2 * (3 * np.maximum(one, two) - np.minimum(one, two)) / 6
        # What is left of each function after the line through it at the measured sizes.
        line = np.stack([np.ones_like(places), places], axis=1)
        project = np.eye(len(places))
        project[:, _KNOTS:] -= line @ np.linalg.pinv(line[_KNOTS:])
        variances, functions = np.linalg.eigh(project @ wiener @ project.T)
        terms = (functions * np.sqrt(np.clip(variances, 0, None)))[:, ::-1][:, :most]
        return cls(levels, knots, terms[:_KNOTS] / np.sqrt((terms[_KNOTS:] ** 2).sum(axis=1).mean()))

    def line(self, sizes: np.ndarray) -> np.ndarray:
        """(N,) logarithms of sizes, the measured ones between -1 and 1."""
        half = max(self.levels[-1] - self.levels[0], 1e-9) / 2
        return (np.log(sizes) - (self.levels[-1] + self.levels[0]) / 2) / half

    def smooth(self, sizes: np.ndarray) -> np.ndarray:
        """(N, T) terms at sizes."""
        logs = np.log(sizes)
        return np.array([np.interp(logs, self.knots, term) for term in self.terms.T]).reshape(-1, len(logs)).T


@dataclass(frozen=True)
class _Basis:
    """Columns whose sums are curves of the sizes.

    Attributes:
        along: The size along which the boundary is searched.
        others: The others by name.
        scales: Factors of the blocks of products, by which each has a mean square of 1 at the measured rows.
    """

    along: _Axis
    others: Mapping[str, _Axis]
    scales: tuple[float, ...] = ()

    @classmethod
    def of(cls, x: np.ndarray, others: Mapping[str, np.ndarray]) -> "_Basis":
        basis = cls(_Axis.of(x, _TERMS), {name: _Axis.of(sizes, _ACROSS) for name, sizes in others.items()})
        squares = [(block**2).sum(axis=1).mean() for block in basis._products(x, others)]
        return cls(basis.along, basis.others, tuple(1 / np.sqrt(max(square, 1e-12)) for square in squares))

    def _products(self, x: np.ndarray, others: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Blocks (N, T) for how the curve along x depends on each other size, beyond a shift and a tilt."""
        line, smooth, blocks = self.along.line(x)[:, None], self.along.smooth(x)[:, :_CROSSED], []
        for name, axis in self.others.items():
            across = axis.smooth(others[name])
            crossed = (smooth[:, :, None] * across[:, None]).reshape(len(x), -1)
            blocks += [across, line * across, axis.line(others[name])[:, None] * smooth, crossed]
        return [block for block in blocks if block.shape[1]]

    def columns(self, x: np.ndarray, others: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Blocks (N, T): the line with its shifts and tilts, the smooth part, and where sizes vary the products."""
        line = self.along.line(x)
        fixed = [np.ones_like(line), line]
        for name, axis in self.others.items():
            fixed += [axis.line(others[name]), axis.line(others[name]) * line]
        blocks = [np.stack(fixed, axis=1)]
        if (smooth := self.along.smooth(x)).shape[1]:
            blocks.append(smooth)
        if products := self._products(x, others):
            blocks.append(np.concatenate([b * s for b, s in zip(products, self.scales)], axis=1))
        return blocks


@dataclass(frozen=True)
class _Posterior:
    """Coefficients of the fixed columns, then of the random ones: their mean (P,) and draws (B, P)."""

    mean: np.ndarray
    draws: np.ndarray


def _posterior(y: np.ndarray, fixed: np.ndarray, random: Sequence[np.ndarray], draws: int, seed: int) -> _Posterior:
    """Bayesian regression: flat on the fixed columns, normal on each block of random ones.

    The standard deviation of a block, relative to the noise, has a half-Cauchy prior (Gelman 2006) and is integrated
    over by importance sampling on Sobol points; the noise's is integrated over exactly, so tails are Student's.

    Args:
        y: (N,) observations.
        fixed: (N, F) columns.
        random: Blocks (N, T) of columns.
        draws: How many to take.
        seed: Of the draws.

    Raises:
        InputError: There are no more rows than fixed columns.
    """
    n_fixed, spare = fixed.shape[1], len(y) - fixed.shape[1]
    if spare < 1:
        raise InputError(f"{len(y)} pairs of runs are too few: a curve through them needs {n_fixed + 1}")
    # The rows measure few combinations of a block's columns; the others keep their prior.
    measured = []
    for block in random:
        _, sizes, turn = np.linalg.svd(block, full_matrices=False)
        measured.append(turn[sizes > 1e-6 * max(sizes.max(initial=0.0), 1e-300)].T)
    design = np.concatenate([fixed, *(block @ turn for block, turn in zip(random, measured))], axis=1)
    number = np.repeat(np.arange(1 + len(random)), [n_fixed, *(turn.shape[1] for turn in measured)])
    gram, toward, total = design.T @ design, design.T @ y, float(y @ y)

    def solve(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Log density (S,), means (S, P), factors (S, P, P) whose product is the precision, residual sums (S,)."""
        scale = np.concatenate([np.ones((len(logs), 1)), np.exp(logs)], axis=1)[:, number]
        # At one size no slope is measured: next to nothing keeps it finite.
        precision = scale[:, :, None] * gram * scale[:, None] + np.diag(np.where(number > 0, 1.0, 1e-9 * len(y)))
        factor = np.linalg.cholesky(precision)
        half = np.linalg.solve(factor, (scale * toward)[:, :, None])
        mean = np.linalg.solve(factor.transpose(0, 2, 1), half)[:, :, 0]
        rest = np.maximum(total - (half[:, :, 0] ** 2).sum(axis=1), 1e-14 * total + 1e-300)
        density = -np.log(np.diagonal(factor, axis1=1, axis2=2)).sum(axis=1) - 0.5 * spare * np.log(rest)
        prior = (logs - np.log1p(np.exp(2 * logs))).sum(axis=1)
        return density + prior, scale * mean, factor / scale[:, :, None], rest

    logs, weights = _search(lambda logs: solve(logs)[0], len(random))
    generator = np.random.default_rng(seed)
    counts = generator.multinomial(draws, weights)
    used = (counts > 0) | (weights > 1e-4)
    _, means, factors, rests = solve(logs[used])
    ends = np.cumsum([n_fixed, *(turn.shape[1] for turn in measured)])

    def unfold(coefficients: np.ndarray, free: Sequence[np.ndarray]) -> np.ndarray:
        parts = [coefficients[..., :n_fixed]]
        for turn, first, last, prior in zip(measured, ends[:-1], ends[1:], free):
            parts.append(coefficients[..., first:last] @ turn.T + prior - (prior @ turn) @ turn.T)
        return np.concatenate(parts, axis=-1)

    drawn = []
    for log, mean, factor, rest, count in zip(logs[used], means, factors, rests, counts[used]):
        noise = np.sqrt(rest / generator.chisquare(spare, size=(count, 1)))
        part = np.linalg.solve(factor.T, generator.standard_normal((len(mean), count))).T
        free = [
            noise * np.exp(width) * generator.standard_normal((count, len(turn))) for width, turn in zip(log, measured)
        ]
        drawn.append(unfold(mean + noise * part, free))
    mean = unfold(weights[used] @ means / weights[used].sum(), [np.zeros(len(turn)) for turn in measured])
    # In no order of the points: draws of two curves are used side by side.
    return _Posterior(mean, generator.permutation(np.concatenate(drawn)))


def _search(density: Callable[[np.ndarray], np.ndarray], n_blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (S, C) of the logarithms of C standard deviations, and weights (S,) by which they follow a density."""
    if not n_blocks:
        return np.zeros((1, 0)), np.ones(1)
    power = _POINTS_LOG2 + min(n_blocks, 4) - 1
    low, high = _SEARCHED
    logs = low + (high - low) * _sobol(n_blocks, power, 0)
    proposed = np.zeros(len(logs))
    for round_ in range(1 + _ROUNDS):
        values = density(logs) - proposed
        weights = np.exp(values - values.max())
        weights /= weights.sum()
        if round_ < _ROUNDS:
            mean = weights @ logs
            # Wider than what was found, so that no part of the density is missed.
            spread = 1.5 * (logs - mean).T @ (weights[:, None] * (logs - mean)) + 0.2 * np.eye(n_blocks)
            scores = ndtri(np.clip(_sobol(n_blocks, power, 1 + round_), 1e-6, 1 - 1e-6))
            logs, proposed = mean + scores @ np.linalg.cholesky(spread).T, -0.5 * (scores**2).sum(axis=1)
    return logs, weights


@cache
def _sobol(dimensions: int, power: int, seed: int) -> np.ndarray:
    """(2**power, dimensions) scrambled Sobol points."""
    return qmc.Sobol(dimensions, seed=seed).random_base2(power)


@dataclass(frozen=True)
class RatioCurve:
    """log(plain / distilled) as a curve of the sizes.

    Attributes:
        sizes: Names of the sizes other than x on which it depends.
        basis: The columns of the curve.
        posterior: Their coefficients.
        distilled_basis: The columns of log(distilled).
        distilled_posterior: Their coefficients.
        shift: Mean logarithm of the distilled run's x over the plain one's, 0 where they are equal.
    """

    sizes: tuple[str, ...]
    basis: _Basis
    posterior: _Posterior
    distilled_basis: _Basis
    distilled_posterior: _Posterior
    shift: float

    @property
    def description(self) -> str:
        """What was fitted, as part of a sentence."""
        over = f", over {' and '.join(self.sizes)}" if self.sizes else ""
        return f"a smooth curve through the paired differences{over}"

    def log_ratio(self, x: np.ndarray, at: Mapping[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """The curve (N,) and its draws (B, N) at sizes x (N,) and the other sizes.

        Raises:
            InputError: Another size is further outside the measured ones than curves reach.
        """
        columns = self._columns(self.basis, x, at)
        value, drawn = columns @ self.posterior.mean, self.posterior.draws @ columns.T
        if self.shift:
            # How far the distilled arm's curve is uncertain between the two runs of a pair.
            moved = self._columns(self.distilled_basis, x * np.exp(self.shift), at)
            moved = moved - self._columns(self.distilled_basis, x, at)
            drawn = drawn + (self.distilled_posterior.draws - self.distilled_posterior.mean) @ moved.T
        return value, drawn

    def distilled(self, x: np.ndarray, at: Mapping[str, float]) -> np.ndarray:
        """(N,) the distilled arm's values, by a curve through its runs."""
        return np.exp(self._columns(self.distilled_basis, x, at) @ self.distilled_posterior.mean)

    def _columns(self, basis: _Basis, x: np.ndarray, at: Mapping[str, float]) -> np.ndarray:
        for name, axis in basis.others.items():
            if not axis.knots[0] - 1e-9 <= np.log(at[name]) <= axis.knots[-1] + 1e-9:
                span = format_span(*np.exp(axis.levels[[0, -1]]))
                raise InputError(
                    f"{name} {format_whole(at[name])} is more than {REACH:g} times outside the measured {span}"
                )
        return np.concatenate(basis.columns(x, {name: np.full(len(x), at[name]) for name in self.sizes}), axis=1)


def fit_ratio(pairs: Pairs, x: dict[str, np.ndarray], options: FitOptions) -> RatioCurve:
    """Fit the curve of log(plain / distilled) through the ratios of the pairs: what a pair shares cancels.

    Where the runs of a pair have different x (FLOPs with the teacher's), the distilled one is first moved to the plain
    one's along a curve through the distilled arm, whose uncertainty the draws carry.

    Args:
        pairs: The pairs.
        x: Each arm's sizes along which the boundary is searched.
        options: How many draws, and their seed.

    Raises:
        InputError: There are too few pairs.
    """
    others = {}
    for name in ("n_params", "n_finetune"):
        sizes = getattr(pairs, name)
        if len(np.unique(sizes[np.isfinite(sizes)])) > 1:
            others[name] = sizes
    clusters = []
    if pairs.cluster is not None:
        # (N, K) ones where row n is of cluster k.
        clusters = [(pairs.cluster[:, None] == np.arange(pairs.cluster.max() + 1)).astype(float)]

    def fit(y: np.ndarray, basis: _Basis, at: np.ndarray, draws: int, seed: int) -> _Posterior:
        fixed, *random = basis.columns(at, others)
        fitted = _posterior(y, fixed, [*random, *clusters], draws, seed)
        n_columns = fixed.shape[1] + sum(block.shape[1] for block in random)
        return _Posterior(fitted.mean[:n_columns], fitted.draws[:, :n_columns])

    basis, y, shift = _Basis.of(x["plain"], others), np.log(pairs.plain / pairs.distilled), 0.0
    is_shifted = not np.allclose(x["plain"], x["distilled"], rtol=1e-9)
    own = _Basis.of(x["distilled"], others) if is_shifted else basis
    # Without a shift its mean is all that is used.
    draws = options.bootstrap if is_shifted else 1
    distilled = fit(np.log(pairs.distilled), own, x["distilled"], draws, options.seed + 1)
    if is_shifted:
        moved = [np.concatenate(own.columns(x[arm], others), axis=1) @ distilled.mean for arm in ARMS]
        y, shift = y - (moved[0] - moved[1]), float(np.mean(np.log(x["distilled"] / x["plain"])))
    ratio = fit(y, basis, x["plain"], options.bootstrap, options.seed)
    return RatioCurve(tuple(others), basis, ratio, own, distilled, shift)
