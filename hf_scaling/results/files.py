"""Results tables in Parquet and delimited text files: read, checked against the schema, upgraded, written."""

import io
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling import __version__, files
from hf_scaling.errors import InputError
from hf_scaling.results.foreign import (
    DELIMITED,
    apply_names,
    as_numbers,
    check_distinct,
    is_size_column,
    read_delimited,
)
from hf_scaling.results.schema import (
    OPTIONAL,
    SCHEMA,
    SCHEMA_VERSION,
    check_columns,
    differences,
    has_results_columns,
)
from hf_scaling.text import one_line

if TYPE_CHECKING:
    import pandas
    import pyarrow


def read_path(path: Path) -> "pyarrow.Table":
    """Read a file, or all the Parquet files of a folder, a run or a study.

    Raises:
        InputError: No Parquet file in the folder, a file that cannot be read, written by a newer version, or a results
            table with a wrong schema.
    """
    if not path.is_dir():
        return read_files([path], [str(path)])
    paths = sorted(parquet_folder(path).glob("*.parquet"))
    if not paths:
        raise InputError(f"{path}: no .parquet file in it or in its folder results/")
    return read_files(paths, list(map(str, paths)))


def read_files(paths: Sequence[Path], names: Sequence[str]) -> "pyarrow.Table":
    """Read several files into one table, in their order.

    Args:
        paths: The files.
        names: What messages call them.

    Raises:
        InputError: A file cannot be read, or the columns of the files contradict each other.
    """
    import pyarrow

    tables = []
    for path, name in zip(paths, names):
        try:
            # Read at once: another process may replace the file by appending a row.
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"{name}: not readable as a results table: {error.strerror or error}") from None
        tables.append(read_bytes(content, name))
    try:
        return concatenate(tables)
    except pyarrow.ArrowException as error:
        raise InputError(f"{', '.join(names)} do not fit together: {one_line(error)}") from None


def read_bytes(content: bytes, name: str) -> "pyarrow.Table":
    """Read the content of a file.

    Args:
        content: Of a Parquet file, or of a text file with a delimiter (see `read_delimited`).
        name: The file's name, which says by its suffix which of the two.

    Raises:
        InputError: Another suffix, damaged, two columns of one name, written by a newer version, or a results table
            with a wrong schema.
    """
    import pyarrow
    import pyarrow.csv
    import pyarrow.parquet

    is_text, delimiter = name.lower().endswith(DELIMITED), ","
    if not is_text and Path(name).suffix != ".parquet":
        raise InputError(
            f"{name}: a results file ends in .parquet, .csv or .tsv (or .csv.gz, .tsv.gz); save a spreadsheet as CSV"
        )
    if is_text:
        content, delimiter = read_delimited(content, name)
    # Arrow's threads read from memory that Arrow owns. A Python object as the source is released by one of these
    # threads, possibly while the interpreter shuts down, which aborts the process (exit status -6).
    memory = pyarrow.BufferOutputStream()
    memory.write(content)
    buffer = memory.getvalue()
    try:
        if not is_text:
            # Not read_table, whose scanner threads can abort a process that ends right after (apache/arrow#45214).
            table = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(buffer)).read()
        else:
            convert = pyarrow.csv.ConvertOptions(strings_can_be_null=True)
            parse = pyarrow.csv.ParseOptions(delimiter=delimiter)
            table = pyarrow.csv.read_csv(pyarrow.BufferReader(buffer), parse_options=parse, convert_options=convert)
            if re.search(rb"\d\.\d{3}\b", content):
                # Again with sizes as they are written: 1.000 may be a thousand.
                fractions = [
                    name for name in table.column_names if pyarrow.types.is_floating(table.schema.field(name).type)
                ]
                convert.column_types = {name: pyarrow.string() for name in fractions if is_size_column(name)}
                reader = pyarrow.BufferReader(buffer)
                table = pyarrow.csv.read_csv(reader, parse_options=parse, convert_options=convert)
            if has_results_columns(table.column_names):
                # Again with the schema's types: a hash of digits alone would be read as a number.
                convert.column_types = arrow_schema()
                reader = pyarrow.BufferReader(buffer)
                table = pyarrow.csv.read_csv(reader, parse_options=parse, convert_options=convert)
    except (pyarrow.ArrowException, OSError) as error:
        # pyarrow raises OSError for a damaged page.
        raise InputError(f"{name}: not readable as a results table: {one_line(error)}") from None
    check_distinct(table.column_names, name)
    if has_results_columns(table.column_names):
        return upgrade(table, name)
    try:
        return _clean(table, decimal_comma=delimiter != ",") if is_text else table
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def _clean(table: "pyarrow.Table", decimal_comma: bool) -> "pyarrow.Table":
    """A foreign text table without empty unnamed columns and spaces around its values, numbers read as numbers."""
    import pyarrow

    columns = {}
    texts_of = {
        name: table[name].to_pylist() for name in table.column_names if pyarrow.types.is_string(table[name].type)
    }
    # A number with a decimal comma, in a column of its own: then points separate thousands.
    thousands_point = decimal_comma and any(
        any(text and "," in text for text in texts) and as_numbers(texts, "", True) is not None
        for name, texts in texts_of.items()
        if not is_size_column(name)
    )
    for name in table.column_names:
        column = table[name]
        if name.startswith("column ") and column.null_count == len(column):
            continue
        if name in texts_of:
            texts = [text if text is None else text.strip() for text in texts_of[name]]
            numbers = as_numbers(texts, name, decimal_comma, thousands_point=thousands_point)
            column = pyarrow.array(texts if numbers is None else numbers)
        columns[name] = column
    return pyarrow.table(columns)


