"""Planted boundaries: how often the interval contains the true crossing, and the status where there is none.

    python benchmarks/boundary.py [--studies 200] [--bootstrap 400]

Two arms follow known power laws; each study draws noise for three seeds a size and calls `find_boundary`. The arms
"N errors apart" differ by a constant factor of N standard errors of the fitted logarithm of their ratio, at the size
where that error is largest.
"""

import argparse
from collections import Counter

import numpy as np

import hf_scaling as hs

LAW = hs.LAWS["power_law"]
PLAIN = (0.35, 12.0, 0.35)
CASES = {
    "crossing, shallow": (PLAIN, (0.48, 7.2, 0.30)),
    "crossing, steep": ((0.3, 20.0, 0.4), (0.45, 9.0, 0.32)),
    "identical arms": (PLAIN, PLAIN),
}
APART = (4, 5, 6)


def true_crossing(plain, distilled) -> float | None:
    grid = np.geomspace(10, 1e7, 200_000)
    gap = LAW.predict(plain, {"x": grid}) - LAW.predict(distilled, {"x": grid})
    falls = np.flatnonzero((gap[:-1] > 0) & (gap[1:] <= 0))
    return float(grid[falls[0]]) if len(falls) else None


def largest_error(sizes: np.ndarray, noise: float) -> float:
    """The standard error of the log ratio of two least-squares fits, at the size where it is largest."""
    value, gradient = LAW.value_and_gradient(np.array(PLAIN), {"x": sizes})
    slopes = gradient / value[:, None]
    return noise * np.sqrt(2 * np.diag(slopes @ np.linalg.pinv(slopes)).max())


def study(plain, distilled, levels: int, noise: float, number: int, bootstrap: int):
    generator = np.random.default_rng(number)
    sizes = np.repeat(np.geomspace(250, 32_000, levels), 3)
    rows = {"arm": [], "n_pretrain": [], "seed": [], "loss": []}
    for arm, theta in (("plain", plain), ("distilled", distilled)):
        values = LAW.predict(theta, {"x": sizes}) * np.exp(noise * generator.standard_normal(len(sizes)))
        rows["arm"] += [arm] * len(sizes)
        rows["n_pretrain"] += list(sizes)
        rows["seed"] += [0, 1, 2] * levels
        rows["loss"] += list(values)
    return hs.find_boundary({k: np.array(v) for k, v in rows.items()}, bootstrap=bootstrap, seed=number)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=400)
    arguments = parser.parse_args()
    print("| case | sizes | noise | statuses | interval contains the true crossing | law-free interval does |")
    print("|---|---|---|---|---|---|")
    for levels in (5, 8):
        for noise in (0.005, 0.02, 0.05):
            sizes = np.repeat(np.geomspace(250, 32_000, levels), 3)
            for name, (plain, distilled) in (CASES | constant_factors(largest_error(sizes, noise))).items():
                truth = true_crossing(plain, distilled)
                boundaries = [
                    study(plain, distilled, levels, noise, n, arguments.bootstrap) for n in range(arguments.studies)
                ]
                print(line(name, levels, noise, truth, boundaries), flush=True)


def constant_factors(error: float) -> dict[str, tuple]:
    """Arms a constant factor apart, better and worse."""
    cases = {}
    for count in APART:
        for word, sign in (("better", -1), ("worse", 1)):
            factor = np.exp(sign * count * error)
            cases[f"distilled {count} errors {word}"] = (PLAIN, (factor * PLAIN[0], factor * PLAIN[1], PLAIN[2]))
    return cases


def line(name: str, levels: int, noise: float, truth: float | None, boundaries: list) -> str:
    statuses = ", ".join(f"{status} {count}" for status, count in Counter(b.status for b in boundaries).most_common())
    held = [b.low <= truth <= b.high for b in boundaries if b.status == "crossing"] if truth else []
    free = [b.law_free["low"] <= truth <= b.law_free["high"] for b in boundaries] if truth else []
    share = f"{100 * np.mean(held):.1f} % of {len(held)}" if held else "-"
    share_free = f"{100 * np.mean(free):.1f} %" if free else "-"
    return f"| {name} | {levels} | {100 * noise:.1f} % | {statuses} | {share} | {share_free} |"


if __name__ == "__main__":
    main()
