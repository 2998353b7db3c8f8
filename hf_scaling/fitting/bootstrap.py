"""Refits of perturbed data: the draws that every interval comes from.

Wild cluster bootstrap: each configuration's residuals, inflated for leverage (HC3, MacKinnon and White 1985), are
multiplied by one draw of Webb's six-point weights (Webb 2014), so that replicates of one configuration move together.
Naive resampling of residuals covers 74 % where 95 % is claimed: residuals are smaller than errors where leverage is
high, and in these designs it is high everywhere.
"""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting.estimate import Estimate, lift_zeros
from hf_scaling.fitting.solver import minimise

METHODS = ("wild", "pairs")
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
    generator = np.random.default_rng(seed)
    groups = estimate.rows.n_configurations
    if method == "wild":
        multipliers = generator.choice(np.concatenate([_WEBB, -_WEBB]), size=(count, groups))
    else:
        multipliers = generator.multinomial(groups, np.full(groups, 1 / groups), size=count).astype(float)
    size = max(1, _LARGEST_BATCH // len(estimate.rows.target))
    parts = [_refit(estimate, multipliers[i : i + size], method) for i in range(0, count, size)]
    return Draws(np.concatenate([u for u, _ in parts]), float(np.concatenate([c for _, c in parts]).mean()))


def _refit(estimate: Estimate, multipliers: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Solutions (B, F) and which converged (B,), the better of the ends from the estimate and its other mode."""
    problem = estimate.problem
    spread = multipliers[:, estimate.rows.configuration]
    if method == "wild":
        target = estimate.fitted + spread * adjusted_residuals(estimate)
        problem = replace(problem, objective=problem.objective.with_delta(np.inf), target=target)
    else:
        problem = replace(problem, counts=spread)
    modes = [estimate.u] if estimate.other_mode is None else [estimate.u, estimate.other_mode]
    ends = []
    for mode in modes:
        start = np.repeat(lift_zeros(estimate.problem, mode)[None], len(multipliers), axis=0)
        ends.append(minimise(problem, start, iterations=60, tolerance=1e-7))
    first, last = ends[0], ends[-1]
    better = last.cost < first.cost
    return np.where(better[:, None], last.u, first.u), np.where(better, last.converged, first.converged)


def adjusted_residuals(estimate: Estimate) -> np.ndarray:
    """(N,) what the wild bootstrap perturbs by, on the objective's scale: pseudo-values, inflated for leverage.

    Under the Huber loss refits to wild residuals spread too little: points whose own residual is small are nearly
    noise-free in every draw, and a robust fit leans on them. So residuals are replaced by psi(r) / mean psi' (the
    estimator's influence function, Huber 1964), whose least-squares refits have the Huber fit's own spread. Each
    configuration's are then inflated by (I - H_gg)^-1 (HC3 by cluster), and all by the ratio of Student's and the
    normal quantile at 95 %, since the scale is estimated from few degrees of freedom.
    """
    root, objective = estimate.problem.root_weights, estimate.problem.objective
    residual = estimate.weighted_residuals
    weights = np.broadcast_to(objective.reweighting(residual), residual.shape)
    inside = max(float((weights >= 1).mean()), 1 / len(residual))
    # Huber's (1981) finite-sample correction: psi' varies from row to row, and so does what a refit can use.
    correction = 1 + len(estimate.u) / len(residual) * (1 - inside) / inside
    adjusted = correction * weights * residual / inside
    projection = hat(estimate.slopes())
    configuration = estimate.rows.configuration
    order = np.argsort(configuration, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(configuration[order])) + 1):
        block = np.eye(len(rows)) - projection[np.ix_(rows, rows)]
        # A configuration that alone determines a parameter has hardly a residual; the inflation is bounded there.
        values, vectors = np.linalg.eigh(block)
        inverse = vectors @ np.diag(1 / np.maximum(values, 0.05)) @ vectors.T
        adjusted[rows] = inverse @ adjusted[rows]
    return small_sample_factor(estimate) * adjusted / root


def small_sample_factor(estimate: Estimate) -> float:
    """`student_factor` for the configurations beyond the free parameters, as degrees of freedom."""
    return float(student_factor(max(estimate.rows.n_configurations - int((~estimate.held).sum()), 1)))


def student_factor(freedom: float | np.ndarray) -> np.ndarray:
    """Student's quantile at 97.5 % over the normal one, at the degrees of freedom given."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, 0.975) / 1.959964)


def hat(slopes: np.ndarray) -> np.ndarray:
    """The projection (N, N) onto the columns of slopes (N, F).

    Its diagonal holds the leverages: how much of its own fitted value each row determines, 0 to 1.
    """
    left = hat_basis(slopes)
    return left @ left.T


def hat_basis(slopes: np.ndarray) -> np.ndarray:
    """Orthonormal columns (N, K) that span those of slopes (N, F), robust to columns of zeros and dependent ones."""
    scale = np.sqrt((slopes**2).sum(axis=0))
    kept = slopes[:, scale > 0] / scale[scale > 0]
    left, values, _ = np.linalg.svd(kept, full_matrices=False)
    return left[:, values > 1e-8 * values.max(initial=0.0)]