def parquet_folder(path: Path) -> Path:
    """The folder that holds the Parquet files of a run or a study: its folder results/, or the folder itself."""
    return path / "results" if (path / "results").is_dir() else path


def write(table: "pyarrow.Table", path: Path) -> None:
    """Write a .parquet or a .csv file, atomically."""
    import pyarrow.csv
    import pyarrow.parquet

    write_table = pyarrow.csv.write_csv if path.suffix == ".csv" else pyarrow.parquet.write_table
    with files.replacing(path) as temporary:
        write_table(table, str(temporary))


def to_parquet(table: "pyarrow.Table") -> bytes:
    """A table as the bytes of a Parquet file; equal tables give equal bytes."""
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(table, buffer)
    return buffer.getvalue()


def arrow_schema() -> "pyarrow.Schema":
    """`SCHEMA` in Arrow's types."""
    import pyarrow

    types = {"string": pyarrow.string(), "int64": pyarrow.int64(), "float64": pyarrow.float64()}
    types["timestamp[us, tz=UTC]"] = pyarrow.timestamp("us", tz="UTC")
    return pyarrow.schema([(name, types[kind]) for name, kind in SCHEMA.items()])


def to_arrow(rows: Sequence[Mapping[str, Any]]) -> "pyarrow.Table":
    """Rows as a table.

    Raises:
        InputError: An unknown column, a missing run_id, or a value of the wrong type.
    """
    import pyarrow

    for row in rows:
        check_columns(row)
    columns = {name: [row.get(name) for row in rows] for name in SCHEMA}
    try:
        return pyarrow.table(columns, schema=arrow_schema())
    except (pyarrow.ArrowInvalid, pyarrow.ArrowTypeError) as error:
        raise InputError(f"a results row holds a value of the wrong type: {error}") from None


def rename(
    frame: "pandas.DataFrame",
    map: Mapping[str, str] | None = None,
    arm_names: Mapping[str, str | Sequence[str]] | None = None,
) -> "pyarrow.Table":
    """A foreign table with its columns and arms under our names (see `apply_names`)."""
    import pyarrow

    named = apply_names(frame, map, arm_names).rename(columns=str)
    try:
        return pyarrow.Table.from_pandas(named, preserve_index=False).replace_schema_metadata(None)
    except pyarrow.ArrowException as error:
        raise InputError(f"the table holds values of several types in one column: {one_line(error)}") from None


