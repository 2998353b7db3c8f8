"""Columns and classes of a data set: which columns hold images and labels, and every file's labels by name."""

import bisect
import itertools
import json
import numbers
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.text import did_you_mean, listing

#: Columns of a metadata file that can hold the labels, the first that is there.
LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label")
#: A label that is a whole number.
WHOLE_NUMBER = re.compile(r"[-+]?\d+(\.0*)?")
_PARALLEL_FOOTERS = 16  # read over a network, so most of the time is waiting


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
    named = [name for name in LABEL_COLUMNS if name in features]
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


# The label column of each file.


def read_label(value: object, where: str) -> str:
    """The name of the class that a cell holds: a string without the spaces around it, or a whole number.

    Args:
        value: The cell.
        where: File, row and column, for the message.

    Raises:
        InputError: It is empty, a truth value, a fraction, a list or anything else.
    """
    if value is None or value != value or (isinstance(value, str) and not value.strip()):
        raise InputError(f"{where} is empty")
    if isinstance(value, str):
        return value.strip()
    is_number = isinstance(value, numbers.Real) and not isinstance(value, (bool, np.bool_))
    if not is_number or value != int(value):
        raise InputError(f"{where} holds {value!r}: a label is a name or a whole number")
    return label_name(value)


def label_name(value: object) -> str:
    """The name of a label that is a number or a string: 1, 1.0 and "1" have one name."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value)


def check_numbers(names: Iterable[str], where: str) -> None:
    """Check that no two classes are one number written in two ways, such as "1" and "1.0".

    Args:
        names: Of the classes.
        where: The column, for the message.

    Raises:
        InputError: Two classes are.
    """
    numbers: dict[float, str] = {}
    for name in sorted(set(names)):
        if WHOLE_NUMBER.fullmatch(name) and numbers.setdefault(float(name), name) != name:
            raise InputError(
                f"{where}: labels {numbers[float(name)]!r} and {name!r} are one number written in two ways: write one"
            )


@dataclass(frozen=True)
class LabelColumn:
    """The label column as one file stores it, by the file's own header.

    Attributes:
        path: The file.
        n_rows: Number of rows; None where the header does not say.
        kind: "names" (a ClassLabel: numbers that index `names`), "string", "number", "bool", or another Arrow type.
        names: The names of a ClassLabel in the file's own order, else empty.
    """

    path: str
    n_rows: int | None
    kind: str
    names: tuple[str, ...] = ()


def read_label_columns(paths: Sequence[str], column: str) -> list[LabelColumn]:
    """Read the headers of Parquet and Arrow files, here or on the Hub.

    Args:
        paths: The files, as `datasets` lists them.
        column: The label column.

    Raises:
        InputError: A file does not have the column.
    """
    with ThreadPoolExecutor(_PARALLEL_FOOTERS) as pool:
        return list(pool.map(lambda path: _read_label_column(path, column), paths))


def _read_label_column(path: str, column: str) -> LabelColumn:
    import pyarrow as pa
    from datasets.utils.file_utils import xopen
    from pyarrow import parquet

    with xopen(path, "rb") as file:
        if path.lower().endswith(".parquet"):
            metadata = parquet.read_metadata(file)
            schema, n_rows = metadata.schema.to_arrow_schema(), metadata.num_rows
        else:
            try:
                schema, n_rows = pa.ipc.open_stream(file).schema, None
            except pa.ArrowInvalid:  # the other of Arrow's two file formats
                file.seek(0)
                schema, n_rows = pa.ipc.open_file(file).schema, None
    if column not in schema.names:
        raise InputError(f"{path}: has no column {column}{did_you_mean(column, schema.names)}")
    features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    feature, kind = features.get(column) or {}, schema.field(column).type
    if feature.get("_type") == "ClassLabel":
        names = feature.get("names") or [str(number) for number in range(feature.get("num_classes") or 0)]
        return LabelColumn(path, n_rows, "names", tuple(names))
    kinds = {
        "string": pa.types.is_string(kind) or pa.types.is_large_string(kind),
        "number": pa.types.is_integer(kind) or pa.types.is_floating(kind),
        "bool": pa.types.is_boolean(kind),
    }
    return LabelColumn(path, n_rows, next((name for name, holds in kinds.items() if holds), str(kind)))


def check_label_columns(files: Sequence[LabelColumn], column: str) -> None:
    """Check that all files of a source have labels that can be compared by name with those of the first.

    Raises:
        InputError: The names of two files differ, or one has numbers without names where another has names.
    """
    first = files[0]
    for file in files[1:]:
        if first.kind == "names" and file.kind == "names":
            others = [name for name in file.names if name not in set(first.names)]
        elif first.kind == "names" and file.kind == "string":
            # `datasets` would take strings that are not names, such as "1", for positions.
            others = sorted(_distinct(file.path, column) - set(first.names))
        elif first.kind == "string" and file.kind in ("names", "number"):
            continue
        elif "names" in (first.kind, file.kind) and "number" in (first.kind, file.kind):
            names = first.names or file.names
            others = [name for name in names if not WHOLE_NUMBER.fullmatch(name)]
            if others:
                raise InputError(
                    f"{file.path}: column {column} holds {_kind_text(file)}, that of {first.path} "
                    f"{_kind_text(first)}: write the names in both"
                )
        elif first.kind == "number" and file.kind == "string":
            others = [value for value in sorted(_distinct(file.path, column)) if not WHOLE_NUMBER.fullmatch(value)]
        elif first.kind != file.kind:
            raise InputError(
                f"{file.path}: column {column} holds {file.kind} values, that of {first.path} {first.kind} values: "
                "write one kind in both"
            )
        else:
            continue
        if others:
            raise InputError(
                f"{file.path}: column {column} has other classes than that of {first.path}: {listing(others[:3])}"
                f"{did_you_mean(others[0], first.names)}"
            )


def _kind_text(file: LabelColumn) -> str:
    return f"classes with names ({listing(file.names[:3])}, ...)" if file.names else f"{file.kind}s without names"


def _distinct(path: str, column: str) -> set[str]:
    """The different values of a Parquet file's column, as text."""
    from datasets.utils.file_utils import xopen
    from pyarrow import parquet

    with xopen(path, "rb") as file:
        values = parquet.read_table(file, columns=[column])[column].unique().to_pylist()
    return {label_name(value) for value in values if value is not None}


