"""Examples as map-style data sets that return whole batches: images and windows of text, in order or as a stream.

A stream has a position for every example of the training (steps times batch), so any position can be read directly
and a resumed run or another number of processes sees the same examples.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_scaling.data import Split
from hf_scaling.models import ImageStatistics
from hf_scaling.tasks.augmentation import augment, check_names


class Epochs:
    """Random permutations of a subset, one per epoch, end to end.

    Args:
        n: Number of examples in the subset.
        seed: Seed of the order.
        rungs: Number of examples up to each rung of a ladder, the last being `n`: the examples of a smaller rung come
            before those that a larger one adds. Without rungs all are mixed.
    """

    def __init__(self, n: int, seed: int, rungs: Sequence[int] = ()):
        self.n, self.seed = n, seed
        self._rungs = tuple(rungs) or (n,)
        self._permutations: dict[int, np.ndarray] = {}

    def find(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The epoch, and the example within the subset (0 to n-1), at each position: int64 arrays."""
        epochs, offsets = np.divmod(np.asarray(positions, np.int64), self.n)
        examples = np.empty(len(epochs), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            if epoch not in self._permutations:
                # Of the others only the previous epoch's is needed again, by a batch that spans both.
                previous = {number: order for number, order in self._permutations.items() if number == epoch - 1}
                generator, starts = np.random.default_rng([self.seed, epoch]), (0, *self._rungs)
                parts = [start + generator.permutation(stop - start) for start, stop in zip(starts, self._rungs)]
                self._permutations = previous | {epoch: np.concatenate(parts)}
            in_epoch = epochs == epoch
            examples[in_epoch] = self._permutations[epoch][offsets[in_epoch]]
        return epochs, examples


def collate(batch: Any) -> Any:
    """Return the batch unchanged: a stream has collated it already."""
    return batch


class ImageSet(Dataset):
    """Images of a split in order, as a map-style data set; a list of positions gives a batch.

    Args:
        split: Source of the images and labels.
        indices: Indices of the subset in `split`.
        statistics: How pixels are normalised.
    """

    def __init__(self, split: Split, indices: np.ndarray, statistics: ImageStatistics):
        self.split, self.indices = split, np.asarray(indices)
        self._labels = np.asarray(split.labels)
        self._mean, self._std = (
            255 * torch.tensor(values, dtype=torch.float32)[:, None, None]
            for values in (statistics.mean, statistics.std)
        )

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: pixel_values float32 (n, 3, side, side), labels int64 (n,)."""
        positions = np.asarray(positions, dtype=np.int64)
        indices = self.indices[self.order(positions)]
        images = self.transform(to_tensor(self.split.images(indices)), positions)
        pixel_values = images.float().sub_(self._mean).div_(self._std).contiguous()
        return {"pixel_values": pixel_values, "labels": torch.from_numpy(self._labels[indices])}

    def order(self, positions: np.ndarray) -> np.ndarray:
        """The image of the subset, 0 to n-1, at each position."""
        return positions

    def transform(self, images: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        """Transform the uint8 images before they are normalised; here not at all."""
        return images


class ImageStream(ImageSet):
    """The training images, epoch after epoch, augmented.

    Args:
        split, indices, statistics: As for `ImageSet`.
        length: Positions in the stream: steps times batch.
        seed: Seed of the order and the augmentation.
        augmentation: Names of augmentations, in order.
        rungs: Number of images up to each rung of a ladder, as for `Epochs`.

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
        """The image of the subset, 0 to n-1, at each position."""
        return self._epochs.find(positions)[1]

    def transform(self, images: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        """Augment the images."""
        return augment(images, self.augmentation, self.seed, positions)


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, side, side, 3), as in the cache, to uint8 (n, 3, side, side), as models take them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


class Windows(Dataset):
    """The complete windows of a text in order, as a map-style data set; a list of positions gives a batch.

    Args:
        tokens: Token ids, int (n,), more than `context` of them.
        context: Number of tokens that the model attends to.
    """

    def __init__(self, tokens: np.ndarray, context: int):
        self.tokens, self.context = tokens, context

    def __len__(self) -> int:
        return (len(self.tokens) - 1) // self.context

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        return {name: values[0] for name, values in self.__getitems__([position]).items()}

    def __getitems__(self, positions: Sequence[int]) -> dict[str, torch.Tensor]:
        """A batch: input_ids and labels (the token after each), int64 (n, context)."""
        starts = self.starts(np.asarray(positions, dtype=np.int64))
        indices = starts[:, None] + np.arange(self.context + 1)
        # The text is read as a ring, so that a window may begin anywhere.
        windows = torch.from_numpy(self.tokens[indices % len(self.tokens)].astype(np.int64))
        return {"input_ids": windows[:, :-1].contiguous(), "labels": windows[:, 1:].contiguous()}

    def starts(self, positions: np.ndarray) -> np.ndarray:
        """Index of the first token of the window at each position."""
        return positions * self.context


class WindowStream(Windows):
    """The training windows, epoch after epoch, in new orders and, from the second epoch on, cut at other tokens.

    Args:
        tokens, context: As for `Windows`.
        length: Positions in the stream: steps times batch.
        seed: Seed of the orders and the cuts.
        rungs: Number of windows up to each rung, as for `Epochs`; the last is all of them.
    """

    def __init__(self, tokens: np.ndarray, context: int, length: int, seed: int, rungs: Sequence[int]):
        super().__init__(tokens, context)
        self.length, self.seed = length, seed
        self._epochs = Epochs(rungs[-1], seed, rungs)

    def __len__(self) -> int:
        return self.length

    def starts(self, positions: np.ndarray) -> np.ndarray:
        """Index of the first token of the window at each position."""
        epochs, windows = self._epochs.find(positions)
        offsets = {
            epoch: np.random.default_rng([self.seed, epoch, 1]).integers(len(self.tokens)) if epoch else 0
            for epoch in np.unique(epochs).tolist()
        }
        return windows * self.context + np.array([offsets[epoch] for epoch in epochs.tolist()])
