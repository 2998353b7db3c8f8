"""The training images as a stream, augmented, and the validation images in order."""

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from hf_scaling.models import ImageStatistics
from hf_scaling.subsets import Split
from hf_scaling.tasks.augmentation import augment, check_names
from hf_scaling.tasks.epochs import Epochs


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
