"""Which rows of a table a fit takes, and what is wrong with them: the one place that reads columns."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.laws import Law

if TYPE_CHECKING:
    import os

    import pandas as pd

    from hf_scaling.results import ResultsTable

    #: What the public calls take as a table; a str or a path is loaded with `ResultsTable.load`.
    TableLike = ResultsTable | pd.DataFrame | Mapping[str, Sequence | np.ndarray] | str | os.PathLike[str]

# What must be one value over the rows of a fit, and the argument that chooses it.
_CHOOSERS = {
    "task": None,
    "recipe": None,
    "arm": "arm",
    "upstream": "upstream",
    "downstream": "downstream",
    "eval_split": None,
}
# A size that varies over the rows although the law does not take it.
_SIZES = ("n_params", "n_pretrain", "n_finetune", "image_size")


@dataclass(frozen=True)
class FitRows:
    """The rows of one fit, as arrays.

    Attributes:
        columns: The law's variable to the table's column.
        variables: The law's variable to its values (N,).
        target_name: The column fitted.
        target: (N,) its values.
        weights: (N,) weights given by the caller, or None.
        n_eval: (N,) images or tokens each row was evaluated on, or None.
        configuration: (N,) a number for each distinct set of sizes: rows that share one are replicates.
        labels: How to name each row in a message.
        study: What (Mis)Fitting 2025 asks a report to state of the data: distinct values of the naming columns.
        notes: Findings about the rows.
    """

    columns: dict[str, str]
    variables: dict[str, np.ndarray]
    target_name: str
    target: np.ndarray
    weights: np.ndarray | None
    n_eval: np.ndarray | None
    configuration: np.ndarray
    labels: list[str]
    study: dict = field(default_factory=dict)
    notes: list[dict] = field(default_factory=list)

    def subset(self, keep: np.ndarray) -> "FitRows":
        """The rows where `keep` (N,) is true, with their configurations numbered anew."""
        return FitRows(
            self.columns,
            {name: values[keep] for name, values in self.variables.items()},
            self.target_name,
            self.target[keep],
            None if self.weights is None else self.weights[keep],
            None if self.n_eval is None else self.n_eval[keep],
            np.unique(self.configuration[keep], return_inverse=True)[1],
            [label for label, kept in zip(self.labels, keep) if kept],
            self.study,
            list(self.notes),
        )

    @property
    def n_configurations(self) -> int:
        """How many distinct sets of sizes there are."""
        return int(self.configuration.max()) + 1


def note(code: str, grade: str, text: str) -> dict:
    """A finding: a code for programs, a grade (info, warn or error) and a sentence for people."""
    return {"code": code, "grade": grade, "text": text}


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

    def __post_init__(self) -> None:
        if self.zeros not in ("refuse", "leave_out"):
            raise InputError(f"zeros {self.zeros!r} is unknown: choose refuse or leave_out")


def as_table(table: "TableLike") -> "ResultsTable | pd.DataFrame | Mapping":
    """Load a table given by path or Hub id; return any other unchanged."""
    if isinstance(table, str) or hasattr(table, "__fspath__"):
        from hf_scaling.results import ResultsTable

        return ResultsTable.load(table)
    return table


def default_zeros(table: object) -> Literal["refuse", "leave_out"]:
    """Value of `RowFilter.zeros` where the caller gives none: zeros are left out of a ResultsTable alone."""
    from hf_scaling.results import ResultsTable

    return "leave_out" if isinstance(table, ResultsTable) else "refuse"


def column_of(law: Law, x: str | None) -> dict[str, str]:
    """The column that holds each variable of a law.

    Raises:
        InputError: x is given for a law of several variables.
    """
    if len(law.variables) > 1:
        if x is not None:
            raise InputError(f"x={x!r} changes nothing for {law.name}: its variables are {', '.join(law.variables)}")
        return {name: name for name in law.variables}
    variable = law.variables[0]
    return {variable: x or ("n_pretrain" if variable == "x" else variable)}


def choose_rows(table, law: Law, row_filter: RowFilter) -> FitRows:
    """The rows of a table that a law takes, checked.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of names to equally long arrays.
        law: The law to be fitted.
        row_filter: The filters.

    Raises:
        InputError: A column is missing, a value cannot be used, or the rows still mix what must be one thing; the
            message names the column and the row.
    """
    return take_rows(read_columns(table, law, row_filter), law, row_filter)


def read_columns(table, law: Law, row_filter: RowFilter) -> "Columns":
    """The table's columns with the filters applied and repeated run ids collapsed."""
    columns = Columns.of(table)
    mapping = column_of(law, row_filter.x)
    _attach_weights(columns, row_filter.weights)
    for name in [*mapping.values(), row_filter.target]:
        columns.require(name)
    columns = _filter_stage(columns, mapping, row_filter.stage)
    for name in ("arm", "upstream", "downstream"):
        wanted = getattr(row_filter, name)
        if wanted is not None:
            columns.require(name)
            columns = columns.where(columns.data[name].astype(str) == wanted, f"{name}={wanted!r}")
    _refuse_mixtures(columns)
    return _collapse_repeats(columns, [*mapping.values(), row_filter.target])


