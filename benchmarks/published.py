"""Published numbers reproduced: chinchilla's refit, distillation, transfer from synthetic images, fine-tuning.

    OMP_NUM_THREADS=1 python benchmarks/published.py [--bootstrap 4000]

Needs the published measurements in ../shared/data. Sources: Besiroglu et al. 2024 (arXiv 2404.10102), Busbridge et al.
2025 (arXiv 2502.08606), Mikami et al. 2021 (arXiv 2108.11018), Lin et al. 2024 (arXiv 2402.02314).
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd

import hf_scaling as hs

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
# Estimate, its standard deviation over bootstrap draws as printed.
BESIROGLU = {
    "E": (1.8172, 0.03),
    "A": (482.01, 124.6),
    "B": (2085.43, 1293.2),
    "alpha": (0.3478, 0.02),
    "beta": (0.3658, 0.02),
}
COUPLED = {"A": 3355.0, "B": 18186.0, "E": 1.220, "alpha": 0.408, "beta": 0.431, "gamma": 0.452}
DISTILLATION = {
    **{"A": 2243.0, "B": 24181.0, "alpha": 0.321, "beta": 0.637, "gamma": 0.764},
    **{"c0": 2.549, "c1": 522.6, "f1": 0.090, "d1": 1.315},
}
BUSBRIDGE = {2.0: 2.2768, 2.2: 2.3170, 2.4: 2.4207, 2.6: 2.6006}


def besiroglu(bootstrap: int) -> None:
    """The five highest losses dropped, Huber with delta 1e-3, rows resampled."""
    table = pd.read_csv(DATA / "chinchilla_figure4.csv").sort_values("loss").iloc[:-5]
    fit = hs.fit_law(table, "chinchilla", delta=1e-3, method="pairs", bootstrap=bootstrap)
    print(f"chinchilla, figure 4, {len(table)} rows, {bootstrap} pairs draws: status {fit.status}")
    print("| parameter | estimate | published | sd | published sd | sd ratio |")
    print("|---|---|---|---|---|---|")
    for column, name in enumerate(fit.params):
        (value, spread), ours = BESIROGLU[name], float(fit.draws[:, column].std())
        print(f"| {name} | {fit.params[name]:.6g} | {value} | {ours:.4g} | {spread} | {ours / spread:.2f} |")


def busbridge() -> None:
    """The loss of a student of 1e9 parameters and 2e10 tokens by its teacher's loss."""
    at = {"n_params": 1e9, "n_pretrain": 2e10}
    alone = float(hs.LAWS["chinchilla_coupled"].predict(COUPLED, at))
    law = hs.LAWS["distillation"].with_supervised(COUPLED)
    print(f"\nchinchilla_coupled at 1e9, 2e10: {alone:.4f}, published 2.3747")
    print("| teacher loss | distillation | published |\n|---|---|---|")
    for teacher, expected in BUSBRIDGE.items():
        value = float(law.predict(DISTILLATION, {**at, "teacher_loss": teacher}))
        print(f"| {teacher} | {value:.4f} | {expected} |")


def synthetic_to_real() -> None:
    """transfer_gap on each model's rows with pre-training, and compare_laws on the largest grid."""
    table = pd.read_csv(DATA / "syn2real_transfer.csv")
    table = table[table.n_pretrain > 0]
    print("\ntransfer_gap, ImageNet error after synthetic pre-training")
    print("| model | rows | status | A | alpha | G | beta | E | log RMSE |")
    print("|---|---|---|---|---|---|---|---|---|")
    for model, rows in table.groupby("model"):
        fit = hs.fit_law(rows, "transfer_gap", target="error", bootstrap=0)
        numbers = " | ".join(f"{fit.params[name]:.4g}" for name in ("A", "alpha", "G", "beta", "E"))
        print(f"| {model} | {len(rows)} | {fit.status} | {numbers} | {fit.scores['log_rmse']:.4f} |")
    print("\ncompare_laws on the rows of r50:\n")
    print(hs.compare_laws(table[table.model == "r50"], target="error").summary())


def fine_tuning() -> None:
    """rectified against power_law on the 60 curves, the three largest sizes held out."""
    table = pd.read_csv(DATA / "llm_finetune_curves.csv")
    errors = {name: [] for name in ("rectified", "rectified with n_finetune = 0", "power_law")}
    for _, curve in table.groupby(["task", "model"]):
        curve = curve.sort_values("n_finetune")
        zero_shot, fitted, held_out = curve.iloc[:-3], curve[curve.n_finetune > 0].iloc[:-3], curve.iloc[-3:]
        for name, rows in zip(errors, (fitted, zero_shot, fitted)):
            fit = hs.fit_law(rows, name.split()[0], x="n_finetune", bootstrap=0)
            errors[name].append(np.log(fit.predict(held_out).value.to_numpy() / held_out.loss.to_numpy()))
    scores = {name: np.sqrt([np.mean(e**2) for e in curves]) for name, curves in errors.items()}
    print(f"\n{len(scores['power_law'])} fine-tuning curves, the three largest sizes held out")
    print("| law | mean log RMSE | median | better than power_law on | error over power_law's, median |")
    print("|---|---|---|---|---|")
    for name, score in scores.items():
        better, ratio = (score < scores["power_law"]).sum(), np.median(score / scores["power_law"])
        print(f"| {name} | {score.mean():.4f} | {np.median(score):.4f} | {better} of {len(score)} | {ratio:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bootstrap", type=int, default=4000)
    bootstrap = parser.parse_args().bootstrap
    busbridge()
    if not DATA.is_dir():
        raise SystemExit(f"the other three need the published measurements in {DATA}")
    besiroglu(bootstrap)
    synthetic_to_real()
    fine_tuning()


if __name__ == "__main__":
    main()
