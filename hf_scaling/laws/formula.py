"""A law's formula, compiled: its graph, what follows from it, and evaluators over data."""

import ast
import copy
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial, reduce

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws.parsing import fault, is_name, names_in, parse_equation, parse_formula
from hf_scaling.text import COLUMNS

# Bits of `Node.reach`.
THETA, DATA = 1, 2
FULL = THETA | DATA


class Node:
    """One operation on other nodes: `op` with `args`, or a leaf (op "number", "parameter", "variable" or "hidden")."""

    __slots__ = ("args", "depends", "index", "nonnegative", "op", "payload", "reach")

    def __init__(self, op, args, payload, reach, depends, nonnegative, index):
        self.op, self.args, self.payload = op, args, payload
        self.reach, self.depends, self.nonnegative, self.index = reach, depends, nonnegative, index

    def is_number(self, value: float | None = None) -> bool:
        """Whether this is a constant (equal to `value`, if given)."""
        return self.op == "number" and (value is None or self.payload == value)


class Graph:
    """Builds interned nodes; every method returns the simplest node it knows for the operation."""

    def __init__(self):
        self._nodes = {}

    def number(self, value: float) -> Node:
        """A constant."""
        return self._leaf("number", float(value), 0, frozenset(), value >= 0)

    def parameter(self, name: str, nonnegative: bool) -> Node:
        """A parameter: one number per parameter vector."""
        return self._leaf("parameter", name, THETA, frozenset([name]), nonnegative)

    def variable(self, name: str) -> Node:
        """A column of the data; columns are sizes and counts, never negative."""
        return self._leaf("variable", name, DATA, frozenset(), True)

    def hidden(self, name: str) -> Node:
        """A quantity solved for numerically: one number per parameter vector and data point."""
        return self._leaf("hidden", name, FULL, frozenset([name]), False)

    def add(self, a: Node, b: Node) -> Node:
        """The sum of a and b."""
        if a.op == b.op == "number":
            return self.number(a.payload + b.payload)
        if a.is_number(0):
            return b
        if b.is_number(0):
            return a
        if b.op == "neg":
            return self.sub(a, b.args[0])
        if a.op == "neg":
            return self.sub(b, a.args[0])
        if a is b:
            return self.mul(self.number(2), a)
        return self._node("add", _ordered(a, b), a.nonnegative and b.nonnegative)

    def sub(self, a: Node, b: Node) -> Node:
        """A less b."""
        if a.op == b.op == "number":
            return self.number(a.payload - b.payload)
        if a is b:
            return self.number(0)
        if b.is_number(0):
            return a
        if a.is_number(0):
            return self.neg(b)
        if b.op == "neg":
            return self.add(a, b.args[0])
        return self._node("sub", (a, b), False)

    def neg(self, a: Node) -> Node:
        """Minus a."""
        if a.op == "number":
            return self.number(-a.payload)
        if a.op == "neg":
            return a.args[0]
        if a.op == "mul":
            return self._product(-1, *a.args)
        if a.op == "sub":
            return self.sub(a.args[1], a.args[0])
        return self._node("neg", (a,), False)

    def mul(self, a: Node, b: Node) -> Node:
        """The product of a and b."""
        sign = 1
        if a.op == "neg":
            sign, a = -sign, a.args[0]
        if b.op == "neg":
            sign, b = -sign, b.args[0]
        return self._product(sign, a, b)

    def recip(self, a: Node) -> Node:
        """One divided by a."""
        if a.op == "number" and a.payload != 0:
            return self.number(1 / a.payload)
        if a.op == "recip":
            return a.args[0]
        if a.op == "neg":
            return self.neg(self.recip(a.args[0]))
        if a.op == "exp":
            return self.exp(self.neg(a.args[0]))
        return self._node("recip", (a,), a.nonnegative)

    def exp(self, a: Node) -> Node:
        """The exponential of a."""
        if a.op == "number":
            return self.number(math.exp(a.payload) if a.payload < 709 else math.inf)
        if a.op == "log":
            return a.args[0]
        return self._node("exp", (a,), True)

    def log(self, a: Node) -> Node:
        """The natural logarithm of a."""
        if a.op == "number":
            return self.number(math.log(a.payload) if a.payload > 0 else math.nan)
        if a.op == "exp":
            return a.args[0]
        return self._node("log", (a,), False)

    def softplus(self, a: Node) -> Node:
        """log(1 + exp(a)), which neither overflows nor loses small values."""
        if a.op == "number":
            return self.number(max(a.payload, 0.0) + math.log1p(math.exp(-abs(a.payload))))
        return self._node("softplus", (a,), True)

    def minimum(self, a: Node, b: Node) -> Node:
        """The smaller of a and b."""
        if a.op == b.op == "number":
            return self.number(min(a.payload, b.payload))
        return a if a is b else self._node("minimum", (a, b), a.nonnegative and b.nonnegative)

    def maximum(self, a: Node, b: Node) -> Node:
        """The larger of a and b."""
        if a.op == b.op == "number":
            return self.number(max(a.payload, b.payload))
        return a if a is b else self._node("maximum", (a, b), a.nonnegative or b.nonnegative)

    def at_most(self, a: Node, b: Node) -> Node:
        """1 where a <= b, 0 elsewhere."""
        return self._node("at_most", (a, b), True)

    def gradient(self, node: Node, names: Iterable[str]) -> list[Node]:
        """The derivatives of `node` by the named parameters (or hidden leaves), by reverse accumulation."""
        names = list(names)
        wanted = frozenset(names)
        adjoints = {node: self.number(1)}
        found = {}
        for current in sorted(below([node]), key=lambda n: -n.index):
            if current not in adjoints or not current.depends & wanted:
                continue
            if current.op in ("parameter", "hidden"):
                found[current.payload] = adjoints[current]
            for child, slope in self._slopes(current, adjoints[current]):
                if child.depends & wanted:
                    known = adjoints.get(child)
                    adjoints[child] = slope if known is None else self.add(known, slope)
        return [found.get(name, self.number(0)) for name in names]

    def substitute(self, node: Node, values: dict[str, Node]) -> Node:
        """`node` with the named parameters replaced, simplified anew."""
        done = {}
        for current in sorted(below([node]), key=lambda n: n.index):
            if current.op == "parameter" and current.payload in values:
                done[current] = values[current.payload]
            elif not current.depends & values.keys():
                done[current] = current
            else:
                done[current] = getattr(self, current.op)(*(done[child] for child in current.args))
        return done[node]

    def _slopes(self, node: Node, adjoint: Node) -> list[tuple[Node, Node]]:
        a, b = (*node.args, None, None)[:2]
        match node.op:
            case "add":
                return [(a, adjoint), (b, adjoint)]
            case "sub":
                return [(a, adjoint), (b, self.neg(adjoint))]
            case "neg":
                return [(a, self.neg(adjoint))]
            case "mul":
                return [(a, self.mul(adjoint, b)), (b, self.mul(adjoint, a))]
            case "recip":
                return [(a, self.neg(self.mul(self.mul(adjoint, node), node)))]
            case "exp":
                return [(a, self.mul(adjoint, node))]
            case "log":
                return [(a, self.mul(adjoint, self.recip(a)))]
            case "softplus":
                return [(a, self.mul(adjoint, self.exp(self.sub(a, node))))]
            case "minimum" | "maximum":
                first = self.at_most(a, b) if node.op == "minimum" else self.at_most(b, a)
                return [(a, self.mul(adjoint, first)), (b, self.mul(adjoint, self.sub(self.number(1), first)))]
        return []

    def _product(self, sign: int, a: Node, b: Node) -> Node:
        a, b = _ordered(a, b)
        if a.op == b.op == "number":
            return self.number(sign * a.payload * b.payload)
        if a.is_number(0):
            return a
        if a.is_number(1):
            return b if sign > 0 else self.neg(b)
        if a.is_number(-1):
            return self.neg(b) if sign > 0 else b
        if b.op == "mul" and b.reach == FULL:
            # (full * cheap) * cheap costs two passes, full * (cheap * cheap) one; the cheaper factor comes first.
            cheap, rest = b.args
            if cheap.reach != FULL and (a.op == "number" or cheap.reach == a.reach):
                return self._product(sign, self._product(1, a, cheap), rest)
        if sign < 0:
            a = self.neg(a)
        return self._node("mul", (a, b), a.nonnegative and b.nonnegative)

    def _leaf(self, op: str, payload: object, reach: int, depends: frozenset, nonnegative: bool) -> Node:
        key = (op, payload, math.copysign(1, payload)) if op == "number" else (op, payload)
        if key not in self._nodes:
            self._nodes[key] = Node(op, (), payload, reach, depends, nonnegative, len(self._nodes))
        return self._nodes[key]

    def _node(self, op: str, args: tuple[Node, ...], nonnegative: bool) -> Node:
        key = (op, *(a.index for a in args))
        if key not in self._nodes:
            reach = 0
            for a in args:
                reach |= a.reach
            depends = frozenset().union(*(a.depends for a in args))
            self._nodes[key] = Node(op, args, None, reach, depends, nonnegative, len(self._nodes))
        return self._nodes[key]


