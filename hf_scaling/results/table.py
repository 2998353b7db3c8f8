"""`ResultsTable`: the results of runs, in memory, in files and folders, and on the Hub."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling.errors import InputError
from hf_scaling.results.files import concatenate, drop_repeats, parquet_folder, read_path, rename, to_arrow, write
from hf_scaling.results.hub import DEFAULT_CONFIG, download_table, push_table
from hf_scaling.results.probes import PROBES, find_probes
from hf_scaling.results.schema import has_results_columns
from hf_scaling.results.sources import read_sources

if TYPE_CHECKING:
    import datasets
    import pandas
    import pyarrow

    from hf_scaling import hub
    from hf_scaling.grid import Grid, RunSpec


class ResultsTable:
    """Results, one row per run; or a foreign table, as it was read.

    A table with the columns of `SCHEMA` holds each run_id once. A foreign table has other columns (a CSV with, say,
    n_params, n_pretrain and loss) and can be fitted, but not appended to, merged or pushed.

    Args:
        rows: Column -> value, as `new_row` gives it; or a DataFrame of any columns.
        map: For a DataFrame, our column -> theirs, as for `load`.
        arm_names: For a DataFrame, plain and distilled -> their values, as for `load`.

    Example:
        >>> table = ResultsTable.load("studies/demo")
        >>> frame = table.to_pandas()
        >>> table = ResultsTable.load("theirs.csv", map={"n_params": "params", "loss": "val_loss"})
    """

    def __init__(
        self,
        rows: "Iterable[Mapping[str, Any]] | pandas.DataFrame" = (),
        map: Mapping[str, str] | None = None,
        arm_names: Mapping[str, str | Sequence[str]] | None = None,
    ):
        self._home: Path | None = None
        self._renamed = bool(map or arm_names)
        if hasattr(rows, "columns"):
            self._table = rename(rows, map, arm_names)  # type: ignore[arg-type]  # rows have no columns
        elif self._renamed:
            raise InputError("map and arm_names are for a DataFrame: rows have the columns of a results table")
        else:
            self._table = drop_repeats(to_arrow(list(rows)), "the rows given")

    @classmethod
    def load(
        cls,
        where: str | Path,
        revision: str | None = None,
        config_name: str = DEFAULT_CONFIG,
        map: Mapping[str, str] | None = None,
        arm_names: Mapping[str, str | Sequence[str]] | None = None,
    ) -> "ResultsTable":
        """Read a table.

        Args:
            where: A .parquet or .csv file, a folder with Parquet files, a run or study folder, or a Hub id
                (`org/name`, a data set or a model; `org/name@revision`). A path that exists wins over a Hub id. Text
                files may be .tsv too, packed as .gz, and have any usual delimiter.
            revision: Branch, tag or commit on the Hub; the head of main by default.
            config_name: Which of the tables of a data set on the Hub.
            map: Our column -> theirs, of a foreign table: {"n_params": "params"}. Theirs may be multiplied,
                "params (M)*1e6", or subtracted from 1, "1-accuracy".
            arm_names: Our arms -> the values that the column `arm` has for them: {"plain": "baseline",
                "distilled": ["KD", "FitNet"]}.

        Returns:
            The table. One that was read with `map` or `arm_names` cannot be appended to, merged or pushed.

        Raises:
            InputError: No such table, not readable, offline, two columns of one name, rows of one run_id with
                different values, or a column or value of `map` and `arm_names` that the table lacks.
        """
        path = Path(where)
        read = read_path(path) if path.exists() else download_table(str(where), revision, config_name)
        table = cls._of(drop_repeats(read, str(where)), path if path.exists() else None)
        if map or arm_names:
            table._table, table._renamed = rename(table.to_pandas(), map, arm_names), True
        return table

    @classmethod
    def open(cls, folder: str | Path) -> "ResultsTable":
        """Read the table of a folder to append to it; it is empty where the folder holds no Parquet file yet.

        Args:
            folder: The folder; it need not exist.

        Raises:
            InputError: Not readable, or rows of one run_id with different values.
        """
        folder = Path(folder)
        if any(parquet_folder(folder).glob("*.parquet")):
            return cls.load(folder)
        return cls._of(to_arrow([]), folder)

    @classmethod
    def _of(cls, table: "pyarrow.Table", home: Path | None = None) -> "ResultsTable":
        """A checked table; `append` writes to `home`."""
        new = cls.__new__(cls)
        new._table, new._home, new._renamed = table, home, False
        return new

    @property
    def column_names(self) -> list[str]:
        """The columns, in order."""
        return self._table.column_names

    @property
    def is_foreign(self) -> bool:
        """Whether the columns are not those of a results table."""
        return self._renamed or not has_results_columns(self._table.column_names)

    @property
    def sources(self) -> dict[str, dict[str, int | None]]:
        """The counted sources of the study that it was read from, by name; empty where it is of none.

        Raises:
            InputError: The study's sources.json is damaged.
        """
        if self._home is None:
            return {}
        return read_sources(self._home) or read_sources(self._home.parent)

    def __len__(self) -> int:
        return self._table.num_rows

    def __repr__(self) -> str:
        return f"ResultsTable({len(self)} rows: {', '.join(self.column_names)})"

    def rows(self) -> list[dict[str, Any]]:
        """The rows as dicts of plain Python values."""
        return self._table.to_pylist()

    def run_ids(self) -> set[str]:
        """The run ids of the rows."""
        return set(self._table["run_id"].to_pylist())

    def append(self, row: Mapping[str, Any]) -> None:
        """Add one row, in memory and to the file or folder that the table was loaded from.

        The write is atomic: a kill leaves the old or the new table. In a folder each row becomes a file named by its
        run_id, so that several processes can append at once. A table from the Hub, or one that was never saved, grows
        in memory only. An equal row changes nothing.

        Args:
            row: Column -> value; columns that are left out are null.

        Raises:
            InputError: An unknown column, a missing run_id, a foreign table, or a row of this run_id with other
                values.
        """
        self._refuse_foreign("append to")
        addition = to_arrow([row])
        grown = drop_repeats(concatenate([self._table, addition]), f"{self._home or 'the table'} and the row appended")
        if len(self) == grown.num_rows:
            return
        if self._home is not None and self._home.is_dir():
            write(addition, parquet_folder(self._home) / f"{row['run_id']}.parquet")
        elif self._home is not None:
            write(grown, self._home)
        self._table = grown

    def merge(self, other: "ResultsTable") -> "ResultsTable":
        """The union of two tables by run_id; of rows that are equal but for the `INCIDENTAL` columns the first stays.

        Args:
            other: Another results table.

        Returns:
            A new table in memory; neither of the two is changed.

        Raises:
            InputError: Rows of one run_id with different values (names the columns and both values), or a foreign
                table.
        """
        self._refuse_foreign("merge")
        other._refuse_foreign("merge")
        return self._of(drop_repeats(concatenate([self._table, other._table]), "the two tables"))

    def missing(self, grid: "Grid") -> "list[RunSpec]":
        """The runs of a grid that have no row in this table, in an order in which they can be run.

        Nothing is trained to find their ids: a separate process computes them (`Grid.plan`).

        Args:
            grid: The grid. One with `tune` must be the tuned one, grid.yaml of the study folder.

        Raises:
            InputError: The grid cannot be resolved or has `tune`, or this is a foreign table.
        """
        self._refuse_foreign("compare a grid with")
        if "tune" in grid.content:
            raise InputError("tune: ids are known once rates are: compare with the grid.yaml of the study's folder")
        run_ids = self.run_ids()
        return [spec for spec in grid.specs() if spec.run_id not in run_ids]

    def save(self, folder: str | Path) -> Path:
        """Write the table to results.parquet in a folder, atomically.

        Args:
            folder: The folder; it is created where it does not exist.

        Returns:
            The file's path.
        """
        path = Path(folder) / "results.parquet"
        write(self._table, path)
        return path

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a DataFrame; one with linear probes names their recipes in `attrs["linear_probes"]`.

        Fits and boundaries leave their rows out beside others, with a note.

        Raises:
            InputError: A run.yaml of the study is damaged.
        """
        frame = self._table.to_pandas()
        study = None
        if self._home is not None and self._home.is_dir():
            study = self._home.parent if self._home.name == "results" else self._home
        if probes := find_probes(study, frame):
            frame.attrs[PROBES] = probes
        return frame

    def to_dataset(self) -> "datasets.Dataset":
        """The table as a `datasets.Dataset`."""
        import datasets

        return datasets.Dataset(self._table)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        config_name: str = DEFAULT_CONFIG,
        dry_run: bool = False,
        beside: Mapping[str, bytes] | None = None,
    ) -> "hub.Commit | hub.Planned":
        """Merge the rows into a data set on the Hub, which is created where it does not exist.

        Rows are merged by run_id, as `merge` does; no row or other table there is removed, and of several processes
        that push at once all rows arrive. The card is rendered again; text that people wrote before and after the
        generated part stays.

        Args:
            repo_id: `org/name`.
            private: Whether a new data set is private; the account's default when None.
            config_name: Which of the tables of the data set.
            dry_run: Describe what would be written, and write nothing.
            beside: Name -> content of files to write along with the rows: a study's grid.yaml.

        Returns:
            What was written, or with `dry_run` would be.

        Raises:
            InputError: A foreign table, rows of one run_id with different values, a table there that is damaged or
                written by a newer version, or no right to write. Nothing was written.
            PushError: Offline, or the Hub kept failing. Nothing was written.
        """
        self._refuse_foreign("push")
        return push_table(self._table, repo_id, config_name, beside or {}, private=private, dry_run=dry_run)

    def _refuse_foreign(self, verb: str) -> None:
        if self.is_foreign:
            raise InputError(
                f"cannot {verb} a table whose columns are not those of a results table: {', '.join(self.column_names)}"
            )
