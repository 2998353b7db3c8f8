"""Which classes of a source take part: all, a number of them, or those of a list file."""

import difflib
import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_scaling.errors import InputError

_GOLDEN = 0x9E3779B97F4A7C15


def seeded_keys(seed: int, stream: str, indices: np.ndarray) -> np.ndarray:
    """Give one 64-bit key an index.

    Args:
        seed: Any integer.
        stream: What the keys are for; streams of one seed are unrelated.
        indices: Integers, any shape.

    Returns:
        uint64 array of the shape of `indices`.
    """
    base = int.from_bytes(hashlib.sha256(f"{stream}:{int(seed)}".encode()).digest()[:8], "little")
    return numbered(np.full(np.shape(indices), base, np.uint64), np.asarray(indices))


def numbered(keys: np.ndarray, numbers: np.ndarray | int) -> np.ndarray:
    """Give the 64-bit words `numbers` of the sequences that `keys` begin (both broadcast against each other)."""
    words = keys + np.asarray(numbers).astype(np.int64).view(np.uint64) * np.uint64(_GOLDEN) + np.uint64(_GOLDEN)
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def uniforms(keys: np.ndarray, n: int) -> np.ndarray:
    """Draw `n` numbers in [0, 1) from each of `keys`: float64 array (len(keys), n)."""
    return (numbered(keys[:, None], np.arange(n)) >> np.uint64(11)) * 2.0**-53


_LARGEST_VALIDATION = 5_000


def nested_subset(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Choose exactly `n` examples, as balanced over the classes as the data allow.

    Each example has a seeded key and a rank by it within its class; the subset is the first `n` by (rank, key).
    So the classes differ by one example at most until a class runs out, and for one seed every smaller subset lies
    inside every larger one.

    Args:
        labels: Class ids, int array (n_examples,).
        n: How many to choose.
        seed: Another seed gives another subset.

    Returns:
        int64 indices (n,), sorted.

    Raises:
        InputError: `n` is above the number of examples or below the number of classes.
    """
    labels = np.asarray(labels)
    n_classes = len(np.unique(labels))
    if n > len(labels):
        raise InputError(f"{n:,} images were asked for, but there are only {len(labels):,}: ask for at most that many")
    if n < n_classes:
        raise InputError(f"{n:,} images cannot hold the {n_classes:,} classes: ask for at least one image a class")
    keys = seeded_keys(seed, "subset", np.arange(len(labels)))
    return np.sort(np.lexsort((keys, _rank_in_class(labels, keys)))[:n])


def hold_out_validation(labels: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split examples into a training and a validation part, before any subset is drawn.

    The validation part is the smaller of 5,000 examples and 10 %, drawn by key.

    Args:
        labels: Class ids, int array (n_examples,).
        seed: Another seed gives another split.

    Returns:
        Two sorted int64 index arrays, training and validation; together they hold every example once.

    Raises:
        InputError: There are fewer than 10 examples, so that no validation part remains.
    """
    n = len(labels)
    if n < 10:
        raise InputError(f"{n} images leave no validation part of 10 %: give at least 10")
    return held_out(n, validation_size(n), seed, "validation")


def validation_size(n: int) -> int:
    """How many of `n` examples `hold_out_validation` holds out."""
    return min(_LARGEST_VALIDATION, n // 10)


def held_out(n: int, n_held_out: int, seed: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """Split `range(n)` into sorted int64 arrays of the kept and the `n_held_out` held out, drawn by key."""
    order = np.argsort(seeded_keys(seed, stream, np.arange(n)), kind="stable")
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def _rank_in_class(labels: np.ndarray, keys: np.ndarray) -> np.ndarray:
    order = np.lexsort((keys, labels))
    grouped = labels[order]
    first = np.searchsorted(grouped, grouped, side="left")
    ranks = np.empty(len(labels), np.int64)
    ranks[order] = np.arange(len(labels)) - first
    return ranks


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
