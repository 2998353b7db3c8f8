"""From a checked syntax tree to a graph that can be evaluated without overflow.

Powers become exp(exponent * log(base)), the logarithm is taken apart over products and powers (log(x) is then computed
once per data set), products of powers become one exp, and the logarithm of a sum of powers, as in (1 + u**p)**q with a
huge u**p, becomes a softplus. An equation without a solution in closed form, as m4 is, becomes a residual in one
hidden quantity (`lower_equation`).
"""

import ast
import copy
import math
from collections.abc import Mapping
from functools import reduce

from hf_scaling.laws.algebra import DATA, Graph, Node
from hf_scaling.laws.parsing import fault

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
