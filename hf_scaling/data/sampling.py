"""Random choices by key: exact nested subsets, held-out parts, classes; the same on every machine."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.grid.schema import ClassSubset
from hf_scaling.text import did_you_mean

_LARGEST_VALIDATION = 5_000
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def nested_subset(labels: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Select exactly `n` examples, as balanced over the classes as the data allow.

    Each example has a seeded key and a rank by it within its class; the subset is the first `n` by (rank, key). So
    class counts differ by at most one until a class runs out, and for one seed every smaller subset is contained in
    every larger one.

    Args:
        labels: Class ids, int array (n_examples,).
        n: Size of the subset.
        seed: Another seed gives another subset.

    Returns:
        Sorted int64 indices.

    Raises:
        InputError: `n` is above the number of examples or below the number of classes.

    Example:
        >>> nested_subset(np.arange(1000) % 10, 10, seed=0)
        array([ 17, 246, 361, 593, 622, 724, 725, 769, 858, 870])
    """
    labels = np.asarray(labels)
    n_classes = len(np.unique(labels))
    if n > len(labels):
        raise InputError(f"{n:,} images requested, only {len(labels):,} available: request at most that many")
    if n < n_classes:
        raise InputError(f"{n:,} images requested for {n_classes:,} classes: request at least one image per class")
    keys = seeded_keys(seed, "subset", np.arange(len(labels)))
    by_class = np.lexsort((keys, labels))
    sorted_labels = labels[by_class]
    ranks = np.empty(len(labels), np.int64)
    ranks[by_class] = np.arange(len(labels)) - np.searchsorted(sorted_labels, sorted_labels, side="left")
    return np.sort(np.lexsort((keys, ranks))[:n])


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
    if len(labels) < 10:
        raise InputError(f"{len(labels)} images are too few for a validation part of 10 %: at least 10 are needed")
    return split_by_key(len(labels), validation_size(len(labels)), seed, "validation")


def validation_size(n: int) -> int:
    """Number of examples that `hold_out_validation` holds out of `n`."""
    return min(_LARGEST_VALIDATION, n // 10)


def split_by_key(n: int, n_held_out: int, seed: int, stream: str) -> tuple[np.ndarray, np.ndarray]:
    """Split `range(n)` by seeded keys: sorted int64 arrays of the kept and of the `n_held_out` held-out indices."""
    order = np.argsort(seeded_keys(seed, stream, np.arange(n)), kind="stable")
    return np.sort(order[n_held_out:]), np.sort(order[:n_held_out])


def select_classes(class_names: Sequence[str], classes: int | str | None, source: str) -> np.ndarray:
    """Select the classes of a source that are used.

    A number takes the classes whose names' SHA-256 come first: a fixed random selection, the same in every run, in
    which the 10 classes of `classes=10` are among the 100 of `classes=100`. A `ClassSubset` takes its share of the
    classes, those whose "SEED:NUMBER:NAME" have the first SHA-256: the order of two classes does not depend on others.

    Args:
        class_names: All class names, in label order.
        classes: None for all, a number, the text of a `ClassSubset`, or the path of a file with one class name or
            class id per line (blank lines and lines that begin with # are ignored).
        source: Name of the source, for messages.

    Returns:
        Sorted int64 class ids.

    Raises:
        InputError: Fewer than two classes, more than there are, an unknown name, or no such file.
    """
    subset = None if classes is None else ClassSubset.parse(classes)
    if classes is None:
        selection = set(range(len(class_names)))
    elif subset is not None:
        keys = [hashlib.sha256(f"{subset.seed}:{subset.number}:{name}".encode()).digest() for name in class_names]
        selection = set(sorted(range(len(class_names)), key=keys.__getitem__)[: subset.size(len(class_names))])
    elif isinstance(classes, int) or str(classes).isdecimal():
        n = int(classes)
        if n > len(class_names):
            raise InputError(f"classes: {n:,} requested, but {source} has only {len(class_names):,}")
        keys = [hashlib.sha256(name.encode()).digest() for name in class_names]
        selection = set(sorted(range(len(class_names)), key=keys.__getitem__)[: max(0, n)])
    else:
        selection = _read_class_file(class_names, Path(classes))
    if len(selection) < 2:
        size = (
            f"{source} has {len(class_names)}" if classes is None else f"classes: {classes} selects {len(selection)}"
        )
        raise InputError(f"{size}, but a classifier needs at least two classes")
    return np.array(sorted(selection), np.int64)


def _read_class_file(class_names: Sequence[str], path: Path) -> set[int]:
    if not path.is_file():
        raise InputError(f"classes: {path} is neither a number nor a file that lists classes")
    ids = {name: number for number, name in reversed(list(enumerate(class_names)))}
    selection = set()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        entry = line.strip()
        if not entry or entry.startswith("#"):
            continue
        if entry in ids:
            selection.add(ids[entry])
        elif entry.isdecimal() and int(entry) < len(class_names):
            selection.add(int(entry))
        else:
            hint = did_you_mean(entry, class_names) or f"; ids are 0 to {len(class_names) - 1}"
            raise InputError(f"{path}, line {number}: the source has no class {entry!r}{hint}")
    return selection


def seeded_keys(seed: int, stream: str, indices: np.ndarray) -> np.ndarray:
    """One 64-bit key per index.

    Args:
        seed: Any integer.
        stream: Purpose of the keys; different streams of one seed are unrelated.
        indices: Integers, any shape.

    Returns:
        uint64 array of the shape of `indices`.
    """
    base = int.from_bytes(hashlib.sha256(f"{stream}:{int(seed)}".encode()).digest()[:8], "little")
    return random_words(np.full(np.shape(indices), base, np.uint64), np.asarray(indices))


def random_words(keys: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The `numbers`-th words of the SplitMix64 sequences that start at `keys` (Steele et al. 2014).

    Args:
        keys: uint64 array.
        numbers: Integer array, broadcast against `keys`.

    Returns:
        uint64 array of the broadcast shape.
    """
    words = keys + np.asarray(numbers).astype(np.int64).view(np.uint64) * _GOLDEN + _GOLDEN
    words ^= words >> np.uint64(30)
    words *= np.uint64(0xBF58476D1CE4E5B9)
    words ^= words >> np.uint64(27)
    words *= np.uint64(0x94D049BB133111EB)
    words ^= words >> np.uint64(31)
    return words


def uniforms(keys: np.ndarray, n: int) -> np.ndarray:
    """`n` numbers in [0, 1) drawn from each of `keys`: float64 array (len(keys), n)."""
    return to_unit(random_words(keys[:, None], np.arange(n)))


def to_unit(words: np.ndarray) -> np.ndarray:
    """Random 64-bit words as float64 numbers in [0, 1)."""
    return (words >> np.uint64(11)) * 2.0**-53
