"""What is doubtful about a fit: its status, and a note for each finding.

A fit always gives numbers. An exponent is called identified only if its 95 % profile interval spans at most a factor
of three and stays off its bounds: past that, extrapolations come from the design, not from the data.
"""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting.clusters import ClusterEffects, cluster_notes
from hf_scaling.fitting.columns import note
from hf_scaling.fitting.discrepancy import misfit
from hf_scaling.fitting.estimate import Estimate, hat_basis, robust_scale
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.rows import FitRows, neighbours_along
from hf_scaling.fitting.solver import Objective, minimise
from hf_scaling.text import format_number, format_percent

# Extrapolations are compared at this multiple of the largest sizes measured.
_FAR = 10.0
# Limit on the memory of the fits that leave out a configuration: configurations times rows.
_LARGEST_BATCH = 4_000_000
# The widest 95 % profile interval, as a ratio of its ends, with which an exponent counts as identified.
_WIDEST = 3.0
# Shares of failed refits above which a fit is not ok, and factors between the ends of an interval that is open.
_MOST_FAILED, _OPEN = 0.1, 100.0
# Residuals, of the value or the target's span, of a table that the law meets exactly.
_EXACT = 1e-9
# Multiples of an exponent's estimate at which its profile is computed.
_STEPS = 3.0 ** np.array([-1.0, -0.75, -0.5, -0.3, -0.15, 0.15, 0.3, 0.5, 0.75, 1.0])


@dataclass(frozen=True)
class Refits:
    """What the bootstrap gave.

    Attributes:
        draws: (B, P) the law's parameters of every refit.
        failed: Share of refits that did not converge.
        level: Level of the intervals.
    """

    draws: np.ndarray
    failed: float
    level: float


def judge(
    estimate: Estimate,
    effects: ClusterEffects | None = None,
    refits: Refits | None = None,
    identification: list[dict] | None = None,
) -> tuple[str, list[dict]]:
    """The status of a fit, the first that holds of not_identifiable, at_bound, poor_fit and ok, and all notes.

    Args:
        estimate: The fit.
        effects: What the rows of each cluster share; None where rows are independent.
        refits: The bootstrap's; None without one.
        identification: `identification_notes` of the estimate, where they are known already.
    """
    unidentified = design_notes(estimate.rows)
    unidentified += identification_notes(estimate, effects) if identification is None else identification
    if effects is not None:
        unidentified += cluster_notes(estimate, effects)
    bounds, misfit = bound_notes(estimate), misfit_notes(estimate, effects)
    influence = leave_one_out_notes(estimate, refits)
    if refits is not None:
        of_draws = refit_notes(estimate, refits)
        unidentified += [n for n in of_draws if n["code"] != "interval_at_bound"]
        bounds += [n for n in of_draws if n["code"] == "interval_at_bound"]
    notes = [*unidentified, *bounds, *zero_notes(estimate)]
    if any(n["code"] == "not_identifiable" for n in unidentified):
        notes += trade_off_notes(estimate)
    notes += misfit + replicate_notes(estimate) + influence + objective_notes(estimate)
    if not estimate.converged:
        notes.append(note("not_converged", "warn", "the solver did not converge along the flattest direction"))
    if any(n["grade"] == "error" for n in unidentified + influence):
        return "not_identifiable", notes
    if any(n["grade"] == "warn" for n in bounds):
        return "at_bound", notes
    return "poor_fit" if any(n["grade"] == "error" for n in misfit) else "ok", notes


