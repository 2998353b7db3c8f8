"""Kill -9 at random moments: does a study end with the table of an undisturbed one?

    python benchmarks/runner_kills.py --kills 20

A grid of 24 tiny runs is trained once undisturbed. Then it is trained again while the runner, or one of its workers,
is killed at random moments, and at the end by two runners at once; a study that ends before the last kill is followed
by another. Printed: what was killed, and whether each table equals the undisturbed one row by row (in all columns but
seconds, device, versions, created_at), none missing, none duplicated. Exit status 1 where they differ.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import yaml

from hf_scaling import ResultsTable
from hf_scaling.results import same_values

SHORT = {
    "max_steps": 12,
    "per_device_train_batch_size": 16,
    "learning_rate": 1.0e-3,
    "save_steps": 4,
    "per_device_eval_batch_size": 250,
}
GRID = {
    "models": ["vit-30k", "vit-50k"],
    "n_pretrain": [50, 100],
    "arms": ["plain", {"teacher": "vit-30k", "alpha": 0.5}],
    "downstream": ["digits"],
    "n_finetune": [20, 40],
    "pretrain": {"source": "digits", "image_size": 8, "patch_size": 4, **SHORT},
    "finetune": SHORT,
}


def main() -> int:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        grid = Path(folder) / "grid.yaml"
        grid.write_text(yaml.safe_dump(GRID))
        began = time.monotonic()
        assert start(grid, Path(folder) / "undisturbed").wait() == 0
        duration = time.monotonic() - began
        print(f"undisturbed: {duration:.0f} s", flush=True)
        left, draw, worst = arguments.kills, random.Random(arguments.seed), 0
        while left:
            out = Path(folder) / f"killed-{left}"
            left = disturb(grid, out, left, draw, duration)
            worst = max(worst, compare(Path(folder) / "undisturbed", out))
        return worst


def start(grid: Path, out: Path) -> subprocess.Popen:
    """A runner with two workers."""
    command = [sys.executable, "-m", "hf_scaling", "run", str(grid), "--out", str(out), "--workers", "2"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def disturb(grid: Path, out: Path, left: int, draw: random.Random, duration: float) -> int:
    """Train the study under up to `left` kills, then finish it with two runners; returns the kills still left."""
    runner = start(grid, out)
    while left:
        rows = len(list(out.glob("results/*.parquet")))
        # Half of the moments anywhere, the start included; half just after a run has ended.
        if draw.random() < 0.5:
            time.sleep(draw.uniform(0, duration / 2))
        else:
            wait_for_row(out, rows, runner)
            time.sleep(draw.uniform(0, 1))
        if runner.poll() == 0:
            break
        try:
            victim = kill(runner, draw)
        except psutil.NoSuchProcess:
            continue  # it has just ended by itself
        left -= 1
        print(f"{left} kills left: {victim}, {len(list(out.glob('results/*.parquet')))} rows", flush=True)
        # Without the child that resolves the grid the runner ends too.
        time.sleep(0.5)
        if runner.poll() is not None:
            runner = start(grid, out)
    runners = [runner, start(grid, out)]
    assert [process.wait() for process in runners] == [0, 0]
    return left


def kill(runner: subprocess.Popen, draw: random.Random) -> str:
    """Kill the runner or one of its children; returns which."""
    process = psutil.Process(runner.pid)
    children = process.children() if draw.random() < 0.5 else []
    victim = draw.choice(children) if children else process
    victim.kill()
    runner.wait() if victim is process else None
    return "a child" if children else "the runner"


def wait_for_row(out: Path, rows: int, runner: subprocess.Popen) -> None:
    """Wait until the study has one row more, or its runner has ended."""
    while runner.poll() is None and len(list(out.glob("results/*.parquet"))) <= rows:
        time.sleep(0.01)


def compare(undisturbed: Path, killed: Path) -> int:
    """Print whether the two studies are the same; 0 if so."""
    one, other = ({row["run_id"]: row for row in ResultsTable.load(path).rows()} for path in (undisturbed, killed))
    different = [run_id for run_id in one if run_id not in other or not same_values(one[run_id], other[run_id])]
    extra = sorted(set(other) - set(one))
    left = sorted(str(path.relative_to(killed)) for path in killed.glob("runs/*/checkpoints"))
    files = len(list(killed.glob("results/*.parquet")))
    print(
        f"{len(one)} rows, {files} files; different or missing: {different}; unexpected: {extra}; left behind: {left}"
    )
    return int(bool(different or extra or left or files != len(one)))


if __name__ == "__main__":
    sys.exit(main())
