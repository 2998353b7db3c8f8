"""Sources of a user's own: folders of images, and what the `datasets` library loads (Parquet files, Hub ids)."""

import functools
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from hf_scaling import hub
from hf_scaling.data.cache import Block, Reader, is_full_disk, log_once
from hf_scaling.data.folders import FolderScan, ImageFiles, hash_contents, hash_files, read_image_folder
from hf_scaling.data.images import Packed, Packer, Undecided
from hf_scaling.errors import InputError
from hf_scaling.files import write_text
from hf_scaling.text import did_you_mean

if TYPE_CHECKING:  # importing datasets takes most of a second, and the embedded sources do without it
    import datasets

# Evaluation reads the first of these parts that has labels (ImageNet's test part has none).
TEST_PARTS = ("test", "validation", "valid", "val", "dev")
_LABEL_NAMES = ("label", "labels", "class", "target", "fine_label")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")
#: Suffixes of files, other than images, that `datasets` reads.
_DATA_SUFFIXES = {".parquet", ".arrow", ".csv", ".json", ".jsonl", ".tar"}
_GROUP = 32  # images per task of a thread; one by one, handing over small images costs more than decoding them


def open_origin(
    name: str, image_column: str | None, label_column: str | None, streaming: bool, root: Path, progress: bool
) -> "FolderOrigin | DatasetOrigin":
    """Open a folder of images, a folder of data files, a Parquet file or a Hub id.

    A folder that holds images is read as such, unless it has Parquet files with images, or Arrow files.

    Args:
        name: The folder, the file or the Hub id; an existing path wins.
        image_column, label_column: Names of the columns; None finds them.
        streaming: Whether the rows of a data set are read in order; a folder of images is read by index in any case.
        root: Folder of the cache.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: As the origins do.
    """
    path = Path(name)
    if path.is_dir():
        scan = FolderScan(path)
        is_data_set = any(map(_holds_images, (path / file for file in scan.data_files)))
        if not is_data_set and (scan.n_images or not _DATA_SUFFIXES & scan.unused.keys()):
            return FolderOrigin(scan, image_column, label_column, root, progress)
        if scan.n_images:
            log_once(f"{name}: {scan.n_images:,} image files beside its data files are not read")
    return DatasetOrigin(name, image_column, label_column, streaming, root, progress)


def _holds_images(path: Path) -> bool:
    """Whether a Parquet file has a column that can hold images; Arrow files are not looked into."""
    if path.suffix.lower() == ".arrow":
        return True
    import pyarrow as pa
    from pyarrow import parquet

    try:
        kinds = parquet.read_schema(path).types
    except (pa.ArrowException, OSError):
        return False
    return any(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0)
        for kind in kinds
    )


class FolderOrigin:
    """A folder of images, as an `Origin`; opening it reads the content of files that are new or changed.

    Args:
        scan: The folder's files.
        image_column: Refused, unless it is "image": the files have no columns.
        label_column: The label column of its metadata files; None finds it.
        root: Folder of the cache.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: As `read_image_folder` and `hash_contents` do.
    """

    is_generated = False

    def __init__(
        self, scan: FolderScan, image_column: str | None, label_column: str | None, root: Path, progress: bool
    ):
        self.name = scan.root.resolve().name
        if image_column not in (None, "image"):
            raise InputError(f"image_column: {scan.root} is a folder of images and has no columns: leave it out")
        if label_column == "label" and not scan.metadata:  # what `datasets` calls the class folders
            label_column = None
        folder = read_image_folder(scan, label_column)
        for remark in folder.remarks:
            log_once(remark)
        self._content = hash_contents(folder, root / "folders", progress)
        self._folder, self._test_part = folder, folder.evaluation_part()
        self.class_names, self.has_test = folder.class_names, self._test_part is not None

    def identity(self) -> dict:
        """What determines the images and their labels."""
        return {"images": self._content, "test": self._test_part}

    def reader(self, part: str, class_ids: np.ndarray, packer: Packer, skip_corrupt: bool) -> Reader:
        """Open "train" or "test"."""
        part = "train" if part == "train" else self._test_part
        labels = LabelIds(range(len(self.class_names)), class_ids, f"part {part} of {self.name}")
        rows = RowPacker("image", "label", labels, packer, skip_corrupt, f"part {part} of {self.name}")
        return FolderReader(self._folder.root, self._folder.parts[part], rows)