def below(roots: Iterable[Node]) -> set[Node]:
    """The nodes that the roots are made of, themselves included."""
    seen, waiting = set(), list(roots)
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += node.args
    return seen


def _cost(node: Node) -> tuple[int, int]:
    # Numbers first, then what is computed once per data set, then once per parameter vector, then everything else.
    return ((0 if node.op == "number" else 1 + (0, 1, 0, 2)[node.reach]), node.index)


def _ordered(a: Node, b: Node) -> tuple[Node, Node]:
    return (a, b) if _cost(a) <= _cost(b) else (b, a)


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


# Larger constant exponents than this are a slip of the pen, or malice.
_LARGEST_EXPONENT = 1000.0
# The cube of a parameter, which may be zero or negative, is a product; so are whole powers up to this one.
_LARGEST_PRODUCT = 8
_MOST_FACTORS = 32

UNKNOWN = "L"
# Stand for the hidden quantity of an equation and for its two gaps; no name of a formula holds a space.
HIDDEN = "position of L"
_ABOVE, _BENEATH = "L - low", "high - L"


class Lowering:
    """Lowers syntax trees over one graph; `names` says which node each name stands for."""

    def __init__(self, graph: Graph, names: Mapping[str, Node], owner: str):
        self.graph, self.names, self.owner = graph, dict(names), owner

    def lower(self, tree: ast.expr, text: str) -> Node:
        """The node for `tree`, which was parsed from `text`.

        Raises:
            InputError: A constant part has no finite value, or an exponent is absurdly large.
        """
        node = self._lower(tree, text)
        if node.op == "number" and not math.isfinite(node.payload):
            raise fault(self.owner, text, tree.col_offset, "this has no finite value")
        return node

    def log(self, node: Node) -> Node:
        """log(node), taken apart where both sides of a product are known not to be negative."""
        graph = self.graph
        if node.op == "mul" and node.args[0].nonnegative and node.args[1].nonnegative:
            return graph.add(self.log(node.args[0]), self.log(node.args[1]))
        if node.op == "recip" and node.args[0].nonnegative:
            return graph.neg(self.log(node.args[0]))
        if node.op == "add":
            first, second = (_exponent(graph, term) for term in node.args)
            if first is not None and second is not None:
                return graph.add(first, graph.softplus(graph.sub(second, first)))
        return graph.log(node)

    def _lower(self, tree: ast.expr, text: str) -> Node:
        graph = self.graph
        match tree:
            case ast.Constant(value=value):
                return graph.number(value)
            case ast.Name(id=name):
                return self.names[name]
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return graph.neg(self.lower(operand, text))
            case ast.UnaryOp(operand=operand):
                return self.lower(operand, text)
            case ast.Call(func=ast.Name(id=name), args=args):
                return self._call(name, [self.lower(arg, text) for arg in args])
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                return self._power(self.lower(left, text), self.lower(right, text), text, right)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return graph.add(self.lower(left, text), self.lower(right, text))
            case ast.BinOp(left=left, op=ast.Sub(), right=right):
                return graph.sub(self.lower(left, text), self.lower(right, text))
            case ast.BinOp(left=left, op=ast.Mult(), right=right):
                return self._product(self.lower(left, text), self.lower(right, text))
            case ast.BinOp(left=left, right=right):
                divisor = self.lower(right, text)
                if divisor.is_number(0):
                    raise fault(self.owner, text, right.col_offset, "this divides by zero")
                return self._product(self.lower(left, text), graph.recip(divisor))
        raise AssertionError(f"the parser let {ast.dump(tree)} through")

    def _call(self, name: str, args: list[Node]) -> Node:
        graph = self.graph
        match name:
            case "exp":
                return graph.exp(args[0])
            case "log":
                return self.log(args[0])
            case "sqrt":
                return graph.exp(graph.mul(graph.number(0.5), self.log(args[0])))
        choose = graph.minimum if name == "min" else graph.maximum
        if all(_has_logarithm(arg) for arg in args) and any(arg.op == "exp" for arg in map(_last_factor, args)):
            # Chosen between logarithms, a power that overflows is passed over without leaving a NaN in the gradient.
            return graph.exp(choose(*map(self.log, args)))
        return choose(*args)

    def _power(self, base: Node, exponent: Node, text: str, place: ast.expr) -> Node:
        graph = self.graph
        if exponent.op == "number":
            value = exponent.payload
            if abs(value) > _LARGEST_EXPONENT:
                message = f"an exponent beyond {_LARGEST_EXPONENT:g} is not allowed"
                raise fault(self.owner, text, place.col_offset, message)
            if base.op == "number":
                return graph.number(_constant_power(base.payload, value))
            as_product = base.op != "exp" and base.reach != DATA
            if value == int(value) and abs(value) <= (_LARGEST_PRODUCT if as_product else 1):
                return self._whole_power(base, int(value))
        return graph.exp(graph.mul(exponent, self.log(base)))

    def _whole_power(self, base: Node, exponent: int) -> Node:
        result = reduce(self.graph.mul, [base] * abs(exponent), self.graph.number(1))
        return self.graph.recip(result) if exponent < 0 else result

    def _product(self, a: Node, b: Node) -> Node:
        """a * b with all powers among the factors gathered in one exp: one pass of exp instead of several."""
        graph = self.graph
        factors = _factors(a) + _factors(b)
        plain = reduce(graph.mul, (f for f in factors if f.op != "exp"), graph.number(1))
        exponent = reduce(graph.add, (f.args[0] for f in factors if f.op == "exp"), graph.number(0))
        return graph.mul(plain, graph.exp(exponent))


