"""From a formula's text to a checked syntax tree.

The text may come from a stranger's law.json: it is never evaluated, only what the whitelist below names gets through,
and everything else is refused with the column of the fault.
"""

import ast
import re
import warnings

from hf_scaling.errors import InputError

FUNCTIONS = {"exp": 1, "log": 1, "sqrt": 1, "min": 2, "max": 2}

# Far beyond any law ever published, and small enough that no stage of the compiler can be made to work for long.
_LONGEST_TEXT = 2000
_DEEPEST = 100
_LARGEST_NUMBER = 1e100
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,39}\Z")

_OPERATORS = (ast.Add, ast.Sub, ast.Mult, ast.Div, ast.Pow)
_HINTS = {
    ast.BitXor: "'^' is not a power here; write **",
    ast.Compare: "comparisons are not allowed; write min(a, b) or max(a, b)",
    ast.IfExp: "conditions are not allowed; write min(a, b) or max(a, b)",
    ast.Attribute: "a dot is not allowed; write the bare name of a column or a parameter",
    ast.Subscript: "square brackets are not allowed; write the bare name of a column or a parameter",
    ast.Tuple: "a comma stands only inside min(a, b) and max(a, b); write decimals with a point",
}


def parse_formula(text: str, owner: str) -> ast.expr:
    """Read a formula made of + - * / **, parentheses, numbers, names and exp, log, sqrt, min, max.

    Args:
        text: The formula, such as "E + A*n_params**-alpha".
        owner: What the text belongs to, for error messages, such as "law 'mine'".

    Returns:
        The checked `ast` expression.

    Raises:
        InputError: The text is not such a formula; the message gives the column of the fault.
    """
    text = _plain_text(text, owner)
    lead = len(text) - len(text.lstrip())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError as error:
        if not error.offset:
            raise fault(owner, text, len(text.rstrip()), "the formula ends too early") from None
        message = f"the formula cannot be read here ({error.msg})"
        raise fault(owner, text, error.offset - 1 + lead, message) from None
    except (ValueError, RecursionError, MemoryError):
        raise fault(owner, text, 0, "the formula is nested too deeply to be read") from None
    for node in ast.walk(tree):
        if hasattr(node, "col_offset"):
            node.col_offset, node.end_col_offset = node.col_offset + lead, node.end_col_offset + lead
    _check(tree, text, owner)
    return tree


def parse_equation(text: str, owner: str) -> tuple[ast.expr, ast.expr]:
    """Read "left = right", both sides formulas; InputError as for `parse_formula`."""
    text = _plain_text(text, owner)
    left, _, right = text.partition("=")
    if "=" in right:
        raise fault(owner, text, len(left) + 1 + right.index("="), "an equation has one '='")
    return parse_formula(left, owner), parse_formula(" " * (len(left) + 1) + right, owner)


def fault(owner: str, text: str, column: int, message: str) -> InputError:
    """The error for a fault at `column` (counted from 0) of `text`; one line, the text cut to the place."""
    start = max(0, column - 40)
    shown = ("..." if start else "") + text[start : start + 80] + ("..." if start + 80 < len(text) else "")
    return InputError(f"{owner}, column {column + 1}: {message}; in {shown!r}")


def is_name(text: object) -> bool:
    """Whether the text may name a parameter, a column or a part of a formula."""
    return isinstance(text, str) and bool(_NAME.match(text)) and text not in FUNCTIONS


def names_in(tree: ast.expr) -> list[str]:
    """The names a checked tree uses, functions left out, in the order in which they are written."""
    functions = {id(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
    found = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and id(node) not in functions]
    return list(dict.fromkeys(node.id for node in sorted(found, key=lambda node: node.col_offset)))


def _plain_text(text: str, owner: str) -> str:
    if not isinstance(text, str):
        raise InputError(f"{owner}: the formula must be a text, not {type(text).__name__}")
    if len(text) > _LONGEST_TEXT:
        raise InputError(f"{owner}: the formula has {len(text)} characters; at most {_LONGEST_TEXT} are read")
    text = re.sub(r"[\t\r\n]", " ", text)
    for column, character in enumerate(text):
        if not " " <= character <= "~" or character in "#;\\`\"'":
            raise fault(owner, text, column, f"the character {character!r} is not allowed in a formula")
    if not text.strip():
        raise InputError(f"{owner}: the formula is empty")
    return text


def _check(tree: ast.expr, text: str, owner: str) -> None:
    waiting = [(tree, 1)]
    while waiting:
        node, depth = waiting.pop()
        if depth > _DEEPEST:
            raise fault(owner, text, node.col_offset, f"the formula is nested more than {_DEEPEST} deep")
        problem = _problem(node)
        if problem:
            raise fault(owner, text, _place(node, text), problem)
        waiting += [(child, depth + 1) for child in _operands(node)]


def _operands(node: ast.expr) -> list[ast.expr]:
    if isinstance(node, ast.BinOp):
        return [node.left, node.right]
    if isinstance(node, ast.UnaryOp):
        return [node.operand]
    return list(node.args) if isinstance(node, ast.Call) else []


def _place(node: ast.expr, text: str) -> int:
    """The column of the operator between two operands, of the start of anything else."""
    if not isinstance(node, ast.BinOp):
        return node.col_offset
    end = node.left.end_col_offset
    gap = text[end : node.right.col_offset]
    return end + len(gap) - len(gap.lstrip(" )"))


def _problem(node: ast.expr) -> str | None:
    """What is wrong with this one node, or None."""
    if isinstance(node, ast.Constant):
        return _number_problem(node.value)
    if isinstance(node, ast.Name):
        if node.id in FUNCTIONS:
            return f"{node.id} is a function; write {node.id}(...)"
        return None if is_name(node.id) else "a name starts with a letter and has at most 40 letters, digits and _"
    if isinstance(node, ast.UnaryOp):
        return None if isinstance(node.op, ast.USub | ast.UAdd) else "only + and - may stand before a value"
    if isinstance(node, ast.BinOp):
        return _operator_problem(node)
    if isinstance(node, ast.Call):
        return _call_problem(node)
    return _HINTS.get(
        type(node), f"this ({type(node).__name__}) is not allowed; a formula is made of + - * / ** and names"
    )


def _number_problem(value: object) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "only plain numbers and names are allowed"
    if not abs(value) <= _LARGEST_NUMBER:
        return f"a number larger than {_LARGEST_NUMBER:g} is not allowed"
    return None


def _operator_problem(node: ast.BinOp) -> str | None:
    if isinstance(node.op, _OPERATORS):
        return None
    return _HINTS.get(type(node.op), "this operator is not allowed; use + - * / **")


def _call_problem(node: ast.Call) -> str | None:
    if not isinstance(node.func, ast.Name) or node.func.id not in FUNCTIONS:
        return f"this function is unknown; the functions are {', '.join(FUNCTIONS)}"
    needed = FUNCTIONS[node.func.id]
    if node.keywords or len(node.args) != needed:
        return f"{node.func.id} takes {needed} value{'s' if needed > 1 else ''}"
    return None
