"""What a transferability score must beat: nearest neighbours and a linear probe on the same features."""

import numpy as np

from hf_scaling.scores.inputs import check_features


def knn(features: np.ndarray, labels: np.ndarray, neighbours: int = 5) -> float:
    """Accuracy of the majority of each row's nearest other rows, by cosine similarity.

    Args:
        features: (n, d).
        labels: (n,).
        neighbours: How many rows vote.

    Raises:
        InputError: The arrays cannot be scored.
    """
    features, ids, n_classes = check_features(features, labels, "knn")
    unit = features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    similarity = unit @ unit.T
    np.fill_diagonal(similarity, -np.inf)
    nearest = np.argsort(-similarity, axis=1, kind="stable")[:, : min(neighbours, len(ids) - 1)]
    votes = (ids[nearest][..., None] == np.arange(n_classes)).sum(axis=1)
    return float((votes.argmax(axis=1) == ids).mean())


def linear_probe(features: np.ndarray, labels: np.ndarray, folds: int = 5, seed: int = 0) -> float:
    """Cross-validated accuracy of a ridge classifier on standardised features, its penalty chosen within the folds.

    Args:
        features: (n, d).
        labels: (n,).
        folds: Parts of the cross-validation; fewer where a class has fewer rows.
        seed: Of the folds.

    Raises:
        InputError: The arrays cannot be scored.
    """
    from sklearn.linear_model import RidgeClassifierCV
    from sklearn.model_selection import KFold, StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, ids, _ = check_features(features, labels, "linear_probe")
    rarest = np.bincount(ids).min()
    splitter = StratifiedKFold if rarest >= 2 else KFold
    n_splits = min(folds, int(rarest)) if rarest >= 2 else min(folds, len(ids))
    model = make_pipeline(StandardScaler(), RidgeClassifierCV(np.logspace(-2, 4, 7)))
    scores = cross_val_score(model, features, ids, cv=splitter(n_splits, shuffle=True, random_state=seed))
    return float(scores.mean())
