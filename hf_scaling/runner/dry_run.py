"""`--dry-run`: which runs a grid has, how many are finished, and what the rest costs."""

import contextlib
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.processes import Process
from hf_scaling.runner.engines import WORKER
from hf_scaling.runner.loop import runs_to_train, select_runs
from hf_scaling.runner.machine import GpuRate, Speeds
from hf_scaling.runner.study_folder import Study
from hf_scaling.runner.tune import Tuning, applied, tuning_record
from hf_scaling.text import format_bytes, format_duration, format_percent, text_table

_OVERHEAD = 0.7  # seconds of a run that are neither training nor evaluation
_START = 10.0  # seconds until the workers are ready
_HOUR = 3600.0  # seconds
_CHECKPOINT = 4  # bytes per parameter
_TRAINING_STATE = 3 * _CHECKPOINT  # weights and the two moments of AdamW; two states are kept during a run
_SIMILAR = 2.0  # factor in FLOPs per example within which no step needs to be timed
_EXTRAPOLATED = 100.0  # factor in FLOPs per example beyond which a speed says nothing
_TIMED_MODELS = 3  # the most models of which a step is timed
_BATCH = 32  # examples of a timed step
_LONGEST = 8.0  # seconds of a timed step; larger models are extrapolated from it


def estimate(
    grid: Grid,
    folder: str | Path,
    workers: int,
    only: Mapping[str, Any] | None = None,
    gpu: GpuRate | None = None,
) -> dict[str, Any]:
    """What a grid would train: runs, FLOPs, time and disk.

    The time follows from what this machine has trained before (`Speeds`), or from a step of some of the models that is
    timed now; with `gpu`, from the counted operations of training and of the last evaluation. Evaluations of a
    validation part during training are not counted.

    Args:
        grid: The grid.
        folder: The study's folder; runs that it holds are finished.
        workers: Number of runs trained at once.
        only: Count only the runs with these values, and those they need (`run_grid`).
        gpu: A kind of GPU and the share of its peak that is reached: the times are of such GPUs, one a worker.

    Returns:
        study, the folder; workers; runs, finished and left, numbers of runs; train_flops and worker_seconds of those
        left; groups, the same by stage and arm; class_subsets, random subsets of the upstream classes; seconds with
        the workers; disk_bytes needed, free_bytes; tuning_runs and tuning_seconds, where `tune` has not been done yet;
        uncertain, what is guessed of the runs; gpu, utilisation and gpu_hours, with `gpu`. Times are NaN where no
        similar speed is known or can be measured.

    Raises:
        InputError: The grid cannot be run as written, or the GPU does not have its precision.
    """
    study, whole = Study(folder), grid.plan(guess=True)
    trials = None
    if "tune" in grid.content:
        record = tuning_record(study.path, grid)
        if record is None:
            trials = Tuning.of(grid, whole)
        else:
            grid = applied(grid, record)
            whole = grid.plan(guess=True)
    plan = select_runs(whole, only)
    left = runs_to_train(study, study.table(), plan)
    if gpu is None:
        seconds = seconds_here(plan, left)
    else:
        seconds = {run.run_id: _OVERHEAD + gpu.seconds(run) / run.processes for run in left}
    tuning = {}
    if trials is not None:
        tried = [trials.runs[model, n] for model in trials.models for n in trials.levels]
        times = seconds_here(whole, tried) if gpu is None else {run.run_id: gpu.seconds(run) for run in tried}
        n_trials, cost = trials.cost(lambda run: times[run.run_id])
        tuning = {"tuning_runs": n_trials, "tuning_seconds": cost / workers}
    groups = []
    for stage, arm in dict.fromkeys((run.spec.stage, run.arm) for run in plan):
        of_group = [[run for run in runs if (run.spec.stage, run.arm) == (stage, arm)] for runs in (plan, left)]
        groups.append({"stage": stage, "arm": arm, **_counts(*of_group, seconds)})
    # The workers share the work, but a chain of runs that wait for each other takes as long as it is.
    ends: dict[str, float] = {}
    for run in left:
        ends[run.run_id] = max((ends.get(need, 0.0) for need in run.needs), default=0.0) + seconds[run.run_id]
    sizes = sorted((run.n_params or 0 for run in left), reverse=True)
    existing = next(path for path in (study.path, *study.path.absolute().parents) if path.exists())
    return {
        "study": str(study.path),
        "workers": workers,
        **_counts(plan, left, seconds),
        "groups": groups,
        "class_subsets": len({run.class_subset for run in plan} - {None}),
        "seconds": max(math.fsum(seconds.values()) / workers, *ends.values()) + _START if left else 0.0,
        "disk_bytes": sum(sizes) * _CHECKPOINT + 2 * sum(sizes[:workers]) * _TRAINING_STATE,
        "free_bytes": shutil.disk_usage(existing).free,
        **tuning,
        "uncertain": sorted({run.provisional for run in plan if run.provisional}),
    } | (
        {}
        if gpu is None
        else {"gpu": gpu.name, "utilisation": gpu.utilisation, "gpu_hours": math.fsum(map(gpu.seconds, left)) / _HOUR}
    )


