"""The answers of docs/tiny_imagenet.md: from the rows of the study to its numbers, cards and figures.

    python benchmarks/tiny_imagenet.py [RESULTS]                          print every number of the page
    python benchmarks/tiny_imagenet.py STUDY --copy tests/data/tiny_imagenet    write the rows, the cards and the laws
    python benchmarks/tiny_imagenet.py [RESULTS] --figures docs/figures   draw the figures, light and dark

A question for which there are too few rows yet is answered by the line that says so.
"""

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

import hf_scaling as hs
from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.report.figures import (
    DARK,
    LIGHT,
    Drawing,
    Points,
    difference_painter,
    log_axis,
    margins,
    predictions_painter,
    series_style,
)
from hf_scaling.results import card

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "tests/data/tiny_imagenet"
#: The middle size upstream with half the steps, and with distillation that ends once the student is ahead.
HALF_STEPS, UNTIL_PASSED = (TABLE.with_name(f"{TABLE.name}_{name}") for name in ("half_steps", "until_passed"))
GRID = ROOT / "recipes/grids/tiny_imagenet.yaml"
NAME = "tiny_imagenet"
UPSTREAM = "tiny_imagenet_32a"
#: Downstream sets from near to far, with their classes.
SETS = {"tiny_imagenet_32b": 25, "cifar10": 10, "caltech101_32": 101, "gtsrb_32": 43}
N_CLASSES = {UPSTREAM: 25, **SETS}
TARGETS = ("loss", "error")
KEYS = ["stage", "model", "arm", "n_pretrain", "downstream", "n_finetune"]


def cannot(what: str, ask: Callable[[], None]) -> None:
    """Ask a question; where the rows do not suffice, say so in a line."""
    try:
        ask()
    except (InputError, ValueError, KeyError) as error:
        print(f"{what}: cannot tell yet: {error}")


def coverage(table: hs.ResultsTable) -> None:
    """How many of the planned runs are measured, which are below guessing, and how much seeds differ."""
    frame, planned = table.to_pandas(), len(hs.Grid.load(GRID).runs)
    print(f"measured {len(frame):,} of {planned:,} planned runs ({len(frame) / planned:.0%})")
    counts = frame.groupby(["stage", "downstream", "model", "arm"], dropna=False).size().rename("runs")
    print(counts.reset_index().fillna("-").to_string(index=False))
    classes = frame["downstream"].fillna(frame["upstream"]).map(N_CLASSES)
    worse = frame[frame["loss"] > np.log(classes)]
    print(f"\nworse than guessing by loss: {len(worse)} of {len(frame):,}")
    if len(worse):
        print(worse[[*KEYS, "seed", "loss", "error"]].to_string(index=False))
    seeds = frame[frame.groupby(KEYS, dropna=False)["seed"].transform("nunique") > 1]
    if len(seeds):
        spread = seeds.groupby(KEYS, dropna=False)[list(TARGETS)].var().reset_index()
        means = spread.groupby(["stage", "model"])[list(TARGETS)].mean() ** 0.5
        print("\nstandard deviation between seeds\n" + means.to_string(float_format="%.4f"))
    print(f"\ncore-hours of training so far: {frame['seconds'].sum() / 3600:.2f}")


def upstream_table(table: hs.ResultsTable) -> None:
    """Means of both arms and of the teacher at each size."""
    frame = table.to_pandas().query("stage == 'pretrain'")
    for target in TARGETS:
        means = frame.pivot_table(index="n_pretrain", columns=["model", "arm"], values=target)
        print(f"\nupstream {target}\n" + means.to_string(float_format="%.4f"))


def describe_boundary(line) -> str:
    """A boundary in one line: the laws' answer, and that of the paired differences alone."""
    laws = line.status if line.n_pretrain is None else f"{line.n_pretrain:,.0f} [{line.low:,.0f}, {line.high:,.0f}]"
    alone = "{n_pretrain:,.0f} [{low:,.0f}, {high:,.0f}]".format(**line.law_free).replace("[nan, nan]", "[one seed]")
    sign = (line.difference["low"] > 0).sum(), (line.difference["high"] < 0).sum(), len(line.difference)
    ahead = f"distilled ahead at {sign[0]}, plain at {sign[1]} of {sign[2]} sizes"
    return f"{laws}; paired differences alone {alone}; {ahead}"


