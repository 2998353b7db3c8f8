"""Data sets through `datasets`: a Hub id, a folder (of images or Parquet), a Parquet file."""

import difflib
import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_scaling import hub
from hf_scaling.data.cache import Block, Reader, is_full_disk
from hf_scaling.data.images import pack
from hf_scaling.errors import InputError
from hf_scaling.files import write_text


def hash_files(paths: Iterable[str], base: Path, root: Path, progress: bool) -> str:
    """Hash files' content and their names below `base`.

    A file whose size and time of change are as before is not read again: its hash is remembered under `root`.

    Args:
        paths: The files.
        base: The folder that holds them, or the file itself; its own name does not count.
        root: The cache's folder.
        progress: Whether to show a progress bar on stderr when it takes longer than two seconds.

    Returns:
        64 hex digits.
    """
    from tqdm import tqdm

    memory = root / "files" / f"{hashlib.sha256(os.fsencode(base.resolve())).hexdigest()[:16]}.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    names = {os.path.relpath(path, base): path for path in paths}
    with ThreadPoolExecutor() as pool:
        entries = pool.map(lambda name: _entry(names[name], known.get(name)), names)
        bar = tqdm(entries, "reading files' content", len(names), delay=2, disable=not progress, unit=" files")
        found = dict(zip(names, bar))
    if found != known:
        write_text(memory, json.dumps(found))
    listing = sorted((name, digest) for name, (_, _, digest) in found.items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _entry(path: str, known: list | None) -> list:
    status = os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns]
    if known is not None and known[:2] == stamp:
        return known
    with open(path, "rb") as file:
        return [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]


_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")


def find_image_column(features: dict, wanted: str | None, what: str) -> str:
    """Find the image column of a data set's `features`.

    Raises:
        InputError: `wanted` is unknown or holds no images, or none or several columns do.
    """
    candidates = [name for name, feature in features.items() if _holds_images(feature)]
    if wanted is not None:
        _check_known(features, wanted, "image_column", what)
        if wanted not in candidates:
            raise InputError(f"image_column: {wanted} of {what} holds no images")
        return wanted
    return _only(candidates, "image_column", "images", features, what)


def find_label_column(features: dict, wanted: str | None, what: str) -> str:
    """Find the label column: `wanted`, else the only one of type ClassLabel, else one that is named as labels are.

    Raises:
        InputError: `wanted` is unknown, none or several columns come into question, or the labels cannot be classes.
    """
    from datasets import ClassLabel

    if wanted is None:
        named = [name for name in _LABEL_NAMES if name in features]
        typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
        candidates = [name for name in typed if name == "label"] or typed or named[:1]
        wanted = _only(candidates, "label_column", "class labels", features, what)
    _check_known(features, wanted, "label_column", what)
    if not _holds_classes(features[wanted]):
        raise InputError(
            f"label_column: {wanted} of {what} holds {_type_name(features[wanted])}, which are not class ids: "
            "give whole numbers, names or a ClassLabel"
        )
    return wanted


def name_classes(labels: list, what: str) -> list[str]:
    """Name the classes of labels that are plain numbers or strings: the distinct ones, in ascending order.

    They must be few: on average every one stands at two images or more.

    Args:
        labels: Of the training part.
        what: The column, as messages should name it.

    Raises:
        InputError: A label is missing, or there is more than one distinct label every two images.
    """
    if None in labels:
        raise InputError(f"{what}: row {labels.index(None)} has no label")
    distinct = sorted(set(labels))
    if 2 * len(distinct) > len(labels):
        raise InputError(f"{what}: {len(distinct):,} different labels on {len(labels):,} images are no classes")
    return [str(value) for value in distinct]


