"""Pooled fits: a curve keeps four small sizes at ratios of about 2, the others are whole; its rest is predicted.

    OMP_NUM_THREADS=1 python benchmarks/pooling.py bird flan cal gigaword planted [--laws auto bnsl] [--every 1]

Every curve of a set is cut in turn and predicted by a pooled fit of the set (pool: task and model), by an independent
fit of its four sizes (`law="auto"`) and by its last value. "width" is the median half-width of the mean band over that
of the narrowest constant band that would have held 95 % of the points, known afterwards only. Planted rows: curves
that share a distribution, of which one keeps four sizes, with coverage; and whole curves that have nothing in common,
with the prediction's error at ten times the largest size over that of independent fits. The measured sets need
../shared/data.
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pandas as pd

import hf_scaling as hs

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
SETS = ("bird", "cal", "flan", "gigaword")


def curves(name: str) -> tuple[str, str, list[pd.DataFrame]]:
    """The size, the target and the curves of a set, each sorted by size."""
    few_shot = name.split("_")[0] in ("bird", "cal")
    size, target = ("n_pretrain", "error") if few_shot else ("n_finetune", "loss")
    table = pd.read_csv(DATA / ("few_shot_curves.csv" if few_shot else "llm_finetune_curves.csv"))
    table = table[table.task.str.startswith(name) & (table[size] > 0)][["task", "model", size, target]]
    return size, target, [curve.sort_values(size) for _, curve in table.groupby(["task", "model"])]


def smallest(sizes: np.ndarray, count: int = 4, ratio: float = 2.0) -> np.ndarray:
    """Positions of the smallest sizes at ratios of about 2."""
    kept = [0]
    while len(kept) < count:
        nearest = int(np.argmin(np.abs(np.log(sizes / (ratio * sizes[kept[-1]])))))
        kept.append(max(nearest, kept[-1] + 1))
    return np.array(kept)


def measured(name: str, law: str, every: int, bootstrap: int) -> None:
    """Print a row for a set and a law."""
    size, target, whole = curves(name)
    rows, halves, misses, start = [], [], [], time.process_time()
    for place in range(0, len(whole), every):
        curve = whole[place]
        kept = smallest(curve[size].to_numpy())
        few, rest = curve.iloc[kept], curve[curve[size] > curve[size].iloc[kept[-1]]]
        table = pd.concat([*whole[:place], few, *whole[place + 1 :]], ignore_index=True)
        takes_x = size if law == "auto" or hs.LAWS[law].variables == ("x",) else None
        pool = ["task", "model"]
        fit = hs.fit_law(table, law, target=target, x=takes_x, pool=pool, bootstrap=bootstrap)
        alone = hs.fit_law(few.reset_index(drop=True)[[size, target]], "auto", target=target, x=size, bootstrap=0)
        truth = rest[target].to_numpy()
        bands = [fit.predict(rest, kind=kind) for kind in ("mean", "new_run")]
        predicted = [bands[0].value, alone.predict(rest).value, np.full(len(rest), few[target].iloc[-1])]
        errors = [float(np.sqrt(np.mean(np.log(values / truth) ** 2))) for values in predicted]
        held = [float(np.mean((band.low <= truth) & (truth <= band.high))) for band in bands]
        rows.append((*errors, *held))
        halves.append(np.log(bands[0].high / bands[0].low).to_numpy() / 2)
        misses.append(np.abs(np.log(bands[0].value / truth)))
    width = np.median(np.concatenate(halves)) / np.quantile(np.concatenate(misses), 0.95)
    pooled, alone, last, mean, new = np.mean(rows, axis=0)
    seconds = (time.process_time() - start) / len(rows)
    text = (
        f"| {name} | {law} | {len(rows)} | {pooled:.4f} | {alone:.4f} | {last:.4f} | {pooled / min(alone, last):.2f} "
    )
    print(f"{text}| {100 * mean:.0f} | {100 * new:.0f} | {width:.2f} | {seconds:.1f} |", flush=True)


def planted_table(seed: int, count: int, spread: float, noise: float) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Power laws of twelve sizes whose levels, exponents and floors scatter, and values to ten times the largest."""
    generator, sizes = np.random.default_rng(seed), np.geomspace(1e3, 1e7, 12)
    tables, truths = [], {}
    for curve in range(count):
        level, a, floor = np.array([1.0, 0.3, 0.15]) * np.exp(spread * generator.standard_normal(3))
        truth = level * (floor + (np.append(sizes, 1e8) / 1e4) ** -a)
        values = truth[:-1] * np.exp(noise * generator.standard_normal(len(sizes)))
        tables.append(pd.DataFrame({"model": f"m{curve}", "n_pretrain": sizes, "loss": values}))
        truths[f"m{curve}"] = truth
    return pd.concat(tables, ignore_index=True), truths


