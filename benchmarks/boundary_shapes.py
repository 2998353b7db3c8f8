"""Crossings of arms whose log ratio is straight, bends, flattens, dips, or is a difference of two laws.

    python benchmarks/boundary_shapes.py --studies 100      # two minutes of one core

Each study has eight sizes (250 to 32,000) and three seeds; runs have noise of 2 %, half of whose variance the two runs
of a pair share. The crossing is up to a factor of 1.42 from the smallest and the largest size; with --outside it is a
factor of 4.5 beyond either, so that always or never is right. Printed for each shape: statuses, how often the interval
holds the crossing, and the median of high / low.
"""

import argparse
from collections import Counter

import numpy as np
import pandas as pd

import hf_scaling as hs

SIZES, SEEDS, NOISE, SHARED = 250 * 2.0 ** np.arange(8), 3, 0.02, 0.5
SHAPES = ("straight", "bends", "flattens", "dips", "two laws")
_EDGE, _BEYOND = 0.35, 1.5


def log_ratio(shape: str, x: np.ndarray, crossing: float, draw: np.random.Generator) -> np.ndarray:
    """log(plain / distilled) at log sizes x (N,), zero at the log size `crossing`."""
    slope, width = draw.uniform(0.04, 0.15), draw.uniform(0.7, 1.4)
    apart = x - crossing
    if shape == "straight":
        return -slope * apart
    if shape == "bends":
        return -1.2 * slope * width * np.tanh(apart / width)
    if shape == "flattens":
        return slope * width * np.expm1(np.clip(-apart / width, None, 1.3))
    if shape == "dips":
        return -1.6 * slope * (apart / width) * np.exp(-np.clip(apart / width, -1.2, None) / 1.5)
    # Two laws: the distilled one falls slower from a lower start, to a higher floor.
    power, share, floor = draw.uniform(0.25, 0.32), draw.uniform(0.5, 0.9), 0.35
    scale = share * 12 * np.exp(crossing * (power - 0.35))
    other = floor + 12 * np.exp(-0.35 * crossing) - scale * np.exp(-power * crossing)
    if other < 0.05:
        return log_ratio(shape, x, crossing, draw)
    return np.log(floor + 12 * np.exp(-0.35 * x)) - np.log(other + scale * np.exp(-power * x))


def study(shape: str, number: int, outside: bool) -> tuple[pd.DataFrame, float]:
    """A table of both arms, and its true crossing."""
    draw, x = np.random.default_rng([SHAPES.index(shape), number]), np.log(np.repeat(SIZES, SEEDS))
    crossing = draw.uniform(x[0] + _EDGE, x[-1] - _EDGE)
    if outside:
        crossing = x[-1] + _BEYOND if number % 2 else x[0] - _BEYOND
    ratio = log_ratio(shape, x, crossing, draw)
    base = np.log(0.35 + 12 * np.exp(-0.35 * x)) + NOISE * np.sqrt(SHARED) * draw.standard_normal(len(x))
    parts = []
    for arm, shift in (("plain", 0.0), ("distilled", -ratio)):
        loss = np.exp(base + shift + NOISE * np.sqrt(1 - SHARED) * draw.standard_normal(len(x)))
        seeds = np.tile(np.arange(SEEDS), len(SIZES))
        parts.append(pd.DataFrame({"arm": arm, "n_pretrain": np.exp(x).round(), "seed": seeds, "loss": loss}))
    return pd.concat(parts, ignore_index=True), float(np.exp(crossing))


def main() -> None:
    """Print a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--level", type=float, default=0.95)
    parser.add_argument("--outside", action="store_true", help="crossings beyond the sizes")
    options = parser.parse_args()
    for shape in SHAPES:
        statuses, held, widths = Counter(), 0, []
        for number in range(options.studies):
            table, crossing = study(shape, number, options.outside)
            found = hs.find_boundary(table, bootstrap=400, level=options.level, seed=number)
            statuses[found.status] += 1
            if found.status == "crossing":
                held += found.low <= crossing <= found.high
                widths.append(found.high / found.low)
        line = f"{shape:10} {dict(statuses)}"
        if widths:
            line += f"  held {held}/{len(widths)} = {held / len(widths):.3f}, median factor {np.median(widths):.2f}"
        print(line, flush=True)


if __name__ == "__main__":
    main()
