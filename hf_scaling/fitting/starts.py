"""Where a fit starts: a search over the non-linear parameters with the linear ones solved for (variable projection).

Golub and Pereyra 1973: given its exponents, a law is linear in its coefficients, so a grid over the exponents alone,
with a non-negative linear solve inside, covers the landscape. Residuals are taken relative to the target for the
logarithmic objectives, of which that is the first-order form.
"""

from itertools import combinations, product

import numpy as np

from hf_scaling.fitting.solver import Coordinates, Problem, Solutions, minimise
from hf_scaling.laws import Law

# More grid points than this are thinned by a seeded draw: they cost more than the solver's own steps repay.
_MOST_CANDIDATES = 1500
# Starts followed by the solver: more where a thinned grid is coarse, many more where no parameter enters linearly and
# the grid alone finds none of them.
_N_STARTS, _N_STARTS_THINNED, _N_STARTS_NONLINEAR = 6, 24, 60
# Steps of the solver from every start, and from the quarter of them that got furthest.
_FIRST_STEPS, _MORE_STEPS = 25, 100


def search_starts(problem: Problem, law: Law, variables: dict[str, np.ndarray], seed: int = 0) -> np.ndarray:
    """The best starting coordinates (S, F), best first, spread over distinct regions of the grid.

    Args:
        problem: The fit; its targets must be one set (N,).
        law: The law.
        variables: The rows' sizes, name to (N,).
        seed: Of the draw that thins a large grid.
    """
    candidates = _grid(problem, law, variables, seed)
    thinned = len(candidates) >= _MOST_CANDIDATES
    count = _N_STARTS_NONLINEAR if not law.linear else _N_STARTS_THINNED if thinned else _N_STARTS
    theta = problem.coordinates.to_theta(problem.coordinates.from_theta(candidates))
    theta = _solve_linear(problem, law, theta)
    u = problem.coordinates.from_theta(theta)
    cost = _costs(problem, u)
    order = np.argsort(cost, kind="stable")
    order = order[np.isfinite(cost[order])]
    return _spread_out(u[order], count) if len(order) else u[:count]


