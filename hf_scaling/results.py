"""The row schema and `ResultsTable`: where the measuring half and the deciding half meet.

Importing this module loads neither pyarrow nor pandas nor datasets; they come when a table is made.
"""

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling import files, transport
from hf_scaling.errors import InputError

if TYPE_CHECKING:
    import datasets
    import pandas
    import pyarrow

    from hf_scaling.grid import Grid, RunSpec

SCHEMA_VERSION = 1

#: Column -> type, in the order of the row. Units: error 0..1, loss in nats an image, flops operations (not rates).
SCHEMA = {
    "run_id": "string",
    "study": "string",
    "task": "string",
    "stage": "string",
    "arm": "string",
    "distillation": "string",
    "recipe": "string",
    "model": "string",
    "n_params": "int64",
    "n_pretrain": "int64",
    "n_finetune": "int64",
    "image_size": "int64",
    "teacher": "string",
    "teacher_n_params": "int64",
    "teacher_n_pretrain": "int64",
    "teacher_loss": "float64",
    "teacher_error": "float64",
    "agreement": "float64",
    "parent": "string",
    "seed": "int64",
    "upstream": "string",
    "downstream": "string",
    "eval_split": "string",
    "n_eval": "int64",
    "error": "float64",
    "loss": "float64",
    "samples_seen": "int64",
    "train_flops": "float64",
    "teacher_flops": "float64",
    "seconds": "float64",
    "device": "string",
    "precision": "string",
    "versions": "string",
    "schema_version": "int64",
    "created_at": "timestamp[us, tz=UTC]",
}

#: The columns in which two measurements of one run may differ.
INCIDENTAL = ("seconds", "device", "versions", "created_at")


class ResultsTable:
    """Rows of results, one a run; or any table of somebody else's, as it is.

    A table whose columns are those of `SCHEMA` holds each run_id once. A foreign table (a CSV with, say, n_params,
    n_pretrain and loss) is kept as it was read.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self._table = _unique(_to_arrow(list(rows)), "the rows given")
        self._home: Path | None = None

    @classmethod
    def load(cls, where: str | Path, revision: str | None = None) -> "ResultsTable":
        """Read a table.

        Args:
            where: A .parquet or .csv file, a folder with Parquet in it, a run or study folder, or a Hub id
                (`org/name`, a data set or a model); a path that exists wins.
            revision: Branch, tag or commit of a Hub id.

        Raises:
            InputError: Nothing there, nothing in it, not readable, offline, or one run_id with different values.
        """
        path = Path(where)
        home = path if path.exists() else None
        if home is None:
            path = _download(str(where), revision)
        table = cls()
        table._table = _unique(_read(path), str(where))
        table._home = home
        return table

    @classmethod
    def open(cls, folder: str | Path) -> "ResultsTable":
        """The table that is kept in a folder, to append to: empty where the folder holds none yet.

        Raises:
            InputError: What is there is not readable, or one run_id has different values.
        """
        folder = Path(folder)
        if any(_parquet_folder(folder).glob("*.parquet")):
            return cls.load(folder)
        table = cls()
        table._home = folder
        return table

    @property
    def column_names(self) -> list[str]:
        """The columns, in order."""
        return self._table.column_names

    @property
    def is_foreign(self) -> bool:
        """Whether the columns are somebody else's: then rows cannot be appended or merged."""
        return not _is_ours(self._table.column_names)

    def __len__(self) -> int:
        return self._table.num_rows

    def __repr__(self) -> str:
        return f"ResultsTable({len(self)} rows: {', '.join(self.column_names)})"

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts of plain Python values."""
        return self._table.to_pylist()

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row, here and where the table was loaded from, atomically: a kill leaves the old or the new table.

        In a folder each row becomes a file named by its run_id, so that several processes may append at once. A table
        that came from the Hub, or that was never saved, grows in memory only. A row that is already there changes
        nothing.

        Raises:
            InputError: An unknown column, a missing run_id, or a run_id that is there with other values.
        """
        self._refuse_foreign("append to")
        addition = _to_arrow([row])
        grown = _unique(_concatenate([self._table, addition]), f"{self._home or 'the table'} and the row appended")
        if len(self) == grown.num_rows:
            return
        if self._home is not None and self._home.is_dir():
            _write(addition, _parquet_folder(self._home) / f"{row['run_id']}.parquet")
        elif self._home is not None:
            _write(grown, self._home)
        self._table = grown

    def merge(self, other: "ResultsTable") -> "ResultsTable":
        """The union by run_id; equal rows (in all but `INCIDENTAL` columns) collapse into the first.

        Raises:
            InputError: One run_id with different values, naming the columns and both values.
        """
        self._refuse_foreign("merge")
        other._refuse_foreign("merge")
        merged = ResultsTable()
        merged._table = _unique(_concatenate([self._table, other._table]), "the two tables")
        return merged

    def missing(self, grid: "Grid") -> "list[RunSpec]":
        """The runs of a grid that have no row here, those first that others need.

        Their ids are worked out without training anything (see `Grid.plan`).

        Raises:
            InputError: The grid asks for what does not exist, or this table is not one of ours.
        """
        self._refuse_foreign("compare a grid with")
        there = self.run_ids()
        return [spec for spec in grid.specs() if spec.run_id not in there]

    def run_ids(self) -> set[str]:
        """The ids of the rows."""
        return set(self._table["run_id"].to_pylist())

    def save(self, folder: str | Path) -> Path:
        """Write the table to `folder`/results.parquet, atomically; returns the file's path."""
        path = Path(folder) / "results.parquet"
        _write(self._table, path)
        return path

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a DataFrame."""
        return self._table.to_pandas()

    def to_dataset(self) -> "datasets.Dataset":
        """The table as a data set."""
        import datasets

        return datasets.Dataset(self._table)

    def _refuse_foreign(self, verb: str) -> None:
        if self.is_foreign:
            raise InputError(
                f"cannot {verb} a table of other columns than a results row's: {', '.join(self.column_names)}"
            )


def new_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """A full row of the current schema from `values`; columns not given are null, `created_at` is now.

    Raises:
        InputError: A column that the schema does not have.
    """
    now = datetime.datetime.now(datetime.UTC)
    given = {"schema_version": SCHEMA_VERSION, "created_at": now, **values}
    _refuse_unknown(given)
    return {name: given.get(name) for name in SCHEMA}


def same_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two rows are equal in design's sense: in every column but the `INCIDENTAL` ones."""
    return not _differences(first, second)


