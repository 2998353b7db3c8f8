"""Sources of labelled images: opened by name, cached at one size, read by index."""

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from hf_scaling.data.cache import (
    CACHE_VERSION,
    Reader,
    Store,
    cache_root,
    decide_once,
    is_filled,
    log_once,
    open_store,
)
from hf_scaling.data.digits import DigitOrigin
from hf_scaling.data.glyphs import GlyphOrigin
from hf_scaling.data.images import (
    DECODING_VERSION,
    RGB,
    ImageFormat,
    ImagePacker,
    Packer,
    PixelDecision,
    PixelRules,
    PixelScan,
    SideScan,
    parse_background,
)
from hf_scaling.data.sampling import select_classes, split_by_key, validation_size
from hf_scaling.data.text import TextSource, open_text
from hf_scaling.errors import InputError

_LARGEST_TEST = 10_000
_SIDES = 64  # images whose size is looked at


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
    background: str | None = None,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> "Source":
    """Open a source of labelled images.

    Args:
        name: "glyphs", "digits", a folder, a Parquet file, or a Hub id (an existing path wins).
        image_size: Side in pixels: the shorter side is resized to it, the centre is cropped.
        image_column: Column of the images; None finds it by its type.
        label_column: Column of the classes; None finds it by its type or name.
        classes: The classes to use: a number (a fixed random selection, nested) or the path of a file with one class
            per line; None for all.
        n_images: Number of training glyphs, None for 50,000; refused for other sources.
        seed: Seed of the training glyphs; other sources do not depend on it.
        streaming: Read a Hub id or Parquet files once, in order, rather than download and convert them completely
            first; a folder of images is read in the same way with and without it.
        skip_corrupt: Leave out images that cannot be decoded (counted in `Split.n_skipped`) rather than refuse the
            source.
        background: Colour behind transparent parts, a name or #rrggbb; None for white, or for black where white would
            leave over half of the images of one colour.
        cache_dir: Folder of the cache; None for $HF_SCALING_CACHE or ~/.cache/hf_scaling.
        progress: Whether to show progress on stderr.

    Returns:
        The source. Columns and classes are checked here; the cache is filled when `.train` or `.test` is first read.

    Raises:
        InputError: The source, a column or a class is unknown, or the labels are not classes.

    Example:
        >>> source = open_source("digits", image_size=8)
        >>> source.train.images([0, 1]).shape
        (2, 8, 8, 3)
    """
    name, root = str(name), cache_root(cache_dir)
    if image_size < 1:
        raise InputError(f"image_size: {image_size} is not a number of pixels: give at least 1")
    if n_images is not None and name != "glyphs":
        raise InputError(f"n_images: {name} has a fixed number of images, only glyphs are generated: leave it out")
    if name == "glyphs":
        origin = GlyphOrigin(n_images, seed)
    elif name == "digits":
        origin = DigitOrigin()
    else:
        from hf_scaling.data.loading import open_origin

        origin = open_origin(name, image_column, label_column, streaming, root, progress)
    class_ids = select_classes(origin.class_names, classes, origin.name)
    options = ReadingOptions(skip_corrupt, None if background is None else parse_background(background), progress)
    return Source(origin, class_ids, image_size, options, root)


@dataclass(frozen=True)
class ReadingOptions:
    """How the images of a source are read.

    Attributes:
        skip_corrupt: Leave out images that cannot be decoded.
        background: Colour behind transparent parts; None decides between white and black.
        progress: Whether to show progress on stderr.
    """

    skip_corrupt: bool = False
    background: RGB | None = None
    progress: bool = True


class Origin(Protocol):
    """Where the images of a source come from.

    Attributes:
        name: Name in results; never a path.
        class_names: All its classes, in label order.
        has_test: Whether it has a test part of its own.
        is_generated: Whether reading it needs no download and no decoding.
    """

    name: str
    class_names: Sequence[str]
    has_test: bool
    is_generated: bool

    def identity(self) -> dict:
        """What determines the images, as JSON; part of the fingerprint."""

    def n_images(self, part: str, class_ids: np.ndarray) -> int | None:
        """Number of images of some classes, without reading one; None where that is not known.

        Only asked of what is not generated.
        """

    def reader(self, part: str, class_ids: np.ndarray, packer: Packer, skip_corrupt: bool) -> Reader:
        """Open "train" or "test" with the images of `class_ids`; labels are positions within `class_ids`."""


@dataclass(frozen=True)
class Split:
    """Labelled images of one size, read from the cache by index.

    Reading is by index alone, so any sampler can divide the images: each process reads those it is given.
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
        """Number of images of the source that were left out because they cannot be decoded."""
        return len(self.store.skipped)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Read images: uint8 array (len(indices), image_size, image_size, 3), in the order of `indices`."""
        return self.store.images(self.indices[indices])

    def sample(self, n: int) -> "Split":
        """At most `n` of the images, drawn by key: the same for every caller, and contained in every larger sample."""
        if n >= len(self):
            return self
        _, drawn = split_by_key(len(self), n, seed=0, stream="evaluation")
        return Split(self.store, self.indices[drawn])

    def pixel_hashes(self) -> np.ndarray:
        """Hash of each image's pixels at this size, before any lossy encoding: uint64 array (n,)."""
        return self.store.hashes[self.indices]


