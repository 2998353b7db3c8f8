"""Metadata files of a folder of images: the labels and parts that a `metadata.csv`, `.jsonl` or `.parquet` gives."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hf_scaling.data.labels import LABEL_COLUMNS, WHOLE_NUMBER, check_numbers, label_name, read_label
from hf_scaling.data.scan import PARTS, FolderScan, ImageGroup
from hf_scaling.errors import InputError
from hf_scaling.text import did_you_mean

if TYPE_CHECKING:
    import pandas as pd

#: Columns of a metadata file or a list that can say which part an image is of.
PART_COLUMNS = ("split", "set", "part", "partition", "subset", "phase", "fold")


def metadata_labels(
    walk: FolderScan, by_class: Mapping[str, Mapping[str, ImageGroup]], label_column: str | None
) -> tuple[dict[str, str] | None, dict[str, str]]:
    """Read the metadata files of a folder.

    Args:
        walk: The folder's files; a metadata file without a label column is counted as unused.
        by_class: Part to class to files, by the folders.
        label_column: The label column; None finds one of `LABEL_COLUMNS`.

    Returns:
        Path to label, None where no file has a label column; and path to part, where a column gives parts.

    Raises:
        InputError: A file cannot be read or lacks a column, or a row names no image, one named before, or no label.
    """
    if not walk.metadata:
        if label_column is not None:
            raise InputError(f"label_column: {walk.root} has no metadata file with a column {label_column}")
        return None, {}
    labels: dict[str, str] = {}
    part_of: dict[str, str] = {}
    present = {path for classes in by_class.values() for files in classes.values() for path in files.paths}
    for folder, name in sorted(walk.metadata.items()):
        where = walk.root / folder / name
        frame = _read_metadata(where)
        columns = list(frame.columns)
        if label_column is not None and label_column not in columns:
            raise InputError(
                f"label_column: {where} has no column {label_column}{did_you_mean(label_column, columns)}"
            )
        column = label_column or next((name for name in LABEL_COLUMNS if name in columns), None)
        if column is None:
            walk.unused[f"({name} without a label column)"] += 1
            continue
        parts = part_column(frame)
        for row, (file_name, label) in enumerate(zip(frame["file_name"], frame[column]), start=1):
            path = os.path.normpath(f"{folder}/{file_name}" if folder else str(file_name)).replace(os.sep, "/")
            if path not in present:
                raise InputError(f"{where}: row {row}: there is no image {file_name}")
            if path in labels:
                raise InputError(f"{where}: row {row}: {file_name} is listed twice")
            labels[path] = read_label(label, f"{where}: row {row}: {column}")
            if parts is not None:
                part_of[path] = parts[row - 1]
        if where.suffix == ".csv":
            own = {path: label for path, label in labels.items() if path.startswith(f"{folder}/" if folder else "")}
            # A column of whole numbers that was written as 1.0, 2.0: a CSV file has no types.
            if all(WHOLE_NUMBER.fullmatch(label) for label in own.values()) and any("." in x for x in own.values()):
                labels |= {path: label_name(float(label)) for path, label in own.items()}
    check_numbers(labels.values(), f"{walk.root}: its metadata")
    return labels or None, part_of


def part_column(frame: "pd.DataFrame") -> list[str] | None:
    """The part of each row by a column such as `split`; None where no such column holds names of parts alone.

    Args:
        frame: The table; the values count in any case, without the spaces around them.
    """
    for name in frame.columns:
        if str(name).strip().lower() in PART_COLUMNS:
            parts = [PARTS.get(str(value).strip().lower()) for value in frame[name]]
            if None not in parts and "train" in parts and len(set(parts)) > 1:
                return [part for part in parts if part]
    return None


def _read_metadata(where: Path) -> "pd.DataFrame":
    import pandas as pd

    readers = {
        # As text, so that "01" stays and a class may be called NA.
        ".csv": lambda path: pd.read_csv(path, dtype=str, keep_default_na=False, na_values=[""]),
        ".jsonl": lambda path: pd.DataFrame(
            [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()], dtype=object
        ),
        ".parquet": pd.read_parquet,
    }
    try:
        frame = readers[where.suffix](where)
    except (ValueError, OSError) as error:
        raise InputError(f"{where}: cannot be read: {str(error).splitlines()[0]}") from error
    if "file_name" not in frame.columns:
        raise InputError(f"{where}: has no column file_name{did_you_mean('file_name', map(str, frame.columns))}")
    return frame


def group_by_metadata(
    walk: FolderScan,
    by_class: Mapping[str, Mapping[str, ImageGroup]],
    labels: Mapping[str, str],
    part_of: Mapping[str, str],
) -> dict[str, dict[str, ImageGroup]]:
    """Group the images of a folder by its metadata; images without a row are counted as unused.

    Args:
        walk: The folder's files.
        by_class: Part to class to files, by the folders.
        labels: Path to label.
        part_of: Path to part by a column of the metadata; used where the folders give no parts.

    Returns:
        Part to label to files.

    Raises:
        InputError: A part has images, and none of them a row.
    """
    grouped: dict[str, dict[str, ImageGroup]] = {}
    n_without = 0
    for part, classes in by_class.items():
        n_with = 0
        for files in classes.values():
            for number, path in enumerate(files.paths):
                if path in labels:
                    n_with += 1
                    own = part_of.get(path, part) if len(by_class) == 1 else part
                    group = grouped.setdefault(own, {}).setdefault(labels[path], ImageGroup())
                    group.paths.append(path)
                    group.stamps += files.stamps[3 * number : 3 * number + 3]
                else:
                    n_without += 1
        if not n_with:
            raise InputError(
                f"{walk.root}: no row of its metadata names an image of its {part} part: add a metadata.csv to that "
                "folder, or move it out"
            )
    if n_without:
        walk.unused["(images without a row of metadata)"] += n_without
    return {part: grouped[part] for part in ("train", "validation", "test") if part in grouped}
