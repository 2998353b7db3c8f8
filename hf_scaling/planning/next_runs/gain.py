"""How much narrower an interval will be after further runs: the bootstrap draws, read as what is believed today.

Every draw says what the quantity may be and what each candidate run would then show. The closer the two go together
over the draws, the more a run tells of the quantity. In normal scores of the draws (van der Waerden 1952) this is the
linear normal case of preposterior analysis (Raiffa and Schlaifer 1961): a run narrows the quantity by an amount that
does not depend on what it will show, so that several runs can be chosen before the first is made. Scores instead of
the draws themselves, because draws of loose laws are skewed, stop at bounds, have two modes, or are infinite.
"""

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass

import numpy as np

from hf_scaling.boundary import Boundary
from hf_scaling.boundary.find import interval, nearest_zeros, search_grid, sign_changes
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.solver import Objective

# A prediction is asked for at this many times the largest sizes where nobody says where.
_FAR = 10.0
_ARMS = ("plain", "distilled")
# A power law's, and about as many more for each further size: what a boundary's laws use up of its pairs.
_PARAMETERS = 3
Sizes = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Knowledge:
    """A quantity with its draws.

    Attributes:
        name: The quantity in words.
        value: The estimate; of a boundary that is not resolved where the laws cross at all, or None.
        low: Its interval.
        high: See low.
        level: Of the interval.
        draws: (B,) of the quantity.
        columns: The sizes that a run is chosen by.
        foresee: Sizes by column (N,) to (B, N) draws of what a run of these sizes would show, its noise apart.
        noise: Variance of one run about that.
        spare: Degrees of freedom: configurations beyond the free parameters; of a boundary, pairs beyond them.
        arms: The arms in which each candidate is made; where there are two, runs are pairs.
    """

    name: str
    value: float | None
    low: float
    high: float
    level: float
    draws: np.ndarray
    columns: tuple[str, ...]
    foresee: Callable[[Sizes], np.ndarray]
    noise: float
    spare: int
    arms: tuple[str, ...] = ()


def know(fit, quantity: str, at: Mapping[str, float] | None) -> Knowledge:
    """What a fit, a boundary or two arms' fits know of a quantity.

    Raises:
        InputError: The quantity is not one of theirs, `at` does not go with it, or there are no draws.
    """
    both = isinstance(fit, Mapping) and set(fit) == set(_ARMS) and all(isinstance(f, LawFit) for f in fit.values())
    if not (both or isinstance(fit, Boundary | LawFit)):
        kinds = "a fit, a boundary or both arms' fits as {'plain': fit, 'distilled': other}"
        raise InputError(f"suggest_runs takes {kinds}, not {type(fit).__name__}")
    if not isinstance(fit, LawFit):
        if quantity != "boundary":
            raise InputError(f"quantity {quantity!r}: of a boundary, or of both arms' fits, it is 'boundary'")
        return _of_boundary(fit, at) if isinstance(fit, Boundary) else _of_arms(fit, at)
    if quantity == "boundary":
        raise InputError("quantity 'boundary' needs both arms: give find_boundary(table), or {'plain': ..., ...} fits")
    if quantity == "prediction":
        return _of_prediction(fit, at)
    if at is not None:
        raise InputError(f"at= changes nothing for the parameter {quantity!r}: leave it out")
    return _of_parameter(fit, quantity)


def _of_prediction(fit: LawFit, at: Mapping[str, float] | None) -> Knowledge:
    columns = sorted(set(fit.columns.values()))
    if at is None:
        # Shares end at one; only sizes grow.
        ends = {name: fit.data["ranges"][name][1] for name in columns}
        at = {name: end * (_FAR if end > 1 else 1.0) for name, end in ends.items()}
    sizes = _one_place(at, columns)
    row = fit.predict(sizes).iloc[0]
    drawn = fit.draw_values({name: np.array([value]) for name, value in sizes.items()})[:, 0]
    name = f"{fit.settings['target']} at {_words(sizes)}"
    return _of_fit(fit, name, float(row["value"]), (float(row["low"]), float(row["high"])), drawn)


