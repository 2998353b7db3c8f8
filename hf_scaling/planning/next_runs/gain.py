"""How much narrower an interval will be after further runs, expected from the bootstrap draws.

Every draw gives a value of the quantity and what each candidate run would then show. The more the two are correlated
over the draws, the more a run narrows the quantity. In normal scores of the draws (van der Waerden 1952) this is the
linear normal case of preposterior analysis (Raiffa and Schlaifer 1961): a run narrows the quantity by an amount that
does not depend on its result, so that several runs can be selected before the first is trained. Scores instead of the
draws themselves, because draws of loose laws are skewed, stop at bounds, have two modes, or are infinite.
"""

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri, stdtrit

from hf_scaling.boundary import Boundary
from hf_scaling.boundary.find import interval, nearest_zeros, search_grid, sign_changes
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.law_fit import quantiles, read_sizes
from hf_scaling.fitting.solver import Objective
from hf_scaling.planning.next_runs.candidates import MeasuredRuns

# A prediction is at this many times the largest sizes unless `at` sets its place.
_FAR = 10.0
_ARMS = ("plain", "distilled")
# What a boundary's curve takes of the pairs' degrees of freedom, and about as many more for each further size.
_PARAMETERS = 3
Sizes = Mapping[str, np.ndarray]
Source = LawFit | Boundary | Mapping[str, LawFit]
At = Mapping[str, float | Sequence[float] | np.ndarray] | pd.DataFrame


# --- The quantity ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A quantity with its draws.

    Attributes:
        name: The quantity as text.
        value: Its estimate; of a boundary that is not resolved the crossing of the laws, None without one.
        low: Lower end of its interval.
        high: Upper end of its interval.
        level: Of the interval.
        draws: (B,) of the quantity.
        columns: The sizes that a run is chosen by.
        predict_runs: Sizes by column (N,) to (B, N) draws of what a run of these sizes would show, without its noise.
        noise: Variance of one run about that.
        spare: Degrees of freedom: configurations beyond the free parameters; of a boundary, pairs beyond them.
        arms: The arms in which each candidate is trained; where there are two, runs are pairs.
        at: The places of a prediction, sizes by column (M,).
    """

    name: str
    value: float | None
    low: float
    high: float
    level: float
    draws: np.ndarray
    columns: tuple[str, ...]
    predict_runs: Callable[[Sizes], np.ndarray]
    noise: float
    spare: int
    arms: tuple[str, ...] = ()
    at: Sizes = field(default_factory=dict)


def estimate_quantity(fit: Source, quantity: str, at: At | None) -> Estimate:
    """The estimate and draws of a quantity by a fit, a boundary or both arms' fits.

    Args:
        fit: Any of them.
        quantity: prediction, boundary, or the symbol of a parameter ("law.symbol" in a mixture).
        at: The place of a prediction or a boundary, or several of a prediction, whose mean is then the quantity.

    Raises:
        InputError: The quantity is not one of theirs, `at` does not go with it, or there are no draws.
    """
    if isinstance(fit, LawFit):
        if quantity == "boundary":
            raise InputError(
                "quantity 'boundary' needs both arms: give find_boundary(table), or their fits as {'plain': ..., ...}"
            )
        return _of_law(fit, quantity, at)
    pair = isinstance(fit, Mapping) and set(fit) == set(_ARMS) and all(isinstance(f, LawFit) for f in fit.values())
    if not pair and not isinstance(fit, Boundary):
        kinds = "a fit, a boundary or both arms' fits as {'plain': fit, 'distilled': other}"
        raise InputError(f"suggest_runs needs {kinds}, not {type(fit).__name__}")
    if quantity != "boundary":
        raise InputError(f"quantity {quantity!r} is unknown: a boundary, or both arms' fits, have only 'boundary'")
    at = {} if at is None else at
    return _of_boundary(fit, at) if isinstance(fit, Boundary) else _of_arms(fit["plain"], fit["distilled"], at)


def _of_law(fit: LawFit, quantity: str, at: At | None) -> Estimate:
    sizes: dict[str, np.ndarray] = {}
    if quantity == "prediction":
        columns = sorted(set(fit.columns.values()))
        if at is None:
            # Shares end at one; only sizes grow.
            largest = {name: fit.data["ranges"][name][1] for name in columns}
            at = {name: size * (_FAR if size > 1 else 1.0) for name, size in largest.items()}
        sizes = _places(at, columns)
        value = float(fit.predict(sizes)["value"].mean())
        drawn = fit.draw_values(sizes).mean(axis=1)
        low, high = quantiles(drawn, fit.settings["level"], value) if len(drawn) else (np.nan, np.nan)
        ends, count = (float(low), float(high)), len(sizes[columns[0]])
        place = _describe_sizes({name: values[0] for name, values in sizes.items()})
        name = f"{fit.settings['target']} at {place if count == 1 else f'{count} places, mean'}"
    else:
        if at is not None:
            raise InputError(f"at= changes nothing for the parameter {quantity!r}: leave it out")
        # In a mixture a parameter is one member's, and so is what its runs would show.
        law, _, symbol = quantity.rpartition(".")
        fit, name = next(((member, symbol) for member in fit.members if member.law == law), (fit, quantity))
        if fit.definition is None or name not in fit.params:
            known = ", ".join(fit.params)
            raise InputError(f"quantity {quantity!r} is unknown: choose prediction, boundary or one of {known}")
        index = [parameter.name for parameter in fit.definition.parameters].index(name)
        value, ends, drawn = fit.params[name], fit.intervals.get(name, (np.nan, np.nan)), fit.draws[:, index]
    if len(drawn) == 0 or np.isnan(drawn).mean() > 0.5:
        raise InputError(
            "this fit has no bootstrap draws of that quantity: fit again with bootstrap=1000 and more sizes than free "
            "parameters"
        )
    scale = Objective(fit.settings["objective"])
    return Estimate(
        name=name,
        value=value,
        low=ends[0],
        high=ends[1],
        level=fit.settings["level"],
        draws=drawn,
        columns=tuple(dict.fromkeys(fit.columns.values())),
        predict_runs=lambda at: scale.scale(fit.fitted_draws(at)),
        noise=float(np.mean(np.square(fit.noise))),
        spare=int(fit.scores["n_configurations"]) - max(_n_free(member) for member in fit.members or (fit,)),
        at=sizes,
    )


def _n_free(fit: LawFit) -> int:
    tied = sum(len(group) - 1 for group in fit.settings["tied"])
    return len(fit.params) - len(fit.settings["fixed"]) - tied


def _places(at: At, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The places, (M,) sizes by column; a mapping has no column but these, and a single number is of all places."""
    for name in columns if isinstance(at, pd.DataFrame) else [*columns, *at]:
        if name not in at or name not in columns:
            problem = "is missing" if name in columns else "is not one of the law's sizes"
            raise InputError(f"at=: {name} {problem}; give {', '.join(columns)}")
    try:
        places, _ = read_sizes(at, set(columns)) if columns else ({}, None)
    except InputError as error:
        raise InputError(f"at=: {error}") from None
    for name, values in places.items():
        if not len(values) or not np.isfinite(values).all():
            raise InputError(f"at=: {name} must be a finite number, or one for each place")
    return {name: places[name] for name in columns}


