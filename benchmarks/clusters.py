"""Coverage of 95 % intervals where rows share their luck: checkpoints of runs, fine-tuned rows of checkpoints.

    python benchmarks/clusters.py [--studies 400] [--bootstrap 200] [--cells NAME ...] [--independent]

"checkpoints": eight runs of different sizes, twelve checkpoints each, with 1 % of luck that a run's rows share and
0.1 % of their own; chinchilla. "gap": ten checkpoints of different n_pretrain, each fine-tuned on six amounts of
labelled images, with 2 % of luck that a checkpoint's rows share and 0.5 % of their own; transfer_gap. "unequal": as
checkpoints, but runs of 4 to 14 checkpoints. A study's number is its seed. --independent leaves the naming column out:
every row then counts as independent.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import hf_scaling as hs

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from planted_rows import fine_tuned_pairs

CHINCHILLA = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}
GAP = {"A": 12.0, "alpha": 0.35, "G": 0.8, "beta": 0.25, "E": 0.2}


def checkpoints(generator: np.random.Generator, counts: list[int]) -> dict[str, np.ndarray]:
    """A table with a column `run`."""
    run = np.repeat(np.arange(len(counts)), counts)
    n_params = np.logspace(7, 10, len(counts))[run]
    n_pretrain = np.concatenate([np.logspace(9, 11.5, 12)[-count:] for count in np.minimum(counts, 12)])
    if len(n_pretrain) < len(run):
        n_pretrain = np.concatenate([np.logspace(9, 11.5, count) for count in counts])
    loss = hs.LAWS["chinchilla"].predict(CHINCHILLA, {"n_params": n_params, "n_pretrain": n_pretrain})
    luck = 0.01 * generator.standard_normal(len(counts))[run] + 0.001 * generator.standard_normal(len(run))
    return {"run": run, "n_params": n_params, "n_pretrain": n_pretrain, "loss": loss * np.exp(luck)}


def fine_tuned(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """A table with a column `parent`."""
    parent = np.repeat(np.arange(10), 6)
    n_pretrain, n_finetune = np.geomspace(1e3, 1e7, 10)[parent], np.tile(np.geomspace(10, 1e5, 6), 10)
    loss = hs.LAWS["transfer_gap"].predict(GAP, {"n_pretrain": n_pretrain, "n_finetune": n_finetune})
    luck = 0.02 * generator.standard_normal(10)[parent] + 0.005 * generator.standard_normal(60)
    names = np.array([f"run{number}" for number in parent])
    return {"parent": names, "n_pretrain": n_pretrain, "n_finetune": n_finetune, "loss": loss * np.exp(luck)}


CELLS = {
    "checkpoints": ("chinchilla", CHINCHILLA, lambda generator: checkpoints(generator, [12] * 8)),
    "unequal": ("chinchilla", CHINCHILLA, lambda generator: checkpoints(generator, [4, 6, 12, 8, 14, 5, 9, 12])),
    "gap": ("transfer_gap", GAP, fine_tuned),
}


def study(cell: str, number: int, bootstrap: int, independent: bool) -> tuple[str, dict[str, bool]]:
    """The status of one simulated study, and which intervals contain the planted value."""
    law, truth, plant = CELLS[cell]
    table = plant(np.random.default_rng(number))
    if independent:
        table = {name: values for name, values in table.items() if name not in ("run", "parent")}
    fit = hs.fit_law(table, law, bootstrap=bootstrap, seed=number)
    held = {name: low <= truth[name] <= high for name, (low, high) in fit.intervals.items()}
    far = {name: 10 * table[name].max() for name in hs.LAWS[law].variables}
    row = fit.predict(far).iloc[0]
    return fit.status, held | {"10x": row.low <= float(hs.LAWS[law].predict(truth, far)) <= row.high}


def boundaries(studies: int, bootstrap: int) -> None:
    """Print how often the boundary of pairs that share checkpoints is inside, with and without `parent`."""
    truth = 4 ** (1 / 0.18)
    for independent in (False, True):
        inside, crossings = [], []
        for number in range(studies):
            table = fine_tuned_pairs(np.random.default_rng(number))
            if independent:
                table = table.drop(columns="parent")
            line = hs.find_boundary(table, target="loss", downstream="d", bootstrap=bootstrap, seed=number)
            sizes = line.difference["n_pretrain"]
            gap = (60 * sizes**-0.5 - 15 * sizes**-0.32) * 50**-0.2
            inside.append(((line.difference["low"] <= gap) & (gap <= line.difference["high"])).mean())
            if line.status == "crossing":
                crossings.append(line.low <= truth <= line.high)
        name = f"boundary{', as independent' * independent}"
        shares = f"difference {100 * np.mean(inside):.0f} crossing {100 * np.mean(crossings):.0f}"
        print(f"| {name} | {studies} | {shares} | {len(crossings)} of {studies} cross |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=400)
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--cells", nargs="*", default=list(CELLS))
    parser.add_argument("--independent", action="store_true")
    parser.add_argument("--boundary", action="store_true", help="boundaries of both arms instead")
    arguments = parser.parse_args()
    if arguments.boundary:
        boundaries(arguments.studies, arguments.bootstrap)
        return
    for cell in arguments.cells:
        studies = [study(cell, n, arguments.bootstrap, arguments.independent) for n in range(arguments.studies)]
        shares = {name: np.mean([held[name] for _, held in studies]) for name in studies[0][1]}
        listed = " ".join(f"{name} {100 * share:.0f}" for name, share in shares.items())
        ok = np.mean([status == "ok" for status, _ in studies])
        pooled = np.mean(list(shares.values()))
        print(f"| {cell} | {len(studies)} | {listed} | {100 * pooled:.1f} | {100 * ok:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
