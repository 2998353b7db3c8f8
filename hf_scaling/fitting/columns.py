"""A table as columns: numbers and texts by name, rows that are left out with a note, and the clusters of its rows."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.guessing import CLASSES, count_classes, worse_than_guessing
from hf_scaling.results.foreign import as_numbers, check_distinct, parse_size
from hf_scaling.results.probes import PROBES
from hf_scaling.results.remedies import missing_arms, missing_columns
from hf_scaling.text import format_count, joined, listing

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.results import ResultsTable

    #: A loaded table; a mapping holds equally long columns.
    Table = ResultsTable | pd.DataFrame | Mapping[str, Sequence | np.ndarray]
    #: What the public calls take as a table: text and paths are loaded with `ResultsTable.load`.
    TableLike = Table | str | os.PathLike[str]


#: The sizes that laws are of.
SIZES = ("n_params", "n_pretrain", "n_finetune")
#: The key under which the clusters of the rows do.
CLUSTER = "(cluster)"
# Names of the column run, without case, spaces and underscores; others than `run` count where their values repeat.
_RUN_NAMES = ("run", "runname", "experiment", "experimentname")
#: The key under which linear probes are marked.
PROBE = "(probe)"
# The note where they are left out.
_PROBES_LEFT_OUT = "linear_probes"


def note(code: str, grade: str, text: str) -> dict[str, str]:
    """A finding: a code for programs, a grade (info, warn or error) and a sentence for people."""
    return {"code": code, "grade": grade, "text": text}


def notes_on_rows(notes: Sequence[dict]) -> list[dict]:
    """Of a fit's notes those that answers from it repeat: which rows of a study it left out."""
    return [found for found in notes if found["code"] == _PROBES_LEFT_OUT]


def as_table(table: "TableLike") -> "Table":
    """Load a table given by path or Hub id; return any other unchanged."""
    if not isinstance(table, str | os.PathLike):
        return table
    from hf_scaling.results import ResultsTable

    return ResultsTable.load(table if isinstance(table, str) else Path(table))


def default_zeros(table: "Table") -> Literal["refuse", "leave_out"]:
    """The `zeros` of a RowFilter where the caller gives none: left out of a ResultsTable, refused elsewhere."""
    from hf_scaling.results import ResultsTable

    return "leave_out" if isinstance(table, ResultsTable) else "refuse"


