"""Workers as processes of this machine."""

import os
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_scaling.errors import RunError
from hf_scaling.processes import Process, ProcessEnded
from hf_scaling.runner import machine
from hf_scaling.runner.engines import WORKER
from hf_scaling.runner.study_folder import last_line

_START_FAILURES = 3  # workers in a row that die before they are ready


@dataclass(eq=False)
class _Worker:
    """One worker: not ready until its libraries are loaded, busy while it trains."""

    slot: int
    process: Process
    log: Path
    listener: threading.Thread | None = None
    ready: bool = False
    busy: bool = False


class LocalEngine:
    """Persistent processes, each with its share of the cores and, where there are GPUs, one of them.

    Args:
        study: The study's folder.
        workers: Number of processes.
    """

    is_local = True

    def __init__(self, study: Path, workers: int) -> None:
        self._study = study
        self._gpus = machine.visible_gpus()
        self._threads = max(1, machine.usable_cores() // workers) if self._gpus else 1
        self._answers: queue.SimpleQueue[tuple[_Worker, Any]] = queue.SimpleQueue()
        self._start_failures = 0
        self._workers = [self._start(slot) for slot in range(workers)]

    def free(self) -> list[int]:
        """The slots that wait for a run."""
        return [worker.slot for worker in self._workers if worker.ready and not worker.busy]

    def submit(self, slot: int, run: Mapping[str, Any], request: str = "train") -> None:
        """Put a run into a free slot."""
        worker = self._workers[slot]
        worker.busy = True
        worker.process.send(request, study=str(self._study), run=dict(run), gpus=self._gpus)

    def wait(self, seconds: float) -> list[tuple[int, dict[str, str]]]:
        """Slot and outcome of the runs that have ended.

        Raises:
            RunError: Workers die before they are ready.
        """
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            try:
                worker, answer = self._answers.get(timeout=left)
            except queue.Empty:
                continue
            busy = worker.busy
            if answer is None or answer["status"] != "lost":
                worker.ready, worker.busy, self._start_failures = True, False, 0
            else:
                status = worker.process.wait()
                if not worker.ready:
                    self._start_failures += 1
                if self._start_failures >= _START_FAILURES:
                    line = last_line(worker.log) or "no output"
                    raise RunError(f"workers die before they are ready (status {status}): {line}")
                self._workers[worker.slot] = self._start(worker.slot)
            if busy:
                return [(worker.slot, answer)]
            if self.free():
                return []
        return []

    def close(self) -> None:
        """End all workers."""
        for worker in self._workers:
            worker.process.close()
            # A thread that is still inside a native call when the interpreter ends takes the process down with it.
            if worker.listener is not None:
                worker.listener.join(timeout=10)
            worker.log.unlink(missing_ok=True)

    def _start(self, slot: int) -> _Worker:
        log = self._study / "logs" / f"worker-{os.getpid()}-{slot}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(self._threads))
        if self._gpus:
            variables["CUDA_VISIBLE_DEVICES"] = self._gpus[slot % len(self._gpus)]
        worker = _Worker(slot, Process(WORKER, variables, log), log)
        worker.process.send("ready")
        worker.listener = threading.Thread(target=self._listen, args=(worker,), daemon=True)
        worker.listener.start()
        return worker

    def _listen(self, worker: _Worker) -> None:
        """Pass on a worker's answers: None when it is ready, then the outcome of each run, "lost" at its end."""
        try:
            while True:
                self._answers.put((worker, worker.process.receive()))
        except ProcessEnded:
            self._answers.put((worker, {"status": "lost"}))
