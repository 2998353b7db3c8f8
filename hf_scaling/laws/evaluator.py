"""A compiled law over data: numpy programs, evaluated for many parameter vectors at once."""

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import reduce
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from hf_scaling.errors import InputError

if TYPE_CHECKING:
    # Loads sympy, which this module does without.
    from hf_scaling.laws.formula import Formula

Value: TypeAlias = np.ndarray | float
# The name of an operation, the slot of its result and those of its arguments.
Step: TypeAlias = tuple[str, int, tuple[int, ...]]

# Bits of `Program.reach`: what a value depends on.
THETA, DATA = 1, 2
FULL = THETA | DATA
_LEAVES = {"number": 0, "variable": DATA, "theta": THETA, "hidden": FULL}

# Numbers per temporary array in one block: 16k doubles are 128 KiB, so several fit the second-level cache of a core.
_BLOCK = 16384
# The logarithm of a zero in the data. Finite, so that 0**b is 0 with a gradient of 0 and not NaN, yet so large that
# 0**-b is infinite for any exponent that matters.
_LOG_OF_ZERO = -1e300
# Arguments of a sigmoid from the smallest double it gives to where it is one within a double's precision.
_BRACKET = (-740.0, 50.0)
_MAX_ROOT_STEPS = 200


def _softplus(z: Value, out: np.ndarray | None = None, scratch: np.ndarray | None = None) -> np.ndarray:
    scratch = np.abs(z, out=scratch)
    np.negative(scratch, out=scratch)
    np.exp(scratch, out=scratch)
    np.add(scratch, 1.0, out=scratch)
    np.log(scratch, out=scratch)
    out = np.maximum(z, 0.0, out=out)
    return np.add(out, scratch, out=out)


_FUNCTIONS: dict[str, Callable[..., np.ndarray]] = {
    "Add": np.add,
    "Subtract": np.subtract,
    "Negative": np.negative,
    "Multiply": np.multiply,
    "Pow": np.power,
    "Reciprocal": np.reciprocal,
    "Exp": np.exp,
    "Log": np.log,
    "Softplus": _softplus,
    "Least": np.minimum,
    "Greatest": np.maximum,
    "AtMost": np.less_equal,
}


