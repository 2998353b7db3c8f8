"""Simulated studies: does the loop of `hf-scaling study` answer rightly, and how much does it save?

    python benchmarks/simulated_studies.py [--studies 100] [--kinds inside beyond always never identical]
    python benchmarks/simulated_studies.py --first 1000 --levels .95 .98 .99      # compares levels on other studies

Runs are planted: the plain arm follows a power law of n_pretrain, the distilled arm is better or worse than it by a
ratio that is zero at the crossing; every run has noise of 2 %. The pool holds nine levels and twelve seeds. Crossings
inside are at least a factor of 1.5 from the smallest and the largest level. Of three studies the log ratio of the
first is a straight line in log n, of the second it flattens on both sides, and of the third it turns beyond the
crossing and comes back towards zero, as on Fashion-MNIST. Printed for each kind and level: what was answered, how
often wrongly, how often the interval holds the crossing (also where the study does not report it; "no interval" where
the curve has no fall through zero, which counts as not held), and the share of the crossings answered at the cost at
which a fixed grid (all levels, seed after seed) answers half of them.
"""

import argparse
import time
from collections import Counter
from unittest import mock

import numpy as np
import pandas as pd

from hf_scaling.study import questions
from hf_scaling.study.questions import Question, judge
from hf_scaling.study.rounds import run_rounds

LEVELS = np.array([250, 500, 1000, 2000, 4000, 8000, 16000, 32000, 64000])
SEEDS, NOISE, N_PARAMS = range(12), 0.02, 211_338
SECONDS = {"plain": 1.0, "distilled": 1.3}
KINDS = ("inside", "beyond", "always", "never", "identical")
SHAPES = ("straight", "flattens", "turns")


def log_ratio(shape: str, power: float, width: float, apart: np.ndarray) -> np.ndarray:
    """log(distilled / plain) at logarithms of n over the crossing."""
    if shape == "straight":
        return power * apart
    if shape == "flattens":
        return power * width * np.tanh(apart / width)
    return 2 * power * apart * np.exp(-np.clip(apart, -width, None) / width)


def planted(kind: str, number: int) -> tuple[pd.DataFrame, float]:
    """All runs of a pool with their losses, and the true crossing (inf: beyond, 0: below, nan: none)."""
    draw = np.random.default_rng([KINDS.index(kind), number])
    inside = np.log(LEVELS[[0, -1]]) + np.log(1.5) * np.array([1, -1])
    crossing = {
        "inside": np.exp(draw.uniform(*inside)),
        "beyond": np.exp(draw.uniform(np.log(100_000), np.log(1e6))),
        "always": np.inf,
        "never": 0.0,
        "identical": np.nan,
    }[kind]
    exponent, power, width = draw.uniform(0.2, 0.45), draw.uniform(0.05, 0.15), draw.uniform(1.2, 2.5)
    constant = {"always": -0.08, "never": 0.08, "identical": 0.0}.get(kind)
    rows = []
    for seed in SEEDS:
        for n in LEVELS:
            plain = 0.3 + 40 * n**-exponent
            ratio = constant
            if ratio is None:
                ratio = log_ratio(SHAPES[number % len(SHAPES)], power, width, np.log(n / crossing))
            for arm, loss in (("plain", plain), ("distilled", plain * np.exp(ratio))):
                seconds = SECONDS[arm] * max(n, 2000) / 1000
                rows.append({"arm": arm, "n_pretrain": n, "seed": seed, "loss": loss, "seconds": seconds})
    frame = pd.DataFrame(rows)
    frame["loss"] *= np.exp(NOISE * draw.standard_normal(len(frame)))
    constants = {"stage": "pretrain", "model": "vit-200k", "n_params": N_PARAMS, "n_finetune": 0, "downstream": None}
    return frame.assign(**constants), crossing


