"""A folder of images, walked once: which files are images, their part and class, and what is not used.

The rule:

- A class is the first folder below the root, or below the part; deeper folders belong to it.
- Top folders are parts (train, validation, test) when all top folders that hold images have such names, in any case.
  One such name beside other folders is a class; two or more beside other folders are refused.
- Top folders that only look like parts (`training_set`, `test_images`), and classes that each hold the parts
  (`cat/train`, `cat/test`), are refused.
- A single folder that wraps everything is entered.
- A `metadata.csv`, `.jsonl` or `.parquet` with a column `file_name` and a label column gives the labels instead.
- Links are followed. Hidden files and folders do not count. Every other file that is not used is counted by suffix.
"""

import contextlib
import hashlib
import json
import numbers
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from PIL import Image
from tqdm import tqdm

from hf_scaling.errors import InputError
from hf_scaling.files import replacing, write_text
from hf_scaling.text import did_you_mean, listing

if TYPE_CHECKING:
    import pandas as pd

#: The names of top folders that are parts, in lower case.
PARTS = {
    **dict.fromkeys(("train", "training", "trainset"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "testset", "eval"), "test"),
}
# A word of a folder's name that makes it look like a part: training_set, TestImages, seg_train, validation2.
_PART_WORD = re.compile(
    r"(?P<part>train|training|val|valid|validation|dev|test|testing|eval|evaluation)"
    r"(set|split|data|images?|imgs?|folder|dir)?\d*"
)
#: Columns of a metadata file or a list that can say which part an image is of.
PART_COLUMNS = ("split", "set", "part", "partition", "subset", "phase", "fold")
#: Columns of a metadata file that can hold the labels, the first that is there.
LABEL_COLUMNS = ("label", "labels", "class", "target", "fine_label")
#: A label that is a whole number.
WHOLE_NUMBER = re.compile(r"[-+]?\d+(\.0*)?")
_METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
_DATA = (".parquet", ".arrow")
_HIDDEN = {"__MACOSX", "Thumbs.db", "desktop.ini"}
_ARCHIVES = {".zip", ".tar", ".gz", ".tgz", ".bz2", ".tbz2", ".xz", ".txz", ".zst", ".7z", ".rar"}
# Formats that Pillow identifies without being able to decode them.
_NOT_DECODED = {"BUFR", "GRIB", "HDF5", "MPEG", "WMF", "EPS", "PDF"}
_HINTS = {
    ".heic": "pip install pillow-heif",
    ".heif": "pip install pillow-heif",
    ".jxl": "pip install pillow-jxl-plugin",
    **dict.fromkeys((".svg", ".eps", ".cr2", ".nef", ".arw", ".dng", ".dcm"), "convert to PNG or JPEG"),
    **dict.fromkeys(_ARCHIVES, "unpack it"),
}


@dataclass(frozen=True)
class ImageFiles:
    """The image files of one part, sorted by class name, then by path below the class.

    Attributes:
        paths: Relative to the folder's root, with "/" between names.
        labels: Class ids, int64 array (n,).
        stamps: Size in bytes, times of modification and of change in ns: int64 array (n, 3).
    """

    paths: tuple[str, ...]
    labels: np.ndarray
    stamps: np.ndarray


