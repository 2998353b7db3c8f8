"""Which classes of a source take part: all, a number of them, or those of a list file."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_scaling.errors import InputError


def choose_classes(class_names: Sequence[str], classes: int | str | None, what: str) -> np.ndarray:
    """Choose classes, in the source's order.

    A number takes the classes whose names' SHA-256 come first. So a choice is a fixed random one, the same in every
    run, and the 10 classes of `classes=10` are among the 100 of `classes=100`.

    Args:
        class_names: Of all classes, in label order.
        classes: None for all, how many, or the path of a file with one class name or class id a line (blank lines
            and lines that begin with # do not count).
        what: The source, as messages should name it.

    Returns:
        Sorted int64 class ids.

    Raises:
        InputError: Fewer than two classes, more than there are, an unknown name, or no such file.
    """
    if classes is None:
        chosen = range(len(class_names))
    elif isinstance(classes, int) or str(classes).isdecimal():
        chosen = _first_by_key(class_names, int(classes))
    else:
        chosen = _listed(class_names, Path(classes))
    if len(chosen) < 2:
        of = (
            f"{what} has {len(class_names)}"
            if classes is None
            else f"classes: {classes} leaves {len(chosen)} of {what}"
        )
        raise InputError(f"{of}, and it takes at least two classes to tell apart")
    return np.array(sorted(chosen), np.int64)


def _first_by_key(class_names: Sequence[str], n: int) -> list[int]:
    if n > len(class_names):
        raise InputError(f"classes: {n:,} were asked for, but there are only {len(class_names):,}")
    keys = [hashlib.sha256(name.encode()).digest() for name in class_names]
    return sorted(range(len(class_names)), key=keys.__getitem__)[: max(0, n)]


def _listed(class_names: Sequence[str], path: Path) -> set[int]:
    if not path.is_file():
        raise InputError(f"classes: {path} is neither a number nor a file that lists classes")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
    numbered = [(number, line.strip()) for number, line in lines]
    return {
        _find(class_names, line, f"{path}, line {number}")
        for number, line in numbered
        if line and not line.startswith("#")
    }


def _find(class_names: Sequence[str], wanted: str, where: str) -> int:
    if wanted in class_names:
        return class_names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(class_names):
        return int(wanted)
    nearest = difflib.get_close_matches(wanted, class_names, n=1)
    hint = f"did you mean '{nearest[0]}'?" if nearest else f"ids are 0 to {len(class_names) - 1}"
    raise InputError(f"{where}: '{wanted}' is no class of this source: {hint}")