def design_notes(rows: FitRows) -> list[dict]:
    """What the sizes and targets alone make impossible (error) or hard (warn)."""
    notes = []
    if np.ptp(rows.target) <= 1e-12 * np.abs(rows.target).max():
        notes.append(note("constant_target", "error", f"{rows.target_name} is the same in every row: nothing to fit"))
    levels = {name: len(np.unique(values)) for name, values in rows.variables.items()}
    for name, count in levels.items():
        if count < 3:
            text = (
                f"{rows.columns[name]} takes {count} value{'s' * (count > 1)}: a power and its floor need at least 3"
            )
            notes.append(note("too_few_levels", "error" if count == 1 else "warn", text))
    varied = [name for name, count in levels.items() if count > 1]
    with np.errstate(divide="ignore"):
        logs = {name: np.log(np.maximum(rows.variables[name], 1e-12)) for name in varied}
    for i, one in enumerate(varied):
        for two in varied[i + 1 :]:
            if abs(np.corrcoef(logs[one], logs[two])[0, 1]) > 0.999:
                columns = f"{rows.columns[one]} and {rows.columns[two]}"
                text = f"{columns} move together: their effects cannot be separated"
                notes.append(note("confounded", "error", text))
    return notes


def identification_notes(estimate: Estimate, effects: ClusterEffects | None = None) -> list[dict]:
    """Errors for too few configurations and for each exponent that the rows do not determine."""
    notes, count = [], estimate.rows.n_configurations
    if count <= len(estimate.u):
        sizes, do = (f"{count} distinct sizes", "do") if count > 1 else ("one size", "does")
        text = f"{sizes}, however often repeated, {do} not determine {len(estimate.u)} parameters"
        notes.append(note("too_few_configurations", "error", text))
    for profile in profile_parameters(estimate, effects):
        if profile.kind == "exponent" and not profile.identified:
            text = f"these runs do not determine {profile.describe()}: add larger and smaller sizes, or seeds"
            notes.append(note("not_identifiable", "error", text))
        elif profile.kind != "exponent" and profile.high is None:
            text = f"these runs give no upper end to {profile.describe()}: add runs at which it matters, or fix it"
            notes.append(note("open_parameter", "error", text))
        elif profile.kind != "exponent" and profile.low is None:
            text = f"these runs give no lower end to {profile.describe()}: the law without it may do"
            notes.append(note("open_parameter", "info", text))
    return notes


def refit_notes(estimate: Estimate, refits: Refits) -> list[dict]:
    """What the draws themselves cannot say: failed refits, parameters without an interval, rows met exactly."""
    size = np.abs(estimate.residuals).max()
    if size <= _EXACT * (1.0 if estimate.problem.objective.is_log else np.ptp(estimate.rows.target)):
        return [note("exact", "info", "the law meets every row exactly: intervals have no width")]
    failed = 1 - (1 - refits.failed) * float(np.isfinite(refits.draws).all(axis=1).mean())
    notes = []
    if failed > _MOST_FAILED:
        text = f"{format_percent(failed)} of the refits did not converge: intervals are not to be trusted"
        notes.append(note("draws_not_converged", "error", text))
    elif failed > 0.01:
        notes.append(note("draws_not_converged", "info", f"{format_percent(failed)} of the refits did not converge"))
    low, high = quantiles(refits.draws, refits.level, estimate.theta)
    coordinates = estimate.problem.coordinates
    for place in np.flatnonzero(coordinates.spread.any(axis=1)):
        name, column = estimate.law.names[place], int(np.argmax(coordinates.spread[place]))
        width = high[place] - low[place]
        if not width > 1e-12 * abs(estimate.theta[place]):
            if estimate.held[column]:
                text = f"{name} is on its bound in the fit and in its whole interval: read it as a limit"
                notes.append(note("interval_at_bound", "warn", text))
            else:
                notes.append(note("no_interval", "error", f"{name} has no interval: its refits do not move, or fail"))
        elif _kinds(estimate)[name] in ("scale", "shape") and high[place] > _OPEN * max(low[place], 0.0) > 0:
            ends = f"{format_number(low[place])} to {format_number(high[place])}"
            text = f"the interval of {name}, {ends}, spans more than a factor of {_OPEN:g}: these runs hardly show it"
            notes.append(note("wide_interval", "warn", text))
    return notes