class Program:
    """Numpy operations that compute several outputs from parameter vectors and data.

    `leaf` and `operation` build it and return the slot of a value; equal values share a slot. Each value is computed
    as rarely as possible: once per data set, once per parameter vector, or for every pair of the two (see `reach`).
    """

    def __init__(self) -> None:
        # By slot: the operation with the slots of its arguments, or the kind of leaf with its name, index or number.
        self.keys: list[tuple] = []
        self.reach: list[int] = []
        self._slots: dict[tuple, int] = {}

    def leaf(self, kind: str, payload: float | str) -> int:
        """A "number", a "variable" by its name, a column of "theta" by its index, or the "hidden" quantity."""
        return self._slot((kind, payload), _LEAVES[kind])

    def operation(self, function: str, *arguments: int) -> int:
        """A function of other values; `function` is a key of `_FUNCTIONS`."""
        return self._slot((function, *arguments), reduce(operator.or_, (self.reach[i] for i in arguments)))

    def finish(self, outputs: Sequence[int]) -> "Program":
        """Set the outputs and assign memory to what they need; nothing can be added afterwards."""
        needed = set(outputs)
        for slot in reversed(range(len(self.keys))):
            if slot in needed and self.keys[slot][0] not in _LEAVES:
                needed.update(self.keys[slot][1:])
        self._leaves: list[tuple[int, str, float | str]] = []
        steps: dict[int, list[Step]] = {0: [], THETA: [], DATA: [], FULL: []}
        for slot in sorted(needed):
            name, *arguments = self.keys[slot]
            if name in _LEAVES:
                self._leaves.append((slot, name, arguments[0]))
            else:
                steps[self.reach[slot]].append((name, slot, tuple(arguments)))
        self._data_steps, self._theta_steps = steps[0] + steps[DATA], steps[THETA]
        homes = self._assign_memory(steps[FULL], outputs)
        self._full_steps = [(_FUNCTIONS[name], *homes[slot], slot, arguments) for name, slot, arguments in steps[FULL]]
        self._copies = [(place, slot) for place, slot in enumerate(outputs) if homes.get(slot) != (True, place)]
        return self

    def prepare(self, variables: Mapping[str, np.ndarray]) -> list[Value | None]:
        """The memory that `run` starts from: what depends on the data alone.

        Args:
            variables: Column name to float64 array (N,), or (B, N): a data set for each parameter vector.
        """
        memory: list[Value | None] = [None] * len(self.reach)
        for slot, kind, payload in self._leaves:
            if kind == "number":
                memory[slot] = float(payload)
            elif kind == "variable":
                memory[slot] = variables[str(payload)]
        for name, slot, arguments in self._data_steps:
            value = _FUNCTIONS[name](*(memory[i] for i in arguments))
            memory[slot] = np.maximum(value, _LOG_OF_ZERO) if name == "Log" else value
        return memory

    def run(
        self,
        theta: np.ndarray,
        prepared: Sequence[Value | None],
        results: Sequence[np.ndarray],
        hidden: np.ndarray | None = None,
    ) -> None:
        """Fill `results`, one float64 array (B, N) per output, each contiguous in N.

        Args:
            theta: Parameter vectors (B, P).
            prepared: The memory returned by `prepare`.
            results: The arrays to fill.
            hidden: The hidden quantity (B, N), for programs that have one.
        """
        memory = list(prepared)
        sliced = []
        for slot, kind, payload in self._leaves:
            if kind == "theta":
                memory[slot] = theta[:, int(payload), None]
                sliced.append(slot)
            elif kind == "hidden":
                memory[slot] = hidden
                sliced.append(slot)
        for name, slot, arguments in self._theta_steps:
            memory[slot] = _FUNCTIONS[name](*(memory[i] for i in arguments))
            sliced.append(slot)
        count, width = results[0].shape
        rows = min(count, rows_per_block(width))
        scratch = np.empty((self._n_scratch + 1, rows, width))
        if rows == count:
            self._run_block(memory, results, scratch)
            return
        # Data that differ from one parameter vector to the next.
        sliced += [slot for slot, value in enumerate(prepared) if isinstance(value, np.ndarray) and value.ndim == 2]
        for start in range(0, count, rows):
            block = slice(start, min(start + rows, count))
            local = list(memory)
            for slot in sliced:
                local[slot] = memory[slot][block]  # type: ignore[index]  # arrays (B, ...)
            self._run_block(local, [result[block] for result in results], scratch[:, : block.stop - start])

    def _run_block(self, memory: list, results: Sequence[np.ndarray], scratch: np.ndarray) -> None:
        for function, is_result, place, slot, arguments in self._full_steps:
            out = results[place] if is_result else scratch[place]
            if function is _softplus:
                _softplus(memory[arguments[0]], out, scratch[-1])
            elif len(arguments) == 2:
                function(memory[arguments[0]], memory[arguments[1]], out)
            else:
                function(memory[arguments[0]], out)
            memory[slot] = out
        for place, slot in self._copies:
            results[place][...] = memory[slot]

    def _assign_memory(self, steps: Sequence[Step], outputs: Sequence[int]) -> dict[int, tuple[bool, int]]:
        """Where each step writes: (True, a result) or (False, a scratch array that is free after its last use)."""
        homes: dict[int, tuple[bool, int]] = {}
        written = {slot for _, slot, _ in steps}
        for place, slot in enumerate(outputs):
            if slot in written:
                homes.setdefault(slot, (True, place))
        last_use = {argument: i for i, (_, _, arguments) in enumerate(steps) for argument in arguments}
        free: list[int] = []
        self._n_scratch = 0
        for i, (_, slot, arguments) in enumerate(steps):
            # An elementwise operation may overwrite its own input, so inputs are freed first.
            for argument in dict.fromkeys(arguments):
                is_result, place = homes.get(argument, (True, 0))
                if last_use[argument] == i and not is_result:
                    free.append(place)
            if slot not in homes:
                if not free:
                    free.append(self._n_scratch)
                    self._n_scratch += 1
                homes[slot] = (False, free.pop())
        return homes

    def _slot(self, key: tuple, reach: int) -> int:
        if key not in self._slots:
            self._slots[key] = len(self.keys)
            self.keys.append(key)
            self.reach.append(reach)
        return self._slots[key]


