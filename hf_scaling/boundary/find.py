"""`find_boundary`: the n_pretrain at which the plain arm overtakes the distilled one, or why that is not decided."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_scaling.boundary.arms import Pairs, find_pairs
from hf_scaling.boundary.curve import REACH, RatioCurve, fit_ratio
from hf_scaling.errors import InputError
from hf_scaling.fitting.columns import as_table, note
from hf_scaling.fitting.fit import FitOptions
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.levels import distinct_levels, level_notes
from hf_scaling.fitting.rows import RowFilter
from hf_scaling.text import format_count, format_number, format_percent, format_span, text_table

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.fitting.columns import TableLike

#: What each status of a boundary means.
VERDICTS = {
    "crossing": "distillation stops paying",
    "distillation_always": "distillation helps at every measured size",
    "distillation_never": "distillation does harm at every measured size",
    "no_difference": "distillation changes the target by at most 2 % at every measured size",
    "not_resolved": "these runs do not show where, or whether, distillation stops paying",
}
# Relative differences up to this are none.
_NO_DIFFERENCE = 0.02
# Sizes up to this factor outside the measured ones count as inside.
_INSIDE = 1.001


@dataclass(frozen=True)
class Boundary:
    """Where distillation stops paying.

    Attributes:
        status: A key of `VERDICTS`: crossing (a fall of plain - distilled through zero whose interval lies inside the
            measured sizes), distillation_always or distillation_never (the band of the difference is above or below 0
            at every measured size), no_difference (the band of the relative difference lies within 2 % at every
            measured size), else not_resolved. Fewer than three sizes never resolve it.
        n_pretrain: The size of the crossing, in FLOPs where x is train_flops; None unless the status is crossing.
        low: Lower end of its interval.
        high: Upper end of its interval.
        difference: A DataFrame, a row a measured size: the size, difference (plain minus distilled, by the curve; of a
            score that rises distilled minus plain: above 0 distillation helps), low, high, measured (mean paired
            difference of the runs at the sizes nearest to `sizes`) and n_pairs.
        crossings: Every zero of the curve within the search range: n_pretrain, low, high, direction.
        law_free: The boundary from the mean paired differences, interpolated: n_pretrain, low, high.
        sizes: The other sizes, n_params and n_finetune, for which this holds.
        notes: Findings.
        x: n_pretrain or train_flops.
        level: Level of all intervals.
        teacher_not_counted: With x="train_flops", the boundary without the teacher's FLOPs.
        evidence: The pairs and the fitted curve from which all of this follows.
    """

    status: str
    n_pretrain: float | None
    low: float | None
    high: float | None
    difference: "pd.DataFrame"
    crossings: list[dict[str, Any]]
    law_free: dict[str, float]
    sizes: dict[str, float]
    notes: list[dict]
    x: str
    level: float
    evidence: "Evidence" = field(repr=False, compare=False)
    teacher_not_counted: "Boundary | None" = None

    @property
    def leads(self) -> dict[str, list[tuple[float, float]]]:
        """Where an arm is shown ahead: "distilled" or "plain" -> spans of consecutive measured sizes (first, last) at
        each of which the interval of the difference excludes 0; an arm that is ahead nowhere is left out.
        """
        table = self.difference
        ahead = np.where(table["low"] > 0, "distilled", np.where(table["high"] < 0, "plain", ""))
        spans = _spans(ahead, table[self.x])
        return {str(arm): spans[arm] for arm in spans if arm}

    @property
    def alike(self) -> list[tuple[float, float]]:
        """Spans of consecutive measured sizes (first, last) at each of which no arm is shown ahead and the interval of
        the relative difference lies within 2 %, as that of `no_difference` does at all of them.
        """
        table, sizes = self.difference, self.difference[self.x].to_numpy()
        is_ahead = ((table["low"] > 0) | (table["high"] < 0)).to_numpy()
        is_small = _is_small(self.evidence.ratio, sizes, self.sizes, self.level)
        return _spans(is_small & ~is_ahead, sizes).get(True, [])

    def at(self, n_params: float | None = None, n_finetune: float | None = None) -> "Boundary":
        """The boundary at other sizes, from the same curve and draws.

        Args:
            n_params: Parameters of the model; None for those of this boundary.
            n_finetune: Labelled images; None for those of this boundary.

        Raises:
            InputError: The runs do not vary that size, so its influence is unknown.
        """
        sizes = dict(self.sizes)
        for name, value in (("n_params", n_params), ("n_finetune", n_finetune)):
            if value is not None and name not in sizes:
                raise InputError(f"these runs do not vary {name}: the boundary cannot be computed at another value")
            if value is not None:
                sizes[name] = float(value)
        return _judge(self.evidence, sizes)

    def summary(self) -> str:
        """The status, both answers, the table of differences and the notes, as text for a terminal."""
        unit = "FLOPs" if self.x == "train_flops" else "images"
        sizes = ", ".join(f"{name} {format_count(value)}" for name, value in self.sizes.items())
        lines = [self._verdict(unit) + (f" (at {sizes})" if sizes else "")]
        size, low, high = (self.law_free[name] for name in ("n_pretrain", "low", "high"))
        crossing = "no crossing inside the measured sizes"
        if 0 < size < float("inf"):
            crossing = f"{format_count(size)} {unit}"
            crossing += f", {format_percent(self.level)} interval {format_span(low, high)}" if low == low else ""
        lines.append(f"from the paired differences alone: {crossing}")
        if self.teacher_not_counted is not None:
            lines.append(f"without the teacher's FLOPs: {self.teacher_not_counted._verdict(unit)}")
        rows = [
            [format_count(row[0]), *map(format_number, row[1:-1]), str(row[-1])]
            for row in self.difference.itertuples(index=False)
        ]
        lines += ["", *text_table(list(self.difference.columns), rows), ""]
        return "\n".join(lines + [f"[{n['grade']}] {n['code']}: {n['text']}" for n in self.notes])

    def _verdict(self, unit: str) -> str:
        text = f"{self.status}: {VERDICTS[self.status]}"
        if self.n_pretrain is None or self.low is None or self.high is None:
            return text
        ends = f"{format_percent(self.level)} interval {format_span(self.low, self.high)}"
        return f"{text} at {format_count(self.n_pretrain)} {unit}, {ends}"


@dataclass(frozen=True)
class Evidence:
    """What a boundary follows from: the pairs, the curve through them, each arm's sizes along x, and the options."""

    pairs: Pairs
    ratio: RatioCurve
    x: dict[str, np.ndarray]
    x_name: str
    options: FitOptions


