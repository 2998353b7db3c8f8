"""A scaling law: one declared formula, and everything that follows from it."""

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hf_scaling.errors import InputError
from hf_scaling.laws.evaluator import Evaluator, checked_columns
from hf_scaling.laws.inverse import checked_target, solve
from hf_scaling.laws.parsing import FormulaText
from hf_scaling.text import VARIABLES, did_you_mean

if TYPE_CHECKING:
    # Loads sympy, which no law needs before it is evaluated.
    from hf_scaling.laws.formula import Formula

Theta: TypeAlias = Mapping[str, ArrayLike] | ArrayLike
Columns: TypeAlias = Mapping[str, ArrayLike]

# No published law has more than nine; the search for the linear ones takes up to two to this power steps.
_MAX_PARAMETERS = 16
# Parameter vectors tried by `defined`: a zero raised to a negative power is infinite at every one of them.
_N_PROBES = 8
# A scale that divides, or is divided, must be above zero; this is below any size that is measured.
_ABOVE_ZERO = 1e-12

# The fields of `Law.to_dict`, with their type and its name in error messages.
_FIELDS: dict[str, tuple[type, str]] = {
    **dict.fromkeys(("name", "expression", "paper", "summary"), (str, "text")),
    **dict.fromkeys(("where", "bounds", "kinds", "starts"), (dict, "mapping")),
    **dict.fromkeys(("variables", "parameters"), (list, "list of texts")),
}

