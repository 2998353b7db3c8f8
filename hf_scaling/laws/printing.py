"""Formulas as text: plain and LaTeX, written from the same trees that are evaluated."""

import ast
import re
from collections.abc import Iterable, Mapping

from hf_scaling.laws.columns import COLUMNS
from hf_scaling.laws.lowering import UNKNOWN

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