class Columns:
    """A table as plain arrays that keeps the names of its rows through filters.

    Attributes:
        data: Column name to values (N,).
        labels: (N,) names of the rows for messages: the index of a DataFrame, else numbers from 0.
        notes: Findings about the rows.
    """

    def __init__(self, data: dict[str, np.ndarray], labels: np.ndarray, notes: Sequence[dict] = ()):
        self.data, self.labels, self.notes = data, labels, list(notes)

    @classmethod
    def of(cls, table: "Table") -> "Columns":
        """Read a ResultsTable, a DataFrame or a mapping.

        Raises:
            InputError: It is something else, or its columns have different lengths.
        """
        source: Any = table
        frame = source.to_pandas() if hasattr(source, "to_pandas") else source
        if not isinstance(frame, Mapping) and not hasattr(frame, "columns"):
            raise InputError(f"a table must be a ResultsTable, a DataFrame or a mapping, not {type(table).__name__}")
        names = list(frame.columns) if hasattr(frame, "columns") else list(frame)
        check_distinct([str(name) for name in names], "the table")
        data = {str(name): np.asarray(frame[name]) for name in names}
        for name in SIZES:
            # "1.3B" and "1,024", as people write them.
            if name in data and data[name].dtype.kind in "OUT":
                numbers = as_numbers(data[name], name)
                data[name] = data[name] if numbers is None else numbers
        if len({len(values) for values in data.values()}) > 1:
            raise InputError("the columns of the table have different lengths")
        count = len(next(iter(data.values()), ()))
        probes = getattr(frame, "attrs", {}).get(PROBES, ())
        if probes and "recipe" in data:
            data[PROBE] = np.isin(data["recipe"].astype(str), probes)
        if CLASSES not in data and (classes := count_classes(data, getattr(source, "sources", {}))) is not None:
            data[CLASSES] = classes
        return cls(data, np.asarray(frame.index) if hasattr(frame, "index") else np.arange(count))

    def __len__(self) -> int:
        return len(self.labels)

    def require(self, *names: str, target: str | None = None, of_law: bool = False) -> None:
        """Raise ColumnsError, with the names that the table may have for them, unless it has the columns.

        Args:
            *names: The columns.
            target: The column to fit, where it is required too.
            of_law: Whether a law of other columns could be fitted instead.
        """
        if any(name not in self.data for name in (*names, *([target] if target else []))):
            raise missing_columns(self.data, names if of_law else (), target, () if of_law else names)

    def where(self, keep: np.ndarray, description: str) -> "Columns":
        """The rows where `keep` (N,) is true.

        Raises:
            InputError: There is none; the message says that no row has `description`.
        """
        if not keep.any():
            raise InputError(f"no row of the table has {description}")
        return Columns({name: values[keep] for name, values in self.data.items()}, self.labels[keep], self.notes)

    def without_doubles(self) -> "Columns":
        """The rows without those that are equal to an earlier one in every column, and the note `doubled_rows`."""
        import pandas as pd

        try:
            doubled = pd.DataFrame(self.data).duplicated().to_numpy()
        except TypeError:
            # A column holds lists or mappings.
            texts = {name: list(map(str, values)) for name, values in self.data.items()}
            doubled = pd.DataFrame(texts).duplicated().to_numpy()
        if not doubled.any():
            return self
        text = f"{doubled.sum()} of {len(self)} rows are equal to another in every column: equal rows count once"
        kept = self.where(~doubled, "a row of its own")
        return Columns(kept.data, kept.labels, [*kept.notes, note("doubled_rows", "warn", text)])

    def without_probes(self) -> "Columns":
        """The rows without linear probes, and the note `linear_probes`; all rows where there are no others."""
        probed = self.data.get(PROBE)
        if probed is None or not probed.any() or probed.all():
            return self
        text = f"{probed.sum()} of {len(self)} rows are linear probes (train_part head), which are another recipe: "
        kept = self.where(~probed, "a model that is trained as a whole")
        return Columns(
            kept.data, kept.labels, [*kept.notes, note(_PROBES_LEFT_OUT, "info", f"{text}they are left out")]
        )

    def where_equal(self, name: str, value: str) -> "Columns":
        """The rows where a column's text equals `value`.

        Raises:
            InputError: The table has no such column or no such row.
        """
        self.require(name)
        is_equal = self.data[name].astype(str) == value
        if name == "arm" and not is_equal.any() and (error := missing_arms(self.data, value)).remedy:
            raise error
        return self.where(is_equal, f"{name}={value!r}")

    def numbers(self, name: str, strict: bool = True) -> np.ndarray:
        """A column as floats.

        Args:
            name: The column.
            strict: Whether a value that is not a number raises; else it is NaN, as is every value of an absent column.

        Raises:
            InputError: A value is not a number; the message names its row.
        """
        if not strict and name not in self.data:
            return np.full(len(self), np.nan)
        try:
            return self.data[name].astype(float)
        except (TypeError, ValueError):
            numbers = np.full(len(self), np.nan)
        for row, value in enumerate(self.data[name]):
            try:
                numbers[row] = float(value)
            except (TypeError, ValueError):
                numbers[row] = parse_size(value)
                if strict and np.isnan(numbers[row]):
                    text = f"column {name!r}, row {self.labels[row]}: {str(value)!r} is not a number"
                    raise InputError(text) from None
        return numbers

    def finite(self, name: str) -> np.ndarray:
        """A column as finite floats.

        Raises:
            InputError: A value is not a finite number; the message names its row.
        """
        numbers = self.numbers(name)
        for row in np.flatnonzero(~np.isfinite(numbers)):
            raise InputError(
                f"column {name!r}, row {self.labels[row]}: the value is {numbers[row]}; give a finite number"
            )
        return numbers

    def like(self, study: Mapping[str, Sequence[str]], names: Iterable[str]) -> np.ndarray:
        """(N,) whether each row has a fit's recorded values in these columns.

        Args:
            study: The distinct values of the fitted rows' recorded columns (`LawFit.data["study"]`).
            names: The columns to compare; those without values in `study` are not, but `upstream`: fine-tuned rows
                that recorded none had no pre-training, and rows that had are not like them.
        """
        keep = np.ones(len(self), dtype=bool)
        for name in names:
            if name in self.data and study.get(name):
                keep &= np.isin(self.data[name].astype(str), study[name])
            elif name == "upstream" and name in self.data and study.get("stage") == ["finetune"]:
                keep &= np.array([is_missing(value) for value in self.data[name]], dtype=bool)
        return keep

    def distinct(self, name: str) -> list[str]:
        """The distinct values of a column as text, missing ones left out; empty for an absent column."""
        return sorted({str(value) for value in self.data.get(name, ()) if not is_missing(value)})


