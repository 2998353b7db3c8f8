"""The local cache: a source is decoded once into shards, by one process or by several, and then memory-mapped.

A folder of the cache holds one part of one source in one format: shards `NUMBER-DIGEST.arrow` of equally many rows, a
lock file per shard that was filled, and `index.json` once every shard is written. A shard is written atomically, and
its name holds the hash of its content, so a killed or damaged cache is completed rather than trusted.
"""

import errno
import functools
import json
import logging
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import xxhash
from filelock import FileLock, Timeout
from tqdm import tqdm

from hf_scaling.data.images import ImageFormat, ImagePacker, Packed, PixelDecision, PixelFacts, PixelScan, unpack
from hf_scaling.errors import InputError
from hf_scaling.files import replacing, write_text
from hf_scaling.text import format_bytes, format_percent

_log = logging.getLogger(__name__)

# Increase whenever a change alters what a cache holds but no fingerprint: caches are rebuilt, no run id changes.
CACHE_VERSION = 1
_RAW_BYTES = 1 << 25
_ENCODED_ROWS = 1_024
_SHARD_NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.arrow")
_SAMPLE_ROWS = 64
_SCAN_ROWS = 512
_USUAL_JPEG = 0.35  # bytes per pixel
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Exact duplicates with different labels are reported above this share of the images.
_DUPLICATES = 0.01


@functools.cache
def log_once(message: str, source: str = "") -> None:
    """Log a warning, unless this process has logged it before of the same source (its fingerprint)."""
    if _is_first_process():
        _log.warning("%s", message)


def _is_first_process() -> bool:
    return os.environ.get("LOCAL_RANK", "0") == "0"


def cache_root(cache_dir: str | os.PathLike | None) -> Path:
    """The cache's folder: `cache_dir`, else $HF_SCALING_CACHE, else hf_scaling in $XDG_CACHE_HOME or ~/.cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(cache_dir or os.environ.get("HF_SCALING_CACHE") or caches / "hf_scaling").expanduser()


class Store:
    """The images of a filled cache folder, in the source's order. Pickling sends the paths of the shards alone.

    Attributes:
        labels: Class ids, int64 array (n,).
        hashes: Hashes of the pixels, uint64 array (n,).
        skipped: Names of the rows that were left out because they cannot be decoded.
        remarks: What a user should know of the images, a line each.
    """

    def __init__(self, paths: list[Path], image_format: ImageFormat, remarks: Sequence[str] = ()):
        self.image_size, self.shape = image_format.image_size, image_format.shape
        self._paths, self._format, self.remarks = paths, image_format, list(remarks)
        self._shards = [Shard(path, image_format) for path in paths]
        counts = np.array([len(shard.labels) for shard in self._shards], np.int64)
        self._ends = np.cumsum(counts)
        self._starts = self._ends - counts
        self.labels = np.concatenate([np.empty(0, np.int64), *(shard.labels for shard in self._shards)])
        self.hashes = np.concatenate([np.empty(0, np.uint64), *(shard.hashes for shard in self._shards)])
        self.skipped = [name for shard in self._shards for name in shard.skipped]
        self.n_with_frames = sum(shard.n_with_frames for shard in self._shards)

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Read images: uint8 array (len(indices), image_size, image_size, 3), in the order of `indices`."""
        indices = np.asarray(indices, np.int64)
        if len(indices) and not -1 < indices.min() <= indices.max() < len(self.labels):
            raise IndexError(f"indices must be in 0 to {len(self.labels) - 1}")
        images = np.empty((len(indices), *self._format.shape), np.uint8)
        shard_of = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(shard_of):
            positions = np.flatnonzero(shard_of == number)
            images[positions] = self._shards[number].images(indices[positions] - self._starts[number])
        return images

    def __reduce__(self) -> tuple:
        return Store, (self._paths, self._format, self.remarks)


class Reader(Protocol):
    """The rows of one part of a source, decoded and packed.

    Attributes:
        n_rows: Number of rows; None for a stream that does not know it.
        n_images: Approximate number of rows of the selected classes; None likewise.
        sequential: Whether rows can only be read in order.
    """

    n_rows: int | None
    n_images: int | None
    sequential: bool

    def read(self, start: int, stop: int, state: dict | None) -> "Block":
        """Read rows; `state` is the preceding block's, None at the start and for random access."""


