"""What every score checks of its arrays before it computes."""

import numpy as np

from hf_scaling.errors import InputError


def check_features(features: np.ndarray, labels: np.ndarray, score: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Features as float64, labels as ids 0..K-1, and K.

    Raises:
        InputError: Wrong shapes, values that are not finite, features that are all equal, or fewer than two classes.
    """
    features = np.asarray(features, dtype=float)
    if features.ndim != 2 or not features.size:
        raise InputError(f"{score}: features must be of shape (n, d), not {features.shape}")
    if not np.isfinite(features).all():
        raise InputError(f"{score}: the features of row {int(np.argmin(np.isfinite(features).all(1)))} are not finite")
    if (features == features[0]).all():
        raise InputError(f"{score}: the features of all {len(features)} rows are equal, so nothing can be scored")
    ids, n_classes = check_labels(labels, len(features), score)
    return features, ids, n_classes


def check_labels(labels: np.ndarray, n_rows: int, score: str) -> tuple[np.ndarray, int]:
    """Labels as ids 0..K-1 of the classes that occur, and K.

    Raises:
        InputError: Not one label a row, or fewer than two classes.
    """
    labels = np.asarray(labels)
    if labels.shape != (n_rows,):
        raise InputError(f"{score}: {n_rows} rows need labels of shape ({n_rows},), not {labels.shape}")
    classes, ids = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise InputError(f"{score}: the labels are of one class; two or more are needed")
    return ids, len(classes)


def check_probabilities(probabilities: np.ndarray | None, n_rows: int | None, score: str) -> np.ndarray:
    """Probabilities of the source classes as float64.

    Raises:
        InputError: None given, a wrong shape, or rows that are not distributions.
    """
    if probabilities is None:
        raise InputError(f"{score}: needs the source classes' probabilities, and this checkpoint has no head")
    probabilities = np.asarray(probabilities, dtype=float)
    if probabilities.ndim != 2 or (n_rows is not None and len(probabilities) != n_rows):
        raise InputError(f"{score}: probabilities must be of shape (n, Z), not {probabilities.shape}")
    sums = probabilities.sum(axis=1)
    wrong = ~(np.isfinite(sums) & (np.abs(sums - 1) < 1e-3) & (probabilities >= 0).all(axis=1))
    if wrong.any():
        raise InputError(f"{score}: the probabilities of row {int(np.argmax(wrong))} are not a distribution")
    return probabilities
