"""Where runs are trained: an engine has slots, takes one run into a free slot, and reports how it ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hf_scaling.errors import InputError
from hf_scaling.text import did_you_mean, listing

ENGINES = ("local", "ray")
#: The module that a worker's process runs.
WORKER = "hf_scaling.runner.worker"


class Engine(Protocol):
    """A set of workers, one per slot.

    Attributes:
        is_local: Whether its workers are processes of this machine, whose speeds tell of later runs here.
    """

    is_local: bool

    def free(self) -> list[int]:
        """The slots that wait for a run."""

    def submit(self, slot: int, run: Mapping[str, Any], request: str = "train") -> None:
        """Put work into a free slot: a method of `Worker`, and the run that it takes, with the key `processes`."""

    def wait(self, seconds: float) -> list[tuple[int, dict[str, str]]]:
        """Slot and outcome of the runs that have ended; waits at most `seconds` for one.

        An outcome is what the worker's method returns, or {"status": "lost"} where the worker died during the run.
        """

    def close(self) -> None:
        """End all workers, whatever they are doing."""


def open_engine(name: str, study: Path, workers: int) -> Engine:
    """Start an engine's workers.

    Args:
        name: "local" or "ray".
        study: The study's folder, which all workers can reach.
        workers: Number of runs trained at once.

    Raises:
        InputError: There is no such engine, or its library is not installed.
        RunError: Its workers do not start.
    """
    if name == "local":
        from hf_scaling.runner.engines.local import LocalEngine

        return LocalEngine(study, workers)
    if name == "ray":
        from hf_scaling.runner.engines.ray import RayEngine

        return RayEngine(study, workers)
    raise InputError(f"engine {name!r}: must be one of {listing(ENGINES)}{did_you_mean(name, ENGINES)}")
