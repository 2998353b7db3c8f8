"""How often the interval holds outside the data: measured curves with their largest scales held out, planted laws.

    OMP_NUM_THREADS=1 python benchmarks/held_out.py bird cal flan gigaword syn2real chinchilla planted
    OMP_NUM_THREADS=1 python benchmarks/held_out.py flan_grids gigaword_grids tiny_imagenet scalebench
    OMP_NUM_THREADS=1 python benchmarks/held_out.py planted_auto

Each measured set is fitted without its largest scales (few-shot curves: is_fit = 1; fine-tuning curves: all but the
three largest sizes; syn2real: fractions to 7 %; Chinchilla: all but the top decade of compute) and predicted there.
"width" is the median half-width of the mean band, on the log scale, over that of the narrowest constant band that
would have held 95 % of the points, known afterwards only. The second command is of tables in which several sizes vary:
families of language models by n_finetune (four or six of its levels fitted, the next two predicted), the rows of
tests/data/tiny_imagenet by n_pretrain (the two largest predicted), and ScaleBench's pools with their test runs, each
with single laws alone. Planted rows are the cells of coverage.py: they compare the band at ten times the largest size
with the one without the law's own error. planted_auto is of curves of a power law, a shifted and a broken one, fitted
by law="auto". Needs ../shared/data for measured sets.
"""

import argparse
import collections
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import scalebench
from coverage import DESIGNS, cells, design

import hf_scaling as hs

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
STUDY = Path(__file__).resolve().parents[1] / "tests" / "data" / "tiny_imagenet" / "results.parquet"
ONE = ("power_law", "shifted_power_law", "m4", "bnsl")
GRID = ("transfer_gap", "transfer_gap_shifted", "rectified_joint", "effective_data", "effective_data_shifted")
SETS = ("bird", "cal", "flan", "gigaword", "syn2real", "chinchilla")
GRID_SETS = ("flan_grids", "gigaword_grids", "tiny_imagenet", "scalebench")
# What the names of each family's models begin with, and the laws of their tables.
FAMILIES = ("facebook/opt", "cerebras/", "gpt2", "MBZUAI/LaMini", "google/switch")
OF_FAMILIES = (
    "joint_multiplicative",
    "effective_data_model",
    hs.Law("additive", "E + A*n_params**-a + C*n_finetune**-c"),
)
Case = tuple[pd.DataFrame, pd.DataFrame, str | None, str, tuple["str | hs.Law", ...]]


def cases(name: str) -> Iterator[Case]:
    """Fitted rows, held-out rows, x, target and laws of each curve of a set."""
    if name in ("bird", "cal"):
        table = pd.read_csv(DATA / "few_shot_curves.csv")
        for (task, _), curve in table.groupby(["task", "model"]):
            if task.startswith(name):
                curve = curve[["n_pretrain", "error", "is_fit"]].sort_values("n_pretrain")
                yield curve[curve.is_fit == 1], curve[curve.is_fit == 0], "n_pretrain", "error", ONE
    elif name in ("flan", "gigaword"):
        table = pd.read_csv(DATA / "llm_finetune_curves.csv")
        names = [c for c in table.columns if c not in ("n_finetune", "loss", "n_params", "n_pretrain")]
        for key, curve in table.groupby(names):
            curve = curve[curve.n_finetune > 0].sort_values("n_finetune")[["n_finetune", "loss"]]
            if name in " ".join(map(str, key if isinstance(key, tuple) else (key,))).lower():
                yield curve.iloc[:-3], curve.iloc[-3:], "n_finetune", "loss", (*ONE, "rectified")
    elif name == "syn2real":
        table = pd.read_csv(DATA / "syn2real_transfer.csv")
        table = table[table.model.astype(str).str.contains("50") & (table.n_pretrain > 0)]
        rows = table[["n_pretrain", "n_finetune", "error"]]
        yield rows[table.fratio <= 7], rows[table.fratio > 7], None, "error", GRID
    else:
        table = pd.read_csv(DATA / "chinchilla_figure4.csv").sort_values("loss").iloc[:-5]
        rows, compute = table[["n_params", "n_pretrain", "loss"]], table.n_params * table.n_pretrain
        largest = compute.max() / 10
        yield rows[compute <= largest], rows[compute > largest], None, "loss", ("chinchilla", "chinchilla_coupled")


