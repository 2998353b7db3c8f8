"""The runner against the loop that a user would write: one `python recipes/*.py` call a run.

    python benchmarks/runner_loop.py recipes/grids/demo.yaml --workers 2 [--sample 12]

Three times are printed and compared:
- the grid by the runner, start to end;
- the loop that hands checkpoints on (each pretraining and each teacher is made once), one call after the other with
  all cores, as PyTorch does by itself. With --sample only some runs of each kind are called, and their mean stands for
  the rest of the kind;
- the loop that pretrains anew for each fine-tuning: worked out from the same calls.

And the sum of the runs' warm training times (the rows' `seconds`) and evaluation times (one evaluation of each model
and set, timed in a warm process), over the workers: what no runner could go below.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import yaml

from hf_scaling import Grid
from hf_scaling.runner.study_folder import Study

ROOT = Path(__file__).parents[1]


def main() -> None:
    """Run the grid, then the loop; compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("grid")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sample", type=int, help="calls of the loop in all (default: every run)")
    arguments = parser.parse_args()
    grid = Grid.load(arguments.grid)
    plan = grid.plan(fill=True)
    with tempfile.TemporaryDirectory() as folder:
        study = Study(Path(folder) / "study")
        whole = time_runner(arguments.grid, study.path, arguments.workers)
        warm = sum(row["seconds"] for row in study.table().rows()) + evaluation_seconds(study, plan)
        means = time_calls(study, plan, arguments.sample, Path(folder))
    reused = sum(means[kind(run)] for run in plan)
    anew = sum(means[kind(run)] for run in plan if run.spec.stage == "finetune")
    upstream = {run.run_id: run for run in plan}
    anew += sum(means[kind(upstream[run.parent])] for run in plan if run.parent)
    ideal = warm / arguments.workers
    print(f"runner: {whole:.0f} s for {len(plan)} runs with {arguments.workers} workers")
    print(f"warm training and evaluation over the workers: {ideal:.0f} s; the runner: {whole / ideal:.2f} times")
    print(f"loop that reuses pretrainings: {reused:.0f} s, {reused / whole:.1f} times the runner")
    print(f"loop that pretrains anew: {anew:.0f} s, {anew / whole:.1f} times the runner")


def time_runner(grid: str, out: Path, workers: int) -> float:
    """Seconds of the command, from its start to its end."""
    code = "from hf_scaling.cli import main; main()"
    began = time.monotonic()
    command = [sys.executable, "-c", code, "run", grid, "--out", str(out), "--workers", str(workers)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def evaluation_seconds(study: Study, plan) -> float:
    """Seconds of all evaluations, from one warm evaluation of each model on each set, teachers included."""
    from hf_scaling.training import ProcessCache, ResolvedRun

    cache, found = ProcessCache(), {}
    for run in plan:
        key = (run.model, run.spec.stage, run.arm == "distilled" and run.spec.stage == "pretrain")
        if key not in found:
            resolved = ResolvedRun.from_dict(run.to_dict(), study.run_folder, cache)
            task, source, args = resolved.task, resolved.source, resolved.args
            model = task.load_model(study.run_folder(run.run_id))
            processor = task.processor(model, resolved.inputs)
            teacher = (lambda model=model, **batch: model(**batch).logits) if key[2] else None
            times = []
            for _ in range(2):
                began = time.monotonic()
                task.evaluate(model, processor, source.test, args.per_device_eval_batch_size, teacher)
                times.append(time.monotonic() - began)
            found[key] = min(times)
    return sum(
        found[(run.model, run.spec.stage, run.arm == "distilled" and run.spec.stage == "pretrain")] for run in plan
    )


def kind(run) -> tuple:
    """Runs of one kind take one time: the same model, stage, arm and steps."""
    return run.spec.stage, run.model, run.arm, run.spec.steps


def time_calls(study: Study, plan, sample: int | None, folder: Path) -> dict[tuple, float]:
    """Mean seconds of a call of each kind; the study's checkpoints stand in for those the loop would have made."""
    kinds = defaultdict(list)
    for run in plan:
        kinds[kind(run)].append(run)
    each = None if sample is None else max(1, sample // len(kinds))
    return {
        name: statistics.fmean(time_call(study, run, folder) for run in runs[:each]) for name, runs in kinds.items()
    }


def time_call(study: Study, run, folder: Path) -> float:
    """Seconds of one `python recipes/*.py` call."""
    needed = {"teacher": run.teacher, {"pretrain": "trunk", "finetune": "checkpoint"}[run.spec.stage]: run.parent}
    folders = {name: str(study.run_folder(run_id)) for name, run_id in needed.items() if run_id is not None}
    told = {**run.fields, **folders, "output_dir": str(folder / "loop" / run.run_id)}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({name: value for name, value in told.items() if value is not None}))
    command = [sys.executable, str(ROOT / "recipes" / f"{run.spec.stage}.py"), "--config", str(config)]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    began = time.monotonic()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.monotonic() - began


if __name__ == "__main__":
    main()
