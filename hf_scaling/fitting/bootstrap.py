"""Refits of perturbed data: the draws that every interval comes from.

Wild cluster bootstrap: each configuration's residuals, inflated for leverage (HC3, MacKinnon and White 1985), are
multiplied by one draw of Webb's six-point weights (Webb 2014), so that replicates of one configuration move together.
Naive resampling of residuals covers 74 % where 95 % is claimed: residuals are smaller than errors where leverage is
high, and in these designs it is high everywhere.
"""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting.engine import Estimate
from hf_scaling.fitting.rows import Columns
from hf_scaling.fitting.solver import minimise
from hf_scaling.fitting.starts import lift_zeros

SIZES = ("n_params", "n_pretrain", "n_finetune")
# The size that each stage's data is counted in.
_DATA = {"pretrain": "n_pretrain", "finetune": "n_finetune"}
# What both stages' rows share with the fitted ones, and what the rows of the fitted stage share beside it.
_LINEAGE = ("task", "arm", "upstream")
_OWN = ("recipe", "downstream", "eval_split")
# A table of somebody else's may hold a size a row; a curve needs no more points than this.
_MOST_POINTS = 256


def measured_compute(table, study: dict[str, list[str]]) -> dict:
    """The sizes, samples, FLOPs and pace of the runs that a fit's rows belong to, as plain numbers.

    Args:
        table: What the law was fitted to.
        study: The distinct values of the fitted rows' naming columns (`LawFit.data["study"]`).

    Returns:
        sizes: n_params, n_pretrain and n_finetune to their distinct values among the fitted rows; absent columns are
        left out. pretrain and finetune, where the table has such rows: `samples`, pairs of the stage's data size and
        the samples seen, empty without samples_seen (each example then counts as seen once); `flops`, pairs of
        n_params and training FLOPs a sample (n_params null where unknown), empty without train_flops; for distilled
        rows `teacher_flops`, of its forward pass a sample, and `teacher_trained_on`: "the same images", a number of
        images, or null where unknown.
        flops_per_second and devices, where rows have seconds.
    """
    columns = Columns.of(table)
    fitted = _rows_like(columns, study, ("stage", *_LINEAGE, *_OWN))
    found = {"sizes": {name: _distinct(fitted, name) for name in SIZES if name in fitted.data}}
    pace = []
    for stage, size in _DATA.items():
        own = study.get("stage", [stage]) == [stage]
        rows = _stage_rows(columns, stage, study, (*_LINEAGE, *(_OWN if own else ())))
        if rows is not None and size in rows.data:
            found[stage] = _stage(rows, size)
            pace.append(_pace(rows))
    pace = np.concatenate([p for p in pace if len(p)]) if any(map(len, pace)) else np.empty(0)
    if len(pace):
        found |= {"flops_per_second": float(np.median(pace)), "devices": fitted.distinct("device")}
    return found


def _rows_like(columns: Columns, study: dict, names) -> Columns:
    keep = np.ones(len(columns), dtype=bool)
    for name in names:
        if name in columns.data and study.get(name):
            keep &= np.isin(columns.data[name].astype(str), study[name])
    return columns.where(keep, "the fitted names") if keep.any() else columns


def _stage_rows(columns: Columns, stage: str, study: dict, names) -> Columns | None:
    """The rows of a stage: by the column, or all rows of a table without one that counts the stage's data."""
    if "stage" in columns.data:
        keep = columns.data["stage"].astype(str) == stage
        return _rows_like(columns.where(keep, stage), study, names) if keep.any() else None
    fine = "n_finetune" in columns.data and (_numbers(columns, "n_finetune") > 0).any()
    return _rows_like(columns, study, names) if (stage == "finetune") == fine else None


def _stage(rows: Columns, size: str) -> dict:
    data, flops = _numbers(rows, size), _numbers(rows, "train_flops")
    seen = _numbers(rows, "samples_seen")
    samples = np.where(seen > 0, seen, data)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"samples": _curve(data, seen), "flops": _curve(_numbers(rows, "n_params"), flops / samples)}
        forward = _numbers(rows, "teacher_flops") / samples
    forward = forward[np.isfinite(forward) & (forward > 0)]
    if len(forward):
        found |= {"teacher_flops": _rounded(np.log(forward).mean()), "teacher_trained_on": _trained_on(rows)}
    return found


