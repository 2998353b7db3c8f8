"""Workers as actors of a Ray cluster that shares the study's folder: a running one, else one that is started here."""

import contextlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.processes import environment

_PASSED_ON = ("HF_", "ACCELERATE_", "PYTHONPATH")  # beginnings of the environment variables that actors get


class RayEngine:
    """Persistent actors, each with one core and its share of the cluster's GPUs; several may share one.

    It joins the cluster of RAY_ADDRESS or of this machine, else starts one. An actor that dies, or whose node does, is
    replaced wherever the cluster has room.

    Args:
        study: The study's folder.
        workers: Number of actors.
    """

    is_local = False

    def __init__(self, study: Path, workers: int) -> None:
        try:
            import ray
        except ImportError:
            raise InputError("engine ray needs the package ray: pip install 'hf_scaling[ray]'") from None
        self._ray, self._study, self._workers = ray, study.resolve(), workers
        self._joined = ray.is_initialized()
        if not self._joined:
            quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
            try:
                ray.init(address="auto", **quiet)
            except ConnectionError:
                cores = max(workers, os.cpu_count() or 1)
                ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
        gpus = ray.cluster_resources().get("GPU", 0)
        # Ray counts in ten-thousandths: rounded down, so that the last worker finds its share too.
        self._share = min(1.0, int(10_000 * gpus / workers) / 10_000)
        self._actors: dict[int, Any] = {}
        # Reference of an answer -> slot, and whether it is a run's answer (else the actor's that it is ready).
        self._pending: dict[Any, tuple[int, bool]] = {}
        self._free: set[int] = set()
        self._start_all()

    def free(self) -> list[int]:
        """The slots that wait for a run."""
        return sorted(self._free)

    def submit(self, slot: int, run: Mapping[str, Any], request: str = "train") -> None:
        """Put a run into a free slot; one of several processes gets the cluster for itself."""
        if run["processes"] > 1:
            self._stop_all()
            self._start(slot, run["processes"] if self._share else 0)
            self._pending.clear()
        self._free.discard(slot)
        method = getattr(self._actors[slot], request)
        self._pending[method.remote(str(self._study), dict(run))] = (slot, True)

    def wait(self, seconds: float) -> list[tuple[int, dict[str, str]]]:
        """Slot and outcome of the runs that have ended."""
        ready, _ = self._ray.wait(list(self._pending), num_returns=1, timeout=seconds)
        outcomes = []
        for reference in ready:
            slot, is_run = self._pending.pop(reference)
            try:
                outcome = self._ray.get(reference)
                self._free.add(slot)
            except self._ray.exceptions.RayActorError:
                outcome = {"status": "lost"}
                self._start(slot, self._share)
            if len(self._actors) < self._workers:
                # A run that had the cluster for itself has ended.
                self._stop_all()
                self._start_all()
            if is_run:
                outcomes.append((slot, outcome))
        return outcomes

    def close(self) -> None:
        """End all actors and leave the cluster; a cluster that was started here ends too."""
        self._stop_all()
        if not self._joined:
            self._ray.shutdown()

    def _start_all(self) -> None:
        for slot in range(self._workers):
            self._start(slot, self._share)

    def _start(self, slot: int, gpus: float) -> None:
        variables = {name: value for name, value in environment().items() if name.startswith(_PASSED_ON)}
        actor = self._ray.remote(_Actor).options(
            num_cpus=1, num_gpus=gpus, scheduling_strategy="SPREAD", runtime_env={"env_vars": variables}
        )
        self._actors[slot] = actor.remote(os.getcwd())
        self._pending[self._actors[slot].ready.remote()] = (slot, False)

    def _stop_all(self) -> None:
        for actor in self._actors.values():
            self._ray.kill(actor)
        self._actors.clear()
        self._pending.clear()
        self._free.clear()


class _Actor:
    """A worker as an actor."""

    def __init__(self, folder: str) -> None:
        # Paths in a grid are relative to the runner's folder; a node that lacks it needs absolute ones.
        with contextlib.suppress(OSError):
            os.chdir(folder)
        from hf_scaling.runner.worker import Worker

        self._worker = Worker()

    def ready(self) -> None:
        """Answer as soon as the libraries are loaded."""

    def train(self, study: str, run: dict[str, Any]) -> dict[str, str]:
        """Train one run, as `Worker.train` does."""
        return self._worker.train(study, run)

    def validate(self, study: str, run: dict[str, Any]) -> dict[str, Any]:
        """The loss of one trial, as `Worker.validate` gives it."""
        return self._worker.validate(study, run)
