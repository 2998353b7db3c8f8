"""The table as a fit reads it: which rows and columns it takes, and what is wrong with them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_scaling.errors import ColumnsError, InputError
from hf_scaling.fitting.columns import CLUSTER, SIZES, Columns, guessing_notes, is_missing, name_clusters, note
from hf_scaling.fitting.mixed import mixed_columns
from hf_scaling.fitting.target import AS_IT_IS, TargetScale, target_scale
from hf_scaling.laws import Law
from hf_scaling.text import format_count

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table

# Columns that must hold one value over the rows of a fit, with the argument that selects it.
_ONE_VALUE = {
    "task": None,
    "recipe": None,
    "arm": "arm",
    "upstream": "upstream",
    "downstream": "downstream",
    "eval_split": None,
}
# Columns whose values a fit records: what (Mis)Fitting (2025) asks a report to state about the data.
_RECORDED = (
    "study",
    "task",
    "stage",
    "arm",
    "recipe",
    "model",
    "upstream",
    "downstream",
    "eval_split",
    "seed",
    "device",
)
# The key under which given weights pass through the filters with their rows.
_WEIGHTS = "(weights)"
# Neighbouring levels of a size this far apart are rarely of one unit.
_UNIT_JUMP = 1000.0


def thinned(count: int, most: int) -> np.ndarray:
    """At most `most` of the positions 0 to count - 1, evenly spread, both ends included."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


@dataclass(frozen=True)
class RowFilter:
    """Which rows and columns of a table a fit uses; the public calls build it from their keywords.

    Attributes:
        target: Column to fit.
        x: Column of the variable of a law of one variable; None for the default.
        arm: Use only the rows of this arm; likewise upstream, downstream and stage. None for no filter.
        upstream: Value of the column upstream.
        downstream: Value of the column downstream.
        stage: pretrain or finetune; None for the stage that the law is of.
        teacher: Use only the distilled rows of this teacher (`find_boundary` alone).
        weights: Name of a column, or one positive number a row of the unfiltered table; None for the default.
        zeros: What happens to a row with a size at which the law is undefined, such as a zero with a negative power:
            "refuse" raises InputError, "leave_out" drops the row and adds the note `rows_left_out`.
        direction: "up" where more of the target is better, "down" where less is; None for what its name says, else
            its trend over the sizes.
        bounds: The range of the target, None for no limit; None for 0 to 1 where the target is `error` or a rate, 0 to
            infinity where it is `loss`, and none elsewhere.
        cluster: Column that names the rows that share their luck; None for `run`, else `parent` of fine-tuned rows,
            else the ladder that pre-trained rows are of.
        pool: Columns whose values name curves that share a distribution (`fit_law` alone); empty for one curve.

    Raises:
        InputError: `zeros` is neither, or `pool` is not a list of columns.
    """

    target: str = "loss"
    x: str | None = None
    arm: str | None = None
    upstream: str | None = None
    downstream: str | None = None
    stage: str | None = None
    teacher: str | None = None
    weights: "str | Sequence[float] | np.ndarray | None" = None
    zeros: Literal["refuse", "leave_out"] = "refuse"
    direction: str | None = None
    bounds: tuple[float | None, float | None] | None = None
    cluster: str | None = None
    pool: "str | Sequence[str]" = ()

    def __post_init__(self) -> None:
        pool = [self.pool] if isinstance(self.pool, str) else list(self.pool or ())
        if not all(isinstance(name, str) and name for name in pool) or len(set(pool)) < len(pool):
            raise InputError(f"pool must be columns, each named once, not {self.pool!r}")
        object.__setattr__(self, "pool", tuple(pool))
        if self.zeros not in ("refuse", "leave_out"):
            raise InputError(f"zeros {self.zeros!r} is unknown: choose refuse or leave_out")


