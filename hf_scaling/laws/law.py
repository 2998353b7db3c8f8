"""A scaling law: one declared formula, and everything that follows from it."""

import difflib
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws import formula
from hf_scaling.laws.formula import Declared, Evaluator, Formula, Source, checked_columns, declare
from hf_scaling.laws.inverse import Inverse, checked_target
from hf_scaling.text import VARIABLES

# No published law has more than nine; the search for the linear ones grows as two to this power.
_MOST_PARAMETERS = 16

_FIELDS = {"name": str, "expression": str, "where": dict, "variables": list, "parameters": list}
_FIELDS |= {"bounds": dict, "kinds": dict, "starts": dict, "paper": str, "summary": str}
_FIELD_WORDS = {str: "text", dict: "mapping", list: "list of texts"}

# Parameter vectors tried by `defined`: a zero raised to a negative power is infinite at every one of them.
_PROBES = 8


class Law:
    """A scaling law, made from the text of its formula.

    Args:
        name: What it is called.
        expression: The formula, such as "E + A*n_pretrain**-alpha": + - * / **, parentheses, numbers, names and exp,
            log, sqrt, min, max. With an "=" it is an equation in the unknown L, which stands in (L - low) and
            (high - L) alone and is solved for numerically.
        variables: The names that are columns; by default those of `COLUMNS`, in its order; every other name is a
            parameter.
        parameters: The parameters in the order of their vector; by default as they first appear.
        bounds: Parameter to (low, high), None for no limit, where the kind's default does not fit.
        kinds: Parameter to kind, where the place of its name does not tell ("shape" never does).
        starts: Parameter to values to start a search from, where the kind's default does not fit.
        where: Names for parts of the formula, name to formula; a part may use those before it. A part that is None
            must be bound with `with_supervised` before the law can be evaluated.
        paper: Where it comes from.
        summary: One line on what it says and when it applies.

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
        self._source = Source(expression, self.where, self._owner)
        self.variables = self._declared_variables(variables)
        order = self._declared_order(parameters)
        for given in (bounds, kinds, starts):
            self._refuse_unknown(given or {}, order, "the parameter")
        declared = Declared(bounds or {}, kinds or {}, starts or {}, self._owner)
        self.parameters = declare(order, self._source.all_trees, self.variables, declared)
        # Lowered now, so that a formula without a value is refused where it is written.
        self._formula = Formula(self._source, self.parameters, self.variables)

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters' names, in the order of the parameter vector."""
        return self._formula.names

    @property
    def unbound(self) -> tuple[str, ...]:
        """Parts of the formula that must be bound before the law can be evaluated."""
        return self._source.unbound

    @property
    def linear(self) -> tuple[str, ...]:
        """The largest set of parameters in which the law is linear when all others are fixed."""
        return self._formula.linear

    @cached_property
    def formula(self) -> str:
        """The formula as plain text."""
        return formula.plain(self._source)

    @cached_property
    def latex(self) -> str:
        """The formula in LaTeX, without dollar signs; the columns' symbols are those of `COLUMNS`."""
        return formula.latex(self._source, self.variables)

    def evaluator(self, variables: Mapping[str, object]) -> Evaluator:
        """The law over fixed data, for many parameter vectors: whatever depends on the data alone is computed once.

        Args:
            variables: Column name to N numbers (single numbers are repeated).

        Raises:
            InputError: A column is missing or unusable, or a part of the law is not bound.
        """
        self._refuse_unbound()
        columns, shape = checked_columns(variables, self.variables, self._owner)
        return Evaluator(self._formula, columns, math.prod(shape))

    def predict(self, theta: object, variables: Mapping[str, object]) -> np.ndarray:
        """The law's values.

        Args:
            theta: Parameter vectors (..., P) in the order of `names`, or a mapping of name to number or array (...).
            variables: Column name to N numbers, in the units of `COLUMNS`; single numbers for a single point.

        Returns:
            Values (..., N), or (...) where every column is a single number; in the target's unit (nats, error rate).

        Raises:
            InputError: A parameter or a column is missing, or does not hold numbers.
        """
        values = self.evaluator(variables).value(self.vector(theta))
        return values if self._shape(variables) else values[..., 0]

    def value_and_gradient(self, theta: object, variables: Mapping[str, object]) -> tuple[np.ndarray, np.ndarray]:
        """Values (..., N) and derivatives (..., N, P) by each parameter, as `predict` takes its arguments."""
        value, gradient = self.evaluator(variables).value_and_gradient(self.vector(theta))
        return value, np.moveaxis(gradient, -2, -1)

    def design(self, theta: object, variables: Mapping[str, object]) -> tuple[np.ndarray, np.ndarray]:
        """Offset (..., N) and columns (..., N, K): value = offset + columns @ the K parameters of `linear`."""
        offset, columns = self.evaluator(variables).design(self.vector(theta))
        return offset, np.moveaxis(columns, -2, -1)

    def starts(self, variables: Mapping[str, object], target: object | None = None) -> dict[str, np.ndarray]:
        """Plausible values, ascending, for each parameter that is not in `linear`.

        Args:
            variables: Column name to N numbers; scales are placed over the range of their column.
            target: The measured values (N,), which place a floor or a ceiling that does not enter linearly.
        """
        columns, _ = checked_columns(variables, self.variables, self._owner)
        measured = None if target is None else np.asarray(target, dtype=float)
        return {p.name: p.starts(columns, measured) for p in self.parameters if p.name not in self.linear}

    def defined(self, variables: Mapping[str, object]) -> np.ndarray:
        """Which points (N,) the law can take: False for a zero raised to a negative power, a NaN, a negative size."""
        columns, _ = checked_columns(variables, self.variables, self._owner)
        starts = self.starts(variables)
        # From above the smallest starts, among which an exponent may be zero.
        ladder = np.linspace(0.3, 1, _PROBES)
        probes = np.ones((_PROBES, len(self.names)))
        for i, name in enumerate(self.names):
            if name in starts:
                probes[:, i] = np.quantile(starts[name], ladder)
        finite = np.isfinite(self.evaluator(variables).value(probes)).any(axis=0)
        return finite & np.all([np.isfinite(c) & (c >= 0) for c in columns.values()], axis=0)

    def invert(
        self, theta: object, target: object, solve_for: str, variables: Mapping[str, object] | None = None
    ) -> np.ndarray:
        """The value of one variable at which the law reaches a target.

        Args:
            theta: Parameter vectors (..., P), or a mapping of name to number or array (...).
            target: The loss, error or score to reach, positive; broadcast against the result.
            solve_for: The variable to find, sought within the range that `COLUMNS` gives it.
            variables: The other variables, name to N numbers or to single numbers.

        Returns:
            Values (..., N), or (...) where every other variable is a single number. Infinity: no amount is enough, the
            target lies at or beyond what the law approaches. 0: the target is reached from the smallest amount on.
            Where a law crosses the target more than once, the smallest such value.

        Raises:
            InputError: `solve_for` is not a variable of the law, or the target or another variable is not positive.
        """
        self._refuse_unbound()
        self._refuse_unknown([solve_for], self.variables, "the variable")
        others = [name for name in self.variables if name != solve_for]
        columns, shape = checked_columns(variables or {}, others, self._owner)
        for name, column in columns.items():
            if not np.all(np.isfinite(column) & ((column > 0) | (name == "sparsity"))):
                raise InputError(f"{self._owner}: {name} must be positive and finite to solve for {solve_for}")
        vectors, wanted = self.vector(theta), checked_target(target, self._owner)
        result = np.broadcast_shapes(wanted.shape, (*vectors.shape[:-1], *shape))
        lead, size = result[: len(result) - len(shape)], math.prod(shape)
        vectors = np.broadcast_to(vectors, (*lead, len(self.names))).reshape(-1, len(self.names))
        inverse = Inverse(self._source, self.parameters, self.variables, solve_for)
        wanted = np.broadcast_to(wanted, result).reshape(-1, size)
        return inverse.solve(vectors, wanted, columns, size).reshape(result)[()]

    def vector(self, theta: object) -> np.ndarray:
        """Parameters as a float64 array (..., P); a mapping is put in the order of `names`.

        Raises:
            InputError: A parameter is missing or unknown, or the last axis is not of length P.
        """
        if isinstance(theta, Mapping):
            self._refuse_unknown(theta, self.names, "the parameter")
            missing = [name for name in self.names if name not in theta]
            if missing:
                raise InputError(f"{self._owner}: the parameter {missing[0]} has no value")
            return np.stack(np.broadcast_arrays(*(np.asarray(theta[n], dtype=float) for n in self.names)), axis=-1)
        vectors = np.asarray(theta, dtype=float)
        if vectors.ndim == 0 or vectors.shape[-1] != len(self.names):
            raise InputError(f"{self._owner} has {len(self.names)} parameters; got an array of shape {vectors.shape}")
        return vectors

    def with_supervised(self, fit: object) -> "Law":
        """This law with the loss a student would reach alone bound to a fit of `chinchilla_coupled`.

        Args:
            fit: A mapping of E, A, alpha, B, beta, gamma to numbers, or a fit whose `params` is one.

        Raises:
            InputError: The law has no such part, or the fit is not of that law.
        """
        if "supervised_loss" not in self.where:
            raise InputError(f"{self._owner} has no part that a supervised fit could fill")
        params = getattr(fit, "params", fit)
        wanted = ("E", "A", "alpha", "B", "beta", "gamma")
        if not isinstance(params, Mapping) or set(params) != set(wanted):
            raise InputError(f"{self._owner}: supervised= takes a chinchilla_coupled fit or its {', '.join(wanted)}")
        if not all(math.isfinite(params[name]) for name in wanted):
            raise InputError(f"{self._owner}: the supervised fit holds a value that is not finite")
        E, A, alpha, B, beta, gamma = (repr(float(params[name])) for name in wanted)
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
            "bounds": {p.name: [_finite(p.low), _finite(p.high)] for p in self.parameters},
            "kinds": {p.name: p.kind for p in self.parameters},
            "starts": {p.name: list(p.grid) for p in self.parameters if p.grid},
            "paper": self.paper,
            "summary": self.summary,
        }

    @classmethod
    def from_dict(cls, declaration: Mapping) -> "Law":
        """The law of a `to_dict`; it may come from a stranger.

        Raises:
            InputError: The declaration is not one, or its formula is refused.
        """
        if not isinstance(declaration, Mapping):
            raise InputError("a law is a mapping with at least name and expression")
        owner = f"law {str(declaration.get('name'))[:60]!r}"
        for field, value in declaration.items():
            wanted = _FIELDS.get(field)
            if wanted is None:
                raise InputError(
                    f"{owner}: the field {str(field)[:60]!r} is not known; there are {', '.join(_FIELDS)}"
                )
            if not isinstance(value, wanted) or (wanted is list and not all(isinstance(v, str) for v in value)):
                raise InputError(f"{owner}: the field {field!r} must be a {_FIELD_WORDS[wanted]}")
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

    def _shape(self, variables: Mapping[str, object]) -> tuple[int, ...]:
        return np.broadcast_shapes(*(np.shape(variables[name]) for name in self.variables))

    def _declared_variables(self, given: Sequence[str] | None) -> tuple[str, ...]:
        free = self._source.names
        if given is not None:
            self._refuse_unknown(given, free, "the variable")
        variables = tuple(name for name in VARIABLES if name in free) if given is None else tuple(dict.fromkeys(given))
        if not variables:
            known = ", ".join(VARIABLES)
            raise InputError(f"{self._owner} has no variable; known columns are {known}, others go into variables=")
        return variables

    def _declared_order(self, given: Sequence[str] | None) -> tuple[str, ...]:
        inferred = [name for name in self._source.names if name not in self.variables]
        order = tuple(inferred if given is None else given)
        if sorted(inferred) != sorted(order):
            listed = ", ".join(inferred)
            raise InputError(f"{self._owner}: the parameters of the formula are {listed}, not {', '.join(order)}")
        if not 1 <= len(order) <= _MOST_PARAMETERS:
            raise InputError(f"{self._owner} has {len(order)} parameters; a law has 1 to {_MOST_PARAMETERS}")
        return order

    def _refuse_unknown(self, given: Iterable[str], known: Iterable[str], what: str) -> None:
        for name in given:
            if name not in tuple(known):
                near = difflib.get_close_matches(str(name), list(known), 1)
                hint = f"; did you mean {near[0]}?" if near else f"; there are {', '.join(known)}"
                raise InputError(f"{self._owner}: {what} {name!r} is not in the formula{hint}")

    def _refuse_unbound(self) -> None:
        if self.unbound:
            raise InputError(f"{self._owner} needs {self.unbound[0]}: give a chinchilla_coupled fit as supervised=")


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
