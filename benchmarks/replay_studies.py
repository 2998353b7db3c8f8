"""Replayed studies: the loop of `hf-scaling study` on stored tables, whose finished runs are its pool.

    python benchmarks/replay_studies.py [--tables tests/data/fashion_mnist ...] [--orders 20]

The question is the boundary by loss at the middle one of the students with both arms. Runs are measured by looking
them up, and cost the seconds that they took; the loop has as many as all of them take. In each of the orders the
repeats of a size are shuffled. Compared is the cost until the rows answer and still do one step later: of the loop's
rounds, and of pairs of runs one by one in random order, in the grid's (all sizes with the first seed, then with the
next) and cheapest first, where costs within a tenth of each other are equal and their order is drawn (by the seconds
as they were timed, differences of a percent would choose the same pairs in every order: that one is printed too).
Printed are medians with ratios to the loop's; a table whose rows do not answer all together is said to be so.
"""

import argparse
from pathlib import Path

import numpy as np
import pandas as pd
from simulated_studies import PlantedPool

import hf_scaling as hs
from hf_scaling.study.questions import Question, judge, of_student
from hf_scaling.study.rounds import run_rounds

DATA = Path(__file__).resolve().parent.parent / "tests" / "data"
TABLES = [DATA / name for name in ("fashion_mnist", "fashion_mnist_half_steps", "tiny_imagenet")]
# Judgements that must agree, as in the loop.
CONFIRMED = 2
# Costs within this factor count as equal.
_TIE = 1.1


def read_pool(path: Path, n_params: float | None) -> tuple[pd.DataFrame, Question]:
    """The pretraining runs of both arms of the middle student, or of the one nearest to n_params, and the question."""
    frame = hs.ResultsTable.load(path).to_pandas()
    frame = frame[frame["stage"] == "pretrain"]
    sizes = np.sort(frame.loc[frame["arm"] == "distilled", "n_params"].unique())
    frame = of_student(frame[frame["n_params"].isin(sizes)], n_params or sizes[len(sizes) // 2])
    ends = float(frame["n_pretrain"].min()), float(frame["n_pretrain"].max())
    return frame.reset_index(drop=True), Question("boundary", "loss", float(frame["n_params"].iloc[0]), ends)


def shuffled(runs: pd.DataFrame, order: int) -> pd.DataFrame:
    """The runs, with the repeats of each size under each other's seeds."""
    draw, parts = np.random.default_rng(order), []
    for _, rows in runs.groupby("n_pretrain"):
        seeds = np.sort(rows["seed"].unique())
        parts.append(rows.assign(seed=rows["seed"].map(dict(zip(seeds, draw.permutation(seeds))))))
    return pd.concat(parts)


def cost_of_order(runs: pd.DataFrame, pairs: list[tuple], question: Question) -> float:
    """Seconds until the pairs (n_pretrain, seed), measured one by one, have answered; inf where they never do."""
    keys = pd.Series(list(zip(runs["n_pretrain"], runs["seed"])), index=runs.index)
    stayed, before = 0, ""
    for count in range(3, len(pairs) + 1):
        measured = runs[keys.isin(pairs[:count])]
        answer = judge(measured, question)
        stayed = 0 if not answer.answered else stayed + 1 if answer.verdict == before else 1
        before = answer.verdict
        if stayed == CONFIRMED:
            return float(measured["seconds"].sum())
    return np.inf


def costs_of(runs: pd.DataFrame, question: Question, order: int) -> dict[str, float]:
    """Seconds until answered, by the way in which runs are chosen."""
    runs = shuffled(runs, order)
    pool = PlantedPool(runs, float(runs["seconds"].sum()))
    outcome = run_rounds(pool, [question], seed=order)
    pairs = runs.groupby(["n_pretrain", "seed"])["seconds"].sum()
    by_grid = sorted(pairs.index, key=lambda pair: (pair[1], pair[0]))
    at_random = [pairs.index[i] for i in np.random.default_rng([order, 1]).permutation(len(pairs))]
    ties = np.round(np.log(pairs.to_numpy()) / np.log(_TIE)), np.random.default_rng([order, 2]).random(len(pairs))
    cheapest = [pairs.index[i] for i in np.lexsort(ties[::-1])]
    return {
        "loop": pool.spent if outcome.status == "answered" else np.inf,
        "random": cost_of_order(runs, at_random, question),
        "grid": cost_of_order(runs, by_grid, question),
        "cheapest first": cost_of_order(runs, cheapest, question),
        "as timed": cost_of_order(runs, list(pairs.sort_values(kind="stable").index), question),
    }


def main() -> None:
    """Replay each table and print its medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", nargs="+", type=Path, default=TABLES)
    parser.add_argument("--orders", type=int, default=20)
    parser.add_argument("--n-params", type=float, help="of the student, by default the middle one")
    options = parser.parse_args()
    for path in options.tables:
        runs, question = read_pool(path, options.n_params)
        answer, total = judge(runs, question), runs["seconds"].sum()
        print(f"{path.name}: {runs['model'].iloc[0]}, {len(runs)} runs, {total:,.0f} s: {answer.text}", flush=True)
        if not answer.answered:
            print(f"  all rows together do not answer ({answer.verdict}): nothing to compare")
            continue
        costs = pd.DataFrame([costs_of(runs, question, order) for order in range(options.orders)])
        medians, answered = costs.median(), np.isfinite(costs).mean()
        for name in costs:
            line = f"  {name:15} median {medians[name]:6.0f} s, answered in {answered[name]:.0%} of the orders"
            print(line + ("" if name == "loop" else f"; the loop's is {medians['loop'] / medians[name]:.2f} of it"))


if __name__ == "__main__":
    main()
