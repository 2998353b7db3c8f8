"""Formulas as graphs of shared nodes, simplified as they are built, and their derivatives.

Every node of a `Graph` is interned: equal subexpressions are one object, so whatever is built from them (the value,
its gradient, the second derivatives that tell which parameters enter linearly) is evaluated once. Shapes decide what
is cheap: a node that depends on the parameters alone has one number per parameter vector, one that depends on the data
alone is computed once per data set; only nodes that depend on both cost a pass over everything. The simplifications
below move signs and factors to the cheap side.
"""

import math
from collections.abc import Iterable

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
