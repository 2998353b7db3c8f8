"""Images listed in CSV files: `train.csv` and `test.csv`, or one `labels.csv`, with columns of files and of labels.

Lists are read where the folders of the images give no classes. A file is written as its path below the folder of the
list, or as its name alone, with or without the suffix, where only one image has that name. A column such as `split`
divides one list into parts.
"""

import csv
import io
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hf_scaling.data.folders import ImageFolder, assemble, read_image_folder
from hf_scaling.data.labels import LABEL_COLUMNS, check_numbers, read_label
from hf_scaling.data.metadata import part_column
from hf_scaling.data.scan import PARTS, FolderScan, ImageGroup
from hf_scaling.errors import InputError
from hf_scaling.files import decode_text
from hf_scaling.text import listing

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = (".csv", ".tsv", ".parquet")


@dataclass(frozen=True)
class _List:
    """A file that names images of the folder.

    Attributes:
        path: The file.
        files, labels: The cells of each row.
        parts: The part of each row by a column such as `split`; None where there is none.
    """

    path: Path
    files: Sequence[str]
    labels: Sequence[object]
    parts: Sequence[str] | None


def read_images(scan: FolderScan, label_column: str | None = None) -> ImageFolder:
    """Read a folder of images by its folders or metadata, else by the lists beside the images.

    Args:
        scan: The folder's files.
        label_column: The label column of its metadata files or lists; None finds it.

    Raises:
        InputError: As `read_image_folder` does, where no list names images of the folder; a list without a label
            column, with an empty label, with a file that does not exist or is listed twice, or two lists of one part;
            a list whose labels are not those of the folders.
    """
    unused = Counter(scan.unused)
    try:
        folder = read_image_folder(scan, label_column)
    except InputError:
        scan.unused = unused
        lists = _find_lists(scan, label_column)
        if not lists:
            raise
        return _read_lists(scan, lists)
    if scan.metadata or not any(scan.unused[suffix] for suffix in _SUFFIXES):
        return folder
    return replace(folder, remarks=(*folder.remarks, *_compare_with_lists(scan, folder)))


def _find_lists(scan: FolderScan, label_column: str | None, unread: list[str] | None = None) -> dict[str, _List]:
    """Part to its list; {} where no file names images of the folder and has labels.

    Args:
        scan: The folder's files.
        label_column: The label column; None finds it.
        unread: Filled with a line for each list without a label column; None where nothing else gives the classes, so
            that such a list is refused.
    """
    found: dict[str, _List] = {}
    names = _names(scan)
    for path in sorted(path for path in scan.root.iterdir() if path.suffix.lower() in _SUFFIXES):
        if path.name == scan.metadata.get(""):
            continue
        frame = _read_frame(path)
        if frame is None:
            continue
        by_name = {name.strip().lower(): name for name in reversed(list(frame.columns))}
        label = label_column or next((by_name[name] for name in LABEL_COLUMNS if name in by_name), None)
        # A few files may be missing, which is then said by row.
        found_in = {
            name: sum(file in names for file in _cleaned(frame[name][:100])) for name in frame if name != label
        }
        files = max(found_in, key=found_in.__getitem__, default=None)
        if files is None or not found_in[files]:
            continue
        if label not in frame.columns:
            others = [name for name in frame if name != files]
            if unread is not None:
                if others:
                    advice = f"to read its labels give label_column, one of {listing(others)}"
                    unread.append(f"{path}: names images and is not read: the folders are the classes; {advice}")
                continue
            if set(_cleaned(frame.columns)) & names.keys():
                raise InputError(f"{path}: its first line names an image: put the names of the columns above it")
            has_no = f"{path}: names images and has no column {label or listing(LABEL_COLUMNS[:4])}"
            if len(others) > 1 and _is_one_hot(frame[others]):
                raise InputError(
                    f"{has_no} but one for each class ({listing(others)}): write the classes as one column"
                )
            raise InputError(f"{has_no}: give label_column, one of {listing(others)}")
        part = PARTS.get(path.stem.lower(), "train")
        if part in found:
            raise InputError(
                f"{scan.root}: {found[part].path.name} and {path.name} both list its {part} part: keep one"
            )
        found[part] = _List(path, _cleaned(frame[files]), list(frame[label]), part_column(frame))
    return found if "train" in found else {}


