"""A study's folder: grid.yaml, results/, runs/, failures.jsonl."""

import contextlib
import datetime
import json
import os
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import yaml
from filelock import FileLock

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.results import ResultsTable

_BEAT = 10.0  # seconds between two signs of life
_SILENCE = 120.0  # seconds after which the owner on another machine is taken for dead


class Claims:
    """The claims of a study.

    A claim names its owner: machine, process and when the process began. It ends with its owner: on this machine as
    soon as the process is gone, on another one when it has given no sign of life for two minutes.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @contextmanager
    def held(self, run_id: str) -> Iterator[bool]:
        """Hold the claim on a run; yields False if a living process has it."""
        if not self._take(run_id):
            yield False
            return
        stop = threading.Event()
        beat = threading.Thread(target=self._beat, args=(run_id, stop), daemon=True)
        beat.start()
        try:
            yield True
        finally:
            stop.set()
            beat.join()
            self._path(run_id).unlink(missing_ok=True)

    def is_held(self, run_id: str) -> bool:
        """Whether a living process is at the run."""
        path = self._path(run_id)
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
            silent = self._now() - path.stat().st_mtime
        except (OSError, ValueError):
            return False
        if owner["host"] == socket.gethostname():
            return _began(owner["pid"]) == owner["began"]
        return silent < _SILENCE

    def _take(self, run_id: str) -> bool:
        """Write the claim, unless a living process has it; the lock makes looking and writing one act."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if self.is_held(run_id):
                return False
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "began": _began(os.getpid())}
            files.write_text(self._path(run_id), json.dumps(owner))
            return True

    def _beat(self, run_id: str, stop: threading.Event) -> None:
        while not stop.wait(_BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._path(run_id))

    def _now(self) -> float:
        """The time by the clock of the disk, which machines that share it agree on."""
        clock = self.folder / ".clock"
        clock.touch()
        return clock.stat().st_mtime

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.json"


def _began(pid: int) -> float | None:
    """When a process of this machine began; None where there is none, or only its corpse."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None


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
