"""Which parameters the rows pin down: profiles of the exponents, bounds reached, parameters that trade off.

A fit always gives numbers. An exponent is called identified only if its 95 % profile interval spans at most a factor
of three and stays off its bounds: past that, extrapolations are the design's, not the data's.
"""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.fitting.bootstrap import leverages
from hf_scaling.fitting.engine import Estimate, robust_scale
from hf_scaling.fitting.rows import FitRows, note
from hf_scaling.fitting.solver import Objective, minimise

# Ten times the largest sizes measured: where extrapolations are compared throughout.
FAR = 10.0


def design_notes(rows: FitRows) -> tuple[list[dict], bool]:
    """Notes on the design alone, and whether it leaves a variable's effect without footing."""
    notes, hopeless = [], False
    if np.ptp(rows.target) <= 1e-12 * np.abs(rows.target).max():
        notes.append(note("constant_target", "error", f"{rows.target_name} is the same in every row: nothing to fit"))
        hopeless = True
    levels = {name: len(np.unique(values)) for name, values in rows.variables.items()}
    for name, count in levels.items():
        if count < 3:
            column = rows.columns[name]
            text = f"{column} takes {count} value{'s' * (count > 1)}: a power and its floor need at least 3"
            notes.append(note("too_few_levels", "error" if count == 1 else "warn", text))
            hopeless |= count == 1
    confounded = _confounded(rows, [n for n, count in levels.items() if count > 1])
    for one, two in confounded:
        text = f"{rows.columns[one]} and {rows.columns[two]} move together: their effects cannot be told apart"
        notes.append(note("confounded", "error", text))
    return notes, hopeless or bool(confounded)


def _confounded(rows: FitRows, names: list[str]) -> list[tuple[str, str]]:
    """Pairs of variables whose logarithms are collinear over the rows."""
    with np.errstate(divide="ignore"):
        logs = {n: np.log(np.maximum(rows.variables[n], 1e-12)) for n in names}
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return [(a, b) for a, b in pairs if abs(np.corrcoef(logs[a], logs[b])[0, 1]) > 0.999]


def lack_of_fit(estimate: Estimate) -> tuple[list[dict], bool]:
    """Whether configurations sit off the law by more than their replicates scatter, or residuals show a shape.

    Returns:
        Notes, and whether the verdict is poor_fit.
    """
    if estimate.variance < 1e-16:
        return [], False
    notes = _against_replicates(estimate)
    size = robust_scale(estimate.residuals, len(estimate.u))
    if estimate.problem.objective.is_log and size > 0.25:
        text = f"the law misses by {100 * size:.0f} % of the value, typically: do not plan with it"
        notes.append(note("large_residuals", "error", text))
    waves = _waves(estimate)
    if waves:
        text = (
            f"residuals rise and fall along {', '.join(waves)} instead of scattering: another shape would fit better"
        )
        notes.append(note("structured_residuals", "warn", text))
    return notes, any(n["grade"] == "error" for n in notes)


def _against_replicates(estimate: Estimate) -> list[dict]:
    from scipy.special import fdtrc

    rows, residual = estimate.rows, estimate.residuals * estimate.problem.root_weights
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
        f"configurations lie {np.sqrt(ratio):.1f} times further from the law than their replicates from each other "
        f"(F = {ratio:.1f}): the law's shape is wrong here"
    )
    return [note("lack_of_fit", "error", text)]


def _waves(estimate: Estimate) -> list[str]:
    """Columns along which neighbouring configurations' residuals agree in sign far more than chance would."""
    rows = estimate.rows
    residual = estimate.residuals * estimate.problem.root_weights
    residual = np.clip(residual, *(np.array([-3, 3]) * max(robust_scale(residual, len(estimate.u)), 1e-300)))
    found = []
    for name, values in rows.variables.items():
        others = [v for n, v in rows.variables.items() if n != name]
        order = np.lexsort([values, *others])
        neighbours = np.ones(len(order) - 1, dtype=bool)
        for other in others:
            neighbours &= np.diff(other[order]) == 0
        pairs = residual[order][:-1][neighbours] * residual[order][1:][neighbours]
        if len(pairs) >= 8 and pairs.mean() / (np.mean(residual**2) / np.sqrt(len(pairs))) > 4:
            found.append(rows.columns[name])
    return found


