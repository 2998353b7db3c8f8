"""What the runs behind a fit cost: samples seen, FLOPs and speed by size, for plans and suggestions."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling.fitting.columns import SIZES, Columns
from hf_scaling.fitting.rows import thinned

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table

# A foreign table may hold a different size in every row; a cost curve needs no more points than this.
_MOST_POINTS = 256
# The column that counts each stage's data.
_DATA = {"pretrain": "n_pretrain", "finetune": "n_finetune"}
# Columns in which the rows of both stages agree with the fitted ones, and those in which the fitted stage's also do.
_SHARED = ("task", "arm", "upstream")
_OWN = ("recipe", "downstream", "eval_split")


def measured_compute(table: "Table", study: Mapping[str, list[str]]) -> dict[str, Any]:
    """Sizes, samples seen, FLOPs and speed of the runs that a fit's rows belong to, as plain numbers.

    Args:
        table: The table that the law was fitted to.
        study: The distinct values of the fitted rows' recorded columns (`LawFit.data["study"]`).

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
    fitted = _rows_like(columns, study, ("stage", *_SHARED, *_OWN))
    compute: dict[str, Any] = {"sizes": {}}
    for name in SIZES:
        if name in fitted.data:
            sizes = fitted.numbers(name, strict=False)
            levels = np.unique(sizes[np.isfinite(sizes)])
            compute["sizes"][name] = [float(levels[i]) for i in thinned(len(levels), _MOST_POINTS)]
    if "stage" in columns.data:
        stages = columns.data["stage"].astype(str)
    else:
        # All rows are of the stage whose data they count.
        is_fine = bool((columns.numbers("n_finetune", strict=False) > 0).any())
        stages = np.full(len(columns), "finetune" if is_fine else "pretrain")
    speeds = []
    for stage, size in _DATA.items():
        if size not in columns.data or not (stages == stage).any():
            continue
        names = (*_SHARED, *(_OWN if study.get("stage", [stage]) == [stage] else ()))
        rows = _rows_like(columns.where(stages == stage, stage), study, names)
        compute[stage] = _costs_of_stage(rows, size)
        # The teacher's forward passes take part of the seconds.
        work = rows.numbers("train_flops", strict=False)
        work = work + np.nan_to_num(rows.numbers("teacher_flops", strict=False))
        with np.errstate(divide="ignore", invalid="ignore"):
            speed = work / rows.numbers("seconds", strict=False)
        speeds.append(speed[np.isfinite(speed) & (speed > 0)])
    speed = np.concatenate([np.empty(0), *speeds])
    if len(speed):
        compute |= {"flops_per_second": float(np.median(speed)), "devices": fitted.distinct("device")}
    return compute


def _rows_like(columns: Columns, study: Mapping[str, list[str]], names: Iterable[str]) -> Columns:
    """The rows that have the study's values in these columns; all rows where none has."""
    keep = columns.like(study, names)
    return columns.where(keep, "the fitted names") if keep.any() else columns


def _costs_of_stage(rows: Columns, size: str) -> dict[str, Any]:
    data, seen = rows.numbers(size, strict=False), rows.numbers("samples_seen", strict=False)
    samples = np.where(seen > 0, seen, data)
    with np.errstate(divide="ignore", invalid="ignore"):
        flops = rows.numbers("train_flops", strict=False) / samples
        forward = rows.numbers("teacher_flops", strict=False) / samples
    costs: dict[str, Any] = {
        "samples": _curve(data, seen),
        "flops": _curve(rows.numbers("n_params", strict=False), flops),
    }
    forward = forward[np.isfinite(forward) & (forward > 0)]
    if len(forward):
        trained_on, student = (rows.numbers(name, strict=False) for name in ("teacher_n_pretrain", "n_pretrain"))
        known = np.isfinite(trained_on)
        same = bool((trained_on[known] == student[known]).all())
        costs["teacher_flops"] = _from_log(np.log(forward).mean())
        costs["teacher_trained_on"] = (
            None if not known.any() else "the same images" if same else float(np.median(trained_on[known]))
        )
    return costs


def _curve(x: np.ndarray, y: np.ndarray) -> list[list[float | None]]:
    """Distinct x with the geometric mean of their y, ascending; one point without x where x is unknown."""
    usable = np.isfinite(y) & (y > 0)
    if not usable.any():
        return []
    if not (np.isfinite(x) & (x > 0)).any():
        return [[None, _from_log(np.log(y[usable]).mean())]]
    usable &= np.isfinite(x) & (x > 0)
    levels, group = np.unique(x[usable], return_inverse=True)
    logs = np.bincount(group, np.log(y[usable])) / np.bincount(group)
    return [[float(levels[i]), _from_log(logs[i])] for i in thinned(len(levels), _MOST_POINTS)]


def _from_log(log: float) -> float:
    """The number of a mean logarithm to 12 digits: the later ones are rounding, and equal runs must cost the same."""
    return float(f"{np.exp(log):.12g}")