def _arrow_schema() -> "pyarrow.Schema":
    import pyarrow

    types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "float64": pyarrow.float64()}
    types["timestamp[us, tz=UTC]"] = pyarrow.timestamp("us", tz="UTC")
    return pyarrow.schema([(name, types[kind]) for name, kind in SCHEMA.items()])


def _to_arrow(rows: list[Mapping[str, Any]]) -> "pyarrow.Table":
    import pyarrow

    for row in rows:
        _refuse_unknown(row)
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA}
    try:
        return pyarrow.table(columns, schema=_arrow_schema())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise InputError(f"a results row holds a value of the wrong type: {error}") from None


def _refuse_unknown(row: Mapping[str, Any]) -> None:
    unknown = sorted(set(row) - set(SCHEMA))
    if unknown:
        raise InputError(f"a results row has no column {', '.join(unknown)}")
    if not row.get("run_id"):
        raise InputError("a results row needs a run_id")


def _read(path: Path) -> "pyarrow.Table":
    if path.is_dir():
        folder = _parquet_folder(path)
        parts = [_read_file(each) for each in sorted(folder.glob("*.parquet"))]
        if not parts:
            raise InputError(f"{path}: no .parquet file in it or in its folder results/")
        return _concatenate(parts)
    return _read_file(path)


def _parquet_folder(path: Path) -> Path:
    """The folder of a run or a study that holds its Parquet, or the folder itself."""
    return path / "results" if (path / "results").is_dir() else path


def _read_file(path: Path) -> "pyarrow.Table":
    import pyarrow

    readers = {".parquet": _read_parquet, ".csv": _read_csv}
    if path.suffix not in readers:
        raise InputError(f"{path}: a results file ends in .parquet or .csv")
    try:
        table = readers[path.suffix](path)
        return _to_schema(table, path) if _is_ours(table.column_names) else table
    except (pyarrow.ArrowException, OSError) as error:
        # A damaged page is an OSError to pyarrow.
        raise InputError(f"{path}: not readable as a results table: {' '.join(str(error).split())}") from None


