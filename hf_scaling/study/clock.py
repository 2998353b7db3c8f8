"""The clock of a study: its seconds while a runner works on it, summed over calls and kept in its folder."""

import json
import threading
import time
from pathlib import Path
from types import TracebackType

from filelock import FileLock

from hf_scaling import files

_BEAT = 2.0  # seconds between two entries
_SILENCE = 10.0  # seconds without an entry after which nobody was working


class Clock:
    """Counts while it is open, in any number of runners at once; a killed runner loses the last seconds at most.

    Args:
        folder: The study's folder; the time is kept in its `clock.json`.
        before: Seconds that the study took before there was a folder; counted once, at the start.

    Example:
        >>> with Clock(folder) as clock:  # doctest: +SKIP
        ...     clock.seconds
    """

    def __init__(self, folder: Path, before: float = 0.0):
        self._before = before
        self._path, self._ended = folder / "clock.json", threading.Event()
        self._lock = FileLock(folder / "claims" / ".clock.lock")
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> "Clock":
        self._path.parent.joinpath("claims").mkdir(parents=True, exist_ok=True)
        self._enter(self._before)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._enter()

    @property
    def seconds(self) -> float:
        """Seconds counted so far."""
        return self._read()["seconds"]

    def _read(self) -> dict[str, float]:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {"seconds": 0.0, "last": 0.0}

    def _enter(self, more: float = 0.0) -> None:
        """Count the time since the last entry of any runner, unless nobody was working then, and some more."""
        with self._lock:
            kept, now = self._read(), time.time()
            passed = now - kept["last"]
            if 0 < passed < _SILENCE:
                kept["seconds"] += passed
            kept["seconds"] += more
            files.write_text(self._path, json.dumps({**kept, "last": now}))

    def _work(self) -> None:
        while not self._ended.wait(_BEAT):
            self._enter()
