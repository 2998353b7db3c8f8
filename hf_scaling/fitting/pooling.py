"""Pooled fits: the curves of a table share a distribution, so that a curve of three points borrows from the others.

Empirical Bayes: each curve is fitted with a normal prior, which is its distribution given all other curves; the shared
distribution (shared.py) is estimated from the curves in turn, and the two steps alternate. How far predictions may be
trusted is measured on the curves themselves: each is cut short, fitted with its prior and compared with its rest.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.columns import note
from hf_scaling.fitting.curves import CurveCoordinates, CurveFits
from hf_scaling.fitting.discrepancy import log_ranges, log_sizes
from hf_scaling.fitting.estimate import robust_scale, search_starts, student_factor
from hf_scaling.fitting.fit import FitOptions, describe_rows, resolve_law, suited_to, with_compute
from hf_scaling.fitting.law_fit import LawFit, quantiles
from hf_scaling.fitting.rows import FitRows, RowFilter, select_rows, thinned
from hf_scaling.fitting.shared import SharedDistribution
from hf_scaling.fitting.solver import Objective, Problem, Solutions, coordinates_of, minimise
from hf_scaling.laws import Law
from hf_scaling.text import format_percent, listing

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table

# A curve of one variable with more rows than this is averaged in as many bins of equal logarithmic width.
_MOST_BINS = 64
# Curves that the starts come from, and points of each.
_CURVES_OF_STARTS, _POINTS_OF_STARTS, _STARTS_OF_CURVE = 4, 24, 6
# Rounds of fitting the curves and estimating their distribution, and steps of the latter in a round.
_ROUNDS, _STEPS = 8, 5
# Degrees of freedom that the table's noise weighs in a curve's own.
_NOISE_WEIGHT = 4.0
# Standard deviations beyond which a row's residual counts linearly.
_HUBER = 1.5
# The least noise, relative: rounding of the table.
_LEAST_NOISE = 1e-4
# Variance of the first prior, around the starts.
_FIRST_VARIANCE = 4.0
# Shares of a curve's log range that are kept when it is cut short, and the fewest rows.
_KEPT, _FEWEST_KEPT = (0.15, 0.3, 0.5, 0.75), 3
# In a cut, distances count as at least this share of the largest.
_NEAREST = 0.1
# Factors of the posterior's width, and errors of the law per unit of logarithmic distance, that are tried on the cuts.
_FACTORS, _PER_LOG = np.geomspace(0.5, 4.0, 22), np.append(0.0, np.geomspace(0.002, 0.5, 20))
# The largest factor by which tails may widen intervals further.
_HEAVIEST = 2.0
# Sizes of a curve that a fit records for figures.
_MOST_RECORDED = 64
# Values of the noise of a new run.
_MOST_NOISE = 256
# The widest interval of an exponent, as a ratio of its ends, with which a curve counts as identified.
_WIDEST_EXPONENT = 3.0
# law="auto" averages the laws within this factor of the smallest miss of cut curves.
_CLOSE = 1.25
# More coordinates than this together would take minutes.
_MOST_COORDINATES = 3000


@dataclass(frozen=True)
class CurveProblem(Problem):
    """A law over several curves, each a member of the batch, with a normal prior on its shared coordinates.

    Attributes:
        sizes: Variable to (C, N) sizes, padded with rows of weight 0.
        shared: The shared coordinates.
        means: (C, F) the priors' means; None for no prior.
        roots: (C, F, F) roots of the priors' inverse covariances.
    """

    sizes: dict[str, np.ndarray] | None = None
    shared: CurveCoordinates | None = None
    means: np.ndarray | None = None
    roots: np.ndarray | None = None

    def residuals(self, u: np.ndarray, members: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
        """Weighted residuals of the rows and, with priors, of the shared coordinates, and their derivatives."""
        assert self.sizes is not None and self.shared is not None
        coordinates = self.coordinates
        evaluator = self.shared.law.evaluator_of_sets({name: values[members] for name, values in self.sizes.items()})
        with np.errstate(all="ignore"):
            theta = coordinates.to_theta(u)
            value, gradient = evaluator.value_and_gradient(theta)
            jacobian = coordinates.chain(theta, gradient) / value[:, None, :]
            weights = self.root_weights[members]
            used = weights > 0
            residual = np.where(used, (np.log(value) - self.target[members]) * weights, 0.0)
            jacobian = np.where(used[:, None], jacobian * weights[:, None], 0.0)
            if self.means is None or self.roots is None:
                return residual, jacobian
            shared, slopes = self.shared.to_shared(u)
            roots = self.roots[members]
            pull = np.einsum("bkf,bf->bk", roots, shared - self.means[members])
            slopes = np.matmul(roots, slopes).transpose(0, 2, 1)
        return np.concatenate([residual, pull], axis=1), np.concatenate([jacobian, slopes], axis=2)

    def with_priors(self, means: np.ndarray, covariances: np.ndarray) -> "CurveProblem":
        """The same curves with these priors."""
        roots = np.linalg.cholesky(np.linalg.inv(covariances)).transpose(0, 2, 1)
        return replace(self, means=means, roots=roots)

    def take(self, curves: np.ndarray, root_weights: np.ndarray) -> "CurveProblem":
        """Some of the curves, repeated where they are named twice, with other weights."""
        assert self.sizes is not None and self.means is not None and self.roots is not None
        return replace(
            self,
            sizes={name: values[curves] for name, values in self.sizes.items()},
            target=self.target[curves],
            root_weights=root_weights,
            means=self.means[curves],
            roots=self.roots[curves],
        )


@dataclass(frozen=True)
class PooledEstimate:
    """Curves fitted with the distribution that they share.

    Attributes:
        problem: The problem, with each curve's prior.
        weights: (C, N) weights of the rows, 0 where padded.
        u: (C, F) the curves' coordinates.
        shared: The distribution.
        values: (C, F) the curves' shared coordinates.
        covariances: (C, F, F) their covariances.
        noise: (C,) standard deviation of a row of weight 1.
        residuals: (C, N) measured minus fitted logarithms, unweighted.
        priors: (C, F) means and (C, F, F) covariances given all other curves.
    """

    problem: CurveProblem
    weights: np.ndarray
    u: np.ndarray
    shared: SharedDistribution
    values: np.ndarray
    covariances: np.ndarray
    noise: np.ndarray
    residuals: np.ndarray
    priors: tuple[np.ndarray, np.ndarray]

    @property
    def theta(self) -> np.ndarray:
        """(C, P) the curves' parameters."""
        return self.problem.coordinates.to_theta(self.u)


