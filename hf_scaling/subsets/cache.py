"""The local cache: a source is decoded once into shards, by one process or by many, and then only mapped."""

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from hf_scaling.files import write_text
from hf_scaling.subsets.filling import Filling, Reader, full_disk_said
from hf_scaling.subsets.shards import Shard, find_shards, is_whole, rows_per_shard


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
