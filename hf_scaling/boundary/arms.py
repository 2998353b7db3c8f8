"""Both arms' runs, in pairs that are equal in everything else."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.columns import CLUSTER, Columns, guessing_notes, name_clusters, note
from hf_scaling.fitting.rows import RowFilter, scale_of
from hf_scaling.fitting.target import AS_IT_IS, TargetScale
from hf_scaling.results.remedies import missing_arms
from hf_scaling.text import listing

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table

ARMS = ("plain", "distilled")
# Columns in which the two runs of a pair agree, where the table has them.
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
# Columns that must hold one value over all pairs: a boundary depends on each of them.
_ONE_VALUE = ("task", "recipe", "upstream", "eval_split")
# Columns that must hold one value over the distilled rows, and how to select one. A teacher trained on the student's
# own images is a different run at every size; its own size identifies it.
_ONE_SETTING = {"distillation": "filter the table by distillation", "teacher_n_params": "choose one with teacher="}


@dataclass(frozen=True)
class Pairs:
    """P pairs of runs, plain and distilled, equal in everything else.

    Attributes:
        n_pretrain: (P,) unique upstream images.
        n_params: (P,) parameters, or NaN where the table has no such column.
        n_finetune: (P,) labelled images, or NaN.
        plain: (P,) the target of the plain run.
        distilled: (P,) the target of the distilled run.
        flops: FLOPs of each arm (P,), `distilled_with_teacher` with the teacher's; empty where the table has none.
        n_unpaired: Number of rows without a partner.
        target: The column compared.
        notes: Findings about the rows.
        scale: How its values are fitted; `plain` and `distilled` are what is fitted, where less is better.
        cluster: (P,) a number for each set of pairs whose runs share their luck: those fine-tuned from one checkpoint,
            or models pre-trained on the same images with one seed; None where every pair is one of its own.
    """

    n_pretrain: np.ndarray
    n_params: np.ndarray
    n_finetune: np.ndarray
    plain: np.ndarray
    distilled: np.ndarray
    flops: dict[str, np.ndarray]
    n_unpaired: int
    target: str
    scale: TargetScale = AS_IT_IS
    notes: list[dict] = field(default_factory=list)
    cluster: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.n_pretrain)

    def where(self, keep: np.ndarray) -> "Pairs":
        """The pairs where `keep` (P,) is true."""
        names = ("n_pretrain", "n_params", "n_finetune", "plain", "distilled")
        flops = {name: values[keep] for name, values in self.flops.items()}
        cluster = None if self.cluster is None else _numbered(self.cluster[keep])
        return replace(self, **{name: getattr(self, name)[keep] for name in names}, flops=flops, cluster=cluster)


def _numbered(clusters: np.ndarray) -> np.ndarray | None:
    """The clusters (P,) as numbers from 0; None where every pair is one of its own, or all are of one."""
    number = np.unique(clusters, return_inverse=True)[1].reshape(-1)
    return number if 1 < number.max() + 1 < len(number) else None


def find_pairs(table: "Table", row_filter: RowFilter) -> Pairs:
    """Pair the runs of a table.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of columns.
        row_filter: Its target is the column to compare. With a teacher only the distilled rows of that teacher are
            used, with a downstream set only the fine-tuned rows of that set; without one the pretrain rows are.

    Raises:
        InputError: A column or an arm is missing, a column that must hold one value holds several, no two rows pair
            up, or a value cannot be compared.
    """
    target = row_filter.target
    columns = _comparable_rows(name_clusters(Columns.of(table), row_filter.cluster), row_filter)
    shared = [name for name in _SHARED if name in columns.data]
    texts = [[str(value) for value in columns.data[name]] for name in shared]
    # Key to row for each arm; repeats of a key pair up in their order of appearance.
    places: dict[str, dict[tuple, int]] = {arm: {} for arm in ARMS}
    arms = columns.data["arm"].astype(str)
    for row, key in enumerate(zip(*texts)):
        of_arm, repeat = places.get(arms[row], {}), 0
        while (*key, repeat) in of_arm:
            repeat += 1
        of_arm[(*key, repeat)] = row
    both = [key for key in places["plain"] if key in places["distilled"]]
    if not both:
        raise InputError(f"no plain and distilled row are equal in {', '.join(shared)}: nothing to compare")
    plain, distilled = (np.array([places[arm][key] for key in both]) for arm in ARMS)
    values = columns.numbers(target)
    columns.finite(target)
    scale = scale_of(columns, row_filter)
    fitted = scale.to_fitted(values)
    for row in (*plain, *distilled):
        if not np.isfinite(fitted[row]) or fitted[row] <= 0:
            reason = "; a score that rises is compared where it is a rate (set bounds=)" if scale.rises else ""
            raise InputError(f"column {target!r}, row {columns.labels[row]}: {values[row]} cannot be compared{reason}")
    sizes = {
        name: columns.numbers(name)[plain] if name in columns.data else np.full(len(both), np.nan)
        for name in ("n_pretrain", "n_params", "n_finetune")
    }
    flops = {}
    if "train_flops" in columns.data:
        student = columns.numbers("train_flops")
        teacher = np.nan_to_num(columns.numbers("teacher_flops")) if "teacher_flops" in columns.data else 0 * student
        flops = {
            "plain": student[plain],
            "distilled": student[distilled],
            "distilled_with_teacher": (student + teacher)[distilled],
        }
    n_unpaired = len(columns) - 2 * len(both)
    return Pairs(
        **sizes,
        plain=fitted[plain],
        distilled=fitted[distilled],
        flops=flops,
        n_unpaired=n_unpaired,
        target=target,
        scale=scale,
        notes=[*columns.notes, *guessing_notes(columns, target)],
        cluster=_clusters(columns, plain, distilled),
    )


def _clusters(columns: Columns, plain: np.ndarray, distilled: np.ndarray) -> np.ndarray | None:
    """Which of the pairs, given as rows of both arms (P,), share their luck."""
    data, number = columns.data, None
    if CLUSTER in data:
        number = _numbered(np.array([f"{data[CLUSTER][a]} {data[CLUSTER][b]}" for a, b in zip(plain, distilled)]))
    if number is None and "seed" in data and "n_params" in data and len(np.unique(data["n_params"][plain])) > 1:
        number = _numbered(np.array([f"{data['n_pretrain'][row]} {data['seed'][row]}" for row in plain]))
    return number


def _comparable_rows(columns: Columns, row_filter: RowFilter) -> Columns:
    """The rows of one stage and downstream set, the distilled ones of one teacher and one distillation setting."""
    if "arm" not in columns.data:
        raise missing_arms(columns.data, others=["n_pretrain"], target=row_filter.target)
    columns.require("n_pretrain", target=row_filter.target)
    if row_filter.downstream is not None:
        columns = columns.where_equal("downstream", row_filter.downstream)
    elif "pretrain" in columns.distinct("stage"):
        columns = columns.where_equal("stage", "pretrain")
    elif len(columns.distinct("downstream")) > 1:
        names = ", ".join(columns.distinct("downstream"))
        raise InputError(f"the rows hold more than one downstream: {names}; choose one with downstream=")
    columns = columns.without_probes()
    for arm in ARMS:
        if not (columns.data["arm"].astype(str) == arm).any():
            raise missing_arms(columns.data, arm)
    is_ours = np.isin(columns.data["arm"].astype(str), ARMS)
    if not is_ours.all():
        others = columns.where(~is_ours, "another arm").distinct("arm")
        text = f"{(~is_ours).sum()} rows of neither arm are left out: {listing(others) or 'their arm is empty'}"
        columns = columns.where(is_ours, "an arm")
        columns.notes.append(note("other_arms", "warn", text))
    if row_filter.teacher is not None:
        columns.require("teacher")
        is_other = (columns.data["arm"].astype(str) == "distilled") & (
            columns.data["teacher"].astype(str) != row_filter.teacher
        )
        columns = columns.where(~is_other, f"teacher={row_filter.teacher!r}")
        if not (columns.data["arm"].astype(str) == "distilled").any():
            raise InputError(f"no distilled row has teacher {row_filter.teacher!r}")
    is_distilled = columns.data["arm"].astype(str) == "distilled"
    plain, distilled = columns.where(~is_distilled, "arm='plain'"), columns.where(is_distilled, "arm='distilled'")
    for name in _ONE_VALUE:
        # Rows with a value that only one arm has find no partner anyway.
        values = [value for value in distilled.distinct(name) if value in plain.distinct(name)]
        if len(values) > 1:
            names = ", ".join(values)
            raise InputError(f"both arms hold rows of more than one {name}: {names}; filter the table by {name}")
    for name, remedy in _ONE_SETTING.items():
        values = distilled.distinct(name)
        if len(values) > 1:
            raise InputError(f"the distilled rows hold more than one {name}: {', '.join(values)}; {remedy}")
    return columns.without_doubles()