def _one_place(at: At, columns: Sequence[str]) -> dict[str, float]:
    """The place of a boundary: one number for each of the columns, and for no other."""
    places = _places(at, columns)
    for name, values in places.items():
        if len(values) != 1:
            raise InputError(f"at=: {name} of a boundary must be one number, not {len(values)} of them")
    return {name: float(values[0]) for name, values in places.items()}


def _describe_sizes(sizes: Mapping[str, float]) -> str:
    # Six digits, not the text layer's: the text is a value of --json, which stays as it was.
    return ", ".join(f"{name} {value:,.6g}" for name, value in sizes.items())


def _of_boundary(boundary: Boundary, at: At) -> Estimate:
    if boundary.x != "n_pretrain":
        raise InputError(f"runs are chosen by n_pretrain: give the boundary along it, not along {boundary.x}")
    names = [str(name) for name in at]
    for name in names:
        if name not in ("n_params", "n_finetune"):
            raise InputError(f"at=: {name} is not a size of a boundary; give n_params or n_finetune")
    boundary = boundary.at(**_one_place(at, names)) if names else boundary
    pairs, ratio, others = boundary.evidence.pairs, boundary.evidence.ratio, tuple(boundary.sizes)

    def log_ratios(sizes: Sizes, of_draws: bool) -> np.ndarray:
        """(B, N) log(plain / distilled) of the draws, or (1, N) of the estimate, at sizes by column."""
        x = np.asarray(sizes["n_pretrain"], dtype=float)
        places = np.array([np.asarray(sizes[name], dtype=float) for name in others]).reshape(len(others), len(x)).T
        distinct, which = np.unique(places, axis=0, return_inverse=True)
        result = np.empty((0, len(x)))
        for number, place in enumerate(distinct):
            here = which.reshape(-1) == number
            estimate, drawn = ratio.log_ratio(x[here], dict(zip(others, map(float, place))))
            part = drawn if of_draws else estimate[None]
            result = np.empty((len(part), len(x))) if number == 0 else result
            result[:, here] = part
        return result

    fitted = log_ratios({name: getattr(pairs, name) for name in ("n_pretrain", *others)}, of_draws=False)[0]
    residuals = np.log(pairs.plain / pairs.distilled) - fitted
    spare = max(len(pairs) - _PARAMETERS * (1 + len(others)), 1)
    grid = search_grid(pairs.n_pretrain)
    zero, draws = _zeros(grid, *ratio.log_ratio(grid, boundary.sizes), pairs.n_pretrain)
    name, value, (low, high) = "boundary, not resolved", zero, interval(draws, boundary.level)
    if boundary.status == "crossing" and boundary.low is not None and boundary.high is not None:
        name, value, low, high = "boundary", boundary.n_pretrain, boundary.low, boundary.high
    return Estimate(
        name=name + (f" at {_describe_sizes(boundary.sizes)}" if boundary.sizes else ""),
        value=value,
        low=low,
        high=high,
        level=boundary.level,
        draws=draws,
        columns=("n_pretrain", *others),
        predict_runs=lambda sizes: log_ratios(sizes, of_draws=True),
        noise=float(np.sum(residuals**2) / spare),
        spare=spare,
        arms=_ARMS,
    )


