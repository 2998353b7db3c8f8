"""What each parameter of a formula is for, read from where its name stands, and the bounds and starts that follow."""

import ast
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from hf_scaling.errors import InputError

KINDS = ("floor", "coefficient", "exponent", "scale", "shape")

# A scale that divides, or is divided, must stay above zero; this is below any size that is measured.
_ABOVE_ZERO = 1e-12
# An exponent of zero would make its term a second floor; 1e-3 changes a term by 2 % over nine decades.
_DEFAULT_BOUNDS = {
    "floor": (0.0, math.inf),
    "coefficient": (0.0, math.inf),
    "exponent": (1e-3, 5.0),
    "scale": (0.0, math.inf),
    "shape": (1e-2, 1e2),
}
_DEFAULT_STARTS = {
    "coefficient": (1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6),
    "exponent": tuple(float(value) for value in np.geomspace(0.02, 2.0, 8)),
    "shape": (0.05, 0.15, 0.5, 1.0, 3.0),
}


@dataclass(frozen=True)
class Parameter:
    """One parameter of a law.

    Attributes:
        name: As written in the formula.
        kind: "floor" (what is left at infinite size), "coefficient" (multiplies a term), "exponent", "scale" (a size
            at which something changes, in the units of `variable`, or of the target where `variable` is None) or
            "shape" (a number without a unit that bends the curve).
        low: Smallest allowed value.
        high: Largest allowed value, infinity for none.
        variable: The column whose units a scale has.
        grid: Values to start a search from, where the law declares its own.
    """

    name: str
    kind: str
    low: float
    high: float
    variable: str | None = None
    grid: tuple[float, ...] = ()

    def starts(self, variables: Mapping[str, np.ndarray], target: np.ndarray | None) -> np.ndarray:
        """Plausible values (K,), ascending and inside the bounds; `target` places floors and scales of the target."""
        values = np.asarray(self.grid or self._usual_starts(variables, target), dtype=float)
        return np.unique(np.clip(values, self.low, self.high))

    def _usual_starts(self, variables, target):
        if self.kind == "scale" and self.variable is not None:
            sizes = variables[self.variable]
            sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
            return np.geomspace(sizes.min() / 10, sizes.max(), 7) if sizes.size else np.ones(1)
        if self.kind == "scale":
            return np.array([1.02, 1.3, 2.0, 5.0]) * (1.0 if target is None else np.max(target))
        if self.kind == "floor":
            return np.array([0.0, 0.4, 0.8, 0.97]) * (1.0 if target is None else np.min(target))
        return _DEFAULT_STARTS[self.kind]


def infer(trees: Iterable[ast.expr], variables: Iterable[str]) -> dict[str, tuple[str, str | None, float]]:
    """Kind, variable and lowest value of every parameter that stands in a telling place; the rest are coefficients.

    A name in an exponent is an exponent; one added to a variable under a power (or in exp, log, sqrt) is a scale, and
    so is one that divides or is divided by a variable there; E alone in a sum is the floor.
    """
    reader = _Reader(set(variables))
    for tree in trees:
        reader.read(tree, inside_power=False, in_exponent=False)
    return reader.found


@dataclass(frozen=True)
class Declared:
    """What a law says about its parameters by name, where their places in the formula do not; `owner` for errors."""

    bounds: Mapping[str, tuple[float | None, float | None]]
    kinds: Mapping[str, str]
    starts: Mapping[str, Iterable[float]]
    owner: str


def declare(
    order: Iterable[str], trees: Iterable[ast.expr], variables: Iterable[str], declared: Declared
) -> tuple[Parameter, ...]:
    """The law's parameters, from what is declared and what is inferred.

    Raises:
        InputError: A bound, a kind or a start cannot be used.
    """
    inferred = infer(trees, variables)
    return tuple(_parameter(name, inferred.get(name, ("coefficient", None, 0.0)), declared) for name in order)


def _parameter(name: str, inferred: tuple[str, str | None, float], declared: Declared) -> Parameter:
    kind, variable, low = inferred
    if declared.kinds.get(name, kind) != kind:
        kind, variable = declared.kinds[name], None
        if kind not in KINDS:
            raise InputError(f"{declared.owner}: the kind of {name} is {kind!r}; it is one of {', '.join(KINDS)}")
        low = _DEFAULT_BOUNDS[kind][0]
    low, high = _limits(name, declared.bounds.get(name, (low, _DEFAULT_BOUNDS[kind][1])), declared.owner)
    try:
        grid = tuple(float(value) for value in declared.starts.get(name, ()))
    except (TypeError, ValueError):
        grid = (math.nan,)
    if not all(map(math.isfinite, grid)):
        raise InputError(f"{declared.owner}: the starts of {name} must be numbers")
    return Parameter(name, kind, low, high, variable, grid)


def _limits(name: str, given: Iterable[float | None], owner: str) -> tuple[float, float]:
    try:
        low, high = given
        low = -math.inf if low is None else float(low)
        high = math.inf if high is None else float(high)
    except (TypeError, ValueError):
        raise InputError(f"{owner}: the bounds of {name} must be two numbers, not {given!r}") from None
    if not low < high:
        raise InputError(f"{owner}: the lower bound of {name}, {low:g}, must be below the upper, {high:g}")
    return low, high


class _Reader:
    def __init__(self, variables: set[str]):
        self.variables = variables
        self.found = {}

    def read(self, node: ast.expr, inside_power: bool, in_exponent: bool) -> None:
        match node:
            case ast.Name(id=name) if in_exponent:
                self._note(name, "exponent", None, _DEFAULT_BOUNDS["exponent"][0])
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                self.read(left, True, in_exponent)
                self.read(right, inside_power, True)
            case ast.BinOp(left=left, op=operator, right=right):
                if isinstance(operator, ast.Add | ast.Sub):
                    self._read_terms(_terms(node), inside_power)
                elif isinstance(operator, ast.Div) and inside_power:
                    self._read_ratio(left, right)
                self.read(left, inside_power, in_exponent)
                self.read(right, inside_power, in_exponent)
            case ast.UnaryOp(operand=operand):
                self.read(operand, inside_power, in_exponent)
            case ast.Call(args=args):
                for arg in args:
                    self.read(arg, inside_power or node.func.id in ("log", "sqrt", "exp"), in_exponent)

    def _read_terms(self, terms: list[str], inside_power: bool) -> None:
        sizes = [term for term in terms if term in self.variables]
        for term in terms:
            if term in self.variables:
                continue
            if inside_power and sizes:
                self._note(term, "scale", sizes[0], 0.0)
            elif term == "E":
                self._note(term, "floor", None, 0.0)

    def _read_ratio(self, left: ast.expr, right: ast.expr) -> None:
        sides = [side.operand if isinstance(side, ast.UnaryOp) else side for side in (left, right)]
        names = [side.id for side in sides if isinstance(side, ast.Name)]
        if len(names) == 2 and len(self.variables.intersection(names)) == 1:
            size, other = sorted(names, key=lambda name: name not in self.variables)
            self._note(other, "scale", size, _ABOVE_ZERO)

    def _note(self, name: str, kind: str, variable: str | None, low: float) -> None:
        # An exponent stays one wherever else the name stands.
        if name not in self.variables and (name not in self.found or kind == "exponent"):
            self.found[name] = (kind, variable, low)


def _terms(node: ast.expr) -> list[str]:
    """The bare names among the terms of a sum."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        return _terms(node.left) + _terms(node.right)
    return [node.id] if isinstance(node, ast.Name) else []
