"""A law's formula as a sympy expression: its derivatives, its linear parameters, its numpy programs and its LaTeX.

Importing this module loads sympy; `hf_scaling.laws.law` does so when a law is first evaluated.

Powers are written as exp(exponent * log(base)), with functions defined here, which sympy does not simplify back to
powers. So the logarithms of the data are computed once, and (1 + u**p)**q uses a softplus, which cannot overflow.
"""

import ast
import itertools
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, lru_cache, partial, reduce, wraps
from typing import TypeVar

import sympy
from sympy import Add, Expr, Mul, Pow, S, Symbol

from hf_scaling.errors import InputError
from hf_scaling.laws.evaluator import DATA, FULL, THETA, Program
from hf_scaling.laws.parsing import GAP_ABOVE_LOW, GAP_BELOW_HIGH, UNKNOWN, FormulaText
from hf_scaling.text import COLUMNS

T = TypeVar("T")

# Operations in a formula with its parts inserted; the largest law of the catalogue has about 150.
_MAX_OPERATIONS = 1500
# Whole powers of a parameter, which may be zero or negative, are products up to this one.
_MAX_PRODUCT = 8


class _Column(Symbol):
    """A column of the data."""


# The hidden quantity of an equation, and the target of an inverse; no text contains a name with a space.
_POSITION = Symbol("position of L", real=True)
_TARGET = Symbol("the target", nonnegative=True)


class _Exp(sympy.Function):
    """exp(z)."""

    nargs = 1
    is_nonnegative = True

    @classmethod
    def eval(cls, z):
        return z.args[0] if isinstance(z, _Log) else S.One if z.is_zero else None

    def fdiff(self, argindex=1):
        return self


class _Log(sympy.Function):
    """log(z), with products and sums of two powers written out where no factor can be negative."""

    nargs = 1

    @classmethod
    def eval(cls, z):
        if z.is_Number:
            return _number(math.log(z)) if z.is_positive else S.NaN
        if isinstance(z, _Exp):
            return z.args[0]
        if isinstance(z, _Reciprocal) and z.args[0].is_nonnegative:
            return -_Log(z.args[0])
        if z.is_Mul and all(factor.is_nonnegative for factor in z.args):
            return Add(*map(_Log, z.args))
        if z.is_Pow and z.base.is_nonnegative:
            return z.exp * _Log(z.base)
        if z.is_Add and len(z.args) == 2:
            # Not for products, since a coefficient of zero has no logarithm.
            logs = [_Log(t) for t in z.args if isinstance(t, _Exp) or (t.is_Number and t.is_positive)]
            return logs[0] + _Softplus(logs[1] - logs[0]) if len(logs) == 2 else None
        return None

    def fdiff(self, argindex=1):
        return _Reciprocal(self.args[0])


class _Reciprocal(sympy.Function):
    """1 / z."""

    nargs = 1

    @classmethod
    def eval(cls, z):
        if z.is_Number:
            return S.NaN if z.is_zero else _number(1 / float(z))
        if isinstance(z, _Reciprocal):
            return z.args[0]
        if isinstance(z, _Exp):
            return _Exp(-z.args[0])
        return -_Reciprocal(-z) if z.is_Mul and z.args[0] == -1 else None

    def fdiff(self, argindex=1):
        return -(self**2)

    def _eval_is_nonnegative(self):
        return self.args[0].is_nonnegative


class _Softplus(sympy.Function):
    """log(1 + exp(z)), which neither overflows nor loses small values."""

    nargs = 1
    is_nonnegative = True

    def fdiff(self, argindex=1):
        return _Exp(self.args[0] - self)


class _AtMost(sympy.Function):
    """1 where a <= b, 0 elsewhere."""

    nargs = 2
    is_nonnegative = True

    def fdiff(self, argindex=1):
        return S.Zero


class _Least(sympy.Function):
    """The smaller of a and b."""

    nargs = 2

    @classmethod
    def eval(cls, a, b):
        return a if a == b else None

    def fdiff(self, argindex=1):
        return _AtMost(*self.args) if argindex == 1 else 1 - _AtMost(*self.args)

    def _eval_is_nonnegative(self):
        return all(argument.is_nonnegative for argument in self.args) or None