def _of_arms(plain: LawFit, distilled: LawFit, at: At) -> Estimate:
    columns = tuple(dict.fromkeys(plain.columns.values()))
    if set(columns) != set(distilled.columns.values()) or "n_pretrain" not in columns:
        raise InputError("both arms' laws must take the same sizes, n_pretrain among them")
    place = _one_place(at, [name for name in columns if name != "n_pretrain"])

    def predict_runs(sizes: Sizes) -> np.ndarray:
        drawn = [fit.fitted_draws(sizes) for fit in (plain, distilled)]
        count = min(map(len, drawn))
        return np.log(drawn[0][:count]) - np.log(drawn[1][:count])

    ends = np.array(plain.data["ranges"]["n_pretrain"])
    grid = search_grid(ends)
    sizes = {**{name: np.full(len(grid), value) for name, value in place.items()}, "n_pretrain": grid}
    drawn = predict_runs(sizes)
    if not len(drawn) or np.isnan(drawn).all():
        raise InputError("these fits have no bootstrap draws: fit again with bootstrap=1000")
    zero, draws = _zeros(
        grid, np.log(plain.fitted_values(sizes)) - np.log(distilled.fitted_values(sizes)), drawn, ends
    )
    low, high = quantiles(draws, plain.settings["level"])
    one, two = plain.noise, distilled.noise
    # Residuals are paired where both arms have the same rows.
    paired = len(one) == len(two) and plain.data["ranges"] == distilled.data["ranges"]
    return Estimate(
        name="boundary" + (f" at {_describe_sizes(place)}" if place else ""),
        value=zero,
        low=float(low),
        high=float(high),
        level=plain.settings["level"],
        draws=draws,
        columns=columns,
        predict_runs=predict_runs,
        noise=float(np.mean((one - two) ** 2) if paired else np.mean(one**2) + np.mean(two**2)),
        spare=min(int(fit.scores["n_rows"]) - _n_free(fit) for fit in (plain, distilled)),
        arms=_ARMS,
    )


def _zeros(
    grid: np.ndarray, curve: np.ndarray, drawn: np.ndarray, measured: np.ndarray
) -> tuple[float | None, np.ndarray]:
    """The fall of a curve through zero nearest to the middle of the measured sizes, if any; and that of each draw."""
    middle = float(np.exp(np.log(measured).mean()))
    falls = [size for size, direction in sign_changes(grid, curve) if direction < 0]
    zero = min(falls, key=lambda size: abs(np.log(size / middle))) if falls else None
    return zero, nearest_zeros(grid, drawn, middle if zero is None else zero, -1)


