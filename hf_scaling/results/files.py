"""Tables from files and folders, and back: Parquet and CSV."""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from hf_scaling import __version__, files
from hf_scaling.errors import InputError
from hf_scaling.results.schema import SCHEMA, SCHEMA_VERSION, differences, is_ours, refuse_unknown

if TYPE_CHECKING:
    import pyarrow


def arrow_schema() -> "pyarrow.Schema":
    """`SCHEMA` in Arrow's types."""
    import pyarrow

    types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "float64": pyarrow.float64()}
    types["timestamp[us, tz=UTC]"] = pyarrow.timestamp("us", tz="UTC")
    return pyarrow.schema([(name, types[kind]) for name, kind in SCHEMA.items()])


def to_arrow(rows: list[Mapping[str, Any]]) -> "pyarrow.Table":
    """Rows as a table.

    Raises:
        InputError: An unknown column, a missing run_id, or a value of the wrong type.
    """
    import pyarrow

    for row in rows:
        refuse_unknown(row)
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA}
    try:
        return pyarrow.table(columns, schema=arrow_schema())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise InputError(f"a results row holds a value of the wrong type: {error}") from None


def bring_up(table: "pyarrow.Table", where: str) -> "pyarrow.Table":
    """`table` in today's schema: columns that an older version did not know are null, schema_version is today's.

    Raises:
        InputError: Written by a newer version, a column that no version knew, or values of another type.
    """
    import pyarrow

    twice = sorted({name for name in table.column_names if table.column_names.count(name) > 1})
    if twice:
        raise InputError(f"{where}: column {', '.join(twice)} stands there twice")
    _refuse_newer(table, where)
    unknown = sorted(set(table.column_names) - set(SCHEMA))
    if unknown:
        raise InputError(
            f"{where}: a table with run_id must have the results columns alone; unknown: {', '.join(unknown)}"
        )
    columns = [_column(table, field, where) for field in arrow_schema()]
    if columns[0].null_count:
        raise InputError(f"{where}: a row has no run_id")
    return pyarrow.table(columns, schema=arrow_schema())


def concatenate(tables: list["pyarrow.Table"]) -> "pyarrow.Table":
    """The tables one after another."""
    import pyarrow

    return pyarrow.concat_tables(tables, promote_options="permissive")


def unique(table: "pyarrow.Table", where: str) -> "pyarrow.Table":
    """`table` with each run_id once, the first of equal rows; a foreign table as it is.

    Raises:
        InputError: One run_id with different values, naming the columns and both values.
    """
    if not is_ours(table.column_names):
        return table
    first: dict[str, int] = {}
    keep = []
    run_ids = table["run_id"].to_pylist()
    for position, run_id in enumerate(run_ids):
        if run_id not in first:
            first[run_id] = position
            keep.append(position)
            continue
        found = differences(_row(table, first[run_id]), _row(table, position))
        if found:
            raise InputError(f"{where}: run_id {run_id} stands for different values: {'; '.join(found)}")
    return table if len(keep) == len(run_ids) else table.take(keep)


def _refuse_newer(table: "pyarrow.Table", where: str) -> None:
    if "schema_version" not in table.column_names:
        return
    written = [each for each in table["schema_version"].to_pylist() if each is not None]
    if not all(isinstance(each, int) for each in written):
        raise InputError(f"{where}: schema_version holds {table['schema_version'].type}, not a whole number")
    newest = max(written, default=SCHEMA_VERSION)
    if newest > SCHEMA_VERSION:
        raise InputError(
            f"{where}: written by a newer version (schema {newest}; hf_scaling {__version__} reads up to "
            f"{SCHEMA_VERSION}): install {_writer(table) or 'a newer hf_scaling'}"
        )


def _writer(table: "pyarrow.Table") -> str | None:
    """The newest hf_scaling that the rows' `versions` name; None where they name none."""
    found = []
    for text in table["versions"].to_pylist() if "versions" in table.column_names else ():
        try:
            found.append(tuple(int(part) for part in json.loads(text)["hf_scaling"].split(".")))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return f"hf_scaling {'.'.join(map(str, max(found)))} or later" if found else None


