"""Refits of perturbed data: the draws that every interval comes from.

Wild cluster bootstrap: each configuration's residuals, inflated for leverage (HC3, MacKinnon and White 1985), are
multiplied by one draw of Webb's six-point weights (Webb 2014), so that replicates of one configuration move together.
Naive resampling of residuals covers 74 % where 95 % is claimed: residuals are smaller than errors where leverage is
high, and in these designs it is high everywhere.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting.clusters import cluster_effects
from hf_scaling.fitting.estimate import Estimate, hat_basis, lift_zeros, student_factor
from hf_scaling.fitting.prior import PriorProblem
from hf_scaling.fitting.rows import number_configurations
from hf_scaling.fitting.solver import Problem, minimise
from hf_scaling.laws import Evaluator

METHODS = ("wild", "pairs")
#: With more rows than this, refits and the search for starts work on fewer; with no more, on all of them.
MANY_ROWS = 4096
# Groups of nearby sizes that many rows are condensed to.
_MOST_GROUPS = 600
# Limit on the memory of one batch of refits: draws times rows.
_LARGEST_BATCH = 400_000
# Webb's six-point distribution, one half: mean 0, variance 1, few enough values to be bounded.
_WEBB = np.sqrt(np.array([1.5, 1.0, 0.5]))


@dataclass(frozen=True)
class Draws:
    """Refitted coordinates u (B, F) and the share of refits that converged."""

    u: np.ndarray
    converged: float


def draw(estimate: Estimate, count: int, method: str = "wild", seed: int = 0) -> Draws:
    """Refit `count` times.

    Args:
        estimate: The fit.
        count: Number of refits.
        method: wild, or pairs (whole configurations resampled with replacement).
        seed: Equal seeds give equal draws, and two fits of tables with equal configurations that share a seed share
            their multipliers (what a paired comparison of arms needs).
    """
    generator, rows = np.random.default_rng(seed), estimate.rows
    size = max(1, _LARGEST_BATCH // len(rows.target))
    blocks = [min(size, count - i) for i in range(0, count, size)]
    if method == "pairs":
        problem = estimate.problem
        unit = rows.configuration if rows.cluster is None else rows.cluster
        resampled = _resample(generator, unit, blocks)
    else:
        problem = replace(estimate.problem, objective=estimate.problem.objective.with_delta(np.inf))
        resampled = _perturb(generator, estimate, blocks)
    if len(rows.target) > MANY_ROWS:
        condensed = Condensed.of(estimate)
        problem = replace(estimate.problem, objective=estimate.problem.objective.with_delta(np.inf))
        problem = replace(problem, evaluator=condensed.evaluator)
        data = [condensed.resample(block, method) for block in resampled]
        target, weights = (np.concatenate(parts) for parts in zip(*data))
        size = max(1, _LARGEST_BATCH // target.shape[1])
        problems = [
            replace(problem, target=target[i : i + size], root_weights=weights[i : i + size])
            for i in range(0, count, size)
        ]
    elif method == "pairs":
        problems = [replace(problem, counts=counts) for counts in resampled]
    else:
        problems = [replace(problem, target=estimate.fitted + deviations) for deviations in resampled]
        if isinstance(problem, PriorProblem):
            problems = [one.drawn(generator, len(one.target)) for one in problems]  # type: ignore[attr-defined]
    parts = [_solve(estimate, problem) for problem in problems]
    return Draws(np.concatenate([u for u, _ in parts]), float(np.concatenate([c for _, c in parts]).mean()))


def _perturb(generator: np.random.Generator, estimate: Estimate, blocks: Sequence[int]) -> Iterator[np.ndarray]:
    """(B, N) deviations from the law for each block of B draws, on the objective's scale."""
    effects = cluster_effects(estimate)
    if effects is not None:
        yield from (effects.draw(generator, block) for block in blocks)
        return
    residuals, configuration = adjusted_residuals(estimate), estimate.rows.configuration
    for block in blocks:
        drawn = generator.choice(np.concatenate([_WEBB, -_WEBB]), size=(block, estimate.rows.n_configurations))
        yield drawn[:, configuration] * residuals


def _resample(generator: np.random.Generator, unit: np.ndarray, blocks: Sequence[int]) -> Iterator[np.ndarray]:
    """(B, N) how often each row counts, for each block of B draws of whole units with replacement."""
    groups = int(unit.max()) + 1
    for block in blocks:
        if groups > MANY_ROWS:
            # The same distribution: a multinomial draw over so many groups takes a time of its own.
            chosen = generator.integers(groups, size=(block, groups))
            drawn = np.stack([np.bincount(row, minlength=groups) for row in chosen])
        else:
            drawn = generator.multinomial(groups, np.full(groups, 1 / groups), size=block)
        yield drawn.astype(float)[:, unit]