def name_classes(labels: Sequence[str | None], column: str, are_numbers: bool) -> list[str]:
    """Class names of labels that are plain numbers or strings: the distinct ones, in ascending order.

    Args:
        labels: Names of the labels of the training part; None for a missing one.
        column: The column, for messages.
        are_numbers: Whether to sort them as numbers.

    Raises:
        InputError: A label is missing, two names differ only in how a number is written, or there are more distinct
            labels than one per two images.
    """
    if None in labels:
        raise InputError(f"{column}: row {labels.index(None)} has no label")
    distinct = sorted(set(labels), key=float) if are_numbers else sorted(set(labels))
    if 2 * len(distinct) > len(labels):
        raise InputError(f"{column}: {len(distinct):,} different labels on {len(labels):,} images cannot be classes")
    check_numbers(distinct, column)
    return distinct


class LabelIds:
    """Maps a column's labels to class ids by their names, and those to positions among the selected classes.

    Args:
        class_names: All class names, in label order.
        class_ids: The selected classes.
        where: The part, for messages.
        names: What the labels are: the names that numbers index, or None where the labels are names themselves.
        files: The files of the part in the order of its rows, where each may have names of its own.

    Attributes:
        share: Share of the classes that are selected.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        class_ids: Iterable[int],
        where: str,
        names: Sequence[str] | None = None,
        files: Sequence[LabelColumn] = (),
    ):
        self._where = where
        self._names = FileNames(names, files)
        self._ids = {name: number for number, name in enumerate(class_names)}
        self._positions = {number: position for position, number in enumerate(class_ids)}
        self.share = len(self._positions) / len(class_names)

    def position(self, label: int | float | str | None, row: int) -> int | None:
        """Position of a label among the selected classes; None where its class is not selected.

        Raises:
            InputError: The label is missing, or the training part does not have it.
        """
        number = self._ids.get(self._names.name(label, row))
        if number is None:
            problem = f"has label {label!r}, which the training part does not have"
            if label is None or label == -1:
                problem = "has no label"
            raise InputError(f"{self._where}: row {row} {problem}")
        return self._positions.get(number)


def count_images(files: Sequence[LabelColumn], column: str, labels: LabelIds) -> int | None:
    """Number of the rows of a part whose class is selected: by headers, or by the label column of some classes.

    Args:
        files: The files of the part.
        column: The label column.
        labels: Selects the classes.

    Returns:
        None where the headers do not say, or where labels would have to be read over a network or converted first.

    Raises:
        InputError: A label is missing, or the training part does not have it.
    """
    if not files or any(file.n_rows is None for file in files):
        return None
    if labels.share == 1:
        return sum(file.n_rows for file in files)
    are_alike = all((file.kind, file.names) == (files[0].kind, files[0].names) for file in files)
    if not are_alike or not all(
        file.path.lower().endswith(".parquet") and os.path.exists(file.path) for file in files
    ):
        return None
    from pyarrow import parquet

    n_images = 0
    for file in files:
        values = parquet.read_table(file.path, columns=[column])[column].value_counts().to_pylist()
        n_images += sum(one["counts"] for one in values if labels.position(one["values"], 0) is not None)
    return n_images


class FileNames:
    """The names of a part's labels, where files may store them in different ways.

    Args:
        names: The names that numbers index, unless a file has its own; None where labels are names themselves.
        files: The files in the order of the rows; empty where all are alike.
    """

    def __init__(self, names: Sequence[str] | None, files: Sequence[LabelColumn] = ()):
        # `datasets` reads all files as the first one is typed: strings become positions among its names, and the
        # positions of a file with names become strings where the first holds strings.
        self._names = [
            file.names if file.kind == "names" else None if file.kind == "number" else names for file in files
        ] or [names]
        self._strips = [file.kind == "number" for file in files] or [False]
        self._are_alike = all(
            (own, strips) == (self._names[0], self._strips[0]) for own, strips in zip(self._names, self._strips)
        )
        if not self._are_alike and any(file.n_rows is None for file in files):
            raise InputError(
                f"{files[0].path}: the files beside it store their classes in another way, and their numbers of rows "
                "are not known: convert the files to Parquet"
            )
        self._ends = [] if self._are_alike else list(itertools.accumulate(file.n_rows for file in files))

    def name(self, label: int | float | str | bool | None, row: int) -> str | None:
        """The name of the label of a row; None where it is missing."""
        if label is None:
            return None
        file = 0 if self._are_alike else bisect.bisect_right(self._ends, row)
        names = self._names[file]
        if names is None:
            name = label_name(label)
            return name.removesuffix(".0") if self._strips[file] else name
        position = int(label)
        return names[position] if 0 <= position < len(names) else None