# --- What runs are expected to add ----------------------------------------------------------------------------------

# The share of a normal sample in an interval of 1.96 standard deviations to both sides.
_CENTRAL = 0.95
_DEVIATIONS = 1.959964
# As in the bootstrap: a configuration that alone determines its fit has no residual worth the name.
_LEAST_REST = 0.05


class ExpectedGain:
    """The expected interval of a quantity while runs are selected one after another.

    By default the interval follows from the linear normal case and Student's quantile of the configurations beyond the
    parameters. The conservative one is that of a refit: the noise of a size follows from the size's own residual,
    inflated for leverage (HC3, docs/fitting.md), and where few residuals decide, the interval itself is uncertain,
    which counts as few degrees of freedom (Satterthwaite 1946). It spreads runs over neighbouring sizes.

    Args:
        quantity: (B,) draws of the quantity; infinities are allowed.
        predicted: (B, C) draws of what a run of each of C configurations would show, without its noise.
        noise: Variance of one run about that.
        is_new: (C,) whether the configuration is not measured yet; None where each run is judged by itself, as the
            pairs of a boundary are.
        spare: Degrees of freedom of today's interval.
    """

    def __init__(
        self,
        quantity: np.ndarray,
        predicted: np.ndarray,
        noise: float,
        is_new: np.ndarray | None,
        spare: float,
    ):
        # The quantity's own scale plays no part: its scores have variance one.
        aim = normal_scores(quantity[:, None])[:, 0]
        # Standard deviations that correspond to the central 95 % of each column.
        filled = np.where(np.isfinite(predicted), predicted, _middle(predicted))
        low, high = np.quantile(filled, [(1 - _CENTRAL) / 2, (1 + _CENTRAL) / 2], axis=0)
        self._predicted = normal_scores(predicted) * ((high - low) / (2 * _DEVIATIONS))
        # Without any noise a second run of one size would divide 0 by 0.
        self._noise, self._is_new, self._spare = max(noise, 1e-12), is_new, max(spare, 1.0)
        self._today = float(aim @ aim / len(aim))
        self._toward = aim @ self._predicted / len(aim)
        # Of the runs so far: the inverse of their covariance, and its products with their covariance with the quantity
        # and with all configurations; of the configurations, the variance that the runs leave.
        self._runs: list[int] = []
        self._inverse, self._before = np.empty((0, 0)), np.empty(0)
        self._columns = self._through = np.empty((0, len(self._toward)))
        self._left = np.einsum("bc,bc->c", self._predicted, self._predicted) / len(aim) + self._noise
        self._conservative, self.width = False, 1.0
        self._next = self._widths()

    def conservative(self) -> "ExpectedGain":
        """A copy with the conservative expectation."""
        result = copy(self)
        result._conservative = True
        result._next = result._widths()
        return result

    def gains(self) -> np.ndarray:
        """(C,) by how much one further run of each configuration lowers `width`, the share of today's interval."""
        return self.width - self._next

    def add(self, configuration: int) -> None:
        """Count a run of this configuration as measured."""
        self.width = float(self._next[configuration])
        column = self._predicted.T @ self._predicted[:, configuration] / len(self._predicted)
        row, left = self._through[:, configuration], self._left[configuration]
        rest = column - row @ self._columns
        toward = self._toward[configuration] - row @ self._toward[self._runs]
        corner = np.append(-row, 1.0)
        self._inverse = np.pad(self._inverse, (0, 1)) + np.outer(corner, corner) / left
        self._before = np.append(self._before, 0.0) + corner * toward / left
        self._through = np.pad(self._through, ((0, 1), (0, 0))) + np.outer(corner, rest) / left
        self._left = np.maximum(self._left - rest**2 / left, self._noise)
        self._columns = np.concatenate([self._columns, column[None]])
        self._runs = [*self._runs, configuration]
        self._next = self._widths()

    def _widths(self) -> np.ndarray:
        """(C,) the width after the R runs so far and one of each configuration, as a share of today's.

        The inverse of the runs' covariance is extended by the further run, for all configurations at once: it gives
        the weights with which the results of the runs move the quantity, and the leverages of the runs.
        """
        through, left = self._through, self._left
        weight = (self._toward - self._before @ self._columns) / left
        weights = np.concatenate([self._before[:, None] - through * weight, weight[None]])
        explained = self._toward[self._runs] @ weights[:-1] + self._toward * weight
        variance = np.maximum(self._today - explained, 1e-12 * self._today)
        if self._conservative:
            diagonal = np.concatenate([np.diag(self._inverse)[:, None] + through**2 / left, 1 / left[None]])
            parts = self._by_cluster(self._noise * weights**2)
            old = np.maximum(variance - parts.sum(axis=0), 0.0)
            parts = parts / np.maximum(1 - self._by_cluster(1 - self._noise * diagonal), _LEAST_REST)
            variance = old + parts.sum(axis=0)
            freedom = variance**2 / (old**2 / self._spare + (parts**2).sum(axis=0))
        elif self._is_new is None:
            freedom = self._spare + np.full(len(self._toward), len(self._runs) + 1)
        else:
            begun = np.isin(np.arange(len(self._toward)), self._runs)
            freedom = self._spare + ((self._is_new & begun).sum() + (self._is_new & ~begun))
        student = stdtrit(freedom, 0.975) / stdtrit(self._spare, 0.975)
        with np.errstate(invalid="ignore"):  # no variance today: nothing to gain
            return np.sqrt(variance / self._today) * student

    def _by_cluster(self, values: np.ndarray) -> np.ndarray:
        """Sum over the runs (R + 1, C) of each cluster; the last row is the further run's where it begins one."""
        if self._is_new is None or not self._runs:
            return values
        distinct, which = np.unique(self._runs, return_inverse=True)
        sums = np.zeros((len(distinct) + 1, values.shape[1]))
        np.add.at(sums, which, values[:-1])
        sums[-1] = values[-1]
        sums[np.arange(len(distinct)), distinct] += values[-1, distinct]
        sums[-1, distinct] = 0.0
        return sums