class _Greatest(_Least):
    """The larger of a and b."""

    def fdiff(self, argindex=1):
        return _AtMost(*self.args[::-1]) if argindex == 1 else 1 - _AtMost(*self.args[::-1])

    def _eval_is_nonnegative(self):
        return any(argument.is_nonnegative for argument in self.args) or None


class _Subtract(sympy.Function):
    """a - b, kept as one operation."""

    nargs = 2

    def fdiff(self, argindex=1):
        return S.One if argindex == 1 else S.NegativeOne


def _number(value: float) -> Expr:
    return sympy.Integer(value) if value == int(value) and abs(value) < 2**53 else sympy.Float(value)


def _multiply(a: Expr, b: Expr) -> Expr:
    """a * b with all powers among the factors in one exp, so that it is evaluated once."""
    factors = [*Mul.make_args(a), *Mul.make_args(b)]
    exponents = [factor.args[0] for factor in factors if isinstance(factor, _Exp)]
    return Mul(*(factor for factor in factors if not isinstance(factor, _Exp)), _Exp(Add(*exponents)))


def _power(base: Expr, exponent: Expr) -> Expr:
    is_data = all(isinstance(symbol, _Column) for symbol in base.free_symbols)
    if exponent.is_Integer and abs(exponent) <= (1 if is_data else _MAX_PRODUCT) and not isinstance(base, _Exp):
        return base**exponent if exponent >= 0 else _Reciprocal(base**-exponent)
    return _Exp(_multiply(exponent, _Log(base)))


def _extremum(function: Callable[[Expr, Expr], Expr], a: Expr, b: Expr) -> Expr:
    has_power = any(isinstance(factor, _Exp) for side in (a, b) for factor in Mul.make_args(side))
    if has_power and all(side.is_nonnegative and not side.is_zero for side in (a, b)):
        # Logarithms are compared, so that a power that overflows and is not selected leaves no NaN in the gradient.
        return _Exp(function(_Log(a), _Log(b)))
    return function(a, b)


#: What operators and functions of a formula mean when it is evaluated, and when it is printed as it is written.
_EVALUATED: dict[object, Callable[..., Expr]] = {
    ast.USub: operator.neg,
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: _multiply,
    ast.Div: lambda a, b: _multiply(a, _Reciprocal(b)),
    ast.Pow: _power,
    "exp": _Exp,
    "log": _Log,
    "sqrt": lambda z: _Exp(_multiply(_number(0.5), _Log(z))),
    "min": partial(_extremum, _Least),
    "max": partial(_extremum, _Greatest),
}
_unevaluated_sum, _unevaluated_product = partial(Add, evaluate=False), partial(Mul, evaluate=False)
_PRINTED: dict[object, Callable[..., Expr]] = {
    ast.UAdd: lambda a: a,
    ast.USub: lambda a: _unevaluated_product(-1, a),
    ast.Add: lambda a, b: _unevaluated_sum(*Add.make_args(a), b),
    ast.Sub: lambda a, b: _unevaluated_sum(*Add.make_args(a), _unevaluated_product(-1, b)),
    ast.Mult: lambda a, b: _unevaluated_product(*Mul.make_args(a), b),
    ast.Div: lambda a, b: _unevaluated_product(*(Mul.make_args(a) if a != 1 else ()), Pow(b, -1, evaluate=False)),
    ast.Pow: partial(Pow, evaluate=False),
    "exp": partial(sympy.exp, evaluate=False),
    "log": partial(sympy.log, evaluate=False),
    "sqrt": partial(sympy.sqrt, evaluate=False),
    "min": partial(sympy.Min, evaluate=False),
    "max": partial(sympy.Max, evaluate=False),
}


def _convert(tree: ast.expr, names: Mapping[str, Expr], operations: Mapping[object, Callable[..., Expr]]) -> Expr:
    match tree:
        case ast.Constant(value=int() | float() as value):
            return _number(float(value))
        case ast.Name(id=name):
            return names[name]
        case ast.UnaryOp(op=op, operand=operand):
            return operations[type(op)](_convert(operand, names, operations))
        case ast.BinOp(left=left, op=op, right=right):
            return operations[type(op)](_convert(left, names, operations), _convert(right, names, operations))
        case ast.Call(func=ast.Name(id=function), args=arguments):
            return operations[function](*(_convert(argument, names, operations) for argument in arguments))
    raise AssertionError(f"the parser accepted {ast.dump(tree)}")