@dataclass
class Block:
    """The packed images of some consecutive rows.

    Attributes:
        payloads: The packed images, in the rows' order.
        labels: Their class ids.
        hashes: Hashes of their pixels.
        n_rows: Rows that were read, with those left out; fewer than requested means that the source ended.
        skipped: Names of the rows whose images could not be decoded.
        n_with_frames: Number of images with further frames or pages, which are not used.
        state: Where a stream resumes after these rows, as JSON; None for a source with random access.
    """

    payloads: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    n_rows: int = 0
    skipped: list[str] = field(default_factory=list)
    n_with_frames: int = 0
    state: dict | None = None

    def append(self, packed: Packed, label: int) -> None:
        """Append a packed image."""
        self.payloads.append(packed.payload)
        self.hashes.append(packed.pixel_hash)
        self.labels.append(label)
        self.n_with_frames += packed.has_frames

    def append_pixels(self, images: Iterable[np.ndarray], labels: np.ndarray, packer: ImagePacker) -> None:
        """Pack images that are already decoded and fitted, and append them as rows."""
        for pixels, label in zip(images, labels.tolist()):
            self.append(packer.pack_pixels(pixels), label)
            self.n_rows += 1


def is_filled(folder: Path, image_format: ImageFormat) -> bool:
    """Whether a cache folder was filled completely; damage is not looked for."""
    return (_layout(folder, image_format) / "index.json").exists()


def open_store(
    folder: Path, make_reader: Callable[[], Reader], image_format: ImageFormat, source: str, progress: bool
) -> Store:
    """Open a cache folder, after filling what is missing or damaged.

    Any number of processes may call this at once, on one machine or on several that share the folder: each fills
    shards that no other is filling, and all return when the last one is written.

    Args:
        folder: Of these images alone; every layout has a folder within.
        make_reader: Opens the source; not called when the folder is complete.
        image_format: How the images are stored.
        source: Name of the source, for messages.
        progress: Whether to show a progress bar and the expected size on stderr.

    Raises:
        InputError: The disk is full or too small, or the reader refuses the source.
    """
    folder = _layout(folder, image_format)
    with _full_disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        paths = list(find_shards(folder).values())
        with ThreadPoolExecutor() as pool:
            damaged = [shard for shard, intact in zip(paths, pool.map(_is_intact, paths)) if not intact]
        for shard in damaged:
            if shard.exists():
                shard.unlink(missing_ok=True)
                _log.warning("%s is damaged (its checksum differs) and is rebuilt", shard)
        path = folder / "index.json"
        index = json.loads(path.read_text()) if path.exists() else None
        if index is None or len(find_shards(folder)) < index["n_shards"]:
            n_shards = _Filler(folder, make_reader(), image_format, source, progress).run()
            index = {"n_shards": n_shards, "remarks": _inspect(_read_shards(folder, n_shards, image_format))}
            write_text(path, json.dumps(index))
    return _read_shards(folder, index["n_shards"], image_format, index["remarks"])


def _read_shards(folder: Path, n_shards: int, image_format: ImageFormat, remarks: Sequence[str] = ()) -> Store:
    shards = find_shards(folder)
    return Store([shards[number] for number in range(n_shards)], image_format, remarks)


def _inspect(store: Store) -> list[str]:
    """What is suspicious in the pixels of a filled cache, a line each."""
    lines, n = [], len(store.labels)
    if n < 2:
        return lines
    if store.n_with_frames:
        lines.append(
            f"{store.n_with_frames:,} of {n:,} images have several frames or pages: the first of each is used"
        )
    distinct, groups, counts = np.unique(store.hashes, return_inverse=True, return_counts=True)
    for name, level in (("black", 0), ("white", 255)):
        pixels = np.full(store.shape, level, np.uint8).tobytes()
        n_plain = int((store.hashes == np.uint64(xxhash.xxh3_64_intdigest(pixels))).sum())
        if 2 * n_plain > n:
            lines.append(f"{'all' if n_plain == n else f'{n_plain:,} of'} {n:,} images are entirely {name}")
    if len(distinct) == 1:
        return lines if lines and "entirely" in lines[-1] else [*lines, f"all {n:,} images are equal"]
    # A group of equal images has several labels where its smallest label is not its largest.
    lowest, highest = np.full(len(distinct), np.iinfo(np.int64).max), np.full(len(distinct), -1)
    np.minimum.at(lowest, groups, store.labels)
    np.maximum.at(highest, groups, store.labels)
    n_contradicting = int(counts[lowest != highest].sum())
    if n_contradicting > _DUPLICATES * n:
        share = format_percent(n_contradicting / n, 2)
        lines.append(f"{n_contradicting:,} of {n:,} images ({share}) equal an image of another class, pixel by pixel")
    return lines