def boundaries(table: hs.ResultsTable) -> None:
    """Where distillation stops paying: upstream, by size, and after fine-tuning, by set and labels."""
    frame = table.to_pandas()
    sizes = frame.query("stage == 'pretrain' and arm == 'distilled'").groupby("model")["n_params"].mean().sort_values()
    for target in TARGETS:
        line = hs.find_boundary(table, target=target)
        print(f"\nupstream by {target}: {describe_boundary(line)}")
        print(line.difference.to_string(index=False, float_format="%.4g"))
        for model in sizes.index:
            own = frame[(frame["stage"] == "pretrain") & (frame["model"] == model)]

            def ask(model=model, own=own, target=target):
                print(f"  {model}: {describe_boundary(hs.find_boundary(own, target=target))}")

            cannot(f"  {model}", ask)
    for downstream in SETS:
        for target in TARGETS:

            def ask(downstream=downstream, target=target):
                line = hs.find_boundary(table, target=target, downstream=downstream)
                print(f"\nafter fine-tuning on {downstream}, by {target}:")
                for n in sorted(frame.loc[frame["downstream"] == downstream, "n_finetune"].unique()):
                    try:
                        print(f"  n_finetune {n:,.0f}: {describe_boundary(line.at(n_finetune=n))}")
                    except InputError:
                        print(f"  {describe_boundary(line)}")

            cannot(f"\nafter fine-tuning on {downstream}, by {target}", ask)


def leads(table: hs.ResultsTable) -> None:
    """By how much the distilled student is ahead after fine-tuning, and in how many pairs."""
    keys = ["model", "downstream", "n_finetune", "n_pretrain", "seed"]
    tuned = table.to_pandas().query("stage == 'finetune'").set_index([*keys, "arm"])
    for target in TARGETS:
        arms = tuned[target].unstack("arm").dropna()
        lead = arms["plain"] - arms["distilled"]
        means = lead.groupby(["model", "downstream", "n_pretrain"]).mean().unstack("n_pretrain")
        print(f"\nmean lead by {target} over n_finetune\n" + means.to_string(float_format="%.4f"))
        ahead = (lead > 0).groupby(["model", "n_finetune"]).agg(["sum", "count"])
        print("pairs in which the distilled student is ahead\n" + ahead.to_string())


def laws(table: hs.ResultsTable) -> None:
    """Which joint law predicts the held-out largest sizes best, for each set; arm plain."""
    for downstream in SETS:
        for target in TARGETS:

            def ask(downstream=downstream, target=target):
                ranking = hs.compare_laws(table, target=target, arm="plain", upstream=UPSTREAM, downstream=downstream)
                columns = ["law", "holdout_log_rmse", "aicc", "status"]
                text = ranking.table[columns].to_string(index=False, float_format="%.4g")
                print(f"\n{downstream}, {target}, largest held out; best {ranking.best}\n{text}")

            cannot(f"\n{downstream}, {target}", ask)


def transfer(table: hs.ResultsTable) -> None:
    """The transfer gap of each set, and what the upstream images are worth in labels against no pre-training."""
    for target in TARGETS:

        def ask(target=target):
            gaps = hs.transfer_gaps(table, target=target, law="transfer_gap_joint", arm="plain", upstream=UPSTREAM)
            columns = ["downstream", "G", "low", "high", "share", "share_low", "share_high", "verdict", "status"]
            columns += [f"{data}_doubled{end}" for data in ("images", "labels") for end in ("", "_low", "_high")]
            columns.append("helps_more")
            print(f"\ntransfer gaps by {target}\n{gaps.table[columns].to_string(index=False, float_format='%.4g')}")
            print(f"worth of the pre-training in labels\n{gaps.worth.to_string(index=False, float_format='%.4g')}")
            print(f"helped more\n{gaps.contrasts.to_string(index=False, float_format='%.4g')}")

        cannot(f"transfer gaps by {target}", ask)
    frame = table.to_pandas().query("stage == 'finetune' and arm == 'plain' and seed == 0")
    best = frame[frame["n_pretrain"].isin([0, frame["n_pretrain"].max()])]
    for target in TARGETS:
        means = best.pivot_table(index=["downstream", "n_finetune"], columns=["model", "n_pretrain"], values=target)
        print(f"\n{target} without pre-training and after all of it\n" + means.to_string(float_format="%.4f"))


