"""A formula's text, parsed to a checked syntax tree.

The text may come from a stranger's law.json. It is never evaluated: only the syntax listed here is accepted, and
everything else is refused with the column of the fault.
"""

import ast
import math
import operator
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from hf_scaling.errors import InputError

FUNCTIONS: dict[str, tuple[int, Callable[..., float]]] = {
    "exp": (1, math.exp),
    "log": (1, math.log),
    "sqrt": (1, math.sqrt),
    "min": (2, min),
    "max": (2, max),
}
OPERATORS: dict[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: math.pow,
}

#: The unknown of an equation, and the names that replace its two gaps, which no text can contain.
UNKNOWN = "L"
GAP_ABOVE_LOW, GAP_BELOW_HIGH = "L - low", "high - L"

# Far above any published law, and small enough that no later stage takes long.
_MAX_CHARACTERS = 2000
_MAX_DEPTH = 100
_MAX_PARTS = 32
_MAX_NUMBER = 1e100
_MAX_EXPONENT = 1000.0
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}\Z")

_HINTS: dict[type[ast.AST], str] = {
    ast.BitXor: "'^' is not a power here; write **",
    ast.Compare: "comparisons are not allowed; write min(a, b) or max(a, b)",
    ast.IfExp: "conditions are not allowed; write min(a, b) or max(a, b)",
    ast.Attribute: "a dot is not allowed; write the name of a column or a parameter alone",
    ast.Subscript: "square brackets are not allowed; write the name of a column or a parameter alone",
    ast.Tuple: "a comma is allowed only inside min(a, b) and max(a, b); write decimals with a point",
}


class FormulaText:
    """The text of a law and of the parts it names, parsed and checked.

    Args:
        expression: A formula, or an equation in the unknown L.
        where: Name of a part to its formula; None for a part that is bound later.
        owner: What the text belongs to, for error messages, such as "law 'mine'".

    Attributes:
        trees: The syntax tree of the formula, or of the two sides of the equation.
        parts: Name to syntax tree of the parts in `where`.
        unbound: The parts that are None.
        names: Every other name, in the order of the text.
        folded: `trees` with constants evaluated and, in an equation, each gap of L replaced by one name.
        folded_parts: `parts` with constants evaluated.

    Raises:
        InputError: A text is not a formula; the message gives the column of the fault.
    """

    def __init__(self, expression: str, where: Mapping[str, str | None], owner: str):
        if not isinstance(expression, str):
            raise InputError(f"{owner}: the formula must be a text, not {type(expression).__name__}")
        if len(where) > _MAX_PARTS:
            raise InputError(f"{owner}: `where` has {len(where)} parts; at most {_MAX_PARTS} are allowed")
        for name in where:
            if not is_name(name) or name == UNKNOWN:
                raise InputError(f"{owner}: {str(name)[:60]!r} in `where` cannot be used as a name")
        self.expression, self.where, self.owner = expression, dict(where), owner
        self.is_equation = "=" in expression
        self.trees = parse_equation(expression, owner) if self.is_equation else (parse_formula(expression, owner),)
        bound = {name: text for name, text in where.items() if text is not None}
        self.parts = {name: parse_formula(text, f"{owner}, where {name}") for name, text in bound.items()}
        self.unbound = tuple(name for name in where if name not in bound)
        used = dict.fromkeys(name for tree in (*self.trees, *self.parts.values()) for name in names_in(tree))
        self.names = [n for n in used if n not in where and not (self.is_equation and n == UNKNOWN)]
        # With constants evaluated: the parts in their order, then the formula.
        self.folded_parts: dict[str, ast.expr] = {}
        constants: dict[str, float] = {}
        known = {*self.names, *self.unbound}
        for name, tree in self.parts.items():
            text, of_part = str(self.where[name]), f"{owner}, where {name}"
            unknown = [used for used in names_in(tree) if used not in known]
            if unknown:
                message = f"{unknown[0]} is not known yet; a part of `where` may use the parts before it"
                raise fault(of_part, text, tree.col_offset, message)
            known.add(name)
            self.folded_parts[name] = folded = _Folder(text, of_part, constants).fold(tree)
            value = _constant(folded)
            if value is not None:
                constants[name] = value
        if self.is_equation:
            nodes = [node for tree in self.trees for node in ast.walk(tree) if isinstance(node, ast.expr)]
            gaps = [[node for node in nodes if _is_gap(node, side)] for side in ("left", "right")]
            ends = [{name for gap in of_side for name in names_in(gap)} - {UNKNOWN} for of_side in gaps]
            unknowns = [node for node in nodes if isinstance(node, ast.Name) and node.id == UNKNOWN]
            if [len(names) for names in ends] != [1, 1] or len(unknowns) != sum(map(len, gaps)):
                message = (
                    f"the unknown {UNKNOWN} is allowed only in ({UNKNOWN} - low) and (high - {UNKNOWN}), both names"
                )
                raise fault(owner, expression, unknowns[0].col_offset if unknowns else 0, message)
            # The names of the two bounds of L.
            self.low, self.high = ends[0].pop(), ends[1].pop()
        folder = _Folder(expression, owner, constants, self.is_equation)
        self.folded = [folder.fold(tree) for tree in self.trees]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, FormulaText) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @cached_property
    def plain(self) -> str:
        """The formula as one line of text, then its parts."""
        text = " = ".join(ast.unparse(tree) for tree in self.trees)
        if self.parts:
            text += " where " + "; ".join(f"{name} = {ast.unparse(tree)}" for name, tree in self.parts.items())
        return text.replace(" ** ", "^").replace(" * ", "*").replace(" / ", "/")

    @property
    def _key(self) -> tuple:
        return self.expression, tuple(self.where.items())


