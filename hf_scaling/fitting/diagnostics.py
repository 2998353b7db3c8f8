"""What is wrong with the rows or the law, as graded notes: levels, lack of fit, objectives that disagree, outliers."""

from dataclasses import replace

import numpy as np

from hf_scaling.fitting.bootstrap import leverages
from hf_scaling.fitting.engine import Estimate, robust_scale
from hf_scaling.fitting.objectives import Objective
from hf_scaling.fitting.rows import FitRows, note
from hf_scaling.fitting.solver import minimise

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
