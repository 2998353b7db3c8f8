"""What the runs of a table cost: kept with a law, so that a plan can price sizes nobody has run yet."""

import numpy as np

from hf_scaling.fitting.rows import Columns

SIZES = ("n_params", "n_pretrain", "n_finetune")
# The size that each stage's data is counted in.
_DATA = {"pretrain": "n_pretrain", "finetune": "n_finetune"}
# What both stages' rows share with the fitted ones, and what the rows of the fitted stage share beside it.
_LINEAGE = ("task", "arm", "upstream")
_OWN = ("recipe", "downstream", "eval_split")
# A table of somebody else's may hold a size a row; a curve needs no more points than this.
_MOST_POINTS = 256


def measured_compute(table, study: dict[str, list[str]]) -> dict:
    """The sizes, samples, FLOPs and pace of the runs that a fit's rows belong to, as plain numbers.

    Args:
        table: What the law was fitted to.
        study: The distinct values of the fitted rows' naming columns (`LawFit.data["study"]`).

    Returns:
        sizes: n_params, n_pretrain and n_finetune to their distinct values among the fitted rows; absent columns are
        left out. pretrain and finetune, where the table has such rows: `samples`, pairs of the stage's data size and
        the samples seen, empty without samples_seen (each example then counts as seen once); `flops`, pairs of
        n_params and training FLOPs a sample (n_params null where unknown), empty without train_flops; for distilled
        rows `teacher_flops`, of its forward pass a sample, and `teacher_trained_on`: "the same images", a number of
        images, or null where unknown.
        flops_per_second and devices, where rows have seconds.
    """
    columns = Columns.of(table)
    fitted = _rows_like(columns, study, ("stage", *_LINEAGE, *_OWN))
    found = {"sizes": {name: _distinct(fitted, name) for name in SIZES if name in fitted.data}}
    pace = []
    for stage, size in _DATA.items():
        own = study.get("stage", [stage]) == [stage]
        rows = _stage_rows(columns, stage, study, (*_LINEAGE, *(_OWN if own else ())))
        if rows is not None and size in rows.data:
            found[stage] = _stage(rows, size)
            pace.append(_pace(rows))
    pace = np.concatenate([p for p in pace if len(p)]) if any(map(len, pace)) else np.empty(0)
    if len(pace):
        found |= {"flops_per_second": float(np.median(pace)), "devices": fitted.distinct("device")}
    return found


def _rows_like(columns: Columns, study: dict, names) -> Columns:
    keep = np.ones(len(columns), dtype=bool)
    for name in names:
        if name in columns.data and study.get(name):
            keep &= np.isin(columns.data[name].astype(str), study[name])
    return columns.where(keep, "the fitted names") if keep.any() else columns


def _stage_rows(columns: Columns, stage: str, study: dict, names) -> Columns | None:
    """The rows of a stage: by the column, or all rows of a table without one that counts the stage's data."""
    if "stage" in columns.data:
        keep = columns.data["stage"].astype(str) == stage
        return _rows_like(columns.where(keep, stage), study, names) if keep.any() else None
    fine = "n_finetune" in columns.data and (_numbers(columns, "n_finetune") > 0).any()
    return _rows_like(columns, study, names) if (stage == "finetune") == fine else None


def _stage(rows: Columns, size: str) -> dict:
    data, flops = _numbers(rows, size), _numbers(rows, "train_flops")
    seen = _numbers(rows, "samples_seen")
    samples = np.where(seen > 0, seen, data)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {"samples": _curve(data, seen), "flops": _curve(_numbers(rows, "n_params"), flops / samples)}
        forward = _numbers(rows, "teacher_flops") / samples
    forward = forward[np.isfinite(forward) & (forward > 0)]
    if len(forward):
        found |= {"teacher_flops": _rounded(np.log(forward).mean()), "teacher_trained_on": _trained_on(rows)}
    return found


def _trained_on(rows: Columns) -> str | float | None:
    """How many images the teacher was trained on: those of its student, or always as many."""
    own, student = _numbers(rows, "teacher_n_pretrain"), _numbers(rows, "n_pretrain")
    known = np.isfinite(own)
    if not known.any():
        return None
    return "the same images" if (own[known] == student[known]).all() else float(np.median(own[known]))


def _pace(rows: Columns) -> np.ndarray:
    """FLOPs a second of each row, the teacher's forward passes counted: they take part of its seconds."""
    work = _numbers(rows, "train_flops") + np.nan_to_num(_numbers(rows, "teacher_flops"))
    with np.errstate(divide="ignore", invalid="ignore"):
        pace = work / _numbers(rows, "seconds")
    return pace[np.isfinite(pace) & (pace > 0)]


def _curve(x: np.ndarray, y: np.ndarray) -> list[list[float | None]]:
    """Distinct x with the geometric mean of their y, ascending; one point without x where x is unknown."""
    usable = np.isfinite(y) & (y > 0)
    if not usable.any():
        return []
    if not (np.isfinite(x) & (x > 0)).any():
        return [[None, _rounded(np.log(y[usable]).mean())]]
    usable &= np.isfinite(x) & (x > 0)
    levels, group = np.unique(x[usable], return_inverse=True)
    logs = np.bincount(group, np.log(y[usable])) / np.bincount(group)
    return [[float(levels[i]), _rounded(logs[i])] for i in _thinned(len(levels))]


def _rounded(log: float) -> float:
    """The number of a mean logarithm, without the digits that its rounding made up: equal runs cost the same."""
    return float(f"{np.exp(log):.12g}")


def _distinct(columns: Columns, name: str) -> list[float]:
    values = _numbers(columns, name)
    levels = np.unique(values[np.isfinite(values)])
    return [float(levels[i]) for i in _thinned(len(levels))]


def _thinned(count: int) -> np.ndarray:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).round().astype(int))


def _numbers(columns: Columns, name: str) -> np.ndarray:
    """A column as floats; what is absent or no number is NaN: costs are looked at, never required."""
    if name not in columns.data:
        return np.full(len(columns), np.nan)
    try:
        return columns.data[name].astype(float)
    except (TypeError, ValueError):
        return np.array([_number(value) for value in columns.data[name]])


def _number(value) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
