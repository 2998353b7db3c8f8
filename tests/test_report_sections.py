"""The sections of a report beside its answers: which checkpoint, and what random weights reach."""

import numpy as np
import pandas as pd
import pytest

from hf_scaling.report.findings import Findings
from hf_scaling.report.parts import Request
from hf_scaling.report.sections import sections_of
from hf_scaling.scores.agreement import NAME

SIZES = (50, 200)


def rows_of(n=14, noise=0.0):
    """Checkpoints whose quality is their number, each fine-tuned on `far`; random weights too."""
    draw, rows = np.random.default_rng(0), []
    for number in range(n):
        run = {"model": f"vit-{number}", "arm": "plain", "seed": 0, "n_params": 1000, "n_pretrain": 100 + number % 3}
        rows.append({**run, "run_id": f"p{number}", "stage": "pretrain", "n_finetune": 0, "error": 0.5})
        for size in SIZES:
            error = 0.6 - 0.02 * number - 0.0005 * size + noise * draw.standard_normal()
            down = {"run_id": f"f{number}-{size}", "stage": "finetune", "parent": f"p{number}", "downstream": "far"}
            rows.append({**run, **down, "n_finetune": size, "error": error})
            rows.append({**rows[-1], "run_id": f"s{number}-{size}", "n_pretrain": 0, "parent": None, "error": 0.8})
    return pd.DataFrame(rows)


def scores_of(n=14, source="far", **columns):
    table = pd.DataFrame({"run_id": [f"p{number}" for number in range(n)]})
    table["model"], table["arm"], table["seed"], table["source"] = [f"vit-{at}" for at in range(n)], "plain", 0, source
    table["n_pretrain"] = [100.0 + number % 3 for number in range(n)]
    return table.assign(upstream_error=-0.5, **{"logme": np.arange(float(n)), "leep": -np.arange(float(n)), **columns})


def sections(folder, rows, *scores):
    if scores:
        pd.concat(scores, ignore_index=True).to_parquet(folder / NAME)
    findings = Findings("study", Request(("loss", "error"), study=folder), (), (), {}, len(rows), rows=rows)
    return {section.code: section for section in sections_of(findings)}


def test_a_score_that_is_better_wherever_it_was_judged_ranks_the_checkpoints(tmp_path):
    section = sections(tmp_path, rows_of(), scores_of(), scores_of(source="mine"))["checkpoint"]
    far, mine, agreement = section.tables
    assert far.rows[0][0] == mine.rows[0][0] == "p13" and "logme" in far.heads
    assert far.rows[0][-1] == "24 %" and len(far.rows) == 10
    # Nothing was fine-tuned on the user's own set.
    assert len(mine.heads) == len(far.heads) - 1
    by_score = {row[0]: row[1:] for row in agreement.rows}
    assert all(cell.startswith("1.00") and cell.endswith("better") for cell in by_score["logme"][:-1])
    assert by_score["logme"][-1] == "0.0 points" and by_score["leep"][0].endswith("not")


def test_without_such_a_score_a_trivial_ranking_is_taken(tmp_path):
    scores = scores_of(logme=np.random.default_rng(1).normal(size=14), leep=np.random.default_rng(2).normal(size=14))
    section = sections(tmp_path, rows_of(), scores)["checkpoint"]
    ranking = section.tables[0]
    assert "logme" not in ranking.heads and "leep" not in ranking.heads
    assert ranking.rows[0][3] == "102"


@pytest.mark.parametrize("source", ["mine", "far"])
def test_a_ranking_that_was_never_judged_has_no_table_of_agreement(tmp_path, source):
    rows = rows_of()
    rows = rows[rows["stage"] == "pretrain"] if source == "far" else rows
    section = sections(tmp_path, rows, scores_of(source=source))["checkpoint"]
    assert len(section.tables) == 1


def test_a_study_without_scores_has_no_ranking_and_damaged_ones_are_named(tmp_path):
    assert "checkpoint" not in sections(tmp_path, rows_of())
    (tmp_path / NAME).write_bytes(b"damaged")
    section = sections(tmp_path, rows_of())["checkpoint"]
    assert NAME in section.text and section.tables == ()


def test_random_weights_are_compared_with_the_largest_pretraining(tmp_path):
    rows = rows_of()
    (table,) = sections(tmp_path, rows)["scratch"].tables
    assert len(table.rows) == 14 * len(SIZES)
    first = dict(zip(table.heads, table.rows[0]))
    assert (first["error without"], first["pre-trained"], first["change"]) == ("80 %", "57.5 %", "-22.5 points")
    sized = rows.assign(n_params=rows["model"].str.removeprefix("vit-").astype(float))
    (table,) = sections(tmp_path, sized)["scratch"].tables
    assert [row[1] for row in table.rows[:14]] == [f"vit-{number}" for number in range(14)]
    assert "scratch" not in sections(tmp_path, rows[rows["n_pretrain"] > 0])