#: Kind of a parameter to its default bounds. An exponent of zero would make its term a second floor; 1e-3 changes a
#: term by 2 % over nine decades.
KINDS = {
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
        kind: "floor" (the value at infinite size), "coefficient" (multiplies a term), "exponent", "scale" (a size at
            which something changes, in the units of `variable`, or of the target where `variable` is None) or "shape"
            (a number without a unit that bends the curve).
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
        """Values (K,) to start a search from, ascending and inside the bounds.

        Args:
            variables: Column name to sizes (N,), over whose range a scale is placed.
            target: The measured values (N,), in units of which a floor or a scale of the target is placed.
        """
        if self.grid:
            values = np.asarray(self.grid)
        elif self.kind == "scale" and self.variable is not None:
            sizes = variables[self.variable]
            sizes = sizes[np.isfinite(sizes) & (sizes > 0)]
            values = np.geomspace(sizes.min() / 10, sizes.max(), 7) if sizes.size else np.ones(1)
        elif self.kind == "scale":
            values = np.array([1.02, 1.3, 2.0, 5.0]) * (1.0 if target is None else np.max(target))
        elif self.kind == "floor" and self.low < 0 and target is not None:
            values = np.min(target) - np.array([0.03, 0.2, 0.6]) * np.ptp(target)
        elif self.kind == "floor":
            values = np.array([0.0, 0.4, 0.8, 0.97]) * (1.0 if target is None else np.min(target))
        else:
            values = np.asarray(_DEFAULT_STARTS[self.kind])
        return np.unique(np.clip(values, self.low, self.high))


class Law:
    """A scaling law, defined by the text of its formula.

    Args:
        name: The law's name.
        expression: The formula, such as "E + A*n_pretrain**-alpha": + - * / **, parentheses, numbers, names and exp,
            log, sqrt, min, max. With an "=" it is an equation in the unknown L, which is solved numerically and may
            occur only in (L - low) and (high - L).
        variables: The names that are columns; by default those of `text.VARIABLES`, in its order; every other name is
            a parameter.
        parameters: The parameters in the order of their vector; by default as they first appear.
        bounds: Parameter to (low, high), None for no limit; by default those of its kind.
        kinds: Parameter to kind; by default inferred from its place in the formula ("shape" never is).
        starts: Parameter to values to start a search from; by default those of its kind.
        where: Named parts of the formula, name to formula; a part may use the parts before it. A part that is None
            must be bound with `with_supervised` before the law can be evaluated.
        paper: Its source.
        summary: One line on what it describes and when it applies.

    Example:
        >>> law = Law("mine", "E + A*n_pretrain**-alpha")
        >>> law.predict({"E": 0.1, "A": 3.0, "alpha": 0.5}, {"n_pretrain": [100, 10_000]})
        array([0.4 , 0.13])

    Raises:
        InputError: The formula or one of its parts cannot be used; the message names the column of the fault.
    """

    def __init__(
        self,
        name: str,
        expression: str,
        *,
        variables: Sequence[str] | None = None,
        parameters: Sequence[str] | None = None,
        bounds: Mapping[str, tuple[float | None, float | None]] | None = None,
        kinds: Mapping[str, str] | None = None,
        starts: Mapping[str, Sequence[float]] | None = None,
        where: Mapping[str, str | None] | None = None,
        paper: str = "",
        summary: str = "",
    ):
        if not isinstance(name, str) or not name:
            raise InputError(f"a law needs a name, a text; got {name!r}")
        self.name, self.expression, self.paper, self.summary = name, expression, paper, summary
        self.where = dict(where or {})
        self._text = FormulaText(expression, self.where, self._owner)
        free = self._text.names
        self._refuse_unknown(variables or (), free, "variable")
        columns = tuple(name for name in VARIABLES if name in free) if variables is None else tuple(variables)
        if not columns:
            known = ", ".join(VARIABLES)
            raise InputError(f"{self._owner} has no variable; use one of {known} or name your own in variables=")
        inferred = [name for name in free if name not in columns]
        order = tuple(inferred if parameters is None else parameters)
        if sorted(inferred) != sorted(order):
            listed = ", ".join(inferred)
            raise InputError(f"{self._owner}: the parameters of the formula are {listed}, not {', '.join(order)}")
        if not 1 <= len(order) <= _MAX_PARAMETERS:
            raise InputError(f"{self._owner} has {len(order)} parameters; a law has 1 to {_MAX_PARAMETERS}")
        self.variables, self.names = tuple(dict.fromkeys(columns)), order
        for given in (bounds, kinds, starts):
            self._refuse_unknown(given or {}, self.names, "parameter")
        roles = _Roles(self.variables)
        for tree in (*self._text.trees, *self._text.parts.values()):
            roles.read(tree, inside_power=False, in_exponent=False)
        self.parameters = tuple(
            _parameter(name, roles.roles.get(name), bounds or {}, kinds or {}, starts or {}, self._owner)
            for name in self.names
        )

    @property
    def unbound(self) -> tuple[str, ...]:
        """Parts of the formula that must be bound before the law can be evaluated."""
        return self._text.unbound

    @property
    def linear(self) -> tuple[str, ...]:
        """The largest set of parameters in which the law is linear when all others are fixed."""
        return self._formula.linear

    @property
    def formula(self) -> str:
        """The formula as plain text, then the parts of `where`."""
        return self._text.plain

    @cached_property
    def latex(self) -> str:
        """The formula in LaTeX, without dollar signs; the columns' symbols are those of `COLUMNS`."""
        from hf_scaling.laws import formula

        return formula.latex(self._text, self.variables)

    @cached_property
    def _formula(self) -> "Formula":
        from hf_scaling.laws import formula

        return formula.compiled(self._text, tuple((p.name, p.low >= 0) for p in self.parameters), self.variables)

    def evaluator(self, variables: Columns) -> Evaluator:
        """The law over fixed data, for many parameter vectors; what depends on the data alone is computed once.

        Args:
            variables: Column name to N numbers (single numbers are repeated).

        Raises:
            InputError: A column is missing or does not hold numbers, or a part of the law is not bound.
        """
        self._refuse_unbound()
        columns, shape = checked_columns(variables, self.variables, self._owner)
        return Evaluator(self._formula, columns, math.prod(shape))

    def evaluator_of_sets(self, variables: Mapping[str, np.ndarray]) -> Evaluator:
        """The law over several data sets of equal length, each for a parameter vector of its own.

        Args:
            variables: Column name to float64 array (B, N), for B parameter vectors.
        """
        self._refuse_unbound()
        return Evaluator(self._formula, variables, next(iter(variables.values())).shape[1])

    def predict(self, theta: Theta, variables: Columns) -> np.ndarray:
        """Values of the law.

        Args:
            theta: Parameter vectors (..., P) in the order of `names`, or a mapping of name to number or array (...).
            variables: Column name to N numbers, in the units of `COLUMNS`; single numbers for a single point.

        Returns:
            Values (..., N), or (...) where every column is a single number; in the target's unit (nats, error rate).

        Raises:
            InputError: A parameter or a column is missing, or does not hold numbers.
        """
        values = self.evaluator(variables).value(self.vector(theta))
        is_point = not any(np.shape(variables[name]) for name in self.variables)
        return values[..., 0] if is_point else values

    def value_and_gradient(self, theta: Theta, variables: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Values (..., N) and derivatives (..., N, P) by each parameter.

        Args:
            theta: As for `predict`.
            variables: As for `predict`.

        Raises:
            InputError: As for `predict`.
        """
        value, gradient = self.evaluator(variables).value_and_gradient(self.vector(theta))
        return value, np.moveaxis(gradient, -2, -1)

    def design(self, theta: Theta, variables: Columns) -> tuple[np.ndarray, np.ndarray]:
        """Offset (..., N) and columns (..., N, K): value = offset + columns @ the K parameters of `linear`.

        Args:
            theta: As for `predict`; the values of the parameters in `linear` have no effect.
            variables: As for `predict`.

        Raises:
            InputError: As for `predict`.
        """
        offset, columns = self.evaluator(variables).design(self.vector(theta))
        return offset, np.moveaxis(columns, -2, -1)

    def starts(self, variables: Columns, target: ArrayLike | None = None) -> dict[str, np.ndarray]:
        """Values to start a search from, ascending, for each parameter that is not in `linear`.

        Args:
            variables: Column name to N numbers; scales are placed over the range of their column.
            target: The measured values (N,), which place a floor or a ceiling that does not enter linearly.
        """
        columns, _ = checked_columns(variables, self.variables, self._owner)
        measured = None if target is None else np.asarray(target, dtype=float)
        return {p.name: p.starts(columns, measured) for p in self.parameters if p.name not in self.linear}

    def defined(self, variables: Columns) -> np.ndarray:
        """Where (N,) the law has a value: False for a zero raised to a negative power, a NaN and a negative size.

        Args:
            variables: Column name to N numbers.

        Raises:
            InputError: A column is missing or does not hold numbers.
        """
        columns, _ = checked_columns(variables, self.variables, self._owner)
        finite = np.isfinite(self.evaluator(variables).value(self._probes(variables))).any(axis=0)
        return finite & np.all([np.isfinite(c) & (c >= 0) for c in columns.values()], axis=0)

    def rises(self, variables: Columns) -> bool:
        """Whether the law is of a score that rises, as `downstream_log` is: at most probed parameters it does.

        Args:
            variables: Column name to N numbers, between whose smallest and largest the law is compared.

        Raises:
            InputError: A column is missing or does not hold numbers.
        """
        ends = {}
        for name, sizes in checked_columns(variables, self.variables, self._owner)[0].items():
            positive = sizes[np.isfinite(sizes) & (sizes > 0)]
            ends[name] = np.array([positive.min(), positive.max()]) if len(positive) else np.ones(2)
        with np.errstate(all="ignore"):
            values = self.evaluator(ends).value(self._probes(variables))
        steps = np.sign(values[:, 1] - values[:, 0])
        steps = steps[np.isfinite(steps)]
        return bool(len(steps) and (steps > 0).mean() > 0.5)

    def _probes(self, variables: Columns) -> np.ndarray:
        """(K, P) parameter vectors from above the smallest starts, among which an exponent may be zero."""
        starts, ladder = self.starts(variables), np.linspace(0.3, 1, _N_PROBES)
        probes = np.ones((_N_PROBES, len(self.names)))
        for i, name in enumerate(self.names):
            if name in starts:
                probes[:, i] = np.quantile(starts[name], ladder)
        return probes

    def invert(
        self,
        theta: Theta,
        target: ArrayLike,
        solve_for: str,
        variables: Columns | None = None,
    ) -> np.ndarray:
        """The value of one variable at which the law reaches a target.

        Args:
            theta: Parameter vectors (..., P), or a mapping of name to number or array (...).
            target: The loss, error or score to reach, positive unless the floor may be negative; broadcast against the
                result.
            solve_for: The variable to find, sought within the range that `COLUMNS` gives it.
            variables: The other variables, name to N numbers or to single numbers.

        Returns:
            Values (..., N), or (...) where every other variable is a single number. Infinity where no amount is
            enough, since the target is at or beyond what the law approaches; 0 where the smallest amount reaches it.
            Where a law crosses the target more than once, the smallest such value.

        Raises:
            InputError: `solve_for` is not a variable of the law, or the target or another variable is not positive.
        """
        self._refuse_unbound()
        self._refuse_unknown([solve_for], self.variables, "variable")
        others = [name for name in self.variables if name != solve_for]
        columns, shape = checked_columns(variables or {}, others, self._owner)
        for name, column in columns.items():
            if not np.all(np.isfinite(column) & ((column > 0) | (name == "sparsity"))):
                raise InputError(f"{self._owner}: {name} must be positive and finite to solve for {solve_for}")
        vectors, targets = self.vector(theta), checked_target(target, self._owner, self.signed)
        result = np.broadcast_shapes(targets.shape, (*vectors.shape[:-1], *shape))
        lead, size = result[: len(result) - len(shape)], math.prod(shape)
        vectors = np.broadcast_to(vectors, (*lead, len(self.names))).reshape(-1, len(self.names))
        targets = np.broadcast_to(targets, result).reshape(-1, size)
        program = self._formula.excess_program(solve_for)
        return solve(program, solve_for, vectors, targets, columns).reshape(result)[()]

    def vector(self, theta: Theta) -> np.ndarray:
        """Parameters as a float64 array (..., P); a mapping is put in the order of `names`.

        Args:
            theta: Name to number or array (...), or an array (..., P).

        Raises:
            InputError: A parameter is missing or unknown, or the last axis is not of length P.
        """
        if isinstance(theta, Mapping):
            self._refuse_unknown(theta, self.names, "parameter")
            missing = [name for name in self.names if name not in theta]
            if missing:
                raise InputError(f"{self._owner}: the parameter {missing[0]} has no value")
            return np.stack(np.broadcast_arrays(*(np.asarray(theta[n], dtype=float) for n in self.names)), axis=-1)
        vectors = np.asarray(theta, dtype=float)
        if vectors.ndim == 0 or vectors.shape[-1] != len(self.names):
            raise InputError(f"{self._owner} has {len(self.names)} parameters; got an array of shape {vectors.shape}")
        return vectors

    def with_free_floor(self) -> "Law":
        """This law with floors that may be negative, for a target that may be; itself where it has no floor."""
        floors = {p.name: (None, p.high) for p in self.parameters if p.kind == "floor" and p.low == 0}
        if not floors:
            return self
        declaration = self.to_dict()
        return Law.from_dict({**declaration, "bounds": {**declaration.get("bounds", {}), **floors}})

    @property
    def signed(self) -> bool:
        """Whether its values may be negative: it has a floor that may."""
        return any(p.kind == "floor" and p.low < 0 for p in self.parameters)

    def with_supervised(self, fit: object) -> "Law":
        """This law with `supervised_loss`, the student's loss without a teacher, bound to a chinchilla_coupled fit.

        Args:
            fit: A mapping of E, A, alpha, B, beta, gamma to numbers, or a fit whose `params` is one.

        Raises:
            InputError: The law has no such part, or the fit is not of that law.
        """
        if "supervised_loss" not in self.where:
            raise InputError(f"{self._owner} has no part `supervised_loss`; leave out supervised=")
        params = getattr(fit, "params", fit)
        names = ("E", "A", "alpha", "B", "beta", "gamma")
        if not isinstance(params, Mapping) or set(params) != set(names):
            raise InputError(f"{self._owner}: supervised= takes a chinchilla_coupled fit or its {', '.join(names)}")
        if not all(math.isfinite(params[name]) for name in names):
            raise InputError(f"{self._owner}: a parameter of the supervised= fit is not finite")
        E, A, alpha, B, beta, gamma = (repr(float(params[name])) for name in names)
        text = f"{E} + ({A}*n_params**-{alpha} + {B}*n_pretrain**-{beta})**{gamma}"
        return Law.from_dict({**self.to_dict(), "where": {**self.where, "supervised_loss": text}})

    def to_dict(self) -> dict:
        """The declaration as plain strings, numbers and lists, for law.json; None is no limit."""
        return {
            "name": self.name,
            "expression": self.expression,
            "where": dict(self.where),
            "variables": list(self.variables),
            "parameters": list(self.names),
            "bounds": {p.name: [b if math.isfinite(b) else None for b in (p.low, p.high)] for p in self.parameters},
            "kinds": {p.name: p.kind for p in self.parameters},
            "starts": {p.name: list(p.grid) for p in self.parameters if p.grid},
            "paper": self.paper,
            "summary": self.summary,
        }

    @classmethod
    def from_dict(cls, declaration: Mapping[str, Any]) -> "Law":
        """The law of a declaration that `to_dict` wrote; an untrusted one does no harm.

        Raises:
            InputError: A field is missing, unknown or of the wrong type, or the formula is refused.
        """
        if not isinstance(declaration, Mapping):
            raise InputError("a law is a mapping with at least name and expression")
        owner = f"law {str(declaration.get('name'))[:60]!r}"
        for field, value in declaration.items():
            if field not in _FIELDS:
                fields = ", ".join(_FIELDS)
                raise InputError(f"{owner}: unknown field {str(field)[:60]!r}; the fields are {fields}")
            kind, words = _FIELDS[field]
            entries = value if isinstance(value, list) else []
            if not isinstance(value, kind) or not all(isinstance(entry, str) for entry in entries):
                raise InputError(f"{owner}: the field {field!r} must be a {words}")
        missing = [field for field in ("name", "expression") if field not in declaration]
        if missing:
            raise InputError(f"{owner}: the field {missing[0]!r} is missing")
        return cls(**declaration)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Law) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.name, self.expression))

    def __reduce__(self):
        return Law.from_dict, (self.to_dict(),)

    def __repr__(self) -> str:
        return f"Law({self.name!r}, {self.expression!r})"

    @property
    def _owner(self) -> str:
        return f"law {self.name[:60]!r}"

    def _refuse_unknown(self, given: Iterable[object], known: Sequence[str], what: str) -> None:
        for name in given:
            if name not in known:
                hint = did_you_mean(name, known) or f"; its names are {', '.join(known)}"
                raise InputError(f"{self._owner}: the {what} {name!r} is not in the formula{hint}")

    def _refuse_unbound(self) -> None:
        if self.unbound:
            raise InputError(f"{self._owner} needs {self.unbound[0]}: give a chinchilla_coupled fit as supervised=")


@dataclass(frozen=True)
class _Role:
    """What the place of a name in the formula says about the parameter."""

    kind: str = "coefficient"
    variable: str | None = None
    low: float = 0.0


def read_bounds(given: Sequence[float | None], what: str) -> tuple[float, float]:
    """Two numbers, the lower first; None is no limit.

    Args:
        given: The bounds.
        what: Whose they are, for the message.

    Raises:
        InputError: They are not two numbers, or not in this order.
    """
    try:
        low, high = given
        low = -math.inf if low is None else float(low)
        high = math.inf if high is None else float(high)
    except (TypeError, ValueError):
        raise InputError(f"{what}: give two numbers, or None for no limit, not {given!r}") from None
    if not low < high:
        raise InputError(f"{what}: the lower one, {low:g}, must be below the upper one, {high:g}")
    return low, high


def _parameter(
    name: str,
    role: _Role | None,
    bounds: Mapping[str, Sequence[float | None]],
    kinds: Mapping[str, str],
    starts: Mapping[str, Iterable[float]],
    owner: str,
) -> Parameter:
    """A parameter from what is declared and, where nothing is, from its role in the formula."""
    role = role or _Role()
    kind = kinds.get(name, role.kind)
    if kind not in KINDS:
        raise InputError(f"{owner}: the kind of {name} is {kind!r}; it must be one of {', '.join(KINDS)}")
    if kind != role.kind:
        role = _Role(kind, None, KINDS[kind][0])
    low, high = read_bounds(bounds.get(name, (role.low, KINDS[kind][1])), f"{owner}: bounds of {name}")
    try:
        grid = tuple(float(value) for value in starts.get(name, ()))
    except (TypeError, ValueError):
        grid = (math.nan,)
    if not all(map(math.isfinite, grid)):
        raise InputError(f"{owner}: the starts of {name} must be numbers")
    return Parameter(name, kind, low, high, role.variable, grid)


class _Roles:
    """Reads the roles of parameters from their places in a formula; those without one are coefficients.

    A name in an exponent is an exponent; one added to a variable under a power (or in exp, log, sqrt) is a scale, and
    so is one that divides or is divided by a variable there; E alone in a sum is the floor.
    """

    def __init__(self, variables: Iterable[str]):
        self.variables = set(variables)
        self.roles: dict[str, _Role] = {}

    def read(self, node: ast.expr, inside_power: bool, in_exponent: bool) -> None:
        match node:
            case ast.Name(id=name) if in_exponent:
                self._note(name, _Role("exponent", None, KINDS["exponent"][0]))
            case ast.BinOp(left=left, op=ast.Pow(), right=right):
                self.read(left, True, in_exponent)
                self.read(right, inside_power, True)
            case ast.BinOp(left=left, op=operator, right=right):
                if isinstance(operator, ast.Add | ast.Sub):
                    terms = _bare_terms(node)
                    sizes = [term for term in terms if term in self.variables]
                    for term in terms:
                        if inside_power and sizes:
                            self._note(term, _Role("scale", sizes[0]))
                        elif term == "E":
                            self._note(term, _Role("floor"))
                elif isinstance(operator, ast.Div) and inside_power:
                    sides = [side.operand if isinstance(side, ast.UnaryOp) else side for side in (left, right)]
                    names = [side.id for side in sides if isinstance(side, ast.Name)]
                    if len(names) == 2 and len(self.variables.intersection(names)) == 1:
                        size, other = sorted(names, key=lambda name: name not in self.variables)
                        self._note(other, _Role("scale", size, _ABOVE_ZERO))
                self.read(left, inside_power, in_exponent)
                self.read(right, inside_power, in_exponent)
            case ast.UnaryOp(operand=operand):
                self.read(operand, inside_power, in_exponent)
            case ast.Call(func=ast.Name(id=function), args=args):
                for arg in args:
                    self.read(arg, inside_power or function in ("log", "sqrt", "exp"), in_exponent)

    def _note(self, name: str, role: _Role) -> None:
        # An exponent remains one wherever else the name occurs.
        if name not in self.variables and (name not in self.roles or role.kind == "exponent"):
            self.roles[name] = role


def _bare_terms(node: ast.expr) -> list[str]:
    """The names that are terms of a sum on their own."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
        return _bare_terms(node.left) + _bare_terms(node.right)
    return [node.id] if isinstance(node, ast.Name) else []