def find_boundary(
    table: "TableLike",
    target: str = "loss",
    teacher: str | None = None,
    downstream: str | None = None,
    x: str = "n_pretrain",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    direction: Literal["up", "down"] | None = None,
    bounds: tuple[float | None, float | None] | None = None,
) -> Boundary:
    """Find the distillation boundary (Yang et al. 2025): below it distillation helps, above it the plain arm is ahead.

    The status follows from a smooth curve through the pairs' log(plain / distilled), whose smoothness the pairs choose
    (`hf_scaling.boundary.curve`). Beside it the mean paired differences are interpolated without any smoothing.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes. It needs arm,
            n_pretrain and the target; n_params, n_finetune, seed, model, teacher, downstream and stage are used where
            present. Pairs are rows equal in all of these but arm and teacher.
        target: loss, error, or any positive column where less is better, or a rate where more is.
        teacher: Use only the distilled rows of this teacher; by default all, which must then be of one.
        downstream: Compare the fine-tuned rows of this downstream set; by default the pretrain rows.
        x: n_pretrain compares at equal images; train_flops at equal compute, the teacher's counted (and, in
            `teacher_not_counted`, not).
        bootstrap: Number of draws of the curve, at least 100.
        level: Level of the intervals, between 0 and 1.
        seed: Seed of the draws.
        direction: "up" where more of the target is better, "down" where less is; as for `fit_law`.
        bounds: Least and most that the target can be; as for `fit_law`.

    Raises:
        InputError: A column or an arm is missing, several distillation settings are mixed, too few runs pair up, or an
            argument is out of range.

    Example:
        `find_boundary("studies/demo").at(n_params=400_000).n_pretrain`
    """
    if x not in ("n_pretrain", "train_flops"):
        raise InputError(f"x {x!r} is unknown: choose n_pretrain or train_flops")
    if not isinstance(bootstrap, int) or bootstrap < 100:
        raise InputError(f"bootstrap must be a whole number, at least 100, not {bootstrap!r}")
    options = FitOptions(bootstrap=bootstrap, level=level, seed=seed)
    row_filter = RowFilter(target, downstream=downstream, teacher=teacher, direction=direction, bounds=bounds)
    pairs = find_pairs(as_table(table), row_filter)
    if x == "n_pretrain":
        return _boundary(pairs, {"plain": pairs.n_pretrain, "distilled": pairs.n_pretrain}, x, options)
    if not pairs.flops:
        raise InputError("the table has no column 'train_flops': the comparison at equal compute needs it")
    counted = {"plain": pairs.flops["plain"], "distilled": pairs.flops["distilled_with_teacher"]}
    alone = {"plain": pairs.flops["plain"], "distilled": pairs.flops["distilled"]}
    without = _boundary(pairs, alone, x, options)
    return _boundary(pairs, counted, x, options, without)


