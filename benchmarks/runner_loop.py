"""The runner against a loop that calls `python recipes/*.py` once per run.

    python benchmarks/runner_loop.py recipes/grids/demo.yaml --workers 2 [--sample 12]

Three times are printed and compared:
- the grid by the runner, from start to end;
- the loop that reuses checkpoints (each pretraining and each teacher is trained once), one call after the other with
  all cores, as PyTorch uses them by default. With --sample only some runs of each kind are called, and their mean is
  used for the rest of the kind;
- the loop that pretrains again for each fine-tuning, computed from the same calls.

And the lower bound of any runner: the sum of the training times (the rows' `seconds`) and evaluation times (one
evaluation of each model and set, timed in a process that has loaded both) over the workers.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import yaml

from hf_scaling import Grid
from hf_scaling.grid import PlannedRun
from hf_scaling.runner.study_folder import Study

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the grid, then the loop; compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample", type=int, help="calls of the loop in total (default: every run)")
    arguments = parser.parse_args()
    plan = Grid.load(arguments.grid).plan(fill=True)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder) / "study")
        runner = time_runner(arguments.grid, study.path, arguments.workers)
        seconds = sum(row["seconds"] for row in study.table().rows()) + evaluation_seconds(study, plan)
        means = time_calls(study, plan, arguments.sample, Path(folder))
    reused = sum(means[kind_of(run)] for run in plan)
    runs = {run.run_id: run for run in plan}
    tuned = [run for run in plan if run.spec.stage == "finetune"]
    repeated = sum(means[kind_of(run)] + means[kind_of(runs[run.parent])] for run in tuned if run.parent)
    bound = seconds / arguments.workers
    print(f"runner: {runner:.0f} s for {len(plan)} runs with {arguments.workers} workers")
    print(f"training and evaluation over the workers: {bound:.0f} s; the runner: {runner / bound:.2f} times")
    print(f"loop that reuses pretrainings: {reused:.0f} s, {reused / runner:.1f} times the runner")
    print(f"loop that pretrains again: {repeated:.0f} s, {repeated / runner:.1f} times the runner")


def time_runner(grid: str, out: Path, workers: int) -> float:
    """Seconds of the command, from its start to its end."""
    command = [sys.executable, "-m", "hf_scaling", "run", grid, "--out", str(out), "--workers", str(workers)]
    start = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - start


def evaluation_seconds(study: Study, plan: Sequence[PlannedRun]) -> float:
    """Seconds of all evaluations, from one timed evaluation of each model on each set, teachers included."""
    from hf_scaling.training import ProcessCache, ResolvedRun

    cache = ProcessCache()
    seconds: dict[tuple, float] = {}
    keys = [(run.model, run.spec.stage, run.spec.teacher is not None) for run in plan]
    for run, key in zip(plan, keys):
        if key in seconds:
            continue
        resolved = ResolvedRun.from_dict(run.to_dict(), study.run_folder, cache)
        task, source, args = resolved.task, resolved.source, resolved.args
        model = task.load_model(study.run_folder(run.run_id))
        processor = task.processor(model, resolved.inputs)
        teacher = (lambda model=model, **batch: model(**batch).logits) if run.spec.teacher else None
        times = []
        for _ in range(2):
            start = time.monotonic()
            task.evaluate(model, processor, source.test, args.per_device_eval_batch_size, teacher)
            times.append(time.monotonic() - start)
        seconds[key] = min(times)
    return sum(seconds[key] for key in keys)


def kind_of(run: PlannedRun) -> tuple:
    """What runs that take the same time share: stage, model, arm and steps."""
    return run.spec.stage, run.model, run.arm, run.spec.steps


def time_calls(study: Study, plan: Sequence[PlannedRun], sample: int | None, folder: Path) -> dict[tuple, float]:
    """Mean seconds of a call of each kind; the study's checkpoints are used for those that the loop would train."""
    kinds = defaultdict(list)
    for run in plan:
        kinds[kind_of(run)].append(run)
    most = None if sample is None else max(1, sample // len(kinds))
    return {
        kind: statistics.fmean(time_call(study, run, folder) for run in runs[:most]) for kind, runs in kinds.items()
    }


def time_call(study: Study, run: PlannedRun, folder: Path) -> float:
    """Seconds of one `python recipes/*.py` call."""
    needs = {
        "teacher": run.teacher,
        {"pretrain": "previous_rung", "finetune": "checkpoint"}[run.spec.stage]: run.parent,
    }
    folders = {name: str(study.run_folder(run_id)) for name, run_id in needs.items() if run_id is not None}
    values = {**run.fields, **folders, "output_dir": str(folder / "loop" / run.run_id)}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({name: value for name, value in values.items() if value is not None}))
    command = [sys.executable, str(ROOT / "recipes" / f"{run.spec.stage}.py"), "--config", str(config)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    start = time.monotonic()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - start


if __name__ == "__main__":
    main()
