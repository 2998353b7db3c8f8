"""The error that a fit is expected to make at places after further runs, when its law is only approximately true.

A gain that follows from a law alone assumes that the law is true: it selects a few runs at the ends of the sizes,
which determine the parameters and bend the law towards its own misfit there. Here every law has a misfit that runs of
similar sizes share (Kennedy and O'Hagan 2001). A fit is least squares to first order: its prediction is a
weighted sum of the results, so that its mean square error, from noise and from the misfit, is known before a run is
trained. Its mean over the places is averaged over the laws of a mixture and some bootstrap draws of each, whose slopes
differ where other optima fit about as well. A further run may raise this error; an interval can only shrink.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hf_scaling.fitting import LawFit
from hf_scaling.fitting.rows import thinned
from hf_scaling.fitting.solver import Objective, coordinates_of
from hf_scaling.planning.next_runs.candidates import MeasuredRuns
from hf_scaling.planning.next_runs.gain import Estimate

# Of the variance of one run about its law, in units of the noise: the share that similar runs have in common, which
# falls by a factor of e with each factor of ten in a size.
_SHARED, _REACH = 0.25, np.log(10.0)
# What is known of every direction of the parameters before any run, as a share of what one average run adds.
_PRIOR = 1e-3
# Estimate and draws of all laws together; each law has at least its estimate and one draw.
_HYPOTHESES = 9
# More measured sizes than this are thinned: what runs share is a matrix of all pairs.
_MOST_MEASURED = 1000
# As are more places of the prediction.
_MOST_PLACES = 25
# Directions of the parameters that move the law by less than this share of the largest are left out.
_FLAT = 1e-10

Sizes = Mapping[str, np.ndarray]


@dataclass
class _Hypothesis:
    """One law at one vector of parameters, with its uncertainty after the runs so far.

    Attributes:
        weight: How much it counts.
        slopes: (C, P) of the candidates, in coordinates in which the sizes together have the unit matrix.
        aims: (M, P) slopes of the prediction at its places.
        inverse: (P, P) inverse of the information of the runs.
        spread: (P, P) covariance of slope-weighted results: noise, what is shared, and the prior.
        through: (C, P) covariance of each candidate with the slope-weighted results.
        toward: (M, P) covariance of the misfit at the places with the slope-weighted results.
    """

    weight: float
    slopes: np.ndarray
    aims: np.ndarray
    inverse: np.ndarray
    spread: np.ndarray
    through: np.ndarray
    toward: np.ndarray

    def error(self) -> float:
        """Mean square error of the prediction, over its places."""
        pulls = self.aims @ self.inverse
        squares = np.einsum("mp,mp->m", pulls @ self.spread, pulls) - 2 * np.einsum("mp,mp->m", pulls, self.toward)
        return float(squares.mean()) + _SHARED

    def errors(self, shared_at: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """(C,) the same after `counts` (C,) more runs; `shared_at` (C, M) are covariances of candidates and places."""
        moved = self.slopes @ self.inverse
        known = 1 + counts * np.einsum("cp,cp->c", self.slopes, moved)
        total = np.zeros(len(counts))
        for aim, toward, shared in zip(self.aims, self.toward, shared_at.T):
            pull = self.inverse @ aim
            pulls = pull - moved * (counts * (self.slopes @ pull) / known)[:, None]
            own = counts * np.einsum("cp,cp->c", pulls, self.slopes)
            squares = np.einsum("cp,cp->c", pulls @ self.spread, pulls)
            squares += 2 * own * np.einsum("cp,cp->c", pulls, self.through) + own**2 * (1 / counts + _SHARED)
            total += squares - 2 * (pulls @ toward + own * shared)
        return np.maximum(total / len(self.aims) + _SHARED, 1e-12)

    def add(self, row: int, shared: np.ndarray, shared_at: np.ndarray, count: int) -> None:
        """Count runs of candidate `row` as measured; `shared` (C,) and `shared_at` (M,) are its covariances."""
        slope = self.slopes[row]
        cross = np.outer(slope, self.through[row])
        self.spread = self.spread + count * (cross + cross.T + np.outer(slope, slope) * (1 + count * _SHARED))
        self.through = self.through + count * np.outer(shared, slope)
        self.toward = self.toward + count * np.outer(shared_at, slope)
        moved = self.inverse @ slope
        self.inverse = self.inverse - count * np.outer(moved, moved) / (1 + count * (slope @ moved))


class ExpectedError:
    """The expected error of a prediction while runs are selected one after another.

    Args:
        fit: The law, or a mixture, each of whose laws counts by its weight.
        candidates: Sizes by column (C,).
        measured: Sizes by column (K,) of the runs that exist, replicates included.
        at: The places of the prediction, sizes by column (M,).
    """

    def __init__(self, fit: LawFit, candidates: Sizes, measured: Sizes, at: Sizes):
        names = list(candidates)
        runs = np.column_stack([np.asarray(measured[name], dtype=float) for name in names])
        places, counts = np.unique(runs, axis=0, return_counts=True)
        kept = thinned(len(places), _MOST_MEASURED)
        places, counts = places[kept], counts[kept] * (len(places) / len(kept))
        wanted = np.column_stack([np.asarray(candidates[name], dtype=float) for name in names])
        targets = np.unique(np.column_stack([np.asarray(at[name], dtype=float) for name in names]), axis=0)
        targets = targets[thinned(len(targets), _MOST_PLACES)]
        points = np.concatenate([wanted, places, targets])
        # A zero counts as a tenth of the smallest positive size.
        smallest = np.where(points > 0, points, np.inf).min(axis=0)
        logs = np.log(np.maximum(points, np.where(np.isfinite(smallest), smallest, 1.0) / 10))
        count, known = len(wanted), len(wanted) + len(places)
        self._shared = _share(logs[:count], logs[:count])
        between, among = _share(logs[:count], logs[count:known]), _share(logs[count:known], logs[count:known])
        shared_at = _share(logs[:known], logs[known:])
        self._shared_at = shared_at[:count]
        self._hypotheses = []
        for weight, slopes in _slopes(fit, dict(zip(names, points.T)), len(targets)):
            own, seen, aims = slopes[:count], slopes[count:known] * counts[:, None], slopes[known:]
            prior = _PRIOR * np.eye(slopes.shape[1])
            information = slopes[count:known].T @ seen + prior
            spread = seen.T @ among @ seen + information
            toward, inverse = shared_at[count:].T @ seen, np.linalg.inv(information)
            self._hypotheses.append(_Hypothesis(weight, own, aims, inverse, spread, between @ seen, toward))

    @property
    def usable(self) -> bool:
        """Whether any law has slopes at the places."""
        return bool(self._hypotheses)

    def level(self) -> float:
        """The root mean square error, as the weighted geometric mean over laws and draws, in units of the noise."""
        return float(np.exp(0.5 * sum(each.weight * np.log(max(each.error(), 1e-12)) for each in self._hypotheses)))

    def gains(self, counts: np.ndarray) -> np.ndarray:
        """(C,) the share by which `counts` (C,) more runs of a candidate lower the error; below 0 if they raise it."""
        total = np.zeros(len(self._shared_at))
        for each in self._hypotheses:
            total += each.weight * np.log(each.errors(self._shared_at, counts) / max(each.error(), 1e-12))
        return -np.expm1(0.5 * total)

    def add(self, row: int, count: int) -> None:
        """Count `count` runs of candidate `row` as measured."""
        for each in self._hypotheses:
            each.add(row, self._shared[row], self._shared_at[row], count)


def expected_error(fit: LawFit, frame: pd.DataFrame, estimate: Estimate, measured: MeasuredRuns) -> ExpectedError:
    """The expected error of a prediction at the candidates' configurations, in the order of `expected_gain`'s."""
    columns = list(estimate.columns)
    sizes = np.unique(frame[columns].to_numpy(dtype=float), axis=0)
    runs = {name: measured.runs[name].to_numpy(dtype=float) for name in columns}
    return ExpectedError(fit, dict(zip(columns, sizes.T)), runs, estimate.at)


def _share(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(N, M) covariance of a law's misfit at log sizes (N, V) and (M, V), in units of the noise's variance."""
    distance = sum(np.abs(np.subtract.outer(a, b)) for a, b in zip(one.T, two.T))
    return _SHARED * np.exp(-distance / _REACH)


