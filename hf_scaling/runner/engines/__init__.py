"""Where runs are made: an engine has slots, takes one run into a free slot, and says how it ended."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from hf_scaling.errors import InputError

ENGINES = ("local", "ray")


class Engine(Protocol):
    """What the runner asks of an engine."""

    def free(self) -> list[int]:
        """The slots that wait for a run."""

    def submit(self, slot: int, run: Mapping[str, Any]) -> None:
        """Put a planned run, as `PlannedRun.to_dict` gives it, into a free slot."""

    def wait(self, seconds: float) -> list[tuple[int, dict[str, Any]]]:
        """Slot and outcome of the runs that ended, waiting for one at most `seconds`.

        An outcome is what `Performer.perform` returns, or {"status": "lost"} where the worker died over the run.
        """

    def close(self) -> None:
        """End all workers, whatever they are at."""


def open_engine(name: str, study: Path, workers: int) -> Engine:
    """Start an engine's workers.

    Args:
        name: "local" or "ray".
        study: The study's folder, which all workers can reach.
        workers: How many runs are made at once.

    Raises:
        InputError: No such engine, or its library is not installed.
        RunError: Its workers do not start.
    """
    if name == "local":
        from hf_scaling.runner.engines.local import LocalEngine

        return LocalEngine(study, workers)
    if name == "ray":
        from hf_scaling.runner.engines.ray import RayEngine

        return RayEngine(study, workers)
    raise InputError(f"engine {name}: must be one of {', '.join(ENGINES)}")