@dataclass(frozen=True)
class FitRows:
    """The rows of one fit, as arrays.

    Attributes:
        columns: The law's variable to the table's column.
        variables: The law's variable to its values (N,).
        target_name: The column fitted.
        target: (N,) what is fitted: its values, converted by `scale`.
        weights: (N,) weights given by the caller, or None.
        n_eval: (N,) images or tokens each row was evaluated on, or None.
        configuration: (N,) a number for each distinct set of sizes: rows that share one are replicates.
        labels: Names of the rows for messages.
        study: Distinct values of the recorded columns: task, arm, recipe, model, seed and so on.
        notes: Findings about the rows.
        scale: How the column's values are fitted.
        emphasis: (N,) how much each row counts beyond its weight, or None.
        cluster: (N,) a number for each set of rows that share their luck (`name_clusters`); None where every row is
            one of its own.
        cluster_name: The column that they come from.
        repeat: (N,) a number for each set of rows that are repeats of one run; None for the configurations.
        pool: The columns that name curves; empty for rows of one curve.
        curve: (N,) the curve of each row; None without a pool.
        curve_names: The value of each of the pool's columns, for each curve.
    """

    columns: dict[str, str]
    variables: dict[str, np.ndarray]
    target_name: str
    target: np.ndarray
    weights: np.ndarray | None
    n_eval: np.ndarray | None
    configuration: np.ndarray
    labels: list[str]
    study: dict[str, list[str]] = field(default_factory=dict)
    notes: list[dict] = field(default_factory=list)
    scale: TargetScale = AS_IT_IS
    emphasis: np.ndarray | None = None
    cluster: np.ndarray | None = None
    cluster_name: str = ""
    repeat: np.ndarray | None = None
    pool: tuple[str, ...] = ()
    curve: np.ndarray | None = None
    curve_names: tuple[tuple[str, ...], ...] = ()

    def subset(self, keep: np.ndarray) -> "FitRows":
        """The rows where `keep` (N,) is true, with their configurations renumbered."""
        return replace(
            self,
            variables={name: values[keep] for name, values in self.variables.items()},
            target=self.target[keep],
            weights=None if self.weights is None else self.weights[keep],
            n_eval=None if self.n_eval is None else self.n_eval[keep],
            emphasis=None if self.emphasis is None else self.emphasis[keep],
            configuration=np.unique(self.configuration[keep], return_inverse=True)[1],
            labels=[label for label, kept in zip(self.labels, keep) if kept],
            repeat=None if self.repeat is None else np.unique(self.repeat[keep], return_inverse=True)[1],
            cluster=None if self.cluster is None else np.unique(self.cluster[keep], return_inverse=True)[1],
            curve=None if self.curve is None else self.curve[keep],
        )

    def members(self) -> list[np.ndarray]:
        """The rows of each configuration."""
        order = np.argsort(self.configuration, kind="stable")
        return np.split(order, np.flatnonzero(np.diff(self.configuration[order])) + 1)

    @property
    def n_configurations(self) -> int:
        """Number of distinct sets of sizes."""
        return int(self.configuration.max()) + 1