def guessing_notes(columns: Columns, target: str) -> list[dict]:
    """Note `worse_than_guessing`, where rows are known to be."""
    if CLASSES not in columns.data:
        return []
    classes = columns.data[CLASSES]
    worse = worse_than_guessing(target, columns.numbers(target, strict=False), classes)
    if not worse.any():
        return []
    text = f"{worse.sum()} of {len(worse)} rows are worse than guessing among "
    text += f"{joined(format_count(n) for n in np.unique(classes[worse]))} classes by {target}"
    sizes = {name: np.unique(columns.numbers(name, strict=False)[worse]) for name in SIZES}
    sizes = {name: values[values > 0] for name, values in sizes.items() if len(columns.distinct(name)) > 1}
    at = [f"{name} {joined(map(format_count, values))}" for name, values in sizes.items() if len(values)]
    names = columns.data.get("run_id", columns.labels)
    text += f" (at {'; '.join(at)})" if at else ""
    text += f": rows {listing(names[worse], 4)}; they learned too little, or their training examples by heart"
    return [note("worse_than_guessing", "warn", text)]


def is_missing(value: Any) -> bool:
    """Whether a cell holds no value: None, NaN, or their text."""
    return value is None or value != value or str(value) in ("nan", "None", "<NA>")


def name_clusters(columns: Columns, name: str | None) -> Columns:
    """The columns with one more, which names the cluster of each row as "column=value".

    Args:
        columns: The whole table: a ladder is followed from rung to rung before rows are filtered.
        name: The column to cluster by; by default `run`, else `parent` of fine-tuned rows, else the first rung of the
            ladder that a pre-trained row is of.
    """
    if name is not None:
        columns.require(name)
    count, data = len(columns), columns.data
    plain = {column: str(column).lower().replace("_", "").replace(" ", "") for column in data}
    named = [column for column in data if plain[column] in _RUN_NAMES] if name is None else []
    for column in sorted(named, key=lambda column: (column != "run", _RUN_NAMES.index(plain[column]))):
        # Another name for `run` counts where its values repeat and are several.
        n_named = sum(not is_missing(value) for value in data[column])
        if column == "run" or 1 < len(columns.distinct(column)) < n_named:
            name = column
            break
    if name is not None:
        if missing := sum(map(is_missing, data[name])):
            text = f"{missing} of {count} rows have no {name}: each counts as one of its own"
            columns = Columns(data, columns.labels, [*columns.notes, note("rows_without_cluster", "warn", text)])
        clusters = [f"={row}" if is_missing(value) else f"{name}={value}" for row, value in enumerate(data[name])]
    elif "parent" in data and columns.distinct("parent"):
        ids = data["run_id"] if "run_id" in data else [None] * count
        above = {run: parent for run, parent in zip(ids, data["parent"]) if not is_missing(run)}
        stages = data["stage"] if "stage" in data else [None] * count
        labelled = columns.numbers("n_finetune", strict=False) > 0
        clusters = []
        for row, (run, parent) in enumerate(zip(ids, data["parent"])):
            if not is_missing(parent) and (stages[row] == "finetune" or (stages[row] is None and labelled[row])):
                clusters.append(f"parent={parent}")
                continue
            steps = 0
            while not is_missing(parent) and steps < count:
                run, parent, steps = parent, above.get(parent), steps + 1
            clusters.append(f"={row}" if is_missing(run) else f"ladder={run}")
    else:
        return columns
    return Columns({**data, CLUSTER: np.array(clusters)}, columns.labels, columns.notes)
