"""Time of a run and seed-to-seed variance of its test loss: the grid `demo` against its first version; and averages.

    python benchmarks/demo_noise.py --out runs.jsonl                    # trains what the file lacks, then prints
    python benchmarks/demo_noise.py --out runs.jsonl --report           # prints only

The same plain students on the same images with the same batch and number of steps, ten seeds each, by two recipes in
turn: "old", the pretraining of `demo` at commit 86ba9a9 (patches of 4 px, no smoothing), and "new", that of
recipes/grids/demo.yaml. Time is processor time, on one thread, from the fields to the finished folder; the averages
below are kept in both.

Averages of the last weights (`averaging`, docs/training.md) do not change the training: each run is trained once, and
its last weights and every average are evaluated. Distilled students are trained by the new recipe alone, from a
teacher with its last weights.

Ratios are of the medians of the times, and of the variances over seeds, summed over the sizes of a line. Their
intervals are 95 %, from 4,000 draws of the seeds with replacement, the same in all cells.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml

import hf_scaling.training.run as training_run
from hf_scaling.training import parse_fields, resolve, train
from hf_scaling.training.averaging import Averaging, WeightAverage
from hf_scaling.training.process_cache import ProcessCache
from hf_scaling.training.trainer import RunTrainer, _UpdateAverage

ROOT = Path(__file__).parents[1]
AVERAGES = ["ema:0.98", "tail:0.2", "tail:0.4"]
CELL = ["recipe", "arm", "model", "n_pretrain", "seed"]
#: The pretraining of recipes/grids/demo.yaml at 86ba9a9 without its batch and steps.
OLD = {
    "source": "glyphs",
    "classes": 10,
    "image_size": 16,
    "patch_size": 4,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 0.1,
    "weight_decay": 0.05,
    "save_strategy": "no",
}
#: The same in both: 200 steps on 1,600 images.
SHARED = {
    "per_device_train_batch_size": 64,
    "num_train_epochs": 6,
    "min_steps": 200,
    "per_device_eval_batch_size": 500,
}
QUIET = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no"}


class AveragingTrainer(RunTrainer):
    """The Trainer of a run, with every average of `AVERAGES` beside the last weights."""

    latest: "AveragingTrainer"

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.averages = {
            text: WeightAverage(self.model, Averaging.parse(text), self._statistics_batches) for text in AVERAGES
        }
        for average in self.averages.values():
            self.add_callback(_UpdateAverage(average))
        AveragingTrainer.latest = self


def measure(fields: dict[str, Any], folder: Path, cache: ProcessCache) -> dict[str, Any]:
    """Train one run: its steps, its processor seconds, and its loss with the last weights and with every average."""
    start = time.process_time()
    run = resolve(*parse_fields("pretrain", {**fields, **QUIET, "output_dir": str(folder)}), cache=cache)
    _, row = train(run, folder)
    seconds, losses, trainer = time.process_time() - start, {"none": row["loss"]}, AveragingTrainer.latest
    for text, average in trainer.averages.items():
        with average.applied():
            batch = trainer.args.per_device_eval_batch_size
            losses[text] = run.task.evaluate(trainer.model, trainer.processing_class, run.test, batch).loss
    return {"steps": run.spec.steps, "seconds": seconds, "error": row["error"], **losses}


def train_missing(out: Path, models: Sequence[str], sizes: Sequence[int], n_seeds: int) -> None:
    """Train the cells that the file lacks, both recipes in turn, then the distilled ones; a line is added for each."""
    grid = yaml.safe_load((ROOT / "recipes" / "grids" / "demo.yaml").read_text(encoding="utf-8"))
    new, distillation = grid["pretrain"] | SHARED, grid["arms"][1]
    old = OLD | SHARED
    done = set(read(out)[CELL].itertuples(index=False, name=None)) if out.exists() else set()
    cache = ProcessCache()
    torch.set_num_threads(1)
    training_run.RunTrainer = AveragingTrainer

    def record(cell: tuple[Any, ...], fields: dict[str, Any], folder: Path) -> None:
        if cell in done:
            return
        line = {**dict(zip(CELL, cell)), **measure(fields, folder, cache)}
        with out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(line, flush=True)

    cells = [(seed, n, model) for seed in range(n_seeds) for n in sizes for model in models]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for seed, n, model in cells:
            run = {"model": model, "n_pretrain": n, "seed": seed}
            record(("old", "plain", model, n, seed), {**old, **run}, folder / f"old-{model}-{n}-{seed}")
            record(("new", "plain", model, n, seed), {**new, **run}, folder / f"new-{model}-{n}-{seed}")
        for seed, n, model in cells:
            cell, run = ("new", "distilled", model, n, seed), {"model": model, "n_pretrain": n, "seed": seed}
            teacher = folder / f"teacher-{n}-{seed}"
            if cell not in done and not teacher.exists():
                measure({**new, **run, "model": distillation["teacher"]}, teacher, cache)
            taught = distillation | {"teacher": str(teacher)}
            record(cell, {**new, **run, **taught}, folder / f"distilled-{model}-{n}-{seed}")


def read(out: Path) -> pd.DataFrame:
    """The lines of the file."""
    return pd.DataFrame([json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()])


def by_seed(rows: pd.DataFrame, column: str) -> np.ndarray:
    """An array, a line a cell of model and n_pretrain and a column a seed."""
    return rows.pivot_table(index=["model", "n_pretrain"], columns="seed", values=column).dropna(axis=1).to_numpy()


def interval(statistic: Callable[[np.ndarray], float], n_seeds: int) -> str:
    """A statistic of all seeds, and its interval over draws of them."""
    draws = np.random.default_rng(0).integers(n_seeds, size=(4000, n_seeds))
    # A draw of a single seed has no variance.
    values = [statistic(drawn) for drawn in draws if len(set(drawn)) > 2]
    low, high = np.quantile(values, [0.025, 0.975])
    return f"{statistic(np.arange(n_seeds)):.3f} [{low:.3f}, {high:.3f}]"


def variance_ratio(above: np.ndarray, below: np.ndarray) -> str:
    """The sum of the variances over seeds of some cells over that of others, with its interval."""
    return interval(
        lambda seeds: above[:, seeds].var(axis=1, ddof=1).sum() / below[:, seeds].var(axis=1, ddof=1).sum(),
        above.shape[1],
    )


def time_ratio(above: np.ndarray, below: np.ndarray) -> str:
    """The mean over cells of the ratio of the medians over seeds, with its interval."""
    return interval(
        lambda seeds: float(np.mean(np.median(above[:, seeds], axis=1) / np.median(below[:, seeds], axis=1))),
        above.shape[1],
    )


def report(rows: pd.DataFrame) -> None:
    """Print both comparisons."""
    plain = rows[rows["arm"] == "plain"]
    pieces = [("all", plain), *((name, of_cell) for name, of_cell in plain.groupby(["model", "n_pretrain"]))]
    print(
        "new / old: plain students                seconds (medians)   loss (means)      time ratio and variance ratio"
    )
    for name, piece in pieces:
        new, old = (piece[piece["recipe"] == recipe] for recipe in ("new", "old"))
        seconds, losses = ([by_seed(part, column) for part in (new, old)] for column in ("seconds", "none"))
        relative = variance_ratio(*(np.log(array) for array in losses))
        print(
            f"{name!s:24} seeds {losses[0].shape[1]:3}  {np.median(seconds[0]):6.2f} {np.median(seconds[1]):6.2f}"
            f"  {losses[0].mean():.3f} {losses[1].mean():.3f}  time {time_ratio(*seconds)}"
            f"  variance {variance_ratio(*losses)}, of log loss {relative}"
        )
    print("\naverage / last weights: new recipe       variance ratio; mean difference of the loss")
    new = rows[rows["recipe"] == "new"]
    for (arm, model), piece in [
        *new.groupby(["arm", "model"]),
        *(((arm, "all"), part) for arm, part in new.groupby("arm")),
    ]:
        last = by_seed(piece, "none")
        for text in AVERAGES:
            average = by_seed(piece, text)
            difference = (average - last).mean(axis=0)
            mean = interval(lambda seeds, values=difference: float(values[seeds].mean()), len(difference))
            print(f"{arm:10} {model:9} {text:9} variance {variance_ratio(average, last)}  loss {mean}")


def main() -> None:
    """Train what is missing and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="file of the runs, a JSON line each")
    parser.add_argument("--models", nargs="+", default=["vit-50k", "vit-100k"])
    parser.add_argument("--n-pretrain", nargs="+", type=int, default=[1600])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--report", action="store_true", help="train nothing")
    arguments = parser.parse_args()
    if not arguments.report:
        train_missing(arguments.out, arguments.models, arguments.n_pretrain, arguments.seeds)
    report(read(arguments.out))


if __name__ == "__main__":
    main()
