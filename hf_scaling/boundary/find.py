"""`find_boundary`: the n_pretrain at which the plain arm overtakes the distilled one, or why it cannot be said."""

from dataclasses import dataclass, field

import numpy as np

from hf_scaling.boundary.arms import Arms, ArmsBySize, Pairs, find_pairs, fit_arms
from hf_scaling.errors import InputError
from hf_scaling.fitting.fit import FitOptions
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.rows import RowFilter, as_table, note


def describe(boundary) -> str:
    """The verdict, both answers, the table of differences and the notes, as text for a terminal."""
    unit = "FLOPs" if boundary.x == "train_flops" else "images"
    sizes = ", ".join(f"{name} {size_in_words(value)}" for name, value in boundary.sizes.items())
    lines = [_verdict(boundary, unit) + (f" (at {sizes})" if sizes else "")]
    free = boundary.law_free
    if 0 < free["n_pretrain"] < float("inf"):
        ends = f" [{size_in_words(free['low'])}, {size_in_words(free['high'])}]" if free["low"] == free["low"] else ""
        lines.append(f"from the paired differences alone: {size_in_words(free['n_pretrain'])}{ends} {unit}")
    else:
        lines.append("from the paired differences alone: no crossing inside the measured sizes")
    if boundary.teacher_not_counted is not None:
        lines.append("without the teacher's FLOPs: " + _verdict(boundary.teacher_not_counted, unit))
    table = boundary.difference.to_string(
        index=False, float_format=lambda value: f"{value:.4g}", formatters={boundary.x: size_in_words}
    )
    lines += ["", table, ""]
    return "\n".join(lines + [f"[{n['grade']}] {n['code']}: {n['text']}" for n in boundary.notes])


def _verdict(boundary, unit: str) -> str:
    level = f"{boundary.level:.0%}"
    if boundary.status == "crossing":
        ends = f"{level} [{size_in_words(boundary.low)}, {size_in_words(boundary.high)}]"
        return f"crossing: distillation stops paying at {size_in_words(boundary.n_pretrain)} {unit}, {ends}"
    return {
        "distillation_always": "distillation_always: the teacher helps at every measured size",
        "distillation_never": "distillation_never: the teacher holds back at every measured size",
        "not_resolved": "not_resolved: these runs cannot tell where, or whether, distillation stops paying",
    }[boundary.status]


def size_in_words(size: float) -> str:
    """A number of images as a person writes it; above a million (FLOPs, say) by its power of ten; four digits."""
    return f"{float(f'{size:.4g}'):,.0f}" if 10 <= size < 1e6 else f"{size:.4g}"


# How far outside the measured sizes a zero is looked for, as a factor: beyond it no zero counts as found.
REACH = 30.0


def search_grid(measured: np.ndarray, points: int = 200) -> np.ndarray:
    """Sizes from far below to far above the measured ones, evenly in logarithms."""
    return np.geomspace(measured.min() / REACH, measured.max() * REACH, points)


def sign_changes(grid: np.ndarray, curve: np.ndarray) -> list[tuple[float, int]]:
    """Every zero of a curve (N,) on a grid (N,): its size, with +1 for a rise and -1 for a fall."""
    found = []
    for i in np.flatnonzero(np.sign(curve[:-1]) * np.sign(curve[1:]) < 0):
        share = curve[i] / (curve[i] - curve[i + 1])
        size = np.exp(np.log(grid[i]) + share * np.log(grid[i + 1] / grid[i]))
        found.append((float(size), 1 if curve[i + 1] > curve[i] else -1))
    return found


