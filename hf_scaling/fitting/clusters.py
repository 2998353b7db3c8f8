"""Rows that share their luck: checkpoints of one run, fine-tuned rows of one checkpoint, rungs of one ladder.

Such rows are not independent: each cluster adds one deviation to all of its rows. Its variance and that of the rows'
own noise are estimated from the residuals (Henderson's method III, 1953: unbiased however unequal the clusters), and
refits are of data drawn with both, each part with Student's factor for its own degrees of freedom. The clusters are
few: resampling their residuals, as in a wild bootstrap of eight runs, would cover less than it says.
"""

from dataclasses import dataclass

import numpy as np

from hf_scaling.fitting.columns import note
from hf_scaling.fitting.estimate import Estimate, hat_basis, student_factor
from hf_scaling.text import format_percent

# With fewer degrees of freedom, the clusters' variance cannot be estimated, or is a guess.
_TOO_FEW, _FEW = 1.0, 3.0
# Residuals count as at most this many robust standard deviations.
_OUTLIER = 5.0


@dataclass(frozen=True)
class ClusterEffects:
    """The luck that the rows of each cluster share, and their own noise.

    Attributes:
        number: (N,) the cluster of each row.
        count: How many clusters.
        shared: Standard deviation of the clusters' deviations, on the objective's scale.
        own: Standard deviation of a row's own noise at weight 1.
        freedom_shared: Degrees of freedom behind `shared`: clusters minus the parameters determined between them.
        freedom_own: Degrees of freedom behind `own`.
        root_weights: (N,) square roots of the rows' weights.
        within: (N,) residuals of the law refitted, to first order, with a level of its own for each cluster, on the
            objective's scale: what the luck of clusters has no part in.
    """

    number: np.ndarray
    count: int
    shared: float
    own: float
    freedom_shared: float
    freedom_own: float
    root_weights: np.ndarray
    within: np.ndarray

    def draw(self, generator: np.random.Generator, count: int) -> np.ndarray:
        """(count, N) deviations from the law, on the objective's scale."""
        factors = student_factor(np.array([max(self.freedom_shared, _TOO_FEW), self.freedom_own]))
        luck = self.shared * factors[0] * generator.standard_normal((count, self.count))
        noise = self.own * factors[1] * generator.standard_normal((count, len(self.number)))
        deviations: np.ndarray = luck[:, self.number] + noise / self.root_weights
        return deviations

    def variance_of(self, slopes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Variance of each coordinate (F,) and its degrees of freedom, for weighted slopes (N, F)."""
        inverse = np.linalg.pinv(slopes.T @ slopes, rcond=1e-12, hermitian=True)
        sums = _sums(slopes * self.root_weights[:, None], self.number, self.count)
        between = self.shared**2 * np.einsum("if,gf->gi", inverse, sums) ** 2
        between, within = between.sum(axis=0), self.own**2 * np.diag(inverse)
        total = np.maximum(between + within, 1e-300)
        share = between / total
        freedom = 1 / (share**2 / max(self.freedom_shared, _TOO_FEW) + (1 - share) ** 2 / self.freedom_own)
        return total, freedom


def cluster_effects(estimate: Estimate) -> ClusterEffects | None:
    """The shared and the own noise of a fit's rows; None where every row is a cluster of its own."""
    number = estimate.rows.cluster
    if number is None:
        return None
    count = int(number.max()) + 1
    # Emphasis on some rows (a mixture's, on larger sizes) says nothing about their noise.
    emphasis = estimate.rows.emphasis
    stress = np.sqrt(np.ones(len(number)) if emphasis is None else emphasis)
    roots = estimate.problem.root_weights / stress
    # Not pseudo-values: of few clusters, whole ones lie outside delta, and their luck would be counted too small.
    limit = _OUTLIER * max(estimate.scale, 1e-300)
    residual = np.clip(estimate.residuals * roots, -limit, limit)
    basis = hat_basis(estimate.slopes() / stress[:, None])
    weights = np.bincount(number, roots**2, minlength=count)
    sums = _sums(basis * roots[:, None], number, count)
    # tr M Z Z' and tr (Z' M Z)^2 with M = I - QQ', Z the clusters' columns.
    shared_trace = float(weights.sum() - (sums**2).sum())
    square_trace = float((weights**2).sum() - 2 * weights @ (sums**2).sum(axis=1) + ((sums.T @ sums) ** 2).sum())
    # Within clusters: what is left when each one's own level is fitted too.
    inner = hat_basis(_centred(basis, roots, number, count))
    left = _centred(residual[:, None], roots, number, count)[:, 0]
    left = left - inner @ (inner.T @ left)
    freedom_own = max(len(number) - count - inner.shape[1], 1)
    own = float(left @ left) / freedom_own
    whole = residual - basis @ (basis.T @ residual)
    rest = float(whole @ whole) - float(left @ left) - own * (count + inner.shape[1] - basis.shape[1])
    shared = max(rest / shared_trace, 0.0) if shared_trace > 1e-9 * weights.sum() else 0.0
    return ClusterEffects(
        number=number,
        count=count,
        shared=float(np.sqrt(shared)),
        own=float(np.sqrt(own)),
        freedom_shared=shared_trace**2 / max(square_trace, 1e-300) if shared_trace > 1e-9 * weights.sum() else 0.0,
        freedom_own=float(freedom_own),
        root_weights=roots,
        within=left / roots,
    )


def cluster_notes(estimate: Estimate, effects: ClusterEffects) -> list[dict]:
    """What the clusters are and share; an error where they are too few for the law."""
    name, is_log = estimate.rows.cluster_name, estimate.problem.objective.is_log
    parts = [format_percent(part, 2) if is_log else f"{part:.3g}" for part in (effects.shared, effects.own)]
    text = (
        f"{len(effects.number)} rows are of {effects.count} clusters by {name}, which share {parts[0]} of luck beside "
    )
    text += (
        f"{parts[1]} of a row's own: intervals have {effects.freedom_shared:.1f} degrees of freedom between clusters"
    )
    notes = [note("clusters", "info", text)]
    if effects.freedom_shared < _FEW:
        text = f"{effects.count} clusters by {name} do not show how much luck their rows share"
        grade = "error" if effects.freedom_shared < _TOO_FEW else "warn"
        notes.append(note("few_clusters", grade, f"{text}: add runs, whose sizes differ, rather than rows"))
    return notes


def _sums(columns: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """(G, K) sums of the columns (N, K) over each cluster."""
    return np.stack([np.bincount(number, column, minlength=count) for column in columns.T], axis=1)


def _centred(columns: np.ndarray, roots: np.ndarray, number: np.ndarray, count: int) -> np.ndarray:
    """Weighted columns (N, K) less each cluster's level, which enters with the roots of the weights."""
    levels = _sums(columns * roots[:, None], number, count) / np.bincount(number, roots**2, minlength=count)[:, None]
    centred: np.ndarray = columns - roots[:, None] * levels[number]
    return centred