def _refuse_deep(function: Callable[..., T]) -> Callable[..., T]:
    """Turn the RecursionError of a formula that sympy cannot process into an error about the formula."""

    @wraps(function)
    def wrapped(owner: "Formula | FormulaText", *arguments: object) -> T:
        try:
            return function(owner, *arguments)
        except RecursionError:
            name = owner.text.owner if isinstance(owner, Formula) else owner.owner
            raise InputError(f"{name}: the formula is nested too deeply to be evaluated") from None

    return wrapped


class Formula:
    """The sympy expression of a law with what follows from it; programs are compiled on first use.

    Args:
        text: The parsed formula.
        parameters: Parameter name to whether it is never negative, in the order of the law.
        variables: Names of the columns.

    Attributes:
        value: The law's value.
        residual: The residual of an equation, which rises with the hidden quantity; 0 where there is no equation.

    Raises:
        InputError: The formula is too large, or has no value.
    """

    def __init__(self, text: FormulaText, parameters: Mapping[str, bool], variables: Sequence[str]):
        self.text, self.names, self.is_equation = text, tuple(parameters), text.is_equation
        assumptions = ({"real": True}, {"nonnegative": True})
        self.parameters = [Symbol(name, **assumptions[parameters[name]]) for name in self.names]
        # Sizes and counts are never negative.
        self.columns = {name: _Column(name, nonnegative=True) for name in (*variables, *text.unbound)}
        self._inverses: dict[str, Program] = {}
        self.value, self.residual = self._value_and_residual({}, None)

    @cached_property
    @_refuse_deep
    def linear(self) -> tuple[str, ...]:
        """The largest set of parameters in which the value is linear when all others are fixed, in the law's order."""
        if self.is_equation:
            return ()
        # A parameter inside a function is never linear, so the functions may be symbols here.
        functions = {part: Symbol(f"function {i}") for i, part in enumerate(self.value.atoms(sympy.Function))}
        inside = set().union(*(function.free_symbols for function in functions))
        flat = self.value.xreplace(functions)
        depends = {parameter: flat.diff(parameter).free_symbols for parameter in self.parameters}
        candidates = [p for p in self.parameters if p not in inside | depends[p]]
        for size in range(len(candidates), 0, -1):
            for subset in itertools.combinations(candidates, size):
                if not any(depends[parameter].intersection(subset) for parameter in subset):
                    return tuple(parameter.name for parameter in subset)
        return ()

    @cached_property
    @_refuse_deep
    def value_program(self) -> Program:
        """The value."""
        writer = self._writer()
        return writer.program.finish([writer.slot(self.value)])

    @cached_property
    @_refuse_deep
    def gradient_program(self) -> Program:
        """The value and its derivative by each parameter."""
        writer = self._writer()
        return writer.program.finish([writer.slot(self.value), *self._gradient(writer)])

    @cached_property
    @_refuse_deep
    def design_program(self) -> Program:
        """The value with the linear parameters at zero, and one column for each of them."""
        indices = [self.names.index(name) for name in self.linear]
        offset = self.value.xreplace({self.parameters[i]: S.Zero for i in indices})
        writer = self._writer()
        gradient = self._gradient(writer)
        return writer.program.finish([writer.slot(offset), *(gradient[i] for i in indices)])

    @cached_property
    @_refuse_deep
    def residual_program(self) -> Program:
        """The residual of an equation and its derivative by the hidden quantity."""
        writer = self._writer()
        return writer.program.finish([writer.slot(self.residual), *writer.gradient(self.residual, [_POSITION])])

    @_refuse_deep
    def excess_program(self, solve_for: str) -> Program:
        """A value with the sign of (the law - a target), where the hidden quantity is the logarithm of a variable.

        The target is one more parameter, after those of the law.
        """
        if solve_for not in self._inverses:
            value, residual = self._value_and_residual({solve_for: _Exp(_POSITION)}, _TARGET)
            writer = self._writer()
            excess = writer.slot(-residual if self.is_equation else value - _TARGET)
            self._inverses[solve_for] = writer.program.finish([excess])
        return self._inverses[solve_for]

    @_refuse_deep
    def _value_and_residual(self, replaced: Mapping[str, Expr], target: Expr | None) -> tuple[Expr, Expr]:
        """The value and, for an equation, the residual: log(left side) - log(right side), which rises with L.

        L is low + (high - low) * sigmoid(hidden quantity), so that both gaps keep their relative precision at either
        end; with a target, L is the target.
        """
        names = {**dict(zip(self.names, self.parameters)), **self.columns, **replaced}
        for name, tree in self.text.folded_parts.items():
            names[name] = self._checked(_convert(tree, names, _EVALUATED))
        if not self.is_equation:
            return self._checked(_convert(self.text.folded[0], names, _EVALUATED)), S.Zero
        low, high = names[self.text.low], names[self.text.high]
        if target is None:
            log_width = _Log(high - low)
            above, below = (_Exp(log_width - _Softplus(z)) for z in (-_POSITION, _POSITION))
        else:
            # For a target outside (low, high) one gap is zero: its logarithm is an infinity of the right sign.
            above, below = _Greatest(target - low, S.Zero), _Greatest(high - target, S.Zero)
        names |= {GAP_ABOVE_LOW: above, GAP_BELOW_HIGH: below}
        left, right = (_Log(_convert(side, names, _EVALUATED)) for side in self.text.folded)
        return low + above, self._checked(_Subtract(left, right))

    def _checked(self, expression: Expr) -> Expr:
        sizes: dict[Expr, int] = {}
        for part in _parts([expression]):
            sizes[part] = 1 + sum(sizes[argument] for argument in part.args)
        if sizes[expression] > _MAX_OPERATIONS:
            message = f"the formula has more than {_MAX_OPERATIONS:,} operations with its parts inserted"
            raise InputError(f"{self.text.owner}: {message}")
        if any(part in (S.NaN, S.ComplexInfinity) for part in sizes):
            raise InputError(f"{self.text.owner}: a part of the formula has no finite value")
        return expression

    def _gradient(self, writer: "_Writer") -> list[int]:
        """Slots of the derivative by each parameter; of an equation's value, by the implicit function theorem."""
        *slopes, by_position = writer.gradient(self.value, [*self.parameters, _POSITION])
        if not self.is_equation:
            return slopes
        *residuals, rise = writer.gradient(self.residual, [*self.parameters, _POSITION])
        factor = writer.negated(writer.product(by_position, writer.program.operation("Reciprocal", rise)))
        return [writer.sum(slope, writer.product(factor, residual)) for slope, residual in zip(slopes, residuals)]

    def _writer(self) -> "_Writer":
        writer = _Writer()
        symbols = {symbol.name: symbol for symbol in (*self.parameters, *self.columns.values())}
        writer.define(_POSITION, writer.program.leaf("hidden", 0))
        for name in (*self.text.names, *self.text.unbound):
            kind, payload = ("theta", self.names.index(name)) if name in self.names else ("variable", name)
            writer.define(symbols[name], writer.program.leaf(kind, payload))
        writer.define(_TARGET, writer.program.leaf("theta", len(self.names)))
        return writer


