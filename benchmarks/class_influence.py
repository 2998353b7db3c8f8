"""Planted class influences: do the simultaneous intervals hold, and have the effects that are found the right sign?

    python benchmarks/class_influence.py [--studies 400] [--models 60] [--classes 40]

Half of the classes have no influence, the others up to three standard errors of either sign. Truths are relative to
the average class, as the estimates are.
"""

import argparse
import json

import numpy as np
import pandas as pd

from hf_scaling.scores.influence import class_influence

NOISE = 0.02


def main() -> None:
    """Run the studies and print the shares."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("studies", 400), ("models", 60), ("classes", 40)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    held, found, right = 0, 0, 0
    for number in range(options.studies):
        draw, n = np.random.default_rng(number), options.classes
        largest = 3 * 2 * NOISE / np.sqrt(options.models)
        truth = np.where(draw.random(n) < 0.5, 0, draw.uniform(0, largest, n) * draw.choice([-1, 1], n))
        rows = []
        for _ in range(options.models):
            subset = np.sort(draw.permutation(n)[: n // 2])
            error = 0.3 - truth[subset].sum() + NOISE * draw.standard_normal()
            rows.append({"classes": json.dumps([f"c{at}" for at in subset]), "downstream": "d", "error": error})
        table = class_influence(pd.DataFrame(rows), "d", seed=number).table
        relative = (truth - truth.mean()) * n / (n - 1)
        relative = relative[[int(name[1:]) for name in table["class"]]]
        held += ((table["low"] <= relative) & (relative <= table["high"])).all()
        is_found = (table["verdict"] != "cannot_tell").to_numpy()
        found += is_found.sum()
        right += (np.sign(table["influence"].to_numpy()[is_found]) == np.sign(relative[is_found])).sum()
    print(f"intervals hold all truths in {held / options.studies:.3f} of {options.studies} studies")
    print(f"{found} effects found, {right / max(found, 1):.3f} of them with the right sign")


if __name__ == "__main__":
    main()
