"""Workers as processes of this machine."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_scaling.errors import RunError
from hf_scaling.grid.resolver import environment
from hf_scaling.runner import dry_run

_STILLBORN = 3  # workers in a row that die before they are ready


class LocalEngine:
    """Persistent processes, each with its share of the cores and, where there are GPUs, one of them."""

    def __init__(self, study: Path, workers: int):
        self._study = study
        self._gpus = dry_run.visible_gpus()
        self._threads = max(1, dry_run.usable_cores() // workers) if self._gpus else 1
        self._messages: queue.SimpleQueue = queue.SimpleQueue()
        self._stillborn = 0
        self._workers = [self._start(slot) for slot in range(workers)]

    def free(self) -> list[int]:
        """The slots that wait for a run."""
        return [slot for slot, worker in enumerate(self._workers) if worker.ready and not worker.busy]

    def submit(self, slot: int, run: Mapping[str, Any]) -> None:
        """Put a run into a free slot."""
        worker = self._workers[slot]
        worker.busy = True
        # A worker that has died says so by the end of its output.
        with contextlib.suppress(BrokenPipeError):
            worker.process.stdin.write(json.dumps({"study": str(self._study), "run": run}) + "\n")
            worker.process.stdin.flush()

    def wait(self, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        """Slot and outcome of the runs that ended.

        Raises:
            RunError: Workers die before they are ready.
        """
        deadline = time.monotonic() + seconds
        ended = []
        while not ended and (left := deadline - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                outcome = self._take(*self._messages.get(timeout=left))
                if outcome is not None:
                    ended.append(outcome)
                if not ended and self.free():
                    return []
        return ended

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            # A thread that is still inside a native call when the interpreter ends takes the process down with it.
            worker.listener.join(timeout=10)
            self._log(worker.slot).unlink(missing_ok=True)

    def _take(self, worker: "_Worker", message: dict[str, Any] | None) -> tuple[int, dict[str, Any]] | None:
        """What a worker's message, or the end of its output (None), means: the outcome of its run, or nothing."""
        if message is None:
            return self._replace(worker)
        if message["status"] == "ready":
            worker.ready, self._stillborn = True, 0
            return None
        worker.busy = False
        return worker.slot, message

    def _replace(self, worker: "_Worker") -> tuple[int, dict[str, Any]] | None:
        """Start another worker in the place of one that died."""
        status = worker.process.wait()
        if not worker.ready:
            self._stillborn += 1
        if self._stillborn >= _STILLBORN:
            raise RunError(
                f"workers die before they are ready (status {status}): {_last_line(self._log(worker.slot))}"
            )
        self._workers[worker.slot] = self._start(worker.slot)
        return (worker.slot, {"status": "lost"}) if worker.busy else None

    def _start(self, slot: int) -> "_Worker":
        self._log(slot).parent.mkdir(parents=True, exist_ok=True)
        threads = {name: str(self._threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
        with self._log(slot).open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "hf_scaling.runner.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment() | threads | self._share_of_gpus(slot),
                # The terminal's interrupt is for the runner alone.
                start_new_session=True,
            )
        worker = _Worker(slot, process)
        worker.listener = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        worker.listener.start()
        return worker

    def _share_of_gpus(self, slot: int) -> dict[str, str]:
        if not self._gpus:
            return {}
        own = self._gpus[slot % len(self._gpus)]
        return {"CUDA_VISIBLE_DEVICES": own, "HF_SCALING_ALL_GPUS": ",".join(self._gpus)}

    def _listen(self, worker: "_Worker") -> None:
        for line in worker.process.stdout:
            self._messages.put((worker, json.loads(line)))
        self._messages.put((worker, None))

    def _log(self, slot: int) -> Path:
        return self._study / "logs" / f"worker-{os.getpid()}-{slot}.log"


def _last_line(log: Path) -> str:
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it said nothing")


class _Worker:
    def __init__(self, slot: int, process: subprocess.Popen):
        self.slot, self.process = slot, process
        self.ready = self.busy = False
        self.listener: threading.Thread | None = None
