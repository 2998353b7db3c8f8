"""Predict the held-out end of 36 few-shot curves: law="auto", each single law, the last value carried forward.

    OMP_NUM_THREADS=1 python benchmarks/extrapolation.py

Needs ../shared/data/few_shot_curves.csv (Alabdulmohsin et al. 2022, arXiv 2209.06640): fitted on is_fit = 1, scored by
the root mean square log error on is_fit = 0. The defaults were chosen on the bird curves and then frozen; the cal
curves played no part.
"""

from pathlib import Path

import numpy as np
import pandas as pd

import hf_scaling as hs

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "few_shot_curves.csv"
SINGLE = ("power_law", "shifted_power_law", "m4", "bnsl")
LAST = "last value carried forward"


def score(predicted: np.ndarray, measured: pd.Series) -> float:
    """Root mean square error of the logarithms."""
    return float(np.sqrt(np.mean(np.log(predicted / measured.to_numpy()) ** 2)))


def curve_scores(curve: pd.DataFrame) -> dict[str, float]:
    """Method to score on one curve."""
    fitted, held_out = curve[curve.is_fit == 1], curve[curve.is_fit == 0]
    last = fitted.sort_values("n_pretrain").error.iloc[-1]
    scores = {LAST: score(np.full(len(held_out), last), held_out.error)}
    for name in ("auto", *SINGLE):
        fit = hs.fit_law(fitted, name, target="error", bootstrap=0)
        scores[name] = score(fit.predict(held_out).value.to_numpy(), held_out.error)
    return scores


def main() -> None:
    if not DATA.is_file():
        raise SystemExit(f"this needs the published measurements: {DATA}")
    curves = {key: curve_scores(curve) for key, curve in pd.read_csv(DATA).groupby(["task", "model"])}
    table = pd.DataFrame(curves).T
    groups = {name: table[[task.startswith(name) for task, _ in table.index]] for name in ("bird", "cal")}
    sizes = " | ".join(f"{name} ({len(group)})" for name, group in groups.items())
    print(f"| method | {sizes} | all ({len(table)}) | beats last value |")
    print("|---|---|---|---|---|")
    for method in table.columns:
        means = [group[method].mean() for group in (*groups.values(), table)]
        better = int((table[method] < table[LAST]).sum())
        print(f"| {method} | {' | '.join(f'{mean:.4f}' for mean in means)} | {better} of {len(table)} |")


if __name__ == "__main__":
    main()