class LabelIds:
    """Turns a column's labels into class ids, and those into places among the chosen classes.

    Attributes:
        share: Of the classes, how many are chosen.
    """

    def __init__(self, feature, names: Sequence[str], chosen: Iterable[int], what: str):
        """Prepare for labels of `feature`, whose classes are `names`, of which `chosen` take part."""
        self._names, self._what = names, what
        keys = range(len(names)) if hasattr(feature, "names") else names
        self._ids = {str(key): number for number, key in enumerate(keys)}
        self._places = {number: place for place, number in enumerate(chosen)}
        self.share = len(self._places) / len(names)

    def place(self, label, row: int) -> int | None:
        """Give a label's place among the chosen classes, None when its class does not take part.

        Raises:
            InputError: The label is none of the classes.
        """
        number = self._ids.get(str(label))
        if number is None:
            said = (
                "no label"
                if label is None or label == -1
                else f"label {label!r}, which the training part does not have"
            )
            raise InputError(f"{self._what}: row {row} has {said}")
        return self._places.get(number)


def _holds_images(feature) -> bool:
    from datasets import Image, Value

    if isinstance(feature, dict):
        return {"bytes", "path"} <= set(feature)
    return isinstance(feature, Image) or (isinstance(feature, Value) and feature.dtype in ("binary", "large_binary"))


def _holds_classes(feature) -> bool:
    from datasets import ClassLabel, Value

    if isinstance(feature, ClassLabel):
        return True
    kinds = ("int", "uint", "string", "large_string", "bool")
    return isinstance(feature, Value) and feature.dtype.startswith(kinds)


def _type_name(feature) -> str:
    return f"{feature.dtype} values" if isinstance(getattr(feature, "dtype", None), str) else type(feature).__name__


