"""Augmentation of whole batches of uint8 images.

Each image draws its random numbers from a hash of (seed, its position in the training stream), so that what it looks
like depends on neither its batch nor its process: a resumed run and a run on two processes see the same pixels.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch.nn import functional

from hf_scaling.errors import InputError

_SHIFT_FRACTION = 8  # at most an eighth of the side, as the 4 of 32 pixels usual on CIFAR
_CROP_AREA = (0.25, 1.0)  # of the image
_CROP_RATIO = (3 / 4, 4 / 3)  # width over height
_ERASE_SIDE = (1 / 7, 3 / 7)  # of the image's


class Uniforms:
    """Uniform numbers in [0, 1) for the images at `positions`, a new column at each draw."""

    def __init__(self, seed: int, positions: np.ndarray):
        self._state = _mix(np.uint64(seed & _ALL_BITS) + np.asarray(positions, np.uint64) * _GOLDEN)
        self._draws = 0

    def draw(self, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """One float32 number in [low, high) for each image, shape (n,)."""
        self._draws += 1
        bits = _mix(self._state + np.uint64(self._draws * int(_GOLDEN) & _ALL_BITS))
        unit = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return torch.from_numpy((low + (high - low) * unit).astype(np.float32))

    def draw_noise(self, side: int) -> torch.Tensor:
        """Grey levels for every pixel, uint8 (n, side, side)."""
        self._draws += 1
        pixels = np.arange(side * side, dtype=np.uint64) << np.uint64(32)
        levels = _mix(self._state[:, None] + (pixels + np.uint64(self._draws)) * _GOLDEN) >> np.uint64(56)
        return torch.from_numpy(levels.astype(np.uint8)).view(-1, side, side)


def augment(images: torch.Tensor, names: Sequence[str], seed: int, positions: np.ndarray) -> torch.Tensor:
    """Apply the augmentations `names`, in order, to a batch.

    Args:
        images: uint8, shape (n, 3, side, side).
        names: Of `AUGMENTATIONS`.
        seed: Of the run.
        positions: Positions of the images in the training stream, shape (n,).

    Returns:
        uint8, the shape of `images`.
    """
    for name in names:
        # Each name draws from a stream of its own: adding one does not change what another does.
        images = AUGMENTATIONS[name](images, Uniforms(seed + _name_salt(name), positions))
    return images


def check_names(names: Sequence[str]) -> None:
    """Refuse what is no augmentation.

    Raises:
        InputError: An unknown or repeated name.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise InputError(f"augmentation {name!r} is unknown; there are {', '.join(AUGMENTATIONS)}")
    if len(set(names)) < len(names):
        raise InputError(f"augmentation names one twice: {', '.join(names)}")


def _flip(images: torch.Tensor, uniforms: Uniforms) -> torch.Tensor:
    chosen = uniforms.draw() < 0.5
    return torch.where(chosen[:, None, None, None], images.flip(-1), images)


def _shift(images: torch.Tensor, uniforms: Uniforms) -> torch.Tensor:
    reach = max(1, images.shape[-1] // _SHIFT_FRACTION)
    padded = functional.pad(images, (reach, reach, reach, reach))
    rows = _window(uniforms.draw(), images.shape[-2], reach)
    columns = _window(uniforms.draw(), images.shape[-1], reach)
    batch = torch.arange(len(images))[:, None, None]
    return padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _window(unit: torch.Tensor, side: int, reach: int) -> torch.Tensor:
    start = (unit * (2 * reach + 1)).long().clamp(max=2 * reach)
    return start[:, None] + torch.arange(side)


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
    """Half of the images lose a rectangle to grey noise (random erasing, Zhong et al. 2017, arXiv 1708.04896)."""
    side = images.shape[-1]
    erased = uniforms.draw() < 0.5
    rows = _inside(uniforms.draw(), uniforms.draw(*_ERASE_SIDE), side)
    columns = _inside(uniforms.draw(), uniforms.draw(*_ERASE_SIDE), side)
    hole = erased[:, None, None] & rows[:, :, None] & columns[:, None, :]
    return torch.where(hole[:, None], uniforms.draw_noise(side)[:, None], images)


def _inside(unit: torch.Tensor, length: torch.Tensor, side: int) -> torch.Tensor:
    """Which of `side` pixels lie in a stretch of the share `length`, whose place `unit` chooses: bool (n, side)."""
    pixels = (length * side).round()[:, None]
    start = (unit[:, None] * (side - pixels + 1)).floor()
    place = torch.arange(side)
    return (place >= start) & (place < start + pixels)


#: Name -> function of a batch and its random numbers.
AUGMENTATIONS: dict[str, Callable[[torch.Tensor, Uniforms], torch.Tensor]] = {
    "flip": _flip,
    "shift": _shift,
    "resized_crop": _resized_crop,
    "erase": _erase,
}

_ALL_BITS = 2**64 - 1
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(values: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele et al. 2014): every bit of the result depends on every bit given."""
    with np.errstate(over="ignore"):
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _name_salt(name: str) -> int:
    return int.from_bytes(name.encode()[:8], "little")
