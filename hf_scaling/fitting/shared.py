"""The distribution that the curves of a table share: normal, with an effect of each pool column and of each curve.

A curve's coordinates are the centre plus one effect of each level of a pool column that several curves have (a model
seen on three data sets) plus an effect of its own, all normal (random effects of crossed factors). What is known of a
curve from its own rows is a normal likelihood (Laplace), so everything here is linear algebra: the covariances are
estimated by expectation and maximisation (Dempster, Laird and Rubin 1977; empirical Bayes), and each curve's prior is
its distribution given all other curves.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

# Variance of the centre before any curve is seen: next to nothing is assumed of it.
_CENTRE_VARIANCE = 25.0
# Information added to each coordinate of each curve, so that what its rows do not determine has a finite variance.
_LEAST_INFORMATION = 1e-4
# Standard deviation of all effects together, and the number of levels that it weighs as much as, before any is seen.
_PRIOR_DEVIATION, _PRIOR_WEIGHT = 0.2, 1.0
# Uncorrelated levels, as a share of the coordinates, that the correlations of effects are shrunk by.
_CORRELATION_WEIGHT = 0.25


@dataclass(frozen=True)
class SharedDistribution:
    """Curves as normal likelihoods, and the covariances of the effects that they share.

    Attributes:
        levels: For each component (C,) the level of each curve; the last component has one level a curve.
        covariances: (K, F, F) the covariance of each component's effects.
        observed: (C, F) coordinates that each curve's own rows call for.
        variances: (C, F, F) their covariance.
    """

    levels: tuple[np.ndarray, ...]
    covariances: np.ndarray
    observed: np.ndarray
    variances: np.ndarray

    @classmethod
    def start(cls, names: Sequence[Sequence[str]], coordinates: np.ndarray) -> "SharedDistribution":
        """Before anything is estimated.

        Args:
            names: The level of each pool column, for each curve.
            coordinates: (C, F) first estimates.
        """
        count, free = coordinates.shape
        components = []
        for column in zip(*names):
            levels = np.unique(np.array(column), return_inverse=True)[1].reshape(-1)
            # A column with one level says nothing; one with a level for each curve is the curves' own effect.
            if 1 < levels.max() + 1 < count:
                components.append(levels)
        components.append(np.arange(count))
        covariances = np.repeat(np.eye(free)[None] / len(components), len(components), axis=0)
        return cls(tuple(components), covariances, coordinates, np.repeat(np.eye(free)[None], count, axis=0))

    def observe(self, coordinates: np.ndarray, slope: np.ndarray, information: np.ndarray) -> "SharedDistribution":
        """The same covariances with new likelihoods of the curves.

        Args:
            coordinates: (C, F) where each curve's likelihood is expanded.
            slope: (C, F) its slope there.
            information: (C, F, F) its negative curvature.
        """
        variances = np.linalg.inv(information + _LEAST_INFORMATION * np.eye(coordinates.shape[1]))
        observed = coordinates + np.einsum("cij,cj->ci", variances, slope)
        return replace(self, observed=observed, variances=variances)

    def maximise(self, steps: int) -> "SharedDistribution":
        """The covariances after steps of expectation and maximisation."""
        shared, (count, free) = self, self.observed.shape
        prior = np.eye(free) * _PRIOR_DEVIATION**2 / len(self.levels)
        for _ in range(steps):
            inverse, scores = shared._solve()
            blocks = inverse.reshape(count, free, count, free)
            covariances = []
            for levels, covariance in zip(shared.levels, shared.covariances):
                total, number = np.zeros((free, free)), int(levels.max()) + 1
                for level in range(number):
                    curves = np.flatnonzero(levels == level)
                    mean = covariance @ scores[curves].sum(axis=0)
                    certainty = blocks[curves][:, :, curves].sum(axis=(0, 2))
                    total += np.outer(mean, mean) + covariance - covariance @ certainty @ covariance
                total = (total + _PRIOR_WEIGHT * prior) / (number + _PRIOR_WEIGHT)
                # Few levels fit any correlation: theirs are shrunk as if uncorrelated levels had been seen too.
                kept = number / (number + _CORRELATION_WEIGHT * free)
                covariances.append(kept * total + (1 - kept) * np.diag(np.diag(total)))
            shared = replace(shared, covariances=np.stack(covariances))
        return shared

    @property
    def _around(self) -> np.ndarray:
        """(F,) where the centre's vague prior is."""
        around: np.ndarray = np.median(self.observed, axis=0)
        return around

    def _solve(self) -> tuple[np.ndarray, np.ndarray]:
        """The inverse (C F, C F) of the covariance of what is observed, and its product with the deviations (C, F)."""
        count, free = self.observed.shape
        # The covariance of the curves' coordinates before their rows are seen.
        prior = np.kron(np.ones((count, count)), _CENTRE_VARIANCE * np.eye(free))
        for levels, covariance in zip(self.levels, self.covariances):
            prior += np.kron((levels[:, None] == levels[None]).astype(float), covariance)
        total = prior.reshape(count, free, count, free)
        total[np.arange(count), :, np.arange(count), :] += self.variances
        inverse = np.linalg.inv(total.reshape(count * free, count * free))
        return inverse, (inverse @ (self.observed - self._around).reshape(-1)).reshape(count, free)

    def centre(self) -> np.ndarray:
        """(F,) the mean of the distribution."""
        _, scores = self._solve()
        centre: np.ndarray = self._around + _CENTRE_VARIANCE * scores.sum(axis=0)
        return centre

    def leave_one_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean (C, F) and covariance (C, F, F) of each curve's coordinates given all other curves."""
        count, free = self.observed.shape
        inverse, scores = self._solve()
        blocks = inverse.reshape(count, free, count, free)[np.arange(count), :, np.arange(count), :]
        predictive = np.linalg.inv(blocks)
        means = self.observed - np.einsum("cij,cj->ci", predictive, scores)
        covariances = predictive - self.variances
        values, vectors = np.linalg.eigh((covariances + covariances.transpose(0, 2, 1)) / 2)
        return means, np.einsum("cik,ck,cjk->cij", vectors, np.maximum(values, 1e-6), vectors)

    def draw_effects(self, count: int, seed: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray]:
        """The centre (1 + B, F), each shared component's levels (1 + B, L, F), and new effects (1 + B, K, F).

        The first of each is the mean, the others are draws. By Matheron's rule: effects are drawn before the curves
        are seen, and corrected by what the curves that follow from them would have shown otherwise.
        """
        generator = np.random.default_rng([seed, 7])
        n_curves, free = self.observed.shape
        roots = [np.linalg.cholesky(covariance + 1e-12 * np.eye(free)) for covariance in self.covariances]
        centre = self._around + np.sqrt(_CENTRE_VARIANCE) * generator.standard_normal((count, free))
        effects = [
            generator.standard_normal((count, int(levels.max()) + 1, free)) @ root.T
            for levels, root in zip(self.levels, roots)
        ]
        noise = np.linalg.cholesky(self.variances)
        curves = centre[:, None] + sum(effect[:, levels] for effect, levels in zip(effects, self.levels))
        curves += np.einsum("cij,bcj->bci", noise, generator.standard_normal((count, n_curves, free)))
        inverse, _ = self._solve()
        curves = np.concatenate([np.broadcast_to(self._around, (1, n_curves, free)), curves])
        centre = np.concatenate([self._around[None], centre])
        effects = [np.concatenate([np.zeros((1, *effect.shape[1:])), effect]) for effect in effects]
        size = n_curves * free
        gaps = ((self.observed - curves).reshape(-1, size) @ inverse).reshape(-1, n_curves, free)
        centre = centre + _CENTRE_VARIANCE * gaps.sum(axis=1)
        posterior = []
        for levels, covariance, effect in zip(self.levels, self.covariances, effects):
            moved = effect.copy()
            for level in range(effect.shape[1]):
                moved[:, level] += gaps[:, levels == level].sum(axis=1) @ covariance
            posterior.append(moved)
        new = np.stack([generator.standard_normal((count, free)) @ root.T for root in roots], axis=1)
        new = np.concatenate([np.zeros((1, *new.shape[1:])), new])
        return centre, posterior[:-1], new
