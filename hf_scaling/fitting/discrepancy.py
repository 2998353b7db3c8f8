"""The law's own error beyond the data, estimated from what it missed when the largest scales were held out.

Bootstrap intervals are calibrated where the law is true. Real curves leave their law: what a law misses grows with the
distance beyond the fitted sizes, and refits inside the data do not show it. So the law is refitted to expanding
windows, and its misses beyond them give a standard deviation per unit of logarithmic distance. It counts only where
the rows say that the law is wrong: where neighbouring rows agree better with each other than with the law. How each
part was chosen, and what else was tried, is in docs/fitting.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hf_scaling.fitting.bootstrap import hat_basis
from hf_scaling.fitting.columns import note
from hf_scaling.fitting.estimate import Estimate, robust_scale, search_starts
from hf_scaling.fitting.rows import FitRows, neighbours_along, thinned
from hf_scaling.fitting.solver import Coordinates, Problem, minimise
from hf_scaling.text import format_percent

# The shares of a direction's log range that are held out, from the top.
_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5)
# A direction is expanded along where it has this many levels.
_FEWEST_LEVELS = 4
# A window of several sizes that leaves fewer levels, and less than this share of what all rows say of one direction of
# the parameters, is fitted from new starts: one that starts from the fit of all rows keeps what held-out rows said.
_FORGOTTEN = 0.05
# New starts of a window, and the most rows that they are searched with.
_NEW_STARTS, _MOST_ROWS_OF_STARTS = 2, 2048
# In a window, distances count as at least this share of the largest: noise at the edge is no slope.
_NEAREST = 0.1
# What is assumed before any window is seen: 2 % per factor of e, with the weight of two windows.
_PRIOR, _PRIOR_WEIGHT = 0.02, 2
# A direction's own windows are joined by all windows with the weight of this many: misses along one size say less
# about another.
_OTHERS_WEIGHT = 1
# What the law misses at the largest sizes already counts in full from this far outside the data: half a doubling.
_NEAR = 0.35
# No window counts as more than this per factor of e.
_LARGEST = 0.5
# Standard errors by which neighbours must agree better with each other than with the law: from the first the error
# counts, from the second it counts whole.
_DOUBTFUL, _CLEAR = 0.5, 1.0
# The same of a law of several sizes that the rows do not determine: neighbours along the other sizes agree with it
# wherever it goes along one, so that less shows that it is wrong.
_DOUBTFUL_IF_OPEN, _CLEAR_IF_OPEN = 0.0, 0.5
# With fewer degrees of freedom neighbours cannot show that a law is wrong, and its error counts whole; that of a mean
# of laws as far as degrees of freedom are lacking.
_ENOUGH_FREEDOM = 10
# Half-widths of a window's own band, and the relative miss, beyond which a law extrapolates badly.
_BAD_HALF_WIDTHS, _BAD_SHARE = 3.0, 0.1


@dataclass(frozen=True)
class Window:
    """Rows to fit and, beyond them, rows to predict.

    Attributes:
        direction: What the window expands along: a number for each variable, the last for their product.
        levels: Levels of the direction among the rows fitted.
        train: (N,) the rows fitted.
        distance: (N,) how far each row is outside the fitted ones, as a natural logarithm; 0 inside.
    """

    direction: int
    levels: int
    train: np.ndarray
    distance: np.ndarray


@dataclass(frozen=True)
class HeldOut:
    """What a law, or a mean of laws, predicts when it is refitted to the rows of each window.

    Attributes:
        windows: The windows.
        values: (W, N) predictions of every row, on the objective's scale.
        basis: (N, K) orthonormal columns that span the slopes of the fitted values: the directions the fit can follow.
        spread: (W, N) standard deviation of the values over the laws of a mean; zero for one law.
    """

    windows: list[Window]
    values: np.ndarray
    basis: np.ndarray
    spread: np.ndarray


def log_sizes(sizes: Mapping[str, np.ndarray]) -> np.ndarray:
    """(V + 1, N) natural logarithms of the sizes and, where there are several, their mean; a zero is -inf."""
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.stack([np.asarray(values, dtype=float) for values in sizes.values()]))
    return np.vstack([logs, logs.mean(axis=0)]) if len(logs) > 1 else logs


def distances_outside(logs: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(V, N) distances of logarithms (V, N) outside their ranges (V,); an undefined one counts as 0."""
    with np.errstate(invalid="ignore"):
        beyond = np.maximum(low[:, None] - logs, logs - high[:, None])
    return np.maximum(np.where(np.isfinite(beyond), beyond, 0.0), 0.0)


