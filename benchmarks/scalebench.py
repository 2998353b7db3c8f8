"""How well `suggest_runs` spends a share of a pool's cost: ScaleBench's finished runs, replayed.

    OMP_NUM_THREADS=1 python benchmarks/scalebench.py [--tasks moe vocab] [--seeds 10] [--data FOLDER]

A task has a pool of finished language-model runs (train) and expensive runs to predict (test). Its law is the one of
`CANDIDATES` that `compare_laws` ranks first on the train file alone; it is printed before the test file is opened and
is the same for every method. With 1, 5 and 10 % of the pool's total cost each method selects runs, the law is fitted
to them, and R2 on the test runs is its score:

- ours: the twelve cheapest runs as a pilot, then three rounds of `suggest_runs(among=pool)` for the predictions at the
  test runs' sizes, each with an equal share of what is left, the law refitted after each;
- random: runs in a random order, each that can still be paid;
- cheapest: the cheapest runs first.

A seed shuffles the pool (which decides between equal runs) and is the seed of the fits. Beside the mean and the
smallest R2 over seeds stands the best published row (Li et al. 2026, mean over their ten laws). Data: ../shared/data.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd

import hf_scaling as hs

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "scalebench"
SHARES, PILOT, ROUNDS = (0.01, 0.05, 0.1), 12, 3
MOE, VOCAB = ("num_experts", "dense_parameter_count"), ("non_vocab_parameters", "vocab_size", "num_characters")
RENAMED = {
    "params": "n_params",
    "unique_tokens": "n_pretrain",
    "tokens": "samples_seen",
    "loss_validation": "loss",
    "unigram_normalized_loss": "loss",
}
COSTS = {
    "data_constrained": lambda rows: 6 * rows["n_params"] * rows["samples_seen"],
    "moe": lambda rows: rows["num_experts"] * rows["dense_parameter_count"],
    "vocab": lambda rows: 6 * rows["non_vocab_parameters"] * rows["num_characters"],
}
# Published R2 at 1, 5 and 10 % of the cost, the best row of random, D-opt, V-opt and theirs.
PUBLISHED = {"data_constrained": (0.73, 0.85, 0.86), "moe": (0.67, 0.80, 0.83), "vocab": (0.96, 0.98, 0.98)}


def law(name: str, formula: str, variables: tuple[str, ...]) -> hs.Law:
    """A law whose floor may lie below zero, as that of a loss that is normalised by another."""
    return hs.Law(name, formula, variables=variables, bounds={"E": (None, None)} if variables == VOCAB else None)


CANDIDATES = {
    "data_constrained": [
        "data_constrained",
        law("sizes and tokens", "E + A*n_params**-a + B*samples_seen**-b", ("n_params", "samples_seen")),
        law("sizes and unique tokens", "E + A*n_params**-a + B*n_pretrain**-b", ("n_params", "n_pretrain")),
        law(
            "additive",
            "E + A*n_params**-a + B*samples_seen**-b + C*n_pretrain**-c",
            ("n_params", "n_pretrain", "samples_seen"),
        ),
    ],
    "moe": [
        law("multiplicative", "E + A*num_experts**-a*dense_parameter_count**-b", MOE),
        law("additive", "E + A*dense_parameter_count**-a + B*num_experts**-b", MOE),
        law("shifted", "E + A*(num_experts + x0)**-a*dense_parameter_count**-b", MOE),
        law("with a gap", "E + (A*num_experts**-a + G)*dense_parameter_count**-b", MOE),
    ],
    "vocab": [
        law("additive", "E + A*non_vocab_parameters**-a + B*vocab_size**-b + C*num_characters**-c", VOCAB),
        law("data by vocabulary", "E + A*non_vocab_parameters**-a + C*vocab_size**d*num_characters**-c", VOCAB),
        law(
            "both",
            "E + A*non_vocab_parameters**-a + B*vocab_size**-b + C*vocab_size**d*num_characters**-c",
            VOCAB,
        ),
    ],
}


def read(path: Path, task: str) -> pd.DataFrame:
    """A task's runs with this project's columns and their cost."""
    rows = pd.read_csv(path).drop(columns="group").rename(columns=RENAMED)
    return rows.assign(cost=COSTS[task](rows))


def choose_law(pool: pd.DataFrame, task: str) -> "str | hs.Law":
    """The candidate that predicts the held-out largest scales of the pool best."""
    objective = "log_huber" if (pool["loss"] > 0).all() else "mse"
    ranking = hs.compare_laws(pool, target="loss", laws=CANDIDATES[task], objective=objective)
    print(
        f"\n{task}: law {ranking.best!r} by the train file alone\n{ranking.table.to_string(index=False)}", flush=True
    )
    return next(each for each in CANDIDATES[task] if ranking.best in (each, getattr(each, "name", None)))


def fitted(runs: pd.DataFrame, chosen: "str | hs.Law", seed: int, bootstrap: int = 0) -> hs.LawFit:
    objective = "log_huber" if (runs["loss"] > 0).all() else "mse"
    return hs.fit_law(runs, chosen, target="loss", objective=objective, bootstrap=bootstrap, seed=seed)


def r_squared(fit: hs.LawFit, test: pd.DataFrame) -> float:
    misses = test["loss"] - fit.predict(test)["value"]
    return 1 - float((misses**2).sum() / ((test["loss"] - test["loss"].mean()) ** 2).sum())


def ours(pool: pd.DataFrame, budget: float, chosen: "str | hs.Law", at: pd.DataFrame, seed: int) -> pd.DataFrame:
    known = pool.sort_values("cost", kind="stable")[:PILOT]
    for left in range(ROUNDS, 0, -1):
        fit = fitted(known, chosen, seed, bootstrap=200)
        share = (budget - known["cost"].sum()) / left
        runs = hs.suggest_runs(fit, among=pool, table=known, budget=share, at=at)
        known = pd.concat([known, pool.loc[runs.index]])
    return known


def at_random(pool: pd.DataFrame, budget: float, seed: int) -> pd.DataFrame:
    kept, left = [], budget
    for row in np.random.default_rng(seed).permutation(len(pool)):
        if pool["cost"].iloc[row] <= left:
            kept.append(row)
            left -= pool["cost"].iloc[row]
    return pool.iloc[kept]


def cheapest(pool: pd.DataFrame, budget: float) -> pd.DataFrame:
    ordered = pool.sort_values("cost", kind="stable")
    return ordered[ordered["cost"].cumsum() <= budget]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="*", default=list(CANDIDATES), choices=list(CANDIDATES))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    if not given.data.exists():
        sys.exit(f"{given.data} is absent: the published runs are needed")
    table, slowest = [], 0.0
    for task in given.tasks:
        train = read(given.data / f"{task}_train.csv", task)
        chosen = choose_law(train, task)
        test = read(given.data / f"{task}_test.csv", task)
        # What the target runs are is known, not their losses.
        at = test[list((hs.LAWS[chosen] if isinstance(chosen, str) else chosen).variables)]
        for share, published in zip(SHARES, PUBLISHED[task]):
            scores: dict[str, list[float]] = {"ours": [], "random": [], "cheapest": []}
            for seed in range(given.seeds):
                pool = train.sample(frac=1, random_state=seed).reset_index(drop=True)
                budget = share * pool["cost"].sum()
                began = time.process_time()
                selected = {"ours": ours(pool, budget, chosen, at, seed)}
                slowest = max(slowest, (time.process_time() - began) / ROUNDS)
                selected |= {"random": at_random(pool, budget, seed), "cheapest": cheapest(pool, budget)}
                for method, runs in selected.items():
                    scores[method].append(r_squared(fitted(runs, chosen, seed), test))
            table.append((task, share, scores, published))
            print(".", end="", file=sys.stderr, flush=True)
    report(table, slowest)


def report(table: list[tuple], slowest: float) -> None:
    print("\n| task | cost | ours | random | cheapest | published best |\n|---|---|---|---|---|---|")
    not_below, above, published_reached = 0, 0, 0
    for task, share, scores, published in table:
        means = {method: float(np.mean(values)) for method, values in scores.items()}
        cells = " | ".join(f"{means[method]:.3f} ({min(values):.2f})" for method, values in scores.items())
        print(f"| {task} | {share:.0%} | {cells} | {published:.2f} |")
        better = max(means["random"], means["cheapest"])
        not_below += means["ours"] >= better - 0.02
        above += means["ours"] >= better + 0.02
        published_reached += round(means["ours"], 2) >= published
    print("\nmean R2 (smallest over seeds)")
    print(f"at most .02 below both: {not_below} of {len(table)}; above the better by .02: {above}")
    print(f"at least the published best row: {published_reached}; slowest round {slowest:.1f} s of processor time")


if __name__ == "__main__":
    main()
