"""A batched, bounded Levenberg-Marquardt solver: thousands of small fits of one law side by side.

Each member of the batch has its own targets, weights, bounds and damping; members leave the batch as they converge.
The Huber loss is handled by iterative reweighting inside the same loop.
"""

from dataclasses import dataclass

import numpy as np

from hf_scaling.fitting.coordinates import Coordinates
from hf_scaling.fitting.objectives import Objective


@dataclass(frozen=True)
class Problem:
    """A law on fixed sizes, to be fitted to one or many sets of targets.

    Attributes:
        evaluator: The law prepared for the rows' sizes (`law.evaluator(variables)`).
        coordinates: The free coordinates.
        objective: Scale and loss of the residuals.
        target: (N,) or (B, N), on the objective's scale.
        root_weights: (N,) or (B, N) square roots of the rows' weights, which scale the residuals.
        counts: (B, N) how often each row counts in the loss, for resampled rows; None for once each.
    """

    evaluator: object
    coordinates: Coordinates
    objective: Objective
    target: np.ndarray
    root_weights: np.ndarray
    counts: np.ndarray | None = None

    def residuals(self, u: np.ndarray, members=slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Weighted residuals (B, N) and their derivatives (B, F, N) at u (B, F); NaN where the law is undefined."""
        theta = self.coordinates.to_theta(u)
        with np.errstate(all="ignore"):
            value, gradient = self.evaluator.value_and_gradient(theta)
            jacobian = self.coordinates.chain(theta, gradient)
            if self.objective.is_log:
                jacobian = jacobian / value[:, None, :]
            weights = _member(self.root_weights, members)
            residual = (self.objective.scale(value) - _member(self.target, members)) * weights
        return residual, jacobian * (weights if weights.ndim == 1 else weights[:, None, :])


def _member(array: np.ndarray, members) -> np.ndarray:
    return array if array.ndim == 1 else array[members]


@dataclass(frozen=True)
class Solutions:
    """Where a batch of fits ended: coordinates (B, F), summed losses (B,), and which of them converged (B,)."""

    u: np.ndarray
    cost: np.ndarray
    converged: np.ndarray


def minimise(
    problem: Problem,
    start: np.ndarray,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    iterations: int = 100,
    tolerance: float = 1e-10,
) -> Solutions:
    """Minimise the objective from each start.

    Args:
        problem: The law, the targets and the loss.
        start: (B, F) starting coordinates.
        low: (F,) or (B, F) lower bounds; the coordinates' own by default. A coordinate with low == high is held.
        high: The same for upper bounds.
        iterations: The most steps tried for any member.
        tolerance: A member stops once a step gains less than this share of its loss.
    """
    low = np.broadcast_to(problem.coordinates.low if low is None else low, start.shape)
    high = np.broadcast_to(problem.coordinates.high if high is None else high, start.shape)
    batch = _Batch(problem, np.clip(start, low, high), low, high)
    # Trials that leave the law's domain overflow on their way to being refused.
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            if not batch.step(tolerance):
                break
    return batch.finish()


class _Batch:
    """The running state of `minimise`: results for all members, working arrays for those still moving."""

    def __init__(self, problem: Problem, start: np.ndarray, low: np.ndarray, high: np.ndarray):
        self.problem, self.objective = problem, problem.objective
        self.low, self.high = low, high
        self.best, self.best_cost = start.copy(), np.full(len(start), np.inf)
        self.converged = np.zeros(len(start), dtype=bool)
        self.members = np.arange(len(start))
        self.u = start
        self.residual, self.jacobian = problem.residuals(start, self.members)
        self.cost = self._cost(self.residual)
        self.damping = np.full(len(start), 1e-3)
        self._keep(np.isfinite(self.cost))

    def _counts(self) -> np.ndarray | None:
        return None if self.problem.counts is None else _member(self.problem.counts, self.members)

    def _cost(self, residual: np.ndarray) -> np.ndarray:
        cost = self.objective.loss(residual, self._counts())
        return np.where(np.isfinite(cost), cost, np.inf)

    def step(self, tolerance: float) -> bool:
        """Try one step for every moving member; False once none moves."""
        if not len(self.members):
            return False
        trial = self._propose()
        residual, jacobian = self.problem.residuals(trial, self.members)
        cost = self._cost(residual)
        better = cost <= self.cost
        gain = self.cost - cost
        # A loss of rounding size (residuals near 1e-12) cannot be improved on.
        floor = 1e-25 * residual.shape[1]
        done = better & ((gain <= tolerance * self.cost) | (cost <= floor))
        stuck = ~better & (self.damping > 1e9)
        self._accept(better, trial, residual, jacobian, cost)
        self.damping = np.where(better, np.maximum(self.damping * 0.15, 1e-12), self.damping * 6.0)
        self.converged[self.members[done]] = True
        # No downhill step at any damping: a minimum to the precision of the arithmetic.
        self.converged[self.members[stuck]] = True
        self._keep(~(done | stuck))
        return bool(len(self.members))

    def _propose(self) -> np.ndarray:
        weighted = self.jacobian
        weights, counts = self.objective.reweighting(self.residual), self._counts()
        weights = weights if counts is None else weights * counts
        if np.ndim(weights):
            weighted = self.jacobian * weights[:, None, :]
        slope = np.matmul(weighted, self.residual[..., None])[..., 0]
        hessian = np.matmul(weighted, self.jacobian.transpose(0, 2, 1))
        low, high = self.low[self.members], self.high[self.members]
        # A coordinate pressed against its bound leaves the step (an active set of one look-ahead).
        held = ((self.u <= low) & (slope >= 0)) | ((self.u >= high) & (slope <= 0)) | (low >= high)
        return np.clip(self.u + damped_step(hessian, slope, held, self.damping), low, high)

    def _accept(self, better, trial, residual, jacobian, cost) -> None:
        if better.all():
            self.u, self.residual, self.jacobian, self.cost = trial, residual, jacobian, cost
            return
        self.u = np.where(better[:, None], trial, self.u)
        self.residual = np.where(better[:, None], residual, self.residual)
        self.jacobian = np.where(better[:, None, None], jacobian, self.jacobian)
        self.cost = np.where(better, cost, self.cost)

    def _keep(self, moving: np.ndarray) -> None:
        if moving.all():
            return
        leaving = self.members[~moving]
        self.best[leaving], self.best_cost[leaving] = self.u[~moving], self.cost[~moving]
        self.members, self.u, self.cost = self.members[moving], self.u[moving], self.cost[moving]
        self.residual, self.jacobian = self.residual[moving], self.jacobian[moving]
        self.damping = self.damping[moving]

    def finish(self) -> Solutions:
        self.best[self.members], self.best_cost[self.members] = self.u, self.cost
        return Solutions(self.best, self.best_cost, self.converged)


def damped_step(hessian: np.ndarray, slope: np.ndarray, held: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Solve (H + damping diag H) s = -slope (B, F) over the coordinates that are not held."""
    free = ~held
    hessian = hessian * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("bff->bf", hessian)
    # Marquardt's scaling, with an end so that a coordinate without influence stays put instead of being thrown far.
    scale = np.maximum(diagonal, 1e-14 * np.maximum(diagonal.max(axis=1, keepdims=True), 1e-280))
    root = np.sqrt(np.where(held, 1.0, scale))
    matrix = hessian / (root[:, :, None] * root[:, None, :])
    index = np.arange(slope.shape[1])
    matrix[:, index, index] = np.where(held, 1.0, matrix[:, index, index] + damping[:, None] + 1e-15)
    right = np.where(held, 0.0, -slope / root)
    bad = ~np.isfinite(matrix).all(axis=(1, 2)) | ~np.isfinite(right).all(axis=1)
    if bad.any():
        matrix[bad], right[bad] = np.eye(slope.shape[1]), 0.0
    return np.linalg.solve(matrix, right[..., None])[..., 0] / root