@dataclass(frozen=True)
class Profile:
    """A parameter's 95 % profile interval.

    An end that the profile did not reach within a factor of 3 (of a scale or shape, 10) is None.
    """

    name: str
    kind: str
    value: float
    low: float | None
    high: float | None

    @property
    def identified(self) -> bool:
        """Whether both ends were reached and lie within a factor of three of each other."""
        return self.low is not None and self.high is not None and self.high <= _WIDEST * self.low

    def describe(self) -> str:
        """The estimate and its interval as part of a sentence."""
        if self.low is None and self.high is None:
            factor = "three" if self.kind == "exponent" else "ten"
            return f"{self.name} = {self.value:.3g} (one {factor} times smaller or larger fits about as well)"
        low = "no lower end" if self.low is None else f"{self.low:.3g}"
        high = "no upper end" if self.high is None else f"{self.high:.3g}"
        return f"{self.name} = {self.value:.3g} (95 % profile interval: {low} to {high})"


def profile_parameters(estimate: Estimate, effects: ClusterEffects | None = None) -> list[Profile]:
    """Profile the loss over each free exponent, scale and shape, all in one batch; clusters lower its rise.

    A scale or a shape that is held by a bound, or so small that the law is as if it were 0, is left out.
    """
    from scipy.special import stdtrit

    coordinates, kinds = estimate.problem.coordinates, _kinds(estimate)
    exponents = [
        i
        for i, name in enumerate(coordinates.names)
        if kinds[name] == "exponent" or (kinds[name] in ("scale", "shape") and _is_felt(estimate, i))
    ]
    if not exponents:
        return []
    count = len(exponents) * len(_STEPS)
    starts = np.repeat(estimate.u[None], count, axis=0)
    low, high = (np.repeat(bound[None], count, axis=0) for bound in (coordinates.low, coordinates.high))
    batches = [slice(k * len(_STEPS), (k + 1) * len(_STEPS)) for k in range(len(exponents))]
    for i, batch in zip(exponents, batches):
        steps = estimate.u[i] * _STEPS
        if coordinates.is_log[i]:
            # From a tenth to ten times.
            steps = estimate.u[i] + np.log(_STEPS) * np.log(10.0) / np.log(3.0)
        values = np.clip(steps, coordinates.low[i], coordinates.high[i])
        starts[batch, i] = low[batch, i] = high[batch, i] = values
    solved = minimise(estimate.problem, starts, low, high, iterations=40, tolerance=1e-6)
    root = np.sqrt(2 * np.maximum(solved.cost - estimate.cost, 0) / max(estimate.variance, 1e-24))
    freedom, rise = np.full(len(estimate.u), float(estimate.freedom)), np.ones(len(estimate.u))
    if effects is not None:
        slopes = estimate.slopes()
        independent = estimate.variance * np.diag(np.linalg.pinv(slopes.T @ slopes, rcond=1e-12, hermitian=True))
        clustered, freedom = effects.variance_of(slopes)
        rise = np.sqrt(np.minimum(independent / clustered, 1.0))
    profiles, middle = [], len(_STEPS) // 2
    for i, batch in zip(exponents, batches):
        value, values, drop = float(estimate.u[i]), starts[batch, i], root[batch] * rise[i]
        critical = float(stdtrit(freedom[i], 0.975))
        below = _profile_end(value, values[:middle][::-1], drop[:middle][::-1], critical)
        above = _profile_end(value, values[middle:], drop[middle:], critical)
        kind = kinds[coordinates.names[i]]
        if coordinates.is_log[i]:
            value = float(np.exp(value))
            below, above = (None if end is None else float(np.exp(end)) for end in (below, above))
        profiles.append(Profile(coordinates.names[i], kind, value, below, above))
    return profiles