def _boundary(
    pairs: Pairs, x: dict[str, np.ndarray], x_name: str, options: FitOptions, without: Boundary | None = None
) -> Boundary:
    """The boundary at the geometric mean n_params and the smallest n_finetune."""
    ratio = fit_ratio(pairs, x, options)
    sizes = {}
    if "n_params" in ratio.sizes:
        sizes["n_params"] = float(np.exp(np.mean(np.log(np.unique(pairs.n_params)))))
    if "n_finetune" in ratio.sizes:
        sizes["n_finetune"] = float(pairs.n_finetune.min())
    return _judge(Evidence(pairs, ratio, x, x_name, options), sizes, without)


def _judge(evidence: Evidence, sizes: dict[str, float], without: Boundary | None = None) -> Boundary:
    level = evidence.options.level
    measured = np.unique(np.concatenate(list(evidence.x.values())))
    grid = search_grid(measured)
    curve, drawn = evidence.ratio.log_ratio(grid, sizes)
    crossings = []
    for size, direction in sign_changes(grid, curve):
        low, high = interval(nearest_zeros(grid, drawn, size, direction), level)
        crossings.append({"n_pretrain": size, "low": low, "high": high, "direction": direction})
    pairs, options = evidence.pairs, evidence.options
    # Without a law: the pairs whose other sizes are nearest.
    near = np.ones(len(pairs), dtype=bool)
    for name, value in sizes.items():
        apart = np.abs(np.log(getattr(pairs, name) / value))
        near &= apart <= apart.min() + 1e-9
    x, own = evidence.x["plain"][near], pairs.where(near)
    paired = paired_curve(x, own.plain, own.distilled, options.bootstrap, options.seed)
    free = dict(zip(("n_pretrain", "low", "high"), paired.zero(level)))
    table = _difference(evidence, measured, sizes, paired)
    crossing = next(
        (c for c in crossings if c["direction"] < 0 and measured[0] < c["low"] and c["high"] < measured[-1]), None
    )
    # n_pretrain must take enough levels, and each other size outside the measured ones.
    levels = {"n_pretrain": distinct_levels(pairs.n_pretrain)}
    for name, value in sizes.items():
        of_size = distinct_levels(getattr(pairs, name))
        if not of_size[0] / _INSIDE <= value <= of_size[-1] * _INSIDE:
            levels[name] = of_size
    too_few = level_notes(levels, "where distillation stops paying")
    if too_few:
        status, crossing = "not_resolved", None
    elif crossing:
        status = "crossing"
    elif (table["low"] > 0).all():
        status = "distillation_always"
    elif (table["high"] < 0).all():
        status = "distillation_never"
    else:
        is_small = _is_small(evidence.ratio, measured, sizes, level).all()
        status = "no_difference" if is_small else "not_resolved"
    return Boundary(
        status=status,
        n_pretrain=crossing["n_pretrain"] if crossing else None,
        low=crossing["low"] if crossing else None,
        high=crossing["high"] if crossing else None,
        difference=table,
        crossings=crossings,
        law_free=free,
        sizes=sizes,
        notes=too_few + _notes(evidence, crossing, crossings, measured, free),
        x=evidence.x_name,
        level=level,
        evidence=evidence,
        teacher_not_counted=without,
    )


def _is_small(ratio: RatioCurve, sizes: np.ndarray, others: dict[str, float], level: float) -> np.ndarray:
    """(N,) whether the band of the relative difference lies within what counts as none."""
    low, high = quantiles(ratio.log_ratio(sizes, others)[1], level)
    return (np.log1p(-_NO_DIFFERENCE) <= low) & (high <= np.log1p(_NO_DIFFERENCE))


def _spans(labels: Iterable[Any], sizes: Iterable[float]) -> dict[Any, list[tuple[float, float]]]:
    """Label -> (first, last) size of each run of consecutive sizes with that label."""
    spans: dict[Any, list[tuple[float, float]]] = {}
    for label, group in itertools.groupby(zip(labels, sizes), key=lambda pair: pair[0]):
        within = [float(size) for _, size in group]
        spans.setdefault(label, []).append((within[0], within[-1]))
    return spans


