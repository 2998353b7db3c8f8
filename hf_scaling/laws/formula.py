"""A law's formula, compiled: its graph, what follows from it, and evaluators over data."""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping
from functools import cached_property, partial

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws.algebra import Graph, Node
from hf_scaling.laws.lowering import HIDDEN, UNKNOWN, Lowering, lower_equation
from hf_scaling.laws.parsing import fault, is_name, names_in, parse_equation, parse_formula
from hf_scaling.laws.program import Program, rows_per_block

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