def rows_per_block(width: int) -> int:
    """How many parameter vectors to evaluate at once over `width` points."""
    return max(1, _BLOCK // max(width, 1))


class Evaluator:
    """A law over fixed data: whatever depends on the data alone, such as logarithms, is computed once.

    All results are new float64 arrays. With theta (..., P) and data of N points: values are (..., N), gradients
    (..., P, N) and design columns (..., K, N), each contiguous in N, the order in which they are written fastest.
    Where the law is undefined the result is NaN or infinite, without a warning. Data of (B, N) are one set for each of
    B parameter vectors.
    """

    def __init__(self, formula: "Formula", variables: Mapping[str, np.ndarray], size: int):
        self._formula, self._variables, self._size = formula, variables, size
        self._prepared: dict[int, list[Value | None]] = {}

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
            hidden = self._solve(flat) if self._formula.is_equation else None
            results = [value, *(columns[:, k] for k in range(n_columns))]
            program.run(flat, self._prepare(program), results, hidden)
        return value.reshape(*lead, self._size), columns.reshape(*lead, n_columns, self._size)

    def _prepare(self, program: Program) -> list[Value | None]:
        if id(program) not in self._prepared:
            self._prepared[id(program)] = program.prepare(self._variables)
        return self._prepared[id(program)]

    def _solve(self, theta: np.ndarray) -> np.ndarray:
        """The hidden quantity (B, N) at which the residual, which rises with it, is zero."""
        program = self._formula.residual_program
        prepared = self._prepare(program)
        roots = np.empty((len(theta), self._size))
        # In blocks, each of which stops when its own members have converged; small ones, since a step holds four
        # times as many temporary arrays as an evaluation.
        rows = rows_per_block(4 * self._size)
        if any(values.ndim == 2 for values in self._variables.values()):
            rows = len(theta)
        for start in range(0, len(theta), rows):
            vectors = theta[start : start + rows]

            def residual(position: np.ndarray, vectors: np.ndarray = vectors) -> list[np.ndarray]:
                results = [np.empty(position.shape), np.empty(position.shape)]
                program.run(vectors, prepared, results, position)
                return results

            roots[start : start + rows] = rising_root(residual, (len(vectors), self._size))
        return roots


def rising_root(function: Callable[[np.ndarray], Sequence[np.ndarray]], shape: tuple[int, ...]) -> np.ndarray:
    """The zeros of a rising function of each element, by Newton steps kept inside a shrinking bracket.

    Args:
        function: Takes an array of this shape and returns values and slopes.
        shape: Shape of the result. Roots are searched for in `_BRACKET`; for one outside, that end is returned.
    """
    position = np.zeros(shape)
    low, high = np.full(shape, -np.inf), np.full(shape, np.inf)
    converged = np.zeros(shape, dtype=bool)
    for _ in range(_MAX_ROOT_STEPS):
        value, slope = function(position)
        low = np.where(value < 0, position, low)
        high = np.where(value > 0, position, high)
        step = np.clip(position - value / slope, *_BRACKET)
        # Newton's error is squared at each step, so a step this small ends within a double's precision; rounding
        # alone decides what further steps would do, so these elements are not moved again.
        small = np.abs(step - position) <= 1e-9 * (1 + np.abs(position))
        inside = (step > low) & (step < high)
        halfway = np.clip((low + high) / 2, *_BRACKET)
        position = np.where(converged, position, np.where(small | inside, step, halfway))
        converged |= small | np.isnan(value)
        if converged.all():
            break
    return position


def checked_columns(
    variables: Mapping[str, ArrayLike], names: Iterable[str], owner: str
) -> tuple[dict[str, np.ndarray], tuple[int, ...]]:
    """The named columns as float64 arrays of one length, and their shape: () where all are single numbers.

    Raises:
        InputError: A column is missing or does not hold numbers, or the lengths differ.
    """
    columns: dict[str, np.ndarray] = {}
    for name in names:
        try:
            columns[name] = np.asarray(variables[name], dtype=float)
        except KeyError:
            given = ", ".join(map(str, variables))
            raise InputError(f"{owner} needs the column {name!r}; the columns given are {given}") from None
        except (TypeError, ValueError):
            raise InputError(f"{owner}: the column {name!r} must hold numbers") from None
    try:
        shape = np.broadcast_shapes(*(column.shape for column in columns.values()))
    except ValueError:
        shape = (0, 0)
    if len(shape) > 1:
        lengths = ", ".join(f"{name} {column.shape}" for name, column in columns.items())
        raise InputError(f"{owner}: the columns must have one length; got {lengths}")
    size = math.prod(shape)
    return {name: np.array(np.broadcast_to(column, (size,))) for name, column in columns.items()}, shape
