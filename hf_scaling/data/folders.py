"""The labelled images of a folder: the part and the class of each, and what is not used.

The rule:

- A class is the first folder below the root, or below the part; deeper folders belong to it.
- Top folders are parts (train, validation, test) when all top folders that hold images have such names, in any case.
  One such name beside other folders is a class; two or more beside other folders are refused.
- Top folders that only look like parts (`training_set`, `test_images`), and classes that each hold the parts
  (`cat/train`, `cat/test`), are refused.
- A single folder that wraps everything is entered.
- A `metadata.csv`, `.jsonl` or `.parquet` with a column `file_name` and a label column gives the labels instead.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hf_scaling.data.metadata import group_by_metadata, metadata_labels
from hf_scaling.data.scan import PARTS, FolderScan, ImageGroup, describe_unused, part_by_name
from hf_scaling.errors import InputError
from hf_scaling.text import did_you_mean, listing


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


def read_image_folder(path: Path | FolderScan, label_column: str | None = None) -> ImageFolder:
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
    labels, part_of = metadata_labels(walk, by_class, label_column)
    if labels is not None:
        by_class = group_by_metadata(walk, by_class, labels, part_of)
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


def _check_parts_in_disguise(walk: FolderScan, tops: Sequence[str]) -> None:
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
