"""Statuses of a law over seven sizes (which designs determine the exponent, 100 draws each), and of measured curves.

    OMP_NUM_THREADS=1 python benchmarks/verdicts.py [--draws 100]
    OMP_NUM_THREADS=1 python benchmarks/verdicts.py --measured [bird flan ...] [--against OLD]

x = 250 times 2^k or 10^k, k 0 to 6; loss = 1.5 + 1.5 * 250^.35 * x^-.35. Seven doublings at 5 % noise cannot
determine the exponent, which the status should show; seven steps of ten at 1 %, or without noise, can.

--measured fits the curves of held_out.py without their largest scales and counts how many fits that are ok miss the
largest held-out size by more than three half-widths of their band, with the law's own error and without; --against
compares the statuses with those of the tree of another commit. Needs ../shared/data.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
from held_out import DATA, SETS, cases

import hf_scaling as hs

CASES = [(2, 0.05), (2, 0.01), (2, 0.0), (10, 0.05), (10, 0.01), (10, 0.0)]


def study(step: float, noise: float, seed: int) -> dict:
    """One simulated study."""
    x = 250.0 * step ** np.arange(7)
    loss = 1.5 + 1.5 * 250**0.35 * x**-0.35
    return {"n_pretrain": x, "loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(7))}


def missed(fit: hs.LawFit, beyond, target: str) -> bool:
    """Whether a fit misses the largest held-out size by more than three half-widths of its band."""
    sizes = beyond[list(fit.data["ranges"])]
    farthest = beyond.iloc[[int(np.argmax(np.log(sizes.to_numpy(dtype=float)).sum(axis=1)))]]
    band = fit.predict(farthest).iloc[0]
    miss = abs(float(np.log(farthest[target].iloc[0] / band.value)))
    return miss > 1.5 * float(np.log(band.high / band.low))


def measured(sets: list[str], bootstrap: int) -> dict[str, tuple[str, bool, bool]]:
    """Set, curve and law to the status of its fit, and whether it is missed with the law's own error and without."""
    found = {}
    for name in sets:
        for number, (fitted, beyond, x, target, laws) in enumerate(cases(name)):
            for law in (*laws, "auto"):
                takes_x = x if law == "auto" or (len(hs.LAWS[law].variables) == 1 and law != "rectified") else None
                fit = hs.fit_law(fitted.reset_index(drop=True), law, target=target, x=takes_x, bootstrap=bootstrap)
                without = dataclasses.replace(fit, data={**fit.data, "discrepancy": None})
                found[f"{name} {number} {law}"] = (
                    fit.status,
                    *(missed(each, beyond, target) for each in (fit, without)),
                )
    return found


def statuses_of(tree: Path, sets: list[str], bootstrap: int) -> dict[str, str]:
    """The statuses of the same fits by the hf_scaling of another tree."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, __file__, "--measured", *sets, "--bootstrap", str(bootstrap), "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{tree}: {done.stderr[-2000:]}")
    return {name: status for name, (status, *_) in json.loads(done.stdout).items()}


def report(found: dict[str, tuple[str, bool, bool]], before: dict[str, str] | None) -> None:
    """Print a row a set, and what became of the fits that are ok in the other tree."""
    print(
        "| set | fits | ok | of these missed | without the law's own error | ok in the other tree | of these still |"
    )
    print("|---|---|---|---|---|---|---|")
    sets = dict.fromkeys(name.split()[0] for name in found)
    for title in (*sets, "all"):
        names = [name for name in found if title in ("all", name.split()[0])]
        ok = [found[name] for name in names if found[name][0] == "ok"]
        were_ok = [name for name in names if before is not None and before[name] == "ok"]
        still = sum(found[name][0] == "ok" for name in were_ok)
        old = f"{len(were_ok)} | {still}" if before is not None else "- | -"
        print(f"| {title} | {len(names)} | {len(ok)} | {sum(r[1] for r in ok)} | {sum(r[2] for r in ok)} | {old} |")
    others = [row for row in found.values() if row[0] != "ok"]
    counts = Counter(status for status, *_ in others)
    text = ", ".join(f"{count} {status}" for status, count in counts.most_common())
    print(f"\nothers: {text}; missed {sum(r[1] for r in others)}, without {sum(r[2] for r in others)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--measured", nargs="*", choices=SETS, help="these sets of measured curves; none: all")
    parser.add_argument("--bootstrap", type=int, default=100)
    parser.add_argument("--against", type=Path, help="the tree of another commit, for --measured")
    parser.add_argument("--json", action="store_true", help="the fits of --measured as JSON")
    given = parser.parse_args()
    if given.measured is not None:
        if not DATA.is_dir():
            raise SystemExit(f"this needs the published measurements: {DATA}")
        sets = given.measured or list(SETS)
        found = measured(sets, given.bootstrap)
        if given.json:
            print(json.dumps(found))
        else:
            report(
                found, None if given.against is None else statuses_of(given.against.resolve(), sets, given.bootstrap)
            )
        return
    draws = given.draws
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