def _is_felt(estimate: Estimate, column: int) -> bool:
    """Whether a scale or shape is off its bounds and moves a fitted value."""
    coordinates = estimate.problem.coordinates
    if estimate.held[column] or not coordinates.is_log[column]:
        return False
    without = estimate.u.copy()
    without[column] = max(coordinates.low[column], -300.0)
    values = estimate.problem.evaluator.value(coordinates.to_theta(np.stack([estimate.u, without])))
    moved = np.abs(values[1] - values[0]).max()
    return not moved <= 1e-6 * np.abs(values[0]).max()


def _profile_end(value: float, values: np.ndarray, root: np.ndarray, critical: float) -> float | None:
    """Where the root of the profile reaches its critical value, walking outward from the estimate."""
    before, root_before = value, 0.0
    for here, root_here in zip(values, root):
        # Points clipped to a bound repeat it: nothing lies beyond.
        if here == before:
            return None
        if root_here >= critical:
            share = (critical - root_before) / (root_here - root_before)
            return float(before + share * (here - before))
        before, root_before = here, root_here
    return None


def _kinds(estimate: Estimate) -> dict[str, str]:
    return {parameter.name: parameter.kind for parameter in estimate.law.parameters}


def bound_notes(estimate: Estimate) -> list[dict]:
    """Notes on parameters that ended on a bound: warn where that makes the status at_bound."""
    coordinates, kinds, notes = estimate.problem.coordinates, _kinds(estimate), []
    for i in np.flatnonzero(estimate.held):
        name = coordinates.names[i]
        upper = bool(estimate.u[i] >= coordinates.high[i] - 1e-9)
        if kinds[name] == "floor" and upper:
            text = (
                f"{name} ended at the smallest value measured plus two standard errors: these runs are on the floor "
            )
            notes.append(note("floor_reached", "warn", text + "already, or do not show one"))
        elif kinds[name] == "floor":
            notes.append(note("floor_zero", "info", f"{name} is 0: these runs show no floor; larger ones may"))
        elif kinds[name] != "coefficient" or upper:
            # A coefficient of 0 is among `zero_notes`, which also finds those that are as good as 0.
            value = estimate.theta[estimate.law.names.index(name)]
            end = "upper" if upper else "lower"
            text = f"{name} ended on its {end} bound {value:.4g}: the rows would move it further; read it as a limit"
            notes.append(note("at_bound", "warn", text))
    return notes


def zero_notes(estimate: Estimate) -> list[dict]:
    """Notes on coefficients whose term adds nothing to any fitted value."""
    coordinates, kinds, notes = estimate.problem.coordinates, _kinds(estimate), []
    fitted = estimate.problem.objective.unscale(estimate.fitted)
    for i, name in enumerate(coordinates.names):
        if kinds[name] != "coefficient" or not coordinates.is_log[i]:
            continue
        theta = estimate.theta.copy()
        theta[estimate.law.names.index(name)] = 0.0
        with np.errstate(all="ignore"):
            without = estimate.problem.evaluator.value(theta[None])[0]
        if np.isfinite(without).all() and np.abs(without / fitted - 1).max() < 1e-6:
            notes.append(note("coefficient_zero", "warn", f"{name} is practically 0: its term adds nothing here"))
    return notes


def trade_off_notes(estimate: Estimate) -> list[dict]:
    """Which parameters can move together with little change of fit, from the flattest direction of the curvature."""
    slopes = estimate.slopes()
    scale = np.sqrt((slopes**2).sum(axis=0))
    kept = np.flatnonzero(scale > 0)
    if len(kept) < 2:
        return []
    _, values, directions = np.linalg.svd(slopes[:, kept] / scale[kept], full_matrices=False)
    condition = float((values[0] / max(values[-1], 1e-300)) ** 2)
    loading = np.abs(directions[-1])
    names = [estimate.problem.coordinates.names[kept[i]] for i in np.argsort(-loading) if loading[i] > 0.3]
    if condition < 1e3 or len(names) < 2:
        return []
    text = f"{', '.join(names)} can move together with little change of fit (condition number {condition:.2g})"
    return [note("trade_off", "info", text)]


