"""N-LEEP: LEEP with the clusters of the features in place of the source classes."""

import warnings

import numpy as np

from hf_scaling.scores.inputs import check_features
from hf_scaling.scores.leep import expected_log_likelihood


def n_leep(
    features: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray | None = None,
    seed: int = 0,
    variance: float = 0.8,
    clusters_per_class: int = 5,
) -> float:
    """LEEP of the posteriors of a Gaussian mixture on the leading principal components, in nats.

    Args:
        features: (n, d).
        labels: (n,).
        probabilities: Not used, so that checkpoints without a head can be scored.
        seed: Of the mixture's start.
        variance: Share of the variance that the principal components keep.
        clusters_per_class: Components of the mixture for each class.

    Raises:
        InputError: The arrays cannot be scored.

    Source:
        Li et al. 2021, Ranking Neural Checkpoints (CVPR).
    """
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    features, ids, n_classes = check_features(features, labels, "n_leep")
    reduced = PCA(n_components=variance, svd_solver="full").fit_transform(features)
    mixture = GaussianMixture(min(clusters_per_class * n_classes, len(ids)), random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct rows than clusters, or a hundred rounds without rest: the posteriors are as good as they get.
        warnings.simplefilter("ignore", ConvergenceWarning)
        posteriors = mixture.fit(reduced).predict_proba(reduced)
    return expected_log_likelihood(posteriors, ids, n_classes)