@dataclass(frozen=True)
class ImageFolder:
    """A folder of labelled images.

    Attributes:
        root: The folder that was read; a wrapping folder has been entered.
        class_names: Of the training part, sorted.
        parts: "train", and where they exist "validation" and "test".
        remarks: What a user should know, a line each: files not used, a wrapping folder, empty class folders.
    """

    root: Path
    class_names: tuple[str, ...]
    parts: Mapping[str, ImageFiles]
    remarks: tuple[str, ...]

    def evaluation_part(self) -> str | None:
        """The part that evaluation reads: test, else validation; None where there is neither."""
        return next((part for part in ("test", "validation") if part in self.parts), None)


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes, in lower case, of the formats that the installed Pillow decodes; HEIC with pillow-heif."""
    with contextlib.suppress(ImportError):
        import pillow_heif

        pillow_heif.register_heif_opener()
    return frozenset(
        suffix.lower()
        for suffix, kind in Image.registered_extensions().items()
        # MPO files are opened as JPEG files, whose opener Pillow registers for both.
        if (kind in Image.OPEN or kind == "MPO") and kind not in _NOT_DECODED
    )


def read_image_folder(path: "Path | FolderScan", label_column: str | None = None) -> ImageFolder:
    """Find the parts, the classes and the images of a folder.

    Args:
        path: The folder, or a scan of it.
        label_column: The label column of its metadata files; None finds one of `LABEL_COLUMNS`, and falls back to
            class folders.

    Raises:
        InputError: No images, one class alone, images without a class, a class that is only evaluated on, part names
            beside other folders, a cycle of links, or a metadata file that does not fit its images.
    """
    walk, remarks = path if isinstance(path, FolderScan) else FolderScan(path), []
    while (inner := walk.wrapping_folder()) is not None:
        remarks.append(f"{walk.root}: its only folder {inner.name} was entered")
        walk = FolderScan(inner, walk.beside)
    n_images = {top: sum(map(len, walk.images[top].values())) for top in walk.images}
    if not any(n_images.values()):
        raise InputError(f"{walk.root}: no images{describe_unused(walk.unused, ': ')}")
    tops = [top for top, n in n_images.items() if top and n]
    parts = {top: PARTS[top.lower()] for top in tops if top.lower() in PARTS}
    others = [top for top in tops if top not in parts]
    if len(parts) > 1 and others:
        raise InputError(
            f"{walk.root}: the folders {listing(parts)} look like parts and {listing(others)} like classes: "
            "move the classes into the parts, or the parts out"
        )
    top_classes = {top: _joined(seconds.values()) for top, seconds in walk.images.items()}
    by_class = _parts_by_class(walk, parts) if parts and not others else {"train": top_classes}
    labels, part_of = _metadata_labels(walk, by_class, label_column)
    if labels is not None:
        by_class = _by_metadata(walk, by_class, labels, part_of)
    elif "train" in by_class and not (parts and not others):
        _check_parts_in_disguise(walk, tops)
        seconds = [{name for name, files in walk.images[top].items() if files} for top in tops]
        if len(tops) > 1 and len(seconds[0]) > 1 and "" not in seconds[0] and all(x == seconds[0] for x in seconds):
            remarks.append(
                f"{walk.root}: the classes are {listing(tops)}, which hold the same folders "
                f"({listing(sorted(seconds[0]))}): if those are the classes, they belong at the top"
            )
    empty = sorted(top for top, n in n_images.items() if top and not n)
    if empty:
        remarks.append(f"{walk.root}: folders without images: {listing(empty)}")
    return assemble(walk, by_class, remarks)


def part_by_name(name: str) -> str | None:
    """The part that a folder's name looks like, in any case: "train" for Training_set; None for none or several."""
    words = (_PART_WORD.fullmatch(word.lower()) for word in re.findall("[A-Z]?[a-z]+[0-9]*|[A-Z]+[0-9]*", name))
    found = {PARTS.get(word["part"], "test") for word in words if word}
    return found.pop() if len(found) == 1 else None


def _check_parts_in_disguise(walk: "FolderScan", tops: Sequence[str]) -> None:
    """Refuse classes that look like parts, and classes that each hold parts: their images would be mixed.

    Raises:
        InputError: All top folders look like parts, or some do and hold folders; or each holds a training part and
            another, and nothing else.
    """
    named = {top: part for top in tops if (part := part_by_name(top))}
    hold_folders = any(files for top in named for second, files in walk.images[top].items() if second)
    if "train" in named.values() and len(set(named.values())) > 1 and (len(named) == len(tops) or hold_folders):
        raise InputError(
            f"{walk.root}: the folders {listing(named)} look like parts: rename "
            f"{listing(f'{top} to {part}' for top, part in named.items())} if they are, else give the classes in a "
            "metadata.csv with columns file_name and label"
        )
    inner = [{PARTS.get(name.lower()) for name, files in walk.images[top].items() if files} for top in tops]
    if len(tops) > 1 and all("train" in parts and len(parts) > 1 and None not in parts for parts in inner):
        raise InputError(
            f"{walk.root}: {listing(tops)} each hold parts ({listing(sorted(walk.images[tops[0]].keys() - {''}))}): "
            "put the parts at the top and the classes below, train/CLASS and test/CLASS"
        )


@dataclass
class ImageGroup:
    """Some images of one part and class.

    Flat lists: 100,000 tuples would keep Python's garbage collector longer than the walk takes.

    Attributes:
        paths: Relative to the root.
        stamps: Three numbers an image: size in bytes, times of modification and of change in ns.
    """

    paths: list[str] = field(default_factory=list)
    stamps: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)