class DatasetOrigin:
    """A data set that `datasets` can load, as an `Origin`; opening it reads no image.

    Args:
        name: A folder, a Parquet file or a Hub id.
        image_column, label_column: Names of the columns; None finds them.
        streaming: Whether rows are read in order, without preparing the data set first.
        root: Folder of the cache.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: It is unknown or unreadable, or has no images, no labels or no classes as requested.
    """

    is_generated = False

    def __init__(
        self,
        name: str,
        image_column: str | None,
        label_column: str | None,
        streaming: bool,
        root: Path,
        progress: bool,
    ):
        self._streaming, self._root = streaming, root
        with dataset_errors(name):
            self.name, self._builder, self._content = locate(name, root, progress)
            self._streams = self._builder.as_streaming_dataset()
            self._train_part = find_train_part(self._streams, name)
            features = self._streams[self._train_part].features
            if features is None:
                raise InputError(f"{name}: its columns are unknown before it is read: convert it to Parquet")
            self._image = find_image_column(features, image_column, name)
            self._label = find_label_column(features, label_column, name)
            self._label_feature = features[self._label]
            parts = [part for part in TEST_PARTS if part in self._streams and part != self._train_part]
            first_labels = ((part, next(self._read_labels(part), None)) for part in parts)
            self._test_part = next((part for part, label in first_labels if label not in (None, -1)), None)
            self.has_test = self._test_part is not None
            self.class_names = self._find_class_names()

    def identity(self) -> dict:
        """What determines the images and their labels."""
        parts = {"train": self._train_part, "test": self._test_part}
        return {**self._content, **parts, "image": self._image, "label": self._label}

    def reader(self, part: str, class_ids: np.ndarray, packer: Packer, skip_corrupt: bool) -> Reader:
        """Open "train" or "test": streamed in order, or downloaded and prepared for random access."""
        part = self._train_part if part == "train" else self._test_part
        where = f"part {part} of {self.name}"
        is_typed = hasattr(self._label_feature, "names")
        labels = LabelIds(range(len(self.class_names)) if is_typed else self.class_names, class_ids, where)
        rows = RowPacker(self._image, self._label, labels, packer, skip_corrupt, where)
        errors = functools.partial(dataset_errors, self.name)
        if self._streaming:
            return StreamReader(
                self._undecoded(self._builder.as_streaming_dataset(part)), self._count_rows(part), rows, errors
            )
        with errors():
            self._builder.download_and_prepare()
            return MapReader(self._undecoded(self._builder.as_dataset(part)), rows, errors)

    def _undecoded(self, dataset):
        from datasets import Image as ImageFeature

        columns = dataset.select_columns([self._image, self._label])
        return columns.cast_column(self._image, ImageFeature(decode=False))

    def _read_labels(self, part: str) -> Iterator:
        return (row[self._label] for row in self._streams[part].select_columns([self._label]))

    def _find_class_names(self) -> Sequence[str]:
        """The class names; where every label must be read to find them, they are stored in the cache."""
        if hasattr(self._label_feature, "names"):
            return self._label_feature.names
        key = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
        memory = self._root / "classes" / f"{key}.json"
        if not memory.exists():
            labels = list(self._read_labels(self._train_part))
            write_text(memory, json.dumps(name_classes(labels, f"column {self._label} of {self.name}")))
        return json.loads(memory.read_text())

    def _count_rows(self, part: str) -> int | None:
        """Number of rows, for the progress bar; None where they would have to be read."""
        if self._builder.info.splits:
            return self._builder.info.splits[part].num_examples
        files = self._builder.config.data_files[part]
        if all(file.endswith(".parquet") and Path(file).exists() for file in files):
            from pyarrow import parquet

            return sum(parquet.read_metadata(file).num_rows for file in files)
        if any(file.endswith((*_ARCHIVES, ".parquet", ".arrow")) for file in files):
            return None
        return sum(Path(file).suffix.lower() in Image.registered_extensions() for file in files)


class Located(NamedTuple):
    """A data set that was located: its name in results, its builder, and what identifies its content."""

    name: str
    builder: "datasets.DatasetBuilder"
    content: dict[str, Any]


