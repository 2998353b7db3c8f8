"""Tables from files and folders, and back: Parquet and CSV."""

import io
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.results.arrow import arrow_schema, bring_up, concatenate
from hf_scaling.results.schema import is_ours

if TYPE_CHECKING:
    import pyarrow


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
