"""Sections of a report beside its answers, figures and laws: one function each, listed in `SECTIONS`.

To add one, write a function of the findings that returns a `Section`, or None where the study has nothing for it, and
list it in `SECTIONS`; the page, the card, the contents list and the JSON then have it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from hf_scaling.planning.verdicts import describe_contrast
from hf_scaling.report.figures import Drawing
from hf_scaling.report.findings import Findings, find_contrasts
from hf_scaling.results.probes import find_probes
from hf_scaling.scores.agreement import NAME, TRIVIAL, describe_constants, judge_study
from hf_scaling.text import MISSING, format_number, format_percent, format_value, format_whole, joined, sentence

#: Checkpoints that a ranking shows.
_MOST_CHECKPOINTS = 10


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        title: Shown above it.
        heads: Heads of the columns; those after the first are numbers, aligned to the right.
        rows: The cells.
    """

    title: str
    heads: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
        code: Its id on the page, in lower-case letters and hyphens.
        title: Its heading, and its entry in the contents list.
        text: One or two sentences: the answer.
        tables: Shown below the text.
        drawings: Figures below the tables; each has a caption of what to see.
    """

    code: str
    title: str
    text: str
    tables: tuple[Table, ...] = ()
    drawings: tuple[Drawing, ...] = ()


def _target_of(findings: Findings) -> str | None:
    """The column that checkpoints are compared by: the error where it is reported, else the loss; None for others."""
    return next((name for name in ("error", "loss") if name in findings.request.targets), None)


def _difference(target: str, value: float, sign: str = "") -> str:
    """A difference of two values; of errors in percentage points. `sign` is + where it is always written."""
    return f"{100 * value:{sign}.1f} points" if target == "error" else f"{value:{sign}.3f}"


def which_checkpoint(findings: Findings) -> Section | None:
    """The ranking of the checkpoints for each scored set, and how far such a ranking was right in this study."""
    study, target = findings.request.study, _target_of(findings)
    if study is None or target is None or not (study / NAME).is_file():
        return None
    code, title = "checkpoint", "Which checkpoint?"
    try:
        scores = pd.read_parquet(study / NAME)
        judged = judge_study(findings.rows, scores, (target,))
    except (OSError, ValueError, KeyError):
        return Section(code, title, f"`{NAME}` cannot be read: remove it and run `hf-scaling scores` again.")
    ranked_by, is_better = "upstream_error", False
    if len(judged):
        # A score is taken only if it is better than the best trivial ranking wherever it was judged.
        taus = judged.groupby("score")["tau"].mean().dropna()
        better = judged.groupby("score")["verdict"].agg(lambda verdicts: (verdicts == "better").all())
        names = [name for name in taus.index if better[name]] or [name for name in taus.index if name in TRIVIAL]
        best_score = str(taus[names].idxmax())
        ranked_by = "upstream_error" if best_score == TRIVIAL[-1] else best_score
        is_better = bool(better[best_score])
    texts, rankings, agreements = [], [], []
    for source, of_set in scores.groupby("source", sort=False):
        ranking = of_set.sort_values([ranked_by, "upstream_error"], ascending=False)
        best = ranking.iloc[0]
        texts.append(f"{best['model']} ({best['arm']}) of {format_whole(best['n_pretrain'])} images for {source}")
        rankings.append(_ranking_table(ranking, str(source), ranked_by, findings.rows, target))
        if len(judged) and (judged["downstream"] == source).any():
            agreements.append(_agreement_table(judged[judged["downstream"] == source], target))
    words = [sentence(f"take {joined(texts)}"), sentence(f"the ranking is by {_score_name(ranked_by)}")]
    if judged.empty:
        words.append("Nothing was fine-tuned on a scored set: how far such a ranking is right is not known.")
    else:
        words.append(sentence(_how_far(judged, ranked_by, is_better, target)))
        words += [sentence(text) for text in describe_constants(judged)]
    return Section(code, title, " ".join(words), (*rankings, *agreements))


def _score_name(column: str) -> str:
    return "the upstream error" if column == "upstream_error" else column


def _how_far(judged: pd.DataFrame, ranked_by: str, is_better: bool, target: str) -> str:
    """How far the ranking was right, and what the scores are worth."""
    name = TRIVIAL[-1] if ranked_by == "upstream_error" else ranked_by
    own = judged[judged["score"] == name]
    taus, regret = own["tau"], _difference(target, own["regret"].max())
    text = (
        f"in this study its weighted tau with the fine-tuned {target} was {taus.min():.2f} to {taus.max():.2f}, and "
    )
    text += f"its first choice was at most {regret} worse than the best"
    if is_better:
        return f"{text}; it was better than every ranking that needs no score"
    verdicts = judged[judged["verdict"] != "trivial"].groupby("score")["verdict"].agg(set)
    not_better = sum("not" in of_score for of_score in verdicts)
    return (
        f"{text}; none of {len(verdicts)} scores was better than the best ranking without one wherever it was judged, "
        f"and {not_better} ranked worse than it somewhere"
    )


def _ranking_table(ranking: pd.DataFrame, source: str, ranked_by: str, rows: pd.DataFrame, target: str) -> Table:
    """The first checkpoints, with what fine-tuning showed at the largest n_finetune where it was done."""
    tuned = rows[(rows["stage"] == "finetune") & (rows["downstream"] == source)]
    largest = tuned["n_finetune"].max() if len(tuned) else 0
    shown = tuned[tuned["n_finetune"] == largest].groupby("parent")[target].mean()
    heads = ["checkpoint", "model", "arm", "n_pretrain", "seed", "upstream error"]
    heads += [] if ranked_by in ("upstream_error", "n_pretrain") else [ranked_by]
    heads += [f"fine-tuned {target} at {format_whole(largest)}"] if len(shown) else []
    cells = []
    for _, row in ranking.head(_MOST_CHECKPOINTS).iterrows():
        cell = [row["run_id"], row["model"], row["arm"], format_whole(row["n_pretrain"]), format_whole(row["seed"])]
        cell.append(format_value("error", -row["upstream_error"]))
        cell += [format_number(row[ranked_by])] if ranked_by in heads and ranked_by != "n_pretrain" else []
        cell += [format_value(target, shown.get(row["run_id"], np.nan))] if len(shown) else []
        cells.append(cell)
    number = f"the first {len(cells)} of {len(ranking)}" if len(ranking) > len(cells) else f"{len(cells)}"
    return Table(f"{source}: {number} checkpoints, by {_score_name(ranked_by)}", heads, cells)


def _agreement_table(judged: pd.DataFrame, target: str) -> Table:
    """A row a score, a column for each n_finetune of one set."""
    sizes = sorted(judged["n_finetune"].unique())
    order = judged.groupby("score")["tau"].mean().sort_values(ascending=False, na_position="last").index
    cells = []
    for score in order:
        own = judged[judged["score"] == score].set_index("n_finetune")
        cell = [str(score)]
        for size in sizes:
            row = own.loc[size] if size in own.index else None
            if row is None or not np.isfinite(row["tau"]):
                cell.append(MISSING)
                continue
            tau, low, high = (f"{row[name]:.2f}" for name in ("tau", "low", "high"))
            cell.append(f"{tau} ({low} to {high}) {row['verdict'].replace('_', ' ')}")
        cells.append([*cell, _difference(target, own["regret"].mean())])
    source = judged["downstream"].iloc[0]
    least, most = judged["n_configurations"].min(), judged["n_configurations"].max()
    counts = f"{least}" if least == most else f"{least} to {most}"
    title = f"{source}: weighted tau of each score with the fine-tuned {target}, {counts} configurations"
    return Table(title, ["score", *(f"n_finetune {format_whole(size)}" for size in sizes), "mean regret"], cells)


def without_pretraining(findings: Findings) -> Section | None:
    """What the largest pre-training gains over random weights, for each set, model and number of labels."""
    rows, target = findings.rows, _target_of(findings)
    if target is None or not {"stage", "n_pretrain", "n_finetune", "downstream", "model"} <= set(rows):
        return None
    tuned = rows[(rows["stage"] == "finetune") & (rows["n_finetune"] > 0)]
    if "arm" in tuned:
        tuned = tuned[tuned["arm"] != "distilled"]
    keys = [name for name in ("downstream", "model", "n_finetune", "recipe") if name in tuned]
    sized = {"n_params": ("n_params", "first")} if "n_params" in tuned else {}
    alone = tuned[tuned["n_pretrain"] == 0].groupby(keys)
    scratch = alone.agg(scratch=(target, "mean"), seeds=(target, "count"), **sized)
    pretrained = tuned[tuned["n_pretrain"] > 0]
    largest = pretrained[pretrained["n_pretrain"] == pretrained.groupby(keys)["n_pretrain"].transform("max")]
    both = scratch.join(
        largest.groupby(keys).agg(with_mean=(target, "mean"), n=(target, "count"), n_pretrain=("n_pretrain", "max")),
        how="inner",
    ).reset_index()
    if both.empty:
        return None
    both["change"] = both["with_mean"] - both["scratch"]
    texts, tables = [], []
    for source, of_set in both.groupby("downstream", sort=False):
        order = ["n_finetune", *(["n_params"] if "n_params" in of_set else []), "model"]
        of_set = of_set.sort_values(order)
        by_size = of_set.groupby("n_finetune")["change"].mean()
        few, many = by_size.index[0], by_size.index[-1]
        changes = [(by_size[size], format_whole(size)) for size in dict.fromkeys((few, many))]
        verbs = ["lowers" if change < 0 else "raises" for change, _ in changes]
        amounts = [f"by {_difference(target, abs(change))} at {labels} labels" for change, labels in changes]
        text = f"on {source} pre-training {verbs[0]} the {target} {amounts[0]}"
        if len(changes) > 1:
            text += f" and {amounts[1]}" if verbs[0] == verbs[1] else f" and {verbs[1]} it {amounts[1]}"
        texts.append(text)
        cells = [
            [
                *(
                    format_whole(row.n_finetune),
                    row.model,
                    format_value(target, row.scratch),
                    format_value(target, row.with_mean),
                ),
                *(format_whole(row.n_pretrain), _difference(target, row.change, "+"), f"{row.seeds} and {row.n}"),
            ]
            for row in of_set.itertuples()
        ]
        heads = ["n_finetune", "model", f"{target} without", "pre-trained", "n_pretrain", "change", "seeds"]
        tables.append(Table(str(source), heads, cells))
    scope = "means over the models; the largest pre-training of each, not distilled"
    return Section("scratch", "Without pre-training", sentence(f"{joined(texts)} ({scope})"), tuple(tables))


def linear_probe(findings: Findings) -> Section | None:
    """What a linear probe of the same checkpoint reaches, beside fine-tuning."""
    target = findings.request.targets[0]
    rows, study = findings.rows, findings.request.study
    if not {"stage", "model", "n_pretrain", "n_finetune", "downstream", target} <= set(rows.columns):
        return None
    rows = rows[rows["stage"] == "finetune"]
    heads = find_probes(study, rows)
    rows = rows[(rows["arm"] == "plain") & (rows["n_finetune"] > 0)] if "arm" in rows else rows
    probed = rows["recipe"].isin(heads) if "recipe" in rows else pd.Series(False, rows.index)
    tables, sentences = [], []
    for (name, model), group in rows.groupby(["downstream", "model"], sort=False):
        probes, full = group[probed[group.index]], group[~probed[group.index]]
        trained = full[full["n_pretrain"] > 0]
        if not len(trained) or not len(probes):
            continue
        most = probes["n_pretrain"].max()
        columns = {
            "linear probe": probes[probes["n_pretrain"] == most],
            "fine-tuned": trained[trained["n_pretrain"] == most],
        }
        means = pd.DataFrame({head: cells.groupby("n_finetune")[target].mean() for head, cells in columns.items()})
        means = means[means.notna().sum(axis=1) > 1].dropna(axis=1, how="all")
        if not len(means):
            continue
        cells = [
            [f"{int(n):,}", *("" if pd.isna(value) else format_value(target, value) for value in values)]
            for n, values in zip(means.index, means.to_numpy())
        ]
        title = f"{target} of {model} on {name}, pre-trained on {int(most):,} images"
        tables.append(Table(title, ["n_finetune", *means.columns], cells))
        last = means.iloc[-1].dropna()
        values = ", ".join(f"{format_value(target, value)} ({head})" for head, value in last.items())
        sentences.append(f"With {int(means.index[-1]):,} labels of {name}, {model} reaches a {target} of {values}.")
    if not tables:
        return None
    return Section("linear-probe", "Linear probe", " ".join(sentences), tuple(tables))


def where_pretraining_helps(findings: Findings) -> Section | None:
    """Which of the downstream sets the largest pre-training helped more, pair by pair."""
    texts, tables, level = [], [], findings.request.options.level
    for target in findings.request.targets:
        for part, contrasts in find_contrasts(findings.parts, target, level):
            rows = contrasts.to_dict("records")
            texts.append(sentence(describe_contrast(rows[0], target, part.noun)))
            heads = [
                "more",
                f"{target} falls by",
                "less",
                f"{target} falls by",
                "ratio",
                format_percent(level),
                "verdict",
            ]
            cells = [
                [
                    row["more"],
                    format_percent(row["benefit_more"]),
                    row["less"],
                    format_percent(row["benefit_less"]),
                    f"{np.exp(row['difference']):.3f}",
                    f"{np.exp(row['low']):.3f} to {np.exp(row['high']):.3f}",
                    row["verdict"],
                ]
                for row in rows
            ]
            tables.append(Table(part.values.get("upstream", ""), heads, cells))
    if not tables:
        return None
    scope = (
        "Shares by which the target falls, means over the labels that all sets were fine-tuned on; the ratio is of "
    )
    texts.append(
        f"{scope}what is left of it, less helped to more; its interval is by the seeds, and for all pairs at once."
    )
    return Section("benefit", "Where pre-training helps more", " ".join(texts), tuple(tables))


#: The sections, in the order of the page: between the answers and the figures.
SECTIONS: list[Callable[[Findings], Section | None]] = [
    which_checkpoint,
    without_pretraining,
    where_pretraining_helps,
    linear_probe,
]


def sections_of(findings: Findings) -> list[Section]:
    """The sections that a study has."""
    return [section for section in (make(findings) for make in SECTIONS) if section is not None]