@lru_cache(maxsize=512)
def compiled(text: FormulaText, parameters: tuple[tuple[str, bool], ...], variables: tuple[str, ...]) -> Formula:
    """The formula of a law; laws with the same text share one, with its programs."""
    return Formula(text, dict(parameters), variables)


def _parts(roots: Sequence[Expr]) -> list[Expr]:
    """The distinct parts of the expressions, each after its arguments."""
    parts: dict[Expr, None] = {}
    waiting = [(root, False) for root in roots]
    while waiting:
        part, arguments_done = waiting.pop()
        if arguments_done:
            parts[part] = None
        elif part not in parts:
            waiting.append((part, True))
            waiting += [(argument, False) for argument in part.args]
    return list(parts)


class _Writer:
    """Writes expressions and their derivatives as operations of a program.

    Sums and products are computed in the order of the text, and derivatives from the outermost function inwards: they
    use what the value has computed, and are rounded in the same way in every program.
    """

    def __init__(self) -> None:
        self.program = Program()
        self.slots: dict[Expr, int] = {}
        # The positions in the text of the symbols of an expression, the last one first.
        self.order: dict[Expr, tuple[int, ...]] = {}
        self.zero, self.one = self.program.leaf("number", 0.0), self.program.leaf("number", 1.0)

    def define(self, symbol: Symbol, slot: int) -> None:
        """Set where the value of the next symbol of the text is."""
        self.slots[symbol], self.order[symbol] = slot, (len(self.slots),)

    def slot(self, expression: Expr) -> int:
        """The slot of an expression's value."""
        if expression not in self.slots:
            self.slots[expression] = self._write(expression)
        return self.slots[expression]

    def gradient(self, output: Expr, symbols: Sequence[Symbol]) -> list[int]:
        """Slots of the derivatives of an expression by symbols: the chain rule over the functions it is made of."""
        functions = [part for part in _parts([output]) if isinstance(part, sympy.Function)]
        named = dict(zip(functions, sympy.numbered_symbols("function ")))
        for function, symbol in named.items():
            self.slots[symbol], self.order[symbol] = self.slot(function), self._order_of(function)
        derivatives: dict[Expr, int] = {}

        def propagate(expression: Expr, derivative: int) -> None:
            flat = expression.xreplace(named)
            for symbol in sorted(flat.free_symbols, key=self._order_of):
                term = self._scaled(derivative, flat.diff(symbol))
                derivatives[symbol] = self.sum(derivatives.get(symbol, self.zero), term)

        propagate(output, self.one)
        for function in reversed(functions):
            for i, argument in enumerate(function.args, start=1):
                if named[function] in derivatives:
                    propagate(argument, self._scaled(derivatives[named[function]], function.fdiff(i)))
        return [derivatives.get(symbol, self.zero) for symbol in symbols]

    def sum(self, a: int, b: int) -> int:
        """The slot of a + b."""
        if self.zero in (a, b):
            return b if a == self.zero else a
        return self.program.operation("Add", a, b)

    def product(self, a: int, b: int) -> int:
        """The slot of a * b; of several factors, those that are computed least often are multiplied first."""
        reach = self.program.reach
        a, b = sorted((a, b), key=lambda slot: ((0, DATA, THETA, FULL).index(reach[slot]), slot))
        if a == self.zero or b == self.one:
            return a
        if a == self.one or b == self.zero:
            return b
        function, *factors = self.program.keys[b]
        if function == "Multiply" and reach[b] == FULL and reach[factors[0]] != FULL:
            cheap, rest = factors
            if reach[a] in (0, reach[cheap]):
                return self.product(self.product(a, cheap), rest)
        return self.program.operation("Multiply", a, b)

    def negated(self, slot: int) -> int:
        """The slot of a negative value; of a product, its first factor is negated."""
        function, *arguments = self.program.keys[slot]
        if function == "Negative":
            return arguments[0]
        if function == "Subtract":
            return self.program.operation("Subtract", arguments[1], arguments[0])
        if function == "Multiply":
            return self.program.operation("Multiply", self.negated(arguments[0]), arguments[1])
        return self.program.operation("Negative", slot)

    def _scaled(self, derivative: int, slope: Expr) -> int:
        """A derivative times the slope of the next function, whose parameters are multiplied with each other first."""
        coefficient, factors = slope.as_coeff_mul()
        if len(factors) == 1 and factors[0].is_Pow and factors[0].exp <= _MAX_PRODUCT:
            slots = [self.slot(factors[0].base)] * int(factors[0].exp)
        else:
            slots = [self.slot(factor) for factor in sorted(factors, key=self._order_of)]
            thetas = [slot for slot in slots if self.program.reach[slot] == THETA]
            slots = [slot for slot in slots if slot not in thetas]
            slots += [reduce(self.product, thetas)] if thetas else []
        return self._times(reduce(self.product, slots, derivative), coefficient)

    def _times(self, slot: int, coefficient: Expr) -> int:
        if coefficient == -1:
            return self.negated(slot)
        return slot if coefficient == 1 else self.product(self._number(coefficient), slot)

    def _order_of(self, expression: Expr) -> tuple[int, ...]:
        if expression not in self.order:
            positions = {i for part in expression.args for i in self._order_of(part)}
            self.order[expression] = tuple(sorted(positions, reverse=True))
        return self.order[expression]

    def _write(self, expression: Expr) -> int:
        if expression.is_Number:
            return self._number(expression)
        if expression.is_Add:
            terms = sorted(expression.args, key=self._order_of)
            # A sum starts with a term that is added, so that -a + b takes one operation.
            first = next((term for term in terms if not _is_negative(term)), terms[0])
            total = self.slot(first)
            for term in terms:
                if term is not first:
                    function = "Subtract" if _is_negative(term) else "Add"
                    total = self.program.operation(function, total, self.slot(-term if _is_negative(term) else term))
            return total
        if expression.is_Mul:
            coefficient, factors = expression.as_coeff_mul()
            return self._times(reduce(self.product, map(self.slot, sorted(factors, key=self._order_of))), coefficient)
        arguments = [self.slot(argument) for argument in expression.args]
        if expression.is_Pow and expression.exp <= _MAX_PRODUCT:
            return reduce(self.product, arguments[:1] * int(expression.exp))
        return self.program.operation(type(expression).__name__.lstrip("_"), *arguments)

    def _number(self, number: Expr) -> int:
        try:
            return self.program.leaf("number", float(number))
        except OverflowError:
            return self.program.leaf("number", math.inf if number.is_positive else -math.inf)


