"""LogME: the evidence of a Bayesian linear model from the features to each class."""

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.scores.inputs import check_features

_ROUNDS = 11


def logme(features: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None = None, seed: int = 0) -> float:
    """Log evidence per row, the mean over one-hot classes, at the prior and noise precision that maximise it.

    Args:
        features: (n, d); d may exceed n.
        labels: (n,).
        probabilities: Not used.
        seed: Not used.

    Raises:
        InputError: The arrays cannot be scored.

    Source:
        You et al. 2021, LogME: Practical Assessment of Pre-trained Models for Transfer Learning (ICML).
    """
    features, ids, n_classes = check_features(features, labels, "logme")
    left, singular, _ = np.linalg.svd(features, full_matrices=False)
    if not singular.any():
        raise InputError("logme: all features are 0")
    targets = (ids[:, None] == np.arange(n_classes)).astype(float)
    projections = left.T @ targets
    rests = np.maximum((targets**2).sum(axis=0) - (projections**2).sum(axis=0), 0.0)
    squared = singular**2
    evidences = [
        _evidence(squared, projections[:, label] ** 2, rests[label], *features.shape) for label in range(n_classes)
    ]
    return float(np.mean(evidences))


def _evidence(squared: np.ndarray, projected: np.ndarray, rest: float, n: int, d: int) -> float:
    """Maximal log evidence per row of one target.

    Args:
        squared: Squared singular values of the features.
        projected: Squared projections of the target on the left singular vectors.
        rest: Squared length of the target outside their span.
        n, d: Rows and dimensions.
    """
    alpha = beta = 1.0
    tiny = np.finfo(float).tiny
    for _ in range(_ROUNDS):
        gamma = (beta * squared / (alpha + beta * squared)).sum()
        length, misfit = _moments(squared, projected, rest, alpha, beta)
        new_alpha, new_beta = gamma / max(length, tiny), (n - gamma) / max(misfit, tiny)
        if not np.isfinite([new_alpha, new_beta]).all() or new_alpha <= 0 or new_beta <= 0:
            break
        converged = abs(new_alpha / alpha - 1) + abs(new_beta / beta - 1) < 1e-12
        alpha, beta = new_alpha, new_beta
        if converged:
            break
    length, misfit = _moments(squared, projected, rest, alpha, beta)
    log_det = np.log(alpha + beta * squared).sum() + (d - len(squared)) * np.log(alpha)
    fitted = n * np.log(beta) + d * np.log(alpha) - n * np.log(2 * np.pi) - beta * misfit - alpha * length - log_det
    return 0.5 * fitted / n


def _moments(
    squared: np.ndarray, projected: np.ndarray, rest: float, alpha: float, beta: float
) -> tuple[float, float]:
    """Squared length of the posterior mean m, and the squared misfit of F m."""
    precision = alpha + beta * squared
    length = (beta**2 * squared * projected / precision**2).sum()
    return length, (alpha**2 * projected / precision**2).sum() + rest