def nearest_zeros(grid: np.ndarray, curves: np.ndarray, near: float, direction: int) -> np.ndarray:
    """For each curve (B, N) its zero of one direction nearest to `near`.

    Returns:
        (B,) sizes; inf where the curve keeps to the side it starts from (the zero lies beyond), 0 where it is past it.
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
    still = before[:, before.shape[1] // 2] > 0
    return np.where(crosses.any(axis=1), zero, np.where(still, np.inf, 0.0))


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

    Pairs of one size differ by seed. Their scatter is pooled over the sizes, so that sizes with one pair share it.
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
    return PairedCurve(sizes, mean, difference, counts, _redraw(generator, mean, spread, counts, freedom, bootstrap))


def _redraw(generator, mean, spread, counts, freedom, bootstrap: int) -> np.ndarray:
    """Means with normal noise of the pooled spread, scaled by Student's chi for the freedom it has.

    A zero leans on the means of two or three sizes: too few for weights of six values to add up to a bell.
    """
    scale = spread * np.sqrt(freedom / generator.chisquare(freedom, size=(bootstrap, 1)))
    return mean + scale * generator.standard_normal((bootstrap, len(mean))) / np.sqrt(counts)


def _falls(log_sizes: np.ndarray, curves: np.ndarray) -> np.ndarray:
    """(B,) where each curve (B, L) falls through zero.

    Noise makes a curve change sign often around its zero. The fall taken is the one after which the running sum of the
    curve is largest: it has the most on the right side of it before and after.
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


_VIEWS = ("n_pretrain", "train_flops")


@dataclass(frozen=True)
class Boundary:
    """Where distillation stops paying.

    Attributes:
        status: crossing (a fall of plain - distilled through zero whose interval lies inside the measured sizes),
            distillation_always or distillation_never (the band of the difference is above or below 0 at every measured
            size), else not_resolved.
        n_pretrain: The size of the crossing; None unless the status is crossing. In the compute-matched view it counts
            FLOPs, as `x` says.
        low: Its interval.
        high: See low.
        difference: A DataFrame, a row a measured size: the size, difference (plain minus distilled, by the laws), low,
            high, measured (mean paired difference of the runs at the sizes nearest to `sizes`) and n_pairs.
        crossings: Every zero of the laws' difference within the search range: n_pretrain, low, high, direction.
        law_free: The same question put to the paired differences alone: n_pretrain, low, high.
        sizes: The other sizes at which this is said.
        notes: Findings.
        x: n_pretrain or train_flops.
        level: Of all intervals.
        teacher_not_counted: In the compute-matched view, the boundary without the teacher's FLOPs.
        evidence: The pairs and the fitted arms that all of this follows from.
    """

    status: str
    n_pretrain: float | None
    low: float | None
    high: float | None
    difference: object
    crossings: list[dict]
    law_free: dict
    sizes: dict[str, float]
    notes: list[dict]
    x: str
    level: float
    teacher_not_counted: "Boundary | None" = None
    evidence: "Evidence | None" = field(default=None, repr=False, compare=False)

    def at(self, n_params: float | None = None, n_finetune: float | None = None) -> "Boundary":
        """The boundary at other sizes, from the same fits and draws.

        Raises:
            InputError: The runs do not vary that size, so nothing is known of its influence.
        """
        wanted = {"n_params": n_params, "n_finetune": n_finetune}
        for name, value in wanted.items():
            if value is not None and name not in self.sizes:
                raise InputError(f"these runs do not vary {name}: the boundary cannot be moved along it")
        sizes = {**self.sizes, **{name: float(v) for name, v in wanted.items() if v is not None}}
        return _judge(self.evidence, sizes)

    def summary(self) -> str:
        """The boundary in words."""
        return describe(self)


@dataclass(frozen=True)
class Evidence:
    """What a boundary follows from: the pairs, both arms' laws, each arm's sizes along x, and how it was drawn."""

    pairs: Pairs
    arms: Arms | ArmsBySize
    x: dict[str, np.ndarray]
    x_name: str
    options: FitOptions


