"""Images listed in CSV files: `train.csv` and `test.csv`, or one `labels.csv`, with columns of files and of labels.

Lists are read where the folders of the images give no classes. A file is written as its path below the folder of the
list, or as its name alone, with or without the suffix, where only one image has that name.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from hf_scaling.data.folders import (
    LABEL_COLUMNS,
    PARTS,
    FolderScan,
    ImageFolder,
    ImageGroup,
    assemble,
    check_numbers,
    label_name,
    read_image_folder,
)
from hf_scaling.errors import InputError
from hf_scaling.text import listing

if TYPE_CHECKING:
    import pandas as pd

_SUFFIXES = (".csv", ".tsv")


def read_images(scan: FolderScan, label_column: str | None = None) -> ImageFolder:
    """Read a folder of images by its folders or metadata, else by the lists beside the images.

    Args:
        scan: The folder's files.
        label_column: The label column of its metadata files or lists; None finds it.

    Raises:
        InputError: As `read_image_folder` does, where no list names images of the folder; a list with an empty label,
            with a file that does not exist or is listed twice, or two lists of one part.
    """
    unused = Counter(scan.unused)
    try:
        return read_image_folder(scan, label_column)
    except InputError:
        scan.unused = unused
        lists = _find_lists(scan, label_column)
        if not lists:
            raise
    return _read_lists(scan, lists)


def _find_lists(scan: FolderScan, label_column: str | None) -> dict[str, tuple[Path, "pd.DataFrame"]]:
    """Part to its list, with columns file and label; {} where no CSV file names images of the folder."""
    import pandas as pd

    found: dict[str, tuple[Path, pd.DataFrame]] = {}
    names = _names(scan)
    for path in sorted(path for path in scan.root.iterdir() if path.suffix.lower() in _SUFFIXES):
        try:
            frame = pd.read_csv(path, sep=None, engine="python", dtype=str, keep_default_na=False)
        except (ValueError, OSError):
            continue
        label = label_column or next((name for name in LABEL_COLUMNS if name in frame.columns), None)
        # A few files may be missing, which is then said by row.
        found_in = {
            name: sum(file in names for file in _cleaned(frame[name][:100])) for name in frame if name != label
        }
        files = max(found_in, key=found_in.__getitem__, default=None)
        if files is None or not found_in[files] or label not in frame.columns:
            continue
        part = PARTS.get(path.stem.lower(), "train")
        if part in found:
            raise InputError(f"{scan.root}: {found[part][0].name} and {path.name} both list its {part} part: keep one")
        found[part] = path, pd.DataFrame({"file": _cleaned(frame[files]), "label": frame[label]})
    return found if "train" in found else {}


def _cleaned(files: "pd.Series") -> list[str]:
    return [file.strip().removeprefix("./") for file in files]


def _names(scan: FolderScan) -> dict[str, str]:
    """How a list may write an image, to its path: the path, or a name, with the suffix or not, that no other has."""
    paths = [path for seconds in scan.images.values() for group in seconds.values() for path in group.paths]
    short = {path: {PurePosixPath(path).name, PurePosixPath(path).stem} for path in paths}
    counts = Counter(name for names in short.values() for name in names)
    unique = {name: path for path, names in short.items() for name in names if counts[name] == 1}
    return unique | {path: path for path in paths}


def _read_lists(scan: FolderScan, lists: Mapping[str, tuple[Path, "pd.DataFrame"]]) -> ImageFolder:
    names = _names(scan)
    stamps = {
        path: group.stamps[3 * number : 3 * number + 3]
        for seconds in scan.images.values()
        for group in seconds.values()
        for number, path in enumerate(group.paths)
    }
    by_class: dict[str, dict[str, ImageGroup]] = {}
    for part, (where, frame) in lists.items():
        groups = by_class[part] = {}
        # Of all lists: an image of two parts would be trained on and evaluated.
        for row, (file, label) in enumerate(zip(frame["file"], frame["label"]), start=1):
            path = names.get(file)
            if path is None:
                raise InputError(f"{where}: row {row}: there is no image {file}, or more than one")
            if not label:
                raise InputError(f"{where}: row {row}: the label is empty")
            if path not in stamps:
                raise InputError(f"{where}: row {row}: {file} is listed twice")
            group = groups.setdefault(label_name(label), ImageGroup())
            group.paths.append(path)
            group.stamps += stamps.pop(path)
        check_numbers(groups, str(where))
        scan.unused -= Counter({where.suffix.lower(): 1})
    if stamps:
        scan.unused["(images that no list names)"] += len(stamps)
    remark = f"{scan.root}: labels are read from {listing(sorted(where.name for where, _ in lists.values()))}"
    return assemble(scan, by_class, [remark])
