"""Suggested runs against random ones: which narrow the interval more for the same money?

    python benchmarks/suggest.py [--studies 50] [--out benchmarks/suggest.jsonl] [--cases NAME ...]

Each study plants a law, draws its noise, selects runs by `suggest_runs` that cost at most as much as the study did,
and selects random runs among the same candidates until no other is affordable. Both sets are measured, a run with the
same noise in both, and everything is fitted again. The width of an interval is itself an estimate from a few dozen
residuals, so the standard error by the planted law and noise is compared too.

"normal scores" is what `suggest_runs` does; "draws" replaces the scores by the draws themselves, clipped at their
outer percents. Finished studies are stored in --out.
"""

import argparse
import contextlib
import json
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

import hf_scaling as hs
from hf_scaling.planning.next_runs import gain

ARMS = {"plain": {"E": 0.35, "A": 12.0, "a": 0.35}, "distilled": {"E": 0.48, "A": 7.2, "a": 0.30}}
CHINCHILLA = {"E": 0.5, "A": 60.0, "alpha": 0.3, "B": 10.0, "beta": 0.3}
GAP = {"A": 12.0, "alpha": 0.35, "G": 0.8, "beta": 0.25, "E": 0.2}
IMAGES, MODELS, LABELS = (250, 16_000), (3e4, 8e5), (20, 1000)
# Quantity, law, truth, sizes from and to and how many of them, seeds, how many further runs a size can have.
CASES = {
    "prediction, chinchilla": (
        "prediction",
        "chinchilla",
        CHINCHILLA,
        {"n_params": (*MODELS, 6), "n_pretrain": (*IMAGES, 8)},
        1,
        3,
    ),
    "prediction, power_law, 20 sizes": ("prediction", "power_law", ARMS["plain"], {"n_pretrain": (*IMAGES, 20)}, 1, 3),
    "prediction, power_law, 40 sizes": ("prediction", "power_law", ARMS["plain"], {"n_pretrain": (*IMAGES, 40)}, 1, 3),
    "G, transfer_gap": ("G", "transfer_gap", GAP, {"n_pretrain": (*IMAGES, 6), "n_finetune": (*LABELS, 6)}, 1, 3),
    "boundary": ("boundary", "power_law", ARMS, {"n_pretrain": (*IMAGES, 8)}, 3, 3),
    "boundary, 6 further pairs a size": ("boundary", "power_law", ARMS, {"n_pretrain": (*IMAGES, 8)}, 3, 6),
}
NOISE, DRAWS = 0.02, 400


def grid(axes) -> pd.DataFrame:
    grids = np.meshgrid(*axes.values(), indexing="ij")
    return pd.DataFrame({name: levels.ravel() for name, levels in zip(axes, grids)})


def steps(levels: np.ndarray) -> np.ndarray:
    """The levels, those halfway between them, and one beyond."""
    return np.sort([*levels, *np.sqrt(levels[1:] * levels[:-1]).round(), (levels[-1] ** 2 / levels[-2]).round()])


def cost(sizes: pd.DataFrame, arms: int) -> np.ndarray:
    """FLOPs of ten passes over the images, at least 50,000 samples; fine-tuning likewise."""
    samples = np.maximum(10 * sizes["n_pretrain"], 50_000)
    if "n_finetune" in sizes:
        samples = samples + np.maximum(20 * sizes["n_finetune"], 10_000)
    return (arms * 6 * sizes.get("n_params", 2e5) * samples).to_numpy()


def measure(law: str, truth: dict, sizes: pd.DataFrame, noise: np.ndarray) -> pd.DataFrame:
    """Rows with the planted values, of both arms where the truth has two."""
    if "plain" in truth:
        parts = [measure(law, truth[arm], sizes, noise[:, i]).assign(arm=arm) for i, arm in enumerate(truth)]
        return pd.concat(parts, ignore_index=True)
    variables = {v: sizes["n_pretrain" if v == "x" else v].to_numpy() for v in hs.LAWS[law].variables}
    return sizes.assign(
        loss=hs.LAWS[law].predict(truth, variables) * np.exp(NOISE * noise.reshape(len(sizes), -1)[:, 0])
    )


