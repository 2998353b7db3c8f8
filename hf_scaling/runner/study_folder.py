"""A study's folder (grid.yaml, results/, runs/, failures.jsonl, logs/), and the claims on its runs."""

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

_HEARTBEAT = 10.0  # seconds between two signs of life
_SILENCE = 120.0  # seconds without one after which an owner on another machine counts as dead


class Study:
    """The folder of one study. Any number of runners may work in it at once.

    Args:
        path: The folder; it need not exist.

    Attributes:
        path: The folder.
        claims: Which run is trained by which process.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.claims = Claims(self.path / "claims")

    def prepare(self, grid: Grid) -> None:
        """Create the folder and write grid.yaml.

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
        """The rows so far."""
        return ResultsTable.open(self.path / "results")

    def run_folder(self, run_id: str) -> Path:
        """The folder of a run's checkpoint."""
        return self.path / "runs" / run_id

    def log(self, run_id: str) -> Path:
        """What an unfinished run has printed; removed when the run finishes."""
        return self.path / "logs" / f"{run_id}.log"

    def finished_row(self, run_id: str) -> dict[str, Any] | None:
        """The row that a run has written into its own folder; None while it is unfinished."""
        folder = self.run_folder(run_id) / "results"
        return ResultsTable.load(folder).rows()[0] if any(folder.glob("*.parquet")) else None

    def failures(self) -> dict[str, dict[str, Any]]:
        """run_id -> record of the runs that failed (`error`), and of those that wait for them (`waiting_on`)."""
        records: dict[str, dict[str, Any]] = {}
        try:
            lines = (self.path / "failures.jsonl").read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return records
        for line in lines:
            # A line that an editor has damaged is ignored.
            with contextlib.suppress(ValueError):
                record = json.loads(line)
                records[record["run_id"]] = record
        return records

    def record_failures(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Write records, in place of older ones of the same runs."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        self._change_failures({record["run_id"]: {**record, "at": now} for record in records})

    def forget_failures(self, run_ids: Iterable[str]) -> None:
        """Remove the records of runs."""
        self._change_failures(dict.fromkeys(run_ids))

    def _change_failures(self, changes: Mapping[str, dict[str, Any] | None]) -> None:
        with FileLock(self.path / "claims" / ".failures.lock"):
            before = self.failures()
            after = {run_id: record for run_id, record in (before | dict(changes)).items() if record is not None}
            if after != before:
                text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in after.values())
                files.write_text(self.path / "failures.jsonl", text)


class Claims:
    """The claims of a study: one file per run that is being trained, which names the owner.

    The owner is a process: machine, process id and start time. On the same machine a claim ends as soon as its process
    does; on another one, when it has given no sign of life (the file's time) for two minutes.

    Args:
        folder: Where the files are stored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @contextmanager
    def held(self, run_id: str) -> Iterator[bool]:
        """Hold the claim on a run; yields False if a living process holds it."""
        if not self._acquire(run_id):
            yield False
            return
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(_HEARTBEAT):
                with contextlib.suppress(OSError):
                    os.utime(self._path(run_id))

        heartbeat = threading.Thread(target=beat, daemon=True)
        heartbeat.start()
        try:
            yield True
        finally:
            stop.set()
            heartbeat.join()
            self._path(run_id).unlink(missing_ok=True)

    def is_held(self, run_id: str) -> bool:
        """Whether a living process holds the claim on a run."""
        path, clock = self._path(run_id), self.folder / ".clock"
        try:
            owner = json.loads(path.read_text(encoding="utf-8"))
            # The time by the clock of the disk, which is the same for all machines that share it.
            clock.touch()
            silence = clock.stat().st_mtime - path.stat().st_mtime
        except (OSError, ValueError):
            return False
        if owner["host"] == socket.gethostname():
            return _start_time(owner["pid"]) == owner["began"]
        return silence < _SILENCE

    def _acquire(self, run_id: str) -> bool:
        """Write the claim unless a living process holds it; the lock makes the check and the write one step."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with FileLock(self.folder / ".lock"):
            if self.is_held(run_id):
                return False
            owner = {"host": socket.gethostname(), "pid": os.getpid(), "began": _start_time(os.getpid())}
            files.write_text(self._path(run_id), json.dumps(owner))
            return True

    def _path(self, run_id: str) -> Path:
        return self.folder / f"{run_id}.json"


def last_line(log: Path) -> str | None:
    """The last line of a log that is not empty; None where there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), None)


def _start_time(pid: int) -> float | None:
    """When a process of this machine started; None where there is none, or only a zombie."""
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else process.create_time()
    except psutil.Error:
        return None
