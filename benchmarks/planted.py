"""Recovery of planted parameters: every law on a full grid, without noise and with 1 % noise.

    OMP_NUM_THREADS=1 python benchmarks/planted.py [--draws 50]

Grids of 64 sizes, 8 x 8 or 6 x 6 x 6. Without noise: the worst relative error of a parameter, of a prediction inside
the grid, and of one with every size at ten times its largest. With 1 % log-normal noise: the median over the draws of
that last error, and of the worst parameter's.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import hf_scaling as hs

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from designs import far, fit, grid, study, truth
from law_truths import TRUTHS


def errors(name: str, noise: float, seed: int) -> tuple[float, float, float, str]:
    """Worst relative error of a parameter, inside the grid and at ten times the largest sizes; the status."""
    fitted = fit(name, study(name, noise, seed))
    parameters = max(abs(fitted.params[p] / value - 1) for p, value in TRUTHS[name].items())
    inside, beyond = (np.abs(fitted.values(at) / truth(name, at) - 1).max() for at in (grid(name), far(name)))
    return parameters, inside, beyond, fitted.status


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=50)
    draws = parser.parse_args().draws
    print(
        "| law | parameters | rows | exact: parameters | inside | 10x | 1 %: 10x, median | worst parameter | s a fit |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in hs.LAWS:
        parameters, inside, beyond, _ = errors(name, 0.0, 0)
        started = time.perf_counter()
        noisy = [errors(name, 0.01, seed) for seed in range(draws)]
        seconds = (time.perf_counter() - started) / draws
        count, rows = len(TRUTHS[name]), len(study(name)["loss"])
        medians = [100 * float(np.median([draw[i] for draw in noisy])) for i in (2, 0)]
        print(
            f"| {name} | {count} | {rows} | {parameters:.0e} | {inside:.0e} | {beyond:.0e} "
            f"| {medians[0]:.2f} % | {medians[1]:.0f} % | {seconds:.2f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