def _solve(estimate: Estimate, problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Solutions (B, F) and which converged (B,), the better of the ends from the estimate and its other mode."""
    count = len(problem.target if problem.counts is None else problem.counts)
    modes = [estimate.u] if estimate.other_mode is None else [estimate.u, estimate.other_mode]
    ends = []
    for mode in modes:
        start = np.repeat(lift_zeros(estimate.problem, mode)[None], count, axis=0)
        ends.append(minimise(problem, start, iterations=60, tolerance=1e-7))
    first, last = ends[0], ends[-1]
    better = last.cost < first.cost
    return np.where(better[:, None], last.u, first.u), np.where(better, last.converged, first.converged)


@dataclass(frozen=True)
class Condensed:
    """Many rows in few groups of nearby sizes, on which refits cost no more than on a small table.

    A group stands at the geometric mean of its sizes, on the fitted law; what perturbs its rows is averaged. Without
    noise a refit gives back the estimate, as one of all rows does.

    Attributes:
        evaluator: The law at the groups' sizes.
        fitted: (G,) the law there, on the objective's scale.
        order: (N,) the rows, sorted by group.
        first: (G,) the place of each group's first row in that order.
        residuals: (N,) the rows' pseudo-values in that order, on the objective's scale.
        weights: (N,) the rows' weights in that order.
    """

    evaluator: Evaluator
    fitted: np.ndarray
    order: np.ndarray
    first: np.ndarray
    residuals: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, estimate: Estimate) -> "Condensed":
        """Condense the rows of a fit."""
        rows = estimate.rows
        group = rows.configuration
        if rows.n_configurations > _MOST_GROUPS:
            # The cells of a grid with about equally many rows along each variable.
            bins = max(int(_MOST_GROUPS ** (1 / len(rows.variables))), 2)
            cells = []
            for values in rows.variables.values():
                levels = np.unique(values)
                if len(levels) > bins:
                    edges = np.quantile(values[values > 0], np.linspace(0, 1, bins)[1:-1])
                    # Zeros have a cell of their own: their logarithm averages with nothing.
                    cells.append(np.where(values > 0, 1 + np.searchsorted(edges, values, side="right"), 0))
                else:
                    cells.append(np.searchsorted(levels, values))
            group = number_configurations(cells)
        order = np.argsort(group, kind="stable")
        first = np.flatnonzero(np.diff(group[order], prepend=-1))
        counts = np.diff(np.append(first, len(order)))
        sizes = {}
        for name, values in rows.variables.items():
            with np.errstate(divide="ignore"):
                logs = np.add.reduceat(np.log(values[order]), first) / counts
            sizes[name] = np.exp(logs)
        evaluator = estimate.law.evaluator(sizes)
        fitted = estimate.problem.objective.scale(evaluator.value(estimate.theta[None])[0])
        roots = np.broadcast_to(estimate.problem.root_weights, order.shape)[order]
        return cls(evaluator, fitted, order, first, estimate.pseudo_values[order] / roots, roots**2)

    def resample(self, drawn: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Targets and roots of weights, each (B, G), of draws (B, N): deviations, or how often each row counts."""
        drawn = drawn[:, self.order]
        weights = self.weights * drawn if method == "pairs" else np.broadcast_to(self.weights, drawn.shape)
        total = np.add.reduceat(weights, self.first, axis=1)
        shifted = weights * (self.residuals if method == "pairs" else drawn)
        mean = np.add.reduceat(shifted, self.first, axis=1) / np.maximum(total, 1e-300)
        return self.fitted + mean, np.sqrt(total)


def adjusted_residuals(estimate: Estimate) -> np.ndarray:
    """(N,) what the wild bootstrap perturbs by, on the objective's scale: pseudo-values, inflated for leverage.

    Each configuration's pseudo-values are inflated by (I - H_gg)^-1 (HC3 by cluster), and all by the ratio of
    Student's and the normal quantile at 95 %, since the scale is estimated from few degrees of freedom.
    """
    adjusted, root = estimate.pseudo_values, estimate.problem.root_weights
    basis = hat_basis(estimate.slopes())
    alone = np.bincount(estimate.rows.configuration)[estimate.rows.configuration] == 1
    adjusted[alone] /= np.maximum(1 - (basis[alone] ** 2).sum(axis=1), 0.05)
    for rows in (rows for rows in estimate.rows.members() if len(rows) > 1):
        # (I - H)^-1 within the configuration, whose H = Q Q' has no more eigenvectors than Q has columns. One that
        # alone determines a parameter has hardly a residual; the inflation is bounded there.
        left, values, _ = np.linalg.svd(basis[rows], full_matrices=False)
        factor = 1 / np.maximum(1 - values**2, 0.05) - 1
        adjusted[rows] += left @ (factor * (left.T @ adjusted[rows]))
    return small_sample_factor(estimate) * adjusted / root


def small_sample_factor(estimate: Estimate) -> float:
    """`student_factor` for the configurations beyond the free parameters, as degrees of freedom."""
    return float(student_factor(max(estimate.rows.n_configurations - int((~estimate.held).sum()), 1)))