@dataclass
class FolderScan:
    """Every file below a folder, in one pass.

    Attributes:
        root: The folder.
        unused: Suffix (or a reason in brackets) to the number of files that are not images.
        images: Top folder to second folder to images; "" stands for the files beside the folders.
        metadata: Folder (relative, "" for the root) to its metadata file.
        data_files: Parquet and Arrow files that are not metadata, relative to the root; `unused` counts them too.
        beside: The part of `unused` that lies in the root itself.
    """

    root: Path
    unused: Counter = field(default_factory=Counter)
    images: dict[str, dict[str, ImageGroup]] = field(default_factory=dict)
    metadata: dict[str, str] = field(default_factory=dict)
    data_files: list[str] = field(default_factory=list)
    beside: Counter = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._suffixes = image_suffixes()
        self.images[""] = {"": ImageGroup()}
        folders = self._read(str(self.root), "", self.images[""][""], ())
        self.beside = Counter(self.unused)
        for top, path, above in folders:
            seconds = self.images[top] = {"": ImageGroup()}
            for second, inner, here in self._read(path, f"{top}/", seconds[""], above):
                seconds[second] = ImageGroup()
                self._read_all(inner, f"{top}/{second}/", seconds[second], here)

    @property
    def n_images(self) -> int:
        """Number of image files."""
        return sum(len(files) for seconds in self.images.values() for files in seconds.values())

    def unused_beside_data(self) -> str:
        """How many files beside Parquet and Arrow files are not read, images among them, by suffix; "" for none."""
        paths = (path for seconds in self.images.values() for files in seconds.values() for path in files.paths)
        unused = Counter(os.path.splitext(path)[1].lower() for path in paths)
        unused += Counter({kind: n for kind, n in self.unused.items() if kind not in (*_DATA, ".md", ".json")})
        return describe_unused(unused)

    def wrapping_folder(self) -> Path | None:
        """The only top folder, if it holds everything and is not a part; None otherwise."""
        tops = [top for top in self.images if top]
        if len(tops) != 1 or self.images[""][""] or "" in self.metadata or tops[0].lower() in PARTS:
            return None
        has_folders = any(files for second, files in self.images[tops[0]].items() if second)
        return self.root / tops[0] if has_folders or tops[0] in self.metadata else None

    def _read_all(self, path: str, prefix: str, images: ImageGroup, above: tuple[str, ...]) -> None:
        for name, inner, here in self._read(path, prefix, images, above):
            self._read_all(inner, f"{prefix}{name}/", images, here)

    def _read(
        self, path: str, prefix: str, images: ImageGroup, above: tuple[str, ...]
    ) -> list[tuple[str, str, tuple[str, ...]]]:
        """Record a folder's files; return name, path and the real folders above of each folder in it."""
        folders, suffixes, paths, stamps = [], self._suffixes, images.paths, images.stamps
        try:
            handle = os.open(path, os.O_RDONLY)
            try:
                # By the folder's handle, which saves the system from resolving the path of every file.
                with os.scandir(handle) as entries:
                    for entry in entries:
                        name = entry.name
                        if name[0] == ".":
                            continue
                        suffix = name[name.rfind(".") :]
                        if (suffix in suffixes or suffix.lower() in suffixes) and not entry.is_dir():
                            try:
                                status = entry.stat()
                            except FileNotFoundError:
                                self.unused["(broken links)"] += 1
                                continue
                            paths.append(prefix + name)
                            stamps += status.st_size, status.st_mtime_ns, status.st_ctime_ns
                        elif name in _HIDDEN:
                            continue
                        elif entry.is_dir():
                            inner = f"{path}/{name}"
                            folders.append((name, inner, self._above(inner, above) if entry.is_symlink() else above))
                        elif name in _METADATA and prefix.count("/") < 2:
                            self.metadata[prefix.rstrip("/")] = name
                        else:
                            suffix = os.path.splitext(name)[1].lower()
                            self.unused[suffix or "(without a suffix)"] += 1
                            if suffix in _DATA:
                                self.data_files.append(prefix + name)
            finally:
                os.close(handle)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        return folders

    def _above(self, path: str, above: tuple[str, ...]) -> tuple[str, ...]:
        """The real folders on the way to `path`, a link to a folder.

        Raises:
            InputError: A link leads to a folder that contains it.
        """
        here, above = os.path.realpath(path), (*above, os.path.realpath(os.path.dirname(path)))
        if any(real == here or real.startswith(here + os.sep) for real in above):
            raise InputError(f"{path}: a link to a folder that contains it")
        return above


