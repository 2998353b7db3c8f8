"""Filling a cache folder with a source's pictures.

Shard k holds the pictures of the rows k * shard_rows to (k + 1) * shard_rows of the source, so what is missing can be
filled alone: after a kill, after damage, or by whichever process is free. A lock a shard keeps two processes from
doing the same work; were it ever to fail (some network file systems), both would write the same bytes.
"""

import errno
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hf_scaling.errors import InputError
from hf_scaling.subsets.shards import Block, Shard, find_shards, rows_per_shard, write_shard

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
