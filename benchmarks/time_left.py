"""The time left that `hf-scaling run` shows, over the time that was left in truth, from 10 % of the time on.

    python benchmarks/time_left.py [STUDY_OR_TABLE ...] [--workers 2]

Replays recorded seconds: of the Fashion-MNIST studies in tests/data, and of any finished study that is given. The
demo's plan is replayed with simulated seconds: a fixed part, a part for each step, and operations at a speed that
grows with the model, times noise; once more on a machine that becomes twice as slow half way, and once with earlier
speeds, measured when the machine was busy with other work and four times as slow. Else no earlier speed is used.
Prints the lowest and the highest ratio, and the share of looks within a factor of 1.5.
"""

import argparse
import dataclasses
import heapq
import math
from pathlib import Path

import numpy as np

from hf_scaling import Grid, ResultsTable
from hf_scaling.runner.time_left import TimeLeft, Work

ROOT = Path(__file__).resolve().parent.parent
FACTOR = 1.5


def replay(plan: list[Work], seconds: dict[str, float], workers: int) -> list[tuple[float, float]]:
    """(share of the time elapsed, estimate over truth) at every end of a run, as the runner schedules the runs."""
    dependants = {work.run_id: 0 for work in plan}
    for work in reversed(plan):
        for need in work.needs:
            dependants[need] += dependants[work.run_id] + 1
    estimate, now, looks = TimeLeft(plan, workers), 0.0, []
    open_runs = {work.run_id: work for work in plan}
    running: dict[str, float] = {}
    ends: list[tuple[float, str]] = []
    while open_runs:
        ready = [
            work
            for work in open_runs.values()
            if work.run_id not in running and not any(need in open_runs for need in work.needs)
        ]
        ready.sort(key=lambda work: (dependants[work.run_id], work.flops))
        while ready and len(running) < workers:
            work = ready.pop()
            running[work.run_id] = now
            heapq.heappush(ends, (now + seconds[work.run_id], work.run_id))
        now, run_id = heapq.heappop(ends)
        estimate.finish(run_id, now - running.pop(run_id))
        del open_runs[run_id]
        since = {other: now - start for other, start in running.items()}
        looks.append((now, estimate.seconds(list(open_runs), since)))
    total = now
    return [(at / total, left / (total - at)) for at, left in looks if total - at > 0.01 * total]


def of_table(where: Path) -> tuple[list[Work], dict[str, float]]:
    """The runs of a finished study with their recorded seconds."""
    rows = ResultsTable.load(where).rows()
    ids = {row["run_id"] for row in rows}
    plan, seconds = [], {}
    for row in sorted(rows, key=lambda row: (row["stage"] == "finetune", row["arm"] == "distilled")):
        steps = row["samples_seen"] // 128
        kinds = ((row["stage"],), (row["stage"], row["model"]), (row["stage"], row["model"], row["arm"]))
        needs = tuple(need for need in (row["teacher"], row["parent"]) if need in ids)
        plan.append(Work(row["run_id"], kinds, steps, row["train_flops"] + (row["teacher_flops"] or 0.0), needs))
        # A run also evaluates and writes its checkpoint.
        seconds[row["run_id"]] = row["seconds"] + 0.7
    return plan, seconds


def of_demo(seed: int, slows: bool = False, expected: float | None = None) -> tuple[list[Work], dict[str, float]]:
    """The demo's plan with simulated seconds; `expected`: how many times as long earlier speeds say."""
    plan = [Work.of(run) for run in Grid.load("demo").plan(guess=True)]
    generator = np.random.default_rng(seed)
    seconds = {}
    for number, work in enumerate(plan):
        pace = 1.2e10 * (1 + math.log2(1 + work.flops / max(work.steps, 1) / 1e9))
        noise = math.exp(0.15 * generator.standard_normal())
        slow = 2.0 if slows and number > len(plan) / 2 else 1.0
        seconds[work.run_id] = (1.1 + 3e-3 * work.steps + work.flops / pace) * noise * slow
    if expected is not None:
        plan = [dataclasses.replace(work, expected=expected * seconds[work.run_id]) for work in plan]
    return plan, seconds


def report(name: str, plan: list[Work], seconds: dict[str, float], workers: int) -> None:
    """Print one row of the table."""
    looks = [(share, ratio) for share, ratio in replay(plan, seconds, workers) if share >= 0.1]
    ratios = [ratio for _, ratio in looks]
    within = np.mean([1 / FACTOR <= ratio <= FACTOR for ratio in ratios])
    # The end is a race of the last runs: a few seconds.
    early = [ratio for share, ratio in looks if share <= 0.9]
    cells = [name, f"{len(plan)}", f"{min(ratios):.2f} to {max(ratios):.2f}", f"{min(early):.2f} to {max(early):.2f}"]
    print(f"| {' | '.join([*cells, f'{100 * within:.0f} %'])} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="*", type=Path, help="finished studies or tables")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    print("| study | runs | estimate over truth from 10 % on | from 10 to 90 % | within a factor of 1.5 |")
    print("|---|---|---|---|---|")
    tables = [ROOT / f"tests/data/{name}/results.parquet" for name in ("fashion_mnist", "fashion_mnist_half_steps")]
    for where in [*tables, *arguments.results]:
        name = where.parent.name if where.suffix else where.name
        report(name, *of_table(where), arguments.workers)
    for seed in range(3):
        report(f"demo, simulated ({seed})", *of_demo(seed), arguments.workers)
    report("demo, twice as slow from half way", *of_demo(0, slows=True), arguments.workers)
    report("demo, four times as fast as before", *of_demo(0, expected=4.0), arguments.workers)


if __name__ == "__main__":
    main()
