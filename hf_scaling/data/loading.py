"""Sources of a user's own: folders of images, and what the `datasets` library loads (Parquet files, Hub ids)."""

import csv
import functools
import glob
import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling import hub
from hf_scaling.data.cache import Reader, is_full_disk, log_once
from hf_scaling.data.hashes import hash_contents, hash_files
from hf_scaling.data.images import Packer
from hf_scaling.data.labels import (
    FileNames,
    LabelColumn,
    LabelIds,
    check_label_columns,
    count_images,
    find_image_column,
    find_label_column,
    name_classes,
    read_label_columns,
)
from hf_scaling.data.lists import read_images
from hf_scaling.data.readers import FolderReader, MapReader, RowPacker, StreamReader
from hf_scaling.data.scan import FolderScan, divide_files, list_files
from hf_scaling.errors import InputError
from hf_scaling.files import write_text
from hf_scaling.text import did_you_mean, listing

if TYPE_CHECKING:  # importing datasets takes most of a second, and the embedded sources do without it
    import datasets

# Evaluation reads the first of these parts that has labels (ImageNet's test part has none).
TEST_PARTS = ("test", "validation", "valid", "val", "dev")
_BUILDERS = {".parquet": "parquet", ".jsonl": "json", ".csv": "csv"}
_OPENED_VERSION = 1  # of what `remembered` stores
#: Suffixes of files, other than images, that `datasets` reads.
_DATA_SUFFIXES = {".parquet", ".arrow", ".csv", ".json", ".jsonl", ".tar"}


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
        is_data_set = scan.data_files and (
            not scan.n_images or any(_holds_images(path / file) for file in scan.data_files)
        )
        if not is_data_set and (scan.n_images or not _DATA_SUFFIXES & scan.unused.keys()):
            return FolderOrigin(scan, image_column, label_column, root, progress)
        unused = scan.unused_beside_data()
        if unused:
            log_once(f"{name}: its data files are read; {unused}")
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
        InputError: As `read_images` and `hash_contents` do.
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
        folder = read_images(scan, label_column)
        for remark in folder.remarks:
            log_once(remark)
        self._content = hash_contents(folder, root / "folders", progress)
        self._folder, self._test_part = folder, folder.evaluation_part()
        self.class_names, self.has_test = folder.class_names, self._test_part is not None

    def identity(self) -> dict:
        """What determines the images and their labels."""
        return {"images": self._content, "test": self._test_part}

    def n_images(self, part: str, class_ids: np.ndarray) -> int:
        """Number of files of some classes."""
        files = self._folder.parts["train" if part == "train" else self._test_part]
        return int(np.isin(files.labels, class_ids).sum())

    def reader(self, part: str, class_ids: np.ndarray, packer: Packer, skip_corrupt: bool) -> Reader:
        """Open "train" or "test"."""
        part = "train" if part == "train" else self._test_part
        labels = LabelIds(self.class_names, class_ids, f"part {part} of {self.name}", self.class_names)
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
        self._streaming = streaming
        with dataset_errors(name):
            self._located = locate(name, root, progress)
            self.name = self._located.name
            basis = {**self._located.content, "image": image_column, "label": label_column}
            facts = remembered(
                root, basis, lambda: self._describe(self._located.builder(), name, image_column, label_column)
            )
        self._parts: dict[str, str] = facts["parts"]
        if unlabelled := facts.get("unlabelled"):
            instead = f"part {self._parts['test']} is" if "test" in self._parts else "part of train is held out and"
            log_once(f"{name}: the first row of part {listing(unlabelled)} has no label: {instead} evaluated instead")
        self._image, self._label, self._names = facts["image"], facts["label"], facts["names"]
        self._files = {
            part: [LabelColumn(file, n_rows, kind, tuple(facts["name_lists"][at])) for file, n_rows, kind, at in files]
            for part, files in facts["files"].items()
        }
        self._config = facts["config"]
        self.class_names, self.has_test = facts["class_names"], "test" in self._parts

    def identity(self) -> dict:
        """What determines the images and their labels."""
        parts = {"train": self._parts["train"], "test": self._parts.get("test"), "config": self._config}
        return {**self._located.content, **parts, "image": self._image, "label": self._label}

    def n_images(self, part: str, class_ids: np.ndarray) -> int | None:
        """Number of rows of some classes; None where `count_images` cannot tell."""
        return count_images(self._files[part], self._label, self._labels(part, class_ids))

    def _labels(self, part: str, class_ids: np.ndarray) -> LabelIds:
        where = f"part {self._parts[part]} of {self.name}"
        return LabelIds(self.class_names, class_ids, where, self._names, self._files[part])

    def reader(self, part: str, class_ids: np.ndarray, packer: Packer, skip_corrupt: bool) -> Reader:
        """Open "train" or "test": streamed in order, or downloaded and prepared for random access.

        Raises:
            InputError: The part has fewer or more rows than its files.
        """
        name, files = self._parts[part], self._files[part]
        where = f"part {name} of {self.name}"
        labels = self._labels(part, class_ids)
        rows = RowPacker(self._image, self._label, labels, packer, skip_corrupt, where, self._located.folder)
        errors = functools.partial(dataset_errors, self.name)
        are_counted = bool(files) and all(file.n_rows is not None for file in files)
        n_rows = sum(file.n_rows for file in files) if are_counted else None
        with errors():
            builder = self._located.builder()
            if self._streaming:
                stream = builder.as_streaming_dataset()[name]
                if not are_counted and builder.info.splits and name in builder.info.splits:
                    n_rows = builder.info.splits[name].num_examples  # as a README says, which may be out of date
                return StreamReader(self._undecoded(stream), n_rows, rows, errors, are_counted)
            builder.download_and_prepare()
            prepared = builder.as_dataset(name)
        if n_rows not in (None, len(prepared)):
            raise InputError(f"{where}: {len(prepared):,} rows were read, but its files hold {n_rows:,}")
        return MapReader(self._undecoded(prepared), rows, errors)

    def _undecoded(self, dataset):
        from datasets import Image as ImageFeature

        columns = dataset.select_columns([self._image, self._label])
        return columns.cast_column(self._image, ImageFeature(decode=False))

    def _describe(
        self, builder: "datasets.DatasetBuilder", name: str, image_column: str | None, label_column: str | None
    ) -> dict[str, Any]:
        """Parts, columns, classes and files of a data set, as JSON values."""
        streams = builder.as_streaming_dataset()
        train = find_train_part(streams, name)
        features = streams[train].features
        if features is None:
            raise InputError(f"{name}: its columns are unknown before it is read: convert it to Parquet")
        image, label = find_image_column(features, image_column, name), find_label_column(features, label_column, name)
        labels_of = {part: stream.select_columns([label]) for part, stream in streams.items()}
        candidates = [part for part in TEST_PARTS if part in streams and part != train]
        first_labels = ((part, next(iter(labels_of[part]), {label: None})[label]) for part in candidates)
        test = next((part for part, value in first_labels if value not in (None, -1)), None)
        parts = {"train": train} if test is None else {"train": train, "test": test}
        paths = {
            part: [str(file) for file in (builder.config.data_files or {}).get(parts[part], ())] for part in parts
        }
        has_headers = all(file.lower().endswith((".parquet", ".arrow")) for files in paths.values() for file in files)
        files = {part: read_label_columns(paths[part] if has_headers else [], label) for part in parts}
        all_files = [file for part in parts for file in files[part]]
        if all_files:
            check_label_columns(all_files, label)
        names = getattr(features[label], "names", None)
        class_names = names
        if names is None:  # every label must be read to find them
            file_names = FileNames(None, files["train"])
            values = [file_names.name(row[label], number) for number, row in enumerate(labels_of[train])]
            are_numbers = features[label].dtype.startswith(("int", "uint"))
            class_names = name_classes(values, f"column {label} of {self.name}", are_numbers)
        name_lists = list(dict.fromkeys(file.names for file in all_files))
        return {
            "parts": parts,
            "unlabelled": candidates[: candidates.index(test) if test else None],
            "image": image,
            "label": label,
            "names": names,
            "class_names": class_names,
            "config": builder.config.name if "hub" in self._located.content else None,
            "name_lists": name_lists,
            "files": {
                part: [[file.path, file.n_rows, file.kind, name_lists.index(file.names)] for file in files[part]]
                for part in parts
            },
        }