def lower_equation(
    lowering: Lowering, left: ast.expr, right: ast.expr, text: str, at: Node | None = None
) -> tuple[Node, Node]:
    """Lower an equation in the unknown L, which stands only as (L - low) and (high - L).

    L is written as low + (high - low) * sigmoid(s), so both gaps keep their relative precision at either end, and the
    equation is taken in logarithms: residual = log(left) - log(right), which rises with L.

    Args:
        lowering: Knows the equation's other names.
        left: The equation's left side.
        right: Its right side.
        text: What both were parsed from.
        at: A node to take for L in place of the hidden quantity s.

    Returns:
        The node of L and the node of the residual.

    Raises:
        InputError: L stands elsewhere, or its two bounds are not there.
    """
    low, high = (lowering.names[name] for name in _bounds(left, right, lowering.owner, text))
    graph = lowering.graph
    if at is None:
        position = graph.hidden(HIDDEN)
        log_width = graph.log(graph.sub(high, low))
        above = graph.exp(graph.sub(log_width, graph.softplus(graph.neg(position))))
        beneath = graph.exp(graph.sub(log_width, graph.softplus(position)))
    else:
        # A target outside (low, high) is a gap of zero, whose logarithm has the right sign of infinity.
        above, beneath = (graph.maximum(gap, graph.number(0)) for gap in (graph.sub(at, low), graph.sub(high, at)))
    inner = Lowering(graph, {**lowering.names, _ABOVE: above, _BENEATH: beneath}, lowering.owner)
    logs = [inner.log(inner.lower(_GapNames().visit(copy.deepcopy(side)), text)) for side in (left, right)]
    return graph.add(low, above), graph.sub(*logs)


