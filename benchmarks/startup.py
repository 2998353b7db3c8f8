"""From the command to the first training step, beside the imports alone, in processes that alternate.

    python benchmarks/startup.py [--pairs 5] [--images 12000]

Makes a folder of small images (100 classes), fills its cache once, then alternates

    python -c "import torch, timm; from transformers import Trainer"
    python -c "import gc; gc.disable(); import torch, timm; from transformers import Trainer"
    python recipes/pretrain.py --source FOLDER ...

each in a fresh process that is watched from outside: its clock and its processor time (from /proc, 10 ms) are read
when it prints its first line to stdout. That is a line after the imports, and the first logged loss of the recipe: one
whole step of 128 images is included. The recipes import without garbage collection, so the imports are timed that way
too. Bytecode is kept in a folder of the benchmark's own, as an installation keeps it beside the modules. On a shared
machine, quote the ratio of processor time.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

RECIPE = Path(__file__).parents[1] / "recipes" / "pretrain.py"
IMPORTS = "import torch, timm; from transformers import Trainer; print('imported')"


def make_folder(root: Path, n_images: int, n_classes: int = 100) -> None:
    """PNGs of 32 px, all different."""
    rng = np.random.default_rng(0)
    for number in range(n_images):
        folder = root / f"class_{number % n_classes:02d}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), np.uint8)).save(folder / f"{number:06d}.png")


def until_first_line(arguments: Sequence[str], environment: dict[str, str], log: Path) -> tuple[float, float]:
    """Seconds by the clock and of processor time until a Python process prints a line; then it is ended.

    Raises:
        RuntimeError: It ended without a line.
    """
    begin = time.perf_counter()
    with log.open("w") as errors:
        process = subprocess.Popen(
            [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=errors, env=environment, text=True
        )
    line = process.stdout.readline()
    clock = time.perf_counter() - begin
    if not line:
        raise RuntimeError(f"no line from {' '.join(arguments)}:\n{log.read_text()}")
    user, system = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    process.kill()
    process.wait()
    return clock, (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Print a table of seconds and their ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--images", type=int, default=12_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        make_folder(Path(scratch) / "images", options.images)
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "", "PYTHONPYCACHEPREFIX": f"{scratch}/bytecode"}
        environment |= {"HF_SCALING_CACHE": f"{scratch}/cache", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
        run = f"{RECIPE} --source {scratch}/images --model vit-30k --teacher none --n_pretrain 10000"
        run += f" --image_size 32 --patch_size 8 --max_steps 1000 --logging_steps 1 --output_dir {scratch}/run"
        log = Path(scratch) / "stderr"
        commands = (["-c", IMPORTS], ["-c", f"import gc; gc.disable(); {IMPORTS}"], run.split())
        # The first round fills the cache, compiles the bytecode, and is not counted.
        rounds = [
            [until_first_line(command, environment, log) for command in commands] for _ in range(options.pairs + 1)
        ][1:]
    print("| | imports, s | without collection, s | to the first step, s | ratio to the imports |")
    print("|---|---|---|---|---|")
    for index, kind in enumerate(("clock", "processor time")):
        for name, summary in (("minimum", min), ("median", statistics.median)):
            imports, uncollected, step = (summary(times[index] for times in row) for row in zip(*rounds))
            print(f"| {kind}, {name} | {imports:.2f} | {uncollected:.2f} | {step:.2f} | {step / imports:.2f} |")


if __name__ == "__main__":
    main()
