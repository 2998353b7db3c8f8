"""How well `need` says what a target takes: published few-shot curves with their last eighths hidden.

    OMP_NUM_THREADS=1 python benchmarks/need.py [--law auto] [--rounds 5] [--workers 2] [--data FOLDER]

Known are the rows of a curve with n_pretrain at most an eighth of the largest, where there are at least eight.
Targets are the errors that the curve reaches at 2, 4 and 8 times the largest known size, so that the truth is known.
First table: shares of each verdict; of the answers that are numbers, how often they are within a factor of 2 and how
often low to high contains the truth. Second: collecting in rounds. Rows up to `need.collect` become known, until the
target's true size is reached or five rounds are over: how often the target is missed, and how much too much is
collected. Beside `collect` stand other rules. Needs the published measurements in ../shared/data.
"""

import argparse
import sys
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd

import hf_scaling as hs
from hf_scaling.text import format_percent

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MULTIPLES = (2.0, 4.0, 8.0)
FEWEST = 8
# What each rule aims at; the steps of one round are those of `need`.
RULES = ("collect", "value, no least step", "upper end, 75 %")


def curves(folder: Path) -> list[pd.DataFrame]:
    """The curves with enough known rows, each by ascending n_pretrain."""
    table = pd.read_csv(folder / "few_shot_curves.csv")
    groups = [curve.sort_values("n_pretrain") for _, curve in table.groupby(["task", "model"], sort=False)]
    return [c for c in groups if (c["n_pretrain"] <= c["n_pretrain"].max() / 8).sum() >= FEWEST]


def error_at(curve: pd.DataFrame, size: float) -> float:
    """The error of a curve at a size, between the rows around it."""
    return float(np.exp(np.interp(np.log(size), np.log(curve["n_pretrain"]), np.log(curve["error"]))))


class Curve:
    """One curve and the laws of its first rows, each fitted once."""

    def __init__(self, rows: pd.DataFrame, law: str, bootstrap: int):
        self.rows, self.law, self.bootstrap = rows, law, bootstrap
        self.fits: dict[int, hs.LawFit] = {}
        known = rows["n_pretrain"] <= rows["n_pretrain"].max() / 8
        self.largest = float(rows.loc[known, "n_pretrain"].max())

    def need(self, most: float, value: float, level: float = 0.95):
        """What `need` says from the rows up to a size."""
        known = self.rows[self.rows["n_pretrain"] <= most][["n_pretrain", "error"]]
        if len(known) not in self.fits:
            settings = {"x": "n_pretrain"} if self.law == "auto" or len(hs.LAWS[self.law].variables) == 1 else {}
            self.fits[len(known)] = hs.fit_law(known, self.law, "error", bootstrap=self.bootstrap, **settings)
        return hs.need(self.fits[len(known)], "error", value, "n_pretrain", level=level)

    def collected(self, rule: str, value: float, truth: float, rounds: int) -> float:
        """The amount after the rounds of a rule."""
        most = self.largest
        for _ in range(rounds):
            if most >= truth:
                break
            found = self.need(most, value, 0.5 if rule.startswith("upper") else 0.95)
            aim = {"collect": found.collect, "upper end, 75 %": found.high}.get(rule, found.value)
            aim = most if aim is None or np.isnan(aim) else aim
            least = 1.0 if rule.startswith("value") else 1.25
            most = min(max(aim, least * most), 3 * most)
        return most


def measure(job: tuple[pd.DataFrame, str, int, int]) -> list[dict]:
    """A row a target of one curve."""
    *of_curve, rounds = job
    curve, rows = Curve(*of_curve), []
    for multiple in MULTIPLES:
        truth = multiple * curve.largest
        value = error_at(curve.rows, truth)
        found = curve.need(curve.largest, value)
        row = {"multiple": multiple, "verdict": found.verdict, "ratio": found.value / truth}
        row |= {"low": found.low / truth, "inside": found.low <= truth <= found.high, "open": np.isinf(found.high)}
        row |= {rule: curve.collected(rule, value, truth, rounds) / truth for rule in RULES if rounds}
        rows.append(row)
    name = f"{curve.rows['task'].iloc[0]} {curve.rows['model'].iloc[0]}"
    answers = ", ".join(f"{row['verdict']} {row['ratio']:.2f} (low {row['low']:.2f})" for row in rows)
    print(f"{name}, value and low / truth: {answers}", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--law", default="auto")
    parser.add_argument("--bootstrap", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5, help="0 for the first table alone")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--data", type=Path, default=DATA)
    given = parser.parse_args()
    if not given.data.exists():
        sys.exit(f"{given.data} is absent: the published curves are needed")
    jobs = [(rows, given.law, given.bootstrap, given.rounds) for rows in curves(given.data)]
    with ProcessPoolExecutor(given.workers) as pool:
        table = pd.DataFrame([row for rows in pool.map(measure, jobs) for row in rows])
    print(f"{len(jobs)} curves, law {given.law}\n")
    print("| truth | targets | verdicts | within a factor of 2 | low to high contains it | no upper end |")
    print("|---|---|---|---|---|---|")
    for multiple in (*MULTIPLES, None):
        part = table if multiple is None else table[table["multiple"] == multiple]
        answers = part[part["verdict"].isin(["reached_inside", "extrapolated"])]
        counts = ", ".join(f"{verdict} {count}" for verdict, count in Counter(part["verdict"]).most_common())
        shares = (np.abs(np.log(answers["ratio"])) <= np.log(2), answers["inside"], answers["open"])
        cells = " | ".join(format_percent(float(share.mean())) if len(answers) else "–" for share in shares)
        name = "all" if multiple is None else f"{multiple:g} x"
        print(f"| {name} | {len(part)} | {counts} | {cells} |")
    print(f"\nfalse nevers: {(table['verdict'] == 'never').sum()} of {len(table)}")
    if not given.rounds:
        return
    print(f"\n| rule, at most {given.rounds} rounds | missed | collected / needed: median | 90 % |\n|---|---|---|---|")
    for rule in RULES:
        reached = table.loc[table[rule] >= 1, rule]
        missed = format_percent(float((table[rule] < 1).mean()))
        print(f"| {rule} | {missed} | {reached.median():.2f} | {reached.quantile(0.9):.2f} |")


if __name__ == "__main__":
    main()