def _difference(
    evidence: Evidence, measured: np.ndarray, sizes: dict[str, float], paired: "PairedCurve"
) -> "pd.DataFrame":
    import pandas as pd

    ratio, drawn = evidence.ratio.log_ratio(measured, sizes)
    distilled = evidence.ratio.distilled(measured, sizes)
    low, high = quantiles(drawn, evidence.options.level)
    # A band that the pairs hardly limit has an infinite end.
    with np.errstate(over="ignore"):
        low, high = np.expm1(low), np.expm1(high)
    unit = abs(evidence.pairs.scale.factor)
    places = {size: i for i, size in enumerate(paired.sizes)}
    rows = [places.get(size) for size in measured]
    return pd.DataFrame(
        {
            evidence.x_name: measured,
            "difference": distilled * np.expm1(ratio) / unit,
            "low": distilled * low / unit,
            "high": distilled * high / unit,
            "measured": [np.nan if i is None else paired.difference[i] / unit for i in rows],
            "n_pairs": [0 if i is None else int(paired.counts[i]) for i in rows],
        }
    )


def _notes(
    evidence: Evidence,
    crossing: dict[str, Any] | None,
    crossings: list[dict[str, Any]],
    measured: np.ndarray,
    free: dict[str, float],
) -> list[dict]:
    pairs, n_sizes = evidence.pairs, len(np.unique(evidence.pairs.n_pretrain))
    span = format_span(measured[0], measured[-1])
    text = f"{len(pairs)} pairs of runs at {n_sizes} sizes; {evidence.ratio.description}"
    notes = [*pairs.notes, note("evidence", "info", text)]
    if pairs.cluster is not None:
        count = int(pairs.cluster.max()) + 1
        text = f"the pairs are of {count} sets that share checkpoints, or images and seed, and so their luck"
        notes.append(note("clusters", "info", text))
    if pairs.n_unpaired:
        rows = f"{pairs.n_unpaired} row{'s have' if pairs.n_unpaired > 1 else ' has'}"
        notes.append(note("unpaired", "warn", f"{rows} no partner in the other arm"))
    inside = [c for c in crossings if measured[0] <= c["n_pretrain"] <= measured[-1]]
    if len(inside) > 1:
        sizes = ", ".join(format_count(c["n_pretrain"]) for c in inside)
        notes.append(note("several_crossings", "warn", f"the curve crosses zero more than once: at {sizes}"))
    outside = [c for c in crossings if c not in inside and c["direction"] < 0]
    if not crossing and outside:
        size = format_count(outside[0]["n_pretrain"])
        text = f"the curve crosses zero at {size}, outside the measured {span}: an extrapolation, not a result"
        notes.append(note("extrapolated", "warn", text))
    if crossing and np.isfinite(free["low"]) and (free["low"] > crossing["high"] or free["high"] < crossing["low"]):
        alone = f"{format_count(free['n_pretrain'])} ({format_span(free['low'], free['high'])})"
        text = f"the mean paired differences, interpolated, put the boundary at {alone}"
        notes.append(note("law_free_disagrees", "warn", text))
    if evidence.x_name == "train_flops":
        # Sizes of n_pretrain on which one model was trained with the same FLOPs, to 1 %.
        alike: dict[tuple[int, float], set[float]] = {}
        for flops, size, model in zip(evidence.x["plain"], pairs.n_pretrain, np.nan_to_num(pairs.n_params)):
            alike.setdefault((round(np.log(flops) * 100), model), set()).add(size)
        if (most := max(map(len, alike.values()))) > 1:
            text = f"{most} sizes of n_pretrain were trained with the same FLOPs: along FLOPs they count as one"
            notes.append(note("equal_flops", "warn", text))
    if n_sizes == len(pairs):
        text = "every size has one pair: noise is estimated from the curve's misfit alone"
        notes.append(note("one_seed", "warn", text))
    return notes


def search_grid(measured: np.ndarray, points: int = 200) -> np.ndarray:
    """Sizes from far below to far above the measured ones, even in logarithms: zeros are searched among them."""
    return np.geomspace(measured.min() / REACH, measured.max() * REACH, points)


def sign_changes(grid: np.ndarray, curve: np.ndarray) -> list[tuple[float, int]]:
    """Every zero of a curve (N,) on a grid (N,): its size, with +1 for a rise and -1 for a fall."""
    zeros = []
    for i in np.flatnonzero(np.sign(curve[:-1]) * np.sign(curve[1:]) < 0):
        share = curve[i] / (curve[i] - curve[i + 1])
        size = np.exp(np.log(grid[i]) + share * np.log(grid[i + 1] / grid[i]))
        zeros.append((float(size), 1 if curve[i + 1] > curve[i] else -1))
    return zeros


