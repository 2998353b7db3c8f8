"""What a folder holds, found in one pass: its images by folder, its metadata files, and what is not read.

Links are followed. Hidden files and folders do not count. Every other file that is not used is counted by suffix.
"""

import contextlib
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from PIL import Image

from hf_scaling.errors import InputError
from hf_scaling.text import listing

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


def part_by_name(name: str) -> str | None:
    """The part that a folder's name looks like, in any case: "train" for Training_set; None for none or several."""
    words = (_PART_WORD.fullmatch(word.lower()) for word in re.findall("[A-Z]?[a-z]+[0-9]*|[A-Z]+[0-9]*", name))
    found = {PARTS.get(word["part"], "test") for word in words if word}
    return found.pop() if len(found) == 1 else None


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