def variants(table: hs.ResultsTable) -> None:
    """Half the steps, and distillation that stops early, beside the study's own rows of vit-200k, seed 0."""
    own = table.to_pandas().query("stage == 'pretrain' and model == 'vit-200k' and seed == 0")
    half, stopping = (hs.ResultsTable.load(out).to_pandas() for out in (HALF_STEPS, UNTIL_PASSED))
    arms = {
        "all steps": own,
        "half the steps": half[half["model"] == "vit-200k"],
        # Pairs are made within a recipe; these differ in the schedule of alpha alone.
        "until passed": pd.concat([own[own["arm"] == "plain"], stopping[stopping["model"] == "vit-200k"]]).assign(
            recipe="until_passed"
        ),
    }
    for target in TARGETS:
        print(f"\nplain minus distilled, {target}, vit-200k")
        means = {
            name: rows.pivot_table(index="n_pretrain", columns="arm", values=target) for name, rows in arms.items()
        }
        leads = {name: both["plain"] - both["distilled"] for name, both in means.items()}
        print(pd.DataFrame(leads).to_string(float_format="%.4f"))
        for name, rows in arms.items():
            print(f"{name}, by {target}: {describe_boundary(hs.find_boundary(rows, target=target))}")


def copy(table: hs.ResultsTable, out: Path) -> None:
    """Write the rows, the card of the results data set with its figure, and the upstream laws with theirs."""
    table.save(out)
    if table.sources:
        files.write_text(out / "sources.json", json.dumps(table.sources, indent=1) + "\n")
    frame = table.to_pandas()
    (out / "figures").mkdir(exist_ok=True)
    with files.replacing(out / "figures" / "default.png") as temporary:
        temporary.write_bytes(card.draw(frame))
    config = {"config_name": "default", "data_files": "results.parquet"}
    named = {"default": frame}
    text = card.write_card(f"hf-scaling/{NAME}", "default", named, {"default": "figures/default.png"}, [config], False)
    files.write_text(out / "README.md", text)
    for arm in ("plain", "distilled"):

        def ask(arm=arm):
            fit = hs.fit_law(table, law="chinchilla", target="loss", arm=arm, stage="pretrain")
            fit.save_pretrained(out / "laws" / f"upstream_loss_{arm}")
            print(f"{arm}: {fit.law} {fit.status} {fit.params}")

        cannot(f"law of {arm}", ask)
    files.write_text(out / "expected.json", json.dumps(upstream_answers(table), indent=2) + "\n")
    print(f"{len(frame):,} rows in {out}")


def upstream_answers(table: hs.ResultsTable) -> dict[str, dict]:
    """Target -> the upstream boundary as numbers, which a test reproduces."""
    found = {}
    for target in TARGETS:
        line = hs.find_boundary(table, target=target)
        ends = {name: getattr(line, name) for name in ("status", "n_pretrain", "low", "high")}
        found[target] = ends | {"difference": line.difference.to_dict("records")}
    return found


def _save(drawing: Drawing, out: Path) -> None:
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        drawing.save_svg(out / f"{drawing.name}_{name}.svg", colours)


def figures(table: hs.ResultsTable, out: Path) -> None:
    """Draw the difference of the arms, error against both amounts of data, and predictions of the largest sizes."""
    frame = table.to_pandas()
    for downstream in (None, *SETS):
        name = f"{NAME}_boundary" if downstream is None else f"{NAME}_boundary_{downstream}"
        where = "ImageNet images, upstream" if downstream is None else f"On {downstream}"

        def ask(downstream=downstream, name=name, where=where):
            line = hs.find_boundary(table, target="loss", downstream=downstream)
            title = f"Does a small teacher pay? {where}"
            labels = "n_pretrain: upstream images", "plain minus distilled: cross-entropy, nats"
            paint = difference_painter(line, "loss")
            _save(Drawing(name, title, title, "", *labels, paint, width=640, height=380, scale=1.5), out)

        cannot(name, ask)
    pretrained = frame[(frame["stage"] == "pretrain") & (frame["model"] != "vit-30k")]
    _save(_curves(f"{NAME}_n_pretrain", pretrained, "n_pretrain", "25 upstream classes"), out)
    tuned = frame[(frame["stage"] == "finetune") & (frame["arm"] == "plain") & (frame["model"] == "vit-200k")]
    tuned = tuned[tuned["n_pretrain"].isin([0, tuned["n_pretrain"].max()])]
    if len(tuned):
        _save(
            _curves(f"{NAME}_n_finetune", tuned, "n_finetune", "vit-200k, after none and all of the upstream images"),
            out,
        )
    for downstream in SETS:

        def ask(downstream=downstream):
            _save(_predictions(frame, downstream), out)

        cannot(f"predictions for {downstream}", ask)