def _of_parameter(fit: LawFit, symbol: str) -> Knowledge:
    law, _, alone = symbol.rpartition(".")
    members = {member.law: member for member in fit.members}
    if law in members:
        # In a mixture a parameter is one member's, and so is what its runs would show.
        return _of_parameter(members[law], alone)
    if symbol not in fit.params:
        raise InputError(
            f"quantity {symbol!r} is unknown: choose prediction, boundary or one of {', '.join(fit.params)}"
        )
    index = [p.name for p in fit.definition.parameters].index(symbol)
    ends = fit.intervals.get(symbol, (np.nan, np.nan))
    return _of_fit(fit, symbol, fit.params[symbol], ends, fit.draws[:, index])


def _of_fit(fit: LawFit, name: str, value: float, ends: tuple[float, float], drawn: np.ndarray) -> Knowledge:
    scale = Objective(fit.settings["objective"])

    def foresee(sizes: Sizes) -> np.ndarray:
        return scale.scale(fit.draw_values(sizes))

    free = max(_free(member) for member in fit.members or (fit,))
    return Knowledge(
        name=name,
        value=value,
        low=ends[0],
        high=ends[1],
        level=fit.settings["level"],
        draws=_usable(drawn),
        columns=tuple(dict.fromkeys(fit.columns.values())),
        foresee=foresee,
        noise=float(np.mean(np.square(fit.noise))),
        spare=int(fit.scores["n_configurations"]) - free,
    )


def _free(fit: LawFit) -> int:
    tied = sum(len(group) - 1 for group in fit.settings["tied"])
    return len(fit.params) - len(fit.settings["fixed"]) - tied


def _usable(drawn: np.ndarray) -> np.ndarray:
    if len(drawn) == 0 or np.isnan(drawn).mean() > 0.5:
        raise InputError(
            "this fit holds no bootstrap draws of that quantity: fit again with bootstrap=1000 and more sizes than "
            "free parameters"
        )
    return drawn


def _one_place(at: Mapping[str, float], columns: list[str]) -> dict[str, float]:
    """The sizes of the one place asked about."""
    for name in columns:
        if name not in at:
            raise InputError(f"at= needs {name}: the law takes {', '.join(columns)}")
    for name in at:
        if name not in columns:
            raise InputError(f"at= has {name!r}; the law takes {', '.join(columns)}")
    found = {}
    for name in columns:
        values = np.atleast_1d(np.asarray(at[name]))
        if values.size != 1 or not np.issubdtype(values.dtype, np.number) or not np.isfinite(values[0]):
            raise InputError(f"at= {name}: {at[name]!r} is not one number")
        found[name] = float(values[0])
    return found


def _of_boundary(line: Boundary, at: Mapping[str, float] | None) -> Knowledge:
    if line.x != "n_pretrain":
        raise InputError(f"runs are chosen by n_pretrain: give the boundary along it, not along {line.x}")
    line = line if at is None else line.at(**_boundary_place(at))
    evidence = line.evidence
    pairs = evidence.pairs
    others = tuple(line.sizes)

    def foresee(sizes: Sizes) -> np.ndarray:
        return _by_place(lambda x, place: evidence.arms.log_ratio(x, place)[1], sizes, others)

    measured = {name: getattr(pairs, name) for name in ("n_pretrain", *others)}
    fitted = _by_place(lambda x, place: evidence.arms.log_ratio(x, place)[0][None], measured, others)[0]
    residual = np.log(pairs.plain / pairs.distilled) - fitted
    spare = max(len(pairs) - _PARAMETERS * (1 + len(others)), 1)
    grid = search_grid(pairs.n_pretrain)
    curve, drawn = evidence.arms.log_ratio(grid, line.sizes)
    zero, draws = _zeros(grid, curve, drawn, pairs.n_pretrain)
    found = line.status == "crossing"
    low, high = (line.low, line.high) if found else interval(draws, line.level)
    return Knowledge(
        name=("boundary" if found else "boundary, not resolved") + (f" at {_words(line.sizes)}" if line.sizes else ""),
        value=line.n_pretrain if found else zero,
        low=low,
        high=high,
        level=line.level,
        draws=draws,
        columns=("n_pretrain", *others),
        foresee=foresee,
        noise=float(np.sum(residual**2) / spare),
        spare=spare,
        arms=_ARMS,
    )


