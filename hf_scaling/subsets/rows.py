"""The rows of a `datasets` data set as packed pictures: with random access, or streamed in order."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass

from hf_scaling.errors import InputError
from hf_scaling.subsets.columns import LabelIds
from hf_scaling.subsets.pictures import pack
from hf_scaling.subsets.shards import Block

_GROUP = 32  # pictures a thread takes at once; one by one, small ones cost more to hand over than to decode


@dataclass
class RowPacker:
    """Turns raw rows into a Block: chooses classes, decodes, fits and packs, in threads (PIL lets them run at once).

    The labels are a `LabelIds`; `what` is the part, as messages should name it.
    """

    image_column: str
    label_column: str
    labels: LabelIds
    image_size: int
    storage: str
    skip_corrupt: bool
    what: str

    def pack(self, rows: list[dict], start: int) -> Block:
        """Pack `rows`, the first of which is row `start` of its part.

        Raises:
            InputError: A picture cannot be decoded and is not to be skipped, or a label is none of the classes.
        """
        places = [self.labels.place(row[self.label_column], start + at) for at, row in enumerate(rows)]
        kept = [at for at, place in enumerate(places) if place is not None]
        pictures = [(start + at, rows[at][self.image_column]) for at in kept]
        groups = [pictures[begin : begin + _GROUP] for begin in range(0, len(pictures), _GROUP)]
        with ThreadPoolExecutor(_n_threads()) as pool:
            packed = [each for group in pool.map(self._pack_group, groups) for each in group]
        whole = [(places[at], each) for at, each in zip(kept, packed) if not isinstance(each, str)]
        return Block(
            payloads=[payload for _, (payload, _) in whole],
            hashes=[hashed for _, (_, hashed) in whole],
            labels=[place for place, _ in whole],
            n_rows=len(rows),
            skipped=[fault for fault in packed if isinstance(fault, str)],
        )

    def _pack_group(self, pictures: list[tuple[int, dict | None]]) -> list[tuple[bytes, int] | str]:
        return [self._pack_one(row, picture) for row, picture in pictures]

    def _pack_one(self, row: int, picture: dict | None) -> tuple[bytes, int] | str:
        """Give a picture's bytes and hash, or what is wrong with it."""
        encoded = _read(picture)  # an error of the disk or the network is no fault of the picture
        try:
            return pack(encoded, self.image_size, self.storage)
        except MemoryError:
            raise
        except Exception as error:  # PIL raises nearly anything on broken bytes
            fault = f"{self._name(row, picture)} cannot be decoded as an image{_reason(error)}"
            if self.skip_corrupt:
                return fault
            raise InputError(f"{fault}: mend or remove it, or leave out such images with skip_corrupt") from error

    def _name(self, row: int, picture: dict | None) -> str:
        is_file = picture is not None and picture["bytes"] is None and picture["path"]
        return picture["path"] if is_file else f"row {row} of {self.what}"


class MapReader:
    """Rows of a prepared data set, in any order and by any number of processes."""

    sequential = False

    def __init__(self, dataset, packer: RowPacker, faults: Callable[[], AbstractContextManager]):
        """Read `dataset` (a `datasets.Dataset` of undecoded images); `faults` words the errors of its files."""
        self.n_rows = len(dataset)
        self.n_pictures = round(self.n_rows * packer.labels.share)
        self._dataset, self._packer, self._faults = dataset, packer, faults

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Pack the rows `start` to `stop`."""
        with self._faults():
            columns = self._dataset[start:stop]
            rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
            return self._packer.pack(rows, start)


class StreamReader:
    """Rows of a stream, in order; it goes on where a block's state says."""

    sequential = True

    def __init__(self, dataset, n_rows: int | None, packer: RowPacker, faults: Callable[[], AbstractContextManager]):
        """Read `dataset` (a `datasets.IterableDataset` of undecoded images) of `n_rows`, if that is known."""
        self.n_rows = n_rows
        self.n_pictures = None if n_rows is None else round(n_rows * packer.labels.share)
        self._dataset, self._packer, self._faults = dataset, packer, faults
        self._begin = dataset.state_dict()
        self._rows: Iterator[dict] = iter(())
        self._at: int | None = None

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Pack the next rows; seek first if the last call did not end at `start`."""
        with self._faults():
            if start != self._at:
                self._seek(start, state)
            rows = [row for _, row in zip(range(stop - start), self._rows)]
            self._at = start + len(rows)
            reached = self._dataset.state_dict()
            block = self._packer.pack(rows, start)
        block.state = reached
        return block

    def _seek(self, start: int, state: dict | None) -> None:
        # A data set goes on from a state; from none, as after a shard filled without streaming, it reads over rows.
        self._dataset.load_state_dict(state or self._begin)
        self._rows = iter(self._dataset)
        for _ in range(0 if state else start):
            next(self._rows)


def _read(picture: dict | None) -> bytes:
    from datasets.utils.file_utils import xopen

    if picture is None:
        return b""
    if picture["bytes"] is not None:
        return picture["bytes"]
    with xopen(picture["path"], "rb") as file:  # also a file within an archive, here or on the Hub
        return file.read()


def _n_threads() -> int:
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, here // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its text holds a memory address
        return ""
    return f" ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