def neighbours_along(rows: FitRows, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the pairs of rows that follow each other along one variable while all other sizes are equal."""
    others = [values for other, values in rows.variables.items() if other != name]
    order = np.lexsort([rows.variables[name], *others])
    together = np.ones(len(order) - 1, dtype=bool)
    for other in others:
        together &= np.diff(other[order]) == 0
    return order[:-1][together], order[1:][together]


def number_configurations(sizes: Iterable[np.ndarray]) -> np.ndarray:
    """A number (N,) for each distinct combination of the sizes, each (N,)."""
    return np.unique(np.stack(list(sizes), axis=1), axis=0, return_inverse=True)[1].reshape(-1)


def column_of(law: Law, x: str | None) -> dict[str, str]:
    """The column that holds each variable of a law.

    Raises:
        InputError: x is given for a law of several variables.
    """
    if len(law.variables) > 1:
        if x is not None:
            text = f"x={x!r} has no effect for {law.name}: its variables are {', '.join(law.variables)}"
            raise ColumnsError(text, {"law": ["power_law"]})
        return {name: name for name in law.variables}
    variable = law.variables[0]
    return {variable: x or ("n_pretrain" if variable == "x" else variable)}


def select_rows(table: "Table", law: Law, row_filter: RowFilter) -> FitRows:
    """The rows of a table that a law takes, checked.

    Raises:
        InputError: A column is missing, a value cannot be used, or a column that must hold one value holds several;
            the message names the column and the row.
    """
    return take_rows(read_columns(table, law, row_filter), law, row_filter)


def read_columns(table: "Table", law: Law, row_filter: RowFilter) -> Columns:
    """The table's columns with the filters applied, and one row for each run_id.

    Raises:
        InputError: A column is missing or holds several values where it must hold one, or two rows of one run_id
            differ in a used column.
    """
    columns = name_clusters(Columns.of(table), row_filter.cluster)
    used = [*column_of(law, row_filter.x).values(), row_filter.target]
    weights = row_filter.weights
    if isinstance(weights, str):
        columns.require(weights)
        columns.data[_WEIGHTS] = columns.data[weights]
    elif weights is not None:
        given, count = np.asarray(weights), len(columns)
        if given.shape != (count,):
            raise InputError(f"weights has {given.size} values for {count} rows: give one a row, or a column name")
        columns.data[_WEIGHTS] = given
    columns.require(*used[:-1], target=row_filter.target, of_law=True)
    if row_filter.stage is not None:
        columns.require("stage")
    if "stage" in columns.data:
        fine = "n_finetune" in used[:-1]
        columns = columns.where_equal("stage", row_filter.stage or ("finetune" if fine else "pretrain"))
        columns = columns.where(columns.numbers("n_finetune") > 0, "n_finetune above 0") if fine else columns
    for name in ("arm", "upstream", "downstream"):
        value = getattr(row_filter, name)
        columns = columns if value is None else columns.where_equal(name, value)
    columns = columns.without_probes()
    for name, argument in _ONE_VALUE.items():
        values = columns.distinct(name)
        if len(values) > 1 and name not in row_filter.pool:
            remedy = f"choose one with {argument}=" if argument else f"filter the table by {name} before fitting"
            remedy += f", or fit all as curves with pool={name}"
            raise InputError(f"the rows hold more than one {name}: {', '.join(values)}; {remedy}")
    columns = columns.without_doubles()
    if "run_id" not in columns.data:
        return columns
    first: dict[str, int] = {}
    keep = np.ones(len(columns), dtype=bool)
    for row, run_id in enumerate(columns.data["run_id"]):
        if is_missing(run_id) or first.setdefault(run_id, row) == row:
            continue
        keep[row] = False
        for name in used:
            one, two = columns.data[name][first[run_id]], columns.data[name][row]
            if one != two and not (is_missing(one) and is_missing(two)):
                raise InputError(
                    f"run_id {run_id} is in the table twice with different {name}: {one} and {two}; where such rows "
                    "are checkpoints of one run, call the column run"
                )
    return columns.where(keep, "a run_id")


def take_rows(columns: Columns, law: Law, row_filter: RowFilter) -> FitRows:
    """Turn filtered columns into the arrays of a fit.

    Raises:
        InputError: A value cannot be used; the message names the column and the row.
    """
    mapping, notes = column_of(law, row_filter.x), list(columns.notes)
    usable = _usable_sizes(columns, law, mapping, row_filter.zeros)
    if not usable.all():
        left_out = int((~usable).sum())
        text = f"{left_out} of {len(usable)} rows left out: {law.name} is not defined where a size is zero"
        notes.append(note("rows_left_out", "info", text))
        columns = columns.where(usable, f"sizes at which {law.name} is defined")
    target, scale = columns.finite(row_filter.target), scale_of(columns, row_filter, mapping.values())
    sizes = {variable: columns.numbers(column) for variable, column in mapping.items()}
    if row_filter.target in mapping.values():
        raise InputError(
            f"{row_filter.target} is both the target and a size of {law.name}: set target= to another column"
        )
    notes += _unit_notes({column: sizes[variable] for variable, column in mapping.items()})
    if scale.rises and law.rises(sizes):
        # The law is of a score that rises itself.
        scale = replace(scale, offset=0.0, factor=1.0)
    elif scale.rises:
        name = row_filter.target
        text = f"{name} rises with size (higher is better): {scale.describe(name)} is fitted, and predictions are in "
        notes.append(note("rising_score", "info", f"{text}{name}'s own units"))
    notes += guessing_notes(columns, row_filter.target)
    curve, curve_names = _curves_of(columns, row_filter.pool)
    for name in (*SIZES, "image_size"):
        levels = len(columns.distinct(name))
        if name in mapping.values() or levels < 2:
            continue
        texts = np.unique([str(value) for value in columns.data[name]], return_inverse=True)[1].reshape(-1)
        # Within each curve it takes one value.
        is_constant = curve is not None and len(np.unique([curve, texts], axis=1).T) == len(np.unique(curve))
        if not is_constant:
            text = f"{name} takes {levels} values over these rows and the law ignores it: its effect counts as noise"
            notes.append(note("ignored_variable", "warn", text))
    weights = None
    if _WEIGHTS in columns.data:
        weights = columns.numbers(_WEIGHTS)
        for row in np.flatnonzero(~(np.isfinite(weights) & (weights > 0))):
            raise InputError(f"weights, row {columns.labels[row]}: {weights[row]} is not a positive number")
        weights = weights / weights.mean()
    n_eval = columns.numbers("n_eval") if "n_eval" in columns.data else np.array([np.nan])
    named = [] if curve is None else [curve]
    fitted, configuration = scale.to_fitted(target), number_configurations([*sizes.values(), *named])
    taken = [*mapping.values(), row_filter.target, *([row_filter.cluster] if row_filter.cluster else [])]
    taken += row_filter.pool
    taken += [row_filter.weights] if isinstance(row_filter.weights, str) else []
    mixed = mixed_columns(columns.data, taken, configuration, fitted, law.name)
    for column in mixed:
        notes.append(note("mixed", "warn", f"{column.text}: they are fitted together, and are no seeds of one run"))
    if len(columns) > 1 and CLUSTER in columns.data and len(set(columns.data[CLUSTER])) == 1:
        which = columns.data[CLUSTER][0].replace("=", " ")
        text = (
            f"all rows are of one cluster, {which}: intervals are for this one, not for another with luck of its own"
        )
        notes.append(note("few_clusters", "warn", text))
    repeat = number_configurations([configuration, *(column.levels for column in mixed)]) if mixed else None
    return FitRows(
        columns=mapping,
        variables=sizes,
        target_name=row_filter.target,
        target=fitted,
        weights=weights,
        n_eval=n_eval if np.isfinite(n_eval).all() and (n_eval > 0).all() else None,
        configuration=configuration,
        labels=[str(label) for label in columns.labels],
        study={name: values for name in _RECORDED if (values := columns.distinct(name))},
        notes=notes,
        scale=scale,
        repeat=repeat,
        pool=tuple(row_filter.pool),
        curve=curve,
        curve_names=curve_names,
        **_clusters_of(columns),
    )


def curve_name(value: Any) -> str:
    """A value of a pool's column as text; 8 and 8.0 are one name."""
    is_whole = isinstance(value, float | np.floating) and float(value).is_integer()
    return str(int(value)) if is_whole else str(value)


def _curves_of(columns: Columns, pool: Sequence[str]) -> tuple[np.ndarray | None, tuple[tuple[str, ...], ...]]:
    """The curve of each row (N,), and the names of the curves in their order; None without a pool.

    Raises:
        InputError: A column of the pool is missing, or has no value in a row.
    """
    if not pool:
        return None, ()
    columns.require(*pool)
    for name in pool:
        for row in (row for row, value in enumerate(columns.data[name]) if is_missing(value)):
            text = f"column {name!r}, row {columns.labels[row]}: there is no value, and pool= names curves by it"
            raise InputError(text)
    names = [tuple(map(curve_name, values)) for values in zip(*(columns.data[name] for name in pool))]
    order = sorted(set(names))
    number = {one: i for i, one in enumerate(order)}
    return np.array([number[one] for one in names]), tuple(order)


def _clusters_of(columns: Columns) -> dict[str, Any]:
    """The fields cluster and cluster_name of FitRows."""
    if CLUSTER not in columns.data:
        return {}
    number = np.unique(columns.data[CLUSTER], return_inverse=True)[1].reshape(-1)
    if number.max() == 0:
        return {}
    names = {name.split("=")[0] for name in columns.data[CLUSTER]} - {""}
    return {"cluster": number, "cluster_name": " and ".join(sorted(names))} if number.max() + 1 < len(number) else {}


def _unit_notes(sizes: Mapping[str, np.ndarray]) -> list[dict]:
    """Note `unit_jump` for a size whose levels fall into two groups that are far apart."""
    notes = []
    for name, values in sizes.items():
        levels = np.unique(values[values > 0])
        jumps = levels[1:] / levels[:-1]
        # Several levels on both sides: a single far one is a large or a small run.
        for at in np.flatnonzero(jumps >= _UNIT_JUMP):
            if at >= 1 and at < len(levels) - 2:
                low, high = format_count(levels[at]), format_count(levels[at + 1])
                text = f"{name} jumps from {low} to {high}: check that all rows are in one unit"
                notes.append(note("unit_jump", "warn", text))
    return notes


def scale_of(columns: Columns, row_filter: RowFilter, sizes: Iterable[str] = ()) -> TargetScale:
    """How the target of these rows is fitted (`target_scale`).

    Args:
        columns: The rows.
        row_filter: Names the target, and its direction and bounds where they are given.
        sizes: Columns that count as sizes beside `SIZES`.
    """
    names = [name for name in dict.fromkeys([*SIZES, *sizes]) if name in columns.data and name != row_filter.target]
    return target_scale(
        row_filter.target,
        columns.finite(row_filter.target),
        columns.labels,
        {name: columns.numbers(name, strict=False) for name in names},
        row_filter.direction,
        row_filter.bounds,
        columns.numbers("n_eval", strict=False) if "n_eval" in columns.data else None,
    )


def _usable_sizes(columns: Columns, law: Law, mapping: Mapping[str, str], zeros: str) -> np.ndarray:
    """Which rows (N,) have sizes at which the law is defined; the others raise where zeros is "refuse"."""
    variables = {variable: columns.finite(column) for variable, column in mapping.items()}
    for variable, column in mapping.items():
        for row in np.flatnonzero(variables[variable] < 0):
            value = variables[variable][row]
            raise InputError(f"column {column!r}, row {columns.labels[row]}: {value:g} is negative; sizes are not")
    usable = law.defined(variables)
    for row in np.flatnonzero(~usable) if zeros == "refuse" else ():
        zero = [f"column {column!r}, " for variable, column in mapping.items() if variables[variable][row] == 0]
        place = f"{zero[0] if zero else ''}row {columns.labels[row]}"
        raise InputError(f"{place}: {law.name} is not defined there; leave the row out or use zeros='leave_out'")
    return usable
