"""Pairs of runs that differ in the arm alone: what the boundary is looked for in."""

from dataclasses import dataclass

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.rows import Columns

# What two runs of a pair share, where the table has it.
_SHARED = (
    "n_pretrain",
    "n_params",
    "n_finetune",
    "seed",
    "model",
    "downstream",
    "stage",
    "recipe",
    "upstream",
    "task",
    "eval_split",
)
# What must be one value over all pairs: a boundary depends on each of them.
_ONE_VALUE = ("task", "recipe", "upstream", "eval_split")
_FLOPS = ("train_flops", "teacher_flops")


@dataclass(frozen=True)
class Pairs:
    """P pairs of runs, plain and distilled, equal in everything else.

    Attributes:
        n_pretrain: (P,) unique upstream images.
        n_params: (P,) parameters, or NaN where the table has no such column.
        n_finetune: (P,) labelled images, or NaN.
        plain: (P,) the target of the plain run.
        distilled: (P,) the target of the distilled run.
        flops: Of each arm (P,), the teacher's counted and not, by name; empty where the table has none.
        n_unpaired: Rows that found no partner.
        target: The column compared.
    """

    n_pretrain: np.ndarray
    n_params: np.ndarray
    n_finetune: np.ndarray
    plain: np.ndarray
    distilled: np.ndarray
    flops: dict[str, np.ndarray]
    n_unpaired: int
    target: str

    def __len__(self) -> int:
        return len(self.n_pretrain)

    def where(self, keep: np.ndarray) -> "Pairs":
        """The pairs where `keep` holds."""
        flops = {name: values[keep] for name, values in self.flops.items()}
        sizes = (self.n_pretrain[keep], self.n_params[keep], self.n_finetune[keep])
        return Pairs(*sizes, self.plain[keep], self.distilled[keep], flops, self.n_unpaired, self.target)


def find_pairs(table, target: str, teacher: str | None, downstream: str | None) -> Pairs:
    """Pair the runs of a table.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of columns.
        target: The column to compare.
        teacher: Keep the distilled rows of this teacher.
        downstream: Keep the fine-tuned rows of this downstream set; without it the pretrain rows are compared.

    Raises:
        InputError: A column is missing, an arm is, several distillation settings are mixed, or no two rows pair up.
    """
    columns = _chosen_rows(Columns.of(table), target, teacher, downstream)
    arms = columns.data["arm"].astype(str)
    keys = _keys(columns)
    found = {arm: _by_key(columns, keys, arms == arm) for arm in ("plain", "distilled")}
    both = [key for key in found["plain"] if key in found["distilled"]]
    if not both:
        raise InputError(f"no plain and distilled row are equal in {', '.join(_present(columns))}: nothing to compare")
    rows = {arm: np.array([found[arm][key] for key in both]) for arm in found}
    values = columns.numbers(target)
    for arm in rows:
        for row in rows[arm]:
            if not np.isfinite(values[row]) or values[row] <= 0:
                raise InputError(f"column {target!r}, row {columns.labels[row]}: {values[row]} cannot be compared")
    return Pairs(
        *(_size(columns, name, rows["plain"]) for name in ("n_pretrain", "n_params", "n_finetune")),
        values[rows["plain"]],
        values[rows["distilled"]],
        _flops(columns, rows),
        len(columns) - 2 * len(both),
        target,
    )


def _chosen_rows(columns: Columns, target: str, teacher: str | None, downstream: str | None) -> Columns:
    for name in ("arm", "n_pretrain", target):
        columns.require(name)
    if downstream is not None:
        columns.require("downstream")
        columns = columns.where(columns.data["downstream"].astype(str) == downstream, f"downstream={downstream!r}")
    elif "pretrain" in columns.distinct("stage"):
        columns = columns.where(columns.data["stage"].astype(str) == "pretrain", "stage 'pretrain'")
    elif len(columns.distinct("downstream")) > 1:
        names = ", ".join(columns.distinct("downstream"))
        raise InputError(f"the rows hold more than one downstream: {names}; choose one with downstream=")
    arms = columns.data["arm"].astype(str)
    for arm in ("plain", "distilled"):
        if not (arms == arm).any():
            raise InputError(f"the table has no row with arm {arm!r}: a boundary needs both arms")
    return _one_setting(columns, teacher)


def _one_setting(columns: Columns, teacher: str | None) -> Columns:
    """The plain rows with the distilled rows of one teacher and one distillation setting."""
    distilled = columns.data["arm"].astype(str) == "distilled"
    if teacher is not None:
        columns.require("teacher")
        keep = ~distilled | (columns.data["teacher"].astype(str) == teacher)
        columns = columns.where(keep, f"teacher={teacher!r}")
        distilled = columns.data["arm"].astype(str) == "distilled"
        if not distilled.any():
            raise InputError(f"no distilled row has teacher {teacher!r}")
    for name in _ONE_VALUE:
        values = _shared_values(columns, name, distilled)
        if len(values) > 1:
            raise InputError(f"both arms hold rows of more than one {name}: {', '.join(values)}; keep the rows of one")
    taught = columns.where(distilled, "arm 'distilled'")
    # A teacher trained on the student's own images is another run at every size; its size says which teacher it is.
    for name, way in (("distillation", "keep the rows of one"), ("teacher_n_params", "choose one with teacher=")):
        values = taught.distinct(name)
        if len(values) > 1:
            raise InputError(f"the distilled rows hold more than one {name}: {', '.join(values)}; {way}")
    return columns


def _shared_values(columns: Columns, name: str, distilled: np.ndarray) -> list[str]:
    """The values of a column that rows of both arms have: the others find no partner anyway."""
    plain = columns.where(~distilled, "arm 'plain'").distinct(name)
    taught = columns.where(distilled, "arm 'distilled'").distinct(name)
    return [value for value in taught if value in plain]


def _present(columns: Columns) -> list[str]:
    return [name for name in _SHARED if name in columns.data]


def _keys(columns: Columns) -> list[tuple]:
    names = _present(columns)
    return [tuple(str(columns.data[name][row]) for name in names) for row in range(len(columns))]


def _by_key(columns: Columns, keys: list[tuple], keep: np.ndarray) -> dict[tuple, int]:
    """Key to row for one arm; a repeated key pairs by its order of appearance."""
    found: dict[tuple, int] = {}
    for row in np.flatnonzero(keep):
        repeat = 0
        while (*keys[row], repeat) in found:
            repeat += 1
        found[(*keys[row], repeat)] = int(row)
    return found


def _size(columns: Columns, name: str, rows: np.ndarray) -> np.ndarray:
    return columns.numbers(name)[rows] if name in columns.data else np.full(len(rows), np.nan)


def _flops(columns: Columns, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    if "train_flops" not in columns.data:
        return {}
    student = columns.numbers("train_flops")
    teacher = np.nan_to_num(columns.numbers("teacher_flops")) if "teacher_flops" in columns.data else 0 * student
    return {
        "plain": student[rows["plain"]],
        "distilled": student[rows["distilled"]],
        "distilled_with_teacher": (student + teacher)[rows["distilled"]],
    }