def nearest_zeros(grid: np.ndarray, curves: np.ndarray, near: float, direction: int) -> np.ndarray:
    """For each curve (B, N) its zero of one direction nearest to `near`.

    Returns:
        (B,) sizes; inf where the curve stays on the side on which it starts (the zero is beyond), 0 on the other side.
    """
    before, after = curves[:, :-1] * -direction, curves[:, 1:] * -direction
    crosses = (before > 0) & (after <= 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = before / (before - after)
    logs = np.log(grid[:-1]) + share * np.diff(np.log(grid))
    apart = np.where(crosses, np.abs(logs - np.log(near)), np.inf)
    best = np.argmin(apart, axis=1)
    with np.errstate(over="ignore", invalid="ignore"):
        zero = np.exp(logs[np.arange(len(curves)), best])
    is_beyond = before[:, before.shape[1] // 2] > 0
    return np.where(crosses.any(axis=1), zero, np.where(is_beyond, np.inf, 0.0))


def interval(zeros: np.ndarray, level: float) -> tuple[float, float]:
    """The central interval of zeros, some of which may be 0 or infinite."""
    tail = (1 - level) / 2
    ordered = np.sort(zeros)
    low = ordered[int(np.floor(tail * (len(ordered) - 1)))]
    high = ordered[int(np.ceil((1 - tail) * (len(ordered) - 1)))]
    return float(low), float(high)


@dataclass(frozen=True)
class PairedCurve:
    """Mean paired differences at L measured sizes.

    Attributes:
        sizes: (L,) the sizes.
        log_ratio: (L,) mean log(plain / distilled).
        difference: (L,) mean plain minus distilled.
        counts: (L,) pairs at each size.
        draws: (B, L) bootstrap draws of log_ratio; empty where no size has two pairs.
    """

    sizes: np.ndarray
    log_ratio: np.ndarray
    difference: np.ndarray
    counts: np.ndarray
    draws: np.ndarray

    def zero(self, level: float) -> tuple[float, float, float]:
        """The size of the fall through zero with its interval; inf or 0 beyond the sizes, NaN without draws."""
        value = float(_falls(np.log(self.sizes), self.log_ratio[None])[0])
        if not len(self.draws):
            return value, float("nan"), float("nan")
        return value, *interval(_falls(np.log(self.sizes), self.draws), level)


def paired_curve(x: np.ndarray, plain: np.ndarray, distilled: np.ndarray, bootstrap: int, seed: int) -> PairedCurve:
    """Average the pairs at each size and redraw the averages.

    Pairs of one size differ by seed. Their scatter is pooled over the sizes, so that sizes with one pair share it. The
    draws have normal noise of that scatter, scaled by Student's chi for its degrees of freedom: a zero depends on the
    means of two or three sizes, too few for the bootstrap's six-point weights to add up to a bell.
    """
    sizes, group = np.unique(x, return_inverse=True)
    counts = np.bincount(group)
    logs = np.log(plain / distilled)
    mean = np.bincount(group, logs) / counts
    difference = np.bincount(group, plain - distilled) / counts
    freedom = len(logs) - len(sizes)
    if freedom < 1:
        return PairedCurve(sizes, mean, difference, counts, np.empty((0, len(sizes))))
    spread = np.sqrt(((logs - mean[group]) ** 2).sum() / freedom)
    generator = np.random.default_rng(seed)
    scale = spread * np.sqrt(freedom / generator.chisquare(freedom, size=(bootstrap, 1)))
    draws = mean + scale * generator.standard_normal((bootstrap, len(mean))) / np.sqrt(counts)
    return PairedCurve(sizes, mean, difference, counts, draws)


def _falls(log_sizes: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """(B,) where each curve (B, L) falls through zero.

    Noise makes a curve change sign often around its zero. The fall is the one after which the running sum of the curve
    is largest: it has most of the curve on the right side before and after it.
    """
    total = np.cumsum(curves, axis=1)
    last = np.where(total.max(axis=1) > 0, total.argmax(axis=1), -1)
    following = np.minimum(last + 1, curves.shape[1] - 1)
    rows = np.arange(len(curves))
    before, after = curves[rows, last], curves[rows, following]
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(before > after, before / (before - after), 0.5)
        zero = np.exp(log_sizes[last] + np.clip(share, 0, 1) * (log_sizes[following] - log_sizes[last]))
    return np.where(last < 0, 0.0, np.where(last == curves.shape[1] - 1, np.inf, zero))
