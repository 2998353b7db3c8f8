"""What a fit minimises: squared or Huber loss of residuals on a linear or logarithmic scale, summed, never averaged.

The sum matters: with a mean, a solver that stops by the size of the gradient stops early (the cause of the refit of
Hoffmann et al. 2022 that Besiroglu et al. 2024 correct).
"""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.errors import InputError

OBJECTIVES = ("log_huber", "log_mse", "mse")


@dataclass(frozen=True)
class Objective:
    """One objective: the scale of its residuals and the loss on them.

    Attributes:
        name: log_huber, log_mse or mse.
        delta: Where the Huber loss turns from squared to linear, in units of the residuals; inf for squared loss.
    """

    name: str
    delta: float = np.inf

    @property
    def is_log(self) -> bool:
        """Whether residuals are differences of logarithms."""
        return self.name != "mse"

    def with_delta(self, delta: float) -> "Objective":
        """The same objective with another threshold."""
        return replace(self, delta=delta)

    def scale(self, values: np.ndarray) -> np.ndarray:
        """Values on the scale that residuals are taken on; NaN where a logarithm is undefined."""
        if not self.is_log:
            return values
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(values > 0, np.log(values), np.nan)

    def unscale(self, values: np.ndarray) -> np.ndarray:
        """The inverse of `scale`."""
        return np.exp(values) if self.is_log else values

    def loss(self, residuals: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """The summed loss over the last axis: squares / 2 inside delta, linear outside (Huber 1964).

        Args:
            residuals: (..., N).
            counts: (..., N) how often each row counts; once by default. Not the same as scaling residuals: outside
                delta the loss is linear, and a row that was drawn twice counts twice there too.
        """
        if np.isinf(self.delta):
            each = residuals if counts is None else residuals * counts
            return 0.5 * np.einsum("...n,...n->...", each, residuals)
        size = np.abs(residuals)
        inner = np.minimum(size, self.delta)
        each = inner * (size - 0.5 * inner)
        return (each if counts is None else each * counts).sum(axis=-1)

    def reweighting(self, residuals: np.ndarray) -> np.ndarray | float:
        """The weights psi(r)/r with which least squares takes the step of the Huber loss."""
        if np.isinf(self.delta):
            return 1.0
        return np.minimum(1.0, self.delta / np.maximum(np.abs(residuals), 1e-300))


def make_objective(name: str, delta: float | None) -> Objective:
    """The objective of that name.

    Raises:
        InputError: The name is unknown, or delta is given where it changes nothing, or is not positive.
    """
    if name not in OBJECTIVES:
        raise InputError(f"objective {name!r} is unknown: choose one of {', '.join(OBJECTIVES)}")
    if delta is not None and name != "log_huber":
        raise InputError(f"delta changes nothing under objective {name!r}: leave it out or use log_huber")
    if delta is not None and not delta > 0:
        raise InputError(f"delta must be positive, not {delta}")
    return Objective(name, np.inf if delta is None else float(delta))
