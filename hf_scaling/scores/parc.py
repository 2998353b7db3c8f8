"""PARC: whether images of one class have correlated features."""

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.scores.inputs import check_features


def parc(
    features: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray | None = None,
    seed: int = 0,
    components: int = 32,
    most_rows: int = 1000,
) -> float:
    """100 times the Spearman correlation of the pairwise distances of features and of labels.

    Args:
        features: (n, d).
        labels: (n,).
        probabilities: Not used.
        seed: Of the rows that are drawn where there are more than `most_rows`.
        components: Principal components that are kept.
        most_rows: The most rows; time and memory grow with their square.

    Raises:
        InputError: The arrays cannot be scored, or the features vary in fewer than two directions.

    Source:
        Bolya et al. 2021, Scalable Diverse Model Selection for Accessible Transfer Learning (NeurIPS).
    """
    from scipy.stats import spearmanr
    from sklearn.decomposition import PCA

    features, ids, _ = check_features(features, labels, "parc")
    if len(ids) > most_rows:
        rows = np.sort(np.random.default_rng(seed).choice(len(ids), most_rows, replace=False))
        features, ids = features[rows], ids[rows]
    reduced = PCA(min(components, *features.shape), svd_solver="full").fit_transform(features)
    if reduced.shape[1] < 2:
        raise InputError("parc: the features vary in fewer than two directions, so rows have no correlation")
    below = np.tril_indices(len(ids), -1)
    distances = 1 - np.corrcoef(reduced)[below]
    # One-hot labels have two distances, within a class and between classes: for ranks any two numbers do.
    differ = (ids[:, None] != ids)[below]
    known = np.isfinite(distances)
    return float(100 * spearmanr(distances[known], differ[known]).statistic)