def _joined(parts: Iterable[ImageGroup]) -> ImageGroup:
    parts, joined = [files for files in parts if files.paths], ImageGroup()
    if len(parts) == 1:
        return parts[0]
    for files in parts:
        joined.paths += files.paths
        joined.stamps += files.stamps
    return joined


def _parts_by_class(walk: FolderScan, parts: Mapping[str, str]) -> dict[str, dict[str, ImageGroup]]:
    """Part to class name to files, where the top folders are parts."""
    tops: dict[str, str] = {}
    for top, part in parts.items():
        if part in tops:
            raise InputError(f"{walk.root}: {tops[part]} and {top} are both the {part} part: merge or rename one")
        tops[part] = top
    if "train" not in tops:
        raise InputError(f"{walk.root}: has {listing(parts)} but no training part: rename one to train")
    if walk.images[""][""]:
        walk.unused["(images beside the parts)"] += len(walk.images[""][""])
    return {part: walk.images[tops[part]] for part in ("train", "validation", "test") if part in tops}


def _metadata_labels(
    walk: FolderScan, by_class: Mapping[str, Mapping[str, ImageGroup]], label_column: str | None
) -> tuple[dict[str, str] | None, dict[str, str]]:
    """Path to label by the metadata files, None where there is none with a label column; and path to part."""
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
        column = _label_column(list(frame.columns), label_column, where)
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


def _label_column(columns: Sequence[str], requested: str | None, where: Path) -> str | None:
    if requested is None:
        return next((name for name in LABEL_COLUMNS if name in columns), None)
    if requested not in columns:
        raise InputError(f"label_column: {where} has no column {requested}{did_you_mean(requested, columns)}")
    return requested


