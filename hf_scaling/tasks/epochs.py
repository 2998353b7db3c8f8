"""The examples of a run as one long stream, every position of which is known beforehand.

Epoch after epoch of fresh permutations stand end to end, and batch k is positions k*B to (k+1)*B of them. Every batch
is full, whatever the subset's size; a resumed run takes up the stream where it left it; and processes that share the
batches of the stream see together what one process sees.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Epochs:
    """Permutations of a subset, end to end.

    Args:
        n: Examples in the subset.
        seed: Of the order.
        rungs: Examples up to each rung of a ladder, the last being `n`: those of a smaller rung all come before those
            that a larger one adds. Without them all are mixed.
    """

    def __init__(self, n: int, seed: int, rungs: Sequence[int] = ()):
        self.n, self.seed = n, seed
        self._rungs = tuple(rungs) or (n,)
        self._permutations: dict[int, np.ndarray] = {}

    def find(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch and the example, 0 to n-1, at each position: int64 arrays."""
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self.n)
        examples = np.empty(len(epochs), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            examples[here] = self._permutation(epoch)[offsets[here]]
        return epochs, examples

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            # Only the last epoch's is needed again: by a batch that stands across the border.
            self._permutations = {each: kept for each, kept in self._permutations.items() if each == epoch - 1}
            draw, below = np.random.default_rng([self.seed, epoch]), (0, *self._rungs)
            added = [start + draw.permutation(stop - start) for start, stop in zip(below, self._rungs)]
            self._permutations[epoch] = np.concatenate(added)
        return self._permutations[epoch]


def collate(batch: Any) -> Any:
    """The batch as it is: a stream has collated it already."""
    return batch
