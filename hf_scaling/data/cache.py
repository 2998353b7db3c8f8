"""The local cache: a source is decoded once into shards, by one process or by many, and then only mapped."""

import errno
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from hf_scaling.data.images import unpack
from hf_scaling.errors import InputError
from hf_scaling.files import replacing, write_text

_RAW_BYTES = 1 << 25
_ENCODED_ROWS = 1_024
_NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.arrow")


@dataclass
class Block:
    """What a reader made of some consecutive rows of its source.

    Attributes:
        payloads: The packed pictures, in the rows' order.
        labels: Their class ids.
        hashes: Their pixels' hashes.
        n_rows: How many rows were read, those left out included; fewer than asked for means that the source ended.
        skipped: The rows whose pictures could not be decoded, named.
        state: Where a stream goes on after these rows, as JSON; None for a source with random access.
    """

    payloads: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    n_rows: int = 0
    skipped: list[str] = field(default_factory=list)
    state: dict | None = None


class Shard:
    """A shard's pictures, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, path: Path, storage: str, image_size: int):
        """Map the file `path`."""
        import pyarrow as pa

        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        metadata = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
        self.n_rows, self.skipped, self.state = metadata["n_rows"], metadata["skipped"], metadata["state"]
        self.labels = table["label"].to_numpy()
        self.hashes = table["hash"].to_numpy()
        self._pixels = self._offsets = None
        chunks = table["image"].chunks
        if storage == "raw":
            data = chunks[0].buffers()[1] if chunks else b""
            self._pixels = np.frombuffer(data, np.uint8).reshape(-1, image_size, image_size, 3)
        elif chunks:
            _, offsets, self._data = chunks[0].buffers()
            self._offsets = np.frombuffer(offsets, np.int64)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Give pictures: uint8 array (len(rows), image_size, image_size, 3)."""
        if self._pixels is not None:
            return self._pixels[rows]
        spans = zip(self._offsets[rows], self._offsets[rows + 1])
        return np.stack([unpack(self._data[start:stop].to_pybytes()) for start, stop in spans])