def _column(table: "pyarrow.Table", field: "pyarrow.Field", where: str) -> Any:
    import pyarrow

    if field.name == "schema_version":
        return pyarrow.chunked_array([pyarrow.array([SCHEMA_VERSION] * len(table), field.type)])
    if field.name not in table.column_names:
        return pyarrow.chunked_array([pyarrow.nulls(len(table), field.type)])
    column = table[field.name]
    try:
        return column.cast(_with_a_zone(column, field.type)).cast(field.type)
    except pyarrow.ArrowException as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"{where}: column {field.name} holds {column.type}, not {SCHEMA[field.name]}: {said}"
        ) from None


def _with_a_zone(column: Any, wanted: "pyarrow.DataType") -> "pyarrow.DataType":
    """The type to read `column` by first: a time without a zone is UTC."""
    import pyarrow

    naive = pyarrow.types.is_timestamp(wanted) and pyarrow.types.is_timestamp(column.type) and column.type.tz is None
    return pyarrow.timestamp("us") if naive else wanted


def _row(table: "pyarrow.Table", position: int) -> dict[str, Any]:
    return table.slice(position, 1).to_pylist()[0]


def read(path: Path) -> "pyarrow.Table":
    """A file, or all the Parquet of a folder, run or study.

    Raises:
        InputError: Nothing in it, not readable, of a newer version, or a results table with a wrong schema.
    """
    if path.is_dir():
        folder = parquet_folder(path)
        found = sorted(folder.glob("*.parquet"))
        if not found:
            raise InputError(f"{path}: no .parquet file in it or in its folder results/")
        return read_files(found)
    return _read_file(path, str(path))


def read_files(paths: list[Path], names: list[str] | None = None) -> "pyarrow.Table":
    """Several files as one table, in their order.

    Args:
        paths: Where they lie.
        names: How messages call them; their paths when None.

    Raises:
        InputError: One is not readable, or they do not fit together.
    """
    import pyarrow

    names = names or list(map(str, paths))
    tables = [_read_file(path, name) for path, name in zip(paths, names)]
    try:
        return concatenate(tables)
    except pyarrow.ArrowException as error:
        raise InputError(f"{', '.join(names)} do not fit together: {' '.join(str(error).split())}") from None


def read_bytes(content: bytes, name: str) -> "pyarrow.Table":
    """The content of a file of this name."""
    return _read_stream(io.BytesIO(content), name)


def parquet_folder(path: Path) -> Path:
    """The folder of a run or a study that holds its Parquet, or the folder itself."""
    return path / "results" if (path / "results").is_dir() else path


def to_parquet(table: "pyarrow.Table") -> bytes:
    """A table as the bytes of a Parquet file; equal tables give equal bytes."""
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def write(table: "pyarrow.Table", path: Path) -> None:
    """Write .parquet or .csv, atomically."""
    import pyarrow.csv
    import pyarrow.parquet

    write_table = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    with files.replacing(path) as temporary:
        write_table(table, str(temporary))


def _read_file(path: Path, name: str) -> "pyarrow.Table":
    # Opened once: by its path it would be opened twice, and an append may replace the file in between.
    try:
        with path.open("rb") as file:
            return _read_stream(file, name)
    except OSError as error:
        raise InputError(f"{name}: not readable as a results table: {error.strerror or error}") from None


def _read_stream(file: BinaryIO, name: str) -> "pyarrow.Table":
    import pyarrow

    readers = {".parquet": _read_parquet, ".csv": _read_csv}
    suffix = Path(name).suffix
    if suffix not in readers:
        raise InputError(f"{name}: a results file ends in .parquet or .csv")
    try:
        table = readers[suffix](file)
    except (pyarrow.ArrowException, OSError) as error:
        # A damaged page is an OSError to pyarrow.
        raise InputError(f"{name}: not readable as a results table: {' '.join(str(error).split())}") from None
    return bring_up(table, name) if is_ours(table.column_names) else table


def _read_parquet(file: BinaryIO) -> "pyarrow.Table":
    import pyarrow.parquet

    # Not read_table: the threads of its scanner can abort a process that ends right after (apache/arrow#45214).
    return pyarrow.parquet.ParquetFile(file).read()


def _read_csv(file: BinaryIO) -> "pyarrow.Table":
    import pyarrow.csv

    # Read again with our types where the columns are ours: a hash of digits alone would be taken for a number.
    content = file.read()
    convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
    table = pyarrow.csv.read_csv(io.BytesIO(content), convert_options=convert)
    if not is_ours(table.column_names):
        return table
    convert.column_types = arrow_schema()
    return pyarrow.csv.read_csv(io.BytesIO(content), convert_options=convert)
