"""Refits of perturbed data: the draws that every interval comes from.

Wild cluster bootstrap: each configuration's residuals, inflated for leverage (HC3, MacKinnon and White 1985), are
multiplied by one draw of Webb's six-point weights (Webb 2014), so that replicates of one configuration move together.
Naive resampling of residuals covers 74 % where 95 % is claimed: residuals are smaller than errors where leverage is
high, and in these designs it is high everywhere.
"""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting.estimate import Estimate, lift_zeros
from hf_scaling.fitting.rows import FitRows, number_configurations
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
    generator = np.random.default_rng(seed)
    groups = estimate.rows.n_configurations

    def multipliers(n_draws: int) -> np.ndarray:
        if method == "wild":
            return generator.choice(np.concatenate([_WEBB, -_WEBB]), size=(n_draws, groups))
        if groups > MANY_ROWS:
            # The same distribution: a multinomial draw over so many groups takes a time of its own.
            chosen = generator.integers(groups, size=(n_draws, groups))
            return np.stack([np.bincount(row, minlength=groups) for row in chosen]).astype(float)
        return generator.multinomial(groups, np.full(groups, 1 / groups), size=n_draws).astype(float)

    size = max(1, _LARGEST_BATCH // len(estimate.rows.target))
    blocks = [min(size, count - i) for i in range(0, count, size)]
    if len(estimate.rows.target) > MANY_ROWS:
        condensed = Condensed.of(estimate)
        data = [condensed.resample(multipliers(block), method) for block in blocks]
        problem = replace(estimate.problem, objective=estimate.problem.objective.with_delta(np.inf))
        problem = replace(problem, evaluator=condensed.evaluator)
        target, weights = (np.concatenate(parts) for parts in zip(*data))
        size = max(1, _LARGEST_BATCH // target.shape[1])
        parts = [
            _solve(estimate, replace(problem, target=target[i : i + size], root_weights=weights[i : i + size]))
            for i in range(0, count, size)
        ]
    else:
        drawn = multipliers(count)
        parts = [_refit(estimate, drawn[i : i + size], method) for i in range(0, count, size)]
    return Draws(np.concatenate([u for u, _ in parts]), float(np.concatenate([c for _, c in parts]).mean()))


def _refit(estimate: Estimate, multipliers: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    """Solutions (B, F) and which converged (B,) of the refits with these multipliers (B, configurations)."""
    problem = estimate.problem
    spread = multipliers[:, estimate.rows.configuration]
    if method == "wild":
        target = estimate.fitted + spread * adjusted_residuals(estimate)
        problem = replace(problem, objective=problem.objective.with_delta(np.inf), target=target)
    else:
        problem = replace(problem, counts=spread)
    return _solve(estimate, problem)


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
        residuals: {"wild", "pairs"} to (N,) what perturbs each row, on the objective's scale, in that order.
        weights: (N,) the rows' weights in that order.
        configuration: (N,) the rows' configurations in that order.
    """

    evaluator: Evaluator
    fitted: np.ndarray
    order: np.ndarray
    first: np.ndarray
    residuals: dict[str, np.ndarray]
    weights: np.ndarray
    configuration: np.ndarray

    @classmethod
    def of(cls, estimate: Estimate) -> "Condensed":
        """Condense the rows of a fit."""
        rows = estimate.rows
        group = rows.configuration if rows.n_configurations <= _MOST_GROUPS else _groups_of(rows)
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
        influence = adjusted_residuals(estimate, for_leverage=False)
        residuals = {"wild": adjusted_residuals(estimate)[order], "pairs": influence[order]}
        weights = np.broadcast_to(estimate.problem.root_weights**2, len(order))[order]
        return cls(evaluator, fitted, order, first, residuals, weights, rows.configuration[order])

    def resample(self, multipliers: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
        """Targets and roots of weights, each (B, G), of draws with these multipliers (B, configurations)."""
        spread = multipliers[:, self.configuration]
        weights = self.weights * spread if method == "pairs" else np.broadcast_to(self.weights, spread.shape)
        total = np.add.reduceat(weights, self.first, axis=1)
        shifted = self.weights * spread * self.residuals[method]
        mean = np.add.reduceat(shifted, self.first, axis=1) / np.maximum(total, 1e-300)
        return self.fitted + mean, np.sqrt(total)


def _groups_of(rows: FitRows) -> np.ndarray:
    """(N,) a number for each cell of a grid with about equally many rows along each variable."""
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
    return number_configurations(cells)


def adjusted_residuals(estimate: Estimate, for_leverage: bool = True) -> np.ndarray:
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
    if not for_leverage:
        return adjusted / root
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