def study(case: str, number: int) -> dict:
    """Width of the interval before and after each way to spend the money, and the expected width."""
    quantity, law, truth, spans, seeds, repeats = CASES[case]
    generator, arms = np.random.default_rng(number), 2 if quantity == "boundary" else 1
    axes = {name: np.geomspace(low, high, count).round() for name, (low, high, count) in spans.items()}
    sizes = pd.concat([grid(axes).assign(seed=seed) for seed in range(seeds)], ignore_index=True)
    table = measure(law, truth, sizes, generator.standard_normal((len(sizes), arms)))
    pool = grid({name: steps(levels) for name, levels in axes.items()})
    # A further run of a measured size has a new seed.
    pool = pd.concat([pool.assign(seed=seeds + repeat) for repeat in range(repeats)], ignore_index=True)
    noise = generator.standard_normal((len(pool), arms))
    pool, budget = pool.assign(cost=cost(pool, arms)), float(cost(sizes, arms).sum())
    place = {name: 10 * levels.max() for name, levels in axes.items()}
    before = fitted(quantity, law, table, number)
    result, selected = {"before": width(quantity, before, place)}, {"random": random_rows(pool, budget, generator)}
    for name, context in (("normal scores", contextlib.nullcontext()), ("draws", plain_draws())):
        with context:
            runs = hs.suggest_runs(before, pool, budget=budget, quantity=quantity)
        selected[name], result[f"expected by {name}"] = list(runs.index), float(1 - runs["gain"].sum())
    for name, rows in selected.items():
        more = measure(law, truth, pool.loc[rows].drop(columns="cost"), noise[rows])
        after = fitted(quantity, law, pd.concat([table, more], ignore_index=True), number)
        result[name], result[f"runs of {name}"] = width(quantity, after, place), len(rows)
        result[f"true {name}"] = true_error(quantity, law, truth, [sizes, pool.loc[rows]], place)
    return result


def random_rows(pool: pd.DataFrame, budget: float, generator) -> list[int]:
    rows, waiting = [], pool["cost"]
    while (waiting <= budget).any():
        row = int(generator.choice(waiting.index[waiting <= budget]))
        rows.append(row)
        budget, waiting = budget - waiting[row], waiting.drop(row)
    return rows


def fitted(quantity: str, law: str, table: pd.DataFrame, number: int):
    if quantity == "boundary":
        return hs.find_boundary(table, bootstrap=DRAWS, seed=number)
    return hs.fit_law(table.drop(columns="seed"), law, bootstrap=DRAWS, seed=number)


def width(quantity: str, fit, place: dict) -> float:
    """Width of the interval, in logarithms but for parameters; infinite where a boundary is not resolved."""
    if quantity == "boundary":
        return float(np.log(fit.high / fit.low)) if fit.status == "crossing" else float("inf")
    if quantity == "prediction":
        row = fit.predict(place).iloc[0]
        return float(np.log(row.high / row.low))
    low, high = fit.intervals[quantity]
    return high - low


def true_error(quantity: str, law: str, truth: dict, parts: list[pd.DataFrame], place: dict) -> float:
    """The standard error of the quantity, up to a factor, after least squares of rows of these sizes."""
    if quantity == "boundary":
        plain, distilled = (slopes(law, truth[arm], pd.concat(parts)) for arm in truth)
        zero = {"n_pretrain": crossing(law, *truth.values())}
        aims = [slopes(law, truth[arm], pd.DataFrame([zero]))[0] for arm in truth]
        return float(np.hypot(*(error(rows, aim) for rows, aim in zip((plain, distilled), aims))))
    aim = slopes(law, truth, pd.DataFrame([place]))[0]
    if quantity in truth:
        aim = np.array([float(p.name == quantity) for p in hs.LAWS[law].parameters])
    return error(slopes(law, truth, pd.concat(parts)), aim)