def far_sizes(rows: FitRows) -> dict[str, np.ndarray]:
    """Every variable at ten times its largest value; shares that end at one stay where they are."""
    return {n: np.array([v.max() * (FAR if v.max() > 1 else 1.0)]) for n, v in rows.variables.items()}


def other_objectives(estimate: Estimate) -> list[dict]:
    """Refit under the other objectives and say how far the prediction at ten times the largest scale moves."""
    here = estimate.problem
    far = estimate.law.evaluator(far_sizes(estimate.rows))
    reference = far.value(estimate.theta[None])[0, 0]
    shifts = {}
    for objective in (Objective("log_mse"), Objective("mse")):
        if objective.name == here.objective.name:
            continue
        target = objective.scale(here.objective.unscale(here.target))
        problem = replace(here, objective=objective, target=target)
        solved = minimise(problem, estimate.u[None], iterations=60, tolerance=1e-8)
        shifts[objective.name] = far.value(here.coordinates.to_theta(solved.u))[0, 0] / reference - 1
    worst = max(shifts.values(), key=abs)
    if not np.isfinite(worst):
        return []
    words = ", ".join(f"{name} {100 * shift:+.1f} %" for name, shift in shifts.items())
    text = f"at ten times the largest scale other objectives predict, against {here.objective.name}: {words}"
    return [
        note("objectives_differ" if abs(worst) > 0.1 else "objectives", "warn" if abs(worst) > 0.1 else "info", text)
    ]


def leave_one_out(estimate: Estimate) -> list[dict]:
    """Outliers, and configurations that alone move a prediction (leave-one-configuration-out)."""
    rows, problem = estimate.rows, estimate.problem
    scale = max(estimate.scale, 1e-9)
    studentised = (
        estimate.residuals * problem.root_weights / (scale * np.sqrt(1 - np.minimum(leverages(estimate), 0.95)))
    )
    groups = rows.n_configurations
    if groups <= len(estimate.u) + 1:
        return []
    far = estimate.law.evaluator(far_sizes(rows))
    moved = far.value(problem.coordinates.to_theta(_refits_without(estimate)))[:, 0]
    shift = moved / far.value(estimate.theta[None])[0, 0] - 1
    notes = []
    outliers = np.flatnonzero(np.abs(studentised) > 5)
    for row in outliers[np.argsort(-np.abs(studentised[outliers]))][:5]:
        factor = float(np.exp(estimate.residuals[row])) if problem.objective.is_log else np.nan
        size = (
            f"{factor:.2f} times the fitted value"
            if np.isfinite(factor)
            else f"{studentised[row]:+.1f} deviations off"
        )
        deviations = f"{abs(studentised[row]):.0f} robust standard deviations"
        text = f"row {rows.labels[row]} is {size} ({deviations}): look at the run"
        notes.append(note("outlier", "warn", text))
    worst = int(np.argmax(np.abs(shift)))
    if abs(shift[worst]) > 0.1:
        labels = ", ".join(rows.labels[i] for i in np.flatnonzero(rows.configuration == worst)[:4])
        text = (
            f"without row {labels} the prediction at ten times the largest scale moves by {100 * shift[worst]:+.0f} %"
        )
        notes.append(note("influential", "warn", text))
    return notes


def _refits_without(estimate: Estimate) -> np.ndarray:
    """(G, F) solutions with each configuration left out in turn."""
    kept = estimate.rows.configuration[None, :] != np.arange(estimate.rows.n_configurations)[:, None]
    problem = replace(estimate.problem, root_weights=estimate.problem.root_weights * kept)
    start = np.repeat(estimate.u[None], len(kept), axis=0)
    return minimise(problem, start, iterations=12, tolerance=1e-5).u


def replicate_notes(estimate: Estimate) -> list[dict]:
    """The seed-to-seed standard deviation and how many seeds a configuration would halve an interval."""
    found = replication(estimate)
    if found is None:
        return []
    spread, seeds, needed = found
    unit = f"{100 * spread:.2g} % of the value" if estimate.problem.objective.is_log else f"{spread:.3g}"
    if np.isinf(needed):
        way = "no number of seeds would halve an interval: configurations differ from the law by more than seeds do"
    else:
        way = f"about {needed:.0f} seeds a configuration would halve an interval, against {seeds:.1f} now"
    return [note("replicates", "info", f"seed-to-seed standard deviation: {unit}; {way}")]


