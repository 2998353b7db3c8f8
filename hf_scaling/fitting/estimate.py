"""The best parameters of one law for one set of rows: starts, robust scale, weights, solution.

The starts come from a search over the non-linear parameters with the linear ones solved for (variable projection,
Golub and Pereyra 1973): given its exponents, a law is linear in its coefficients, so a grid over the exponents alone,
with a non-negative linear solve inside, covers the landscape. For the logarithmic objectives residuals are taken
relative to the target there, which is their first-order form.
"""

from dataclasses import dataclass, replace
from itertools import combinations, product

import numpy as np

from hf_scaling.fitting.rows import FitRows
from hf_scaling.fitting.solver import Coordinates, Objective, Problem, Solutions, minimise
from hf_scaling.laws import Law

# The Huber threshold, in robust standard deviations, at which a normal sample keeps 95 % efficiency (Huber 1964).
_EFFICIENT = 1.345
# Below this threshold the fit would interpolate single points.
_SMALLEST_DELTA = 1e-3
# The threshold of the first fit: near median regression for data noisier than 2 %, least squares for cleaner data.
_FIRST_DELTA = 0.02
# Degrees of freedom from which the robust variance is used instead of the plain one.
_ENOUGH_FREEDOM = 10
# Larger grids of starts are thinned by a seeded draw: more points cost more than they save the solver.
_MOST_CANDIDATES = 1500
# Starts followed by the solver: more where a thinned grid is coarse, many more where no parameter enters linearly.
_N_STARTS, _N_STARTS_THINNED, _N_STARTS_NONLINEAR = 6, 24, 60
# With more rows than this, half as many of them place the starts: a grid of all rows would not fit into memory.
_MOST_ROWS_OF_STARTS = 4096
# Solver steps from every start, then from the quarter of them with the smallest loss.
_FIRST_STEPS, _MORE_STEPS = 25, 100
# Relative gain of the loss below which the solver stops: in the rounds that only settle delta and weights, and in the
# last one.
_ROUND_TOLERANCE, _LAST_TOLERANCE = 1e-7, 1e-13


@dataclass(frozen=True)
class Estimate:
    """A solution and what follows from it directly.

    Attributes:
        law: The law.
        rows: The rows fitted.
        problem: The problem solved, with its final objective and weights.
        u: (F,) the solution, in coordinates.
        cost: The summed loss there.
        converged: Whether the solver converged.
        other_mode: (F,) another local minimum of similar loss, or None.
        n_starts: Number of starts that the solver followed.
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
    def weighted_residuals(self) -> np.ndarray:
        """(N,) the residuals times the roots of the rows' weights."""
        return self.residuals * self.problem.root_weights

    @property
    def held(self) -> np.ndarray:
        """(F,) which coordinates ended on a bound."""
        coordinates = self.problem.coordinates
        return (self.u <= coordinates.low + 1e-9) | (self.u >= coordinates.high - 1e-9)

    @property
    def scale(self) -> float:
        """Robust standard deviation of the weighted residuals, corrected for the fitted parameters."""
        return robust_scale(self.weighted_residuals, len(self.u))

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
        """Variance of the residuals that corresponds to the loss: sum psi^2 / ((N - F) mean psi') (Huber 1981).

        With fewer than ten degrees of freedom an outlier cannot be distinguished from a fit that bends towards the
        other rows, and all residuals count in full.
        """
        residual = self.weighted_residuals
        if self.freedom < _ENOUGH_FREEDOM:
            return float((residual**2).sum() / self.freedom)
        weights = np.broadcast_to(self.problem.objective.reweighting(residual), residual.shape)
        inside = max(float((weights >= 1).mean()), 1 / len(residual))
        return float(((weights * residual) ** 2).sum() / self.freedom / inside)

    @property
    def pseudo_values(self) -> np.ndarray:
        """(N,) weighted residuals as least squares would leave them: psi(r) / mean psi' (Huber 1964).

        Under the Huber loss refits to resampled residuals spread too little: points whose own residual is small are
        nearly noise-free in every draw, and a robust fit leans on them. Least-squares refits to the estimator's
        influence function have the Huber fit's own spread.
        """
        residual = self.weighted_residuals
        weights = np.broadcast_to(self.problem.objective.reweighting(residual), residual.shape)
        inside = max(float((weights >= 1).mean()), 1 / len(residual))
        # Huber's (1981) finite-sample correction: psi' varies from row to row, and so does what a refit can use.
        correction = 1 + len(self.u) / len(residual) * (1 - inside) / inside
        return correction * weights * residual / inside

    def slopes(self) -> np.ndarray:
        """(N, F) derivatives of the weighted fitted values; zero for coordinates on a bound."""
        _, jacobian = self.problem.residuals(self.u[None])
        # Further residuals, of a prior, are no rows.
        return jacobian[0].T[: len(self.rows.target)] * ~self.held