def expected_gain(frame: pd.DataFrame, estimate: Estimate, measured: MeasuredRuns) -> tuple[ExpectedGain, np.ndarray]:
    """The expected gain of the candidates' configurations, and which of them each candidate is.

    Candidates of the same sizes are one configuration: they would show the same, apart from noise.

    Raises:
        InputError: The law is not defined at the sizes of a candidate.
    """
    columns = list(estimate.columns)
    sizes, configuration = np.unique(frame[columns].to_numpy(dtype=float), axis=0, return_inverse=True)
    configuration = configuration.reshape(-1)
    predicted = estimate.predict_runs({name: sizes[:, number] for number, name in enumerate(columns)})
    for place in np.flatnonzero(np.isnan(predicted).mean(axis=0)[configuration] > 0.5):
        raise InputError(f"candidates, row {frame.index[int(place)]}: the law is not defined at these sizes")
    exists = set(measured.runs[columns].astype(float).itertuples(index=False, name=None))
    is_new = None if estimate.arms else np.array([tuple(size) not in exists for size in sizes])
    gain = ExpectedGain(estimate.draws[: len(predicted)], predicted, estimate.noise, is_new, estimate.spare)
    return gain, configuration


def normal_scores(draws: np.ndarray) -> np.ndarray:
    """(B, N) standard normal quantiles of the ranks within each column; undefined draws count as the middle."""
    ranks = pd.DataFrame(np.where(np.isnan(draws), _middle(draws), draws)).rank().to_numpy()
    return ndtri((ranks - 0.5) / len(draws))


def _middle(draws: np.ndarray) -> np.ndarray:
    """(N,) medians of the defined draws; 0 where there is none."""
    empty = np.isnan(draws).all(axis=0)
    return np.where(empty, 0.0, np.nanmedian(np.where(empty, 0.0, draws), axis=0))


def narrowed(draws: np.ndarray, value: float, level: float, width: float) -> tuple[float, float]:
    """The central interval of draws (B,) shrunk towards a value, to a share `width` of its width in normal scores.

    Returns:
        low, high: quantiles of the draws, so that they respect bounds and may be infinite.
    """
    draws = np.sort(draws[~np.isnan(draws)])
    tail = float(ndtri((1 + level) / 2))
    below = (np.searchsorted(draws, value) + np.searchsorted(draws, value, side="right")) / 2
    centre = float(np.clip(ndtri(np.clip(below / len(draws), 1e-6, 1 - 1e-6)), -tail, tail))
    ends = ndtr(centre + (np.array([-tail, tail]) - centre) * width)
    low, high = np.quantile(draws, ends, method="linear" if np.isfinite(draws).all() else "nearest")
    return float(min(low, value)), float(max(high, value))