def parse_formula(text: str, owner: str) -> ast.expr:
    """Parse a formula of + - * / **, parentheses, numbers, names and exp, log, sqrt, min, max.

    Args:
        text: The formula, such as "E + A*n_params**-alpha".
        owner: What the text belongs to, for error messages, such as "law 'mine'".

    Returns:
        The checked syntax tree.

    Raises:
        InputError: The text is not a formula; the message gives the column of the fault.
    """
    text = _checked_characters(text, owner)
    lead = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        if not error.offset:
            raise fault(owner, text, len(text.rstrip()), "the formula ends too early") from None
        message = f"invalid syntax in the formula ({error.msg})"
        raise fault(owner, text, error.offset - 1 + lead, message) from None
    except (ValueError, RecursionError, MemoryError):
        raise fault(owner, text, 0, "the formula is nested too deeply") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.expr) and node.end_col_offset is not None:
            node.col_offset, node.end_col_offset = node.col_offset + lead, node.end_col_offset + lead
    waiting = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            raise fault(owner, text, node.col_offset, f"the formula is nested more than {_MAX_DEPTH} deep")
        if problem := _problem(node):
            column = node.col_offset
            if isinstance(node, ast.BinOp) and node.left.end_col_offset is not None:
                # The operator, after the parentheses that close the left operand.
                gap = text[node.left.end_col_offset : node.right.col_offset]
                column = node.left.end_col_offset + len(gap) - len(gap.lstrip(" )"))
            raise fault(owner, text, column, problem)
        waiting += [(child, depth + 1) for child in _operands(node)]
    return tree


def parse_equation(text: str, owner: str) -> tuple[ast.expr, ast.expr]:
    """Parse "left = right", both sides formulas; InputError as for `parse_formula`."""
    text = _checked_characters(text, owner)
    left, _, right = text.partition("=")
    if "=" in right:
        raise fault(owner, text, len(left) + 1 + right.index("="), "an equation has one '='")
    return parse_formula(left, owner), parse_formula(" " * (len(left) + 1) + right, owner)


def fault(owner: str, text: str, column: int, message: str) -> InputError:
    """The error for a fault at `column` (counted from 0) of `text`: one line, the text cut to the place."""
    start = max(0, column - 40)
    excerpt = ("..." if start else "") + text[start : start + 80] + ("..." if start + 80 < len(text) else "")
    return InputError(f"{owner}, column {column + 1}: {message}; in {excerpt!r}")


def is_name(text: object) -> bool:
    """Whether the text may name a parameter, a column or a part of a formula."""
    return isinstance(text, str) and bool(_NAME.match(text)) and text not in FUNCTIONS


def names_in(tree: ast.expr) -> list[str]:
    """The names in a checked tree, functions left out, in the order of the text."""
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in functions]
    return list(dict.fromkeys(node.id for node in sorted(names, key=lambda node: node.col_offset)))


def _checked_characters(text: str, owner: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"{owner}: the formula must be a text, not {type(text).__name__}")
    if len(text) > _MAX_CHARACTERS:
        raise InputError(f"{owner}: the formula has {len(text)} characters; at most {_MAX_CHARACTERS} are allowed")
    text = re.sub(r"[\t\r\n]", " ", text)
    for column, character in enumerate(text):
        if not " " <= character <= "~" or character in "#;\\`\"'":
            raise fault(owner, text, column, f"the character {character!r} is not allowed in a formula")
    if not text.strip():
        raise InputError(f"{owner}: the formula is empty")
    return text


