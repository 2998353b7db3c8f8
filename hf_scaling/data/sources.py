"""Images that two parts share: a model that saw a test image in pre-training is tested on less than it seems."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from hf_scaling.data import digits, glyphs
from hf_scaling.data.cache import Block, Reader, Store, cache_root, is_filled, open_store
from hf_scaling.data.images import DECODING_VERSION, pack_pixels, storage_for
from hf_scaling.data.sampling import choose_classes, held_out, validation_size
from hf_scaling.errors import InputError

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


_LARGEST_TEST = 10_000


class Origin(Protocol):
    """Where pictures come from.

    Attributes:
        name: What results call it; never a path.
        class_names: All its classes, in label order.
        has_test: Whether it has a test part of its own.
    """

    name: str
    class_names: Sequence[str]
    has_test: bool

    def identity(self) -> dict:
        """Say what determines the pictures, as JSON."""

    def reader(self, part: str, chosen: np.ndarray, image_size: int, storage: str, skip_corrupt: bool) -> Reader:
        """Open "train" or "test", with the pictures of the class ids `chosen`; labels count within `chosen`."""


@dataclass(frozen=True)
class Split:
    """Some labelled pictures of one size, read from the cache by index.

    Reading is by index alone, so any sampler shares the pictures out: each process reads those that it is given.
    """

    store: Store
    indices: np.ndarray

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def labels(self) -> np.ndarray:
        """Class ids, int64 array (n,)."""
        return self.store.labels[self.indices]

    @property
    def n_skipped(self) -> int:
        """How many pictures of the source were left out because they cannot be decoded."""
        return len(self.store.skipped)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Read pictures: uint8 array (len(indices), image_size, image_size, 3), in the order of `indices`."""
        return self.store.images(self.indices[indices])

    def pixel_hashes(self) -> np.ndarray:
        """Give a hash of each picture's pixels at this size, before any lossy encoding: uint64 array (n,)."""
        return self.store.hashes[self.indices]