def grid_cases(name: str) -> Iterator[Case]:
    """The same of each table of a set in which several sizes vary."""
    if name.endswith("_grids"):
        table = pd.read_csv(DATA / "llm_finetune_curves.csv")
        table = table[(table.task == name.removesuffix("_grids")) & (table.n_finetune > 0)]
        for family, first, count in itertools.product(FAMILIES, (0, 5), (4, 6)):
            rows = table.loc[table.model.str.startswith(family), ["n_params", "n_finetune", "loss"]]
            levels = np.sort(rows.n_finetune.unique())[first:]
            fitted, beyond = (rows[rows.n_finetune.isin(part)] for part in (levels[:count], levels[count : count + 2]))
            yield fitted, beyond, None, "loss", OF_FAMILIES
    elif name == "tiny_imagenet":
        table = pd.read_parquet(STUDY)
        table = table[(table.stage == "finetune") & (table.n_pretrain > 0)]
        for _, rows in table.groupby(["arm", "downstream", "model"]):
            levels = np.sort(rows.n_pretrain.unique())
            for target in ("loss", "error") if len(levels) > 5 else ():
                means = rows.groupby(["n_pretrain", "n_finetune"], as_index=False)[target].mean()
                is_fitted = means.n_pretrain <= levels[-3]
                yield means[is_fitted], means[~is_fitted], None, target, GRID
    else:
        for task in ("data_constrained", "moe"):
            pool, test = (scalebench.read(scalebench.DATA / f"{task}_{part}.csv", task) for part in ("train", "test"))
            for law in scalebench.CANDIDATES[task]:
                names = [*(hs.LAWS[law] if isinstance(law, str) else law).variables, "loss"]
                yield pool[names], test[names], None, "loss", (law,)


def measured(name: str, bootstrap: int, only: list[str]) -> None:
    """Print a row for each law of a set."""
    found = collections.defaultdict(list)
    for fitted, beyond, x, target, laws in cases(name) if name in SETS else grid_cases(name):
        for law in (*laws, "auto") if name in SETS else laws:
            title = law if isinstance(law, str) else law.name
            if only and title not in only:
                continue
            one = law == "auto" or (isinstance(law, str) and len(hs.LAWS[law].variables) == 1 and law != "rectified")
            takes_x = x if one else None
            fit = hs.fit_law(fitted.reset_index(drop=True), law, target=target, x=takes_x, bootstrap=bootstrap)
            truth = beyond[target].to_numpy()
            bands = [fit.predict(beyond, kind=kind) for kind in ("mean", "new_run")]
            held = [np.mean((band.low <= truth) & (truth <= band.high)) for band in bands]
            miss = np.abs(np.log(truth / bands[0].value.to_numpy()))
            half = np.log(bands[0].high / bands[0].low).to_numpy() / 2
            found[title].append((float(np.sqrt(np.mean(miss**2))), *held, half, miss))
    for law, rows in found.items():
        error, mean, new = (100 * np.mean([row[i] for row in rows]) for i in range(3))
        width = np.median(np.concatenate([row[3] for row in rows]))
        hindsight = np.quantile(np.concatenate([row[4] for row in rows]), 0.95)
        print(
            f"| {name} | {law} | {len(rows)} | {error / 100:.4f} | {mean:.0f} | {new:.0f} | {width / hindsight:.2f} |",
            flush=True,
        )


