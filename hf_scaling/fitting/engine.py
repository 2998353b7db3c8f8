"""One fit of one law to one set of rows: starts, robust scale, weights, solution."""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting.rows import FitRows
from hf_scaling.fitting.solver import Coordinates, Objective, Problem, minimise
from hf_scaling.fitting.starts import best_of, search_starts, second_mode
from hf_scaling.laws import Law

# The Huber threshold, in robust standard deviations, at which a normal sample keeps 95 % efficiency (Huber 1964).
_EFFICIENT = 1.345
# Below this the threshold would turn the fit into interpolation of single points.
_SMALLEST_DELTA = 1e-3
# Degrees of freedom from which robust residuals are believed over plain ones.
_TELLING = 10
# The threshold of the first fit: near median regression for data noisier than 2 %, least squares for cleaner data.
_FIRST_DELTA = 0.02


@dataclass(frozen=True)
class Estimate:
    """A solution with what follows from it directly.

    Attributes:
        law: The law.
        rows: The rows fitted.
        problem: The problem solved, with its final objective and weights.
        u: (F,) the solution, in coordinates.
        cost: The summed loss there.
        converged: Whether the solver came to rest.
        other_mode: (F,) another local minimum of similar loss, or None.
        n_modes_tried: How many starts the solver followed.
    """

    law: Law
    rows: FitRows
    problem: Problem
    u: np.ndarray
    cost: float
    converged: bool
    other_mode: np.ndarray | None
    n_starts: int

    @property
    def theta(self) -> np.ndarray:
        """(P,) the law's parameters."""
        return self.problem.coordinates.to_theta(self.u)

    @property
    def fitted(self) -> np.ndarray:
        """(N,) fitted values on the objective's scale."""
        return self.problem.objective.scale(self.problem.evaluator.value(self.theta[None])[0])

    @property
    def residuals(self) -> np.ndarray:
        """(N,) target minus fitted, on the objective's scale, unweighted."""
        return self.problem.target - self.fitted

    @property
    def held(self) -> np.ndarray:
        """(F,) which coordinates ended on a bound."""
        coordinates = self.problem.coordinates
        return (self.u <= coordinates.low + 1e-9) | (self.u >= coordinates.high - 1e-9)

    @property
    def scale(self) -> float:
        """Robust standard deviation of the weighted residuals, corrected for the fitted parameters."""
        return robust_scale(self.residuals * self.problem.root_weights, len(self.u))

    @property
    def freedom(self) -> int:
        """Rows beyond the free parameters, at least one."""
        return max(len(self.rows.target) - len(self.u), 1)

    @property
    def has_scatter(self) -> bool:
        """Whether there are more configurations than parameters: else the law passes through all of them."""
        return self.rows.n_configurations > int((~self.held).sum())

    @property
    def variance(self) -> float:
        """The variance of the residuals that the loss stands for: sum psi^2 / ((N - F) mean psi') (Huber 1981).

        With fewer than ten degrees of freedom an outlier cannot be told from a fit that bent towards the other rows,
        and all residuals count in full.
        """
        residual = self.residuals * self.problem.root_weights
        weights = np.broadcast_to(self.problem.objective.reweighting(residual), residual.shape)
        if self.freedom < _TELLING:
            return float((residual**2).sum() / self.freedom)
        inside = max(float((weights >= 1).mean()), 1 / len(residual))
        return float(((weights * residual) ** 2).sum() / self.freedom / inside)

    def slopes(self) -> np.ndarray:
        """(N, F) derivatives of the weighted fitted values; zero for coordinates on a bound."""
        _, jacobian = self.problem.residuals(self.u[None])
        return jacobian[0].T * ~self.held


def robust_scale(residuals: np.ndarray, n_parameters: int) -> float:
    """1.4826 times the median absolute residual, of the N - F largest.

    A fit of F parameters brings about F residuals to nothing, a near-median one exactly: with seven rows and three
    parameters the plain median would be of four real residuals and three zeros.
    """
    size = np.sort(np.abs(residuals))[min(n_parameters, len(residuals) - 1) :]
    return float(1.4826 * np.median(size))


