"""Who is at which run: a file a run, so that several runners share a study without doing anything twice."""

import contextlib
import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
from filelock import FileLock

from hf_scaling import files

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