def _boundary_place(at: Mapping[str, float]) -> dict[str, float]:
    for name in at:
        if name not in ("n_params", "n_finetune"):
            raise InputError(f"at= has {name!r}: a boundary is told at n_params and n_finetune")
    return dict(at)


def _by_place(ratio: Callable, sizes: Sizes, others: tuple[str, ...]) -> np.ndarray:
    """A curve along n_pretrain, put together over the distinct values of the other sizes."""
    x = np.asarray(sizes["n_pretrain"], dtype=float)
    places = (
        np.stack([np.asarray(sizes[name], dtype=float) for name in others], axis=1)
        if others
        else np.empty((len(x), 0))
    )
    distinct, which = np.unique(places, axis=0, return_inverse=True)
    which, found = which.reshape(-1), None
    for number, place in enumerate(distinct):
        here = which == number
        part = ratio(x[here], dict(zip(others, map(float, place))))
        found = np.empty((len(part), len(x))) if found is None else found
        found[:, here] = part
    return found


def _zeros(
    grid: np.ndarray, curve: np.ndarray, drawn: np.ndarray, measured: np.ndarray
) -> tuple[float | None, np.ndarray]:
    """The fall of the curve through zero nearest to the measured sizes' middle, None without one; and each draw's."""
    middle = float(np.exp(np.log(measured).mean()))
    falls = [size for size, direction in sign_changes(grid, curve) if direction < 0]
    zero = min(falls, key=lambda size: abs(np.log(size / middle))) if falls else None
    return zero, nearest_zeros(grid, drawn, middle if zero is None else zero, -1)


def _of_arms(fits: Mapping[str, LawFit], at: Mapping[str, float] | None) -> Knowledge:
    plain, distilled = fits["plain"], fits["distilled"]
    columns = tuple(dict.fromkeys(plain.columns.values()))
    if set(columns) != set(distilled.columns.values()) or "n_pretrain" not in columns:
        raise InputError("both arms' laws must take the same sizes, n_pretrain among them")
    others = [name for name in columns if name != "n_pretrain"]
    place = _one_place(at or {}, others)

    def foresee(sizes: Sizes) -> np.ndarray:
        drawn = [fit.draw_values(sizes) for fit in (plain, distilled)]
        count = min(map(len, drawn))
        return np.log(drawn[0][:count]) - np.log(drawn[1][:count])

    ends = plain.data["ranges"]["n_pretrain"]
    grid = search_grid(np.array(ends))
    sizes = {**{name: np.full(len(grid), value) for name, value in place.items()}, "n_pretrain": grid}
    curve = np.log(plain.values(sizes)) - np.log(distilled.values(sizes))
    zero, draws = _zeros(grid, curve, _usable_rows(foresee(sizes)), np.array(ends))
    level = plain.settings["level"]
    low, high = quantiles(draws, level)
    return Knowledge(
        name="boundary" + (f" at {_words(place)}" if place else ""),
        value=zero,
        low=float(low),
        high=float(high),
        level=level,
        draws=draws,
        columns=columns,
        foresee=foresee,
        noise=_paired_noise(plain, distilled),
        spare=min(int(fit.scores["n_rows"]) - _free(fit) for fit in fits.values()),
        arms=_ARMS,
    )


def _usable_rows(drawn: np.ndarray) -> np.ndarray:
    if not len(drawn) or np.isnan(drawn).all():
        raise InputError("these fits hold no bootstrap draws: fit again with bootstrap=1000")
    return drawn


def _paired_noise(plain: LawFit, distilled: LawFit) -> float:
    """The variance of a pair's log ratio: of the paired residuals where both arms have the same rows."""
    one, two = plain.noise, distilled.noise
    if len(one) == len(two) and plain.data["ranges"] == distilled.data["ranges"]:
        return float(np.mean((one - two) ** 2))
    return float(np.mean(one**2) + np.mean(two**2))


