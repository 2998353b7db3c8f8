"""A study's folder: grid.yaml, results/, runs/, failures.jsonl."""

import datetime
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.results import ResultsTable
from hf_scaling.runner.claims import Claims


class Study:
    """The folder of one study. Any number of runners may work in it at once.

    Attributes:
        path: The folder.
        claims: Who is at which run.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.claims = Claims(self.path / "claims")

    def prepare(self, grid: Grid) -> None:
        """Make the folder and write grid.yaml into it.

        Raises:
            InputError: It cannot be written to.
        """
        try:
            for name in ("results", "runs", "claims", "logs"):
                (self.path / name).mkdir(parents=True, exist_ok=True)
            text = yaml.safe_dump(dict(grid.content), sort_keys=False, allow_unicode=True)
            files.write_text(self.path / "grid.yaml", text)
        except OSError as error:
            raise InputError(f"{self.path}: a study cannot be written there: {error.strerror}") from error

    def table(self) -> ResultsTable:
        """The results so far."""
        return ResultsTable.open(self.path / "results")

    def run_folder(self, run_id: str) -> Path:
        """Where a run's checkpoint lies."""
        return self.path / "runs" / run_id

    def log(self, run_id: str) -> Path:
        """What an unfinished run has said; gone when the run is finished."""
        return self.path / "logs" / f"{run_id}.log"

    def finished_row(self, run_id: str) -> dict[str, Any] | None:
        """The row that a run has left in its own folder; None while it is unfinished."""
        folder = self.run_folder(run_id) / "results"
        return ResultsTable.load(folder).rows()[0] if any(folder.glob("*.parquet")) else None

    def failures(self) -> dict[str, dict[str, Any]]:
        """run_id -> record of the runs that failed, and of those that wait for them."""
        try:
            lines = (self.path / "failures.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return {}
        records = [_record(line) for line in lines]
        return {record["run_id"]: record for record in records if record}

    def record_failures(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records in the place of older ones of the same runs."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._change_failures({record["run_id"]: {**record, "at": now} for record in records})

    def forget_failures(self, run_ids: Iterable[str]) -> None:
        """Remove the records of runs that are finished or tried again."""
        self._change_failures(dict.fromkeys(run_ids))

    def _change_failures(self, changes: Mapping[str, dict[str, Any] | None]) -> None:
        with FileLock(self.path / "claims" / ".failures.lock"):
            before = self.failures()
            after = {run_id: record for run_id, record in (before | dict(changes)).items() if record is not None}
            if after != before:
                text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in after.values())
                files.write_text(self.path / "failures.jsonl", text)


def _record(line: str) -> dict[str, Any] | None:
    """One line's record; a line that somebody's editor broke is passed over."""
    try:
        return json.loads(line)
    except ValueError:
        return None
