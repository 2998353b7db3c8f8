"""Class influence on images: do ten upstream classes that are the digits help a set of handwritten digits more than
ten classes of noise, and does leaving the ten most helpful ones out move the error as their influences predict?

    python benchmarks/influence_images.py OUT [--studies 1] [--models 60] [--labels 500] [--seed 0] [--workers 1]
        [--check]

Writes a folder of 20 upstream classes (rendered digits, and smooth noise that differs from class to class), trains
--models students of random halves of them (the grid key class_subsets), fine-tunes each on `digits`, and prints, for
each study (another seed of subsets, weights and images): the contrast of the two groups' mean influences with a 95 %
interval over resampled models, the standard deviation of the accuracy, and the number of models at which the power
would be 80 %. --check trains five seeds without the ten most helpful and without ten random classes.
"""

import argparse
import json
import math
import resource
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from PIL import Image

from hf_scaling import ResultsTable, class_influence, run_grid
from hf_scaling.data import open_source

SIDE, PER_CLASS, DIGITS = 16, {"train": 120, "test": 10}, [str(digit) for digit in range(10)]
NOISE = [f"noise-{number}" for number in range(10)]
SHORT = {"warmup_steps": 0.1, "weight_decay": 0.05, "per_device_train_batch_size": 32, "save_strategy": "no"}
GRID = {
    "models": ["vit-30k"],
    "n_pretrain": [1000],
    "downstream": ["digits"],
    "n_finetune": [100],
    "pretrain": {"image_size": SIDE, "patch_size": 8, "learning_rate": 2e-3, "max_steps": 400, **SHORT},
    "finetune": {"train_part": "head", "learning_rate": 1e-2, "max_steps": 150, "class_errors": True, **SHORT},
}


def write_images(folder: Path) -> None:
    """PNG files below folder/PART/CLASS."""
    listed = folder.parent / "digits.txt"
    listed.parent.mkdir(parents=True, exist_ok=True)
    listed.write_text("".join(f"{digit}\n" for digit in DIGITS))
    glyphs = open_source("glyphs", image_size=SIDE, classes=str(listed), n_images=10 * PER_CLASS["train"])
    for part, n in PER_CLASS.items():
        split = getattr(glyphs, part)
        for label, digit in enumerate(DIGITS):
            images = split.images(np.flatnonzero(split.labels == label)[:n])
            _save(folder / part / digit, images)
        for number, name in enumerate(NOISE):
            draw = np.random.default_rng([number, n])
            # Wave lengths and directions of a class's own: it can be told from the others, but has no strokes.
            low, high = 1 + number % 5, 2 + number % 5
            noise = np.array([_smooth_noise(draw, low, high, number < 5) for _ in range(n)])
            _save(folder / part / name, np.repeat(noise[..., None], 3, axis=-1))


def _smooth_noise(draw: np.random.Generator, low: int, high: int, is_wide: bool) -> np.ndarray:
    """Grey noise of wave numbers from `low` to `high`, along one direction more than the other."""
    rows, columns = np.meshgrid(np.fft.fftfreq(SIDE) * SIDE, np.fft.fftfreq(SIDE) * SIDE, indexing="ij")
    radius = np.hypot(rows * (1 if is_wide else 2), columns * (2 if is_wide else 1))
    waves = np.fft.fft2(draw.standard_normal((SIDE, SIDE))) * ((radius >= low) & (radius <= high))
    noise = np.fft.ifft2(waves).real
    return np.clip(127 + 60 * noise / noise.std(), 0, 255).astype(np.uint8)


def _save(folder: Path, images: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{number:03}.png")


def contrast(rows: list[dict], draws: int = 4000) -> tuple[float, float, float]:
    """Mean influence of the digits minus that of the noise, with a 95 % interval over resampled models."""
    members = np.array([[name in json.loads(row["classes"]) for name in (*DIGITS, *NOISE)] for row in rows])
    accuracy = 1 - np.array([row["error"] for row in rows])

    def of(models: np.ndarray) -> float:
        inside, values = members[models], accuracy[models]
        n_with = inside.sum(axis=0)
        influence = values @ inside / n_with - values @ ~inside / (len(models) - n_with)
        return float(influence[:10].mean() - influence[10:].mean())

    generator = np.random.default_rng(0)
    drawn = [of(generator.integers(len(rows), size=len(rows))) for _ in range(draws)]
    return of(np.arange(len(rows))), *np.percentile(drawn, [2.5, 97.5])


def train(grid: dict, out: Path, workers: int) -> list[dict]:
    """The fine-tuned rows of a grid."""
    path = out.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(grid, sort_keys=False))
    run_grid(path, out=out, workers=workers)
    return [row for row in ResultsTable.load(out).rows() if row["n_finetune"] == grid["n_finetune"][0]]


def check(study: Path, rows: list[dict], workers: int) -> None:
    """Without the ten most helpful, and without ten random classes: the error of five seeds, and as predicted."""
    found = class_influence(pd.DataFrame(rows), "digits")
    measured, expected = {}, {}
    for which in ("helpful", "random"):
        path = found.to_grid(study.with_name(f"{study.name}-{which}.yaml"), 10, which, study / "grid.yaml")
        content = yaml.safe_load(path.read_text()) | {"seeds": list(range(5))}
        errors = [row["error"] for row in train(content, path.with_suffix(""), workers)]
        kept = set(Path(content["pretrain"]["classes"]).read_text().split())
        measured[which] = np.mean(errors), np.std(errors, ddof=1) / math.sqrt(len(errors))
        expected[which] = found.expected_change([name for name in found.classes if name not in kept])
        digits = len(kept & set(DIGITS))
        print(f"without 10 {which} ({digits} digits left): error {measured[which][0]:.3f} +- {measured[which][1]:.3f}")
    (one, spread), (two, other) = measured["helpful"], measured["random"]
    print(
        f"helpful minus random: {one - two:+.3f} +- {math.hypot(spread, other):.3f}, "
        f"expected {expected['helpful'] - expected['random']:+.3f}",
        flush=True,
    )


def main() -> None:
    """Train and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name, default in (("studies", 1), ("models", 60), ("labels", 500), ("seed", 0), ("workers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.models < 20:
        parser.error("--models: at least 20, so that each class is in some of every resampled set and not in others")
    out = options.out.resolve()
    if not (out / "images").is_dir():
        write_images(out / "images")
    positive = 0
    for number in range(options.seed, options.seed + options.studies):
        subsets = {"count": options.models, "share": 0.5, "seed": number}
        grid = {
            **GRID,
            "n_finetune": [options.labels],
            "source": str(out / "images"),
            "class_subsets": subsets,
            "seeds": [number],
        }
        rows = train(grid, out / f"study-{number}", options.workers)
        value, low, high = contrast(rows)
        positive += low > 0
        spread = np.std([row["error"] for row in rows], ddof=1)
        error = (high - low) / (2 * 1.96)
        needed = math.ceil(len(rows) * ((1.96 + 0.84) * error / abs(value)) ** 2)
        print(
            f"study {number}: contrast {value:+.4f} ({low:+.4f} to {high:+.4f}), mean error "
            f"{np.mean([row['error'] for row in rows]):.3f}, standard deviation {spread:.3f}; "
            f"power 80 % needs {needed} models",
            flush=True,
        )
        if options.check:
            check(out / f"study-{number}", rows, options.workers)
    used = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    minutes = sum(usage.ru_utime + usage.ru_stime for usage in used) / 60
    print(f"positive at 95 % in {positive} of {options.studies} studies; {minutes:.1f} minutes of processor time")


if __name__ == "__main__":
    main()
