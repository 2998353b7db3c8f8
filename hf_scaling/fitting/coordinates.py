"""The coordinates a fit moves in: free parameters only, logarithms where a parameter is a positive scale.

`A * n**-a` is a curved, narrow valley in (A, a) and a straight one in (log A, a): Gauss-Newton walks the second.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from numbers import Real

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws import Law

# Below this a coefficient is zero for every purpose; its logarithm needs some end.
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
        low: (F,) lower bounds, in the coordinates.
        high: (F,) upper bounds, in the coordinates.
    """

    names: tuple[str, ...]
    spread: np.ndarray
    constants: np.ndarray
    is_log: np.ndarray
    low: np.ndarray
    high: np.ndarray

    def to_theta(self, u: np.ndarray) -> np.ndarray:
        """The law's parameters (..., P) at the coordinates u (..., F); a logarithm near its end stands for zero."""
        scales = np.where(u > _ZERO, np.exp(np.where(self.is_log, u, 0.0)), 0.0)
        return np.where(self.is_log, scales, u) @ self.spread.T + self.constants

    def from_theta(self, theta: np.ndarray) -> np.ndarray:
        """The coordinates (..., F) of parameters (..., P), moved inside the bounds."""
        leaders = np.argmax(self.spread, axis=0)
        value = np.asarray(theta, dtype=float)[..., leaders]
        logarithm = np.log(np.clip(value, _SMALLEST, _LARGEST))
        return np.clip(np.where(self.is_log, logarithm, value), self.low, self.high)

    def chain(self, theta: np.ndarray, gradient: np.ndarray) -> np.ndarray:
        """Turn d f / d theta (B, P, N) into d f / d u (B, F, N)."""
        leaders_log = self.spread @ self.is_log.astype(float)
        factor = np.where(leaders_log > 0, theta, 1.0)
        return np.matmul(self.spread.T, gradient * factor[..., None])

    def with_bound(self, name: str, *, high: float) -> "Coordinates":
        """The same coordinates with a lower upper bound on one parameter."""
        bounds = self.high.copy()
        index = self.names.index(name)
        bounds[index] = min(bounds[index], np.log(high) if self.is_log[index] else high)
        return Coordinates(self.names, self.spread, self.constants, self.is_log, self.low, bounds)


def coordinates_of(
    law: Law, fixed: Mapping[str, float] | None = None, tied: Iterable[Iterable[str]] | None = None
) -> Coordinates:
    """The free coordinates of a law with some parameters fixed and some tied together.

    Args:
        law: The law.
        fixed: Parameter name to the value it keeps.
        tied: Groups of parameter names that share one value.

    Raises:
        InputError: A name is not a parameter of the law, stands in two groups, or is both fixed and tied.
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
    is_log = np.array([all(_is_positive_scale(parameters[n]) for n in group) for group in groups], dtype=bool)
    constants = np.array([float(fixed.get(name, 0.0)) for name in order])
    with np.errstate(divide="ignore"):
        low = np.where(is_log, np.log(np.clip(low, _SMALLEST, None)), low)
        high = np.where(is_log, np.log(np.clip(high, None, _LARGEST)), high)
    return Coordinates(tuple(group[0] for group in groups), spread, constants, is_log, low, high)


def _is_positive_scale(parameter) -> bool:
    return parameter.low >= 0 and parameter.kind in ("coefficient", "scale", "shape")


def _groups(law: Law, fixed: Mapping[str, float], tied) -> list[list[str]]:
    names = [p.name for p in law.parameters]
    ties = [list(group) for group in (tied or [])]
    for group in ties:
        if len(group) < 2:
            raise InputError(f"tied {', '.join(group)!r} changes nothing: a group needs at least two parameters")
    for name, value in fixed.items():
        if not isinstance(value, Real) or not np.isfinite(value):
            raise InputError(f"fixed {name} = {value!r}: give a finite number")
        parameter = next((p for p in law.parameters if p.name == name), None)
        if parameter and not parameter.low <= value <= parameter.high:
            bounds = f"{parameter.low:g} to {parameter.high:g}"
            raise InputError(f"fixed {name} = {value:g} lies outside its bounds, {bounds}")
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
