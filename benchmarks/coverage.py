"""Coverage of 95 % intervals: the share of simulated studies whose interval contains the planted value.

    python benchmarks/coverage.py [--studies 200] [--bootstrap 400] [--out coverage.jsonl] [--cells NAME ...]

Each study plants a law, draws noise, fits with the defaults and checks whether the interval of every parameter and of
the prediction at ten times the largest sizes contains the planted value. Seeds are the study's number. Finished
studies are stored in --out, so that an interrupted run resumes. Studies with status not_identifiable are counted
separately: their share and their coverage are printed.
"""

import argparse
import json
import time
from itertools import product
from pathlib import Path

import numpy as np

import hf_scaling as hs

SIZES = {"n_params": (1e6, 1e9), "n_pretrain": (1e3, 1e7), "n_finetune": (1e1, 1e5)}
# Law, planted parameters, sizes an axis.
DESIGNS = {
    "chinchilla": ({"E": 0.5, "A": 60.0, "alpha": 0.3, "B": 10.0, "beta": 0.3}, (8, 4)),
    "transfer_gap": ({"A": 12.0, "alpha": 0.35, "G": 0.8, "beta": 0.25, "E": 0.2}, (8, 4)),
    "joint_additive": ({"E": 0.3, "A": 60.0, "alpha": 0.3, "B": 10.0, "beta": 0.3, "C": 3.0, "gamma": 0.3}, (4, 3)),
    "power_law": ({"E": 0.5, "A": 10.0, "a": 0.3}, (64, 16)),
}
NOISES = (0.01, 0.05)


def cells() -> dict[str, tuple[str, int, float]]:
    """Cell name to law, sizes an axis and noise."""
    return {
        f"{law} {'x'.join([str(n)] * len(hs.LAWS[law].variables))} {100 * noise:g} %": (law, n, noise)
        for law, (_, sizes) in DESIGNS.items()
        for n, noise in product(sizes, NOISES)
    }


def design(law: str, n: int) -> dict[str, np.ndarray]:
    """The full grid of n sizes an axis."""
    ranges = [SIZES["n_pretrain"] if v == "x" else SIZES[v] for v in hs.LAWS[law].variables]
    axes = np.meshgrid(*[np.geomspace(low, high, n) for low, high in ranges], indexing="ij")
    names = ["n_pretrain" if v == "x" else v for v in hs.LAWS[law].variables]
    return {name: axis.ravel() for name, axis in zip(names, axes)}


def study(law: str, n: int, noise: float, number: int, bootstrap: int) -> dict:
    """One simulated study: which intervals contain the planted value."""
    truth, sizes = DESIGNS[law][0], design(law, n)
    variables = {v: sizes["n_pretrain" if v == "x" else v] for v in hs.LAWS[law].variables}
    values = hs.LAWS[law].predict(truth, variables)
    noisy = values * np.exp(noise * np.random.default_rng(number).standard_normal(len(values)))
    fit = hs.fit_law({**sizes, "loss": noisy}, law, bootstrap=bootstrap, seed=number)
    held = {name: bool(low <= truth[name] <= high) for name, (low, high) in fit.intervals.items()}
    far = {name: axis.max() * 10 for name, axis in sizes.items()}
    expected = hs.LAWS[law].predict(truth, {v: far["n_pretrain" if v == "x" else v] for v in variables})
    row = fit.predict(far).iloc[0]
    held["10x"] = bool(row.low <= float(expected) <= row.high)
    return {"number": number, "status": fit.status, "held": held}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=200)
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/coverage.jsonl"))
    parser.add_argument("--cells", nargs="*", default=list(cells()))
    arguments = parser.parse_args()
    done = read(arguments.out)
    for cell in arguments.cells:
        law, n, noise = cells()[cell]
        start = time.perf_counter()
        with arguments.out.open("a") as file:
            for number in range(arguments.studies):
                if (cell, number) not in done:
                    done[cell, number] = study(law, n, noise, number, arguments.bootstrap)
                    file.write(json.dumps({"cell": cell, **done[cell, number]}) + "\n")
        print(row_of(cell, [r for (c, _), r in done.items() if c == cell], time.perf_counter() - start), flush=True)
    print_pooled(done)


def read(path: Path) -> dict:
    """The studies already finished."""
    rows = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return {(row["cell"], row["number"]): row for row in rows}


def coverage(rows: list[dict]) -> dict[str, float]:
    """Share of studies whose interval contains the planted value, by quantity."""
    return {name: float(np.mean([row["held"][name] for row in rows])) for name in rows[0]["held"]} if rows else {}


def row_of(cell: str, rows: list[dict], seconds: float) -> str:
    """One line of the table."""
    fixed = [row for row in rows if row["status"] != "not_identifiable"]
    loose = [row for row in rows if row["status"] == "not_identifiable"]
    shares, shares_loose = coverage(fixed), coverage(loose)
    words = " ".join(f"{name} {100 * value:.0f}" for name, value in shares.items())
    pooled = f"{100 * np.mean(list(shares.values())):.1f}" if shares else "-"
    other = f"{100 * np.mean(list(shares_loose.values())):.1f}" if shares_loose else "-"
    share = 100 * len(loose) / len(rows)
    return f"| {cell} | {len(fixed)} | {words} | {pooled} | {share:.0f} % | {other} | {seconds:.0f} s"


def print_pooled(done: dict) -> None:
    """Each law and design pooled over parameters, the 10x prediction and both noises."""
    for law, (_, sizes) in DESIGNS.items():
        for n in sizes:
            names = [c for c, (cell_law, m, _) in cells().items() if (cell_law, m) == (law, n)]
            rows = [r for (c, _), r in done.items() if c in names and r["status"] != "not_identifiable"]
            if rows:
                held = [value for row in rows for value in row["held"].values()]
                print(f"{names[0].rsplit(' ', 2)[0]}: {100 * np.mean(held):.1f} % over {len(rows)} studies")


if __name__ == "__main__":
    main()