def locate(name: str, root: Path, progress: bool, embedded: Sequence[str] = ("glyphs", "digits")) -> Located:
    """Locate a data set.

    Args:
        name: A folder, a Parquet file, or a Hub id with an optional `:config`; an existing path wins.
        root: Folder of the cache.
        progress: Whether to show progress on stderr.
        embedded: Names of the embedded sources, suggested for a name that is misspelt.

    Raises:
        InputError: There is no such source.
    """
    from datasets import load_dataset_builder

    path = Path(name)
    if path.exists():
        if path.is_dir():
            builder = load_dataset_builder(str(path))
        elif path.suffix == ".parquet":
            builder = load_dataset_builder("parquet", data_files={"train": str(path)})
        else:
            raise InputError(f"{name}: this file is not a source: give a folder, a .parquet file or a Hub id")
        files = [file for part in builder.config.data_files.values() for file in part]
        resolved = path.resolve()
        content = {"files": hash_files(files, path, root, progress)}
        return Located(resolved.name if path.is_dir() else resolved.stem, builder, content)
    repo_id, _, config = name.partition(":")
    # Embedded sources have names of one word, so such a name is never looked for on the Hub.
    if "/" not in repo_id or not hub.is_hub_id(repo_id):
        kinds = f"; give {', '.join(embedded)}, a folder, a .parquet file or a Hub id"
        raise InputError(f"{name}: no such source{did_you_mean(name, embedded, cutoff=0.6) or kinds}")
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repo_id)
    builder = load_dataset_builder(info.id, config or None, revision=info.sha)
    return Located(info.id, builder, {"hub": info.id, "config": builder.config.name, "sha": info.sha})


def find_train_part(parts: Mapping, name: str) -> str:
    """The training part of a data set: "train", or the only part there is.

    Raises:
        InputError: There are several, and none is called train.
    """
    if "train" in parts:
        return "train"
    if len(parts) == 1:
        return next(iter(parts))
    raise InputError(f"{name}: none of its parts {', '.join(parts)} is called train: rename one")


@contextmanager
def dataset_errors(name: str) -> Iterator[None]:
    """Turn what `datasets` and the Hub raise about the data set `name` into one line.

    Raises:
        InputError: Offline, absent, empty, malformed, or no disk space to prepare it.
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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if is_full_disk(error):
            reason = "the disk of the Hugging Face cache is full: free some space, set HF_HOME, or use streaming"
        raise InputError(f"{name} cannot be read as a data set: {reason}") from error


# Columns and classes.


def find_image_column(features: Mapping, requested: str | None, source: str) -> str:
    """The image column of a data set: `requested`, else the only one that holds images.

    Raises:
        InputError: `requested` is unknown or holds no images, or none or several columns do.
    """
    from datasets import Image as ImageFeature
    from datasets import Value

    candidates = []
    for name, feature in features.items():
        is_struct = isinstance(feature, dict) and {"bytes", "path"} <= set(feature)
        is_binary = isinstance(feature, Value) and feature.dtype in ("binary", "large_binary")
        if is_struct or is_binary or isinstance(feature, ImageFeature):
            candidates.append(name)
    column = _select_column(candidates, requested, "image_column", "images", features, source)
    if column not in candidates:
        raise InputError(f"image_column: {column} of {source} does not hold images")
    return column


def find_label_column(features: Mapping, requested: str | None, source: str) -> str:
    """The label column: `requested`, else the only ClassLabel, else a column with a usual name.

    Raises:
        InputError: `requested` is unknown, none or several columns are candidates, or the values cannot be classes.
    """
    from datasets import ClassLabel, Value

    typed = [name for name, feature in features.items() if isinstance(feature, ClassLabel)]
    named = [name for name in _LABEL_NAMES if name in features]
    candidates = [name for name in typed if name == "label"] or typed or named[:1]
    column = _select_column(candidates, requested, "label_column", "class labels", features, source)
    feature = features[column]
    kinds = ("int", "uint", "string", "large_string", "bool")
    if not (isinstance(feature, ClassLabel) or (isinstance(feature, Value) and feature.dtype.startswith(kinds))):
        dtype = getattr(feature, "dtype", None)
        kind = f"{dtype} values" if isinstance(dtype, str) else type(feature).__name__
        raise InputError(
            f"label_column: {column} of {source} holds {kind}, not classes: give whole numbers, names or a ClassLabel"
        )
    return column


def _select_column(
    candidates: list[str], requested: str | None, field: str, kind: str, features: Mapping, source: str
) -> str:
    if requested is not None:
        if requested not in features:
            hint = did_you_mean(requested, features, cutoff=0.6) or f"; the columns are {', '.join(features)}"
            raise InputError(f"{field}: {source} has no column {requested}{hint}")
        return requested
    if len(candidates) != 1:
        problem = f"any of {', '.join(candidates)} could hold" if candidates else "no column seems to hold"
        raise InputError(f"{source}: {problem} {kind}: give {field}, one of {', '.join(features)}")
    return candidates[0]


def name_classes(labels: list, column: str) -> list[str]:
    """Class names of labels that are plain numbers or strings: the distinct ones, in ascending order.

    Args:
        labels: Labels of the training part.
        column: The column, for messages.

    Raises:
        InputError: A label is missing, or there are more distinct labels than one per two images.
    """
    if None in labels:
        raise InputError(f"{column}: row {labels.index(None)} has no label")
    distinct = sorted(set(labels))
    if 2 * len(distinct) > len(labels):
        raise InputError(f"{column}: {len(distinct):,} different labels on {len(labels):,} images cannot be classes")
    return [str(value) for value in distinct]


class LabelIds:
    """Maps a column's labels to class ids, and those to positions among the selected classes.

    Args:
        labels: The label of each class as the column writes it, in label order.
        class_ids: The selected classes.
        where: The part, for messages.

    Attributes:
        share: Share of the classes that are selected.
    """

    def __init__(self, labels: Sequence[int | str], class_ids: Iterable[int], where: str):
        self._where = where
        self._ids = {str(label): number for number, label in enumerate(labels)}
        self._positions = {number: position for position, number in enumerate(class_ids)}
        self.share = len(self._positions) / len(labels)

    def position(self, label: int | str | None, row: int) -> int | None:
        """Position of a label among the selected classes; None where its class is not selected.

        Raises:
            InputError: The label is missing, or the training part does not have it.
        """
        number = self._ids.get(str(label))
        if number is None:
            problem = f"has label {label!r}, which the training part does not have"
            if label is None or label == -1:
                problem = "has no label"
            raise InputError(f"{self._where}: row {row} {problem}")
        return self._positions.get(number)


# Rows: read, decoded and packed.


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
    """

    sequential = True

    def __init__(self, dataset, n_rows: int | None, packer: "RowPacker", errors: Callable[[], AbstractContextManager]):
        self.n_rows = n_rows
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
            next_state = self._dataset.state_dict()
            block = self._packer.pack(rows, start)
        block.state = next_state
        return block


