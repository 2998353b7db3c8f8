"""Which parameters the rows pin down: profiles of the exponents, bounds reached, parameters that trade off.

A fit always gives numbers. An exponent is called identified only if its 95 % profile interval spans at most a factor
of three and stays off its bounds: past that, extrapolations are the design's, not the data's.
"""

from dataclasses import dataclass

import numpy as np

from hf_scaling.fitting.engine import Estimate
from hf_scaling.fitting.rows import note
from hf_scaling.fitting.solver import minimise

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