def decide_once(path: Path, make_reader: Callable[[], Reader], source: str, progress: bool) -> PixelDecision:
    """How the pixels of a source become 8-bit RGB: read from `path`, or decided by one scan and written there.

    Any number of processes may call this at once: one of them scans, the others wait for it.

    Args:
        path: File of the cache.
        make_reader: Opens the training images with `PixelScan` as the packer.
        source: Name of the source, for the progress bar.
        progress: Whether to show one on stderr when the scan takes longer than two seconds.

    Raises:
        InputError: The disk is full, or the reader refuses the source.
    """
    with _full_disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with _lock(path.with_suffix(".lock"), waits=True):
            if not path.exists():
                reader = make_reader()
                show = progress and _is_first_process()
                bar = tqdm(_scan(reader), f"scanning {source}", reader.n_images, delay=2, disable=not show)
                write_text(path, PixelDecision.from_facts(bar).to_json())
            return PixelDecision.from_json(path.read_text())


def _scan(reader: Reader) -> Iterator[PixelFacts]:
    start, state, ended = 0, None, False
    while not ended:
        block = reader.read(start, start + _SCAN_ROWS, state)
        yield from PixelScan.unpack(block.payloads)
        start, state, ended = start + block.n_rows, block.state, block.n_rows < _SCAN_ROWS


def _layout(folder: Path, image_format: ImageFormat) -> Path:
    """The folder of shards of one version and one length, so that different ones are never mixed."""
    return folder / f"v{CACHE_VERSION}-{image_format.name}-{rows_per_shard(image_format)}"