@dataclass
class RowPacker:
    """Turns raw rows into a `Block`: selects classes, decodes, fits and packs.

    Images are decoded in threads, which PIL allows to run at once. `where` is the part, for messages.
    """

    image_column: str
    label_column: str
    labels: LabelIds
    packer: Packer
    skip_corrupt: bool
    where: str

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
        groups = [images[begin : begin + _GROUP] for begin in range(0, len(images), _GROUP)]
        n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        with ThreadPoolExecutor(max(1, n_cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))) as pool:
            results = pool.map(lambda group: [self._pack_one(row, image) for row, image in group], groups)
            return [result for group in results for result in group]

    def _pack_one(self, row: int, image: dict | None) -> Packed | str:
        """A packed image, or what is wrong with it."""
        encoded = _read_bytes(image)  # outside the try: an error of the disk or the network is not a corrupt image
        try:
            return self.packer.pack(encoded)
        except (MemoryError, Undecided):
            raise
        except Exception as error:  # PIL raises nearly anything on broken bytes
            is_file = image is not None and image["bytes"] is None and image["path"]
            reason = ""
            if not isinstance(error, UnidentifiedImageError):  # the text of that one holds a memory address
                reason = f" ({(str(error).strip().splitlines() or [type(error).__name__])[0]})"
            name = image["path"] if is_file else f"row {row} of {self.where}"
            problem = f"{name} cannot be decoded as an image{reason}"
            if self.skip_corrupt:
                return problem
            raise InputError(f"{problem}: repair or remove it, or leave out such images with skip_corrupt") from error


def _read_bytes(image: dict | None) -> bytes:
    if image is None:
        return b""
    if image["bytes"] is not None:
        return image["bytes"]
    if os.path.exists(image["path"]) or not any(mark in image["path"] for mark in ("::", "://")):
        try:
            return Path(image["path"]).read_bytes()
        except OSError as error:
            raise InputError(f"{image['path']}: cannot be read: {error.strerror}") from error
    from datasets.utils.file_utils import xopen

    with xopen(image["path"], "rb") as file:  # also a file within an archive, local or on the Hub
        return file.read()