def _is_gap(node: ast.AST, side: str) -> bool:
    if not (isinstance(node, ast.BinOp) and isinstance(node.op, ast.Sub)):
        return False
    ends = (node.left, node.right)
    return all(isinstance(end, ast.Name) for end in ends) and getattr(node, side).id == UNKNOWN


class _GapNames(ast.NodeTransformer):
    """Puts one name in the place of each gap, (L - low) and (high - L)."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        for side, name in (("left", _ABOVE), ("right", _BENEATH)):
            if _is_gap(node, side):
                return ast.copy_location(ast.Name(id=name, ctx=ast.Load()), node)
        return self.generic_visit(node)


def _bounds(left: ast.expr, right: ast.expr, owner: str, text: str) -> tuple[str, str]:
    nodes = [*ast.walk(left), *ast.walk(right)]
    lows = {node.right.id for node in nodes if _is_gap(node, "left")}
    highs = {node.left.id for node in nodes if _is_gap(node, "right")}
    gaps = sum(_is_gap(node, "left") or _is_gap(node, "right") for node in nodes)
    unknowns = [node for node in nodes if isinstance(node, ast.Name) and node.id == UNKNOWN]
    if len(lows) != 1 or len(highs) != 1 or len(unknowns) != gaps:
        message = (
            f"the unknown {UNKNOWN} must stand in ({UNKNOWN} - low) and (high - {UNKNOWN}) alone, low and high names"
        )
        raise fault(owner, text, unknowns[0].col_offset if unknowns else 0, message)
    return lows.pop(), highs.pop()


def _factors(node: Node) -> list[Node]:
    """What a product is made of; a product of very many is left whole, its parts may be shared without end."""
    found, waiting = [], [node]
    while waiting:
        current = waiting.pop()
        if current.op == "mul":
            waiting += current.args
        else:
            found.append(current)
        if len(found) + len(waiting) > _MOST_FACTORS:
            return [node]
    return found


def _last_factor(node: Node) -> Node:
    return node.args[1] if node.op == "mul" else node


def _has_logarithm(node: Node) -> bool:
    return node.nonnegative and not node.is_number(0)


def _exponent(graph: Graph, node: Node) -> Node | None:
    """z where node is exp(z), or None; a product does not count, its coefficient may be zero and have no logarithm."""
    if node.op == "number" and node.payload > 0:
        return graph.number(math.log(node.payload))
    return node.args[0] if node.op == "exp" else None


def _constant_power(base: float, exponent: float) -> float:
    try:
        return math.pow(base, exponent)
    except (OverflowError, ValueError):
        return math.nan


# Numbers per temporary in one block: 16k doubles are 128 KiB, so a handful fits a core's second-level cache.
_BLOCK = 16384
# The logarithm of a zero in the data. Finite, so that 0**b is 0 with a gradient of 0 and not NaN, yet so large that
# 0**-b is infinite for any exponent that matters.
_LOG_OF_ZERO = -1e300


def _softplus(z, out=None, scratch=None):
    scratch = np.abs(z, out=scratch)
    np.negative(scratch, out=scratch)
    np.exp(scratch, out=scratch)
    np.add(scratch, 1.0, out=scratch)
    np.log(scratch, out=scratch)
    out = np.maximum(z, 0.0, out=out)
    return np.add(out, scratch, out=out)


_OPERATIONS = {
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "mul": np.multiply,
    "recip": np.reciprocal,
    "exp": np.exp,
    "log": np.log,
    "softplus": _softplus,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "at_most": np.less_equal,
}


def rows_per_block(width: int) -> int:
    """How many parameter vectors to evaluate at once over `width` points."""
    return max(1, _BLOCK // max(width, 1))


class Program:
    """A tape that computes `outputs` (nodes of one graph) from parameter vectors and data."""

    def __init__(self, outputs: Iterable[Node], parameters: Iterable[str]):
        self._outputs = list(outputs)
        nodes = sorted(below(self._outputs), key=lambda node: node.index)
        self._columns = {name: i for i, name in enumerate(parameters)}
        self._data_nodes = [node for node in nodes if not node.reach & THETA]
        self._theta_nodes = [node for node in nodes if node.reach == THETA]
        self._steps = [node for node in nodes if node.reach == FULL and node.op != "hidden"]
        self._hidden = [node for node in nodes if node.op == "hidden"]
        self._home, self._n_scratch = self._allocate()

    def prepare(self, variables: Mapping[str, np.ndarray]) -> dict[Node, np.ndarray | float]:
        """What depends on the data alone, for `run`.

        Args:
            variables: Column name to float64 array (N,).
        """
        known = {}
        for node in self._data_nodes:
            if node.op == "number":
                known[node] = node.payload
            elif node.op == "variable":
                known[node] = variables[node.payload]
            else:
                value = _OPERATIONS[node.op](*(known[arg] for arg in node.args))
                known[node] = np.maximum(value, _LOG_OF_ZERO) if node.op == "log" else value
        return known

    def run(self, theta: np.ndarray, data: Mapping[Node, object], results: list[np.ndarray], hidden=None) -> None:
        """Fill `results`, one float64 array (B, N) per output, each contiguous in N.

        Args:
            theta: Parameter vectors (B, P).
            data: What `prepare` gave.
            results: Where to write.
            hidden: Values of the hidden quantity (B, N), for programs that have one.
        """
        known = dict(data)
        for node in self._theta_nodes:
            known[node] = (
                theta[:, self._columns[node.payload], None]
                if node.op == "parameter"
                else _OPERATIONS[node.op](*(known[arg] for arg in node.args))
            )
        count, width = results[0].shape
        rows = min(count, rows_per_block(width))
        scratch = np.empty((self._n_scratch, rows, width))
        for start in range(0, count, rows):
            self._run_block(slice(start, min(start + rows, count)), known, results, scratch, hidden)

    def _run_block(self, block, known, results, scratch, hidden) -> None:
        size = block.stop - block.start
        local = {} if hidden is None else dict.fromkeys(self._hidden, hidden[block])
        for node in self._theta_nodes:
            local[node] = known[node][block]
        for node in self._steps:
            kind, place = self._home[node]
            out = results[place][block] if kind == "result" else scratch[place, :size]
            args = [local[arg] if arg in local else known[arg] for arg in node.args]
            if node.op == "softplus":
                _softplus(args[0], out, scratch[-1, :size])
            else:
                _OPERATIONS[node.op](*args, out)
            local[node] = out
        for place, node in enumerate(self._outputs):
            if self._home.get(node) != ("result", place):
                results[place][block] = local[node] if node in local else known[node]

    def _allocate(self) -> tuple[dict[Node, tuple[str, int]], int]:
        """Where each step writes: into a result, or into a scratch array that is free again after its last use."""
        home = {}
        for place, node in enumerate(self._outputs):
            if node.reach == FULL and node.op != "hidden":
                home.setdefault(node, ("result", place))
        last_use = {arg: i for i, node in enumerate(self._steps) for arg in node.args}
        free, used = [], 0
        for i, node in enumerate(self._steps):
            # An elementwise operation may write over its own input, so inputs are freed first.
            for arg in dict.fromkeys(node.args):
                if last_use[arg] == i and home.get(arg, ("",))[0] == "scratch":
                    free.append(home[arg][1])
            if node not in home:
                if not free:
                    free.append(used)
                    used += 1
                home[node] = ("scratch", free.pop())
        return home, used + any(node.op == "softplus" for node in self._steps)


_GREEK = frozenset(
    ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi"]
) | {"pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"}
# How tightly each operation binds; an operand that binds less tightly is put in parentheses.
_SUM, _TERM, _SIGN, _POWER, _ATOM = range(5)


def plain(source) -> str:
    """The formula with column names as they are, then its parts; `source` is a `formula.Source`."""
    text = " = ".join(ast.unparse(tree) for tree in source.trees)
    if source.where_trees:
        text += " where " + "; ".join(f"{name} = {ast.unparse(tree)}" for name, tree in source.where_trees.items())
    return text.replace(" ** ", "^").replace(" * ", "*").replace(" / ", "/")


def latex(source, variables: Iterable[str]) -> str:
    """The formula in LaTeX, columns by their symbols, the parts of `where` after the formula."""
    names = [*source.names, *source.where, UNKNOWN]
    symbols = _symbols(names, tuple(variables))
    clauses = [" = ".join(_write(tree, symbols)[0] for tree in source.trees)]
    if not source.implicit:
        clauses[0] = f"{UNKNOWN} = {clauses[0]}"
    clauses += [f"{symbols[name]} = {_write(tree, symbols)[0]}" for name, tree in source.where_trees.items()]
    return r",\quad ".join(clauses)


def _symbols(names: list[str], variables: tuple[str, ...]) -> dict[str, str]:
    symbols = {name: _parameter_symbol(name) for name in names if name not in variables}
    for name in variables:
        symbol = COLUMNS[name].symbol if name in COLUMNS else None
        # A parameter of the same letter keeps it; the column is then spelled out.
        taken = symbol is None or symbol in symbols.values()
        symbols[name] = rf"\mathrm{{{_escaped(name)}}}" if taken else symbol
    return symbols


def _parameter_symbol(name: str) -> str:
    # x0, R_D, N_eff and Dl are a letter with an index; anything else but a Greek letter is a word.
    parts = re.fullmatch(r"(?P<stem>[A-Za-z]|[A-Za-z]{2,}?)(?P<index>\d+|_[A-Za-z0-9]+|(?<=[A-Z])[a-z])?", name)
    stem, index = (parts["stem"], (parts["index"] or "").lstrip("_")) if parts else (name, "")
    if stem in _GREEK:
        stem = "\\" + stem
    elif len(stem) > 1:
        return rf"\mathrm{{{_escaped(name)}}}"
    if len(index) > 1 and not index.isdigit():
        index = rf"\mathrm{{{index}}}"
    return f"{stem}_{{{index}}}" if index else stem


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def _write(tree: ast.expr, symbols: Mapping[str, str]) -> tuple[str, int]:
    """LaTeX of a tree and how tightly it binds."""
    match tree:
        case ast.Constant(value=value):
            return _number(value)
        case ast.Name(id=name):
            return symbols[name], _ATOM
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return "-" + _wrapped(operand, symbols, _TERM), _SIGN if isinstance(operand, ast.Name) else _SUM
        case ast.UnaryOp(operand=operand):
            return _write(operand, symbols)
        case ast.Call(func=ast.Name(id=name), args=args):
            return _call(name, [_write(arg, symbols)[0] for arg in args])
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return f"{_wrapped(left, symbols, _ATOM)}^{{{_write(right, symbols)[0]}}}", _POWER
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            return rf"\frac{{{_write(left, symbols)[0]}}}{{{_write(right, symbols)[0]}}}", _TERM
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return rf"{_wrapped(left, symbols, _TERM)}\,{_wrapped(right, symbols, _TERM)}", _TERM
        case ast.BinOp(left=left, op=ast.Sub(), right=right):
            return f"{_wrapped(left, symbols, _SUM)} - {_wrapped(right, symbols, _TERM)}", _SUM
        case ast.BinOp(left=left, right=right):
            return f"{_wrapped(left, symbols, _SUM)} + {_wrapped(right, symbols, _SUM)}", _SUM
    raise AssertionError(f"the parser let {ast.dump(tree)} through")


def _wrapped(tree: ast.expr, symbols: Mapping[str, str], tightness: int) -> str:
    text, binds = _write(tree, symbols)
    return text if binds >= tightness else rf"\left({text}\right)"


def _number(value: float) -> tuple[str, int]:
    digits, _, exponent = f"{value:.6g}".partition("e")
    if not exponent:
        return digits, _ATOM
    return rf"{digits} \times 10^{{{int(exponent)}}}", _TERM


def _call(name: str, args: list[str]) -> tuple[str, int]:
    if name == "sqrt":
        return rf"\sqrt{{{args[0]}}}", _ATOM
    return rf"\{name}\left({', '.join(args)}\right)", _ATOM if name in ("min", "max") else _POWER


_MOST_PARTS = 32
# Arguments of a sigmoid from the smallest double it gives to where it is one within a double's precision.
_BRACKET = (-740.0, 50.0)


class Source:
    """The parsed text of a law: its trees, the names in it, and how to lower it over a graph."""

    def __init__(self, expression: str, where: Mapping[str, str | None], owner: str):
        self.expression, self.where, self.owner = expression, dict(where), owner
        if not isinstance(expression, str):
            raise InputError(f"{owner}: the formula must be a text, not {type(expression).__name__}")
        self._check_where()
        self.implicit = "=" in expression
        self.trees = parse_equation(expression, owner) if self.implicit else (parse_formula(expression, owner),)
        bound = {name: text for name, text in self.where.items() if text is not None}
        self.where_trees = {name: parse_formula(text, f"{owner}, where {name}") for name, text in bound.items()}
        self.unbound = tuple(name for name in self.where if name not in bound)

    @property
    def all_trees(self) -> tuple:
        """The formula's trees and those of its parts."""
        return (*self.trees, *self.where_trees.values())

    @cached_property
    def names(self) -> list[str]:
        """Every free name, in the order in which it is written; the parts of `where` after the formula itself."""
        found = [name for tree in self.all_trees for name in names_in(tree)]
        bound = set(self.where) | ({UNKNOWN} if self.implicit else set())
        return [name for name in dict.fromkeys(found) if name not in bound]

    def lower(self, graph: Graph, leaves: Mapping[str, Node]) -> tuple[Node, Node | None]:
        """The node of the law's value and, for an equation, that of the residual its hidden quantity solves."""
        lowering = self._with_where(graph, leaves)
        if self.implicit:
            return lower_equation(lowering, *self.trees, self.expression)
        return lowering.lower(self.trees[0], self.expression), None

    def lower_excess(self, graph: Graph, leaves: Mapping[str, Node], target: Node) -> Node:
        """A node with the sign of (the law's value - target), for the inverse."""
        if not self.implicit:
            return graph.sub(self.lower(graph, leaves)[0], target)
        lowering = self._with_where(graph, leaves)
        return graph.neg(lower_equation(lowering, *self.trees, self.expression, at=target)[1])

    def _check_where(self) -> None:
        if len(self.where) > _MOST_PARTS:
            raise InputError(f"{self.owner}: `where` names {len(self.where)} parts; at most {_MOST_PARTS} are read")
        for name in self.where:
            if not is_name(name) or name == UNKNOWN:
                raise InputError(f"{self.owner}: {str(name)[:60]!r} in `where` cannot be used as a name")

    def _with_where(self, graph: Graph, leaves: Mapping[str, Node]) -> Lowering:
        lowering = Lowering(graph, leaves, self.owner)
        for name in self.unbound:
            lowering.names[name] = graph.variable(name)
        for name, tree in self.where_trees.items():
            unknown = [used for used in names_in(tree) if used not in lowering.names]
            if unknown:
                message = f"{unknown[0]} is not known yet; a part of `where` may use those before it"
                raise fault(f"{self.owner}, where {name}", self.where[name], tree.col_offset, message)
            lowering.names[name] = lowering.lower(tree, self.where[name])
        return lowering


