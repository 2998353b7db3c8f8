"""Accuracy of plans and transfer gaps: the optimum against brute force, and plans of fits to planted studies.

    OMP_NUM_THREADS=1 python benchmarks/planning.py [--studies 100] [--part gaps]

First table: for each law, the worst difference in predicted loss between `plan` and a fine grid of all sizes, over
five budgets, and the processor's seconds. Second: studies of a planted transfer gap (five by five sizes, two seeds,
2 % noise) are fitted and planned, at a budget whose best allocation lies inside the measured sizes and at 30 times it.
"Prediction covered" counts intervals that contain the planted law's value at the plan's own sizes, "sizes covered"
those that contain the planted law's own best n_pretrain; "lost" is the planted loss at the plan's sizes against that
at the planted optimum. Third: verdicts on the gap as its share grows. Fourth: two arms of one law. Fifth:
designs that hardly separate the gap.
"""

import argparse
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np

import hf_scaling as hs
from hf_scaling.text import format_percent

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from plans import MODELS, SMALL, brute_force, planted

COSTS = {"label": 0.5, "flop": 1e-10}
LINEAR = {"label": 0.5, "pretrain_image": 0.05}
TRUTH = {"A": 30.0, "alpha": 0.5, "G": 0.3, "beta": 0.3, "E": 0.1}
UPSTREAM, LABELLED = np.geomspace(500, 128_000, 5), np.geomspace(50, 12_800, 5)
LAW = hs.LAWS["transfer_gap"]


def study(
    truth: dict,
    number: int,
    noise: float = 0.02,
    upstream: np.ndarray = UPSTREAM,
    labelled: np.ndarray = LABELLED,
) -> dict:
    """A table of two seeds on the full grid."""
    upstream, labelled = (np.repeat(g.ravel(), 2) for g in np.meshgrid(upstream, labelled))
    table = {"n_pretrain": upstream, "n_finetune": labelled}
    scatter = np.exp(noise * np.random.default_rng(number).standard_normal(len(upstream)))
    return {**table, "loss": LAW.predict(truth, table) * scatter}


def planted_optimum(truth: dict, budget: float) -> tuple[float, float]:
    """The planted law's own best n_pretrain and its loss there, among sizes that spend the budget."""
    share = 1 / (1 + np.exp(-np.linspace(-15, 15, 200_001)))
    sizes = {"n_pretrain": share * budget / 0.05, "n_finetune": (1 - share) * budget / 0.5}
    values = LAW.predict(truth, sizes)
    return float(sizes["n_pretrain"][values.argmin()]), float(values.min())


def optima() -> None:
    """The first table."""
    print("| law | worst difference to the grid | processor seconds a plan |\n|---|---|---|")
    for name in SMALL:
        fit = planted(name, draws=200, spread=0.02, x="n_finetune" if name == "bnsl" else "n_pretrain")
        given = {} if "n_params" in fit.columns.values() else {"n_params": MODELS[0]}
        worst, seconds = 0.0, []
        for budget in (30, 100, 1000, 10_000, 100_000):
            started = time.process_time()
            planned = hs.plan(fit, budget, COSTS, **given)
            seconds.append(time.process_time() - started)
            difference = planned.predicted["value"] / brute_force(fit, budget, COSTS) - 1
            worst = max(worst, difference, key=abs)
        print(f"| {name} | {100 * worst:+.3f} % | {np.median(seconds):.2f} |", flush=True)


def plans(studies: int) -> None:
    """The second table."""
    print("\n| budget | prediction covered | sizes covered | verdicts | lost: median, 95th percentile |")
    print("|---|---|---|---|---|")
    for budget in (1000, 30_000):
        image, best = planted_optimum(TRUTH, budget)
        covered, sizes_covered, lost, verdicts = 0, 0, [], Counter()
        for number in range(studies):
            planned = hs.plan(hs.fit_law(study(TRUTH, number), "transfer_gap"), budget, LINEAR)
            at = {name: np.array([planned.allocation[name]]) for name in ("n_pretrain", "n_finetune")}
            truth = float(LAW.predict(TRUTH, at)[0])
            covered += planned.predicted["low"] <= truth <= planned.predicted["high"]
            low, high = planned.intervals["n_pretrain"]
            sizes_covered += low <= image <= high
            lost.append(truth / best - 1)
            verdicts[planned.verdict] += 1
        counted = ", ".join(f"{word} {count}" for word, count in verdicts.most_common())
        ends = " %, ".join(f"{100 * v:.2f}" for v in np.quantile(lost, (0.5, 0.95)))
        shares = " | ".join(format_percent(count / studies) for count in (covered, sizes_covered))
        print(f"| {budget:,} | {shares} | {counted} | {ends} % |", flush=True)


