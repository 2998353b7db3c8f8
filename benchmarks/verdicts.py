"""Statuses of one law over seven sizes: which designs determine the exponent, in 100 draws each.

    OMP_NUM_THREADS=1 python benchmarks/verdicts.py [--draws 100]

x = 250 times 2^k or 10^k, k 0 to 6; loss = 1.5 + 1.5 * 250^.35 * x^-.35. Seven doublings at 5 % noise cannot
determine the exponent, which the status should show; seven steps of ten at 1 %, or without noise, can.
"""

import argparse
from collections import Counter

import numpy as np

import hf_scaling as hs

CASES = [(2, 0.05), (2, 0.01), (2, 0.0), (10, 0.05), (10, 0.01), (10, 0.0)]


def study(step: float, noise: float, seed: int) -> dict:
    """One simulated study."""
    x = 250.0 * step ** np.arange(7)
    loss = 1.5 + 1.5 * 250**0.35 * x**-0.35
    return {"n_pretrain": x, "loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(7))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100)
    draws = parser.parse_args().draws
    print("| steps of | noise | statuses | with its note | a 10 % to 90 % |")
    print("|---|---|---|---|---|")
    for step, noise in CASES:
        fits = [hs.fit_law(study(step, noise, seed), "power_law", bootstrap=0, seed=seed) for seed in range(draws)]
        statuses = Counter(fit.status for fit in fits)
        noted = sum("not_identifiable" in fit.note_codes for fit in fits)
        low, high = np.quantile([fit.params["a"] for fit in fits], [0.1, 0.9])
        words = ", ".join(f"{status} {count}" for status, count in statuses.most_common())
        print(f"| {step} | {100 * noise:g} % | {words} | {noted} | {low:.3f} to {high:.3f} |", flush=True)


if __name__ == "__main__":
    main()
