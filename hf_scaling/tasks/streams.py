"""The training images as a stream, augmented, and the validation images in order."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_scaling.data import Split
from hf_scaling.models import ImageStatistics
from hf_scaling.tasks.augmentation import augment, check_names


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


class ImageSet(Dataset):
    """A map-style data set of images of a split, in order; a list of positions gives a whole batch.

    Args:
        split: Where the images and labels are read.
        indices: The subset's indices into `split`.
        statistics: How pixels are normalised.
    """

    def __init__(self, split: Split, indices: np.ndarray, statistics: ImageStatistics):
        self.split, self.indices = split, np.asarray(indices)
        self._labels = np.asarray(split.labels)
        self._mean, self._std = (
            255 * torch.tensor(each, dtype=torch.float32)[:, None, None] for each in (statistics.mean, statistics.std)
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return {name: each[0] for name, each in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: pixel_values float32 (n, 3, side, side), labels int64 (n,)."""
        positions = np.asarray(positions, dtype=np.int64)
        chosen = self.indices[self.order(positions)]
        images = self.change(to_tensor(self.split.images(chosen)), positions)
        pixel_values = images.float().sub_(self._mean).div_(self._std).contiguous()
        return {"pixel_values": pixel_values, "labels": torch.from_numpy(self._labels[chosen])}

    def order(self, positions: np.ndarray) -> np.ndarray:
        """Which image of the subset, 0 to n-1, stands at each position."""
        return positions

    def change(self, images: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        """What is done to the uint8 images before they are normalised."""
        return images


class ImageStream(ImageSet):
    """The training images, epoch after epoch, augmented.

    Args:
        split: Where the images and labels are read.
        indices: The subset's indices into `split`.
        statistics: How pixels are normalised.
        length: Positions in the stream: steps times batch.
        seed: Of the order and the augmentation.
        augmentation: Names of augmentations, in order.
        rungs: See `Epochs`.

    Raises:
        InputError: An unknown augmentation.
    """

    def __init__(
        self,
        split: Split,
        indices: np.ndarray,
        statistics: ImageStatistics,
        length: int,
        seed: int,
        augmentation: Sequence[str] = (),
        rungs: Sequence[int] = (),
    ):
        super().__init__(split, indices, statistics)
        check_names(augmentation)
        self.length, self.seed, self.augmentation = length, seed, tuple(augmentation)
        self._epochs = Epochs(len(indices), seed, rungs)

    def __len__(self) -> int:
        return self.length

    def order(self, positions: np.ndarray) -> np.ndarray:
        """Which image of the subset, 0 to n-1, stands at each position."""
        return self._epochs.find(positions)[1]

    def change(self, images: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        """Augment."""
        return augment(images, self.augmentation, self.seed, positions)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, side, side, 3) as the cache holds them to uint8 (n, 3, side, side) as models take them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)