def concatenate(tables: Sequence["pyarrow.Table"]) -> "pyarrow.Table":
    """The rows of all tables, in their order."""
    import pyarrow

    return pyarrow.concat_tables(tables, promote_options="permissive")


def drop_repeats(table: "pyarrow.Table", where: str) -> "pyarrow.Table":
    """Keep the first row of each run_id, or the first with the most `OPTIONAL` columns; a foreign table stays.

    Args:
        table: Rows in the current schema, or a foreign table.
        where: What messages call the table.

    Raises:
        InputError: Rows of one run_id with different values: names the columns and both values.
    """
    if not has_results_columns(table.column_names):
        return table
    first: dict[str, int] = {}
    run_ids = table["run_id"].to_pylist()
    for position, run_id in enumerate(run_ids):
        if first.setdefault(run_id, position) == position:
            continue
        old, new = (table.slice(at, 1).to_pylist()[0] for at in (first[run_id], position))
        if different := differences(old, new):
            raise InputError(f"{where}: run_id {run_id} has rows with different values: {'; '.join(different)}")
        if sum(new[name] is not None for name in OPTIONAL) > sum(old[name] is not None for name in OPTIONAL):
            first[run_id] = position
    return table if len(first) == len(run_ids) else table.take(list(first.values()))


def upgrade(table: "pyarrow.Table", where: str) -> "pyarrow.Table":
    """Bring a results table of any version to the current schema: columns that its version did not have are null.

    Args:
        table: Columns of a results table, in any order.
        where: What messages call the table.

    Raises:
        InputError: Written by a newer version, an unknown column, values of another type, or a row without
            run_id.
    """
    import pyarrow

    of_rows = table["schema_version"].to_pylist() if "schema_version" in table.column_names else []
    versions = [version for version in of_rows if version is not None]
    if not all(isinstance(version, int) for version in versions):
        raise InputError(f"{where}: schema_version holds {table['schema_version'].type}, not a whole number")
    newest = max(versions, default=SCHEMA_VERSION)
    if newest > SCHEMA_VERSION:
        writers = []
        for text in table["versions"].to_pylist() if "versions" in table.column_names else ():
            try:
                writers.append(tuple(int(part) for part in json.loads(text)["hf_scaling"].split(".")))
            except (ValueError, KeyError, TypeError, AttributeError):
                continue
        needed = f"hf_scaling {'.'.join(map(str, max(writers)))} or later" if writers else "a newer hf_scaling"
        raise InputError(
            f"{where}: written by a newer version (schema {newest}; hf_scaling {__version__} reads up to "
            f"{SCHEMA_VERSION}): install {needed}"
        )
    unknown = sorted(set(table.column_names) - set(SCHEMA))
    if unknown:
        raise InputError(
            f"{where}: a table with run_id may have the columns of a results table only; unknown: {', '.join(unknown)}"
        )
    columns = [_column(table, field, where) for field in arrow_schema()]
    if columns[0].null_count:
        raise InputError(f"{where}: a row has no run_id")
    return pyarrow.table(columns, schema=arrow_schema())


def _column(table: "pyarrow.Table", field: "pyarrow.Field", where: str) -> "pyarrow.ChunkedArray":
    """The column of `table` for a field of the current schema, in the field's type."""
    import pyarrow

    if field.name == "schema_version":
        return pyarrow.chunked_array([pyarrow.array([SCHEMA_VERSION] * len(table), field.type)])
    if field.name not in table.column_names:
        return pyarrow.chunked_array([pyarrow.nulls(len(table), field.type)])
    column = table[field.name]
    is_time = pyarrow.types.is_timestamp(field.type) and pyarrow.types.is_timestamp(column.type)
    try:
        if is_time and column.type.tz is None:
            # A time without a zone is UTC.
            column = column.cast(pyarrow.timestamp("us"))
        return column.cast(field.type)
    except pyarrow.ArrowException as error:
        raise InputError(
            f"{where}: column {field.name} holds {column.type}, not {SCHEMA[field.name]}: {one_line(error)}"
        ) from None