class Source:
    """A source at one image size with its chosen classes.

    Attributes:
        name: What results call it; never a path.
        fingerprint: 16 hex digits of the content, the decoding, the size and the classes; never of a path.
        class_names: The chosen classes, in label order.
        image_size: Side in pixels; pictures are RGB.
    """

    def __init__(
        self, origin: Origin, chosen: np.ndarray, image_size: int, skip_corrupt: bool, root: Path, progress: bool
    ):
        """Open `origin` with the class ids `chosen`, caching under `root`."""
        self.name, self.image_size = origin.name, image_size
        self.class_names = [origin.class_names[each] for each in chosen]
        all_chosen = len(chosen) == len(origin.class_names)
        basis = {
            "identity": origin.identity(),
            "image_size": image_size,
            "decoding": DECODING_VERSION,
            "classes": None if all_chosen else self.class_names,
        }
        self.fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]
        self._folder = root / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', self.name)}-{image_size}px-{self.fingerprint}"
        self._origin, self._chosen = origin, chosen
        self._skip_corrupt, self._progress = skip_corrupt, progress

    @property
    def is_at_hand(self) -> bool:
        """Whether its pictures are cached, or drawn here, so that reading them downloads and decodes nothing."""
        if isinstance(self._origin, GlyphOrigin | DigitOrigin):
            return True
        parts = ("train", "test") if self._origin.has_test else ("train",)
        return all(
            is_filled(self._folder / part, storage_for(self.image_size, part), self.image_size) for part in parts
        )

    @functools.cached_property
    def train(self) -> Split:
        """The training pictures.

        Raises:
            InputError: A picture cannot be decoded (unless skipped), or the cache's disk is full.
        """
        return self._whole("train") if self._origin.has_test else self._parts[0]

    @functools.cached_property
    def test(self) -> Split:
        """The pictures that evaluation reads: the source's own, else 10 % of its only part, at most 10,000, by key.

        Raises:
            InputError: As `train` does.
        """
        return self._whole("test") if self._origin.has_test else self._parts[1]

    @property
    def n_held_out(self) -> int:
        """How many training pictures a run that selects by a validation part holds out."""
        return validation_size(len(self.train))

    @functools.cached_property
    def _parts(self) -> tuple[Split, Split]:
        whole = self._whole("train")
        n_test = min(_LARGEST_TEST, len(whole) // 10)
        if n_test == 0:
            raise InputError(f"{self.name} has {len(whole)} images and no test part: 10 % of at least 10 are needed")
        kept, tested = held_out(len(whole), n_test, seed=0, stream="test")
        return Split(whole.store, kept), Split(whole.store, tested)

    def _whole(self, part: str) -> Split:
        storage = storage_for(self.image_size, part)
        store = open_store(
            self._folder / part,
            lambda: self._origin.reader(part, self._chosen, self.image_size, storage, self._skip_corrupt),
            storage,
            self.image_size,
            f"{self.name} ({part})",
            self._progress,
        )
        if store.skipped and not self._skip_corrupt:
            raise InputError(f"{store.skipped[0]}: mend or remove it, or leave out such images with skip_corrupt")
        if part == "train" and len(np.unique(store.labels)) < 2:
            raise InputError(
                f"{self.name}: its images are not of two classes or more, so there is nothing to tell apart"
            )
        return Split(store, np.arange(len(store.labels)))


def open_source(
    name: str | os.PathLike,
    image_size: int = 28,
    image_column: str | None = None,
    label_column: str | None = None,
    classes: int | str | None = None,
    n_images: int | None = None,
    seed: int = 0,
    streaming: bool = False,
    skip_corrupt: bool = False,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> Source:
    """Open a source of labelled images.

    Args:
        name: "glyphs", "digits", a folder, a Parquet file, or a Hub id (a path that exists wins).
        image_size: Side in pixels: the shorter side is resized to it, the centre kept.
        image_column: The column with the images; found by its type when None.
        label_column: The column with the classes; found by its type or name when None.
        classes: Of which classes: a number (a fixed choice, nested) or a file with one a line; None for all.
        n_images: How many training glyphs to draw (50,000); other sources have as many as they have.
        seed: Of the drawing of training glyphs; other sources have nothing to draw.
        streaming: Read a Hub id or a folder once, in order, instead of downloading and converting it whole first.
        skip_corrupt: Leave out images that cannot be decoded (`Split.n_skipped`) instead of refusing the source.
        cache_dir: Of the cache; $HF_SCALING_CACHE or ~/.cache/hf_scaling when None.
        progress: Whether to show progress on stderr.

    Returns:
        The source. Columns and classes are checked here; the cache is filled when `.train` or `.test` is first read.

    Raises:
        InputError: The source, a column or a class is unknown, or the labels are not classes; one line says which.
    """
    if image_size < 1:
        raise InputError(f"image_size: {image_size} is no number of pixels")
    root = cache_root(cache_dir)
    origin = _find_origin(str(name), image_column, label_column, n_images, seed, streaming, root, progress)
    return Source(
        origin, choose_classes(origin.class_names, classes, origin.name), image_size, skip_corrupt, root, progress
    )


def _find_origin(name, image_column, label_column, n_images, seed, streaming, root: Path, progress) -> Origin:
    if name == "glyphs":
        return GlyphOrigin(n_images, seed)
    if n_images is not None:
        raise InputError(f"n_images: only glyphs are drawn in any number; {name} has as many images as it has")
    if name == "digits":
        return DigitOrigin()
    from hf_scaling.data.loading import DatasetOrigin

    return DatasetOrigin(name, image_column, label_column, streaming, root, progress)


def count_overlap(a: Split, b: Split) -> int:
    """Count the images of `b` whose pixels are also an image of `a`.

    Images are compared by a 64-bit hash of their pixels at their common size, so copies in other files and formats
    are found, but not crops or re-encodings.

    Raises:
        InputError: The parts have different image sizes.
    """
    sizes = a.store.image_size, b.store.image_size
    if sizes[0] != sizes[1]:
        raise InputError(
            f"images of {sizes[0]} px and of {sizes[1]} px cannot be compared: open both at one image_size"
        )
    return int(np.isin(b.pixel_hashes(), a.pixel_hashes()).sum())
