"""H-score: the share of the features' variance that the classes explain, in whitened directions."""

import numpy as np

from hf_scaling.scores.inputs import check_features


def h_score(features: np.ndarray, labels: np.ndarray, probabilities: np.ndarray | None = None, seed: int = 0) -> float:
    """tr(S^-1 cov(E[F given y])), S the covariance shrunk by Ledoit and Wolf.

    Unshrunk it explodes where d is near n. Ibrahim et al. multiply by one minus the shrinkage; this does not.

    Args:
        features: (n, d).
        labels: (n,).
        probabilities: Not used.
        seed: Not used.

    Raises:
        InputError: The arrays cannot be scored.

    Source:
        Bao et al. 2019, An Information-Theoretic Approach to Transferability (ICIP); Ibrahim et al. 2022, Newer is
        Not Always Better (ECML).
    """
    from sklearn.covariance import ledoit_wolf

    features, ids, n_classes = check_features(features, labels, "h_score")
    covariance, _ = ledoit_wolf(features)
    means = np.stack([features[ids == label].mean(axis=0) for label in range(n_classes)])
    shares = np.bincount(ids, minlength=n_classes) / len(ids)
    spread = means - features.mean(axis=0)
    between = (spread * shares[:, None]).T @ spread
    return float(np.trace(np.linalg.solve(covariance, between)))