def misfit_notes(estimate: Estimate, effects: ClusterEffects | None = None) -> list[dict]:
    """Notes on configurations off the law by more than their replicates scatter, and on residuals with a shape."""
    if estimate.variance < 1e-16:
        return []
    notes = lack_of_fit_notes(estimate)
    size = robust_scale(estimate.residuals, len(estimate.u))
    if estimate.problem.objective.is_log and size > 0.25:
        text = f"the law typically misses by {format_percent(size)} of the value: do not plan with it"
        notes.append(note("large_residuals", "error", text))
    if effects is None:
        notes += shared_luck_notes(estimate)
    structured = structured_columns(estimate, effects)
    if structured:
        text = (
            f"residuals rise and fall along {', '.join(structured)} instead of scattering: another law may fit better"
        )
        notes.append(note("structured_residuals", "warn", text))
    return notes


def lack_of_fit_notes(estimate: Estimate) -> list[dict]:
    """An error where configurations are further from the law than replicates explain (F test, 0.1 %)."""
    from scipy.special import fdtrc

    rows, residual = estimate.rows, estimate.weighted_residuals
    counts = np.bincount(rows.configuration)
    means = np.bincount(rows.configuration, residual) / counts
    pure = ((residual - means[rows.configuration]) ** 2).sum()
    free_pure = len(residual) - len(counts)
    free_lack = len(counts) - len(estimate.u)
    if free_pure < 3 or free_lack < 1 or pure <= 0:
        return []
    ratio = (counts * means**2).sum() / free_lack / (pure / free_pure)
    if fdtrc(free_lack, free_pure, ratio) >= 0.001:
        return []
    text = (
        f"configurations are {np.sqrt(ratio):.1f} times further from the law than their replicates from each other "
        f"(F = {ratio:.1f}): the law has the wrong shape here"
    )
    return [note("lack_of_fit", "error", text)]


def structured_columns(estimate: Estimate, effects: ClusterEffects | None = None) -> list[str]:
    """Columns along which neighbouring configurations' residuals agree far more than by chance, in sign or in size."""
    rows, residual = estimate.rows, estimate.weighted_residuals
    if effects is not None:
        residual = effects.within * effects.root_weights
    limit = 3 * max(robust_scale(residual, len(estimate.u)), 1e-300)
    residual = np.clip(residual, -limit, limit)
    basis, structured = hat_basis(estimate.slopes()), []
    for name in rows.variables:
        first, second = neighbours_along(rows, name)
        pairs = residual[first] * residual[second]
        if len(pairs) < 8:
            continue
        in_sign = pairs.mean() / (np.mean(residual**2) / np.sqrt(len(pairs))) > 4
        # Of few rows the products cannot stand out; in 750 planted curves of a true law this reached 5.1.
        in_size = effects is None and misfit(residual, rows, basis, along=name) > 6
        if in_sign or in_size:
            structured.append(rows.columns[name])
    return structured


def shared_luck_notes(estimate: Estimate) -> list[dict]:
    """Note `shared_luck` where rows of one level of a size miss the law together (F test over the levels, 0.1 %).

    So do checkpoints of one run, which no column names, and a law of the wrong shape.
    """
    from scipy.special import fdtrc

    rows, notes = estimate.rows, []
    residual = estimate.weighted_residuals
    limit = 3 * max(robust_scale(residual, len(estimate.u)), 1e-300)
    residual = np.clip(residual, -limit, limit)
    for name, values in rows.variables.items():
        level = np.unique(values, return_inverse=True)[1].reshape(-1)
        counts = np.bincount(level)
        freedom = len(level) - len(counts) - len(estimate.u)
        if len(rows.variables) < 2 or len(counts) < 3 or counts.min() < 3 or freedom < 3:
            continue
        means = np.bincount(level, residual) / counts
        between = float(counts @ means**2) / (len(counts) - 1)
        within = float(((residual - means[level]) ** 2).sum()) / freedom
        if within > 0 and fdtrc(len(counts) - 1, freedom, between / within) < 0.001:
            column = rows.columns[name]
            more = f"{np.sqrt(between / within):.1f} times more than by chance"
            remedy = (
                f"if they are checkpoints of one run, set cluster={column} (--cluster {column}) or add a column run"
            )
            text = f"rows of one {column} miss the law together, {more}: {remedy}"
            notes.append(note("shared_luck", "warn", text))
    return notes


