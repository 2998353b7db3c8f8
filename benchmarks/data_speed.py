"""How fast images are drawn, cached, checked and read, on one core.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/data_speed.py

Prints a Markdown table of images per second, the one in docs/data.md.
"""

import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_image

from hf_scaling import data
from hf_scaling.data import glyphs
from hf_scaling.data.images import ImageFormat, ImagePacker, PixelDecision, PixelFacts, PixelRules, unpack

REPEATS = 5


def rate(work: Callable[[], object], n: int) -> float:
    """Images per second of `work` on `n` images: the median of five runs after a first."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return n / float(np.median(seconds))


def photograph(side: tuple[int, int]) -> bytes:
    """A photograph that scikit-learn ships, as a JPEG file of a size."""
    buffer = io.BytesIO()
    Image.fromarray(load_sample_image("china.jpg")).resize(side).save(buffer, "JPEG", quality=95)
    return buffer.getvalue()


def png(pixels: np.ndarray) -> bytes:
    """An array of pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def cached(cache: str) -> dict[str, float]:
    """Time filling, opening and reading a cache of 50,000 glyphs at 28 px."""
    started = time.perf_counter()
    part = data.open_source("glyphs", cache_dir=cache, progress=False).train
    filling = len(part) / (time.perf_counter() - started)
    generator = np.random.default_rng(0)
    batches = [generator.integers(0, len(part), 128) for _ in range(500)]

    def open_again():
        return data.open_source("glyphs", cache_dir=cache, progress=False).train

    return {
        "glyphs, 28 px: fill the cache with 50,000, rendering of the fonts included": filling,
        "glyphs, 28 px: open the filled cache, checksums verified": rate(open_again, len(part)),
        "glyphs, 28 px: read random batches of 128": rate(
            lambda: [part.images(batch) for batch in batches], 500 * 128
        ),
    }


def main() -> None:
    """Print the table."""
    grey = glyphs.draw(np.array([0]), 28, 0)[0]
    large, small = photograph((500, 375)), png(grey)
    need_rules = {"16 bits": png(grey.astype(np.uint16) * 257), "opacity": png(np.dstack([grey] * 4))}
    rules = PixelRules(lambda: PixelDecision.from_facts(map(PixelFacts.read, need_rules.values())))
    rules.decide()
    large_jpeg, small_raw = (ImagePacker(ImageFormat(side, side == 28), rules) for side in (224, 28))
    stored = large_jpeg.pack(large).payload
    rates = {"glyphs, 28 px: draw 64 at a time": rate(lambda: glyphs.draw(np.arange(64), 28, 0), 64)}
    rates["PNG 28 px: decode and pack raw"] = rate(lambda: [small_raw.pack(small) for _ in range(500)], 500)
    for name, encoded in need_rules.items():
        rates[f"PNG 28 px, {name}: scan, then decode and pack raw"] = rate(
            lambda encoded=encoded: [(PixelFacts.read(encoded), small_raw.pack(encoded)) for _ in range(500)], 500
        )
    rates["JPEG 500x375: decode, fit to 224 px, encode as JPEG"] = rate(
        lambda: [large_jpeg.pack(large) for _ in range(50)], 50
    )
    rates["JPEG 224 px: decode from the cache"] = rate(lambda: [unpack(stored) for _ in range(200)], 200)
    with tempfile.TemporaryDirectory() as cache:
        rates |= cached(str(Path(cache)))
    print("| what | images/s |\n|---|---|")
    for name, value in rates.items():
        print(f"| {name} | {value:,.0f} |")
    print(f"\nA photograph of 500x375 at 224 px, JPEG: {len(stored):,} bytes")


if __name__ == "__main__":
    main()