def seconds_here(
    plan: Sequence[PlannedRun], left: Sequence[PlannedRun], process: Process | None = None
) -> dict[str, float]:
    """Seconds of runs on this machine, by what it has trained before or by steps that are timed now.

    Args:
        plan: Runs of the models that may be timed.
        left: The runs that are asked about.
        process: A worker that times steps; None starts one where it is needed.

    Returns:
        run_id to seconds; NaN where no similar speed is known.
    """
    speeds, seconds, timed = Speeds(), {}, []
    if not all(speeds.nearest(run, _SIMILAR) for run in left):
        # This machine has not trained models of the size of all runs left: a step of some of the plan's is timed.
        plain = [run for run in plan if run.spec.stage == "pretrain" and run.spec.teacher is None]
        sizes = {run.flops_per_example: run for run in plain if speeds.nearest(run, _SIMILAR) is None}
        timed = [sizes[flops] for flops in sorted(sizes)]
        if len(timed) > _TIMED_MODELS:
            timed = [timed[0], timed[len(timed) // 2], timed[-1]]
    with contextlib.ExitStack() as stack:
        for run in timed:
            process = process or stack.enter_context(Process(WORKER, {"OMP_NUM_THREADS": "1"}))
            model = {"model": run.model, "n_classes": run.spec.n_classes, "fields": dict(run.fields)}
            of_step = process.ask("time_step", **model, batch=_BATCH)
            speeds.record(run, of_step, _BATCH, _BATCH)
            if of_step > _LONGEST:
                break
    for run in left:
        speed = speeds.nearest(run, _EXTRAPOLATED)
        seconds[run.run_id] = math.nan if speed is None else _OVERHEAD + run.flops * speed.seconds / speed.flops
    return seconds


def _counts(runs: Sequence[PlannedRun], left: Sequence[PlannedRun], seconds: Mapping[str, float]) -> dict[str, Any]:
    flops, time = sum(run.train_flops for run in left), sum(seconds[run.run_id] for run in left)
    counts = {"runs": len(runs), "finished": len(runs) - len(left), "left": len(left)}
    return counts | {"train_flops": flops, "worker_seconds": time}


def describe(content: Mapping[str, Any]) -> str:
    """The result of `estimate` as text."""
    workers = content["workers"]
    heads = ["stage", "arm", "runs", "finished", "left", "training FLOPs left", "time on one worker"]
    lines = [
        [
            *(group["stage"], group["arm"]),
            *(f"{group[name]:,}" for name in ("runs", "finished", "left")),
            *(f"{group['train_flops']:.2e}", format_duration(group["worker_seconds"])),
        ]
        for group in [*content["groups"], {**content, "stage": "all", "arm": ""}]
    ]
    time = format_duration(content["seconds"])
    about = time if math.isnan(content["seconds"]) else f"about {time}"
    disk, free = (format_bytes(content[name]) for name in ("disk_bytes", "free_bytes"))
    where = f"GPU{'s' * (workers != 1)}, {content['gpu']}" if "gpu_hours" in content else "this machine"
    lines_below = [
        f"time    {about} with {workers} worker{'s' * (workers != 1)} on {where}",
        f"disk    about {disk} in {content['study']}, {free} free",
    ]
    if content["class_subsets"]:
        lines_below.insert(0, f"classes {content['class_subsets']:,} random subsets of the upstream classes")
    if "tuning_runs" in content:
        tuning = format_duration(content["tuning_seconds"])
        lines_below.insert(
            0, f"tune    first {content['tuning_runs']} short runs choose what `tune` asks for, about {tuning}"
        )
    if "gpu_hours" in content:
        share = format_percent(content["utilisation"], 3)
        hours = f"{content['gpu_hours']:.3g} hours of one {content['gpu']} at {share} of its peak"
        lines_below.insert(0, f"GPU     {hours}, by counted operations")
    if content["uncertain"]:
        lines_below.append("uncertain, since the finished runs and the classes are guessed:")
    return "\n".join([*text_table(heads, lines), "", *lines_below, *(f"  {why}" for why in content["uncertain"])])
