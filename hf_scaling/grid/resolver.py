"""The plan of a grid's runs, computed by a process of the measuring half: this one loads no torch."""

import contextlib
from collections.abc import Sequence
from typing import Any

from hf_scaling.grid.spec import PlannedRun, WrittenRun
from hf_scaling.processes import Process

# The only name of a module of a higher layer: ids need torch, and the deciding half asks for them without loading it.
_MODULE = "hf_scaling.runner.plans"


def plan(
    runs: Sequence[WrittenRun], fill: bool, guess: bool, process: Process | None = None
) -> tuple[PlannedRun, ...]:
    """Resolve runs to ids and costs.

    Args:
        runs: Each after the runs it depends on.
        fill, guess, process: As in `Grid.plan`.

    Raises:
        InputError: See `Grid.plan`.
        RunError: The process ended without an answer.
    """
    with contextlib.ExitStack() as stack:
        process = process or stack.enter_context(Process(_MODULE))
        planned = process.ask("plan", runs=to_json(runs), fill=fill, guess=guess)
    return tuple(PlannedRun.from_dict(run) for run in planned)


def to_json(runs: Sequence[WrittenRun]) -> list[dict[str, Any]]:
    """Runs as JSON values; a teacher or parent is the position of its run in the list."""
    positions = {run.key: position for position, run in enumerate(runs)}
    return [
        {
            "stage": run.stage,
            "fields": dict(run.fields),
            "teacher": run.teacher and positions[run.teacher.key],
            "parent": run.parent and positions[run.parent.key],
            "processes": run.processes,
        }
        for run in runs
    ]