class Columns:
    """A table as plain arrays, with the names of its rows kept through filters."""

    def __init__(self, data: dict[str, np.ndarray], labels: np.ndarray):
        self.data, self.labels = data, labels

    @classmethod
    def of(cls, table) -> "Columns":
        """Read a ResultsTable, a DataFrame or a mapping."""
        frame = table.to_pandas() if hasattr(table, "to_pandas") else table
        if not isinstance(frame, Mapping) and not hasattr(frame, "columns"):
            raise InputError(
                f"a table is a ResultsTable, a DataFrame or a mapping of columns, not {type(table).__name__}"
            )
        names = list(frame.columns) if hasattr(frame, "columns") else list(frame)
        data = {str(name): np.asarray(frame[name]) for name in names}
        if len({len(values) for values in data.values()}) > 1:
            raise InputError("the columns of the table have different lengths")
        count = len(next(iter(data.values()), ()))
        labels = np.asarray(frame.index) if hasattr(frame, "index") else np.arange(count)
        return cls(data, labels)

    def __len__(self) -> int:
        return len(self.labels)

    def require(self, name: str) -> None:
        """Raise unless the column is there."""
        if name not in self.data:
            raise InputError(f"the table has no column {name!r}: it has {', '.join(self.data)}")

    def where(self, keep: np.ndarray, described: str) -> "Columns":
        """The rows where `keep` holds.

        Raises:
            InputError: None is left.
        """
        if not keep.any():
            raise InputError(f"no row of the table has {described}")
        return Columns({k: v[keep] for k, v in self.data.items()}, self.labels[keep])

    def numbers(self, name: str) -> np.ndarray:
        """A column as floats.

        Raises:
            InputError: A value is not a number; the message names its row.
        """
        values = self.data[name]
        try:
            return values.astype(float)
        except (TypeError, ValueError):
            pass
        for label, value in zip(self.labels, values):
            try:
                float(value)
            except (TypeError, ValueError):
                raise InputError(f"column {name!r}, row {label}: {str(value)!r} is not a number") from None
        return np.array([float(value) for value in values])

    def distinct(self, name: str) -> list[str]:
        """The column's distinct values as text, missing ones left out."""
        if name not in self.data:
            return []
        return sorted({str(v) for v in self.data[name] if not _is_missing(v)})


def _is_missing(value) -> bool:
    return value is None or value != value or str(value) in ("nan", "None", "<NA>")


def _filter_stage(columns: Columns, mapping: Mapping[str, str], stage: str | None) -> Columns:
    """The rows of one stage: finetune for laws of n_finetune, pretrain for the others, unless stage says so."""
    fine = "n_finetune" in mapping.values()
    if stage is not None:
        columns.require("stage")
    if "stage" not in columns.data:
        return columns
    wanted = stage or ("finetune" if fine else "pretrain")
    columns = columns.where(columns.data["stage"].astype(str) == wanted, f"stage {wanted!r}")
    return columns.where(columns.numbers("n_finetune") > 0, "n_finetune above 0") if fine else columns


def _refuse_mixtures(columns: Columns) -> None:
    for name, argument in _CHOOSERS.items():
        values = columns.distinct(name)
        if len(values) > 1:
            way = f"choose one with {argument}=" if argument else f"keep the rows of one before fitting, by {name}"
            raise InputError(f"the rows hold more than one {name}: {', '.join(values)}; {way}")