class PlantedPool:
    """A pool in memory: measuring is looking up."""

    workers = 1

    def __init__(self, runs: pd.DataFrame, seconds: float):
        self.runs, self.left, self.done = runs, seconds, []

    def candidates(self) -> pd.DataFrame:
        """The runs without a row."""
        return self.runs.drop(index=self.done)

    def measure(self, cells: pd.Index) -> None:
        """Look the cells up."""
        self.done += list(cells)
        self.left -= float(self.runs.loc[cells, "seconds"].sum())

    def table(self) -> pd.DataFrame:
        """The rows so far."""
        return self.runs.loc[self.done]

    def seconds_left(self) -> float:
        """Seconds left."""
        return self.left

    @property
    def spent(self) -> float:
        """Seconds of the measured runs."""
        return float(self.runs.loc[self.done, "seconds"].sum())


def is_wrong(kind: str, verdict: str, low: float, high: float, crossing: float) -> bool:
    """Whether an answer is false; "always" is right where the crossing lies beyond the source's largest."""
    if verdict == "crossing":
        return not (kind == "inside" and low <= crossing <= high)
    right = {"inside": (), "beyond": ("distillation_always",), "identical": ("no_difference",)}
    return verdict not in right.get(kind, (f"distillation_{kind}",))


def grid_cost(runs: pd.DataFrame, question: Question) -> float:
    """Seconds until a fixed grid answers: all levels of one seed, then of the next; inf where it never does."""
    spent = 0.0
    for seed in SEEDS:
        spent += float(runs.loc[runs["seed"] == seed, "seconds"].sum())
        if judge(runs[runs["seed"] <= seed], question).answered:
            return spent
    return np.inf


def sweep(kind: str, level: float, numbers: range, budget: float) -> str:
    """Run the studies of one kind with looks held to a level, as a line of results."""
    question = Question("boundary", "loss", N_PARAMS, (float(LEVELS[0]), float(LEVELS[-1])))
    count, verdicts, costs, grids = Counter(), Counter(), [], []
    with mock.patch.object(questions, "LEVEL", level):
        for number in numbers:
            runs, crossing = planted(kind, number)
            pool = PlantedPool(runs, budget)
            outcome = run_rounds(pool, [question], seed=number)
            answer = outcome.answers["boundary"]
            is_answered = outcome.status == "answered"
            verdicts[answer.verdict if is_answered else f"({answer.verdict})"] += 1
            count["wrong"] += is_answered and is_wrong(kind, answer.verdict, answer.low, answer.high, crossing)
            if kind != "inside":
                continue
            falls = [c for c in answer.evidence.crossings if c["direction"] < 0] if answer.evidence else []
            holds = any(c["low"] <= crossing <= c["high"] for c in falls)
            count["held of all"] += holds
            count["no interval"] += not falls
            if answer.verdict == "crossing":
                count["reported"] += 1
                count["held"] += answer.low <= crossing <= answer.high
                shape = SHAPES[number % len(SHAPES)]
                count[f"reported, {shape}"] += 1
                count[f"held, {shape}"] += answer.low <= crossing <= answer.high
            costs.append(pool.spent if is_answered else np.inf)
            grids.append(grid_cost(runs, question))
    line = f"{kind:10} {level:.2f}  wrong {count['wrong']}/{len(numbers)}  {dict(verdicts)}"
    if kind == "inside":
        half, of_shape = np.median(grids), [f"{s} {count[f'held, {s}']}/{count[f'reported, {s}']}" for s in SHAPES]
        line += f"\n{'':16} held {count['held']}/{count['reported']} reported ({', '.join(of_shape)}), "
        line += f"{count['held of all']}/{len(numbers)} of all, no interval {count['no interval']}"
        line += f"\n{'':16} answered at the grid's median cost, {half:.0f} s: {np.mean(np.array(costs) <= half):.2f}; "
        line += f"median cost {np.median(costs):.0f} s"
    return line


def main() -> None:
    """Run the studies of each kind and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="number of the first study")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--levels", nargs="+", type=float, default=[questions.LEVEL], help="of a look's intervals")
    parser.add_argument("--budget", type=float, default=1500, help="seconds of each study; the pool takes 3,600")
    options = parser.parse_args()
    began = time.process_time()
    for kind in options.kinds:
        for level in options.levels:
            numbers = range(options.first, options.first + options.studies)
            print(sweep(kind, level, numbers, options.budget), flush=True)
    print(f"{time.process_time() - began:.0f} s of processor time")


if __name__ == "__main__":
    main()
