"""`--dry-run`: which runs there are, how many are done, and what the rest will cost."""

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from hf_scaling.errors import RunError
from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.grid.resolver import environment
from hf_scaling.runner.loop import to_make
from hf_scaling.runner.status import align
from hf_scaling.runner.study_folder import Study

_WORKER_MEMORY = 1.5e9  # bytes: torch and its libraries, a small model and its batches


def visible_gpus() -> list[str]:
    """The GPUs that processes started here may use, as CUDA_VISIBLE_DEVICES names them."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [each for each in told.split(",") if each.strip() and each.strip() != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(at) for at, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One a GPU; without one, one a core as far as the memory goes."""
    memory = int(psutil.virtual_memory().available / _WORKER_MEMORY)
    return len(visible_gpus()) or max(1, min(usable_cores(), memory))


_OVERHEAD = 0.7  # seconds of a run that are neither training nor evaluation
_START = 10.0  # seconds until the workers are ready
_CHECKPOINT = 4  # bytes a weight
_TRAINING_STATE = 3 * _CHECKPOINT  # weights and AdamW's two moments, of which two are kept while a run is being made
_SIZES = 6  # models that are timed


def describe(grid: Grid, folder: str | Path, workers: int) -> str:
    """What a grid would run, as text.

    Args:
        grid: The grid.
        folder: The study's folder; what it holds is done.
        workers: How many runs would be made at once.

    Raises:
        InputError: The grid cannot be run as it is written.
    """
    study, plan = Study(folder), grid.plan(guess=True)
    left = to_make(study, study.table(), plan)
    seconds = _seconds(plan, left)
    lines = [["stage", "arm", "runs", "done", "left", "training FLOPs left", "time on one worker"]]
    for group in dict.fromkeys((run.spec.stage, run.arm) for run in plan):
        here = [run for run in plan if (run.spec.stage, run.arm) == group]
        open_here = [run for run in here if run in left]
        lines.append([*group, *_cells(here, open_here, seconds)])
    lines.append(["all", "", *_cells(plan, left, seconds)])
    return "\n".join([*align(lines), "", *_ending(plan, left, seconds, workers, study)])


def _cells(runs: Sequence[PlannedRun], left: Sequence[PlannedRun], seconds: dict[str, float]) -> list[str]:
    counts = [len(runs), len(runs) - len(left), len(left)]
    flops = sum(run.train_flops for run in left)
    return [*(f"{each:,}" for each in counts), f"{flops:.2e}", _time(sum(seconds[run.run_id] for run in left))]


def _ending(plan, left, seconds: dict[str, float], workers: int, study: Study) -> list[str]:
    each = [seconds[run.run_id] for run in left]
    longest_way = _longest_way(left, seconds)
    whole = max(math.fsum(each) / workers, longest_way) + _START if left else 0.0
    free = shutil.disk_usage(next(each for each in (study.path, *study.path.absolute().parents) if each.exists())).free
    time = _time(whole) if math.isnan(whole) else f"about {_time(whole)}"
    said = [
        f"time    {time} with {workers} worker{'s' * (workers != 1)} on this machine",
        f"disk    about {_size(_disk(left, workers))} in {study.path}, of {_size(free)} free",
    ]
    guessed = sorted({run.provisional for run in plan if run.provisional})
    if guessed:
        said.append("not certain, as what is done and the classes are guessed:")
        said.extend(f"  {reason}" for reason in guessed)
    return said


def _longest_way(left: Sequence[PlannedRun], seconds: dict[str, float]) -> float:
    """Seconds of the longest chain of runs that wait for each other."""
    ends: dict[str, float] = {}
    for run in left:
        ends[run.run_id] = max((ends.get(each, 0.0) for each in run.needs), default=0.0) + seconds[run.run_id]
    return max(ends.values(), default=0.0)


def _disk(left: Sequence[PlannedRun], workers: int) -> float:
    sizes = sorted((run.n_params or 0 for run in left), reverse=True)
    return sum(sizes) * _CHECKPOINT + 2 * sum(sizes[:workers]) * _TRAINING_STATE


def _seconds(plan: Sequence[PlannedRun], left: Sequence[PlannedRun]) -> dict[str, float]:
    """Seconds each run left takes on one worker, from a calibration of some of the plan's models."""
    times = _calibrate(plan) if left else []
    found = {}
    for run in left:
        found[run.run_id] = _OVERHEAD + run.flops * _pace(times, _flops_an_example(run))
    return found


def _flops_an_example(run: PlannedRun) -> float:
    return run.train_flops / run.examples


def _pace(times: Sequence[tuple[float, float]], flops_an_example: float) -> float:
    """Seconds an operation: of the timed model nearest in operations an example, on a log scale; NaN without one."""
    if not times:
        return math.nan
    flops, seconds = min(times, key=lambda each: abs(math.log(each[0] / max(flops_an_example, 1.0))))
    return seconds / flops


def _calibrate(plan: Sequence[PlannedRun]) -> list[tuple[float, float]]:
    """Operations and seconds an example, for models of `plan` from the smallest to the largest."""
    models: dict[float, dict[str, Any]] = {}
    for run in plan:
        if run.spec.stage == "pretrain" and run.spec.teacher is None:
            question = {"model": run.model, "n_classes": run.spec.n_classes, "fields": dict(run.fields)}
            models[_flops_an_example(run)] = question
    chosen = sorted(models)
    chosen = [chosen[round(at * (len(chosen) - 1) / (_SIZES - 1))] for at in range(_SIZES)] if chosen else []
    chosen = sorted(set(chosen))
    if not chosen:
        return []
    answer = subprocess.run(
        [sys.executable, "-m", "hf_scaling.runner.calibrating"],
        input=json.dumps([models[each] for each in chosen]),
        stdout=subprocess.PIPE,
        text=True,
        env=environment() | {"OMP_NUM_THREADS": "1"},
    )
    if answer.returncode != 0:
        raise RunError(f"the calibration ended with status {answer.returncode}")
    return list(zip(chosen, json.loads(answer.stdout)))


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return "not known"  # checkpoints alone: there is no model to build and time
    for unit, length in (("days", 86_400.0), ("hours", 3_600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} seconds"


def _size(n_bytes: float) -> str:
    for unit, factor in (("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:,.1f} {unit}"
    return f"{n_bytes / 1e3:,.0f} kB"
