"""The curves of a pooled fit: the parameters and draws of each, and those of a new curve."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.rows import curve_name
from hf_scaling.fitting.solver import Coordinates, coordinates_of
from hf_scaling.laws import Evaluator, Law
from hf_scaling.text import listing

# Floors and exponents move as logarithms here, from these ends.
_SMALLEST_FLOOR, _SMALLEST_EXPONENT = 1e-9, 1e-3
# Halvings of the range of a leading coefficient's logarithm, which is some hundreds wide.
_HALVINGS = 60


@dataclass(frozen=True)
class CurveCoordinates:
    """The coordinates in which curves share a distribution: logarithms, with levels and floors made comparable.

    The leading coefficient gives way to the logarithm of the law's value at reference sizes, and floors are relative
    to that value: curves of different levels then differ in one coordinate alone.

    Attributes:
        law: The law.
        free: Its free coordinates, exponents and floors as logarithms too.
        reference: Variable to the size at which levels are compared.
        leading: The coordinate of the leading coefficient; None where the law has none.
        relative: Coordinates in the target's units.
    """

    law: Law
    free: Coordinates
    reference: dict[str, float]
    leading: int | None
    relative: tuple[int, ...]
    evaluator: Evaluator = field(repr=False, compare=False)

    @classmethod
    def of(
        cls, law: Law, reference: Mapping[str, float], fixed: Mapping[str, float], tied: Sequence
    ) -> "CurveCoordinates":
        """The shared coordinates of a law.

        Args:
            law: The law.
            reference: Variable to a size in the middle of the rows.
            fixed: Parameters held at a value.
            tied: Groups of parameters that share one value.
        """
        free = coordinates_of(law, fixed, tied)
        parameters = {p.name: p for p in law.parameters}
        kinds = [parameters[name].kind for name in free.names]
        is_log, low, high = free.is_log.copy(), free.low.copy(), free.high.copy()
        for i, name in enumerate(free.names):
            if not is_log[i] and parameters[name].low >= 0:
                smallest = _SMALLEST_FLOOR if kinds[i] == "floor" else _SMALLEST_EXPONENT
                is_log[i], low[i] = True, np.log(max(parameters[name].low, smallest))
                high[i] = np.log(min(parameters[name].high, 1e150))
        free = Coordinates(free.names, free.spread, free.constants, is_log, low, high)
        leading = next(
            (i for i, kind in enumerate(kinds) if kind == "coefficient" and free.spread[:, i].sum() == 1), None
        )
        relative = [
            i
            for i, (name, kind) in enumerate(zip(free.names, kinds))
            if kind == "floor" or (kind == "scale" and parameters[name].variable is None)
        ]
        sizes = {name: float(size) for name, size in reference.items()}
        return cls(law, free, sizes, leading, tuple(relative), law.evaluator({n: [s] for n, s in sizes.items()}))

    def to_shared(self, u: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The shared coordinates (B, F) at coordinates u (B, F), and their derivatives (B, F, F)."""
        slopes = np.repeat(np.eye(u.shape[1])[None], len(u), axis=0)
        if self.leading is None:
            return u.copy(), slopes
        theta = self.free.to_theta(u)
        value, gradient = self.evaluator.value_and_gradient(theta)
        level, slope = np.log(value[:, 0]), self.free.chain(theta, gradient)[..., 0] / value
        shared = u.copy()
        shared[:, self.leading], slopes[:, self.leading] = level, slope
        for i in self.relative:
            shared[:, i] -= level
            slopes[:, i] -= slope
        return shared, slopes

    def to_theta(self, shared: np.ndarray) -> np.ndarray:
        """The law's parameters (B, P) at shared coordinates (B, F), within their bounds."""
        u = shared.copy()
        if self.leading is None:
            return self.free.to_theta(np.clip(u, self.free.low, self.free.high))
        level = shared[:, self.leading]
        for i in self.relative:
            u[:, i] += level
        u = np.clip(u, self.free.low, self.free.high)
        # The law rises with its leading coefficient.
        low = np.full(len(u), self.free.low[self.leading])
        high = np.full(len(u), self.free.high[self.leading])
        with np.errstate(all="ignore"):
            for _ in range(_HALVINGS):
                u[:, self.leading] = (low + high) / 2
                below = np.log(self.evaluator.value(self.free.to_theta(u))[:, 0]) < level
                low, high = np.where(below, u[:, self.leading], low), np.where(below, high, u[:, self.leading])
        return self.free.to_theta(u)