class Source:
    """A source at one image size with its selected classes.

    Attributes:
        name: Name in results; never a path.
        fingerprint: 16 hex digits of the content, the decoding, the size and the classes; never of a path.
        class_names: The selected classes, in label order.
        image_size: Side in pixels; images are RGB.
    """

    def __init__(self, origin: Origin, class_ids: np.ndarray, image_size: int, options: ReadingOptions, root: Path):
        self.name, self.image_size = origin.name, image_size
        self._origin, self._class_ids, self._options = origin, class_ids, options
        self.class_names = [origin.class_names[class_id] for class_id in class_ids]
        basis = {
            "identity": origin.identity(),
            "image_size": image_size,
            "decoding": 1 if origin.is_generated else DECODING_VERSION,  # what is generated is never decoded
            "classes": self.selected_classes,
        }
        if options.background is not None and not origin.is_generated:
            basis["background"] = options.background
        self.fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]
        self._root, self._prefix = root, f"{re.sub(r'[^A-Za-z0-9._-]+', '_', self.name)}-{image_size}px-"
        self._folder = root / f"{self._prefix}{self.fingerprint}"
        self._pixel_file = self._folder / f"pixels-v{CACHE_VERSION}.json"
        self._rules = PixelRules(self._decide, options.background)

    @property
    def selected_classes(self) -> list[str] | None:
        """The selected classes, in label order; None where these are all."""
        return None if len(self.class_names) == len(self._origin.class_names) else list(self.class_names)

    @property
    def is_unlimited(self) -> bool:
        """Whether any number of training images can be drawn: those of glyphs are."""
        return isinstance(self._origin, GlyphOrigin)

    @property
    def is_available(self) -> bool:
        """Whether its images are cached or generated, so that reading them downloads and decodes nothing."""
        parts = ("train", "test") if self._origin.has_test else ("train",)
        return self._origin.is_generated or all(
            is_filled(self._folder / part, ImageFormat.for_part(self.image_size, part)) for part in parts
        )

    @functools.cached_property
    def side(self) -> int | None:
        """Median of the shorter sides of some of its images as they are stored, in pixels; None where it is generated.

        Raises:
            InputError: An image cannot be decoded (unless skipped).
        """
        if self._origin.is_generated:
            return None
        reader = self._origin.reader("train", self._class_ids, SideScan(), self._options.skip_corrupt)
        # A stream gives its first rows only.
        starts = [0] if reader.sequential else range(0, reader.n_rows, max(1, reader.n_rows // _SIDES))
        n_rows = _SIDES if reader.sequential else 1
        sides = [int(side) for start in starts for side in reader.read(start, start + n_rows, None).payloads]
        return round(float(np.median(sides))) if sides else None

    @functools.cached_property
    def train(self) -> Split:
        """The training images.

        Raises:
            InputError: An image cannot be decoded (unless skipped), a class has no images, or the disk is full.
        """
        train = self._read_part("train") if self._origin.has_test else self._divided[0]
        missing = np.flatnonzero(np.bincount(train.labels, minlength=len(self.class_names)) == 0)
        if len(missing):
            raise InputError(
                f"{self.name}: {len(missing):,} of its {len(self.class_names):,} classes have no training images, "
                f"{self.class_names[missing[0]]} for instance: add some, or list the other classes with classes=FILE"
            )
        return train

    @functools.cached_property
    def test(self) -> Split:
        """The images for evaluation: the source's own, else 10 % of its only part, at most 10,000, by key.

        Raises:
            InputError: As `train` does.
        """
        return self._read_part("test") if self._origin.has_test else self._divided[1]

    def count(self) -> tuple[int, int] | None:
        """Sizes of the training and the test part where no image is decoded for it: by file names, headers and labels.

        Returns:
            None where the sizes are not known before the cache is filled: of generated sources, of some classes of a
            data set on the Hub, and where images that cannot be decoded are left out.

        Raises:
            InputError: A label is missing or of a class that the training part does not have.
        """
        if self._origin.is_generated or self._options.skip_corrupt:
            return None
        train = self._origin.n_images("train", self._class_ids)
        test = self._origin.n_images("test", self._class_ids) if self._origin.has_test else None
        if train is not None and not self._origin.has_test:
            test = _test_size(train)
            train -= test
        return None if train is None or test is None else (train, test)

    @property
    def n_held_out(self) -> int:
        """Number of training images that a run which selects by a validation part holds out."""
        return validation_size(len(self.train))

    @functools.cached_property
    def _divided(self) -> tuple[Split, Split]:
        whole = self._read_part("train")
        n_test = _test_size(len(whole))
        if n_test == 0:
            raise InputError(
                f"{self.name} has {len(whole)} images and no test part: at least 10 are needed to hold out 10 %"
            )
        train, test = split_by_key(len(whole), n_test, seed=0, stream="test")
        return Split(whole.store, train), Split(whole.store, test)

    def _read_part(self, part: str) -> Split:
        image_format = ImageFormat.for_part(self.image_size, part)
        packer, skip_corrupt = ImagePacker(image_format, self._rules), self._options.skip_corrupt
        if not self.is_available and any(self._root.glob(f"{self._prefix}*/train/[jr]*-[0-9]*")):
            self._warn(
                "cached by an earlier version, which decoded and ordered images differently: the fingerprint has "
                "changed, so runs on this source are trained again"
            )
        store = open_store(
            self._folder / part,
            lambda: self._origin.reader(part, self._class_ids, packer, skip_corrupt),
            image_format,
            f"{self.name} ({part})",
            self._options.progress,
        )
        if not self._origin.is_generated:
            if self._pixel_file.exists():
                for line in self._rules.decide().remarks(self._options.background is not None):
                    self._warn(line)
            for line in store.remarks:
                self._warn(f"{part}: {line}")
        if store.skipped and not skip_corrupt:
            raise InputError(f"{store.skipped[0]}: repair or remove it, or leave out such images with skip_corrupt")
        if part == "train" and len(np.unique(store.labels)) < 2:
            raise InputError(f"{self.name}: all its training images are of one class, but at least two are needed")
        return Split(store, np.arange(len(store.labels)))

    def _decide(self) -> PixelDecision:
        """One scan of the training images, whose result is stored in the cache; of several processes one scans."""
        skip_corrupt = self._options.skip_corrupt
        return decide_once(
            self._pixel_file,
            lambda: self._origin.reader("train", self._class_ids, PixelScan(), skip_corrupt),
            self.name,
            self._options.progress,
        )

    def _warn(self, line: str) -> None:
        log_once(f"{self.name}: {line}", self.fingerprint)


def _test_size(n_images: int) -> int:
    """Images that are held out as a test part where a source has none."""
    return min(_LARGEST_TEST, n_images // 10)


def count_overlap(a: Split, b: Split) -> int:
    """Number of images of `b` whose pixels are also an image of `a`.

    Images are compared by a 64-bit hash of their pixels at their common size: copies in other files and formats are
    found, crops and re-encoded images are not.

    Raises:
        InputError: The parts have different image sizes.
    """
    sizes = a.store.image_size, b.store.image_size
    if sizes[0] != sizes[1]:
        raise InputError(f"image_size: {sizes[0]} px and {sizes[1]} px cannot be compared: open both at one size")
    return int(np.isin(b.pixel_hashes(), a.pixel_hashes()).sum())


#: Kind of data -> function that opens a source of it.
OPENERS = {"images": open_source, "text": open_text}


@dataclass(frozen=True)
class SourceFacts:
    """A source in numbers, in images or tokens; the sizes are None where only a filled cache would tell them.

    Attributes:
        name: Name in results.
        fingerprint: Fingerprint of its content.
        n_classes: Number of selected classes.
        n_train: Size of the training part.
        n_test: Size of the test part.
        n_held_out: Part of `n_train` that a run which selects by a validation part cannot train on.
        is_unlimited: Whether any number of training images can be drawn.
    """

    name: str
    fingerprint: str
    n_classes: int
    n_train: int | None
    n_test: int | None
    n_held_out: int | None
    is_unlimited: bool = False

    @classmethod
    def of(cls, source: Source | TextSource, fill: bool) -> "SourceFacts":
        """Count an open source; `fill` reads it into its cache where that is not filled, so that sizes are known.

        Without `fill`, images are counted by `Source.count` as far as that tells.

        Raises:
            InputError: See `Source.train`.
        """
        known = source.name, source.fingerprint, len(source.class_names)
        if not (fill or source.is_available):
            counted = source.count() if isinstance(source, Source) else None
            if counted is None:
                return cls(*known, None, None, None)
            return cls(*known, *counted, validation_size(counted[0]))
        sizes = len(source.train), len(source.test), source.n_held_out
        return cls(*known, *sizes, getattr(source, "is_unlimited", False))


#: Open sources: the kind of data and the arguments of its opener, as items, to the source.
OpenSources = dict[tuple, Source | TextSource]


def source_facts(
    data: str, arguments: Mapping[str, Any], fill: bool, opened: OpenSources | None = None
) -> SourceFacts:
    """Open a source and count it.

    Args:
        data: Kind of data, a key of `OPENERS`.
        arguments: Arguments of its opener.
        fill: Whether to fill its cache where it is not filled, so that the sizes are known.
        opened: Sources that are open already, to which this one is added.

    Raises:
        InputError: As the opener and `Source.train` do.
    """
    opened, key = {} if opened is None else opened, (data, *arguments.items())
    if key not in opened:
        opened[key] = OPENERS[data](**arguments)
    return SourceFacts.of(opened[key], fill)
