"""LEEP and NCE: how well the source classes' predictions foretell the target labels."""

import numpy as np

from hf_scaling.scores.inputs import check_labels, check_probabilities


def leep(
    features: np.ndarray | None, labels: np.ndarray, probabilities: np.ndarray | None = None, seed: int = 0
) -> float:
    """Mean log likelihood of the labels under P(y given z) and the source probabilities theta, in nats.

    Args:
        features: Not used.
        labels: (n,).
        probabilities: (n, Z) of the source classes; a source class without mass is skipped.
        seed: Not used.

    Raises:
        InputError: No probabilities, or labels of one class.

    Source:
        Nguyen et al. 2020, LEEP: A New Measure to Evaluate Transferability of Learned Representations (ICML).
    """
    theta = check_probabilities(probabilities, len(labels), "leep")
    ids, n_classes = check_labels(labels, len(theta), "leep")
    return expected_log_likelihood(theta, ids, n_classes)


def expected_log_likelihood(theta: np.ndarray, ids: np.ndarray, n_classes: int) -> float:
    """Mean over rows of log sum_z P(y_i given z) theta_iz, P estimated from the same rows."""
    joint = np.stack([theta[ids == label].sum(axis=0) for label in range(n_classes)]) / len(theta)
    mass = joint.sum(axis=0)
    given = joint[:, mass > 0] / mass[mass > 0]
    return float(np.log((given[ids] * theta[:, mass > 0]).sum(axis=1)).mean())


def nce(
    features: np.ndarray | None, labels: np.ndarray, probabilities: np.ndarray | None = None, seed: int = 0
) -> float:
    """Negative conditional entropy of the labels given the predicted source class, in nats.

    Args:
        features: Not used.
        labels: (n,).
        probabilities: (n, Z) of the source classes.
        seed: Not used.

    Raises:
        InputError: No probabilities, or labels of one class.

    Source:
        Tran et al. 2019, Transferability and Hardness of Supervised Classification Tasks (ICCV).
    """
    theta = check_probabilities(probabilities, len(labels), "nce")
    ids, n_classes = check_labels(labels, len(theta), "nce")
    counts = np.zeros((n_classes, theta.shape[1]))
    np.add.at(counts, (ids, theta.argmax(axis=1)), 1)
    joint = counts / len(ids)
    given = joint / np.maximum(joint.sum(axis=0), 1e-300)
    return float((joint[joint > 0] * np.log(given[joint > 0])).sum())
