"""A batched, bounded Levenberg-Marquardt solver: thousands of small fits of one law side by side.

Each member of the batch has its own targets, weights, bounds and damping; members leave the batch as they converge.
The Huber loss is handled by iterative reweighting inside the same loop.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from numbers import Real

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws import Evaluator, Law

# Below this a coefficient counts as zero: its logarithm needs a lower end.
_SMALLEST = 1e-150
_LARGEST = 1e150
_ZERO = np.log(1e-140)


@dataclass(frozen=True)
class Coordinates:
    """Maps free coordinates u (..., F) to a law's parameters theta (..., P).

    Attributes:
        names: One name per free coordinate: the first parameter of each tied group.
        spread: (P, F) zeros and ones: which coordinate each parameter follows.
        constants: (P,) the values of fixed parameters, 0 elsewhere.
        is_log: (F,) whether the coordinate is the parameter's logarithm.
        low: (F,) lower bounds of the coordinates.
        high: (F,) upper bounds of the coordinates.
    """

    names: tuple[str, ...]
    spread: np.ndarray
    constants: np.ndarray
    is_log: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def to_theta(self, u: np.ndarray) -> np.ndarray:
        """The law's parameters (..., P) at the coordinates u (..., F); 0 for a logarithm near its lower end."""
        scales = np.where(u > _ZERO, np.exp(np.where(self.is_log, u, 0.0)), 0.0)
        return np.where(self.is_log, scales, u) @ self.spread.T + self.constants

    def from_theta(self, theta: np.ndarray) -> np.ndarray:
        """The coordinates (..., F) of parameters (..., P), clipped to the bounds."""
        leaders = np.argmax(self.spread, axis=0)
        value = np.asarray(theta, dtype=float)[..., leaders]
        logarithm = np.log(np.clip(value, _SMALLEST, _LARGEST))
        return np.clip(np.where(self.is_log, logarithm, value), self.low, self.high)

    def chain(self, theta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Turn d f / d theta (B, P, N) into d f / d u (B, F, N); the memory of `gradient` is used."""
        gradient *= np.where(self.spread @ self.is_log.astype(float) > 0, theta, 1.0)[..., None]
        return gradient if self.is_one_to_one else np.matmul(self.spread.T, gradient)

    @cached_property
    def is_one_to_one(self) -> bool:
        """Whether every parameter has a coordinate of its own, in the law's order."""
        return np.array_equal(self.spread, np.eye(len(self.spread)))

    def with_bound(self, name: str, *, high: float) -> "Coordinates":
        """The same coordinates with a lower upper bound on one parameter."""
        bounds = self.high.copy()
        index = self.names.index(name)
        bounds[index] = min(bounds[index], np.log(high) if self.is_log[index] else high)
        return replace(self, high=bounds)


def coordinates_of(
    law: Law, fixed: Mapping[str, float] | None = None, tied: Iterable[Iterable[str]] | None = None
) -> Coordinates:
    """The free coordinates of a law with some parameters fixed and some tied together.

    Args:
        law: The law.
        fixed: Parameter name to its value.
        tied: Groups of parameter names that share one value.

    Raises:
        InputError: A name is not a parameter of the law, is in two groups, or is both fixed and tied.
    """
    fixed = dict(fixed or {})
    groups = _groups(law, fixed, tied)
    parameters = {p.name: p for p in law.parameters}
    order = list(parameters)
    spread = np.zeros((len(order), len(groups)))
    for column, group in enumerate(groups):
        for name in group:
            spread[order.index(name), column] = 1.0
    low = np.array([max(parameters[n].low for n in group) for group in groups])
    high = np.array([min(parameters[n].high for n in group) for group in groups])
    logs = {p.name: p.low >= 0 and p.kind in ("coefficient", "scale", "shape") for p in law.parameters}
    is_log = np.array([all(logs[n] for n in group) for group in groups], dtype=bool)
    constants = np.array([float(fixed.get(name, 0.0)) for name in order])
    with np.errstate(divide="ignore"):
        low = np.where(is_log, np.log(np.clip(low, _SMALLEST, None)), low)
        high = np.where(is_log, np.log(np.clip(high, None, _LARGEST)), high)
    return Coordinates(tuple(group[0] for group in groups), spread, constants, is_log, low, high)


def _groups(law: Law, fixed: Mapping[str, float], tied: Iterable[Iterable[str]] | None) -> list[list[str]]:
    """The free parameters, those that share a coordinate together, the first of each group leading."""
    names = list(law.names)
    ties = [list(group) for group in (tied or [])]
    for group in ties:
        if len(group) < 2:
            raise InputError(f"tied {', '.join(group)!r} has no effect: a group needs at least two parameters")
    for name, value in fixed.items():
        if not isinstance(value, Real) or not np.isfinite(value):
            raise InputError(f"fixed {name} = {value!r} is not a finite number")
        parameter = next((p for p in law.parameters if p.name == name), None)
        if parameter and not parameter.low <= value <= parameter.high:
            bounds = f"{parameter.low:g} to {parameter.high:g}"
            raise InputError(f"fixed {name} = {value:g} is outside its bounds, {bounds}")
    for name in [*fixed, *(n for group in ties for n in group)]:
        if name not in names:
            raise InputError(f"{name!r} is not a parameter of {law.name}: it has {', '.join(names)}")
    mentioned = [n for group in ties for n in group]
    twice = {n for n in mentioned if mentioned.count(n) > 1 or n in fixed}
    if twice:
        raise InputError(f"{sorted(twice)[0]!r} is tied twice, or both fixed and tied: name it once")
    groups, seen = [], set(fixed)
    for name in names:
        if name in seen:
            continue
        group = next((g for g in ties if name in g), [name])
        groups.append([name, *(n for n in group if n != name)])
        seen.update(group)
    if not groups:
        raise InputError(f"every parameter of {law.name} is fixed: leave at least one to fit")
    return groups


OBJECTIVES = ("log_huber", "log_mse", "mse")


@dataclass(frozen=True)
class Objective:
    """What a fit minimises: the scale of its residuals and the loss on them.

    Attributes:
        name: log_huber, log_mse or mse.
        delta: Residual at which the Huber loss turns from squared to linear; inf for squared loss.
    """

    name: str
    delta: float = np.inf

    @property
    def is_log(self) -> bool:
        """Whether residuals are differences of logarithms."""
        return self.name != "mse"

    def with_delta(self, delta: float) -> "Objective":
        """The same objective with another threshold."""
        return replace(self, delta=delta)

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Values on the scale that residuals are taken on; NaN where a logarithm is undefined."""
        if not self.is_log:
            return values
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(values > 0, np.log(values), np.nan)

    def unscale(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `scale`."""
        return np.exp(values) if self.is_log else values

    def loss(self, residuals: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """The summed loss over the last axis: squares / 2 inside delta, linear outside (Huber 1964).

        Args:
            residuals: (..., N).
            counts: (..., N) how often each row counts; once by default. This differs from scaling residuals: outside
                delta the loss is linear, and a row that was drawn twice counts twice there too.
        """
        if np.isinf(self.delta):
            counted = residuals if counts is None else residuals * counts
            return 0.5 * np.einsum("...n,...n->...", counted, residuals)
        size = np.abs(residuals)
        inner = np.minimum(size, self.delta)
        losses = inner * (size - 0.5 * inner)
        return (losses if counts is None else losses * counts).sum(axis=-1)

    def reweighting(self, residuals: np.ndarray) -> np.ndarray | float:
        """The weights psi(r)/r with which a least-squares step is a step of the Huber loss."""
        if np.isinf(self.delta):
            return 1.0
        return np.minimum(1.0, self.delta / np.maximum(np.abs(residuals), 1e-300))


def make_objective(name: str, delta: float | None) -> Objective:
    """The objective of that name.

    Raises:
        InputError: The name is unknown, delta is given for another objective than log_huber, or is not positive.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective {name!r} is unknown: choose one of {', '.join(OBJECTIVES)}")
    if delta is not None and name != "log_huber":
        raise InputError(f"delta has no effect with objective {name!r}: leave it out or use log_huber")
    if delta is not None and not delta > 0:
        raise InputError(f"delta must be positive, not {delta}")
    return Objective(name, np.inf if delta is None else float(delta))


@dataclass(frozen=True)
class Problem:
    """A law at fixed sizes, to be fitted to one or many sets of targets.

    Attributes:
        evaluator: The law prepared for the rows' sizes (`law.evaluator(variables)`).
        coordinates: The free coordinates.
        objective: Scale and loss of the residuals.
        target: (N,) or (B, N), on the objective's scale.
        root_weights: (N,) or (B, N) square roots of the rows' weights, which scale the residuals.
        counts: (B, N) how often each row counts in the loss, for resampled rows; None for once each.
    """

    evaluator: Evaluator
    coordinates: Coordinates
    objective: Objective
    target: np.ndarray
    root_weights: np.ndarray
    counts: np.ndarray | None = None

    def residuals(self, u: np.ndarray, members: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Weighted residuals (B, N) and their derivatives (B, F, N) at u (B, F); NaN where the law is undefined."""
        theta = self.coordinates.to_theta(u)
        with np.errstate(all="ignore"):
            value, gradient = self.evaluator.value_and_gradient(theta)
            jacobian = self.coordinates.chain(theta, gradient)
            weights = _member(self.root_weights, members)
            residual = (self.objective.scale(value) - _member(self.target, members)) * weights
            # In place: this is the inner loop of every fit, and its largest array.
            jacobian *= np.broadcast_to(weights / value if self.objective.is_log else weights, value.shape)[:, None, :]
        return residual, jacobian


def _member(array: np.ndarray, members: np.ndarray | slice) -> np.ndarray:
    return array if array.ndim == 1 else array[members]


@dataclass(frozen=True)
class Solutions:
    """The ends of a batch of fits: coordinates (B, F), summed losses (B,), and which of them converged (B,)."""

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
        high: Upper bounds, likewise.
        iterations: Largest number of steps tried for any member.
        tolerance: A member stops once a step gains less than this share of its loss.
    """
    low = np.broadcast_to(problem.coordinates.low if low is None else low, start.shape)
    high = np.broadcast_to(problem.coordinates.high if high is None else high, start.shape)
    batch = _Batch(problem, np.clip(start, low, high), low, high)
    # Trials outside the law's domain overflow before they are rejected.
    with np.errstate(all="ignore"):
        for _ in range(iterations):
            if not batch.step(tolerance):
                break
    return batch.finish()


class _Batch:
    """The state of `minimise`: results for all members, working arrays for those that have not converged."""

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
        self._drop(~np.isfinite(self.cost))

    @property
    def counts(self) -> np.ndarray | None:
        """(B, N) how often each row counts for the moving members."""
        return None if self.problem.counts is None else _member(self.problem.counts, self.members)

    def _cost(self, residual: np.ndarray) -> np.ndarray:
        cost = self.objective.loss(residual, self.counts)
        return np.where(np.isfinite(cost), cost, np.inf)

    def step(self, tolerance: float) -> bool:
        """Try one step for every moving member; False once none moves."""
        if not len(self.members):
            return False
        trial = self._propose()
        residual, jacobian = self.problem.residuals(trial, self.members)
        cost = self._cost(residual)
        better = cost <= self.cost
        # A loss of rounding size (residuals near 1e-12) cannot be improved.
        rounding = cost <= 1e-25 * residual.shape[1]
        done = better & ((self.cost - cost <= tolerance * self.cost) | rounding)
        stuck = ~better & (self.damping > 1e9)
        if better.all():
            self.u, self.residual, self.jacobian, self.cost = trial, residual, jacobian, cost
        else:
            self.u = np.where(better[:, None], trial, self.u)
            self.residual = np.where(better[:, None], residual, self.residual)
            self.jacobian = np.where(better[:, None, None], jacobian, self.jacobian)
            self.cost = np.where(better, cost, self.cost)
        self.damping = np.where(better, np.maximum(self.damping * 0.15, 1e-12), self.damping * 6.0)
        # Stuck: no downhill step at any damping is a minimum to the precision of the arithmetic.
        self.converged[self.members[done | stuck]] = True
        self._drop(done | stuck)
        return bool(len(self.members))

    def _propose(self) -> np.ndarray:
        weights, counts = self.objective.reweighting(self.residual), self.counts
        weights = weights if counts is None else weights * counts
        weighted = self.jacobian * weights[:, None, :] if isinstance(weights, np.ndarray) else self.jacobian
        slope = np.matmul(weighted, self.residual[..., None])[..., 0]
        hessian = np.matmul(weighted, self.jacobian.transpose(0, 2, 1))
        low, high = self.low[self.members], self.high[self.members]
        # A coordinate pushed against its bound takes no part in the step (an active set of one look-ahead).
        held = ((self.u <= low) & (slope >= 0)) | ((self.u >= high) & (slope <= 0)) | (low >= high)
        return np.clip(self.u + damped_step(hessian, slope, held, self.damping), low, high)

    def _drop(self, ended: np.ndarray) -> None:
        """Record the members that have ended and shrink the working arrays to the others."""
        if not ended.any():
            return
        moving, members = ~ended, self.members[ended]
        self.best[members], self.best_cost[members] = self.u[ended], self.cost[ended]
        self.members, self.u, self.cost = self.members[moving], self.u[moving], self.cost[moving]
        self.residual, self.jacobian = self.residual[moving], self.jacobian[moving]
        self.damping = self.damping[moving]

    def finish(self) -> Solutions:
        """Record the members that are still moving and return all."""
        self.best[self.members], self.best_cost[self.members] = self.u, self.cost
        return Solutions(self.best, self.best_cost, self.converged)


def damped_step(hessian: np.ndarray, slope: np.ndarray, held: np.ndarray, damping: np.ndarray) -> np.ndarray:
    """Solve (H + damping diag H) s = -slope (B, F) over the coordinates that are not held."""
    free = ~held
    hessian = hessian * (free[:, :, None] & free[:, None, :])
    diagonal = np.einsum("bff->bf", hessian)
    # Marquardt's scaling, with a lower end so that a coordinate without influence stays where it is.
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