def _trained_on(rows: Columns) -> str | float | None:
    """How many images the teacher was trained on: those of its student, or always as many."""
    own, student = _numbers(rows, "teacher_n_pretrain"), _numbers(rows, "n_pretrain")
    known = np.isfinite(own)
    if not known.any():
        return None
    return "the same images" if (own[known] == student[known]).all() else float(np.median(own[known]))


def _pace(rows: Columns) -> np.ndarray:
    """FLOPs a second of each row, the teacher's forward passes counted: they take part of its seconds."""
    work = _numbers(rows, "train_flops") + np.nan_to_num(_numbers(rows, "teacher_flops"))
    with np.errstate(divide="ignore", invalid="ignore"):
        pace = work / _numbers(rows, "seconds")
    return pace[np.isfinite(pace) & (pace > 0)]


def _curve(x: np.ndarray, y: np.ndarray) -> list[list[float | None]]:
    """Distinct x with the geometric mean of their y, ascending; one point without x where x is unknown."""
    usable = np.isfinite(y) & (y > 0)
    if not usable.any():
        return []
    if not (np.isfinite(x) & (x > 0)).any():
        return [[None, _rounded(np.log(y[usable]).mean())]]
    usable &= np.isfinite(x) & (x > 0)
    levels, group = np.unique(x[usable], return_inverse=True)
    logs = np.bincount(group, np.log(y[usable])) / np.bincount(group)
    return [[float(levels[i]), _rounded(logs[i])] for i in _thinned(len(levels))]


def _rounded(log: float) -> float:
    """The number of a mean logarithm, without the digits that its rounding made up: equal runs cost the same."""
    return float(f"{np.exp(log):.12g}")


def _distinct(columns: Columns, name: str) -> list[float]:
    values = _numbers(columns, name)
    levels = np.unique(values[np.isfinite(values)])
    return [float(levels[i]) for i in _thinned(len(levels))]


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))


def _numbers(columns: Columns, name: str) -> np.ndarray:
    """A column as floats; what is absent or no number is NaN: costs are looked at, never required."""
    if name not in columns.data:
        return np.full(len(columns), np.nan)
    try:
        return columns.data[name].astype(float)
    except (TypeError, ValueError):
        return np.array([_number(value) for value in columns.data[name]])