def replication(estimate: Estimate) -> tuple[float, float, float] | None:
    """Seed-to-seed standard deviation, seeds a configuration now, seeds that would halve an interval.

    None without repeats.

    An interval's width follows the variance of a configuration's mean: seed variance over seeds, plus what the law
    itself misses by. The second part does not shrink with seeds.
    """
    rows, residual = estimate.rows, estimate.residuals
    counts = np.bincount(rows.configuration)
    free = len(residual) - len(counts)
    if free < 1:
        return None
    means = np.bincount(rows.configuration, residual) / counts
    seed_variance = float(((residual - means[rows.configuration]) ** 2).sum() / free)
    seeds = float(len(residual) / len(counts))
    misfit = _misfit(means, seed_variance / seeds, len(counts) - len(estimate.u), free)
    target = (misfit + seed_variance / seeds) / 4
    needed = seed_variance / (target - misfit) if target > misfit else np.inf
    return float(np.sqrt(seed_variance)), seeds, float(np.ceil(needed - 1e-9))


def _misfit(means: np.ndarray, expected: float, free_lack: int, free_pure: int) -> float:
    """The variance of configurations' means beyond what seeds explain; 0 unless it stands out (F test at 5 %)."""
    from scipy.special import fdtrc

    if free_lack < 1 or expected <= 0:
        return 0.0
    total = float((means**2).sum() / free_lack)
    return total - expected if fdtrc(free_lack, free_pure, total / expected) < 0.05 else 0.0


# The widest 95 % profile interval, as a ratio of its ends, at which an exponent still counts as identified.
_WIDEST = 3.0
_STEPS = 3.0 ** np.array([-1.0, -0.75, -0.5, -0.3, -0.15, 0.15, 0.3, 0.5, 0.75, 1.0])


@dataclass(frozen=True)
class Profile:
    """An exponent's 95 % profile interval; an end the profile did not reach within a factor of 3 is None."""

    name: str
    value: float
    low: float | None
    high: float | None

    @property
    def identified(self) -> bool:
        """Whether both ends were reached and lie within a factor of three of each other."""
        return self.low is not None and self.high is not None and self.high <= _WIDEST * self.low

    def in_words(self) -> str:
        """The estimate and its interval as a sentence part."""
        if self.low is None and self.high is None:
            return f"{self.name} = {self.value:.3g} (a third of it or three times as much fit about as well)"
        low = "no lower end" if self.low is None else f"{self.low:.3g}"
        high = "no upper end" if self.high is None else f"{self.high:.3g}"
        return f"{self.name} = {self.value:.3g} (95 % profile interval: {low} to {high})"


def profile_exponents(estimate: Estimate) -> list[Profile]:
    """Profile the loss over each free exponent, all refits in one batch."""
    coordinates = estimate.problem.coordinates
    kinds = {p.name: p.kind for p in estimate.law.parameters}
    exponents = [i for i, name in enumerate(coordinates.names) if kinds[name] == "exponent"]
    if not exponents:
        return []
    starts, low, high = _profile_batch(estimate, exponents)
    solved = minimise(estimate.problem, starts, low, high, iterations=40, tolerance=1e-6)
    drop = 2 * np.maximum(solved.cost - estimate.cost, 0) / max(estimate.variance, 1e-24)
    return [
        _profile(
            estimate, i, starts[k * len(_STEPS) : (k + 1) * len(_STEPS), i], drop[k * len(_STEPS) :][: len(_STEPS)]
        )
        for k, i in enumerate(exponents)
    ]