def fit_pooled(rows: FitRows, law: Law, options: FitOptions) -> LawFit:
    """Fit one law to several curves that share a distribution.

    Raises:
        InputError: The rows are of one curve, the target has no logarithm, or an option does not go with pool=.
    """
    _check(rows, law, options)
    estimated = estimate_pooled(rows, law, options)
    return _to_fit(rows, law, options, estimated, *_calibrate(cut_curves(estimated)))


def _check(rows: FitRows, law: Law, options: FitOptions) -> None:
    pool = listing(rows.pool)
    if len(rows.curve_names) < 2:
        names = " ".join(rows.curve_names[0])
        raise InputError(f"pool: all rows are of one curve ({pool} {names}); leave pool out")
    if options.objective == "mse" or suited_to(rows, law, options)[1].objective == "mse":
        raise InputError(
            "pool: curves share a distribution of logarithms; use a positive target without objective mse"
        )
    if isinstance(options.prior, Mapping):
        raise InputError("prior has no effect with pool: the curves' own distribution is the prior")
    if options.method != "wild":
        raise InputError(f"method {options.method!r} has no effect with pool: its draws are of the posterior")
    free = len(coordinates_of(law, options.fixed, options.tied).names)
    if free * len(rows.curve_names) > _MOST_COORDINATES:
        text = f"pool: {len(rows.curve_names)} curves of {free} parameters are too many"
        raise InputError(f"{text}; pool at most {_MOST_COORDINATES // free} of them")