def _by_metadata(
    walk: FolderScan,
    by_class: Mapping[str, Mapping[str, ImageGroup]],
    labels: Mapping[str, str],
    part_of: Mapping[str, str],
) -> dict[str, dict[str, ImageGroup]]:
    """Part to label to files, by the metadata; images without a row are counted as unused.

    Args:
        walk: The folder's files.
        by_class: Part to class to files, by the folders.
        labels: Path to label.
        part_of: Path to part by a column of the metadata; used where the folders give no parts.

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


def assemble(
    walk: FolderScan, by_class: Mapping[str, Mapping[str, ImageGroup]], remarks: Sequence[str]
) -> ImageFolder:
    """Class ids by name; files sorted within their classes.

    Args:
        walk: The folder's files; what is not used is remarked.
        by_class: Part to class name to images; the name "" holds images without a class.
        remarks: Lines that come first.

    Raises:
        InputError: A part without classes, one class alone, or a class that the training part does not have.
    """
    named: dict[str, dict[str, ImageGroup]] = {}
    for part, classes in by_class.items():
        loose = len(classes.get("", ()))
        by_name: dict[str, list[ImageGroup]] = {}
        for name, files in classes.items():
            if name and files:
                by_name.setdefault(unicodedata.normalize("NFC", name), []).append(files)
        named[part] = {name: _joined(groups) for name, groups in by_name.items()}
        if not named[part]:
            raise InputError(
                f"{walk.root}: the {loose:,} images of its {part} part are in no class folder: make a folder a class, "
                "or add a metadata.csv with columns file_name and label"
            )
        if loose:
            walk.unused["(images beside the class folders)"] += loose
    class_names = sorted(named["train"])
    if len(class_names) < 2:
        raise InputError(f"{walk.root}: all its images are of one class, {class_names[0]}: two or more are needed")
    parts = {}
    for part, classes in named.items():
        unknown = sorted(classes.keys() - named["train"].keys())
        if unknown:
            raise InputError(
                f"{walk.root}: class {unknown[0]} is in the {part} part and not in the training part"
                f"{did_you_mean(unknown[0], class_names)}"
            )
        present = [classes.get(name, ImageGroup()) for name in class_names]
        labels, files = np.repeat(np.arange(len(class_names)), list(map(len, present))), _joined(present)
        # Two sorts, of which the second keeps the order of paths within a class.
        order = sorted(range(len(files)), key=files.paths.__getitem__)
        order = np.array(order)[np.argsort(labels[order], kind="stable")]
        stamps = np.array(files.stamps, np.int64).reshape(-1, 3)[order]
        parts[part] = ImageFiles(tuple(map(files.paths.__getitem__, order.tolist())), labels, stamps)
    remarks = list(remarks)
    folded: dict[str, list[str]] = {}
    for name in class_names:
        folded.setdefault("".join(name.casefold().split()), []).append(name)
    for alike in folded.values():
        if len(alike) > 1:
            remarks.append(
                f"{walk.root}: the classes {listing([repr(name) for name in alike])} differ in case or spaces alone "
                "and count as several: merge them if they are one"
            )
    if walk.unused.total():
        remarks.append(f"{walk.root}: {describe_unused(walk.unused)}")
    if {"test", "validation"} <= parts.keys():
        remarks.append(
            f"{walk.root}: the {len(parts['validation'].paths):,} images of its validation part are not used: "
            "test is evaluated, and a validation part is drawn from train where a run needs one"
        )
    return ImageFolder(walk.root, tuple(class_names), parts, tuple(remarks))


def describe_unused(unused: Counter, before: str = "") -> str:
    """How many files are not read, by suffix, with what would make them readable; "" for none.

    Args:
        unused: Suffix, or a reason in brackets, to a number of files.
        before: Put before a text that is not empty.
    """
    if not unused.total():
        return ""
    kinds = (
        f"{count:,} {kind}" + (f" ({_HINTS[kind]})" if kind in _HINTS else "") for kind, count in unused.most_common()
    )
    return f"{before}{unused.total():,} files not read: {listing(kinds)}"


def hash_contents(folder: ImageFolder, memory: Path, progress: bool = False) -> str:
    """Hash the classes, and the contents of the images in their order; never a path.

    A folder whose files have the same sizes and times as before is not read; of another one only the changed
    files are.

    Args:
        folder: The folder, as `read_image_folder` returns it.
        memory: The folder of the cache that stores hashes.
        progress: Whether to show a progress bar on stderr when it takes longer than two seconds.

    Returns:
        32 hexadecimal digits.

    Raises:
        InputError: A file cannot be read.
    """
    paths = [path for files in folder.parts.values() for path in files.paths]
    stamps = np.concatenate([files.stamps for files in folder.parts.values()])
    layout = xxhash.xxh3_128("\n".join(folder.class_names).encode())
    for part, files in folder.parts.items():
        layout.update(f"\n{part} {len(files.paths)}\n".encode())
        layout.update(files.labels.tobytes())
    state = xxhash.xxh3_128(layout.digest() + stamps.tobytes() + os.fsencode("\0".join(paths))).hexdigest()
    key = hashlib.sha256(os.fsencode(folder.root.resolve())).hexdigest()[:16]
    whole, single = memory / f"{key}.txt", memory / f"{key}.npz"
    if whole.exists():
        known_state, _, known_hash = whole.read_text().partition(" ")
        if known_state == state:
            return known_hash
    known = _known_digests(single)
    digests = bytearray()
    base = os.open(folder.root, os.O_RDONLY)
    try:
        bar = tqdm(paths, "reading files' content", delay=2, disable=not progress, unit=" files", miniters=1000)
        for path, stamp in zip(bar, stamps.tolist()):
            digest = known.get((path, *stamp)) if known else None
            digests += digest or xxhash.xxh3_128_digest(_read(path, stamp[0], base))
    except OSError as error:
        raise InputError(f"{folder.root / path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(base)
    content = xxhash.xxh3_128(layout.digest() + bytes(digests)).hexdigest()
    with replacing(single) as partial, open(partial, "wb") as file:
        names = np.frombuffer(os.fsencode("\0".join(paths)), np.uint8)
        np.savez(file, names=names, stamps=stamps, digests=np.frombuffer(digests, np.uint8))
    write_text(whole, f"{state} {content}")
    return content


def _known_digests(path: Path) -> dict[tuple, bytes]:
    """Path, size and times of the files that were hashed before, to their digests of 16 bytes."""
    if not path.exists():
        return {}
    try:
        with np.load(path) as stored:
            names = os.fsdecode(stored["names"].tobytes()).split("\0")
            digests = stored["digests"].tobytes()
            stamps = stored["stamps"].tolist()
    except (OSError, ValueError, KeyError):  # a damaged file of hashes costs time, nothing else
        return {}
    return {(name, *stamps[at]): digests[16 * at : 16 * at + 16] for at, name in enumerate(names)}


def _read(path: str, size: int, base: int) -> bytes:
    """A file's bytes; three system calls where `size` is right, which is half the time of `Path.read_bytes`."""
    handle = os.open(path, os.O_RDONLY, dir_fd=base)
    try:
        content = os.read(handle, size + 1)
        while len(content) > size or (size and len(content) < size):
            more = os.read(handle, 1 << 24)
            if not more:
                break
            content += more
        return content
    finally:
        os.close(handle)