def _number(value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")


METHODS = ("wild", "pairs")
# Memory of one batch of refits: draws times rows is kept below this.
_LARGEST_BATCH = 400_000
_WEBB = np.sqrt(np.array([1.5, 1.0, 0.5]))


@dataclass(frozen=True)
class Draws:
    """Refitted coordinates u (B, F) and the share of refits that came to rest."""

    u: np.ndarray
    converged: float


def webb_weights(generator: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Webb's six-point distribution: mean 0, variance 1, few enough values to be bounded."""
    return generator.choice(np.concatenate([_WEBB, -_WEBB]), size=shape)


def draw(estimate: Estimate, count: int, method: str = "wild", seed: int = 0) -> Draws:
    """Refit `count` times.

    Args:
        estimate: The fit.
        count: How many refits.
        method: wild, or pairs (whole configurations resampled with replacement).
        seed: Of the draws; equal seeds give equal draws, and two fits of tables with equal configurations that share
            a seed share their multipliers (what a paired comparison of arms needs).
    """
    generator = np.random.default_rng(seed)
    groups = estimate.rows.n_configurations
    if method == "wild":
        multipliers = webb_weights(generator, (count, groups))
    else:
        multipliers = generator.multinomial(groups, np.full(groups, 1 / groups), size=count).astype(float)
    size = max(1, _LARGEST_BATCH // len(estimate.rows.target))
    parts = [_refit(estimate, multipliers[i : i + size], method) for i in range(0, count, size)]
    return Draws(np.concatenate([u for u, _ in parts]), float(np.concatenate([c for _, c in parts]).mean()))


def _refit(estimate: Estimate, multipliers: np.ndarray, method: str) -> tuple[np.ndarray, np.ndarray]:
    problem = estimate.problem
    spread = multipliers[:, estimate.rows.configuration]
    if method == "wild":
        problem = replace(
            problem,
            objective=problem.objective.with_delta(np.inf),
            target=estimate.fitted + spread * adjusted_residuals(estimate),
        )
    else:
        problem = replace(problem, counts=spread)
    u, cost, converged = None, None, None
    for start in _starts(estimate):
        solved = minimise(problem, np.repeat(start[None], len(multipliers), axis=0), iterations=60, tolerance=1e-7)
        better = np.ones(len(multipliers), dtype=bool) if u is None else solved.cost < cost
        u = solved.u if u is None else np.where(better[:, None], solved.u, u)
        converged = solved.converged if converged is None else np.where(better, solved.converged, converged)
        cost = solved.cost if cost is None else np.minimum(solved.cost, cost)
    return u, converged


def _starts(estimate: Estimate) -> list[np.ndarray]:
    """Where every refit starts: the estimate and a second mode, if any, neither with a vanished coefficient."""
    modes = [estimate.u] if estimate.other_mode is None else [estimate.u, estimate.other_mode]
    return [lift_zeros(estimate.problem, mode) for mode in modes]


def adjusted_residuals(estimate: Estimate) -> np.ndarray:
    """(N,) what the wild bootstrap perturbs by, on the objective's scale: pseudo-values, inflated for leverage.

    Under the Huber loss a refit of wild residuals is too sure of itself: points whose own residual is small are
    nearly noise-free in every draw, and a robust fit leans on them. So residuals are replaced by psi(r) / mean psi'
    (the estimator's influence function, Huber 1964), whose least-squares refits have the Huber fit's own spread.
    Each configuration's are then inflated by (I - H_gg)^-1 (HC3 by cluster), and all by the ratio of Student's and
    the normal quantile at 95 %, since the scale is estimated from few degrees of freedom.
    """
    root, objective = estimate.problem.root_weights, estimate.problem.objective
    residual = estimate.residuals * root
    weights = np.broadcast_to(objective.reweighting(residual), residual.shape)
    inside = max(float((weights >= 1).mean()), 1 / len(residual))
    # Huber's (1981) finite-sample correction: psi' varies from row to row, and so does what a refit can use.
    correction = 1 + len(estimate.u) / len(residual) * (1 - inside) / inside
    adjusted = correction * weights * residual / inside
    slopes = estimate.slopes()
    projection = hat(slopes)
    for rows in _members(estimate.rows.configuration):
        block = np.eye(len(rows)) - projection[np.ix_(rows, rows)]
        # A configuration that alone fixes a parameter has no residual to speak of; the inflation is bounded there.
        values, vectors = np.linalg.eigh(block)
        inverse = vectors @ np.diag(1 / np.maximum(values, 0.05)) @ vectors.T
        adjusted[rows] = inverse @ adjusted[rows]
    return small_sample_factor(estimate) * adjusted / root


def small_sample_factor(estimate: Estimate) -> float:
    """`student_factor` with a degree of freedom for each configuration to spare."""
    return float(student_factor(max(estimate.rows.n_configurations - int((~estimate.held).sum()), 1)))


def student_factor(freedom):
    """Student's quantile at 97.5 % over the normal one, for one or many degrees of freedom."""
    from scipy.special import stdtrit

    return stdtrit(freedom, 0.975) / 1.959964


def leverages(estimate: Estimate) -> np.ndarray:
    """(N,) how much of its own fitted value each row decides, 0 to 1."""
    return np.diag(hat(estimate.slopes()))


def hat(slopes: np.ndarray) -> np.ndarray:
    """The projection (N, N) onto the columns of slopes (N, F), robust to columns that do not count."""
    scale = np.sqrt((slopes**2).sum(axis=0))
    kept = slopes[:, scale > 0] / scale[scale > 0]
    left, values, _ = np.linalg.svd(kept, full_matrices=False)
    left = left[:, values > 1e-8 * values.max(initial=0.0)]
    return left @ left.T


def _members(configuration: np.ndarray) -> list[np.ndarray]:
    order = np.argsort(configuration, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(configuration[order])) + 1)
