"""`need`: how many images, labels or parameters a target takes, how sure that is, and what to collect now."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import FitOptions, LawFit, RowFilter
from hf_scaling.fitting.columns import as_table, default_zeros, note, notes_on_rows
from hf_scaling.fitting.fit import fit_table, resolve_law
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.levels import level_notes, levels_of
from hf_scaling.planning.limits import Available, available_sizes, study_of
from hf_scaling.planning.verdicts import describe_need
from hf_scaling.text import did_you_mean, format_count, format_whole

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import TableLike

# Sizes are searched from this factor below the smallest measured one to that factor above the largest.
_BELOW, _BEYOND = 1e3, 1e6
# Sizes of the scan, evenly spaced in the logarithm; between two of them curves are straight.
_N_SIZES = 240
# A law that never reaches the target says never where the favourable end is this far beyond the largest size; an
# unfavourable end beyond it is infinite.
_FAR = 100.0
# The laws of a mixture differ from each other about three times as much as their mean from what is measured later.
_DISAGREEMENT = 1 / 3
# A size that is this factor above the favourable end of its interval does not answer how much is needed.
_WIDEST = 8.0
# In one round at least and at most these factors of the largest measured size are collected.
_LEAST_STEP, _LARGEST_STEP = 1.25, 3.0


@dataclass(frozen=True)
class Need:
    """How much of one size a target takes.

    Attributes:
        value: The size at which the law reaches the target; inf where no size within a factor of a million of the
            largest measured one does; NaN where nothing can be said.
        low: The size at which the favourable end of the law's band reaches it.
        high: The size at which the unfavourable end reaches it; inf where it does not within a hundred times the
            largest measured size.
        verdict: A key of `verdicts.NEED_VERDICTS`: reached_inside (at measured sizes or below), extrapolated, never
            (the law does not reach it, nor does the favourable end within a hundred times the largest measured size),
            cannot_tell.
        collect: The amount to have after the next round: measure there, then ask again. It is `value`, but at least a
            quarter more than the largest measured size, at most three times it and at most what the study's source
            has; `high` where that is measured already; None where the verdict is never.
        notes: Findings, each with code, grade and text.
        target: The column of the target.
        target_value: The value to reach, in the target's own units.
        solve_for: The column of the size.
        sizes: The other sizes of the law.
        level: Of the interval.
        extrapolation: Natural-log distance of `value` outside the measured sizes; 0 inside.
        fit: The law.
    """

    value: float
    low: float
    high: float
    verdict: str
    collect: float | None
    notes: list[dict]
    target: str
    target_value: float
    solve_for: str
    sizes: dict[str, float]
    level: float
    extrapolation: float
    fit: LawFit = field(repr=False, compare=False)

    def summary(self) -> str:
        """The need, its verdict, what to collect and the notes as text for a terminal."""
        return describe_need(self)


def need(
    fit_or_table: "TableLike | LawFit",
    target: str = "error",
    value: float = 0.05,
    solve_for: str = "n_finetune",
    law: str = "auto",
    level: float = 0.95,
    study: str | Path | None = None,
    **sizes: Any,
) -> Need:
    """Find how much of a size a target takes.

    The interval inverts the law's band: a size belongs to it where the band of the prediction contains the target.
    More rounds of fewer data beat one large purchase, since laws under-collect (Mahmood et al. 2022): collect
    `need.collect`, measure, and ask again.

    Args:
        fit_or_table: A fitted law, or a ResultsTable, a DataFrame, a mapping of columns or what `ResultsTable.load`
            takes.
        target: The column of the target.
        value: The value to reach, in the target's own units: at most this error, at least this accuracy.
        solve_for: The size to find, a column of the law.
        law: For a table: a name of `LAWS` or "auto".
        level: Of the interval, between 0 and 1.
        study: Folder of the study whose sources.json says how many images and labels there are: no more than that is
            to be collected or added. By default the table, where it is one.
        **sizes: The law's other sizes, by column (by default the largest measured); for a law with `pool=` its
            columns, which name the curve; for a table also further arguments of `fit_law`: x, arm, upstream,
            downstream, pool, bootstrap, seed and the rest.

    Returns:
        A Need; doubts are in its verdict and notes.

    Raises:
        InputError: The law does not take solve_for or a size, predicts another target, or cannot be fitted; the value
            is one that the target cannot have, such as an error above 1.

    Example:
        `hs.need("studies/demo", target="error", value=0.05, solve_for="n_finetune", downstream="digits").collect`
    """
    if not (isinstance(value, int | float | np.number) and math.isfinite(value)):
        raise InputError(f"value: the {target} to reach must be a finite number, not {value!r}")
    folder = study_of(study, fit_or_table)
    if isinstance(fit_or_table, LawFit):
        fit = fit_or_table
    else:
        fit, sizes = _fit(fit_or_table, target, solve_for, law, level, sizes)
    if fit.pool:
        fit, sizes = (
            fit.curve(**{n: v for n, v in sizes.items() if n in fit.pool}),
            {n: v for n, v in sizes.items() if n not in fit.pool},
        )
    columns = list(dict.fromkeys(fit.columns.values()))
    if fit.settings["target"] != target:
        raise InputError(f"the law predicts {fit.settings['target']}, not {target}: set target= to it")
    if fit.scale.high == 100 and 0 < value <= 1:
        raise InputError(f"value: {target} is in percent, 0 to 100: write {100 * value:g} for {value:.0%}")
    if not fit.scale.low <= value <= fit.scale.high:
        percent = f"; {value:g} % is {value / 100:g}" if fit.scale.high == 1 and 1 < value <= 100 else ""
        ends = f"{fit.scale.low:g} to {fit.scale.high:g}"
        raise InputError(f"value: {target} is {ends}, and {value:g} is outside{percent}")
    for name in (solve_for, *sizes):
        if name not in columns:
            raise InputError(
                f"{name} is not a size of {fit.law}: it has {', '.join(columns)}{did_you_mean(name, columns)}"
            )
    place = {name: _size(name, sizes[name]) for name in columns if name in sizes and name != solve_for}
    if solve_for in sizes:
        raise InputError(f"{solve_for} is what is solved for: leave out its value")
    for name in columns:
        if name != solve_for:
            place.setdefault(name, float(fit.data["ranges"][name][1]))
    available = available_sizes(folder, columns, fit.data["study"], at_most=())
    return _judge(fit, float(value), solve_for, place, level, available)


def _fit(
    table: "TableLike", target: str, solve_for: str, law: str, level: float, given: dict[str, Any]
) -> tuple[LawFit, dict[str, Any]]:
    """The law of a table, and the sizes among the further arguments of `need`."""
    loaded = as_table(table)
    given = {name: value for name, value in given.items() if value is not None}
    rows = {f.name: given.pop(f.name) for f in fields(RowFilter) if f.name in given}
    how = {f.name: given.pop(f.name) for f in fields(FitOptions) if f.name in given}
    rows.setdefault("zeros", default_zeros(loaded))
    if law != "auto" and len(resolve_law(law).variables) == 1:
        rows.setdefault("x", solve_for)
    return fit_table(loaded, law, RowFilter(target, **rows), FitOptions(level=level, **how)), given


def _size(name: str, value: Any) -> float:
    if not isinstance(value, int | float | np.number) or not math.isfinite(value) or value < 0:
        raise InputError(f"{name} must be a number of at least 0, not {value!r}")
    return float(value)


def _judge(
    fit: LawFit, value: float, solve_for: str, place: Mapping[str, float], level: float, available: Available
) -> Need:
    notes = _level_notes(fit, solve_for, place, available)
    most, largest = available.most.get(solve_for, math.inf), fit.data["ranges"][solve_for][1]
    curves, turned = Curves.along(fit, solve_for, place), -value if fit.scale.rises else value
    size = curves.reach(turned)
    # The favourable end of the band reaches the target first.
    low, high = (curves.reach(turned, share) for share in ((1 - level) / 2, (1 + level) / 2))
    low, high = min(low, size), max(high, size)
    high = math.inf if high > max(_FAR * largest, size) else high
    if len(curves.draws) and not np.isfinite(curves.draws).any():
        low = high = math.nan  # refits of a table with no more sizes than parameters
    notes += notes_on_rows(fit.notes)
    if fit.status != "ok":
        text = f"the law's own status is {fit.status}: read this as one possibility (docs/fitting.md)"
        notes.append(note("law_in_doubt", "warn", text))
    if any(n["code"] == "too_few_levels" for n in notes):
        verdict = "cannot_tell"
        size = low = high = math.nan
    elif math.isnan(low) or math.isnan(high) or math.isnan(size):
        verdict = "cannot_tell"
        notes.append(note("no_draws", "warn", "the fit has no usable bootstrap draws: fit again with bootstrap=1000"))
    elif math.isinf(size) and low > _FAR * largest:
        verdict = "never"
    elif math.isinf(size) or (size > largest and size > _WIDEST * low):
        verdict = "cannot_tell"
        text = f"the target is reached somewhere from {format_count(low)} to {format_count(high)} {solve_for}: "
        notes.append(note("need_open", "warn", text + "collect a little more, and ask again"))
    else:
        verdict = "reached_inside" if size <= largest else "extrapolated"
    beyond = math.log(size / largest) if math.isfinite(size) and size > largest else 0.0
    if verdict == "extrapolated" and beyond > math.log(_LARGEST_STEP):
        text = f"{format_count(size / largest)} times the largest measured {solve_for}: ask again after each round"
        notes.append(note("out_of_range", "warn", text))
    if verdict == "extrapolated" and math.isinf(high):
        text = "the unfavourable end of the law's band does not reach the target: no amount is certain to be enough"
        notes.append(note("high_open", "warn", text))
    smallest = fit.data["ranges"][solve_for][0]
    if verdict == "reached_inside" and size < smallest:
        text = f"every measured {solve_for} reaches it, the smallest, {format_count(smallest)}, too"
        notes.append(note("below_measured", "info", text))
    if size > most:
        text = (
            f"{available.source[solve_for]} has {format_whole(most)}: the target takes more {solve_for} than there is"
        )
        notes.append(note("too_few_exist", "warn", text))
    if verdict == "never":
        collect = None
    elif verdict == "reached_inside" and high <= largest:
        collect = _whole(high)
    else:
        added = [new for n in notes for new in n.get("add", {}).get(solve_for, ()) if new > largest]
        aim = min(added, default=size)
        step = min(max(math.inf if math.isnan(aim) else aim, largest * _LEAST_STEP), largest * _LARGEST_STEP)
        # All there is, where the step would be larger; never less than what is measured.
        collect = max(min(_whole(step), most), largest)
    return Need(
        value=size,
        low=low,
        high=high,
        verdict=verdict,
        collect=collect,
        notes=notes,
        target=fit.settings["target"],
        target_value=value,
        solve_for=solve_for,
        sizes=dict(place),
        level=level,
        extrapolation=beyond,
        fit=fit,
    )


def _level_notes(fit: LawFit, solve_for: str, place: Mapping[str, float], available: Available) -> list[dict]:
    """Errors for the size that is solved for, and for others outside their measured levels, with too few levels."""
    levels = {solve_for: levels_of(fit, solve_for)}
    for name, size in place.items():
        measured = levels_of(fit, name)
        if not np.isclose(measured, size, rtol=0.1).any():
            levels[name] = measured
    return level_notes(levels, f"how much {solve_for} the target takes", most=available.most)


@dataclass(frozen=True)
class Curves:
    """A law and its draws along one size, turned so that less is better.

    Attributes:
        logs: (N,) logarithms of the sizes, ascending.
        values: (N,) the law.
        draws: (B, N) its draws, the law's own error beyond the data included, but none that rises there.
    """

    logs: np.ndarray
    values: np.ndarray
    draws: np.ndarray

    @classmethod
    def along(cls, fit: LawFit, solve_for: str, place: Mapping[str, float]) -> "Curves":
        """The curves of a fit along `solve_for`, at the other sizes of `place`."""
        smallest, largest = fit.data["ranges"][solve_for]
        smallest = smallest if smallest > 0 else min(1.0, largest)
        logs = np.linspace(math.log(smallest / _BELOW), math.log(largest * _BEYOND), _N_SIZES)
        sizes = {**{name: np.full(_N_SIZES, size) for name, size in place.items()}, solve_for: np.exp(logs)}
        sign = -1.0 if fit.scale.rises else 1.0
        with np.errstate(all="ignore"):
            values, draws = sign * fit.values(sizes), sign * fit.draw_values(sizes, _DISAGREEMENT)
        # Draws of a law that is taken as true fall as the law does.
        in_doubt = fit.members or fit.data.get("discrepancy", {}).get("per_log")
        if in_doubt and len(draws):
            draws = _without_rise(logs, values, draws, math.log(largest))
        return cls(logs, values, draws)

    def reach(self, value: float, share: float | None = None) -> float:
        """The size at which the law, or a quantile of its draws, reaches a value.

        Bands widen on both sides of the measured sizes, so that a quantile may reach the value again far below them:
        what counts is its crossing next to that of the law.

        Args:
            value: The value, turned as the curves are.
            share: The quantile, 0 for the favourable end; None for the law itself.

        Returns:
            The size; 0 where every size reaches it, inf where none does, NaN without draws.
        """
        reached = self.values <= value
        place = int(reached.argmax()) if reached.any() else len(reached) - 1
        if share is None:
            return math.nan if np.isnan(self.values).all() else self._size(self.values, reached, place, value)
        if not len(self.draws):
            return math.nan
        curve = quantiles(self.draws, abs(2 * share - 1), self.values)[int(share > 0.5)]
        reached = curve <= value
        if share > 0.5:
            # The first size from the law's own that the unfavourable end reaches it at.
            after = np.flatnonzero(reached[place:])
            place = place + int(after[0]) if len(after) else len(reached) - 1
        else:
            # Back from there (or from the last size that reaches it) to where the favourable end stops reaching it.
            place = place if reached[place] or not reached.any() else int(np.flatnonzero(reached)[-1])
            missed = np.flatnonzero(~reached[:place])
            place = place if not reached[place] else int(missed[-1]) + 1 if len(missed) else 0
        return self._size(curve, reached, place, value)

    def _size(self, curve: np.ndarray, reached: np.ndarray, place: int, value: float) -> float:
        """The size between `place` and the one before it at which a curve crosses a value."""
        if not reached[place]:
            return math.inf
        if place == 0:
            return 0.0
        above, below = curve[place - 1], curve[place]
        part = (above - value) / (above - below) if np.isfinite(above) and above > value else 1.0
        return float(np.exp(self.logs[place - 1] + part * (self.logs[place] - self.logs[place - 1])))


def _without_rise(logs: np.ndarray, values: np.ndarray, draws: np.ndarray, largest: float) -> np.ndarray:
    """Draws (B, N) that do not rise beyond the largest measured size.

    A law's error beyond the data is symmetric: its slope plus or minus something. More data seldom make a model worse,
    so that towards the unfavourable side the slope is a share of the law's own: what a draw loses against the law
    since the largest size, as a ratio to what the law gains, is damped as 1 - exp(-ratio).
    """
    is_log = bool((values > 0).all())
    with np.errstate(all="ignore"):
        curve, drawn = (np.log(np.maximum(v, 1e-300)) if is_log else v for v in (values, draws))
    start = np.interp(largest, logs, curve)
    behind = drawn - curve
    at_start = np.array([np.interp(largest, logs, row) for row in behind])[:, None]
    gained, lost = np.maximum(start - curve, 1e-12), behind - at_start
    damped = np.where((lost > 0) & (logs > largest), -gained * np.expm1(-np.maximum(lost, 0.0) / gained), lost)
    result = curve + at_start + damped
    return np.exp(result) if is_log else result


def _whole(amount: float) -> float:
    """Rounded up to a whole number; a share below one stays."""
    return float(math.ceil(amount)) if amount > 1 else amount