def _curves(name: str, frame: pd.DataFrame, x: str, what: str) -> Drawing:
    """Mean error against an amount of data: a line for each model and arm, or each set and amount of pre-training."""
    keys = ["model", "arm"] if x == "n_pretrain" else ["downstream", "n_pretrain"]
    series = [(key, part.groupby(x)["error"].mean()) for key, part in frame.groupby(keys)]

    def paint(axes, colours):
        for (group, second), means in series:
            number = sorted({key[0] for key, _ in series}).index(group)
            style = {name: value for name, value in series_style(number, colours).items() if name != "dashes"}
            style["linestyle"] = "--" if second in ("distilled", 0) else "-"
            label = f"{group}, {second if x == 'n_pretrain' else f'{second:,.0f} upstream images'}"
            axes.plot(means.index, means * 100, label=label, **style)
        values = np.concatenate([means for _, means in series]) * 100
        axes.set_xlim(*margins(frame[x])), axes.set_ylim(*margins(values))
        log_axis(axes.xaxis, *axes.get_xlim()), log_axis(axes.yaxis, *axes.get_ylim())

    labels = f"{x}: images", "error, %"
    return Drawing(
        name, f"Error: {what}", f"Error: {what}", "", *labels, paint, n_series=len(series), width=640, height=400
    )


def _predictions(frame: pd.DataFrame, downstream: str) -> Drawing:
    """The best joint law fitted without the largest n_params and n_pretrain, against the rows held out."""
    rows = frame[(frame["downstream"] == downstream) & (frame["arm"] == "plain") & (frame["n_pretrain"] > 0)]
    is_largest = (rows["n_pretrain"] == rows["n_pretrain"].max()) | (rows["n_params"] > 5e5)
    fit = hs.fit_law(rows[~is_largest], law="transfer_gap_joint", target="loss", bootstrap=0)
    held = rows[is_largest]
    predicted, measured = fit.predict(held)["value"].to_numpy(), held["loss"].to_numpy()
    miss = math.sqrt(float(np.mean((np.log(predicted) - np.log(measured)) ** 2)))
    print(f"{downstream}: {fit.law} without the largest sizes misses {len(held)} rows by {miss:.3f} (log RMSE)")
    inside = rows[~is_largest]
    points = [
        Points("fitted", 0, fit.predict(inside)["value"].to_numpy(), inside["loss"].to_numpy()),
        Points("held out", 1, predicted, measured, hollow=True),
    ]
    title = f"Predicted and measured loss on {downstream}, largest sizes held out"
    labels = "predicted: cross-entropy, nats", "measured: cross-entropy, nats"
    return Drawing(
        f"{NAME}_predictions_{downstream}",
        title,
        title,
        "",
        *labels,
        predictions_painter(points),
        n_series=2,
        width=520,
        height=400,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", nargs="?", default=TABLE)
    parser.add_argument("--copy", type=Path, metavar="FOLDER")
    parser.add_argument("--figures", type=Path, metavar="FOLDER")
    arguments = parser.parse_args()
    table = hs.ResultsTable.load(arguments.results)
    if arguments.copy:
        copy(table, arguments.copy)
    if arguments.figures:
        figures(table, arguments.figures)
    if not (arguments.copy or arguments.figures):
        for part in (coverage, upstream_table, boundaries, variants, leads, laws, transfer):
            print(f"\n== {part.__doc__.splitlines()[0]}")
            cannot(part.__name__, lambda part=part: part(table))


if __name__ == "__main__":
    main()
