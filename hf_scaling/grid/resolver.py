"""Ask the training half for the plan of written runs, in a process of its own: asking loads no torch here."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError, RunError
from hf_scaling.grid.expansion import WrittenRun
from hf_scaling.grid.spec import PlannedRun

_COMMAND = "hf_scaling.runner.resolving"


def plan(runs: Sequence[WrittenRun], fill: bool, guess: bool) -> tuple[PlannedRun, ...]:
    """See `Grid.plan`."""
    question = json.dumps({"runs": to_json(runs), "fill": fill, "guess": guess})
    answer = subprocess.run(
        [sys.executable, "-m", _COMMAND], input=question, stdout=subprocess.PIPE, text=True, env=environment()
    )
    if answer.returncode != 0:
        raise RunError(f"the process that resolves the grid ended with status {answer.returncode}")
    content = json.loads(answer.stdout)
    if "error" in content:
        raise InputError(content["error"])
    return tuple(PlannedRun.from_dict(each) for each in content["runs"])


def environment() -> dict[str, str]:
    """The environment of a process of ours, which finds this package also where it is not installed."""
    home = str(Path(__file__).parents[2])
    path = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home}


def to_json(runs: Sequence[WrittenRun]) -> list[dict[str, Any]]:
    """Written runs as plain values; those that a run needs are named by their place in the list."""
    place = {run.key: at for at, run in enumerate(runs)}
    return [
        {
            "stage": run.stage,
            "fields": dict(run.fields),
            "teacher": run.teacher and place[run.teacher.key],
            "parent": run.parent and place[run.parent.key],
            "processes": run.processes,
        }
        for run in runs
    ]