def estimate_pooled(rows: FitRows, law: Law, options: FitOptions) -> PooledEstimate:
    """Alternate between fitting each curve given the others and estimating the distribution of all."""
    problem, weights = _problem_of(rows, law, options)
    coordinates, curves = problem.coordinates, len(rows.curve_names)
    starts = _starts(problem, weights, options)
    assert problem.shared is not None
    middle = np.median(problem.shared.to_shared(starts)[0], axis=0)
    free = len(middle)
    priors = np.repeat(middle[None], curves, axis=0), np.repeat(_FIRST_VARIANCE * np.eye(free)[None], curves, axis=0)
    shared = SharedDistribution.start(rows.curve_names, priors[0])
    noise, robust, u = np.full(curves, 0.03), np.ones_like(weights), None
    for _ in range(_ROUNDS):
        scaled = np.sqrt(weights * robust) / noise[:, None]
        problem = replace(problem, root_weights=scaled).with_priors(*priors)
        u = _solve_curves(problem, starts if u is None else u[None], 60 if u is None else 25)
        held = (u <= coordinates.low + 1e-9) | (u >= coordinates.high - 1e-9)
        residual, jacobian = replace(problem, means=None).residuals(u)
        values, slopes = problem.shared.to_shared(u)  # type: ignore[union-attr]
        jacobian = np.matmul(np.linalg.inv(slopes).transpose(0, 2, 1), jacobian * ~held[:, :, None])
        information = np.matmul(jacobian, jacobian.transpose(0, 2, 1))
        slope = -np.matmul(jacobian, residual[..., None])[..., 0]
        covariances = np.linalg.inv(information + np.linalg.inv(priors[1]))
        used = np.einsum("cij,cji->c", covariances, information)
        squares = ((residual * noise[:, None]) ** 2).sum(axis=1)
        freedom = np.maximum((weights > 0).sum(axis=1) - used, 0.2)
        together = squares.sum() / freedom.sum()
        unweighted = residual / np.maximum(scaled, 1e-300)
        noise = np.sqrt((squares + _NOISE_WEIGHT * together) / (freedom + _NOISE_WEIGHT))
        noise = np.maximum(noise, _LEAST_NOISE)
        if options.objective == "log_huber":
            limit = (options.delta / noise[:, None]) if options.delta is not None else _HUBER
            size = np.abs(unweighted) * np.sqrt(weights) / noise[:, None]
            robust = np.minimum(1.0, limit / np.maximum(size, 1e-9))
        shared = shared.observe(values, slope, information).maximise(_STEPS)
        priors = shared.leave_one_out()
    assert u is not None
    residuals = np.where(weights > 0, -unweighted, 0.0)
    return PooledEstimate(problem, weights, u, shared, values, covariances, noise, residuals, priors)


def _problem_of(rows: FitRows, law: Law, options: FitOptions) -> tuple[CurveProblem, np.ndarray]:
    """The curves side by side, and the weights (C, N) of their rows."""
    assert rows.curve is not None
    columns: list[dict[str, np.ndarray]] = []
    for curve in range(len(rows.curve_names)):
        own = rows.curve == curve
        data = {name: values[own] for name, values in rows.variables.items()}
        data["(target)"] = np.log(rows.target[own])
        data["(weight)"] = np.ones(own.sum()) if rows.weights is None else rows.weights[own]
        columns.append(_binned(data) if len(law.variables) == 1 and own.sum() > _MOST_BINS else data)
    length = max(len(data["(weight)"]) for data in columns)

    def padded(name: str, mode: str) -> np.ndarray:
        return np.stack([np.pad(data[name], (0, length - len(data[name])), mode=mode) for data in columns])  # type: ignore[call-overload]

    sizes = {name: padded(name, "edge") for name in law.variables}
    logs = {name: np.log(values[values > 0]) for name, values in sizes.items()}
    reference = {name: float(np.exp((values.min() + values.max()) / 2)) for name, values in logs.items()}
    shared = CurveCoordinates.of(law, reference, options.fixed, options.tied)
    weights = padded("(weight)", "constant")
    problem = CurveProblem(
        evaluator=shared.evaluator,
        coordinates=shared.free,
        objective=Objective("log_mse"),
        target=padded("(target)", "edge"),
        root_weights=np.sqrt(weights),
        sizes=sizes,
        shared=shared,
    )
    return problem, weights