def list_files(folder: Path) -> list[str]:
    """The files below a folder, relative to it, sorted; links are followed, hidden files and folders are left out.

    Raises:
        InputError: A folder cannot be read, or a link leads to a folder that contains it.
    """

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from error

    names = []
    for path, folders, files in os.walk(folder, followlinks=True, onerror=refuse):
        folders[:] = [name for name in folders if name[0] != "." and name not in _HIDDEN]
        real = os.path.realpath(path)
        for name in folders:
            inner = os.path.join(path, name)
            if os.path.islink(inner) and f"{real}/".startswith(f"{os.path.realpath(inner)}/"):
                raise InputError(f"{inner}: a link to a folder that contains it")
        names += [
            os.path.relpath(os.path.join(path, name), folder).replace(os.sep, "/")
            for name in files
            if name[0] != "." and name not in _HIDDEN
        ]
    return sorted(names)


def divide_files(names: Sequence[str], folder: Path) -> dict[str, list[str]]:
    """Divide data files into parts by their names: train-00000-of-00002.parquet, test/0.csv, cifar_val.jsonl.

    A file is of the part whose name one of its folders has, or its name begins with. Where that holds for none of the
    files, a part's name anywhere in all the files' names counts; otherwise all files are of the training part.

    Args:
        names: The files, relative to the folder.
        folder: For messages.

    Returns:
        "train" and, where they exist, "validation" and "test", to names.

    Raises:
        InputError: Some files have the name of a part and some do not.
    """
    words = {name: re.findall("[a-z]+", Path(name).stem.lower()) for name in names}
    strict: dict[str, str | None] = {}
    for name in names:
        folders = [PARTS[part.lower()] for part in reversed(name.split("/")[:-1]) if part.lower() in PARTS]
        begins = Path(name).stem[:1].isalpha() and PARTS.get(words[name][0] if words[name] else "")
        strict[name] = folders[0] if folders else begins or None
    if not any(strict.values()):
        found = {name: {PARTS[word] for word in words[name] if word in PARTS} for name in names}
        are_parts = all(len(parts) == 1 for parts in found.values())
        strict = {name: next(iter(parts)) if are_parts else "train" for name, parts in found.items()}
    without = [name for name in names if strict[name] is None]
    if without:
        named = next(name for name in names if strict[name] is not None)
        raise InputError(
            f"{folder}: {named} has the name of a part and {without[0]} has not: rename it, to train.* for instance"
        )
    present = {part: [name for name in names if strict[name] == part] for part in ("train", "validation", "test")}
    return {part: files for part, files in present.items() if files}


def hash_files(paths: Iterable[str | Path], base: Path, root: Path, progress: bool) -> str:
    """Hash the content of files and their names relative to `base`.

    A file whose size and modification time have not changed is not read again: its hash is stored under `root`.

    Args:
        paths: The files.
        base: The folder that holds them, or the file itself; its own name is not hashed.
        root: Folder of the cache.
        progress: Whether to show a progress bar on stderr when hashing takes longer than two seconds.

    Returns:
        64 hex digits.
    """
    memory = root / "files" / f"{hashlib.sha256(os.fsencode(base.resolve())).hexdigest()[:16]}.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    names = {os.path.relpath(path, base): path for path in paths}
    with ThreadPoolExecutor() as pool:
        entries = pool.map(lambda name: _hash_file(names[name], known.get(name)), names)
        bar = tqdm(entries, "hashing files", len(names), delay=2, disable=not progress, unit=" files")
        current = dict(zip(names, bar))
    if current != known:
        write_text(memory, json.dumps(current))
    listing = sorted((name, digest) for name, (_, _, digest) in current.items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _hash_file(path: str | Path, known: list | None) -> list:
    """Size, modification time and SHA-256 of a file; `known` where its size and time are the same."""
    status = os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns]
    if known is not None and known[:2] == stamp:
        return known
    with open(path, "rb") as file:
        return [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