def remembered(root: Path, basis: Mapping[str, Any], describe: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `describe` returned for the same content before, else what it returns now; stored in the cache.

    Args:
        root: Folder of the cache.
        basis: What determines the result, as JSON values: the content, and what was requested.
        describe: Returns JSON values.
    """
    key = hashlib.sha256(json.dumps([_OPENED_VERSION, basis], sort_keys=True).encode()).hexdigest()[:16]
    memory = root / "opened" / f"{key}.json"
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        facts = describe()
        write_text(memory, json.dumps(facts))
        return json.loads(json.dumps(facts))


@dataclass(frozen=True)
class Located:
    """A data set that was located.

    Attributes:
        name: Name in results; never a path.
        content: What identifies its content, as JSON values.
        builder: Opens it; what that costs is paid once.
        folder: That holds its files; None for one of the Hub.
    """

    name: str
    content: dict[str, Any]
    builder: Callable[[], "datasets.DatasetBuilder"]
    folder: Path | None = None


def locate(
    name: str,
    root: Path,
    progress: bool,
    embedded: Sequence[str] = ("glyphs", "digits"),
    suffixes: Sequence[str] = (".parquet",),
) -> Located:
    """Locate a data set.

    Args:
        name: A folder, a data file, or a Hub id with an optional `:config`; an existing path wins.
        root: Folder of the cache.
        progress: Whether to show progress on stderr.
        embedded: Names of the embedded sources, suggested for a name that is misspelt.
        suffixes: Of the data files that are divided into parts by their names; `datasets` divides others.

    Raises:
        InputError: There is no such source, or files of several kinds or of unclear parts.
    """
    path = Path(name)
    if path.exists():
        resolved = path.resolve()
        if path.is_dir():
            parts = local_parts(path, suffixes)
            source_name = resolved.name
        elif path.suffix.lower() in suffixes:
            parts, source_name = {"train": [path.name]}, resolved.stem
        else:
            kinds = listing([f"a {suffix} file" for suffix in suffixes])
            advice = "its folder, where it lists images" if path.suffix.lower() == ".csv" else "a folder"
            raise InputError(f"{name}: this file is not a source: give {advice}, {kinds} or a Hub id")
        folder = path if path.is_dir() else path.parent
        if parts is None:
            builder = _builder(str(path))
            files = [file for part in builder().config.data_files.values() for file in part]
            suffix_of = {Path(file).suffix.lower() for file in files}
            n_there = sum(Path(file).suffix.lower() in suffix_of for file in list_files(path))
            if n_there > len(files):
                log_once(f"{path}: {n_there - len(files):,} of its {n_there:,} data files are in no part and not read")
        else:
            files = [str(folder / file) for part in parts.values() for file in part]
            # `datasets` takes names for patterns.
            data_files = {part: [glob.escape(str(folder / file)) for file in parts[part]] for part in parts}
            builder = _builder(_BUILDERS[Path(files[0]).suffix.lower()], data_files=data_files)
        content = {"files": hash_files(files, path, root, progress)}
        if parts is not None and len(parts) > 1:
            content["parts"] = {part: len(files) for part, files in parts.items()}
        return Located(source_name, content, builder, folder)
    repo_id, _, config = name.partition(":")
    # Embedded sources have names of one word, so such a name is never looked for on the Hub.
    if "/" not in repo_id or not hub.is_hub_id(repo_id):
        kinds = f"; give {', '.join(embedded)}, a folder, a .parquet file or a Hub id"
        raise InputError(f"{name}: no such source{did_you_mean(name, embedded, cutoff=0.6) or kinds}")
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repo_id)
    content = {"hub": info.id, "requested": config or None, "sha": info.sha}
    return Located(info.id, content, _builder(info.id, config or None, revision=info.sha))


def _builder(*arguments: str | None, **options: Any) -> Callable[[], "datasets.DatasetBuilder"]:
    """A function that opens a data set with `datasets` when it is first called."""

    @functools.cache
    def build() -> "datasets.DatasetBuilder":
        from datasets import load_dataset_builder

        return load_dataset_builder(*arguments, **options)

    return build


def local_parts(folder: Path, suffixes: Sequence[str]) -> dict[str, list[str]] | None:
    """The data files of a folder by part; None where there are none, or where its README.md declares the parts.

    Args:
        folder: The folder.
        suffixes: Of the data files.

    Raises:
        InputError: Files of several kinds, or some with and some without the name of a part.
    """
    readme = folder / "README.md"
    if readme.is_file() and re.search(r"^(configs|dataset_info):", readme.read_text("utf-8", "replace"), re.MULTILINE):
        return None
    names = list_files(folder)
    files = [name for name in names if Path(name).suffix.lower() in suffixes]
    if not files:
        return None
    kinds = Counter(Path(name).suffix.lower() for name in files)
    if len(kinds) > 1:
        counts = listing([f"{count:,} {kind}" for kind, count in kinds.items()])
        raise InputError(f"{folder}: holds data files of several kinds ({counts}): move all but one kind out")
    return divide_files(files, folder)


def count_rows(files: Sequence[str]) -> int | None:
    """Number of rows that local Parquet, JSON Lines and CSV files hold; None for other files."""
    n_rows = 0
    for path in map(Path, files):
        suffix = path.suffix.lower()
        if suffix not in _BUILDERS or not path.is_file():
            return None
        if suffix == ".parquet":
            from pyarrow import parquet

            n_rows += parquet.read_metadata(path).num_rows
        elif suffix == ".jsonl":
            with path.open("rb") as lines:
                n_rows += sum(not line.isspace() for line in lines)
        else:
            with path.open(encoding="utf-8-sig", newline="") as lines:
                n_rows += sum(any(row) for row in csv.reader(lines)) - 1  # the first row names the columns
    return n_rows


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
    try:
        with hub.hub_errors(f"the data set {name}"):
            try:
                yield
            except Exception as error:
                from datasets.exceptions import DatasetGenerationError

                is_wrapped = isinstance(error, DatasetGenerationError) and error.__cause__ is not None
                raise (error.__cause__ if is_wrapped else error) from None
    except InputError:
        raise
    except Exception as error:
        from datasets.exceptions import DatasetsError
        from pyarrow import ArrowException

        if not isinstance(error, (DatasetsError, ArrowException, ValueError, OSError, NotImplementedError)):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if is_full_disk(error):
            reason = "the disk of the Hugging Face cache is full: free some space, set HF_HOME, or use streaming"
        raise InputError(f"{name} cannot be read as a data set: {reason}") from error


# Rows: read, decoded and packed.