class Formula:
    """The graph of a law with what follows from it; programs are built on first use."""

    def __init__(self, source: Source, parameters: Iterable, variables: Iterable[str]):
        self.names = tuple(parameter.name for parameter in parameters)
        self.graph = Graph()
        leaves = {p.name: self.graph.parameter(p.name, nonnegative=p.low >= 0) for p in parameters}
        leaves |= {name: self.graph.variable(name) for name in variables}
        try:
            self.value, self.residual = source.lower(self.graph, leaves)
        except RecursionError:
            raise InputError(f"{source.owner}: the parts of `where` are nested too deeply to be read") from None

    @cached_property
    def gradient(self) -> list[Node]:
        """The value's derivative by each parameter; an equation's solution has it by the implicit function theorem."""
        slopes = self.graph.gradient(self.value, (*self.names, HIDDEN))
        if self.residual is None:
            return slopes[:-1]
        residual = self.graph.gradient(self.residual, (*self.names, HIDDEN))
        factor = self.graph.neg(self.graph.mul(slopes[-1], self.graph.recip(residual[-1])))
        return [self.graph.add(s, self.graph.mul(factor, r)) for s, r in zip(slopes[:-1], residual[:-1])]

    @cached_property
    def linear(self) -> tuple[str, ...]:
        """The largest set of parameters in which the value is linear when all others are fixed, in the law's order."""
        if self.residual is not None:
            return ()
        depends = [frozenset(n for n in self.names if not self._is_zero(slope, n)) for slope in self.gradient]
        alone = [i for i, name in enumerate(self.names) if name not in depends[i]]
        for size in range(len(alone), 0, -1):
            for chosen in itertools.combinations(alone, size):
                names = {self.names[i] for i in chosen}
                if not any(depends[i] & names for i in chosen):
                    return tuple(self.names[i] for i in chosen)
        return ()

    @cached_property
    def value_program(self) -> Program:
        """The value alone."""
        return Program([self.value], self.names)

    @cached_property
    def gradient_program(self) -> Program:
        """The value, then its gradient."""
        return Program([self.value, *self.gradient], self.names)

    @cached_property
    def design_program(self) -> Program:
        """The value with the linear parameters at zero, then one column for each of them."""
        zeros = dict.fromkeys(self.linear, self.graph.number(0))
        columns = [self.gradient[self.names.index(name)] for name in self.linear]
        return Program([self.graph.substitute(self.value, zeros), *columns], self.names)

    @cached_property
    def residual_program(self) -> Program:
        """The residual of an equation and its slope in the hidden quantity."""
        return Program([self.residual, *self.graph.gradient(self.residual, [HIDDEN])], self.names)

    def _is_zero(self, node: Node, name: str) -> bool:
        return name not in node.depends or self.graph.gradient(node, [name])[0].is_number(0)


