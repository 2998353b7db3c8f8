"""TransRate: how many bits the features take, less what they take within the classes."""

from collections.abc import Sequence

import numpy as np

from hf_scaling.scores.inputs import check_features

#: Constants over five decades, at which the order of checkpoints is compared.
EPSILONS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)


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
    return transrates(features, labels, [epsilon])[0]


def transrates(features: np.ndarray, labels: np.ndarray, epsilons: Sequence[float] = EPSILONS) -> list[float]:
    """TransRate at several constants, for which the features are decomposed once.

    Args:
        features: (n, d).
        labels: (n,).
        epsilons: Squared distortions.

    Raises:
        InputError: The arrays cannot be scored.
    """
    features, ids, n_classes = check_features(features, labels, "transrate")
    centred = features - features.mean(axis=0)
    constants = np.asarray(epsilons, dtype=float)
    within = [_coding_rates(centred[ids == label], constants) * np.mean(ids == label) for label in range(n_classes)]
    return [float(value) for value in _coding_rates(centred, constants) - sum(within)]


def _coding_rates(rows: np.ndarray, epsilons: np.ndarray) -> np.ndarray:
    squares = np.linalg.svd(rows, compute_uv=False) ** 2
    return 0.5 * np.log1p(squares / (len(rows) * epsilons[:, None])).sum(axis=1)
