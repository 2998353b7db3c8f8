"""Augmentation of whole batches of uint8 images.

Each image draws its random numbers from a hash of the seed and its position in the training stream, so its pixels
depend neither on its batch nor on its process: a resumed run and a run on two processes see the same images.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from hf_scaling.data.sampling import random_words, to_unit
from hf_scaling.errors import InputError
from hf_scaling.text import did_you_mean

_SHIFT_FRACTION = 8  # at most an eighth of the side, as the 4 of 32 pixels that are usual on CIFAR
_CROP_AREA = (0.25, 1.0)  # share of the image
_CROP_RATIO = (3 / 4, 4 / 3)  # width over height
_ERASE_SIDE = (1 / 7, 3 / 7)  # share of the image's side


def augment(images: torch.Tensor, names: Sequence[str], seed: int, positions: np.ndarray) -> torch.Tensor:
    """Apply augmentations, in order, to a batch.

    Args:
        images: uint8, shape (n, 3, side, side); not changed.
        names: Names of `AUGMENTATIONS`.
        seed: Seed of the run.
        positions: Positions of the images in the training stream, shape (n,).

    Returns:
        uint8, the shape of `images`.
    """
    for name in names:
        # Each name has a stream of its own, so adding one does not change what another draws.
        stream = int.from_bytes(name.encode()[:8], "little")
        images = AUGMENTATIONS[name](images, Uniforms(seed + stream, positions))
    return images


def check_names(names: Sequence[str]) -> None:
    """Refuse unknown and repeated augmentations.

    Raises:
        InputError: An unknown or repeated name.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            hint = did_you_mean(name, AUGMENTATIONS) or f"; known are {', '.join(AUGMENTATIONS)}"
            raise InputError(f"augmentation: {name!r} is unknown{hint}")
    if len(set(names)) < len(names):
        raise InputError(f"augmentation: a name is repeated in {', '.join(names)}")


class Uniforms:
    """Uniform random numbers for the images at `positions`; each draw gives new ones."""

    def __init__(self, seed: int, positions: np.ndarray):
        self._keys = random_words(np.uint64(seed % 2**64), np.asarray(positions, np.int64) - 1)
        self._draws = 0

    def draw(self, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """One number in [low, high) for each image, float32 (n,)."""
        unit = to_unit(random_words(self._keys, np.array([self._draws])))
        self._draws += 1
        return torch.from_numpy((low + (high - low) * unit).astype(np.float32))

    def draw_noise(self, side: int) -> torch.Tensor:
        """A grey level for every pixel, uint8 (n, side, side)."""
        pixels = np.arange(side * side, dtype=np.int64) << 32
        levels = random_words(self._keys[:, None], pixels + self._draws) >> np.uint64(56)
        self._draws += 1
        return torch.from_numpy(levels.astype(np.uint8)).view(-1, side, side)


def _flip(images: torch.Tensor, uniforms: Uniforms) -> torch.Tensor:
    is_flipped = uniforms.draw() < 0.5
    return torch.where(is_flipped[:, None, None, None], images.flip(-1), images)


def _shift(images: torch.Tensor, uniforms: Uniforms) -> torch.Tensor:
    reach = max(1, images.shape[-1] // _SHIFT_FRACTION)
    padded = functional.pad(images, (reach, reach, reach, reach))
    rows, columns = (
        (uniforms.draw() * (2 * reach + 1)).long().clamp(max=2 * reach)[:, None] + torch.arange(side)
        for side in images.shape[-2:]
    )
    batch = torch.arange(len(images))[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _resized_crop(images: torch.Tensor, uniforms: Uniforms) -> torch.Tensor:
    area = uniforms.draw(*_CROP_AREA)
    ratio = torch.exp(uniforms.draw(*np.log(_CROP_RATIO)))
    width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
    left, top = uniforms.draw(-1, 1) * (1 - width), uniforms.draw(-1, 1) * (1 - height)
    zeros = torch.zeros_like(width)
    maps = torch.stack([torch.stack([width, zeros, left], 1), torch.stack([zeros, height, top], 1)], 1)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    resized = functional.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return resized.round_().clamp_(0, 255).to(torch.uint8)


def _erase(images: torch.Tensor, uniforms: Uniforms) -> torch.Tensor:
    """Replace a rectangle of half of the images by grey noise (Zhong et al. 2017, arXiv 1708.04896)."""
    side = images.shape[-1]
    is_erased = uniforms.draw() < 0.5
    rows = _random_stretch(uniforms, side)
    columns = _random_stretch(uniforms, side)
    rectangle = is_erased[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return torch.where(rectangle[:, None], uniforms.draw_noise(side)[:, None], images)


def _random_stretch(uniforms: Uniforms, side: int) -> torch.Tensor:
    """Which of `side` pixels are in a stretch of random position and length: bool (n, side)."""
    position, length = uniforms.draw(), uniforms.draw(*_ERASE_SIDE)
    n_pixels = (length * side).round()[:, None]
    start = (position[:, None] * (side - n_pixels + 1)).floor()
    pixels = torch.arange(side)
    return (pixels >= start) & (pixels < start + n_pixels)


#: Name -> function of a batch and its random numbers.
AUGMENTATIONS: dict[str, Callable[[torch.Tensor, Uniforms], torch.Tensor]] = {
    "flip": _flip,
    "shift": _shift,
    "resized_crop": _resized_crop,
    "erase": _erase,
}