def distance_outside(logs: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(N,) the largest distance of logarithms (V, N) outside their ranges (V,); an undefined one counts as 0."""
    largest: np.ndarray = distances_outside(logs, low, high).max(axis=0)
    return largest


def log_ranges(logs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The smallest and largest of logarithms (V, N), each (V,); -inf where a size is zero."""
    return logs.min(axis=1), logs.max(axis=1)


def expanding_windows(rows: FitRows, smallest: int) -> list[Window]:
    """Windows along each variable and along their product, the widest of a direction first.

    Args:
        rows: The rows.
        smallest: The fewest configurations that a window may fit.
    """
    logs, windows = log_sizes(rows.variables), []
    for direction, along in enumerate(logs):
        levels = np.unique(along[np.isfinite(along)].round(9))
        if len(levels) < _FEWEST_LEVELS:
            continue
        seen: set[int] = set()
        for share in _SHARES:
            train = along <= levels[-1] - share * (levels[-1] - levels[0]) + 1e-9
            configurations = len(np.unique(rows.configuration[train]))
            if configurations in seen or configurations < smallest or train.all():
                continue
            seen.add(configurations)
            distance = np.where(train, 0.0, distance_outside(logs, *log_ranges(logs[:, train])))
            if (distance > 1e-9).any():
                left = int((levels <= along[train].max() + 1e-9).sum())
                windows.append(Window(direction, left, train, distance))
    return windows


@np.errstate(all="ignore")
def hold_out(estimated: Estimate, coordinates: Coordinates) -> HeldOut:
    """Refit the law to every window, in one batch that starts from the fit of all rows, or anew.

    Args:
        estimated: The fit of all rows.
        coordinates: The law's free coordinates, without the bounds that follow from the rows.
    """
    problem, rows = estimated.problem, estimated.rows
    windows, basis = expanding_windows(rows, len(estimated.u) + 1), hat_basis(estimated.slopes())
    if not windows:
        none = np.empty((0, len(rows.target)))
        return HeldOut([], none, basis, none)
    kept = np.stack([window.train for window in windows])
    batch = replace(problem, root_weights=problem.root_weights * kept)
    start = np.repeat(estimated.u[None], len(windows), axis=0)
    solved = minimise(batch, start, iterations=40, tolerance=1e-5)
    theta = problem.coordinates.to_theta(solved.u)
    for i, window in enumerate(windows):
        # Where no parameter moves the curve there is nothing to forget.
        if len(rows.variables) > 1 and window.levels < _FEWEST_LEVELS and basis.shape[1]:
            trained = basis[window.train]
            if np.linalg.eigvalsh(trained.T @ trained)[0] < _FORGOTTEN:
                theta[i] = _fit_anew(estimated, coordinates, window.train)
    values = problem.evaluator.value(theta)
    return HeldOut(windows, problem.objective.scale(values), basis, np.zeros_like(values))


def _fit_anew(estimated: Estimate, coordinates: Coordinates, train: np.ndarray) -> np.ndarray:
    """(P,) parameters of the law fitted to the rows `train` (N,), from starts that follow from these rows alone."""
    problem, places = estimated.problem, np.flatnonzero(train)
    places = places[thinned(len(places), _MOST_ROWS_OF_STARTS)]
    sizes = {name: values[places] for name, values in estimated.rows.variables.items()}
    part = Problem(
        estimated.law.evaluator(sizes),
        coordinates,
        problem.objective,
        problem.target[places],
        problem.root_weights[places],
    )
    starts = search_starts(part, estimated.law, sizes)[:_NEW_STARTS]
    solved = minimise(part, starts, iterations=40, tolerance=1e-5)
    theta: np.ndarray = coordinates.to_theta(solved.u[[int(np.argmin(solved.cost))]])[0]
    return theta


def neighbours(rows: FitRows, along: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Positions of rows that follow each other along one variable, `along` or any, while all other sizes are equal."""
    pairs = [neighbours_along(rows, name) for name in rows.variables if along in (None, name)]
    return np.concatenate([first for first, _ in pairs]), np.concatenate([second for _, second in pairs])


def misfit(residual: np.ndarray, rows: FitRows, basis: np.ndarray, along: str | None = None) -> float:
    """How much better neighbouring rows agree with each other than with the law, in standard errors.

    Von Neumann's ratio (1941): the residuals' variance over that of the differences between neighbours. Both are
    divided by what fitted residuals of independent noise give on average (a fit makes neighbours disagree), so that 0
    is expected of a true law however many parameters it has; the standard error is that of the same quadratic form.

    Args:
        residual: (N,) weighted residuals.
        rows: The rows.
        basis: (N, K) the directions that the fit can follow.
        along: The variable along which rows are neighbours; None for any.
    """
    limit = 3 * max(robust_scale(residual, basis.shape[1]), 1e-300)
    residual = np.clip(residual, -limit, limit)
    one, two = neighbours(rows, along)
    steps, count, pairs = basis[one] - basis[two], len(residual), len(one)
    freedom, freedom_of_steps = count - basis.shape[1], pairs - 0.5 * float((steps**2).sum())
    if pairs < 4 or freedom < 2 or freedom_of_steps < 1:
        return 0.0
    scatter = 0.5 * float(((residual[one] - residual[two]) ** 2).sum()) / freedom_of_steps
    if scatter <= 0:
        return 0.0
    # The trace of (M K)^2 with M = I - QQ', K = I / freedom - D'D / freedom_of_steps, D the halved differences.
    degree = np.bincount(np.concatenate([one, two]), minlength=count)
    moved = basis / freedom
    np.add.at(moved, one, -0.5 * steps / freedom_of_steps)
    np.add.at(moved, two, 0.5 * steps / freedom_of_steps)
    trace = count / freedom**2 - 2 * pairs / (freedom * freedom_of_steps)
    trace += float((degree.astype(float) ** 2).sum() / 4 + pairs / 2) / freedom_of_steps**2
    trace += float(((basis.T @ moved) ** 2).sum()) - 2 * float((moved**2).sum())
    ratio = float((residual**2).sum()) / freedom / scatter
    return (ratio - 1) / float(np.sqrt(2 * max(trace, 1e-300)))


def estimate_discrepancy(
    held_out: HeldOut,
    rows: FitRows,
    target: np.ndarray,
    root_weights: np.ndarray,
    fitted: np.ndarray,
    is_log: bool,
    determined: bool = True,
) -> dict[str, Any]:
    """The law's error beyond the data, as a fit records it.

    Args:
        held_out: The law refitted in windows.
        rows: The rows.
        target: (N,) the measured values, on the objective's scale.
        root_weights: (N,) square roots of the rows' weights.
        fitted: (N,) the fit of all rows, on the objective's scale.
        is_log: Whether that scale is logarithmic.
        determined: Whether the rows determine the law.

    Returns:
        per_log, the standard deviation per unit of natural-log distance outside the data; edge, that of what the law
        misses at the largest sizes, which goes with them; freedom, Student's degrees of freedom; ranges, the (low,
        high) logarithm of the sizes and of their mean; windows, how many there were; directions, where several sizes
        vary: per_log and freedom of each range.
    """
    several = len(rows.variables) > 1
    prior = _PRIOR * (1.0 if is_log else float(np.mean(np.abs(rows.target))))
    squares = []
    for window, values, spread in zip(held_out.windows, held_out.values, held_out.spread):
        beyond = window.distance > 1e-9
        distance = np.maximum(window.distance[beyond], _NEAREST * window.distance.max())
        # How far the laws of a mean disagree is in its draws already. Only the window's mean is cut at zero: cut row
        # by row, misses that are smaller than the disagreement would not make up for larger ones.
        square = ((target - values)[beyond] ** 2 - spread[beyond] ** 2) / distance**2
        largest = (_LARGEST / _PRIOR * prior) ** 2
        squares.append(float(np.clip(np.mean(np.nan_to_num(square, nan=largest, posinf=largest)), 0.0, largest)))
    freedom, total = len(squares) + _PRIOR_WEIGHT, sum(squares)
    if held_out.spread.any():
        # A member that fails in one window moves the mean of laws there alone: as in `law="auto"`, it does not decide.
        total = len(squares) * float(np.exp(np.mean(np.log(np.maximum(squares, 1e-4 * prior**2)))))
    square = (
        _typical(squares, prior**2, prior**2, _PRIOR_WEIGHT)
        if several
        else (total + _PRIOR_WEIGHT * prior**2) / freedom
    )
    judges = (len(target) - held_out.basis.shape[1]) / _ENOUGH_FREEDOM
    # Where neighbours cannot judge, the laws of a mean that disagree are in its draws: what they can say counts then.
    judges = float(np.clip(judges, 0.0, 1.0)) if held_out.spread.any() else float(judges >= 1)
    share = 1.0
    if judges:
        excess = misfit((target - fitted) * root_weights, rows, held_out.basis)
        is_open = several and not determined
        doubtful, clear = (_DOUBTFUL_IF_OPEN, _CLEAR_IF_OPEN) if is_open else (_DOUBTFUL, _CLEAR)
        share -= judges * (1 - float(np.clip((excess - doubtful) / (clear - doubtful), 0.0, 1.0)))
    logs = log_sizes(rows.variables)
    low, high = log_ranges(logs)
    along = np.exp(logs[-1] - logs[-1].max()) if np.isfinite(logs[-1].max()) else np.ones_like(target)
    directions = []
    for direction in range(len(logs)) if several else ():
        own = [one for one, window in zip(squares, held_out.windows) if window.direction == direction]
        # All windows together are the prior of those of one direction.
        slope = float(np.sqrt(_typical(own, square, prior**2, _OTHERS_WEIGHT)))
        directions.append([share * slope, len(own) + _PRIOR_WEIGHT])
    return {
        "per_log": float(share * np.sqrt(square)),
        "edge": float(share * np.sqrt(np.average((target - fitted) ** 2, weights=along))),
        "freedom": freedom,
        "ranges": [[float(a), float(b)] for a, b in zip(low, high)],
        "windows": len(squares),
        **({"directions": directions} if several else {}),
    }


def _typical(squares: Sequence[float], middle: float, least: float, weight: int) -> float:
    """The geometric mean of squares and of a prior: one impossible window does not decide.

    Args:
        squares: Of each window; those below a ten-thousandth of `least` count as that.
        middle: The prior.
        least: The square of the least error per unit that is assumed before any window is seen.
        weight: How many windows the prior weighs as much as.
    """
    logs = np.log(np.maximum([*squares, *[middle] * weight], max(1e-4 * least, 1e-300)))
    return float(np.exp(logs.mean()))


def deviations(discrepancy: Mapping[str, Any], sizes: Mapping[str, np.ndarray], count: int, seed: int) -> np.ndarray:
    """(count, N) one deviation a draw, on the objective's scale: Student's t times the law's error at that distance.

    A draw deviates in one direction at all sizes, so that differences between two predictions keep what they share.
    """
    from scipy.special import stdtrit

    ranges = np.array(discrepancy["ranges"], dtype=float)
    distances = distances_outside(log_sizes(sizes), ranges[:, 0], ranges[:, 1])
    # Laws of one size and laws stored by older versions have no directions; the latter may have no edge either.
    directions = discrepancy.get("directions") or [[discrepancy["per_log"], discrepancy["freedom"]]] * len(distances)
    per_log, freedom = np.array(directions, dtype=float).T
    errors = per_log[:, None] * distances
    # Of the directions that a place is outside in, the one with the largest error counts.
    largest = errors.argmax(axis=0)
    turns = np.random.default_rng([seed, 1]).permutation(count)
    students = stdtrit(freedom, ((turns + 0.5) / count)[:, None])
    edge = discrepancy.get("edge", 0.0) * np.minimum(distances.max(axis=0) / _NEAR, 1.0)
    return students[:, largest] * np.hypot(errors.max(axis=0), edge)


def extrapolation_notes(estimated: Estimate, held_out: HeldOut) -> list[dict]:
    """An error where the largest scales, held out, are missed by far more than the law's band and by over 10 %."""
    from scipy.special import stdtrit

    slopes = estimated.slopes()
    roots = np.maximum(estimated.problem.root_weights, 1e-300)[:, None]
    last = {window.direction: i for i, window in reversed(list(enumerate(held_out.windows)))}
    for i in last.values():
        window = held_out.windows[i]
        beyond, miss = ~window.train, estimated.problem.target - held_out.values[i]
        freedom = max(int(window.train.sum()) - len(estimated.u), 1)
        residual = (miss * estimated.problem.root_weights)[window.train]
        scale = np.sqrt(float((residual**2).sum()) / freedom)
        mean_slope = (slopes / roots)[beyond].mean(axis=0)
        inside = slopes[window.train]
        spread = float(mean_slope @ np.linalg.pinv(inside.T @ inside, rcond=1e-10, hermitian=True) @ mean_slope)
        half_width = float(stdtrit(freedom, 0.975)) * scale * np.sqrt(spread + 1 / beyond.sum())
        shift = float(miss[beyond].mean())
        values = estimated.rows.target
        # A share of a target that may be negative means nothing: its misses are shares of its measured span.
        mean = float(values[beyond].mean() if (values > 0).all() else np.ptp(values))
        share = abs(np.expm1(shift)) if estimated.problem.objective.is_log else abs(shift) / max(abs(mean), 1e-300)
        if not (abs(shift) <= _BAD_HALF_WIDTHS * half_width or share <= _BAD_SHARE):
            text = f"fitted without its largest scales, the law misses them by {format_percent(share)} on average, "
            text += f"{abs(shift) / max(half_width, 1e-300):.1f} half-widths of its own interval"
            return [note("extrapolates_badly", "error", text)]
    return []


def combine_held_out(parts: Sequence[HeldOut], weights: Sequence[float]) -> HeldOut:
    """The weighted mean of several laws in the windows that all of them have; the basis is the largest of theirs."""
    shared = set.intersection(*({window.train.tobytes() for window in part.windows} for part in parts))
    kept = [[i for i, window in enumerate(part.windows) if window.train.tobytes() in shared] for part in parts]
    values = np.stack([part.values[rows] for part, rows in zip(parts, kept)])
    mean = np.average(values, axis=0, weights=weights)
    spread = np.sqrt(np.average((values - mean) ** 2, axis=0, weights=weights))
    basis = max((part.basis for part in parts), key=lambda basis: basis.shape[1])
    return HeldOut([parts[0].windows[i] for i in kept[0]], mean, basis, spread)
