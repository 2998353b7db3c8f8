"""The distillation boundary of a part: of each way of teaching, at each size, and at equal compute."""

from dataclasses import dataclass

from hf_scaling.boundary import Boundary, find_boundary
from hf_scaling.errors import InputError
from hf_scaling.report.asking import Asked
from hf_scaling.report.parts import Arm, Part, Rows, levels


@dataclass(frozen=True)
class Crossing:
    """Where one way of teaching stops paying, or why it cannot be asked.

    Attributes:
        arm: The distilled runs.
        target: The column compared.
        boundary: At the geometric mean n_params and the smallest n_finetune; None where it could not be found.
        by_size: The same at each measured n_params, and n_finetune: (column, value, Boundary).
        compute: At equal FLOPs; None where the table has none, or where that view could not be had.
        compute_problem: Why it could not; "" otherwise.
        problem: Why there is no boundary; "" otherwise.
    """

    arm: Arm
    target: str
    boundary: Boundary | None = None
    by_size: tuple[tuple[str, float, Boundary], ...] = ()
    compute: Boundary | None = None
    compute_problem: str = ""
    problem: str = ""


def find_crossings(part: Part, target: str, asked: Asked) -> list[Crossing]:
    """One for each way of teaching in a part that has plain runs too."""
    plain = part.arm("plain")
    return [_find(plain[0], arm, target, asked) for arm in part.arm("distilled")] if plain else []


def _find(plain: Arm, taught: Arm, target: str, asked: Asked) -> Crossing:
    import pandas as pd

    rows = Rows(pd.concat([plain.rows.to_pandas(), taught.rows.to_pandas()]))
    settings = {"target": target, "bootstrap": asked.bootstrap, "level": asked.level, "seed": _seed(asked)}
    try:
        boundary = find_boundary(rows, **settings)
    except InputError as error:
        return Crossing(taught, target, problem=str(error))
    compute, why = _at_equal_compute(rows, settings)
    return Crossing(taught, target, boundary, tuple(_by_size(boundary, rows)), compute, why)


def _seed(asked: Asked) -> int:
    return asked.fitting.get("seed", 0)


def _by_size(boundary: Boundary, rows: Rows) -> list[tuple[str, float, Boundary]]:
    frame = rows.to_pandas()
    taught = frame[frame["arm"].astype(str) == "distilled"]
    return [
        (name, float(value), boundary.at(**{name: value})) for name in boundary.sizes for value in levels(taught, name)
    ]


def _at_equal_compute(rows: Rows, settings: dict) -> tuple[Boundary | None, str]:
    """The view along FLOPs, the teacher's counted, or why there is none; neither where the table has no FLOPs."""
    frame = rows.to_pandas()
    if not len(levels(frame, "train_flops")):
        return None, ""
    if frame["train_flops"].isna().any():
        return None, "some runs have no train_flops"
    try:
        return find_boundary(rows, **settings, x="train_flops"), ""
    except InputError as error:
        return None, str(error)
