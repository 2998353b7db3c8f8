"""The training images as one long stream, every position of which is known beforehand.

Epoch after epoch of fresh permutations stand end to end, and batch k is positions k*B to (k+1)*B of them. Every batch
is full, whatever the subset's size; a resumed run takes up the stream where it left it; and processes that share the
batches of the stream see together what one process sees.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_scaling.models import ImageStatistics
from hf_scaling.subsets import Split
from hf_scaling.tasks.augmentation import augment, check_names


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
    ):
        super().__init__(split, indices, statistics)
        check_names(augmentation)
        self.length, self.seed, self.augmentation = length, seed, tuple(augmentation)
        self._permutations: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.length

    def order(self, positions: np.ndarray) -> np.ndarray:
        """Which image of the subset, 0 to n-1, stands at each position."""
        epochs, offsets = np.divmod(positions, len(self.indices))
        order = np.empty(len(positions), dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            here = epochs == epoch
            order[here] = self._permutation(epoch)[offsets[here]]
        return order

    def change(self, images: torch.Tensor, positions: np.ndarray) -> torch.Tensor:
        """Augment."""
        return augment(images, self.augmentation, self.seed, positions)

    def _permutation(self, epoch: int) -> np.ndarray:
        if epoch not in self._permutations:
            # Only the last epoch's is needed again: by a batch that stands across the border.
            self._permutations = {each: kept for each, kept in self._permutations.items() if each == epoch - 1}
            self._permutations[epoch] = np.random.default_rng([self.seed, epoch]).permutation(len(self.indices))
        return self._permutations[epoch]


def to_tensor(images: np.ndarray) -> torch.Tensor:
    """uint8 (n, side, side, 3) as the cache holds them to uint8 (n, 3, side, side) as models take them."""
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def collate(batch: Any) -> Any:
    """The batch as it is: `ImageStream` has collated it already."""
    return batch