def find_boundary(
    table,
    target: str = "loss",
    teacher: str | None = None,
    downstream: str | None = None,
    x: str = "n_pretrain",
    bootstrap: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Boundary:
    """Find the distillation boundary (Yang et al. 2025): below it a teacher helps, above it it holds back.

    Two answers are given: from one law fitted to each arm (the status is theirs), and law-free from the paired
    differences. One bootstrap gives both arms' draws: the two runs of a pair share their multiplier, since they share
    subset, seed and steps.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes. It needs arm,
            n_pretrain and the target; n_params, n_finetune, seed, model, teacher, downstream and stage are used where
            present. Pairs are rows equal in all of these but arm and teacher.
        target: loss or error, or any column where less is better.
        teacher: Keep the distilled rows of this teacher.
        downstream: Compare the fine-tuned rows of this downstream set; by default the pretrain rows.
        x: n_pretrain compares at equal images; train_flops at equal compute, the teacher's counted (and, in
            `teacher_not_counted`, not).
        bootstrap: How many draws.
        level: Of the intervals.
        seed: Of the draws.

    Raises:
        InputError: A column or an arm is missing, several distillation settings are mixed, or too few runs pair up.
    """
    if x not in _VIEWS:
        raise InputError(f"x {x!r} is unknown: choose {' or '.join(_VIEWS)}")
    if not isinstance(bootstrap, int) or bootstrap < 100:
        raise InputError(f"bootstrap is a number of draws, at least 100, not {bootstrap!r}")
    options = FitOptions(bootstrap=bootstrap, level=level, seed=seed)
    pairs = find_pairs(as_table(table), RowFilter(target, downstream=downstream, teacher=teacher))
    if x == "n_pretrain":
        return _boundary(pairs, {"plain": pairs.n_pretrain, "distilled": pairs.n_pretrain}, x, options)
    if not pairs.flops:
        raise InputError("the table has no column 'train_flops': the compute-matched view needs it")
    counted = {"plain": pairs.flops["plain"], "distilled": pairs.flops["distilled_with_teacher"]}
    alone = {"plain": pairs.flops["plain"], "distilled": pairs.flops["distilled"]}
    without = _boundary(pairs, alone, x, options)
    return _boundary(pairs, counted, x, options, without)


def _boundary(pairs, x, x_name, options: FitOptions, without=None) -> Boundary:
    arms = fit_arms(pairs, x, x_name, options)
    evidence = Evidence(pairs, arms, x, x_name, options)
    sizes = {}
    if "n_params" in arms.takes:
        sizes["n_params"] = float(np.exp(np.mean(np.log(np.unique(pairs.n_params)))))
    if "n_finetune" in arms.takes:
        sizes["n_finetune"] = float(pairs.n_finetune.min())
    return _judge(evidence, sizes, without)


def _judge(evidence: Evidence, sizes: dict[str, float], without: Boundary | None = None) -> Boundary:
    level = evidence.options.level
    measured = np.unique(np.concatenate(list(evidence.x.values())))
    grid = search_grid(measured)
    curve, drawn = evidence.arms.log_ratio(grid, sizes)
    crossings = []
    for size, direction in sign_changes(grid, curve):
        low, high = interval(nearest_zeros(grid, drawn, size, direction), level)
        crossings.append({"n_pretrain": size, "low": low, "high": high, "direction": direction})
    curve_free = _law_free(evidence, sizes)
    table = _difference(evidence, measured, sizes, level, curve_free)
    status, crossing = _status(crossings, table, measured)
    value, low, high = curve_free.zero(level)
    return Boundary(
        status=status,
        n_pretrain=crossing["n_pretrain"] if crossing else None,
        low=crossing["low"] if crossing else None,
        high=crossing["high"] if crossing else None,
        difference=table,
        crossings=crossings,
        law_free={"n_pretrain": value, "low": low, "high": high},
        sizes=sizes,
        notes=_notes(evidence, status, crossing, crossings, measured, (value, low, high)),
        x=evidence.x_name,
        level=level,
        teacher_not_counted=without,
        evidence=evidence,
    )


def _law_free(evidence: Evidence, sizes: dict[str, float]) -> PairedCurve:
    """The paired differences of the runs whose other sizes are nearest to those asked about."""
    pairs, keep = evidence.pairs, np.ones(len(evidence.pairs), dtype=bool)
    for name, value in sizes.items():
        apart = np.abs(np.log(getattr(pairs, name) / value))
        keep &= apart <= apart.min() + 1e-9
    near = pairs.where(keep)
    x = evidence.x["plain"][keep]
    return paired_curve(x, near.plain, near.distilled, evidence.options.bootstrap, evidence.options.seed)


def _difference(evidence, measured: np.ndarray, sizes, level: float, free: PairedCurve):
    import pandas as pd

    ratio, drawn = evidence.arms.log_ratio(measured, sizes)
    distilled = evidence.arms.distilled(measured, sizes)
    low, high = quantiles(drawn, level)
    at = {size: i for i, size in enumerate(free.sizes)}
    found = [at.get(size) for size in measured]
    return pd.DataFrame(
        {
            evidence.x_name: measured,
            "difference": distilled * np.expm1(ratio),
            "low": distilled * np.expm1(low),
            "high": distilled * np.expm1(high),
            "measured": [np.nan if i is None else free.difference[i] for i in found],
            "n_pairs": [0 if i is None else int(free.counts[i]) for i in found],
        }
    )


def _status(crossings: list[dict], table, measured: np.ndarray) -> tuple[str, dict | None]:
    for crossing in crossings:
        inside = measured.min() < crossing["low"] and crossing["high"] < measured.max()
        if crossing["direction"] < 0 and inside:
            return "crossing", crossing
    if (table["low"] > 0).all():
        return "distillation_always", None
    if (table["high"] < 0).all():
        return "distillation_never", None
    return "not_resolved", None


def _notes(evidence, status, crossing, crossings, measured, free) -> list[dict]:
    pairs, notes = evidence.pairs, []
    text = f"{len(pairs)} pairs of runs at {len(np.unique(pairs.n_pretrain))} sizes; {evidence.arms.name}"
    notes.append(note("evidence", "info", text))
    if pairs.n_unpaired:
        rows = f"{pairs.n_unpaired} row{'s' * (pairs.n_unpaired != 1)}"
        notes.append(note("unpaired", "warn", f"{rows} found no partner in the other arm"))
    inside = [c for c in crossings if measured.min() <= c["n_pretrain"] <= measured.max()]
    if len(inside) > 1:
        sizes = ", ".join(size_in_words(c["n_pretrain"]) for c in inside)
        notes.append(note("several_crossings", "warn", f"the arms' laws cross more than once: at {sizes}"))
    outside = [c for c in crossings if c not in inside and c["direction"] < 0]
    if status != "crossing" and outside:
        text = (
            f"the laws cross at {size_in_words(outside[0]['n_pretrain'])}, outside the measured "
            f"{size_in_words(measured.min())} to {size_in_words(measured.max())}: an extrapolation, not a finding"
        )
        notes.append(note("extrapolated", "warn", text))
    if crossing and np.isfinite(free[1]) and (free[1] > crossing["high"] or free[2] < crossing["low"]):
        alone = f"{size_in_words(free[0])} [{size_in_words(free[1])}, {size_in_words(free[2])}]"
        text = f"the paired differences alone put it at {alone}: the laws' shape is off"
        notes.append(note("law_free_disagrees", "warn", text))
    if evidence.x_name == "train_flops" and (alike := _n_at_equal_flops(evidence)) > 1:
        text = (
            f"{alike} sizes of n_pretrain were trained with the same FLOPs (a least number of steps): along FLOPs "
            "they count as one, and this view says little of them"
        )
        notes.append(note("equal_flops", "warn", text))
    if len(np.unique(pairs.n_pretrain)) == len(pairs):
        notes.append(note("one_seed", "warn", "every size has one pair: noise is judged by the laws' misfit alone"))
    return notes


def _n_at_equal_flops(evidence: Evidence) -> int:
    """The most sizes of n_pretrain that one model was trained on with the same FLOPs, to 1 %."""
    pairs, found = evidence.pairs, {}
    for flops, size, model in zip(evidence.x["plain"], pairs.n_pretrain, np.nan_to_num(pairs.n_params)):
        found.setdefault((round(np.log(flops) * 100), model), set()).add(size)
    return max(len(sizes) for sizes in found.values())
