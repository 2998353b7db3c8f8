"""Processor time of studies and recipes at two commits, in turn: is this tree faster than an older one?

    git worktree add OLD 86ba9a9        # and an environment whose `hf_scaling` is OLD
    python benchmarks/time_against.py OLD OLD_ENVIRONMENT/bin/python [--repeats 3] [--what grid recipe start]

"grid": six runs as in the first study of 86ba9a9 (vit-30k, both arms, 200 characters, 400 steps; 20 and 500 digits),
by `run` with one worker. "recipe": `accelerate launch recipes/pretrain.py` on 200 characters, 100 steps, with its
teacher. "start": `run --dry-run`. One thread; a cache for each tree, filled before the first time that counts.
Processor time (user and system, of all processes) leaves out waits for other work on the machine, but such work makes
it larger too: the two trees take turns, and the ratio is of their medians. About ten minutes of one core.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[1]
COMMON = {
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
    "per_device_train_batch_size": 32,
    "per_device_eval_batch_size": 250,
    "save_strategy": "no",
}
SOURCE = {"source": "glyphs", "classes": 10, "image_size": 16, "patch_size": 4}
GRID = {
    "models": ["vit-30k"],
    "n_pretrain": [200],
    "arms": ["plain", {"teacher": "vit-30k", "alpha": 0.5, "temperature": 2.0}],
    "downstream": ["digits"],
    "n_finetune": [20, 500],
    "seeds": [0],
    "pretrain": {**COMMON, **SOURCE, "learning_rate": "2e-3", "num_train_epochs": 1, "min_steps": 400},
    "finetune": {**COMMON, "learning_rate": "3e-3", "num_train_epochs": 10, "min_steps": 150},
}


def command(what: str, python: str, tree: Path, grid: Path, out: Path) -> list[str]:
    """The command of one timing."""
    scaling = [python, "-c", "import sys; from hf_scaling.cli import main; sys.exit(main())", "run", str(grid)]
    return {
        "start": [*scaling, "--dry-run"],
        "grid": [*scaling, "--out", str(out), "--workers", "1"],
        "recipe": [
            python,
            "-m",
            "accelerate.commands.launch",
            "--num_processes",
            "1",
            str(tree / "recipes" / "pretrain.py"),
            "--n_pretrain",
            "200",
            "--num_train_epochs",
            "1",
            "--min_steps",
            "100",
            "--output_dir",
            str(out),
        ],
    }[what]


def processor_seconds(arguments: list[str], tree: Path, cache: Path) -> float:
    """User and system seconds of a command and of the processes that it waits for."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_SCALING_CACHE": str(cache)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(arguments, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}: {done.stderr[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Time both trees in turn, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("old", type=Path, help="worktree of the older commit")
    parser.add_argument("python", help="Python of an environment that imports hf_scaling from it")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--what", nargs="+", default=["start", "grid", "recipe"], choices=["start", "grid", "recipe"])
    arguments = parser.parse_args()
    trees = {"old": (arguments.old, arguments.python), "new": (ROOT, sys.executable)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "grid.yaml").write_text(yaml.safe_dump(GRID))
        for what in arguments.what:
            seconds: dict[str, list[float]] = {"old": [], "new": []}
            for number in range(arguments.repeats + (what == "start")):
                for which, (tree, python) in trees.items():
                    out = folder / "out"
                    shutil.rmtree(out, ignore_errors=True)
                    taken = processor_seconds(
                        command(what, python, tree.resolve(), folder / "grid.yaml", out), tree, folder / which
                    )
                    # The first start fills the cache.
                    if what != "start" or number:
                        seconds[which].append(taken)
            middle = {which: statistics.median(values) for which, values in seconds.items()}
            listed = {which: " ".join(f"{value:.1f}" for value in values) for which, values in seconds.items()}
            ratio = middle["new"] / middle["old"]
            print(f"{what}: old {listed['old']} s, new {listed['new']} s: ratio {ratio:.2f}", flush=True)


if __name__ == "__main__":
    main()