def rows_per_shard(image_format: ImageFormat) -> int:
    """Rows per shard, a power of two: 15 to 30 MB of images."""
    if not image_format.is_raw:
        return _ENCODED_ROWS
    return 1 << max(0, (_RAW_BYTES // (3 * image_format.image_size**2)).bit_length() - 1)


def _is_intact(path: Path) -> bool:
    hasher = xxhash.xxh3_64()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 24):
                hasher.update(chunk)
    except OSError:
        return False
    return hasher.hexdigest() == _SHARD_NAME.fullmatch(path.name)[2]


@contextmanager
def _full_disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise InputError(
            f"the disk of the cache {folder} is full ({os.strerror(error.errno)}): free some space, or set "
            "HF_SCALING_CACHE to a larger disk, and run the same command again; what is cached already is kept"
        ) from error


def is_full_disk(error: Exception) -> bool:
    """Whether an error is the system's for a full disk, a full quota or too large a file."""
    return isinstance(error, OSError) and error.errno in _FULL


# Filling: several processes may run this at once.


@dataclass
class _Filler:
    """One process's share in the filling of a cache folder."""

    folder: Path
    reader: Reader
    image_format: ImageFormat
    source: str
    progress: bool

    def __post_init__(self) -> None:
        self.shard_rows = rows_per_shard(self.image_format)
        self.progress = self.progress and _is_first_process()

    def run(self) -> int:
        """Fill until every shard is written, by whichever process; return their number."""
        self._check_space()
        bar = tqdm(
            desc=f"caching {self.source}",
            total=self.reader.n_rows,
            initial=len(find_shards(self.folder)) * self.shard_rows,
            unit=" images",
            file=sys.stderr,
            disable=not self.progress,
        )
        with bar:
            return self._fill_in_order(bar) if self.reader.sequential else self._fill_in_any_order(bar)

    def _fill_in_any_order(self, bar: tqdm) -> int:
        n_shards = -(-self.reader.n_rows // self.shard_rows)
        # First the shards that no process has begun, then those that another one began and may have died over.
        for waits in (False, True):
            for number in range(n_shards):
                with _lock(self.folder / f"{number:06d}.lock", waits) as held:
                    if held and number not in find_shards(self.folder):
                        self._fill(number, None)
                self._update(bar)
        return n_shards

    def _fill_in_order(self, bar: tqdm) -> int:
        """Follow a stream: the state of each shard tells where the next one begins."""
        with _lock(self.folder / "stream.lock", waits=True):
            number, state, ended = 0, None, False
            while not ended:
                path = find_shards(self.folder).get(number)
                last = Shard(path, self.image_format) if path else self._fill(number, state)
                state, ended = last.state, last.n_rows < self.shard_rows
                number += 1
                self._update(bar)
        return number

    def _fill(self, number: int, state: dict | None) -> Block:
        for partial in self.folder.glob(f".{number:06d}-*.partial"):  # left by a process that was killed
            partial.unlink(missing_ok=True)
        start = number * self.shard_rows
        block = self.reader.read(start, start + self.shard_rows, state)
        write_shard(self.folder, number, block, self.image_format)
        return block

    def _update(self, bar: tqdm) -> None:
        done = len(find_shards(self.folder)) * self.shard_rows
        bar.update(min(done, bar.total or done) - bar.n)

    def _check_space(self) -> None:
        """Show how much space the cache needs, and refuse what the disk cannot hold."""
        n_images, image_bytes = self.reader.n_images, 3.0 * self.image_format.image_size**2
        if not self.image_format.is_raw:
            sizes = [len(payload) for payload in self.reader.read(0, _SAMPLE_ROWS, None).payloads]
            # Where the first rows are all of other classes, a photograph's usual size is assumed.
            image_bytes = sum(sizes) / len(sizes) if sizes else _USUAL_JPEG * self.image_format.image_size**2
        cached = sum(path.stat().st_size for path in find_shards(self.folder).values())
        missing = max(0, (n_images or 0) * image_bytes - cached)
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise InputError(
                f"the cache of {self.source} needs {format_bytes(missing)} more, but {self.folder} has "
                f"{format_bytes(free)} free: set HF_SCALING_CACHE to a larger disk"
            )
        if self.progress:
            if n_images is None:
                images, size = "a stream of images", f"about {format_bytes(image_bytes)} per image"
            else:
                images, size = f"{n_images:,} images", f"about {format_bytes(n_images * image_bytes)}"
            form = f"{self.image_format.image_size} px, {self.image_format.name}"
            print(f"Caching {images} of {self.source} at {form}: {size} in {self.folder}", file=sys.stderr)


@contextmanager
def _lock(path: Path, waits: bool) -> Iterator[bool]:
    """Hold a lock between processes; without `waits`, yield False at once if another process holds it."""
    lock = FileLock(path)
    try:
        lock.acquire(blocking=waits)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


# Shards: Arrow files.


class Shard:
    """A shard's images, memory-mapped: nothing is read before it is needed."""

    def __init__(self, path: Path, image_format: ImageFormat):
        import pyarrow as pa

        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        metadata = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
        self.n_rows, self.skipped, self.state = metadata["n_rows"], metadata["skipped"], metadata["state"]
        self.n_with_frames = metadata["n_with_frames"]
        self.labels = table["label"].to_numpy()
        self.hashes = table["hash"].to_numpy()
        self._pixels = self._offsets = None
        chunks = table["image"].chunks
        if image_format.is_raw:
            data = chunks[0].buffers()[1] if chunks else b""
            self._pixels = np.frombuffer(data, np.uint8).reshape(-1, *image_format.shape)
        elif chunks:
            _, offsets, self._data = chunks[0].buffers()
            self._offsets = np.frombuffer(offsets, np.int64)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Read images: uint8 array (len(rows), image_size, image_size, 3)."""
        if self._pixels is not None:
            return self._pixels[rows]
        spans = zip(self._offsets[rows], self._offsets[rows + 1])
        return np.stack([unpack(self._data[start:stop].to_pybytes()) for start, stop in spans])


def find_shards(folder: Path) -> dict[int, Path]:
    """The shards in `folder`: number to path."""
    matches = ((_SHARD_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("*.arrow")))
    return {int(match[1]): path for match, path in matches if match}


def write_shard(folder: Path, number: int, block: Block, image_format: ImageFormat) -> Path:
    """Write `block` as shard `number` of `folder`, atomically; return its path."""
    import pyarrow as pa

    if image_format.is_raw:
        pixels = pa.py_buffer(b"".join(block.payloads))
        kind = pa.binary(int(np.prod(image_format.shape)))
        images = pa.FixedSizeBinaryArray.from_buffers(kind, len(block.payloads), [None, pixels])
    else:
        images = pa.array(block.payloads, pa.large_binary())
    table = pa.table(
        {"image": images, "label": pa.array(block.labels, pa.int64()), "hash": pa.array(block.hashes, pa.uint64())},
        metadata={name: json.dumps(getattr(block, name)) for name in ("n_rows", "skipped", "n_with_frames", "state")},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    content = memoryview(sink.getvalue())
    path = folder / f"{number:06d}-{xxhash.xxh3_64_hexdigest(content)}.arrow"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path