def _words(sizes: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:,.6g}" for name, value in sizes.items())


# The share of a normal sample that an interval of +-1.96 deviations holds.
_CENTRAL = 0.95
_DEVIATIONS = 1.959964
# As in the bootstrap: a configuration that alone decides its fit has no residual to speak of.
_LEAST_REST = 0.05


class Prospect:
    """What is expected of a quantity's interval while runs are chosen one after another.

    Plainly, the interval follows what is known, and Student's quantile of the configurations beyond the parameters.
    A careful prospect expects what a fit will do: it judges the noise of a size by the size's own residual, which is
    inflated for leverage (HC3, docs/fitting.md), and where few residuals decide, the interval itself is uncertain,
    which counts as few degrees of freedom (Satterthwaite 1946). It spreads runs over neighbouring sizes.

    Args:
        quantity: (B,) draws of the quantity; infinities are allowed.
        seen: (B, C) draws of what a run of each of C configurations would show, noise apart.
        noise: Variance of one run about that.
        is_new: (C,) whether the configuration has not been measured; None where each run is judged by itself, as the
            pairs of a boundary are.
        spare: Degrees of freedom of today's interval.
    """

    def __init__(
        self,
        quantity: np.ndarray,
        seen: np.ndarray,
        noise: float,
        is_new: np.ndarray | None,
        spare: float,
    ):
        # The quantity's own scale plays no part: its scores have variance one.
        aim = normal_scores(quantity[:, None])[:, 0]
        self._seen = normal_scores(seen) * _scales(seen)
        # Without any noise a second look at what is known would divide nothing by nothing.
        self._noise, self._is_new, self._spare = max(noise, 1e-12), is_new, max(spare, 1.0)
        self._today = float(aim @ aim / len(aim))
        self._toward = aim @ self._seen / len(aim)
        self._spread = np.einsum("bc,bc->c", self._seen, self._seen) / len(aim)
        # Of the runs so far: the inverse of their covariance, and its products with their covariance with the quantity
        # and with all configurations; of the configurations, what the runs leave to be learned.
        self._runs: list[int] = []
        self._inverse, self._before = np.empty((0, 0)), np.empty(0)
        self._columns = self._through = np.empty((0, len(self._toward)))
        self._news = self._spread + self._noise
        self._careful, self.width = False, 1.0
        self._next = self._widths()

    def carefully(self) -> "Prospect":
        """The same, expected carefully."""
        found = copy(self)
        found._careful = True
        found._next = found._widths()
        return found

    def gains(self) -> np.ndarray:
        """(C,) by how much one further run of each configuration lowers `width`, the share of today's interval."""
        return self.width - self._next

    def learn(self, configuration: int) -> None:
        """Take a run of this configuration as made."""
        self.width = float(self._next[configuration])
        column = self._seen.T @ self._seen[:, configuration] / len(self._seen)
        row, news = self._through[:, configuration], self._news[configuration]
        rest = column - row @ self._columns
        toward = self._toward[configuration] - row @ self._toward[self._runs]
        corner = np.append(-row, 1.0)
        self._inverse = np.pad(self._inverse, (0, 1)) + np.outer(corner, corner) / news
        self._before = np.append(self._before, 0.0) + corner * toward / news
        self._through = np.pad(self._through, ((0, 1), (0, 0))) + np.outer(corner, rest) / news
        self._news = np.maximum(self._news - rest**2 / news, self._noise)
        self._columns = np.concatenate([self._columns, column[None]])
        self._runs = [*self._runs, configuration]
        self._next = self._widths()

    def _widths(self) -> np.ndarray:
        """(C,) the width after the R runs so far and one of each configuration, as a share of today's.

        The inverse of the runs' covariance is extended by the further run, for all configurations at once: it gives
        the weights with which what the runs show moves the quantity, and the runs' leverages.
        """
        through, news = self._through, self._news
        weight = (self._toward - self._before @ self._columns) / news
        weights = np.concatenate([self._before[:, None] - through * weight, weight[None]])
        known = self._toward[self._runs] @ weights[:-1] + self._toward * weight
        left = np.maximum(self._today - known, 1e-12 * self._today)
        if not self._careful:
            return np.sqrt(left / self._today) * self._student(self._spare + self._n_new())
        diagonal = np.concatenate([np.diag(self._inverse)[:, None] + through**2 / news, 1 / news[None]])
        parts = self._by_cluster(self._noise * weights**2)
        old = np.maximum(left - parts.sum(axis=0), 0.0)
        parts = parts / np.maximum(1 - self._by_cluster(1 - self._noise * diagonal), _LEAST_REST)
        left = old + parts.sum(axis=0)
        return np.sqrt(left / self._today) * self._student(left**2 / (old**2 / self._spare + (parts**2).sum(axis=0)))

    def _n_new(self) -> np.ndarray:
        """(C,) how many new configurations, or runs judged by themselves, there are with one run more."""
        if self._is_new is None:
            return np.full(len(self._toward), len(self._runs) + 1)
        begun = np.isin(np.arange(len(self._toward)), self._runs)
        return (self._is_new & begun).sum() + (self._is_new & ~begun)

    def _student(self, freedom: np.ndarray) -> np.ndarray:
        """Student's quantile as a share of today's."""
        from scipy.special import stdtrit

        return stdtrit(freedom, 0.975) / stdtrit(self._spare, 0.975)

    def _by_cluster(self, values: np.ndarray) -> np.ndarray:
        """Sum over the runs (R + 1, C) of each cluster; the last row is the further run's where it begins one."""
        if self._is_new is None or not self._runs:
            return values
        distinct, which = np.unique(self._runs, return_inverse=True)
        found = np.zeros((len(distinct) + 1, values.shape[1]))
        np.add.at(found, which, values[:-1])
        found[-1] = values[-1]
        found[np.arange(len(distinct)), distinct] += values[-1, distinct]
        found[-1, distinct] = 0.0
        return found


