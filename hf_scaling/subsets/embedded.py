"""The sources that need no file and no network, as readers: `glyphs` and `digits`."""

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.subsets import digits, glyphs
from hf_scaling.subsets.pictures import pack_pixels
from hf_scaling.subsets.shards import Block

_CHUNK = 64  # glyphs at a time: their arrays then stay in the processor's cache, twice the speed of 512


class GlyphOrigin:
    """Glyphs, `n_images` of them for training."""

    name = "glyphs"
    class_names = tuple(glyphs.CHARACTERS)
    has_test = True

    def __init__(self, n_images: int | None, seed: int):
        """Take 50,000 images unless told otherwise."""
        self._n_images = glyphs.DEFAULT_N_IMAGES if n_images is None else n_images
        if self._n_images < 1:
            raise InputError(f"n_images: {n_images} glyphs cannot be drawn, ask for at least 1")
        self._seed = seed

    def identity(self) -> dict:
        """Say what determines the images."""
        return {"glyphs": glyphs.identity(), "n_images": self._n_images, "seed": self._seed}

    def reader(
        self, part: str, chosen: np.ndarray, image_size: int, storage: str, skip_corrupt: bool
    ) -> "GlyphReader":
        """Prepare to draw a part; nothing drawn is corrupt."""
        n_images = self._n_images if part == "train" else glyphs.N_TEST
        # The test images are the same whatever the seed: runs of several seeds are then compared on one set.
        seed = self._seed if part == "train" else 0
        return GlyphReader(n_images, chosen, image_size, seed, part, storage)


class DigitOrigin:
    """The scans of scikit-learn."""

    name = "digits"
    class_names = digits.CLASS_NAMES
    has_test = True

    def identity(self) -> dict:
        """Say what determines the images."""
        return digits.identity()

    def reader(
        self, part: str, chosen: np.ndarray, image_size: int, storage: str, skip_corrupt: bool
    ) -> "DigitReader":
        """Open a part; no scan is corrupt."""
        return DigitReader(chosen, image_size, part, storage)


class GlyphReader:
    """Draws glyphs of the chosen classes: image i is the i-th of these classes, in the generator's order."""

    sequential = False

    def __init__(self, n_images: int, chosen: np.ndarray, image_size: int, seed: int, part: str, storage: str):
        """Prepare to draw `n_images` of the class ids `chosen` (sorted)."""
        self.n_rows = self.n_pictures = n_images
        self._chosen, self._image_size, self._storage = chosen, image_size, storage
        self._part, self._seed = part, seed

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Draw the images `start` to `stop`."""
        block = Block()
        for begin in range(start, min(stop, self.n_rows), _CHUNK):
            places = np.arange(begin, min(begin + _CHUNK, stop, self.n_rows))
            turns, labels = np.divmod(places, len(self._chosen))
            indices = turns * len(glyphs.CHARACTERS) + self._chosen[labels]
            grey = glyphs.draw(indices, self._image_size, self._seed, self._part)
            _append(block, np.repeat(grey[..., None], 3, axis=-1), labels, self._storage)
        return block


class DigitReader:
    """The scans of the chosen classes."""

    sequential = False

    def __init__(self, chosen: np.ndarray, image_size: int, part: str, storage: str):
        """Prepare to read the scans of the class ids `chosen` (sorted)."""
        scans, labels = digits.part(part)
        kept = np.isin(labels, chosen)
        self._scans, self._labels = scans[kept], np.searchsorted(chosen, labels[kept])
        self.n_rows = self.n_pictures = len(self._labels)
        self._image_size, self._storage = image_size, storage

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Enlarge the scans `start` to `stop`."""
        block = Block()
        pixels = [digits.enlarge(scan, self._image_size) for scan in self._scans[start:stop]]
        _append(block, pixels, self._labels[start:stop], self._storage)
        return block


def _append(block: Block, pixels, labels: np.ndarray, storage: str) -> None:
    packed = [pack_pixels(each, storage) for each in pixels]
    block.payloads += [payload for payload, _ in packed]
    block.hashes += [hashed for _, hashed in packed]
    block.labels += labels.tolist()
    block.n_rows += len(packed)