def replicate_notes(estimate: Estimate) -> list[dict]:
    """The seed-to-seed standard deviation, and how many seeds a configuration would halve an interval."""
    repeats = replication(estimate)
    if repeats is None:
        return []
    spread, seeds, needed = repeats
    is_log = estimate.problem.objective.is_log
    unit = f"{format_percent(spread, 2)} of the value" if is_log else f"{spread:.3g}"
    if np.isinf(needed):
        advice = "no number of seeds would halve an interval: configurations miss the law by more than seeds scatter"
    else:
        advice = f"about {needed:.0f} seeds a configuration would halve an interval, against {seeds:.1f} now"
    return [note("replicates", "info", f"seed-to-seed standard deviation: {unit}; {advice}")]


def replication(estimate: Estimate) -> tuple[float, float, float] | None:
    """Seed-to-seed standard deviation, seeds a configuration, and seeds that would halve an interval.

    An interval's width follows the variance of a configuration's mean: seed variance over seeds, plus the variance of
    the law's own misfit, which does not shrink with seeds. None without repeats.
    """
    from scipy.special import fdtrc

    rows, residual = estimate.rows, estimate.residuals
    group = rows.configuration if rows.repeat is None else rows.repeat
    counts = np.bincount(group)
    free = len(residual) - len(counts)
    if free < 1:
        return None
    means = np.bincount(group, residual) / counts
    seed_variance = float(((residual - means[group]) ** 2).sum() / free)
    seeds = float(len(residual) / len(counts))
    # The variance of the means beyond what seeds explain; 0 unless it stands out (F test at 5 %).
    expected, free_lack, misfit = seed_variance / seeds, len(counts) - len(estimate.u), 0.0
    if free_lack >= 1 and expected > 0:
        total = float((means**2).sum() / free_lack)
        misfit = total - expected if fdtrc(free_lack, free, total / expected) < 0.05 else 0.0
    target = (misfit + expected) / 4
    needed = seed_variance / (target - misfit) if target > misfit else np.inf
    return float(np.sqrt(seed_variance)), seeds, float(np.ceil(needed - 1e-9))


def _far_sizes(rows: FitRows) -> dict[str, np.ndarray]:
    """Every variable at ten times its largest value; shares, which end at one, at their largest."""
    return {n: np.array([v.max() * (_FAR if v.max() > 1 else 1.0)]) for n, v in rows.variables.items()}