class Evaluator:
    """A law over fixed data: logarithms of the columns and all else that depends on the data alone are kept.

    All results are new float64 arrays. With theta (..., P) and data of N points: values are (..., N), gradients
    (..., P, N) and design columns (..., K, N), each contiguous in N, the order in which they are written fastest.
    Where the law is undefined the result is NaN or infinite, without a warning.
    """

    def __init__(self, formula: Formula, variables: Mapping[str, np.ndarray], size: int):
        self._formula, self._variables, self._size = formula, variables, size
        self._prepared = {}

    def value(self, theta: np.ndarray) -> np.ndarray:
        """Values (..., N) at parameter vectors theta (..., P)."""
        return self._run(self._formula.value_program, theta, 0)[0]

    def value_and_gradient(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values (..., N) and their derivatives (..., P, N) by each parameter, in one pass."""
        return self._run(self._formula.gradient_program, theta, len(self._formula.names))

    def design(self, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Offset (..., N) and columns (..., K, N): value = offset + the linear parameters times their columns.

        The linear parameters' entries in theta are ignored.
        """
        return self._run(self._formula.design_program, theta, len(self._formula.linear))

    def _run(self, program: Program, theta: np.ndarray, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
        theta = np.asarray(theta, dtype=float)
        lead = theta.shape[:-1]
        flat = np.ascontiguousarray(theta.reshape(-1, theta.shape[-1]))
        value = np.empty((len(flat), self._size))
        columns = np.empty((len(flat), n_columns, self._size))
        with np.errstate(all="ignore"):
            hidden = None if self._formula.residual is None else self._solve(flat)
            results = [value, *(columns[:, k] for k in range(n_columns))]
            program.run(flat, self._prepare(program), results, hidden)
        return value.reshape(*lead, self._size), columns.reshape(*lead, n_columns, self._size)

    def _prepare(self, program: Program) -> dict:
        if program not in self._prepared:
            with np.errstate(all="ignore"):
                self._prepared[program] = program.prepare(self._variables)
        return self._prepared[program]

    def _solve(self, theta: np.ndarray) -> np.ndarray:
        """The hidden quantity (B, N) at which the residual, which rises with it, is zero."""
        program = self._formula.residual_program
        data = self._prepare(program)
        roots = np.empty((len(theta), self._size))
        # In blocks, each of which stops when its own members have settled; small ones, since a step holds four times
        # as many temporaries as an evaluation does.
        rows = rows_per_block(4 * self._size)
        for start in range(0, len(theta), rows):
            block = slice(start, start + rows)
            roots[block] = rising_root(partial(_residual, program, theta[block], data), roots[block].shape)
        return roots


def _residual(program: Program, theta: np.ndarray, data: dict, position: np.ndarray) -> list[np.ndarray]:
    results = [np.empty(position.shape), np.empty(position.shape)]
    program.run(theta, data, results, position)
    return results


def rising_root(function: Callable, shape: tuple[int, ...]) -> np.ndarray:
    """The zeros of a rising function of each element, by Newton steps kept inside a shrinking bracket.

    Args:
        function: Takes an array of this shape and gives values and slopes.
        shape: Of the result. Roots are sought in `_BRACKET`; one beyond comes back at that end.
    """
    position = np.zeros(shape)
    low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
    settled = np.zeros(shape, dtype=bool)
    for _ in range(200):
        value, slope = function(position)
        low = np.where(value < 0, position, low)
        high = np.where(value > 0, position, high)
        step = np.clip(position - value / slope, *_BRACKET)
        # Newton's error is squared at each step, so a step this small lands within a double's precision; rounding
        # alone decides what further steps would do, so these elements stay.
        small = np.abs(step - position) <= 1e-9 * (1 + np.abs(position))
        inside = (step > low) & (step < high)
        halfway = np.clip((low + high) / 2, *_BRACKET)
        position = np.where(settled, position, np.where(small | inside, step, halfway))
        settled |= small | np.isnan(value)
        if settled.all():
            break
    return position


def checked_columns(
    variables: Mapping[str, object], names: Iterable[str], owner: str
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """The named columns as float64 arrays of one length, and their shape: () where all are single numbers.

    Raises:
        InputError: A column is missing, is not made of numbers, or the lengths differ.
    """
    found = {}
    for name in names:
        try:
            found[name] = np.asarray(variables[name], dtype=float)
        except KeyError:
            raise InputError(
                f"{owner} needs the column {name!r}; given are {', '.join(map(str, variables))}"
            ) from None
        except (TypeError, ValueError):
            raise InputError(f"{owner}: the column {name!r} must hold numbers") from None
    try:
        shape = np.broadcast_shapes(*(column.shape for column in found.values()))
    except ValueError:
        shape = (0, 0)
    if len(shape) > 1:
        lengths = ", ".join(f"{name} {column.shape}" for name, column in found.items())
        raise InputError(f"{owner}: the columns must be of one length; got {lengths}")
    size = math.prod(shape)
    return {name: np.array(np.broadcast_to(column, (size,))) for name, column in found.items()}, shape