def planted(studies: int, bootstrap: int) -> None:
    """Print a row for each planted design: coverage at ten times the largest sizes and the growth of the band."""
    for cell, (name, levels, noise) in cells().items():
        truth, sizes = DESIGNS[name][0], design(name, levels)
        columns = {v: "n_pretrain" if v == "x" else v for v in hs.LAWS[name].variables}
        far = {column: np.array([10 * sizes[column].max()]) for column in sizes}
        values = hs.LAWS[name].predict(truth, {v: sizes[c] for v, c in columns.items()})
        value = hs.LAWS[name].predict(truth, {v: far[c] for v, c in columns.items()})[0]
        held, held_without, growth = [], [], []
        for seed in range(studies):
            noisy = values * np.exp(noise * np.random.default_rng(seed).standard_normal(len(values)))
            fit = hs.fit_law({**sizes, "loss": noisy}, name, bootstrap=bootstrap, seed=seed)
            without = dataclasses.replace(fit, data={**fit.data, "discrepancy": None})
            one, two = fit.predict(far).iloc[0], without.predict(far).iloc[0]
            held.append(one.low <= value <= one.high)
            held_without.append(two.low <= value <= two.high)
            growth.append((one.high - one.low) / (two.high - two.low))
        shares = f"{100 * np.mean(held_without):.0f} | {100 * np.mean(held):.0f}"
        print(f"| {cell} | {studies} | {shares} | {np.median(growth):.2f} | {np.mean(growth):.2f} |", flush=True)


def planted_auto(studies: int, bootstrap: int) -> None:
    """Print a row for each design of planted curves: error and coverage of `auto` at ten times the largest size."""
    shapes = (
        lambda x: 0.35 + 12 * x**-0.35,
        lambda x: 0.3 + 20 * (x + 2000) ** -0.5,
        lambda x: 0.05 + 2 * x**-0.15 * (1 + (x / 3e4) ** 2) ** -0.1,
    )
    for levels, noise in itertools.product((12, 24, 60), (0.01, 0.05)):
        x = np.geomspace(250, 256_000, levels)
        errors, held = np.empty((2, len(shapes), studies))
        for (shape, law), seed in itertools.product(enumerate(shapes), range(studies)):
            loss = law(x) * np.exp(noise * np.random.default_rng(seed).standard_normal(levels))
            fit = hs.fit_law({"n_pretrain": x, "loss": loss}, "auto", bootstrap=bootstrap, seed=seed)
            band, truth = fit.predict({"n_pretrain": [10 * x[-1]]}).iloc[0], law(10 * x[-1])
            errors[shape, seed] = np.log(band.value / truth)
            held[shape, seed] = band.low <= truth <= band.high
        error = np.sqrt((errors**2).mean(axis=1))
        by_shape = ", ".join(f"{e:.3f} ({100 * h:.0f})" for e, h in zip(error, held.mean(axis=1)))
        print(f"| {levels} | {noise:.0%} | {error.mean():.3f} | {100 * held.mean():.0f} | {by_shape} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", choices=(*SETS, *GRID_SETS, "planted", "planted_auto"))
    parser.add_argument("--bootstrap", type=int, default=200)
    parser.add_argument("--studies", type=int, default=40)
    parser.add_argument("--laws", nargs="*", default=[], help="only these laws")
    options = parser.parse_args()
    of_data = [name for name in options.sets if not name.startswith("planted")]
    if of_data and not DATA.is_dir():
        raise SystemExit(f"this needs the published measurements: {DATA}")
    if of_data:
        print("| set | law | curves | held-out log RMSE | mean band holds, % | new-run band holds, % | width |")
        print("|---|---|---|---|---|---|---|")
    for name in of_data:
        measured(name, options.bootstrap, options.laws)
    if "planted" in options.sets:
        print("| planted | studies | without, % | with, % | median growth | mean growth |")
        print("|---|---|---|---|---|---|")
        planted(options.studies, options.bootstrap)
    if "planted_auto" in options.sets:
        print("| sizes | noise | error at 10x | held, % | power law, shifted, broken: error (held) |")
        print("|---|---|---|---|---|")
        planted_auto(options.studies, options.bootstrap)


if __name__ == "__main__":
    main()