def _binned(data: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Means of a curve's rows in bins of equal logarithmic width; a bin counts by the root of its rows.

    Rows of a dense part of a curve share the law's misfit there: they are no independent evidence.
    """
    name = next(iter(data))
    with np.errstate(divide="ignore"):
        logs = np.log(data[name])
    finite = np.isfinite(logs)
    edges = np.linspace(logs[finite].min(), logs[finite].max(), _MOST_BINS + 1)[1:-1]
    place = np.unique(np.searchsorted(edges, logs, side="right"), return_inverse=True)[1].reshape(-1)
    total = np.bincount(place, data["(weight)"])

    def mean(values: np.ndarray) -> np.ndarray:
        averaged: np.ndarray = np.bincount(place, values * data["(weight)"]) / total
        return averaged

    return {name: np.exp(mean(logs)), "(target)": mean(data["(target)"]), "(weight)": np.sqrt(total)}


def _starts(problem: CurveProblem, weights: np.ndarray, options: FitOptions) -> np.ndarray:
    """(S, F) solutions for the curves that span most, alone: starts of all curves."""
    assert problem.sizes is not None and problem.shared is not None
    law = problem.shared.law
    spans = np.zeros(len(weights))
    for values in problem.sizes.values():
        with np.errstate(divide="ignore"):
            logs = np.log(values)
        spans += np.ptp(np.where(np.isfinite(logs), logs, logs[np.isfinite(logs)].min()), axis=1)
    spans *= np.minimum((weights > 0).sum(axis=1), _POINTS_OF_STARTS)
    coordinates, starts = coordinates_of(law, options.fixed, options.tied), []
    for curve in np.argsort(-spans, kind="stable")[:_CURVES_OF_STARTS]:
        places = np.flatnonzero(weights[curve] > 0)
        places = places[thinned(len(places), _POINTS_OF_STARTS)]
        sizes = {name: values[curve, places] for name, values in problem.sizes.items()}
        target = problem.target[curve, places]
        alone = Problem(law.evaluator(sizes), coordinates, problem.objective, target, np.ones(len(places)))
        found = search_starts(alone, law, sizes, options.seed)[:_STARTS_OF_CURVE]
        solved = minimise(alone, found, iterations=60, tolerance=1e-6)
        starts.append(problem.coordinates.from_theta(coordinates.to_theta(solved.u[int(np.argmin(solved.cost))])))
    return np.array(starts)


def _solve_curves(problem: CurveProblem, starts: np.ndarray, steps: int) -> np.ndarray:
    """(C, F) the best end for each curve from starts (S, F) of all curves or (1, C, F) of their own."""
    count = len(problem.target)
    ends: list[Solutions] = []
    for start in starts:
        begin = start if start.ndim == 2 else np.repeat(start[None], count, axis=0)
        ends.append(minimise(problem, begin, iterations=steps, tolerance=1e-6))
    best = np.argmin(np.stack([end.cost for end in ends]), axis=0)
    solved: np.ndarray = np.stack([end.u for end in ends])[best, np.arange(count)]
    return solved


def _calibrate(cuts: Sequence["Cut"]) -> tuple[float, float, int]:
    """What cut curves show of the intervals.

    Returns:
        The factor of the posterior's width with which 95 % of the rows beyond are inside, the law's own error per unit
        of logarithmic distance, and the number of cuts.
    """
    if not cuts:
        return 1.0, 0.0, 0
    squares = np.concatenate([cut.miss**2 for cut in cuts])
    variances = np.concatenate([cut.variance for cut in cuts])
    distances = np.concatenate([cut.distance**2 for cut in cuts])
    noise = np.concatenate([cut.noise for cut in cuts])
    # The rows beyond one cut move together: each cut counts once.
    shares = np.concatenate([np.full(len(cut.miss), 1 / len(cut.miss)) for cut in cuts])
    best = (np.inf, 1.0, 0.0)
    for factor in _FACTORS:
        for per_log in _PER_LOG:
            variance = factor**2 * variances + per_log**2 * distances + noise
            cost = float(shares @ (np.log(variance) + squares / variance))
            best = min(best, (cost, float(factor), float(per_log)))
    _, factor, per_log = best
    relative = np.sqrt(squares / (factor**2 * variances + per_log**2 * distances + noise))
    order = np.argsort(relative)
    inside = np.cumsum(shares[order]) / shares.sum()
    place = min(int(np.searchsorted(inside, 0.95)), len(order) - 1)
    tails = float(np.clip(relative[order[place]] / 1.96, 1.0, _HEAVIEST))
    # The distribution is estimated from few curves.
    tails *= float(student_factor(max(len({cut.curve for cut in cuts}) - 1, 1)))
    return tails * factor, tails * per_log, len(cuts)


@dataclass(frozen=True)
class Cut:
    """A curve fitted without its larger sizes, and its rows beyond them.

    Attributes:
        curve: Its number.
        kept: The share of its log range that was kept.
        miss: (M,) measured minus predicted logarithms.
        variance: (M,) the posterior's.
        noise: (M,) the variance of the rows themselves.
        distance: (M,) logarithmic distance beyond the kept rows, at least a tenth of the largest.
    """

    curve: int
    kept: float
    miss: np.ndarray
    variance: np.ndarray
    noise: np.ndarray
    distance: np.ndarray


@np.errstate(all="ignore")
def cut_curves(estimated: PooledEstimate) -> list[Cut]:
    """Every curve cut short at several sizes, refitted with its prior, all in one batch."""
    problem, weights = estimated.problem, estimated.weights
    assert problem.sizes is not None and problem.shared is not None
    logs = np.stack([np.log(values) for values in problem.sizes.values()]).mean(axis=0)
    used = (weights > 0) & np.isfinite(logs)
    curves, kept_rows, shares, seen = [], [], [], set()
    for curve in range(len(weights)):
        own = logs[curve, used[curve]]
        for share in _KEPT:
            end = own.min() + share * (own.max() - own.min()) + 1e-9
            kept = used[curve] & (logs[curve] <= end)
            if kept.sum() >= _FEWEST_KEPT and kept.sum() < used[curve].sum() and (curve, kept.sum()) not in seen:
                seen.add((curve, kept.sum()))
                curves.append(curve)
                kept_rows.append(kept)
                shares.append(share)
    if not curves:
        return []
    which, kept_all = np.array(curves), np.stack(kept_rows)
    priors = estimated.priors[0], estimated.priors[1]
    batch = problem.with_priors(*priors).take(which, problem.root_weights[which] * kept_all)
    solved = _solve_curves(batch, np.stack([estimated.u[which]]), 60)
    residual, jacobian = replace(batch, root_weights=np.ones_like(kept_all, dtype=float), means=None).residuals(solved)
    _, slopes = problem.shared.to_shared(solved)
    jacobian = np.matmul(np.linalg.inv(slopes).transpose(0, 2, 1), jacobian)
    inside = jacobian * batch.root_weights[:, None]
    covariances = np.linalg.inv(np.matmul(inside, inside.transpose(0, 2, 1)) + np.linalg.inv(priors[1][which]))
    variances = np.einsum("cfn,cfg,cgn->cn", jacobian, covariances, jacobian)
    cuts = []
    for i, curve in enumerate(which):
        beyond = used[curve] & ~kept_all[i] & np.isfinite(residual[i])
        distance = logs[curve, beyond] - logs[curve, kept_all[i]].max()
        if len(distance) and distance.max() > 0:
            distance = np.maximum(distance, _NEAREST * distance.max())
            noise = estimated.noise[curve] ** 2 / weights[curve, beyond]
            cuts.append(Cut(int(curve), shares[i], -residual[i, beyond], variances[i, beyond], noise, distance))
    return cuts


def _to_fit(
    rows: FitRows,
    law: Law,
    options: FitOptions,
    estimated: PooledEstimate,
    widening: float,
    per_log: float,
    freedom: int,
) -> LawFit:
    assert estimated.problem.shared is not None
    coordinates, shared = estimated.problem.shared, estimated.shared
    draws, centre, effects, new = _draws(estimated, options, widening)
    middle = coordinates.to_theta(shared.centre()[None])[0]
    intervals: dict[str, tuple[float, float]] = {}
    if options.bootstrap:
        low, high = quantiles(coordinates.to_theta(centre[1:]), options.level, middle)
        intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(law.names)}
    residuals = estimated.residuals[estimated.weights > 0]
    relative = (estimated.residuals * np.sqrt(estimated.weights) / estimated.noise[:, None])[estimated.weights > 0]
    relative = np.sort(relative)[thinned(len(relative), _MOST_NOISE)]
    noise = estimated.noise[:, None] * relative / max(float(np.sqrt(np.mean(relative**2))), 1e-12)
    records = [
        _record(rows, curve, estimated, draws[curve], law, options.level, per_log, freedom)
        for curve in range(len(rows.curve_names))
    ]
    components = [
        name
        for i, name in enumerate(rows.pool)
        if 1 < len({names[i] for names in rows.curve_names}) < len(rows.curve_names)
    ]
    curves = CurveFits(
        columns=list(rows.pool),
        names=list(rows.curve_names),
        records=records,
        theta=estimated.theta,
        draws=draws,
        noise=noise,
        components=components,
        centre=centre,
        effects=effects,
        new=new,
        reference=coordinates.reference,
    )
    every = {**describe_rows(rows), "discrepancy": None}
    every["discrepancy"] = _discrepancy(rows, per_log, freedom)
    unseen = np.empty((0, len(law.names)))
    if options.bootstrap:
        unseen = curves.new_curve([""] * len(rows.pool), coordinates)[1]
    count, k = len(residuals), estimated.u.size
    logs = float(np.sqrt(np.mean(residuals**2)))
    fitted = np.exp(estimated.problem.target - estimated.residuals)
    misses = (np.exp(estimated.problem.target) - fitted)[estimated.weights > 0]
    statuses = [record["status"] for record in records]
    exponents = [p.name for p in law.parameters if p.kind == "exponent" and p.name in intervals]
    unknown = [name for name in exponents if not intervals[name][1] <= _WIDEST_EXPONENT * intervals[name][0]]
    status, notes = _judge(statuses, unknown, logs, rows, widening, per_log)
    return LawFit(
        law=law.name,
        status=status,
        params={name: float(value) for name, value in zip(law.names, middle)},
        intervals=intervals,
        scores={
            "log_rmse": logs,
            "rmse": float(np.sqrt(np.mean(misses**2))) / abs(rows.scale.factor),
            "aicc": float(count * np.log(max(logs**2, 1e-300)) + 2 * (k + 1)),
            "n_rows": len(rows.target),
            "n_configurations": rows.n_configurations,
        },
        notes=[*rows.notes, *notes],
        settings={
            "target": rows.target_name,
            "objective": options.objective,
            "delta": options.delta,
            "columns": rows.columns,
            "weights": "given" if rows.weights is not None else "equal",
            "n_starts": min(_CURVES_OF_STARTS, len(rows.curve_names)),
            "scale": rows.scale.to_dict(),
            **options.to_dict(),
            "pool": list(rows.pool),
        },
        data=every,
        definition=law,
        draws=unseen,
        noise=noise.reshape(-1)[thinned(noise.size, _MOST_NOISE)],
        pooled=curves,
    )


def _draws(
    estimated: PooledEstimate, options: FitOptions, widening: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draws of each curve's parameters (C, B, P), and what `SharedDistribution.draw_effects` gives."""
    assert estimated.problem.shared is not None
    coordinates, (count, free) = estimated.problem.shared, estimated.u.shape
    generator = np.random.default_rng(options.seed)
    draws = np.empty((count, options.bootstrap, estimated.theta.shape[1]))
    for curve in range(count):
        root = np.linalg.cholesky(estimated.covariances[curve] + 1e-14 * np.eye(free))
        moved = widening * generator.standard_normal((options.bootstrap, free)) @ root.T
        draws[curve] = coordinates.to_theta(estimated.values[curve] + moved)
    centre, levels, new = estimated.shared.draw_effects(options.bootstrap, options.seed)
    effects = np.concatenate([*levels, np.empty((1 + options.bootstrap, 0, free))], axis=1)
    return draws, centre, effects, new * max(widening, 1.0)


def _discrepancy(rows: FitRows, per_log: float, freedom: int) -> dict[str, Any]:
    low, high = log_ranges(log_sizes(rows.variables))
    ranges = [[float(a), float(b)] for a, b in zip(low, high)]
    return {"per_log": per_log, "freedom": max(freedom, 1), "ranges": ranges, "windows": freedom}


def _record(
    rows: FitRows,
    curve: int,
    estimated: PooledEstimate,
    draws: np.ndarray,
    law: Law,
    level: float,
    per_log: float,
    freedom: int,
) -> dict[str, Any]:
    """What a fit records of one curve."""
    assert rows.curve is not None
    own = rows.subset(rows.curve == curve)
    used = estimated.weights[curve] > 0
    residuals = estimated.residuals[curve, used]
    data = {**describe_rows(own, _MOST_RECORDED), "discrepancy": _discrepancy(own, per_log, freedom)}
    status = "ok"
    if len(draws):
        low, high = quantiles(draws, level)
        wide = [not high[i] <= _WIDEST_EXPONENT * low[i] for i, p in enumerate(law.parameters) if p.kind == "exponent"]
        status = "not_identifiable" if any(wide) else status
    size = robust_scale(residuals, 0)
    if status == "ok" and size > 0.25:
        status = "poor_fit"
    fitted = np.exp(estimated.problem.target[curve, used] - residuals)
    misses = np.exp(estimated.problem.target[curve, used]) - fitted
    scores = {
        "log_rmse": float(np.sqrt(np.mean(residuals**2))),
        "rmse": float(np.sqrt(np.mean(misses**2))) / abs(rows.scale.factor),
        "aicc": float("nan"),
        "n_rows": len(own.target),
        "n_configurations": own.n_configurations,
    }
    return {"status": status, "scores": scores, "data": data}


def _judge(
    statuses: Sequence[str],
    open_exponents: Sequence[str],
    residual: float,
    rows: FitRows,
    widening: float,
    per_log: float,
) -> tuple[str, list[dict]]:
    """The status of a pooled fit and its notes; `open_exponents` have a centre with a wide interval."""
    count = {name: statuses.count(name) for name in dict.fromkeys(statuses)}
    described = ", ".join(f"{name} {number}" for name, number in count.items())
    text = f"{len(statuses)} curves by {listing(rows.pool)} share a distribution; their statuses: {described}"
    notes = [note("pooled", "info", text)]
    text = "cut short and compared with their other rows, the curves call for intervals "
    text += f"{widening:.2f} times the posterior's and an error of {format_percent(per_log, 2)} per factor of e beyond"
    notes.append(note("pool_calibration", "info", text))
    if rows.cluster is not None:
        text = f"rows that share their luck by {rows.cluster_name} count as independent within a curve"
        notes.append(note("pool_clusters", "warn", text))
    if residual > 0.25:
        text = f"the law typically misses by {format_percent(residual)} of the value: do not plan with it"
        return "poor_fit", [*notes, note("large_residuals", "error", text)]
    if open_exponents:
        text = f"these curves do not determine the centre of {listing(open_exponents)}: add curves, or larger sizes"
        return "not_identifiable", [*notes, note("not_identifiable", "error", text)]
    return "ok", notes


def fit_pooled_table(table: "Table", law: str | Law, row_filter: RowFilter, options: FitOptions) -> LawFit:
    """`fit_law` with pool=, on a loaded table."""
    if law == "auto":
        return with_compute(fit_best_pooled(table, row_filter, options), table)
    selected = resolve_law(law, options.supervised)
    fit = fit_pooled(select_rows(table, selected, row_filter), selected, options)
    return with_compute(fit, table)


def fit_best_pooled(table: "Table", row_filter: RowFilter, options: FitOptions) -> LawFit:
    """law="auto" with pool=: the law, or the mean of laws, that predicts the rows beyond cut curves best."""
    from hf_scaling.fitting.selection import candidates_of, with_stage

    if options.fixed or options.tied:
        raise InputError("fixed and tied name parameters of one law: they cannot be used with law='auto'")
    row_filter = with_stage(table, row_filter)
    candidates, row_filter = candidates_of(table, row_filter)
    found: dict[str, tuple[FitRows, PooledEstimate, list[Cut]]] = {}
    for name, law in candidates.items():
        rows = select_rows(table, law, row_filter)
        _check(rows, law, options)
        estimated = estimate_pooled(rows, law, options)
        found[name] = rows, estimated, cut_curves(estimated)
    # Mean over cuts of the root mean square miss; infinite where no curve could be cut.
    errors = {}
    for name, (_, _, cuts) in found.items():
        misses = [float(np.sqrt(np.mean(cut.miss**2))) for cut in cuts]
        errors[name] = float(np.mean(misses)) if misses and np.isfinite(misses).all() else float("inf")
    best = min(errors, key=lambda name: (errors[name], len(candidates[name].parameters)))
    names = [name for name in errors if errors[name] <= _CLOSE * errors[best]] if options.combine else [best]
    members = []
    for name in names:
        rows, estimated, cuts = found[name]
        members.append(_to_fit(rows, candidates[name], options, estimated, *_calibrate(cuts)))
    listed = ", ".join(f"{name} {errors[name]:.3g}" for name in sorted(errors, key=lambda name: errors[name]))
    if len(members) == 1:
        text = f"{best}: the smallest log RMSE beyond curves cut short: {listed}"
        return replace(members[0], notes=[*members[0].notes, note("chosen", "info", text)])
    text = f"the mean of {', '.join(names)}, equally weighted; log RMSE beyond curves cut short: {listed}"
    notes = [{**n, "text": f"{member.law}: {n['text']}"} for member in members for n in member.notes]
    first = next(member for member in members if member.law == best)
    return replace(
        first,
        law="mixture",
        params={f"{m.law}.{name}": value for m in members for name, value in m.params.items()},
        intervals={f"{m.law}.{name}": ends for m in members for name, ends in m.intervals.items()},
        notes=[*notes, note("combined", "info", text)],
        settings={**first.settings, "carried": 0.0},
        definition=None,
        draws=np.empty((0, 0)),
        members=tuple(members),
        weights={member.law: 1 / len(members) for member in members},
        pooled=None,
    )
