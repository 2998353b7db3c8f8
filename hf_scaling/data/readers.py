"""Readers of images: rows of a folder, or of a data set on disk or streamed, packed into the blocks of the cache."""

import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from PIL import UnidentifiedImageError

from hf_scaling.data.cache import Block
from hf_scaling.data.folders import ImageFiles
from hf_scaling.data.images import Packed, Packer, Undecided
from hf_scaling.data.labels import (
    LabelIds,
)
from hf_scaling.errors import InputError

# Below this time an image is mostly Python's work, which threads only delay: small images are decoded in one thread.
_SMALL_SECONDS = 5e-4
_GROUP = 32  # images per task of a thread; one by one, handing over small images costs more than decoding them


class FolderReader:
    """Reads the images of a folder, in any order and by any number of processes.

    Args:
        root: The folder.
        files: The images of one part.
        packer: Decodes them.
    """

    sequential = False

    def __init__(self, root: Path, files: ImageFiles, packer: "RowPacker"):
        self.n_rows = len(files.paths)
        self.n_images = round(self.n_rows * packer.labels.share)
        self._root, self._files, self._packer = root, files, packer

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Pack the images `start` to `stop`."""
        paths, labels = self._files.paths[start:stop], self._files.labels[start:stop].tolist()
        images = ({"bytes": None, "path": os.path.join(self._root, path)} for path in paths)
        return self._packer.pack([{"image": image, "label": label} for image, label in zip(images, labels)], start)


class MapReader:
    """Reads rows of a prepared data set, in any order and by any number of processes.

    Args:
        dataset: A `datasets.Dataset` of undecoded images.
        packer: Decodes its rows.
        errors: Turns the errors of its files into messages.
    """

    sequential = False

    def __init__(self, dataset, packer: "RowPacker", errors: Callable[[], AbstractContextManager]):
        self.n_rows = len(dataset)
        self.n_images = round(self.n_rows * packer.labels.share)
        self._dataset, self._packer, self._errors = dataset, packer, errors

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Pack the rows `start` to `stop`."""
        with self._errors():
            columns = self._dataset[start:stop]
            rows = [dict(zip(columns, values)) for values in zip(*columns.values())]
            return self._packer.pack(rows, start)


class StreamReader:
    """Reads rows of a stream, in order; it resumes from the state of a block.

    Args:
        dataset: A `datasets.IterableDataset` of undecoded images.
        n_rows: Number of rows, if it is known.
        packer: Decodes its rows.
        errors: Turns the errors of its files into messages.
        is_exact: Whether `n_rows` was read from the files, so that another number of rows is refused.
    """

    sequential = True

    def __init__(
        self,
        dataset,
        n_rows: int | None,
        packer: "RowPacker",
        errors: Callable[[], AbstractContextManager],
        is_exact: bool = False,
    ):
        self.n_rows, self._is_exact = n_rows, is_exact
        self.n_images = None if n_rows is None else round(n_rows * packer.labels.share)
        self._dataset, self._packer, self._errors = dataset, packer, errors
        self._initial_state = dataset.state_dict()
        self._rows: Iterator[dict] = iter(())
        self._position: int | None = None

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Pack the next rows; seek first if the last call did not end at `start`."""
        with self._errors():
            if start != self._position:
                # Without a state, as after a shard that was filled without streaming, the rows before are read over.
                self._dataset.load_state_dict(state or self._initial_state)
                self._rows = iter(self._dataset)
                for _ in range(0 if state else start):
                    next(self._rows)
            rows = [row for _, row in zip(range(stop - start), self._rows)]
            self._position = start + len(rows)
            if len(rows) < stop - start and self._is_exact and self._position != self.n_rows:
                raise InputError(
                    f"{self._packer.where}: {self._position:,} rows were read, but its files hold {self.n_rows:,}"
                )
            next_state = self._dataset.state_dict()
            block = self._packer.pack(rows, start)
        block.state = next_state
        return block


@dataclass
class RowPacker:
    """Turns raw rows into a `Block`: selects classes, decodes, fits and packs.

    Large images are decoded in threads, which PIL allows to run at once. `where` is the part, for messages; rows may
    hold the paths of images below `folder`.
    """

    image_column: str
    label_column: str
    labels: LabelIds
    packer: Packer
    skip_corrupt: bool
    where: str
    folder: Path | None = None

    def pack(self, rows: list[dict], start: int) -> Block:
        """Pack `rows`, the first of which is row `start` of its part.

        Raises:
            InputError: An image cannot be decoded and is not to be skipped, or a label is none of the classes.
        """
        numbered = list(enumerate(rows, start))
        labels = [self.labels.position(row[self.label_column], number) for number, row in numbered]
        selected = [index for index, label in enumerate(labels) if label is not None]
        images = [(start + index, rows[index][self.image_column]) for index in selected]
        try:
            packed = self._pack_images(images)
        except Undecided as undecided:  # the first image of its kind: decide here, outside the threads, and repeat
            undecided.rules.decide()
            packed = self._pack_images(images)
        block = Block(n_rows=len(rows), skipped=[result for result in packed if isinstance(result, str)])
        for index, result in zip(selected, packed):
            if not isinstance(result, str):
                block.append(result, labels[index])
        return block

    def _pack_images(self, images: list[tuple[int, dict | None]]) -> list[Packed | str]:
        start = time.thread_time()
        packed = self._pack_group(images[:_GROUP])
        if time.thread_time() - start < _SMALL_SECONDS * len(packed):
            return packed + self._pack_group(images[_GROUP:])
        groups = [images[begin : begin + _GROUP] for begin in range(_GROUP, len(images), _GROUP)]
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))) as pool:
            return packed + [result for group in pool.map(self._pack_group, groups) for result in group]

    def _pack_group(self, images: list[tuple[int, dict | None]]) -> list[Packed | str]:
        """Packed images, or what is wrong with them."""
        packed: list[Packed | str] = []
        for row, image in images:
            # Outside the try: an error of the disk or the network is not a corrupt image.
            encoded = _read_bytes(image, self.folder)
            try:
                packed.append(self.packer.pack(encoded))
            except (MemoryError, Undecided):
                raise
            except Exception as error:  # PIL raises nearly anything on broken bytes
                is_file = image is not None and image["bytes"] is None and image["path"]
                reason = ""
                if not isinstance(error, UnidentifiedImageError):  # the text of that one holds a memory address
                    reason = f" ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
                name = image["path"] if is_file else f"row {row} of {self.where}"
                problem = f"{name} cannot be decoded as an image{reason}"
                if not self.skip_corrupt:
                    advice = "repair or remove it, or leave out such images with skip_corrupt"
                    raise InputError(f"{problem}: {advice}") from error
                packed.append(problem)
        return packed


def _read_bytes(image: dict | None, folder: Path | None) -> bytes:
    if image is None:
        return b""
    if image["bytes"] is not None:
        return image["bytes"]
    if not image["path"]:
        return b""
    if folder is not None and (folder / image["path"]).is_file():  # as its rows mean it, wherever the command is run
        return (folder / image["path"]).read_bytes()
    if os.path.exists(image["path"]) or not any(mark in image["path"] for mark in ("::", "://")):
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise InputError(f"{image['path']}: cannot be read: {error.strerror}") from error
    from datasets.utils.file_utils import xopen

    with xopen(image["path"], "rb") as file:  # also a file within an archive, local or on the Hub
        return file.read()