def error(rows: np.ndarray, aim: np.ndarray) -> float:
    scale = np.sqrt((rows**2).sum(axis=0))
    rows, aim = rows / scale, aim / scale
    return float(np.sqrt(aim @ np.linalg.solve(rows.T @ rows, aim)))


def slopes(law: str, truth: dict, sizes: pd.DataFrame) -> np.ndarray:
    """(N, P) derivatives of the logarithm of the planted law by its parameters."""
    variables = {v: sizes["n_pretrain" if v == "x" else v].to_numpy(dtype=float) for v in hs.LAWS[law].variables}
    theta = np.array([[truth[p.name] for p in hs.LAWS[law].parameters]])
    value, gradient = hs.LAWS[law].value_and_gradient(theta, variables)
    return gradient[0] / value[0][:, None]


def crossing(law: str, plain: dict, distilled: dict) -> float:
    sizes = np.geomspace(*IMAGES, 10_000)
    gap = hs.LAWS[law].predict(plain, {"x": sizes}) - hs.LAWS[law].predict(distilled, {"x": sizes})
    return float(sizes[np.argmax(gap < 0)])


def plain_draws():
    """Replace normal scores by the draws themselves."""

    def clipped(draws: np.ndarray) -> np.ndarray:
        finite = np.where(np.isfinite(draws), draws, np.nan)
        inside = np.clip(draws, *np.nanquantile(finite, [0.01, 0.99], axis=0))
        # Scores are multiplied by this central scale of the draws, which these have already.
        low, high = np.nanquantile(finite, [0.025, 0.975], axis=0)
        return (inside - inside.mean(axis=0)) / np.maximum((high - low) / (2 * 1.959964), 1e-300)

    return mock.patch.object(gain, "normal_scores", clipped)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=50)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/suggest.jsonl"))
    parser.add_argument("--cases", nargs="*", default=list(CASES))
    arguments = parser.parse_args()
    stored = [json.loads(line) for line in arguments.out.read_text().splitlines()] if arguments.out.exists() else []
    done = {(row["case"], row["number"]): row for row in stored}
    heads = (
        "aim | selected by | interval narrower | error smaller | width after / before | expected | random's | error"
    )
    print(f"| {heads} | runs |")
    print("|---|---|---|---|---|---|---|---|---|")
    for case in arguments.cases:
        with arguments.out.open("a") as file:
            for number in range(arguments.studies):
                if (case, number) not in done:
                    done[case, number] = {"case": case, "number": number, **study(case, number)}
                    file.write(json.dumps(done[case, number]) + "\n")
                    file.flush()
        for name in ("normal scores", "draws"):
            print(line(case, name, [done[case, number] for number in range(arguments.studies)]), flush=True)


def line(case: str, name: str, rows: list[dict]) -> str:
    columns = {key: np.array([row[key] for row in rows]) for key in rows[0] if key not in ("case", "number")}
    narrower = np.mean(columns[name] < columns["random"])
    smaller = np.mean(columns[f"true {name}"] < columns["true random"])
    with np.errstate(invalid="ignore"):
        widths = [np.nanmedian(columns[key] / columns["before"]) for key in (name, "random")]
    errors = np.median(columns[f"true {name}"] / columns["true random"])
    shares = f"{100 * narrower:.0f} % of {len(rows)} | {100 * smaller:.0f} %"
    expected = np.median(columns[f"expected by {name}"])
    ratios = f"{widths[0]:.2f} | {expected:.2f} | {widths[1]:.2f} | {errors:.2f}"
    counts = [columns[f"runs of {key}"].mean() for key in (name, "random")]
    return f"| {case} | {name} | {shares} | {ratios} | {counts[0]:.0f} and {counts[1]:.0f} |"


if __name__ == "__main__":
    main()
