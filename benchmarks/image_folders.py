"""Seconds to open a folder of images, first and again, beside `datasets` and torchvision in the same run.

    python benchmarks/image_folders.py [--sizes 1000 12000 100000] [--skip-datasets-above 12000]

Makes folders of small PNGs (10, 100 and 1,000 classes) under a temporary folder. "first" hashes every file's content;
"again" looks at each file's size and times alone. Each is the fastest of three, by the clock and by processor time;
the ratios are to torchvision's ImageFolder. On a machine that does other work the processor's ratio is the fair one.
"""

import argparse
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = {1_000: 10, 12_000: 100, 100_000: 1_000}


def make_folder(root: Path, n_images: int, n_classes: int) -> Path:
    """Distinct PNGs of 16 px."""
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8)).save(buffer, "PNG")
    for label in range(n_classes):
        folder = root / f"class_{label:04d}"
        folder.mkdir(parents=True)
        for number in range(n_images // n_classes):
            (folder / f"{number:05d}.png").write_bytes(buffer.getvalue() + f"{label} {number}".encode())
    return root


def seconds(action: Callable[[], object], times: int = 3) -> np.ndarray:
    """The fastest of several runs: seconds by the clock and of processor time."""
    best = np.full(2, np.inf)
    for _ in range(times):
        begin = time.perf_counter(), time.process_time()
        action()
        best = np.minimum(best, np.subtract((time.perf_counter(), time.process_time()), begin))
    return best


def versus(measured: np.ndarray, plain: np.ndarray) -> str:
    """Seconds, and both ratios to ImageFolder."""
    by_clock, by_processor = measured / plain
    return f"{measured[0]:6.2f} s ({by_clock:4.1f}, processor {by_processor:4.1f})"


def main() -> None:
    """Print a line a size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=list(CLASSES))
    parser.add_argument("--skip-datasets-above", type=int, default=12_000)
    options = parser.parse_args()
    import datasets
    from torchvision.datasets import ImageFolder

    from hf_scaling.data import open_source

    datasets.disable_progress_bars()
    print("images   classes  ImageFolder  first (ratios)                   again (ratios)                    datasets")
    with tempfile.TemporaryDirectory() as scratch:
        for size in options.sizes:
            root = make_folder(Path(scratch) / str(size) / "images", size, CLASSES.get(size, 10))
            cache = Path(scratch) / "cache"

            def first(root: Path = root, cache: Path = cache) -> None:
                shutil.rmtree(cache, ignore_errors=True)
                open_source(root, image_size=16, cache_dir=cache, progress=False)

            plain = seconds(lambda root=root: ImageFolder(str(root)))
            opened = seconds(first)
            again = seconds(lambda root=root, cache=cache: open_source(root, 16, cache_dir=cache, progress=False))
            line = f"{size:7,}  {CLASSES.get(size, 10):7,}  {plain[0]:9.3f} s"
            line += f"  {versus(opened, plain)}  {versus(again, plain)}"
            if size <= options.skip_datasets_above:
                hub = str(Path(scratch) / "datasets")
                loaded = seconds(
                    lambda root=root, hub=hub: datasets.load_dataset("imagefolder", data_dir=str(root), cache_dir=hub),
                    1,
                )
                line += f"  {loaded[0]:6.1f} s"
            print(line, flush=True)


if __name__ == "__main__":
    main()