def _read_parquet(path: Path) -> "pyarrow.Table":
    import pyarrow.parquet

    # Opened once: by its path it would be opened twice, and an append may replace the file in between.
    with path.open("rb") as file:
        return pyarrow.parquet.read_table(file)


def _read_csv(path: Path) -> "pyarrow.Table":
    import pyarrow.csv

    # Read again with our types where the columns are ours: a hash of digits alone would be taken for a number.
    convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    table = pyarrow.csv.read_csv(path, convert_options=convert)
    if not _is_ours(table.column_names):
        return table
    convert.column_types = _arrow_schema()
    return pyarrow.csv.read_csv(path, convert_options=convert)


def _is_ours(names: list[str]) -> bool:
    return "run_id" in names and ("schema_version" in names or set(names) <= set(SCHEMA))


def _to_schema(table: "pyarrow.Table", path: Path) -> "pyarrow.Table":
    """`table` with the current columns: those that an older version did not know are null."""
    import pyarrow
    import pyarrow.compute

    unknown = sorted(set(table.column_names) - set(SCHEMA))
    versions = table["schema_version"] if "schema_version" in table.column_names else pyarrow.chunked_array([[1]])
    newest = pyarrow.compute.max(versions).as_py() or SCHEMA_VERSION
    if newest > SCHEMA_VERSION:
        raise InputError(
            f"{path}: written by a newer version (schema {newest}, here {SCHEMA_VERSION}): upgrade hf_scaling"
        )
    if unknown:
        raise InputError(
            f"{path}: a table with run_id must have the results columns alone; unknown: {', '.join(unknown)}"
        )
    columns = [
        table[field.name].cast(field.type)
        if field.name in table.column_names
        else pyarrow.nulls(len(table), field.type)
        for field in _arrow_schema()
    ]
    return pyarrow.table(columns, schema=_arrow_schema())


def _write(table: "pyarrow.Table", path: Path) -> None:
    import pyarrow.csv
    import pyarrow.parquet

    write = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    with files.replacing(path) as temporary:
        write(table, str(temporary))


def _concatenate(tables: list["pyarrow.Table"]) -> "pyarrow.Table":
    import pyarrow

    return pyarrow.concat_tables(tables, promote_options="permissive")


def _unique(table: "pyarrow.Table", where: str) -> "pyarrow.Table":
    """`table` with each run_id once; a foreign table as it is."""
    if not _is_ours(table.column_names):
        return table
    first: dict[str, int] = {}
    keep = []
    run_ids = table["run_id"].to_pylist()
    for position, run_id in enumerate(run_ids):
        if run_id not in first:
            first[run_id] = position
            keep.append(position)
            continue
        differences = _differences(_row(table, first[run_id]), _row(table, position))
        if differences:
            raise InputError(f"{where}: run_id {run_id} stands for different values: {'; '.join(differences)}")
    return table if len(keep) == len(run_ids) else table.take(keep)


def _row(table: "pyarrow.Table", position: int) -> dict[str, Any]:
    return table.slice(position, 1).to_pylist()[0]


def _differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    names = [name for name in SCHEMA if name not in INCIDENTAL]
    pairs = [(name, first.get(name), second.get(name)) for name in names]
    # NaN is no value of a row, but a table made by hand may hold one: it equals itself here.
    return [f"{name} {a!r} and {b!r}" for name, a, b in pairs if a != b and not (a != a and b != b)]


def _download(where: str, revision: str | None) -> Path:
    if not transport.is_hub_id(where):
        raise InputError(f"{where}: no such file or folder, and no Hub id (org/name)")
    patterns = ["*.parquet", "results/*.parquet"]
    try:
        return transport.download(where, repo_type="dataset", revision=revision, allow_patterns=patterns)
    except InputError as as_dataset:
        if "is not on the Hub" not in str(as_dataset):
            # The name may as well have been meant as a path, misspelt.
            raise InputError(f"{where}: no such file or folder here; as a Hub id: {as_dataset}") from as_dataset
        return transport.download(where, repo_type="model", revision=revision, allow_patterns=patterns)


def to_json(row: Mapping[str, Any]) -> str:
    """One row as one line of JSON, times in ISO 8601."""
    return json.dumps(row, default=lambda value: value.isoformat(), ensure_ascii=False)
