"""`ResultsTable`: rows of results, kept in files, folders and on the Hub."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling.errors import InputError
from hf_scaling.results import hub
from hf_scaling.results.files import concatenate, parquet_folder, read, to_arrow, unique, write
from hf_scaling.results.schema import is_ours

if TYPE_CHECKING:
    import datasets
    import pandas

    from hf_scaling import hub
    from hf_scaling.grid import Grid, RunSpec


class ResultsTable:
    """Rows of results, one a run; or any table of somebody else's, as it is.

    A table whose columns are those of `SCHEMA` holds each run_id once. A foreign table (a CSV with, say, n_params,
    n_pretrain and loss) is kept as it was read.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()):
        self._table = unique(to_arrow(list(rows)), "the rows given")
        self._home: Path | None = None

    @classmethod
    def load(
        cls, where: str | Path, revision: str | None = None, config_name: str = hub.DEFAULT_CONFIG
    ) -> "ResultsTable":
        """Read a table.

        Args:
            where: A .parquet or .csv file, a folder with Parquet in it, a run or study folder, or a Hub id
                (`org/name`, a data set or a model; `org/name@revision`); a path that exists wins.
            revision: Branch, tag or commit of a Hub id.
            config_name: Which of a Hub data set's tables.

        Raises:
            InputError: Nothing there, nothing in it, not readable, offline, or one run_id with different values.
        """
        path = Path(where)
        table = cls()
        if path.exists():
            table._table, table._home = unique(read(path), str(where)), path
        else:
            table._table = unique(hub.fetch(str(where), revision, config_name), str(where))
        return table

    @classmethod
    def open(cls, folder: str | Path) -> "ResultsTable":
        """The table that is kept in a folder, to append to: empty where the folder holds none yet.

        Raises:
            InputError: What is there is not readable, or one run_id has different values.
        """
        folder = Path(folder)
        if any(parquet_folder(folder).glob("*.parquet")):
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
        """Whether the columns are somebody else's: then rows cannot be appended, merged or pushed."""
        return not is_ours(self._table.column_names)

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
        addition = to_arrow([row])
        grown = unique(concatenate([self._table, addition]), f"{self._home or 'the table'} and the row appended")
        if len(self) == grown.num_rows:
            return
        if self._home is not None and self._home.is_dir():
            write(addition, parquet_folder(self._home) / f"{row['run_id']}.parquet")
        elif self._home is not None:
            write(grown, self._home)
        self._table = grown

    def merge(self, other: "ResultsTable") -> "ResultsTable":
        """The union by run_id; equal rows (in all but `INCIDENTAL` columns) collapse into the first.

        Raises:
            InputError: One run_id with different values, naming the columns and both values.
        """
        self._refuse_foreign("merge")
        other._refuse_foreign("merge")
        merged = ResultsTable()
        merged._table = unique(concatenate([self._table, other._table]), "the two tables")
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
        write(self._table, path)
        return path

    def to_pandas(self) -> "pandas.DataFrame":
        """The table as a DataFrame."""
        return self._table.to_pandas()

    def to_dataset(self) -> "datasets.Dataset":
        """The table as a data set."""
        import datasets

        return datasets.Dataset(self._table)

    def push_to_hub(
        self,
        repo_id: str,
        private: bool | None = None,
        config_name: str = hub.DEFAULT_CONFIG,
        dry_run: bool = False,
        beside: Mapping[str, bytes] | None = None,
    ) -> "hub.Commit | hub.Planned":
        """Merge the rows into a data set of the Hub, which is made where it is not there yet.

        Rows are merged by run_id with those that are there, as `merge` does; nothing that is there is removed, other
        tables of the data set stay, and of several who push at once each one's rows arrive. The card is made anew;
        what people wrote before and after our part of it stays.

        Args:
            repo_id: `org/name`.
            private: Whether a data set that is made now is private; the account's default when None.
            config_name: Which of the data set's tables.
            dry_run: Write nothing and say what would be written.
            beside: Name to content of files that go along with the rows: a study's grid.yaml.

        Returns:
            What was written where, or would be.

        Raises:
            InputError: A foreign table, one run_id with other values there, a table there that is damaged or of a
                newer version, or no right to write. Nothing was written.
            PushError: Offline, or the Hub kept failing. Nothing was written.
        """
        self._refuse_foreign("push")
        return hub.push(self._table, repo_id, private, config_name, dry_run, beside or {})

    def _refuse_foreign(self, verb: str) -> None:
        if self.is_foreign:
            raise InputError(
                f"cannot {verb} a table of other columns than a results row's: {', '.join(self.column_names)}"
            )