def leave_one_out_notes(estimate: Estimate, refits: Refits | None = None) -> list[dict]:
    """Outliers, and the configuration (or cluster) without which the far prediction moves most.

    It is an error where the prediction moves out of its own interval.
    """
    rows, problem = estimate.rows, estimate.problem
    if rows.n_configurations <= len(estimate.u) + 1:
        return []
    slopes = estimate.slopes()
    leverages = (hat_basis(slopes) ** 2).sum(axis=1)
    # That larger sizes count more says nothing of the noise.
    emphasis = 1.0 if rows.emphasis is None else np.sqrt(rows.emphasis)
    own = estimate.weighted_residuals / emphasis
    studentised = own / (max(robust_scale(own, len(estimate.u)), 1e-9) * np.sqrt(1 - np.minimum(leverages, 0.95)))
    notes = []
    outliers = np.flatnonzero(np.abs(studentised) > 5)
    for row in outliers[np.argsort(-np.abs(studentised[outliers]))][:5]:
        factor = float(np.exp(estimate.residuals[row])) if problem.objective.is_log else np.nan
        text = f"row {rows.labels[row]} is {studentised[row]:+.0f} robust standard deviations off the law"
        text += f", {factor:.2f} times the fitted value" if np.isfinite(factor) else ""
        notes.append(note("outlier", "warn", f"{text}: check the run"))
    far = estimate.law.evaluator(_far_sizes(rows))
    # All configurations left out in turn, in one batch; of very many those that move the prediction most to first
    # order.
    unit = rows.configuration if rows.cluster is None else rows.cluster
    left_out = np.arange(int(unit.max()) + 1)
    if len(left_out) * len(rows.target) > _LARGEST_BATCH:
        gradient = replace(problem, evaluator=far, target=np.zeros(1), root_weights=np.ones(1))
        towards = gradient.residuals(estimate.u[None])[1][0, :, 0] * ~estimate.held
        influence = slopes @ (np.linalg.pinv(slopes.T @ slopes, rcond=1e-12, hermitian=True) @ towards)
        moves = np.bincount(unit, influence * estimate.weighted_residuals / (1 - np.minimum(leverages, 0.95)))
        left_out = np.argsort(-np.abs(moves), kind="stable")[: max(1, _LARGEST_BATCH // (8 * len(rows.target)))]
    kept = unit[None, :] != left_out[:, None]
    without = replace(problem, root_weights=problem.root_weights * kept)
    solved = minimise(without, np.repeat(estimate.u[None], len(kept), axis=0), iterations=12, tolerance=1e-5)
    moved = far.value(problem.coordinates.to_theta(solved.u))[:, 0]
    value = far.value(estimate.theta[None])[0, 0]
    # A share of a target that may be negative means nothing: its moves are shares of its measured span.
    shift = (moved - value) / (value if (rows.target > 0).all() else np.ptp(rows.target))
    worst = int(np.argmax(np.abs(shift)))
    outside = False
    if refits is not None:
        low, high = quantiles(far.value(refits.draws)[:, 0], refits.level, value)
        outside = abs(shift[worst]) > 0.02 and not low <= moved[worst] <= high
    if abs(shift[worst]) > 0.1 or outside:
        labels = ", ".join(rows.labels[i] for i in np.flatnonzero(unit == left_out[worst])[:4])
        size = f"{100 * shift[worst]:+.0f} %"
        text = f"without row {labels} the prediction at ten times the largest scale moves by {size}"
        text += ", out of its own interval: repeat it before using the law" if outside else ""
        notes.append(note("influential", "error" if outside else "warn", text))
    return notes


def objective_notes(estimate: Estimate) -> list[dict]:
    """How far the prediction at ten times the largest scale moves with the other objectives."""
    problem = estimate.problem
    if (estimate.rows.target <= 0).any():
        return []
    far = estimate.law.evaluator(_far_sizes(estimate.rows))
    reference = far.value(estimate.theta[None])[0, 0]
    shifts = {}
    for objective in (Objective("log_mse"), Objective("mse")):
        if objective.name == problem.objective.name:
            continue
        target = objective.scale(problem.objective.unscale(problem.target))
        other = replace(problem, objective=objective, target=target)
        solved = minimise(other, estimate.u[None], iterations=60, tolerance=1e-8)
        shifts[objective.name] = far.value(problem.coordinates.to_theta(solved.u))[0, 0] / reference - 1
    worst = max(shifts.values(), key=abs)
    if not np.isfinite(worst):
        return []
    listed = ", ".join(f"{name} {100 * shift:+.1f} %" for name, shift in shifts.items())
    text = (
        f"predictions of other objectives at ten times the largest scale, against {problem.objective.name}: {listed}"
    )
    if abs(worst) > 0.1:
        return [note("objectives_differ", "warn", text)]
    return [note("objectives", "info", text)]
