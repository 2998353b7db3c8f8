"""`find_boundary`: the n_pretrain at which the plain arm overtakes the distilled one, or why it cannot be said."""

from dataclasses import dataclass, field

import numpy as np

from hf_scaling.boundary.arms import Arms, ArmsBySize, fit_arms
from hf_scaling.boundary.crossing import interval, nearest_zeros, search_grid, sign_changes
from hf_scaling.boundary.lawfree import PairedCurve, paired_curve
from hf_scaling.boundary.pairs import Pairs, find_pairs
from hf_scaling.boundary.words import describe, size_in_words
from hf_scaling.errors import InputError
from hf_scaling.fitting.fit import as_table
from hf_scaling.fitting.lawfit import quantiles
from hf_scaling.fitting.rows import note

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
        return _judge(self.evidence, sizes, self.level)

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
    bootstrap: int
    seed: int


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
    pairs = find_pairs(as_table(table), target, teacher, downstream)
    if x == "n_pretrain":
        return _boundary(pairs, {"plain": pairs.n_pretrain, "distilled": pairs.n_pretrain}, x, bootstrap, level, seed)
    if not pairs.flops:
        raise InputError("the table has no column 'train_flops': the compute-matched view needs it")
    counted = {"plain": pairs.flops["plain"], "distilled": pairs.flops["distilled_with_teacher"]}
    alone = {"plain": pairs.flops["plain"], "distilled": pairs.flops["distilled"]}
    without = _boundary(pairs, alone, x, bootstrap, level, seed)
    return _boundary(pairs, counted, x, bootstrap, level, seed, without)


def _boundary(pairs, x, x_name, bootstrap, level, seed, without=None) -> Boundary:
    arms = fit_arms(pairs, x, x_name, bootstrap, seed)
    evidence = Evidence(pairs, arms, x, x_name, bootstrap, seed)
    sizes = {}
    if "n_params" in arms.takes:
        sizes["n_params"] = float(np.exp(np.mean(np.log(np.unique(pairs.n_params)))))
    if "n_finetune" in arms.takes:
        sizes["n_finetune"] = float(pairs.n_finetune.min())
    return _judge(evidence, sizes, level, without)


def _judge(evidence: Evidence, sizes: dict[str, float], level: float, without: Boundary | None = None) -> Boundary:
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
    return paired_curve(x, near.plain, near.distilled, evidence.bootstrap, evidence.seed)


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