def robust_scale(residuals: np.ndarray, n_parameters: int) -> float:
    """Standard deviation from the median absolute residual of the N - F largest (Holland and Welsch 1977).

    A fit of F parameters can bring F residuals to nothing, a near-median one exactly: with seven rows and three
    parameters the plain median would be of four real residuals and three zeros.
    """
    size = np.sort(np.abs(residuals))[min(n_parameters, len(residuals) - 1) :]
    return float(1.4826 * np.median(size))


@np.errstate(all="ignore")
def estimate(rows: FitRows, law: Law, coordinates: Coordinates, objective: Objective, seed: int = 0) -> Estimate:
    """Fit a law to rows.

    With objective log_huber and no delta, delta follows the data: 1.345 robust standard deviations of the log
    residuals, and never below 1e-3. Where rows carry n_eval and the target is `error`, weights follow the binomial
    variance plus what the residuals show beyond it.

    Args:
        rows: The rows.
        law: The law.
        coordinates: Its free coordinates (`coordinates_of`).
        objective: What is minimised.
        seed: Seed of the draw that thins a large grid of starts.
    """
    adaptive = objective.name == "log_huber" and np.isinf(objective.delta)
    first = objective.with_delta(_FIRST_DELTA) if adaptive else objective
    emphasis = np.ones_like(rows.target) if rows.emphasis is None else rows.emphasis
    weights = emphasis if rows.weights is None else emphasis * rows.weights
    evaluator = law.evaluator(rows.variables)
    problem = Problem(evaluator, coordinates, first, objective.scale(rows.target), np.sqrt(weights))
    if len(weights) > _MOST_ROWS_OF_STARTS:
        some = np.random.default_rng(seed).permutation(len(weights))[: _MOST_ROWS_OF_STARTS // 2]
        sizes = {name: values[some] for name, values in rows.variables.items()}
        part = replace(problem, evaluator=law.evaluator(sizes), target=problem.target[some])
        starts = search_starts(replace(part, root_weights=problem.root_weights[some]), law, sizes, seed)
    else:
        starts = search_starts(problem, law, rows.variables, seed)
    solved = minimise(problem, starts, iterations=_FIRST_STEPS, tolerance=1e-4)
    promising = np.argsort(solved.cost, kind="stable")[: max(4, len(starts) // 4)]
    solved = minimise(problem, solved.u[promising], iterations=_MORE_STEPS, tolerance=1e-4)
    u = solved.u[int(np.argmin(solved.cost))]
    other = _second_mode(solved, u)
    n_eval = rows.n_eval if rows.weights is None and rows.target_name == "error" else None
    if n_eval is not None:
        problem = replace(problem, root_weights=np.sqrt(emphasis * _binomial_weights(problem, n_eval, u)))
    problem = replace(problem, coordinates=_bound_floor(problem, rows, law, u))
    rounds = 3 if adaptive or n_eval is not None else 1
    for number in range(rounds):
        if n_eval is not None:
            problem = replace(problem, root_weights=np.sqrt(emphasis * _binomial_weights(problem, n_eval, u)))
        if adaptive:
            residual, _ = problem.residuals(u[None])
            delta = max(_EFFICIENT * robust_scale(residual[0], len(u)), _SMALLEST_DELTA)
            problem = replace(problem, objective=objective.with_delta(delta))
        candidates = u[None] if other is None else np.stack([u, other])
        tolerance = _LAST_TOLERANCE if number == rounds - 1 else _ROUND_TOLERANCE
        solved = minimise(problem, candidates, iterations=200, tolerance=tolerance)
        best = int(np.argmin(solved.cost))
        u, other = solved.u[best], _second_mode(solved, solved.u[best])
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


def _binomial_weights(problem: Problem, n_eval: np.ndarray, u: np.ndarray) -> np.ndarray:
    """1 / (binomial variance + variance beyond it), to mean one.

    An error rate over n images has variance p(1-p)/n, its logarithm (1-p)/(p n). Runs also differ by seed; that
    part is what the residuals show beyond the binomial one.
    """
    value = problem.evaluator.value(problem.coordinates.to_theta(u)[None])[0]
    rate = np.clip(value, 1e-6, 1 - 1e-6)
    variance = (1 - rate) / (rate * n_eval)
    if not problem.objective.is_log:
        variance = variance * rate**2
    residual = problem.objective.scale(value) - problem.target

    def excess(added: float) -> float:
        return robust_scale(residual / np.sqrt(variance + added), len(u)) - 1

    beyond = 0.0
    if excess(0.0) > 0:
        # What explains the residuals' scatter when added to the binomial variance of each row, by bisection.
        low, beyond = 0.0, 4 * float(np.max(residual**2))
        for _ in range(50):
            middle = (low + beyond) / 2
            low, beyond = (middle, beyond) if excess(middle) > 0 else (low, middle)
    weights = 1.0 / (beyond + variance)
    return weights / weights.mean()


def search_starts(problem: Problem, law: Law, variables: dict[str, np.ndarray], seed: int = 0) -> np.ndarray:
    """The best starting coordinates (S, F), best first, spread over distinct regions of the grid.

    Args:
        problem: The fit; its targets must be one set (N,).
        law: The law.
        variables: The rows' sizes, name to (N,).
        seed: Seed of the draw that thins a large grid.
    """
    coordinates, objective = problem.coordinates, problem.objective
    # The grid of starts, (C, P) with C at most _MOST_CANDIDATES; linear parameters are 1.
    values_of = law.starts(variables, objective.unscale(problem.target))
    free = [name for name in values_of if name in coordinates.names]
    total = int(np.prod([len(values_of[name]) for name in free])) if free else 1
    if total <= _MOST_CANDIDATES:
        points = np.array(list(product(*(values_of[n] for n in free))), dtype=float).reshape(total, len(free))
    else:
        generator = np.random.default_rng(seed)
        points = np.stack([generator.choice(values_of[n], _MOST_CANDIDATES) for n in free], axis=1)
    candidates = np.ones((len(points), len(law.names)))
    candidates[:, [law.names.index(name) for name in free]] = points
    thinned = len(candidates) >= _MOST_CANDIDATES
    count = _N_STARTS_NONLINEAR if not law.linear else _N_STARTS_THINNED if thinned else _N_STARTS
    theta = coordinates.to_theta(coordinates.from_theta(candidates))
    u = coordinates.from_theta(_solve_linear(problem, law, theta))
    with np.errstate(all="ignore"):
        values = problem.evaluator.value(coordinates.to_theta(u))
        cost = objective.loss((objective.scale(values) - problem.target) * problem.root_weights)
    order = np.argsort(np.where(np.isfinite(cost), cost, np.inf), kind="stable")
    order = order[np.isfinite(cost[order])]
    if not len(order):
        return u[:count]
    # Each start differs from those before it, so that they do not crowd one basin.
    ranked = u[order]
    starts = [ranked[0]]
    span = np.ptp(ranked[: max(50, count)], axis=0) + 1e-12
    for row in ranked[1:]:
        if len(starts) == count:
            break
        if min(np.abs((row - start) / span).max() for start in starts) > 0.15:
            starts.append(row)
    return np.array(starts)


def _solve_linear(problem: Problem, law: Law, theta: np.ndarray) -> np.ndarray:
    """Fill in the linear parameters by bounded least squares, for every candidate at once."""
    coordinates = problem.coordinates
    # A parameter that shares its coordinate with another is not solved for.
    shared = coordinates.spread.sum(axis=0)[np.argmax(coordinates.spread, axis=1)] != 1
    free = [n for n in law.linear if n in coordinates.names and not shared[law.names.index(n)]]
    if not free:
        return theta
    places = [law.names.index(name) for name in free]
    probe = theta.copy()
    probe[:, places] = 0.0
    with np.errstate(all="ignore"):
        offset, columns = problem.evaluator.design(probe)
        for position, name in enumerate(law.linear):
            if name not in free:
                offset = offset + columns[:, position] * probe[:, law.names.index(name), None]
        columns = columns[:, [law.linear.index(name) for name in free]]
    target = problem.objective.unscale(problem.target)
    weights = problem.root_weights / target if problem.objective.is_log else problem.root_weights
    index = [coordinates.names.index(name) for name in free]
    bound = coordinates.high[index]
    high = np.where(coordinates.is_log[index], np.exp(np.minimum(bound, 345.0)), bound)
    signed = np.array([law.parameters[place].low < 0 for place in places])
    filled = theta.copy()
    filled[:, places] = bounded_least_squares(columns * weights, (target - offset) * weights, high, signed)
    return filled


def bounded_least_squares(columns: np.ndarray, right: np.ndarray, high: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """Least squares with 0 <= x <= high (signed unknowns have no lower bound), by trying every active set.

    Exact for the lower bound; an unknown above its upper bound is clipped to it while the others keep their values.
    With at most four or five unknowns this is far faster than an iterative solver, since all candidates share each
    step.

    Args:
        columns: (C, K, N).
        right: (C, N).
        high: (K,) upper bounds.
        signed: (K,) unknowns that may be negative.
    """
    count, unknowns, _ = columns.shape
    scale = np.sqrt(np.einsum("ckn,ckn->ck", columns, columns)) + 1e-300
    unit = columns / scale[..., None]
    gram = np.matmul(unit, unit.transpose(0, 2, 1))
    moment = np.matmul(unit, right[..., None])[..., 0]
    best, best_gain = np.zeros((count, unknowns)), np.zeros(count)
    for size in range(1, unknowns + 1):
        for active in map(list, combinations(range(unknowns), size)):
            matrix: np.ndarray = gram[:, active][:, :, active] + 1e-13 * np.eye(size)
            bad = ~np.isfinite(matrix).all(axis=(1, 2))
            if bad.any():
                matrix = np.where(bad[:, None, None], np.eye(size), matrix)
            x = np.linalg.solve(matrix, np.nan_to_num(moment[:, active])[..., None])[..., 0]
            feasible = ((x >= 0) | signed[active]).all(axis=1) & np.isfinite(x).all(axis=1) & ~bad
            full = np.zeros((count, unknowns))
            full[:, active] = x
            # Candidates at which the law overflows give infinities here and lose.
            with np.errstate(invalid="ignore", over="ignore"):
                gain = 2 * np.einsum("ck,ck->c", full, moment) - np.einsum("ck,ckl,cl->c", full, gram, full)
            better = feasible & (gain > best_gain)
            best[better], best_gain[better] = full[better], gain[better]
    return np.minimum(best / scale, high)


def _second_mode(solutions: Solutions, best: np.ndarray, ratio: float = 2.0) -> np.ndarray | None:
    """A local minimum clearly apart from the best one whose loss is within `ratio` of it, or None."""
    apart = np.abs(solutions.u - best).max(axis=1) > 0.2
    near = solutions.cost <= ratio * solutions.cost.min() + 1e-20
    others = np.flatnonzero(apart & near & solutions.converged)
    return solutions.u[others[np.argmin(solutions.cost[others])]] if len(others) else None


def lift_zeros(problem: Problem, u: np.ndarray) -> np.ndarray:
    """The same coordinates (F,) with vanished coefficients raised to where they move a typical value by 3 %.

    The logarithm of a coefficient has no slope at zero, so a refit that starts there would never leave it.
    """
    coordinates, theta = problem.coordinates, problem.coordinates.to_theta(u)
    value, gradient = problem.evaluator.value_and_gradient(theta[None])
    lifted = u.copy()
    for parameter in np.flatnonzero(coordinates.spread.any(axis=1)):
        column = int(np.argmax(coordinates.spread[parameter]))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.median(np.abs(theta[parameter] * gradient[0, parameter] / value[0]))
            enough = 0.03 * np.median(np.abs(value[0] / gradient[0, parameter]))
        if coordinates.is_log[column] and share < 1e-4 and np.isfinite(enough) and enough > 0:
            lifted[column] = np.clip(np.log(enough), coordinates.low[column], coordinates.high[column])
    return lifted


def student_factor(freedom: float | np.ndarray) -> np.ndarray:
    """Student's quantile at 97.5 % over the normal one, at the degrees of freedom given."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(freedom, 0.975) / 1.959964)


def hat_basis(slopes: np.ndarray) -> np.ndarray:
    """Orthonormal columns (N, K) that span those of slopes (N, F), robust to columns of zeros and dependent ones.

    The sums of their squares are the leverages: how much of its own fitted value each row determines, 0 to 1.
    """
    scale = np.sqrt((slopes**2).sum(axis=0))
    kept = slopes[:, scale > 0] / scale[scale > 0]
    left, values, _ = np.linalg.svd(kept, full_matrices=False)
    return left[:, values > 1e-8 * values.max(initial=0.0)]
