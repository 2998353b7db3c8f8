"""Exact, nested, class-balanced subsets and the validation part."""

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.subsets.keys import seeded_keys

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