def _check_known(features: dict, wanted: str, field: str, what: str) -> None:
    if wanted not in features:
        nearest = difflib.get_close_matches(wanted, features, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"there are {', '.join(features)}"
        raise InputError(f"{field}: {what} has no column {wanted}: {hint}")


def _only(candidates: list[str], field: str, kind: str, features: dict, what: str) -> str:
    if len(candidates) == 1:
        return candidates[0]
    found = f"columns {', '.join(candidates)} could all hold" if candidates else "no column seems to hold"
    raise InputError(f"{what}: {found} {kind}: name one of {', '.join(features)} as {field}")


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


# What evaluation reads: the first that is there and has labels (ImageNet's test part has none).
TEST_PARTS = ("test", "validation", "valid", "val", "dev")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")


class DatasetOrigin:
    """A data set that `datasets` can load, its parts, columns and classes found. No picture is read for that."""

    def __init__(
        self,
        name: str,
        image_column: str | None,
        label_column: str | None,
        streaming: bool,
        root: Path,
        progress: bool,
    ):
        """Find the data set `name` and what is in it.

        Raises:
            InputError: It is unknown or unreadable, or has no images, no labels or no classes as asked.
        """
        self._streaming, self._root = streaming, root
        with faults_said(name):
            self.name, self._builder, self._content = locate(name, root, progress)
            self._streams = self._builder.as_streaming_dataset()
            self._train_part = train_part(self._streams, name)
            features = self._streams[self._train_part].features
            if features is None:
                raise InputError(f"{name}: its columns are unknown until it is read: convert it to Parquet")
            self._image = find_image_column(features, image_column, name)
            self._label = find_label_column(features, label_column, name)
            self._label_feature = features[self._label]
            self._test_part = self._find_test_part()
            self.has_test = self._test_part is not None
            self.class_names = self._class_names()

    def identity(self) -> dict:
        """Say what determines the pictures and their labels."""
        parts = {"train": self._train_part, "test": self._test_part}
        return {**self._content, **parts, "image": self._image, "label": self._label}

    def reader(self, part: str, chosen: np.ndarray, image_size: int, storage: str, skip_corrupt: bool) -> Reader:
        """Open "train" or "test": streamed in order, or downloaded and prepared for random access."""
        part = self._train_part if part == "train" else self._test_part
        what = f"part {part} of {self.name}"
        labels = LabelIds(self._label_feature, self.class_names, chosen, what)
        packer = RowPacker(self._image, self._label, labels, image_size, storage, skip_corrupt, what)
        faults = functools.partial(faults_said, self.name)
        if self._streaming:
            return StreamReader(self._undecoded(self._streams[part]), self._count_rows(part), packer, faults)
        with faults():
            self._builder.download_and_prepare()
            return MapReader(self._undecoded(self._builder.as_dataset(part)), packer, faults)

    def _undecoded(self, dataset):
        from datasets import Image

        return dataset.select_columns([self._image, self._label]).cast_column(self._image, Image(decode=False))

    def _find_test_part(self) -> str | None:
        names = (name for name in TEST_PARTS if name in self._streams and name != self._train_part)
        return next((name for name in names if next(iter(self._labels(name)), None) not in (None, -1)), None)

    def _labels(self, part: str) -> Iterator:
        return (row[self._label] for row in self._streams[part].select_columns([self._label]))

    def _class_names(self) -> Sequence[str]:
        """Name the classes; where every label must be read for that, remember the answer."""
        if hasattr(self._label_feature, "names"):
            return self._label_feature.names
        key = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
        memory = self._root / "classes" / f"{key}.json"
        if not memory.exists():
            what = f"column {self._label} of {self.name}"
            write_text(memory, json.dumps(name_classes(list(self._labels(self._train_part)), what)))
        return json.loads(memory.read_text())

    def _count_rows(self, part: str) -> int | None:
        """Count rows without reading them, for the progress bar; None where that cannot be done."""
        if self._builder.info.splits:
            return self._builder.info.splits[part].num_examples
        files = self._builder.config.data_files[part]
        if all(file.endswith(".parquet") and Path(file).exists() for file in files):
            from pyarrow import parquet

            return sum(parquet.read_metadata(file).num_rows for file in files)
        if any(file.endswith((*_ARCHIVES, ".parquet", ".arrow")) for file in files):
            return None
        from PIL import Image

        return sum(Path(file).suffix.lower() in Image.registered_extensions() for file in files)


def locate(name: str, root: Path, progress: bool, ours: Sequence[str] = ("glyphs", "digits")) -> tuple:
    """Find what `name` means: its name for results, its builder, and what identifies its content."""
    from datasets import load_dataset_builder

    path = Path(name)
    if not path.exists():
        return _locate_on_hub(name, ours)
    if path.is_dir():
        builder = load_dataset_builder(str(path))
    elif path.suffix == ".parquet":
        builder = load_dataset_builder("parquet", data_files={"train": str(path)})
    else:
        raise InputError(f"{name}: a source is a folder, a .parquet file or a Hub id, and this file is none of them")
    files = [file for part in builder.config.data_files.values() for file in part]
    resolved = path.resolve()
    return (
        resolved.name if path.is_dir() else resolved.stem,
        builder,
        {"files": hash_files(files, path, root, progress)},
    )


def _locate_on_hub(name: str, ours: Sequence[str]) -> tuple:
    repo_id, _, config = name.partition(":")
    # Sources of one word are ours: a misspelt one is said to be that, not looked for on the Hub.
    if "/" not in repo_id or not hub.is_hub_id(repo_id):
        nearest = difflib.get_close_matches(name, ours, n=1)
        hint = (
            f"did you mean {nearest[0]}?"
            if nearest
            else f"give {', '.join(ours)}, a folder, a .parquet file or a Hub id"
        )
        raise InputError(f"{name}: no such source: {hint}")
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repo_id)
    builder = load_dataset_builder(info.id, config or None, revision=info.sha)
    return info.id, builder, {"hub": info.id, "config": builder.config.name, "sha": info.sha}


def train_part(parts: dict, name: str) -> str:
    """Which of a data set's `parts` trains.

    Raises:
        InputError: There are several, and none is called train.
    """
    if "train" in parts:
        return "train"
    if len(parts) == 1:
        return next(iter(parts))
    raise InputError(f"{name}: none of its parts {', '.join(parts)} is called train: rename one")


@contextmanager
def faults_said(name: str) -> Iterator[None]:
    """Turn what `datasets` and the Hub raise about `name` into one line.

    Raises:
        InputError: Offline, absent, empty, malformed, or no room to prepare it.
    """
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from pyarrow import ArrowException

    try:
        with hub.hub_errors(f"the data set {name}"):
            try:
                yield
            except DatasetGenerationError as error:
                raise error.__cause__ or error from None
    except InputError:
        raise
    except (DatasetsError, ArrowException, ValueError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if is_full_disk(error):
            first_line = "the disk of the Hugging Face cache is full: free some room, set HF_HOME, or use streaming"
        raise InputError(f"{name} cannot be read as a data set: {first_line}") from error