def _collapse_repeats(columns: Columns, names: list[str]) -> Columns:
    """One row for each run_id; the same run with two values is refused."""
    if "run_id" not in columns.data:
        return columns
    first, keep = {}, np.ones(len(columns), dtype=bool)
    for row, run_id in enumerate(columns.data["run_id"]):
        if _is_missing(run_id):
            continue
        if run_id not in first:
            first[run_id] = row
            continue
        keep[row] = False
        for name in names:
            one, two = columns.data[name][first[run_id]], columns.data[name][row]
            if one != two and not (_is_missing(one) and _is_missing(two)):
                raise InputError(f"run_id {run_id} stands in the table twice with different {name}: {one} and {two}")
    return columns.where(keep, "a run_id")


def take_rows(columns: Columns, law: Law, row_filter: RowFilter) -> FitRows:
    """Turn filtered columns into the arrays of a fit."""
    mapping, notes = column_of(law, row_filter.x), []
    keep = _usable_sizes(columns, law, mapping, row_filter.zeros)
    if not keep.all():
        text = f"{int((~keep).sum())} of {len(keep)} rows left out: {law.name} is not defined where a size is zero"
        notes.append(note("rows_left_out", "info", text))
        columns = columns.where(keep, f"sizes that {law.name} is defined at")
    target = columns.numbers(row_filter.target)
    _check_finite(target, columns, row_filter.target)
    variables = {variable: columns.numbers(column) for variable, column in mapping.items()}
    sizes = np.stack(list(variables.values()), axis=1)
    notes += _ignored_sizes(columns, mapping)
    return FitRows(
        columns=mapping,
        variables=variables,
        target_name=row_filter.target,
        target=target,
        weights=_given_weights(columns),
        n_eval=_evaluations(columns),
        configuration=np.unique(sizes, axis=0, return_inverse=True)[1].reshape(-1),
        labels=[str(label) for label in columns.labels],
        study={name: columns.distinct(name) for name in _NAMING if columns.distinct(name)},
        notes=notes,
    )


_NAMING = (
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


def _usable_sizes(columns: Columns, law: Law, mapping: Mapping[str, str], zeros: str) -> np.ndarray:
    """Which rows have sizes that the law is defined at; the others raise InputError where zeros is "refuse"."""
    for column in mapping.values():
        values = columns.numbers(column)
        _check_finite(values, columns, column)
        for row in np.flatnonzero(values < 0):
            raise InputError(
                f"column {column!r}, row {columns.labels[row]}: {values[row]:g} is negative; sizes are not"
            )
    keep = law.defined({variable: columns.numbers(column) for variable, column in mapping.items()})
    if zeros == "refuse":
        for row in np.flatnonzero(~keep):
            zeros = [c for c in mapping.values() if columns.numbers(c)[row] == 0]
            where = f"column {zeros[0]!r}, row" if zeros else "row"
            raise InputError(f"{where} {columns.labels[row]}: {law.name} is not defined there; leave the row out")
    return keep


def _check_finite(values: np.ndarray, columns: Columns, name: str) -> None:
    for row in np.flatnonzero(~np.isfinite(values)):
        raise InputError(
            f"column {name!r}, row {columns.labels[row]}: the value is {values[row]}; give a finite number"
        )


# The key under which weights travel through the filters, beside the columns they belong to.
_WEIGHTS = "(weights)"


def _attach_weights(columns: Columns, weights) -> None:
    if weights is None:
        return
    if isinstance(weights, str):
        columns.require(weights)
        columns.data[_WEIGHTS] = columns.data[weights]
        return
    values = np.asarray(weights)
    if values.shape != (len(columns),):
        raise InputError(
            f"weights has {values.size} values for {len(columns)} rows: give one a row, or a column's name"
        )
    columns.data[_WEIGHTS] = values


def _given_weights(columns: Columns) -> np.ndarray | None:
    if _WEIGHTS not in columns.data:
        return None
    values = columns.numbers(_WEIGHTS)
    for row in np.flatnonzero(~(np.isfinite(values) & (values > 0))):
        raise InputError(f"weights, row {columns.labels[row]}: {values[row]} is not a positive number")
    return values / values.mean()


def _evaluations(columns: Columns) -> np.ndarray | None:
    if "n_eval" not in columns.data:
        return None
    values = columns.numbers("n_eval")
    return values if np.isfinite(values).all() and (values > 0).all() else None


def _ignored_sizes(columns: Columns, mapping: Mapping[str, str]) -> list[dict]:
    found = []
    for name in _SIZES:
        if name in mapping.values() or len(columns.distinct(name)) < 2:
            continue
        text = (
            f"{name} takes {len(columns.distinct(name))} values over these rows and the law does not know it: what it "
            "moves is counted as noise"
        )
        found.append(note("ignored_variable", "warn", text))
    return found
