"""How far the draws of a curve must be widened because its scatter is known from few runs."""

import numpy as np

from hf_scaling.fitting.bootstrap import hat, small_sample_factor, student_factor
from hf_scaling.fitting.engine import Estimate


def widening(estimates: list[Estimate], gradients: list[np.ndarray]) -> np.ndarray:
    """Factor on the spread of the draws of a difference of two laws, at N sizes.

    The draws are already scaled by Student's factor for the runs that a law leaves to spare. But a curve at one size
    leans on the few runs near it, so its spread is known worse than that: by the degrees of freedom of Bell and
    McCaffrey (2002), which match the variance of the robust variance estimate to a chi-square's.

    Args:
        estimates: The two arms' fits.
        gradients: For each arm (N, F), the slopes of the logarithm of its law at the N sizes.

    Returns:
        (N,) factors, at least 1.
    """
    mean = variance = 0.0
    for estimate, gradient in zip(estimates, gradients):
        expected, square = _moments(estimate, gradient)
        mean, variance = mean + expected, variance + square
    freedom = np.maximum(mean**2 / np.maximum(variance, 1e-300), 1.0)
    given = float(np.mean([small_sample_factor(estimate) for estimate in estimates]))
    return np.maximum(student_factor(freedom) / given, 1.0)


def _moments(estimate: Estimate, gradient: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Trace of M and of M squared (N,), where the HC3 variance of each value is e' M e for unit errors e."""
    slopes = estimate.slopes()
    influence = gradient @ np.linalg.pinv(slopes.T @ slopes, rcond=1e-12, hermitian=True) @ slopes.T
    rest = np.eye(len(slopes)) - hat(slopes)
    weights = (influence / np.maximum(np.diag(rest), 0.05)) ** 2
    return weights @ np.diag(rest), np.einsum("ni,ij,nj->n", weights, rest**2, weights)
