"""TransRate: how many bits the features take, less what they take within the classes."""

import numpy as np

from hf_scaling.scores.inputs import check_features


def transrate(
    features: np.ndarray,
    labels: np.ndarray,
    probabilities: np.ndarray | None = None,
    seed: int = 0,
    epsilon: float = 1e-4,
) -> float:
    """R(F) - sum over classes of n_c / n R(F_c), with R(F) = 1/2 log det(I + F'F / (n epsilon)), in nats.

    F is centred once over all rows. The value changes with the features' scale, and the order of checkpoints can
    change with epsilon: report it for several.

    Args:
        features: (n, d).
        labels: (n,).
        probabilities: Not used.
        seed: Not used.
        epsilon: Squared distortion.

    Raises:
        InputError: The arrays cannot be scored.

    Source:
        Huang et al. 2022, Frustratingly Easy Transferability Estimation (ICML); its listing divides the second term
        by the number of classes, which is the same where they are balanced.
    """
    features, ids, n_classes = check_features(features, labels, "transrate")
    centred = features - features.mean(axis=0)
    within = [_coding_rate(centred[ids == label], epsilon) * np.mean(ids == label) for label in range(n_classes)]
    return float(_coding_rate(centred, epsilon) - sum(within))


def _coding_rate(rows: np.ndarray, epsilon: float) -> float:
    singular = np.linalg.svd(rows, compute_uv=False)
    return 0.5 * np.log1p(singular**2 / (len(rows) * epsilon)).sum()