def _operands(node: ast.expr) -> list[ast.expr]:
    match node:
        case ast.BinOp(left=left, right=right):
            return [left, right]
        case ast.UnaryOp(operand=operand):
            return [operand]
        case ast.Call(args=args):
            return list(args)
    return []


def _problem(node: ast.expr) -> str | None:
    """What is wrong with this node, without its operands; None for nothing."""
    match node:
        case ast.Constant(value=bool()) | ast.Constant(value=str() | bytes() | complex() | None):
            return "only numbers and names are allowed"
        case ast.Constant(value=int() | float() as value):
            return None if abs(value) <= _MAX_NUMBER else f"a number larger than {_MAX_NUMBER:g} is not allowed"
        case ast.Name(id=name):
            if name in FUNCTIONS:
                return f"{name} is a function; write {name}(...)"
            return None if is_name(name) else "a name starts with a letter and has at most 40 letters, digits and _"
        case ast.UnaryOp(op=sign):
            return None if isinstance(sign, ast.USub | ast.UAdd) else "the only signs are + and -"
        case ast.BinOp(op=op):
            message = "this operator is not allowed; the operators are + - * / **"
            return None if type(op) in OPERATORS else _HINTS.get(type(op), message)
        case ast.Call(func=ast.Name(id=name), args=args, keywords=keywords) if name in FUNCTIONS:
            count, _ = FUNCTIONS[name]
            plural = "s" if count > 1 else ""
            return None if len(args) == count and not keywords else f"{name} takes {count} value{plural}"
        case ast.Call():
            return f"unknown function; the functions are {', '.join(FUNCTIONS)}"
    message = f"this ({type(node).__name__}) is not allowed; a formula consists of + - * / ** and names"
    return _HINTS.get(type(node), message)


class _Folder:
    """Evaluates the constant parts of a checked tree and, in an equation, gives each gap of L a name."""

    def __init__(self, text: str, owner: str, constants: Mapping[str, float], is_equation: bool = False):
        self.text, self.owner, self.constants, self.is_equation = text, owner, constants, is_equation

    def fold(self, node: ast.expr) -> ast.expr:
        """A new tree.

        Raises:
            InputError: A constant part has no finite value, or an exponent is too large.
        """
        for side, name in (("left", GAP_ABOVE_LOW), ("right", GAP_BELOW_HIGH)):
            if self.is_equation and _is_gap(node, side):
                return ast.copy_location(ast.Name(name, ast.Load()), node)
        operands = [self.fold(operand) for operand in _operands(node)]
        match node:
            case ast.Name(id=name) if name in self.constants:
                return ast.copy_location(ast.Constant(self.constants[name]), node)
            case ast.UnaryOp(op=ast.UAdd()):
                return operands[0]
            case ast.UnaryOp(op=op):
                return self._evaluated(ast.UnaryOp(op, *operands), node, operands, operator.neg)
            case ast.Call(func=ast.Name(id=name) as function):
                return self._evaluated(ast.Call(function, operands, []), node, operands, FUNCTIONS[name][1])
            case ast.BinOp(op=op):
                value, column = _constant(operands[1]), operands[1].col_offset
                if isinstance(op, ast.Div) and value == 0:
                    raise fault(self.owner, self.text, column, "division by zero")
                if isinstance(op, ast.Pow) and value is not None and abs(value) > _MAX_EXPONENT:
                    message = f"an exponent beyond {_MAX_EXPONENT:g} is not allowed"
                    raise fault(self.owner, self.text, column, message)
                return self._evaluated(ast.BinOp(operands[0], op, operands[1]), node, operands, OPERATORS[type(op)])
        return node

    def _evaluated(
        self, new: ast.expr, old: ast.expr, operands: Sequence[ast.expr], function: Callable[..., float]
    ) -> ast.expr:
        values = [value for value in map(_constant, operands) if value is not None]
        if len(values) < len(operands):
            return ast.copy_location(new, old)
        try:
            result = function(*values)
        except (ValueError, OverflowError, ZeroDivisionError):
            result = math.nan
        if not math.isfinite(result):
            raise fault(self.owner, self.text, old.col_offset, "this has no finite value")
        return ast.copy_location(ast.Constant(result), old)


def _constant(node: ast.expr) -> float | None:
    match node:
        case ast.Constant(value=int() | float() as value):
            return float(value)
    return None


def _is_gap(node: ast.AST, side: str) -> bool:
    """Whether the node is (L - low), with L on the left, or (high - L), with L on the right."""
    match node:
        case ast.BinOp(left=ast.Name(id=left), op=ast.Sub(), right=ast.Name(id=right)):
            return (left if side == "left" else right) == UNKNOWN
    return False