@dataclass(frozen=True)
class CurveFits:
    """The curves of a pooled fit.

    Attributes:
        columns: The pool's columns.
        names: The value of each column, for each of C curves.
        records: For each curve what a `LawFit` records of it: status, scores, data.
        theta: (C, P) parameters.
        draws: (C, B, P) draws of the parameters.
        noise: (C, M) the noise of a new run, on the objective's scale.
        components: The pool's columns whose levels several curves share.
        centre: (1 + B, F) the distribution's centre in shared coordinates, and draws of it.
        effects: (1 + B, L, F) the effects of the levels of `components`, one column's after another's, and draws.
        new: (1 + B, K, F) effects of a new level of each of `components`, the last of a new curve: 0, and draws.
        reference: Variable to the size at which levels are compared.
    """

    columns: list[str]
    names: list[tuple[str, ...]]
    records: list[dict[str, Any]]
    theta: np.ndarray = field(repr=False)
    draws: np.ndarray = field(repr=False)
    noise: np.ndarray = field(repr=False)
    components: list[str]
    centre: np.ndarray = field(repr=False)
    effects: np.ndarray = field(repr=False)
    new: np.ndarray = field(repr=False)
    reference: dict[str, float]

    def levels_of(self, column: str) -> list[str]:
        """The levels of a pool column, in the order of their effects."""
        place = self.columns.index(column)
        return sorted({names[place] for names in self.names})

    def find(self, names: Sequence[str]) -> int | None:
        """The number of a curve; None for a new one."""
        return self.names.index(tuple(names)) if tuple(names) in self.names else None

    def new_curve(self, names: Sequence[str], coordinates: CurveCoordinates) -> tuple[np.ndarray, np.ndarray]:
        """Parameters (P,) and their draws (B, P) of a curve without rows: the effects of levels that others have."""
        shared, first = self.centre + self.new[:, -1], 0
        for i, column in enumerate(self.components):
            levels, name = self.levels_of(column), names[self.columns.index(column)]
            if name in levels:
                shared = shared + self.effects[:, first + levels.index(name)]
            else:
                shared = shared + self.new[:, i]
            first += len(levels)
        theta = coordinates.to_theta(shared)
        return theta[0], theta[1:]

    def pick(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """The names of a curve from a value for each of the pool's columns.

        Raises:
            InputError: A column is missing or unknown.
        """
        for column in given:
            if column not in self.columns:
                raise InputError(f"{column!r} does not name a curve: the pool has {listing(self.columns)}")
        for column in self.columns:
            if column not in given:
                known = listing(self.levels_of(column), 4)
                raise InputError(f"the law is of several curves: give {column}, one of {known}, or a new one")
        return tuple(curve_name(given[column]) for column in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """What law.json holds of the curves."""
        return {
            "columns": self.columns,
            "names": [list(names) for names in self.names],
            "records": self.records,
            "components": self.components,
            "reference": self.reference,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """What draws.safetensors holds of them."""
        names = ("theta", "draws", "noise", "centre", "effects", "new")
        return {f"curves.{name}": np.ascontiguousarray(getattr(self, name)) for name in names}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], arrays: Mapping[str, np.ndarray], prefix: str) -> "CurveFits":
        """The curves that `to_dict` and `arrays` hold."""
        names = ("theta", "draws", "noise", "centre", "effects", "new")
        return cls(
            columns=[str(name) for name in content["columns"]],
            names=[tuple(map(str, one)) for one in content["names"]],
            records=list(content["records"]),
            components=[str(name) for name in content["components"]],
            reference={str(name): float(size) for name, size in content["reference"].items()},
            **{name: arrays[f"{prefix}curves.{name}"] for name in names},
        )