def _slopes(fit: LawFit, sizes: Sizes, places: int) -> list[tuple[float, np.ndarray]]:
    """Weight and slopes (N, P) of each law's estimate and of some of its draws, at sizes by column (N,).

    The last `places` of the sizes are those of the prediction: draws without slopes there are left out.
    """
    members: Sequence[LawFit] = fit.members or (fit,)
    result = []
    for member in members:
        law = member.definition
        assert law is not None  # only a mixture has none
        drawn = member.draws[thinned(len(member.draws), max(_HYPOTHESES // len(members) - 1, 1))]
        theta = np.concatenate([member.theta[None], drawn])
        variables = {variable: sizes[column] for variable, column in member.columns.items()}
        with np.errstate(all="ignore"):
            values, gradients = law.value_and_gradient(theta, variables)
            if Objective(member.settings["objective"]).is_log:
                gradients = gradients / values[..., None]
        spread = coordinates_of(law, member.settings["fixed"], member.settings["tied"]).spread
        weight = fit.weights.get(member.law, 1.0) / len(theta)
        for slopes in gradients @ spread:
            if not np.isfinite(slopes[-places:]).all():
                continue
            finite = np.where(np.isfinite(slopes), slopes, 0.0)
            # In coordinates in which their mean outer product is the unit matrix, without flat directions.
            scaled = finite / np.maximum(np.linalg.norm(finite, axis=0), 1e-300)
            lengths, vectors = np.linalg.eigh(scaled.T @ scaled / len(scaled))
            kept = lengths > _FLAT * lengths[-1]
            result.append((weight, scaled @ (vectors[:, kept] / np.sqrt(lengths[kept]))))
    total = sum(weight for weight, _ in result)
    return [(weight / total, slopes) for weight, slopes in result]