def _read_frame(path: Path) -> "pd.DataFrame | None":
    """A list as text; None for a file that is no table of strings."""
    import pandas as pd

    try:
        if path.suffix.lower() == ".parquet":
            frame = pd.read_parquet(path)
        else:
            text = decode_text(path.read_bytes())
            frame = pd.read_csv(io.StringIO(text), sep=None, engine="python", dtype=str, keep_default_na=False)
    except (ValueError, OSError, csv.Error):
        return None
    if frame.columns.has_duplicates:
        return None
    return frame.rename(columns=str).rename(columns=str.strip)


def _is_one_hot(frame: "pd.DataFrame") -> bool:
    """Whether every row holds a single 1 and else zeros."""
    try:
        values = frame.astype(float).to_numpy()
    except (TypeError, ValueError):
        return False
    return bool(((values == 0) | (values == 1)).all() and (values.sum(axis=1) == 1).all())


def _cleaned(files: Iterable[object]) -> list[str]:
    return [str(file).strip().replace("\\", "/").removeprefix("./") for file in files]


def _names(scan: FolderScan) -> dict[str, str]:
    """How a list may write an image, to its path: the path, or a name, with the suffix or not, that no other has."""
    paths = [path for seconds in scan.images.values() for group in seconds.values() for path in group.paths]
    short = {path: {PurePosixPath(path).name, PurePosixPath(path).stem} for path in paths}
    counts = Counter(name for names in short.values() for name in names)
    unique = {name: path for path, names in short.items() for name in names if counts[name] == 1}
    return unique | {path: path for path in paths}


def _compare_with_lists(scan: FolderScan, folder: ImageFolder) -> list[str]:
    """Refuse a list whose labels are not those of the folders, up to other names for the same classes.

    Returns:
        A line for each list that is not read.

    Raises:
        InputError: One class of the folders has two labels, or one label is in two classes.
    """
    unread: list[str] = []
    class_of = {
        path: folder.class_names[label]
        for files in folder.parts.values()
        for path, label in zip(files.paths, files.labels.tolist())
    }
    names = _names(scan)
    for listed in _find_lists(scan, None, unread).values():
        seen: dict[tuple[str, str], str] = {}
        for file, label in zip(listed.files, map(str, listed.labels)):
            own = class_of.get(names.get(file, ""))
            if own is None:
                continue
            for kind, key, value in (("class", own, label), ("label", label, own)):
                other = seen.setdefault((kind, key), value)
                if other != value:
                    raise InputError(
                        f"{listed.path}: {file} has the label {label} and is in the folder {own}, and {kind} {key} "
                        f"has also {other}: give label_column to read the list, or move it out to read the folders"
                    )
    return unread


def _read_lists(scan: FolderScan, lists: Mapping[str, _List]) -> ImageFolder:
    names = _names(scan)
    stamps = {
        path: group.stamps[3 * number : 3 * number + 3]
        for seconds in scan.images.values()
        for group in seconds.values()
        for number, path in enumerate(group.paths)
    }
    by_class: dict[str, dict[str, ImageGroup]] = {}
    remarks = [f"{scan.root}: labels are read from {listing(sorted(listed.path.name for listed in lists.values()))}"]
    for part, listed in lists.items():
        # A list of a part of its own has the name of that part.
        own_parts = listed.parts if len(lists) == 1 else None
        # Of all lists: an image of two parts would be trained on and evaluated.
        for row, (file, label) in enumerate(zip(listed.files, listed.labels), start=1):
            path = names.get(file)
            if path is None:
                raise InputError(f"{listed.path}: row {row}: there is no image {file}, or more than one")
            name = read_label(label, f"{listed.path}: row {row}: the label")
            if path not in stamps:
                raise InputError(f"{listed.path}: row {row}: {file} is listed twice")
            groups = by_class.setdefault(own_parts[row - 1] if own_parts else part, {})
            group = groups.setdefault(name, ImageGroup())
            group.paths.append(path)
            group.stamps += stamps.pop(path)
        for groups in by_class.values():
            check_numbers(groups, str(listed.path))
        scan.unused -= Counter({listed.path.suffix.lower(): 1})
    if stamps:
        scan.unused["(images that no list names)"] += len(stamps)
    ordered = {part: by_class[part] for part in ("train", "validation", "test") if part in by_class}
    return assemble(scan, ordered, remarks)