def _is_negative(term: Expr) -> bool:
    coefficient = term.args[0] if term.is_Mul else term
    return bool(coefficient.is_Number and coefficient.is_negative)


# Names of a letter with an index: x0, R_D, N_eff and Dl.
_INDEXED = re.compile(r"(?P<stem>[A-Za-z]|[A-Za-z]{2,}?)(?P<index>\d+|_[A-Za-z0-9]+|(?<=[A-Z])[a-z])?")
_GREEK = frozenset(
    ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa", "lambda", "mu", "nu", "xi"]
) | {"pi", "rho", "sigma", "tau", "upsilon", "phi", "chi", "psi", "omega"}


@_refuse_deep
def latex(text: FormulaText, variables: Sequence[str]) -> str:
    """The formula in LaTeX, in the order of the text: columns by their symbols, the parts of `where` at the end."""
    written: dict[str, str] = {}
    for name in (*text.names, *text.where, UNKNOWN):
        if name not in variables:
            parts = _INDEXED.fullmatch(name)
            stem, index = (parts["stem"], (parts["index"] or "").lstrip("_")) if parts else (name, "")
            index = rf"\mathrm{{{index}}}" if len(index) > 1 and not index.isdigit() else index
            letter = f"\\{stem}" if stem in _GREEK else stem
            written[name] = f"{letter}_{{{index}}}" if index else letter
            if stem not in _GREEK and len(stem) > 1:
                written[name] = _word(name)
    for name in variables:
        symbol = COLUMNS[name].symbol if name in COLUMNS else ""
        # A parameter with the same symbol keeps it; the column is then spelled out.
        written[name] = symbol if symbol and symbol not in written.values() else _word(name)
    symbols = {name: Symbol(name) for name in written}

    def write(tree: ast.expr) -> str:
        names = {symbol: written[name] for name, symbol in symbols.items()}
        expression = _convert(tree, symbols, _PRINTED)
        return sympy.latex(expression, order="none", mul_symbol=r"\,", symbol_names=names).replace("{- ", "{-")

    clauses = [" = ".join(map(write, text.trees))]
    if not text.is_equation:
        clauses[0] = f"{UNKNOWN} = {clauses[0]}"
    clauses += [f"{written[name]} = {write(tree)}" for name, tree in text.parts.items()]
    return r",\quad ".join(clauses)


def _word(name: str) -> str:
    escaped = name.replace("_", r"\_")
    return rf"\mathrm{{{escaped}}}"
