"""`--dry-run`: which runs a grid has, how many are finished, and what the rest costs."""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path

from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.processes import Process
from hf_scaling.runner.engines import WORKER
from hf_scaling.runner.loop import runs_to_train
from hf_scaling.runner.machine import Speeds
from hf_scaling.runner.study_folder import Study
from hf_scaling.text import format_bytes, format_duration, text_table

_OVERHEAD = 0.7  # seconds of a run that are neither training nor evaluation
_START = 10.0  # seconds until the workers are ready
_CHECKPOINT = 4  # bytes per parameter
_TRAINING_STATE = 3 * _CHECKPOINT  # weights and the two moments of AdamW; two states are kept during a run
_SIMILAR = 2.0  # factor in FLOPs per example within which no step needs to be timed
_EXTRAPOLATED = 100.0  # factor in FLOPs per example beyond which a speed says nothing
_TIMED_MODELS = 3  # the most models of which a step is timed
_BATCH = 32  # examples of a timed step
_LONGEST = 8.0  # seconds of a timed step; larger models are extrapolated from it


def describe(grid: Grid, folder: str | Path, workers: int) -> str:
    """What a grid would train, as text: runs, FLOPs, time and disk.

    The time follows from what this machine has trained before (`Speeds`), or from a step of some of the models that is
    timed now.

    Args:
        grid: The grid.
        folder: The study's folder; runs that it holds are finished.
        workers: Number of runs trained at once.

    Raises:
        InputError: The grid cannot be run as written.
    """
    study, plan = Study(folder), grid.plan(guess=True)
    left = runs_to_train(study, study.table(), plan)
    speeds = Speeds()
    _time_models(plan, left, speeds)
    seconds = {}
    for run in left:
        speed = speeds.nearest(run, _EXTRAPOLATED)
        # NaN where no similar speed is known or can be measured.
        seconds[run.run_id] = math.nan if speed is None else _OVERHEAD + run.flops * speed.seconds / speed.flops
    groups = list(dict.fromkeys((run.spec.stage, run.arm) for run in plan))
    lines = []
    for stage, arm in groups:
        runs, open_runs = ([run for run in part if (run.spec.stage, run.arm) == (stage, arm)] for part in (plan, left))
        lines.append([stage, arm, *_cells(runs, open_runs, seconds)])
    lines.append(["all", "", *_cells(plan, left, seconds)])
    heads = ["stage", "arm", "runs", "finished", "left", "training FLOPs left", "time on one worker"]
    return "\n".join([*text_table(heads, lines), "", *_totals(study, plan, left, seconds, workers)])


def _cells(runs: Sequence[PlannedRun], left: Sequence[PlannedRun], seconds: dict[str, float]) -> list[str]:
    counts = [f"{count:,}" for count in (len(runs), len(runs) - len(left), len(left))]
    flops = sum(run.train_flops for run in left)
    return [*counts, f"{flops:.2e}", format_duration(sum(seconds[run.run_id] for run in left))]


def _totals(
    study: Study, plan: Sequence[PlannedRun], left: Sequence[PlannedRun], seconds: dict[str, float], workers: int
) -> list[str]:
    """Lines on time and disk, and on what is guessed."""
    # The workers share the work, but a chain of runs that wait for each other takes as long as it is.
    ends: dict[str, float] = {}
    for run in left:
        ends[run.run_id] = max((ends.get(need, 0.0) for need in run.needs), default=0.0) + seconds[run.run_id]
    total = max(math.fsum(seconds.values()) / workers, *ends.values()) + _START if left else 0.0
    sizes = sorted((run.n_params or 0 for run in left), reverse=True)
    disk = sum(sizes) * _CHECKPOINT + 2 * sum(sizes[:workers]) * _TRAINING_STATE
    existing = next(path for path in (study.path, *study.path.absolute().parents) if path.exists())
    time = format_duration(total) if math.isnan(total) else f"about {format_duration(total)}"
    lines = [
        f"time    {time} with {workers} worker{'s' * (workers != 1)} on this machine",
        f"disk    about {format_bytes(disk)} in {study.path}, {format_bytes(shutil.disk_usage(existing).free)} free",
    ]
    guessed = sorted({run.provisional for run in plan if run.provisional})
    if guessed:
        lines += ["uncertain, since the finished runs and the classes are guessed:", *(f"  {why}" for why in guessed)]
    return lines


def _time_models(plan: Sequence[PlannedRun], left: Sequence[PlannedRun], speeds: Speeds) -> None:
    """Time a step of some models of a plan where this machine has not trained models of the size of the runs left."""
    if all(speeds.nearest(run, _SIMILAR) for run in left):
        return
    plain = [run for run in plan if run.spec.stage == "pretrain" and run.spec.teacher is None]
    sizes = {run.flops_per_example: run for run in plain if speeds.nearest(run, _SIMILAR) is None}
    runs = [sizes[flops] for flops in sorted(sizes)]
    if len(runs) > _TIMED_MODELS:
        runs = [runs[0], runs[len(runs) // 2], runs[-1]]
    if not runs:
        return
    with Process(WORKER, {"OMP_NUM_THREADS": "1"}) as process:
        for run in runs:
            model = {"model": run.model, "n_classes": run.spec.n_classes, "fields": dict(run.fields)}
            seconds = process.ask("time_step", **model, batch=_BATCH)
            speeds.record(run, seconds, _BATCH, _BATCH)
            if seconds > _LONGEST:
                return