def gaps(studies: int) -> None:
    """The third table."""
    print("\n| share never closed | low | high | cannot_tell | interval of the share covered |\n|---|---|---|---|---|")
    closable = TRUTH["A"] * UPSTREAM[-1] ** -TRUTH["alpha"]
    for share in (0.0, 0.1, 0.3, 0.5, 0.7, 0.9):
        truth, counts, covered = TRUTH | {"G": closable * share / (1 - share)}, Counter(), 0
        for number in range(studies):
            row = hs.transfer_gaps(study(truth, number)).table.iloc[0]
            counts[row["verdict"]] += 1
            covered += row["share_low"] - 1e-9 <= share <= row["share_high"]
        cells = " | ".join(str(counts[word]) for word in ("low", "high", "cannot_tell"))
        print(f"| {format_percent(share)} | {cells} | {format_percent(covered / studies)} |", flush=True)


def arms(studies: int) -> None:
    """The fourth table."""
    print("\n| distilled arm's A | distilled chosen | ahead in 95 % of its draws or more |\n|---|---|---|")
    for factor in (1.0, 0.97, 0.9):
        chosen, clear = 0, 0
        for number in range(studies):
            tables = {"plain": study(TRUTH, number), "distilled": study(TRUTH | {"A": factor * 30.0}, 10_000 + number)}
            fits = {arm: hs.fit_law(table, "transfer_gap", bootstrap=400) for arm, table in tables.items()}
            planned = hs.plan(fits, 1000, LINEAR)
            chosen += planned.allocation["arm"] == "distilled"
            clear += planned.arms["p_better"].max() >= 0.95
        print(f"| {factor:g} of plain's | {chosen} of {studies} | {clear} of {studies} |", flush=True)


def designs(studies: int) -> None:
    """The fifth table."""
    near, far = 4000 * 1.5 ** np.arange(3), 4000 * 4.0 ** np.arange(3)
    tried = {
        "2 n_pretrain": (UPSTREAM[[0, -1]], LABELLED),
        "3 n_pretrain, a factor of 1.5 apart": (near, LABELLED),
        "3 n_pretrain, a factor of 4 apart": (far, LABELLED),
        "2 n_finetune": (UPSTREAM, LABELLED[[0, -1]]),
        "1 n_finetune": (UPSTREAM, LABELLED[2:3]),
        "3 n_finetune, a factor of 4 apart": (UPSTREAM, LABELLED[1:4]),
    }
    print("\n| design | definite and right | wrong |\n|---|---|---|")
    for name, (upstream, labelled) in tried.items():
        counts: Counter = Counter()
        for share in (0.0, 0.2, 0.8):
            closable = TRUTH["A"] * upstream[-1] ** -TRUTH["alpha"]
            truth, right = TRUTH | {"G": closable * share / (1 - share)}, "high" if share > 0.5 else "low"
            for number in range(studies):
                table = study(truth, number, upstream=upstream, labelled=labelled)
                verdict = hs.transfer_gaps(table, bootstrap=400).table["verdict"].iloc[0]
                counts["cannot_tell" if verdict == "cannot_tell" else verdict == right] += 1
        print(f"| {name} | {counts[True]} of {3 * studies} | {counts[False]} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=100)
    parts = {"optima": lambda _: optima(), "plans": plans, "gaps": gaps, "arms": arms, "designs": designs}
    parser.add_argument("--part", choices=parts, help="one table only")
    given = parser.parse_args()
    for name, part in parts.items():
        if given.part in (None, name):
            part(given.studies)


if __name__ == "__main__":
    main()
