"""Runs graph nodes over many parameter vectors at once.

A `Program` is a short tape of numpy calls. What depends on the data alone runs once per data set (`prepare`), what
depends on the parameters alone runs on one number per parameter vector, and the rest runs in blocks of parameter
vectors small enough for their temporaries to stay in the processor's cache.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from hf_scaling.laws.algebra import FULL, THETA, Node, below

# Numbers per temporary in one block: 16k doubles are 128 KiB, so a handful fits a core's second-level cache.
_BLOCK = 16384
# The logarithm of a zero in the data. Finite, so that 0**b is 0 with a gradient of 0 and not NaN, yet so large that
# 0**-b is infinite for any exponent that matters.
_LOG_OF_ZERO = -1e300


def _softplus(z, out=None, scratch=None):
    scratch = np.abs(z, out=scratch)
    np.negative(scratch, out=scratch)
    np.exp(scratch, out=scratch)
    np.add(scratch, 1.0, out=scratch)
    np.log(scratch, out=scratch)
    out = np.maximum(z, 0.0, out=out)
    return np.add(out, scratch, out=out)


_OPERATIONS = {
    "add": np.add,
    "sub": np.subtract,
    "neg": np.negative,
    "mul": np.multiply,
    "recip": np.reciprocal,
    "exp": np.exp,
    "log": np.log,
    "softplus": _softplus,
    "minimum": np.minimum,
    "maximum": np.maximum,
    "at_most": np.less_equal,
}


def rows_per_block(width: int) -> int:
    """How many parameter vectors to evaluate at once over `width` points."""
    return max(1, _BLOCK // max(width, 1))


class Program:
    """A tape that computes `outputs` (nodes of one graph) from parameter vectors and data."""

    def __init__(self, outputs: Iterable[Node], parameters: Iterable[str]):
        self._outputs = list(outputs)
        nodes = sorted(below(self._outputs), key=lambda node: node.index)
        self._columns = {name: i for i, name in enumerate(parameters)}
        self._data_nodes = [node for node in nodes if not node.reach & THETA]
        self._theta_nodes = [node for node in nodes if node.reach == THETA]
        self._steps = [node for node in nodes if node.reach == FULL and node.op != "hidden"]
        self._hidden = [node for node in nodes if node.op == "hidden"]
        self._home, self._n_scratch = self._allocate()

    def prepare(self, variables: Mapping[str, np.ndarray]) -> dict[Node, np.ndarray | float]:
        """What depends on the data alone, for `run`.

        Args:
            variables: Column name to float64 array (N,).
        """
        known = {}
        for node in self._data_nodes:
            if node.op == "number":
                known[node] = node.payload
            elif node.op == "variable":
                known[node] = variables[node.payload]
            else:
                value = _OPERATIONS[node.op](*(known[arg] for arg in node.args))
                known[node] = np.maximum(value, _LOG_OF_ZERO) if node.op == "log" else value
        return known

    def run(self, theta: np.ndarray, data: Mapping[Node, object], results: list[np.ndarray], hidden=None) -> None:
        """Fill `results`, one float64 array (B, N) per output, each contiguous in N.

        Args:
            theta: Parameter vectors (B, P).
            data: What `prepare` gave.
            results: Where to write.
            hidden: Values of the hidden quantity (B, N), for programs that have one.
        """
        known = dict(data)
        for node in self._theta_nodes:
            known[node] = (
                theta[:, self._columns[node.payload], None]
                if node.op == "parameter"
                else _OPERATIONS[node.op](*(known[arg] for arg in node.args))
            )
        count, width = results[0].shape
        rows = min(count, rows_per_block(width))
        scratch = np.empty((self._n_scratch, rows, width))
        for start in range(0, count, rows):
            self._run_block(slice(start, min(start + rows, count)), known, results, scratch, hidden)

    def _run_block(self, block, known, results, scratch, hidden) -> None:
        size = block.stop - block.start
        local = {} if hidden is None else dict.fromkeys(self._hidden, hidden[block])
        for node in self._theta_nodes:
            local[node] = known[node][block]
        for node in self._steps:
            kind, place = self._home[node]
            out = results[place][block] if kind == "result" else scratch[place, :size]
            args = [local[arg] if arg in local else known[arg] for arg in node.args]
            if node.op == "softplus":
                _softplus(args[0], out, scratch[-1, :size])
            else:
                _OPERATIONS[node.op](*args, out)
            local[node] = out
        for place, node in enumerate(self._outputs):
            if self._home.get(node) != ("result", place):
                results[place][block] = local[node] if node in local else known[node]

    def _allocate(self) -> tuple[dict[Node, tuple[str, int]], int]:
        """Where each step writes: into a result, or into a scratch array that is free again after its last use."""
        home = {}
        for place, node in enumerate(self._outputs):
            if node.reach == FULL and node.op != "hidden":
                home.setdefault(node, ("result", place))
        last_use = {arg: i for i, node in enumerate(self._steps) for arg in node.args}
        free, used = [], 0
        for i, node in enumerate(self._steps):
            # An elementwise operation may write over its own input, so inputs are freed first.
            for arg in dict.fromkeys(node.args):
                if last_use[arg] == i and home.get(arg, ("",))[0] == "scratch":
                    free.append(home[arg][1])
            if node not in home:
                if not free:
                    free.append(used)
                    used += 1
                home[node] = ("scratch", free.pop())
        return home, used + any(node.op == "softplus" for node in self._steps)