@np.errstate(all="ignore")
def estimate(rows: FitRows, law: Law, coordinates: Coordinates, objective: Objective, seed: int = 0) -> Estimate:
    """Fit a law to rows.

    With objective log_huber and no delta given, delta follows the data: 1.345 robust standard deviations of the log
    residuals, and never below 1e-3. Where rows carry n_eval and the target is `error`, weights follow the binomial
    variance plus what the residuals show beyond it.
    """
    adaptive = objective.name == "log_huber" and np.isinf(objective.delta)
    first = objective.with_delta(_FIRST_DELTA) if adaptive else objective
    weights = np.ones_like(rows.target) if rows.weights is None else rows.weights
    evaluator = law.evaluator(rows.variables)
    problem = Problem(evaluator, coordinates, first, objective.scale(rows.target), np.sqrt(weights))
    starts = search_starts(problem, law, rows.variables, seed)
    u, solutions = best_of(problem, starts)
    other = second_mode(solutions, u)
    binomial = rows.weights is None and rows.target_name == "error" and rows.n_eval is not None
    if binomial:
        problem = replace(problem, root_weights=np.sqrt(_binomial_weights(problem, rows, u)))
    problem = replace(problem, coordinates=_bound_floor(problem, rows, law, u))
    for _ in range(3 if adaptive or binomial else 1):
        if binomial:
            problem = replace(problem, root_weights=np.sqrt(_binomial_weights(problem, rows, u)))
        if adaptive:
            problem = replace(problem, objective=objective.with_delta(_delta(problem, u)))
        candidates = u[None] if other is None else np.stack([u, other])
        solved = minimise(problem, candidates, iterations=200, tolerance=1e-13)
        best = int(np.argmin(solved.cost))
        u, other = solved.u[best], second_mode(solved, solved.u[best])
    converged = bool(solved.converged[best])
    return Estimate(law, rows, problem, u, float(solved.cost[best]), converged, other, len(starts))


def _bound_floor(problem: Problem, rows: FitRows, law: Law, u: np.ndarray) -> Coordinates:
    """A floor is at most the smallest configuration mean plus two of its standard errors.

    Above it the law would rise over what was measured; the same bound holds in every bootstrap draw.
    """
    coordinates = problem.coordinates
    floors = [p.name for p in law.parameters if p.kind == "floor" and p.name in coordinates.names]
    if not floors:
        return coordinates
    weights = problem.root_weights**2
    counts = np.bincount(rows.configuration, weights)
    means = np.bincount(rows.configuration, weights * problem.target) / counts
    smallest = int(np.argmin(means))
    residual, _ = problem.residuals(u[None])
    error = robust_scale(residual[0], len(u)) / np.sqrt(counts[smallest])
    highest = float(problem.objective.unscale(means[smallest] + 2 * error))
    return coordinates.with_bound(floors[0], high=highest) if np.isfinite(highest) else coordinates


def _delta(problem: Problem, u: np.ndarray) -> float:
    residual, _ = problem.residuals(u[None])
    return max(_EFFICIENT * robust_scale(residual[0], len(u)), _SMALLEST_DELTA)


def _binomial_weights(problem: Problem, rows: FitRows, u: np.ndarray) -> np.ndarray:
    """1 / (binomial variance + variance beyond it), to mean one.

    An error rate over n images has variance p(1-p)/n, its logarithm (1-p)/(p n). Runs also differ by seed; that
    part is what the residuals show beyond the binomial one.
    """
    value = problem.evaluator.value(problem.coordinates.to_theta(u)[None])[0]
    rate = np.clip(value, 1e-6, 1 - 1e-6)
    variance = (1 - rate) / (rate * rows.n_eval)
    if not problem.objective.is_log:
        variance = variance * rate**2
    residual = problem.objective.scale(value) - problem.target
    weights = 1.0 / (_variance_beyond(residual, variance, len(u)) + variance)
    return weights / weights.mean()


def _variance_beyond(residual: np.ndarray, variance: np.ndarray, n_parameters: int) -> float:
    """What, added to the known variance of each row, makes the residuals scatter as much as they do; at least 0."""

    def excess(beyond: float) -> float:
        return robust_scale(residual / np.sqrt(variance + beyond), n_parameters) - 1

    if excess(0.0) <= 0:
        return 0.0
    low, high = 0.0, 4 * float(np.max(residual**2))
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return high