def planted(studies: int, bootstrap: int) -> None:
    """Print the coverage of planted curves, cut and whole, and the error of curves that have nothing in common."""
    print("| planted | curves | studies | cut curve's rest inside, % | whole curves at 10x inside, % |")
    print("|---|---|---|---|---|")
    for count in (4, 8, 16):
        cut, whole = [], []
        for seed in range(studies):
            table, truths = planted_table(seed, count, 0.15, 0.01)
            last = f"m{count - 1}"
            table = table[(table.model != last) | (table.n_pretrain <= 1.3e4)].reset_index(drop=True)
            fit = hs.fit_law(table, "power_law", pool="model", bootstrap=bootstrap, seed=seed)
            band = fit.predict({"model": last, "n_pretrain": np.geomspace(1e3, 1e7, 12)[4:]})
            cut.append(np.mean((band.low <= truths[last][4:-1]) & (truths[last][4:-1] <= band.high)))
            names = [name for name in truths if name != last]
            far = fit.predict({"model": names, "n_pretrain": np.full(len(names), 1e8)})
            values = np.array([truths[name][-1] for name in names])
            whole.append(np.mean((far.low <= values) & (values <= far.high)))
        print(f"| shared | {count} | {studies} | {100 * np.mean(cut):.0f} | {100 * np.mean(whole):.0f} |", flush=True)
    print("\n| nothing in common | noise | error at 10x, pooled | independent | ratio |\n|---|---|---|---|---|")
    for noise in (0.01, 0.05):
        errors = []
        for seed in range(studies):
            table, truths = planted_table(seed, 8, 1.0, noise)
            fit = hs.fit_law(table, "power_law", pool="model", bootstrap=0, seed=seed)
            for name, truth in truths.items():
                own = hs.fit_law(table[table.model == name].reset_index(drop=True), "power_law", bootstrap=0)
                values = [f.predict({"model": name, "n_pretrain": 1e8}).value[0] for f in (fit, own)]
                errors.append(np.log(np.array(values) / truth[-1]))
        pooled, alone = np.sqrt(np.mean(np.array(errors) ** 2, axis=0))
        print(f"| 8 curves | {100 * noise:g} % | {pooled:.4f} | {alone:.4f} | {pooled / alone:.2f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sets", nargs="+", help=f"{', '.join(SETS)}, a single task such as bird_5, or planted")
    parser.add_argument("--laws", nargs="*", default=["auto"])
    parser.add_argument("--bootstrap", type=int, default=300)
    parser.add_argument("--every", type=int, default=1, help="cut every n-th curve alone")
    parser.add_argument("--studies", type=int, default=40)
    options = parser.parse_args()
    sets = [name for name in options.sets if name != "planted"]
    if sets and not DATA.is_dir():
        raise SystemExit(f"this needs the published measurements: {DATA}")
    if sets:
        print("| set | law | curves | pooled | independent | last value | ratio | mean band | new run | width | s |")
        print("|---|---|---|---|---|---|---|---|---|---|---|")
    for name in sets:
        for law in options.laws:
            measured(name, law, options.every, options.bootstrap)
    if "planted" in options.sets:
        planted(options.studies, options.bootstrap)


if __name__ == "__main__":
    main()
