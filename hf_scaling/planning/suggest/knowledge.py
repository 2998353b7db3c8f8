"""What is known of a quantity today, and what a further run would show: from a law's draws, or from a boundary's."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from hf_scaling.boundary import Boundary
from hf_scaling.boundary.crossing import interval, nearest_zeros, search_grid, sign_changes
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.lawfit import quantiles
from hf_scaling.fitting.objectives import Objective

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
