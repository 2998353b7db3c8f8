"""How long do scores take: all of them for 30 checkpoints on 1,000 images of 32 pixels, and LogME on 5,000 x 384?

    OMP_NUM_THREADS=1 python benchmarks/scores_speed.py [--checkpoints 30] [--images 1000]

Checkpoints are vit-200k with random weights; features are computed, none is in the cache. Wall time counts what else
the machine does; processor time is that of this process, over all its threads.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

import hf_scaling as hs
from hf_scaling import models
from hf_scaling.data import open_source
from hf_scaling.scores import SCORES

SIDE, PATCH, CLASSES = 32, 4, 10


def timed(what: str, call: Callable[[], object]) -> None:
    """Print the seconds of a call."""
    wall, used = time.perf_counter(), time.process_time()
    call()
    wall, used = time.perf_counter() - wall, time.process_time() - used
    print(f"{what}: {wall:.2f} s, {used:.2f} s of processor time", flush=True)


def main() -> None:
    """Time both, and each score on its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoints", type=int, default=30)
    parser.add_argument("--images", type=int, default=1000)
    options = parser.parse_args()
    draw = np.random.default_rng(0)
    features, labels = draw.standard_normal((5000, 384)).astype(np.float32), draw.integers(10, size=5000)
    timed("LogME on 5,000 x 384", lambda: SCORES["logme"](features, labels))
    features, labels = features[:1000, :64], labels[:1000]
    probabilities = draw.dirichlet(np.ones(25), size=1000)
    for name, score in SCORES.items():
        timed(f"{name} on 1,000 x 64", partial(score, features, labels, probabilities))
    with tempfile.TemporaryDirectory() as folder:
        source = open_source("glyphs", image_size=SIDE, classes=CLASSES, n_images=2000, cache_dir=folder)
        source.train  # noqa: B018  # the cache is filled before the clock starts
        checkpoints = []
        for seed in range(options.checkpoints):
            path = Path(folder) / str(seed)
            model = models.build_student("vit-200k", 25, SIDE, PATCH, seed)
            model.save_pretrained(path)
            models.build_processor(model, (0.5,) * 3, (0.5,) * 3).save_pretrained(path)
            checkpoints.append(path)
        what = f"all scores of {options.checkpoints} checkpoints on {options.images:,} images of {SIDE} px"
        timed(what, lambda: hs.transferability(checkpoints, source, n=options.images, cache_dir=folder))


if __name__ == "__main__":
    main()