def rows_per_shard(storage: str, image_size: int) -> int:
    """Give the rows of a shard, a power of two: some 15 to 30 MB of pictures."""
    if storage != "raw":
        return _ENCODED_ROWS
    return 1 << max(0, (_RAW_BYTES // (3 * image_size**2)).bit_length() - 1)


def write_shard(folder: Path, number: int, block: Block, storage: str, image_size: int) -> Path:
    """Write `block` as shard `number` of `folder`, atomically; give its path."""
    content = _serialise(block, storage, image_size)
    path = folder / f"{number:06d}-{_digest(content)}.arrow"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def find_shards(folder: Path) -> dict[int, Path]:
    """Find the shards in `folder`: number to path."""
    matches = ((_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("*.arrow")))
    return {int(match[1]): path for match, path in matches if match}


def is_whole(path: Path) -> bool:
    """Whether a shard's content is what was written; False if it is gone."""
    try:
        with path.open("rb") as file:
            return _digest_file(file) == _NAME.fullmatch(path.name)[2]
    except OSError:
        return False


def _serialise(block: Block, storage: str, image_size: int) -> memoryview:
    import pyarrow as pa

    table = pa.table(
        {
            "image": _image_column(block, storage, image_size),
            "label": pa.array(block.labels, pa.int64()),
            "hash": pa.array(block.hashes, pa.uint64()),
        },
        metadata={name: json.dumps(getattr(block, name)) for name in ("n_rows", "skipped", "state")},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _image_column(block: Block, storage: str, image_size: int):
    import pyarrow as pa

    if storage != "raw":
        return pa.array(block.payloads, pa.large_binary())
    data = pa.py_buffer(b"".join(block.payloads))
    kind = pa.binary(image_size * image_size * 3)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(block.payloads), [None, data])


def _digest(content: memoryview) -> str:
    import xxhash

    return xxhash.xxh3_64_hexdigest(content)


def _digest_file(file) -> str:
    import xxhash

    hasher = xxhash.xxh3_64()
    while chunk := file.read(1 << 24):
        hasher.update(chunk)
    return hasher.hexdigest()


_SAMPLE_ROWS = 64
_USUAL_JPEG = 0.35  # bytes a pixel
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Reader(Protocol):
    """The rows of a source, decoded and packed.

    Attributes:
        n_rows: Rows in all, None for a stream that does not know.
        n_pictures: About how many of them are of the chosen classes.
        sequential: Whether rows can only be read in order.
    """

    n_rows: int | None
    n_pictures: int | None
    sequential: bool

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Read rows; `state` is the preceding block's, None at the start and for random access."""


@dataclass
class Filling:
    """One process's share in the filling of a cache folder."""

    folder: Path
    reader: Reader
    storage: str
    image_size: int
    what: str
    progress: bool

    def __post_init__(self) -> None:
        self.shard_rows = rows_per_shard(self.storage, self.image_size)

    def run(self) -> int:
        """Fill until every shard is there, whoever wrote it; give their number."""
        self._check_room()
        with self._bar() as bar:
            return self._in_order(bar) if self.reader.sequential else self._any_order(bar)

    def _any_order(self, bar) -> int:
        n_shards = -(-self.reader.n_rows // self.shard_rows)
        for waits in (False, True):  # first what nobody is at, then what others have begun and may have died over
            for number in range(n_shards):
                with _lock(self.folder / f"{number:06d}.lock", waits) as held:
                    if held and number not in find_shards(self.folder):
                        self._fill(number, None)
                self._show(bar)
        return n_shards

    def _in_order(self, bar) -> int:
        """Follow a stream: each shard says where the next one begins."""
        with _lock(self.folder / "stream.lock", waits=True):
            number, state, ended = 0, None, False
            while not ended:
                found = find_shards(self.folder)
                if number in found:
                    shard = Shard(found[number], self.storage, self.image_size)
                    state, n_rows = shard.state, shard.n_rows
                else:
                    block = self._fill(number, state)
                    state, n_rows = block.state, block.n_rows
                ended = n_rows < self.shard_rows
                number += 1
                self._show(bar)
        return number

    def _fill(self, number: int, state: dict | None) -> Block:
        for left_by_a_kill in self.folder.glob(f".{number:06d}-*.partial"):
            left_by_a_kill.unlink(missing_ok=True)
        start = number * self.shard_rows
        block = self.reader.read(start, start + self.shard_rows, state)
        write_shard(self.folder, number, block, self.storage, self.image_size)
        return block

    def _check_room(self) -> None:
        """Say how much the cache will take, and refuse what the disk cannot hold."""
        n_pictures, each = self.reader.n_pictures, self._picture_bytes()
        there = sum(path.stat().st_size for path in find_shards(self.folder).values())
        missing = max(0, (n_pictures or 0) * each - there)
        free = shutil.disk_usage(self.folder).free
        if missing > free:
            raise InputError(
                f"the cache of {self.what} takes {_size(missing)} more, but {self.folder} has {_size(free)} "
                "free: set HF_SCALING_CACHE to a larger disk"
            )
        if self._shows:
            images, size = "a stream of images", f"about {_size(each)} an image"
            if n_pictures is not None:
                images, size = f"{n_pictures:,} images", f"about {_size(n_pictures * each)}"
            how = f"at {self.image_size} px, {self.storage}: {size} in {self.folder}"
            print(f"Caching {images} of {self.what} {how}", file=sys.stderr)

    def _picture_bytes(self) -> float:
        """Give a picture's size in the cache: known when raw, else measured on the first few."""
        if self.storage == "raw":
            return 3 * self.image_size**2
        sizes = [len(payload) for payload in self.reader.read(0, _SAMPLE_ROWS, None).payloads]
        # Where the first rows are of other classes, a photograph's usual size.
        return sum(sizes) / len(sizes) if sizes else _USUAL_JPEG * self.image_size**2

    @property
    def _shows(self) -> bool:
        return self.progress and os.environ.get("LOCAL_RANK", "0") == "0"

    def _bar(self):
        from tqdm import tqdm

        done = len(find_shards(self.folder)) * self.shard_rows
        return tqdm(
            desc=f"caching {self.what}",
            total=self.reader.n_rows,
            initial=done,
            unit=" images",
            file=sys.stderr,
            disable=not self._shows,
        )

    def _show(self, bar) -> None:
        done = len(find_shards(self.folder)) * self.shard_rows
        bar.update(min(done, bar.total or done) - bar.n)


def is_full_disk(error: Exception) -> bool:
    """Whether an error is the system's for a full disk, a full quota or too large a file."""
    return isinstance(error, OSError) and error.errno in _FULL


@contextmanager
def full_disk_said(folder: Path) -> Iterator[None]:
    """Turn the system's errors about a full disk into one line.

    Raises:
        InputError: In place of such an error.
    """
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        raise InputError(
            f"the disk of the cache {folder} is full ({os.strerror(error.errno)}): free some room, or set "
            "HF_SCALING_CACHE to a larger disk, and run again; what is cached already is kept"
        ) from error


@contextmanager
def _lock(path: Path, waits: bool) -> Iterator[bool]:
    """Hold a lock between processes; without `waits`, yield False at once if another process has it."""
    from filelock import FileLock, Timeout

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


def _size(n_bytes: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


class Store:
    """The pictures of a filled cache folder, in the source's order. It can be pickled: the files are mapped anew."""

    def __init__(self, paths: list[Path], storage: str, image_size: int):
        """Map the shards `paths`."""
        self.image_size = image_size
        self._paths, self._storage = paths, storage
        self._shards = [Shard(path, storage, image_size) for path in paths]
        counts = np.array([len(shard.labels) for shard in self._shards], np.int64)
        self._ends = np.cumsum(counts)
        self._begins = self._ends - counts
        self.labels = np.concatenate([np.empty(0, np.int64), *(shard.labels for shard in self._shards)])
        self.hashes = np.concatenate([np.empty(0, np.uint64), *(shard.hashes for shard in self._shards)])
        self.skipped = [name for shard in self._shards for name in shard.skipped]

    def images(self, indices: np.ndarray) -> np.ndarray:
        """Give pictures: uint8 array (len(indices), image_size, image_size, 3), in the order of `indices`."""
        indices = np.asarray(indices, np.int64)
        if len(indices) and not -1 < indices.min() <= indices.max() < len(self.labels):
            raise IndexError(f"indices must lie in 0 to {len(self.labels) - 1}")
        images = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        shard_of = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(shard_of):
            chosen = np.flatnonzero(shard_of == number)
            images[chosen] = self._shards[number].images(indices[chosen] - self._begins[number])
        return images

    def __reduce__(self) -> tuple:
        return Store, (self._paths, self._storage, self.image_size)


def cache_root(cache_dir: str | os.PathLike | None) -> Path:
    """Give the cache's folder: `cache_dir`, else $HF_SCALING_CACHE, else hf_scaling in $XDG_CACHE_HOME or ~/.cache."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return Path(cache_dir or os.environ.get("HF_SCALING_CACHE") or caches / "hf_scaling").expanduser()


def is_filled(folder: Path, storage: str, image_size: int) -> bool:
    """Whether a cache folder was filled to its end, by whomever; damage is not looked for."""
    return (_layout(folder, storage, image_size) / "index.json").exists()


def open_store(
    folder: Path, make_reader: Callable[[], Reader], storage: str, image_size: int, what: str, progress: bool
) -> Store:
    """Open a cache folder; fill first what is missing of it or damaged.

    Any number of processes may call this at once, on one machine or on several that share the folder: each takes
    shards that no other is filling, and all return when the last is there.

    Args:
        folder: Of these pictures alone; its layout has a folder within.
        make_reader: Opens the source; not called when the folder is whole.
        storage: "raw" or "jpeg".
        image_size: Side in pixels.
        what: The source, as messages should name it.
        progress: Whether to show a progress bar and the expected size on stderr.

    Raises:
        InputError: The disk is full or too small; or whatever the reader finds wrong with the source.
    """
    folder = _layout(folder, storage, image_size)
    with full_disk_said(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _drop_damaged(folder)
        index = folder / "index.json"
        n_shards = json.loads(index.read_text())["n_shards"] if index.exists() else None
        if n_shards is None or len(find_shards(folder)) < n_shards:
            n_shards = Filling(folder, make_reader(), storage, image_size, what, progress).run()
            write_text(index, json.dumps({"n_shards": n_shards}))
    shards = find_shards(folder)
    return Store([shards[number] for number in range(n_shards)], storage, image_size)


def _layout(folder: Path, storage: str, image_size: int) -> Path:
    """Where shards of one length lie: what was cut otherwise is not mixed in."""
    return folder / f"{storage}-{rows_per_shard(storage, image_size)}"


def _drop_damaged(folder: Path) -> None:
    paths = list(find_shards(folder).values())
    with ThreadPoolExecutor() as pool:
        damaged = [path for path, whole in zip(paths, pool.map(is_whole, paths)) if not whole and path.exists()]
    for path in damaged:
        path.unlink(missing_ok=True)
        print(f"{path} is damaged (its checksum differs): it is made anew", file=sys.stderr)
