"""One bad run among 64: its loss times five, each of the 64 in turn.

    OMP_NUM_THREADS=1 python benchmarks/outliers.py

chinchilla on 8 x 8 sizes with 1 % noise. For each objective, and for scipy's curve_fit (unbounded least squares from
the true parameters, to its advantage): the smallest E, and the error of the prediction at ten times the largest sizes.
"""

import sys
import warnings
from pathlib import Path

import numpy as np
from scipy.optimize import curve_fit

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from designs import far, fit, study, truth
from law_truths import TRUTHS

LAW = "chinchilla"


def spoiled(point: int) -> dict:
    """The study with one loss five times too large."""
    table = study(LAW, noise=0.01, seed=point)
    table["loss"][point] *= 5
    return table


def by_curve_fit(table: dict) -> tuple[float, float]:
    """E and the far prediction of unbounded least squares."""

    def law(sizes, E, A, alpha, B, beta):
        return E + A * sizes[0] ** -alpha + B * sizes[1] ** -beta

    start = [TRUTHS[LAW][name] for name in ("E", "A", "alpha", "B", "beta")]
    sizes = np.stack([table["n_params"], table["n_pretrain"]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            theta, _ = curve_fit(law, sizes, table["loss"], start, maxfev=20000)
        except RuntimeError:
            return np.nan, np.nan
    at = far(LAW)
    return theta[0], float(law(np.stack([at["n_params"], at["n_pretrain"]]), *theta)[0])


def main() -> None:
    expected = float(truth(LAW, far(LAW))[0])
    print(f"true E {TRUTHS[LAW]['E']}, true loss at ten times the largest sizes {expected:.4f}")
    print("| objective | smallest E | largest E | 10x error, median | 10x error, worst |")
    print("|---|---|---|---|---|")
    rows = {}
    for objective in ("log_huber", "log_mse", "mse"):
        fits = [fit(LAW, spoiled(point), objective=objective) for point in range(64)]
        rows[objective] = [(f.params["E"], float(f.values(far(LAW))[0])) for f in fits]
    rows["scipy curve_fit"] = [by_curve_fit(spoiled(point)) for point in range(64)]
    for name, pairs in rows.items():
        floors, predictions = np.array(pairs).T
        error = 100 * np.abs(predictions / expected - 1)
        print(
            f"| {name} | {np.nanmin(floors):.4g} | {np.nanmax(floors):.4g} "
            f"| {np.nanmedian(error):.2f} % | {np.nanmax(error):.2f} % |"
        )


if __name__ == "__main__":
    main()