def best_of(problem: Problem, starts: np.ndarray) -> tuple[np.ndarray, Solutions]:
    """Follow every start a little way, then the most promising ones further.

    Returns:
        The best solution (F,), to be polished, and the solutions that it was chosen from.
    """
    solved = minimise(problem, starts, iterations=_FIRST_STEPS, tolerance=1e-4)
    promising = np.argsort(solved.cost, kind="stable")[: max(4, len(starts) // 4)]
    solved = minimise(problem, solved.u[promising], iterations=_MORE_STEPS, tolerance=1e-4)
    return solved.u[int(np.argmin(solved.cost))], solved


def lift_zeros(problem: Problem, u: np.ndarray) -> np.ndarray:
    """The same coordinates (F,) with vanished coefficients raised to where they move a typical value by 3 %.

    The logarithm of a coefficient has no slope at zero, so a refit that starts there would stay there whatever its
    targets ask for.
    """
    theta = problem.coordinates.to_theta(u)
    value, gradient = problem.evaluator.value_and_gradient(theta[None])
    names = [p for p in range(len(theta)) if problem.coordinates.spread[p].any()]
    lifted = u.copy()
    for parameter in names:
        column = int(np.argmax(problem.coordinates.spread[parameter]))
        with np.errstate(divide="ignore", invalid="ignore"):
            share = np.median(np.abs(theta[parameter] * gradient[0, parameter] / value[0]))
            enough = 0.03 * np.median(np.abs(value[0] / gradient[0, parameter]))
        if problem.coordinates.is_log[column] and share < 1e-4 and np.isfinite(enough) and enough > 0:
            lifted[column] = np.clip(np.log(enough), problem.coordinates.low[column], problem.coordinates.high[column])
    return lifted


def second_mode(solutions: Solutions, best: np.ndarray, ratio: float = 2.0) -> np.ndarray | None:
    """A local minimum clearly apart from the best one whose loss is within `ratio` of it, if the starts found any."""
    apart = np.abs(solutions.u - best).max(axis=1) > 0.2
    near = solutions.cost <= ratio * solutions.cost.min() + 1e-20
    others = np.flatnonzero(apart & near & solutions.converged)
    return solutions.u[others[np.argmin(solutions.cost[others])]] if len(others) else None


def _grid(problem: Problem, law: Law, variables: dict[str, np.ndarray], seed: int) -> np.ndarray:
    """Parameter vectors (C, P) over the grid of starts; linear parameters are left at 1."""
    coordinates, target = problem.coordinates, problem.objective.unscale(problem.target)
    values = law.starts(variables, target)
    names = [p.name for p in law.parameters]
    free = [n for n in values if n in coordinates.names]
    sizes = [len(values[n]) for n in free]
    total = int(np.prod(sizes)) if sizes else 1
    if total <= _MOST_CANDIDATES:
        points = np.array(list(product(*(values[n] for n in free))), dtype=float).reshape(total, len(free))
    else:
        generator = np.random.default_rng(seed)
        points = np.stack([generator.choice(values[n], _MOST_CANDIDATES) for n in free], axis=1)
    theta = np.ones((len(points), len(names)))
    for column, name in enumerate(free):
        theta[:, names.index(name)] = points[:, column]
    return theta


def _solve_linear(problem: Problem, law: Law, theta: np.ndarray) -> np.ndarray:
    """Fill in the linear parameters by bounded least squares, for every candidate at once."""
    names = [p.name for p in law.parameters]
    free = [n for n in law.linear if n in problem.coordinates.names and _alone(problem.coordinates, names.index(n))]
    if not free:
        return theta
    probe = theta.copy()
    probe[:, [names.index(n) for n in free]] = 0.0
    with np.errstate(all="ignore"):
        offset, columns = _design(problem.evaluator, law, probe, free, names)
    target = problem.objective.unscale(problem.target)
    weights = problem.root_weights / target if problem.objective.is_log else problem.root_weights
    index = [problem.coordinates.names.index(n) for n in free]
    high = np.where(
        problem.coordinates.is_log[index],
        np.exp(np.minimum(problem.coordinates.high[index], 345.0)),
        problem.coordinates.high[index],
    )
    signed = np.array([law.parameters[names.index(n)].low < 0 for n in free])
    solved = bounded_least_squares(columns * weights, (target - offset) * weights, high, signed)
    filled = theta.copy()
    for column, name in enumerate(free):
        filled[:, names.index(name)] = solved[:, column]
    return filled


def _alone(coordinates: Coordinates, parameter: int) -> bool:
    column = int(np.argmax(coordinates.spread[parameter]))
    return coordinates.spread[:, column].sum() == 1


def _design(evaluator, law: Law, probe: np.ndarray, free: list[str], names: list[str]):
    """Offset (C, N) with the free linear parameters at zero, and their columns (C, K, N)."""
    offset, columns = evaluator.design(probe)
    for position, name in enumerate(law.linear):
        if name not in free:
            offset = offset + columns[:, position] * probe[:, names.index(name), None]
    return offset, columns[:, [law.linear.index(n) for n in free]]


def bounded_least_squares(columns: np.ndarray, right: np.ndarray, high: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """Least squares with 0 <= x <= high (signed unknowns are free below), by trying every set of active unknowns.

    Exact for the lower bound; an unknown above its upper bound is set to it and the others are solved again. With at
    most four or five unknowns this beats an iterative solver by far, since all candidates share each step.

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
        for active in combinations(range(unknowns), size):
            x = _solve_active(gram, moment, list(active))
            feasible = ((x >= 0) | signed[list(active)]).all(axis=1) & np.isfinite(x).all(axis=1)
            full = np.zeros((count, unknowns))
            full[:, list(active)] = x
            # Candidates at which the law overflows give infinities here, and lose.
            with np.errstate(invalid="ignore", over="ignore"):
                gain = 2 * np.einsum("ck,ck->c", full, moment) - np.einsum("ck,ckl,cl->c", full, gram, full)
            better = feasible & (gain > best_gain)
            best[better], best_gain[better] = full[better], gain[better]
    solution = best / scale
    over = solution > high
    if over.any():
        solution = np.minimum(solution, high)
    return solution


def _solve_active(gram: np.ndarray, moment: np.ndarray, active: list[int]) -> np.ndarray:
    matrix = gram[:, active][:, :, active] + 1e-13 * np.eye(len(active))
    bad = ~np.isfinite(matrix).all(axis=(1, 2))
    if bad.any():
        matrix = np.where(bad[:, None, None], np.eye(len(active)), matrix)
    solved = np.linalg.solve(matrix, np.nan_to_num(moment[:, active])[..., None])[..., 0]
    return np.where(bad[:, None], np.nan, solved)


def _costs(problem: Problem, u: np.ndarray) -> np.ndarray:
    theta = problem.coordinates.to_theta(u)
    with np.errstate(all="ignore"):
        values = problem.evaluator.value(theta)
        residual = (problem.objective.scale(values) - problem.target) * problem.root_weights
        cost = problem.objective.loss(residual)
    return np.where(np.isfinite(cost), cost, np.inf)


def _spread_out(u: np.ndarray, count: int) -> np.ndarray:
    """The first rows of u that differ from those taken before them, so that starts do not crowd one basin."""
    chosen = [u[0]]
    span = np.ptp(u[: max(50, count)], axis=0) + 1e-12
    for row in u[1:]:
        if len(chosen) == count:
            break
        if min(np.abs((row - other) / span).max() for other in chosen) > 0.15:
            chosen.append(row)
    return np.array(chosen)
