"""Windows of tokens: the examples of a language model.

Documents stand one after the other, each with its end, and windows of one length are cut from them. A window holds one
token more than the model looks at, so that each of its tokens but the first is predicted once.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_scaling.tasks.epochs import Epochs


class Windows(Dataset):
    """The whole windows of a text in order, as a map-style data set; a list of positions gives a batch.

    Args:
        tokens: Ids, int (n,), more than `context` of them.
        context: Tokens that the model looks at.
    """

    def __init__(self, tokens: np.ndarray, context: int):
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return {name: each[0] for name, each in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: input_ids and labels (the token after each), int64 (n, context)."""
        starts = self.starts(np.asarray(positions, dtype=np.int64))
        places = starts[:, None] + np.arange(self.context + 1)
        # The text closes to a ring, so that a window may begin anywhere.
        windows = torch.from_numpy(self.tokens[places % len(self.tokens)].astype(np.int64))
        return {"input_ids": windows[:, :-1].contiguous(), "labels": windows[:, 1:].contiguous()}

    def starts(self, positions: np.ndarray) -> np.ndarray:
        """Where in the text the window of each position begins."""
        return positions * self.context


class WindowStream(Windows):
    """The training windows, pass after pass, in fresh orders and, from the second pass on, cut at other places.

    Args:
        tokens, context: As for `Windows`.
        length: Positions in the stream: steps times batch.
        seed: Of the orders and the cuts.
        rungs: Windows up to each rung (see `Epochs`), all of them last.
    """

    def __init__(self, tokens: np.ndarray, context: int, length: int, seed: int, rungs: Sequence[int]):
        super().__init__(tokens, context)
        self.length, self.seed = length, seed
        self._epochs = Epochs(rungs[-1], seed, rungs)

    def __len__(self) -> int:
        return self.length

    def starts(self, positions: np.ndarray) -> np.ndarray:
        """Where in the text the window of each position begins."""
        epochs, windows = self._epochs.find(positions)
        cuts = {each: self._cut(each) for each in np.unique(epochs).tolist()}
        return windows * self.context + np.array([cuts[each] for each in epochs.tolist()])

    def _cut(self, epoch: int) -> int:
        return int(np.random.default_rng([self.seed, epoch, 1]).integers(len(self.tokens))) if epoch else 0