def normal_scores(draws: np.ndarray) -> np.ndarray:
    """(B, N) standard normal quantiles of the ranks within each column; what is undefined counts as the middle."""
    import pandas as pd
    from scipy.special import ndtri

    ranks = pd.DataFrame(np.where(np.isnan(draws), _middle(draws), draws)).rank().to_numpy()
    return ndtri((ranks - 0.5) / len(draws))


def _middle(draws: np.ndarray) -> np.ndarray:
    """(N,) medians of what is defined; 0 where nothing is."""
    empty = np.isnan(draws).all(axis=0)
    return np.where(empty, 0.0, np.nanmedian(np.where(empty, 0.0, draws), axis=0))


def _scales(draws: np.ndarray) -> np.ndarray:
    """(N,) standard deviations that the central 95 % of each column amount to."""
    filled = np.where(np.isfinite(draws), draws, _middle(draws))
    low, high = np.quantile(filled, [(1 - _CENTRAL) / 2, (1 + _CENTRAL) / 2], axis=0)
    return (high - low) / (2 * _DEVIATIONS)


def narrowed(draws: np.ndarray, value: float, level: float, width: float) -> tuple[float, float]:
    """The central interval of draws (B,) shrunk towards a value, to a share `width` of its width in normal scores.

    Returns:
        low, high: quantiles of the draws, so that they respect bounds and may be infinite.
    """
    from scipy.special import ndtr, ndtri

    draws = np.sort(draws[~np.isnan(draws)])
    tail = ndtri((1 + level) / 2)
    below = (np.searchsorted(draws, value) + np.searchsorted(draws, value, side="right")) / 2
    centre = float(np.clip(ndtri(np.clip(below / len(draws), 1e-6, 1 - 1e-6)), -tail, tail))
    ends = ndtr(centre + (np.array([-tail, tail]) - centre) * width)
    method = "linear" if np.isfinite(draws).all() else "nearest"
    low, high = np.quantile(draws, ends, method=method)
    return float(min(low, value)), float(max(high, value))