def _profile_batch(estimate: Estimate, exponents: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    coordinates = estimate.problem.coordinates
    count = len(exponents) * len(_STEPS)
    starts = np.repeat(estimate.u[None], count, axis=0)
    low, high = (np.repeat(bound[None], count, axis=0) for bound in (coordinates.low, coordinates.high))
    for k, i in enumerate(exponents):
        rows = slice(k * len(_STEPS), (k + 1) * len(_STEPS))
        values = np.clip(estimate.u[i] * _STEPS, coordinates.low[i], coordinates.high[i])
        starts[rows, i] = low[rows, i] = high[rows, i] = values
    return starts, low, high


def _profile(estimate: Estimate, i: int, values: np.ndarray, drop: np.ndarray) -> Profile:
    from scipy.special import stdtrit

    critical = float(stdtrit(estimate.freedom, 0.975))
    root = np.sqrt(drop)
    middle = len(_STEPS) // 2
    value = float(estimate.u[i])
    low = _crossing(value, values[:middle][::-1], root[:middle][::-1], critical)
    high = _crossing(value, values[middle:], root[middle:], critical)
    return Profile(estimate.problem.coordinates.names[i], value, low, high)


def _crossing(value: float, values: np.ndarray, root: np.ndarray, critical: float) -> float | None:
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


def bound_notes(estimate: Estimate) -> tuple[list[dict], bool]:
    """Notes on parameters that ended on a bound, and whether one of them makes the verdict at_bound."""
    coordinates = estimate.problem.coordinates
    kinds = {p.name: p.kind for p in estimate.law.parameters}
    notes, at_bound = [], False
    for i in np.flatnonzero(estimate.held):
        name, kind = coordinates.names[i], kinds[coordinates.names[i]]
        upper = estimate.u[i] >= coordinates.high[i] - 1e-9
        if kind == "floor":
            notes.append(_floor_note(name, upper, estimate))
            at_bound |= bool(upper)
            continue
        if kind == "coefficient" and not upper:
            # Said by zero_notes, which also knows a coefficient that is as good as zero.
            continue
        value = estimate.theta[[p.name for p in estimate.law.parameters].index(name)]
        end = "upper" if upper else "lower"
        text = f"{name} ended on its {end} bound {value:.4g}: the rows would move it further; read it as a limit"
        notes.append(note("at_bound", "warn", text))
        at_bound = True
    return notes, at_bound


def _floor_note(name: str, upper: bool, estimate: Estimate) -> dict:
    if upper:
        text = (
            f"{name} ended at the smallest value measured plus two standard errors: these runs already sit on the "
            "floor, or do not show one"
        )
        return note("floor_reached", "warn", text)
    return note("floor_zero", "info", f"{name} is 0: these runs show no floor; larger ones may")


def zero_notes(estimate: Estimate) -> list[dict]:
    """Notes on coefficients whose term no longer adds anything to any fitted value."""
    coordinates = estimate.problem.coordinates
    kinds = {p.name: p.kind for p in estimate.law.parameters}
    names = [p.name for p in estimate.law.parameters]
    notes = []
    for i, name in enumerate(coordinates.names):
        if kinds[name] != "coefficient" or not coordinates.is_log[i]:
            continue
        theta = estimate.theta.copy()
        theta[names.index(name)] = 0.0
        with np.errstate(all="ignore"):
            without = estimate.problem.evaluator.value(theta[None])[0]
        fitted = estimate.problem.objective.unscale(estimate.fitted)
        if np.isfinite(without).all() and np.abs(without / fitted - 1).max() < 1e-6:
            notes.append(
                note("coefficient_zero", "warn", f"{name} is 0 for every purpose: its term adds nothing here")
            )
    return notes


def trade_off_note(estimate: Estimate) -> dict | None:
    """Which parameters can move together with little change of fit, from the flattest direction of the curvature."""
    slopes = estimate.slopes()
    scale = np.sqrt((slopes**2).sum(axis=0))
    kept = np.flatnonzero(scale > 0)
    if len(kept) < 2:
        return None
    _, values, directions = np.linalg.svd(slopes[:, kept] / scale[kept], full_matrices=False)
    condition = float((values[0] / max(values[-1], 1e-300)) ** 2)
    loading = np.abs(directions[-1])
    if condition < 1e3:
        return None
    involved = [estimate.problem.coordinates.names[kept[i]] for i in np.argsort(-loading) if loading[i] > 0.3]
    if len(involved) < 2:
        return None
    how = f"they move together with little change of fit (condition number {condition:.2g})"
    text = f"{', '.join(involved)} trade off: {how}"
    return note("trade_off", "info", text)
