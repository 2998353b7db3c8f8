"""Decisions from rows with too few levels: never a definite answer, always the levels that would be enough."""

import json

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.fitting.levels import distinct_levels, levels_to_add

UPSTREAM, LABELLED = np.geomspace(500, 128_000, 5), np.geomspace(50, 12_800, 5)
TRUTH = {"A": 30.0, "alpha": 0.5, "beta": 0.3, "E": 0.1}


def gap_table(share, upstream=UPSTREAM, labelled=LABELLED, seed=0, noise=0.02):
    """A transfer gap of which `share` is never closed at the largest n_pretrain; two runs of each size."""
    closable = TRUTH["A"] * upstream[-1] ** -TRUTH["alpha"]
    sizes = {
        name: np.repeat(grid.ravel(), 2)
        for name, grid in zip(("n_pretrain", "n_finetune"), np.meshgrid(upstream, labelled))
    }
    loss = hs.LAWS["transfer_gap"].predict(TRUTH | {"G": closable * share / (1 - share)}, sizes)
    return {**sizes, "loss": loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(loss)))}


def added(notes):
    return {column: levels for n in notes if n["code"] == "too_few_levels" for column, levels in n["add"].items()}


def test_levels_within_ten_percent_count_as_one():
    assert distinct_levels([1000, 1050, 2000, 2000, np.nan]).tolist() == [1000, 2000]


@pytest.mark.parametrize(
    "levels, span, expected",
    [
        ([1e3, 1e4, 1e5], 3.0, []),
        ([1e3, 1e5], 3.0, [1e4]),
        ([1e3, 2e3], 3.0, [8e3]),
        ([4e3], 3.0, [1e3, 1.6e4]),
        ([4e3, 5e3, 6e3], 3.0, [2.4e4]),
        ([4e3, 5e3, 6e3], 1.0, []),
        ([0.0, 1e3, 1e4], 1.0, []),
    ],
)
def test_added_levels_make_them_enough(levels, span, expected):
    new = levels_to_add(np.array(levels), span=span)
    assert new == expected
    assert levels_to_add(np.sort([*levels, *new]), span=span) == []


@pytest.mark.parametrize("share", [0.0, 0.9])
@pytest.mark.parametrize(
    "sizes, column",
    [
        ({"upstream": UPSTREAM[[0, -1]]}, "n_pretrain"),
        ({"upstream": 4000 * 1.3 ** np.arange(4)}, "n_pretrain"),
        ({"labelled": LABELLED[[0, -1]]}, "n_finetune"),
        ({"labelled": LABELLED[2:3]}, "n_finetune"),
    ],
)
def test_a_gap_needs_levels_of_both_sizes(sizes, column, share):
    for seed in range(3):
        gaps = hs.transfer_gaps(gap_table(share, **sizes, seed=seed), bootstrap=200)
        assert gaps.table["verdict"].tolist() == ["cannot_tell"]
        assert list(added(gaps.notes)) == [column]


def test_the_levels_to_add_decide_the_gap():
    few = gap_table(0.9, upstream=UPSTREAM[[0, -1]])
    notes = hs.transfer_gaps(few, bootstrap=100).notes
    upstream = np.sort([*UPSTREAM[[0, -1]], *added(notes)["n_pretrain"]])
    assert hs.transfer_gaps(gap_table(0.9, upstream=upstream), bootstrap=200).table["verdict"].tolist() == ["high"]


@pytest.mark.parametrize("share, verdict", [(0.0, "low"), (0.1, "low"), (0.7, "high"), (0.9, "high")])
def test_enough_levels_still_decide_the_gap(share, verdict):
    for seed in range(3):
        gaps = hs.transfer_gaps(gap_table(share, seed=seed), bootstrap=200)
        assert gaps.table["verdict"].tolist() == [verdict]
        assert "too_few_levels" not in [n["code"] for n in gaps.notes]


def test_a_gap_that_one_half_fits_as_well_is_not_judged():
    """Three levels a factor of two apart, noise of 5 %: the intervals of some refits are narrow by chance."""
    for seed in range(6):
        gaps = hs.transfer_gaps(gap_table(0.8, upstream=4000 * 2.0 ** np.arange(3), seed=seed, noise=0.05))
        assert gaps.table["verdict"].tolist() != ["low"]


def arms_table(levels, seed=0):
    rows = []
    for arm, floor, scale, power in (("plain", 0.3, 40.0, 0.6), ("distilled", 0.36, 20.0, 0.55)):
        generator = np.random.default_rng([seed, len(arm)])
        for n in np.repeat(np.asarray(levels, dtype=float), 4):
            loss = (floor + scale * n**-power) * np.exp(0.01 * generator.standard_normal())
            rows.append({"arm": arm, "n_pretrain": n, "loss": loss})
    return pd.DataFrame(rows)


@pytest.mark.parametrize("levels, new", [([500, 32_000], [4000.0]), ([2000], [500.0, 8000.0])])
def test_a_boundary_needs_three_sizes(levels, new):
    line = hs.find_boundary(arms_table(levels), bootstrap=100)
    assert (line.status, line.n_pretrain) == ("not_resolved", None)
    assert added(line.notes) == {"n_pretrain": new}
    assert hs.find_boundary(arms_table(np.sort([*levels, *new, 16_000])), bootstrap=100).status == "crossing"


def two_models(models=(1e5, 8e5)):
    generator = np.random.default_rng(0)
    sizes = {
        name: grid.ravel()
        for name, grid in zip(("n_params", "n_pretrain"), np.meshgrid(models, np.repeat(UPSTREAM, 2)))
    }
    truth = {"E": 0.3, "A": 40.0, "alpha": 0.4, "B": 12.0, "beta": 0.35}
    loss = hs.LAWS["chinchilla"].predict(truth, sizes)
    return pd.DataFrame({**sizes, "loss": loss * np.exp(0.01 * generator.standard_normal(len(loss)))})


def test_a_plan_that_chooses_a_size_needs_three_of_it():
    prices = {"pretrain_image": 0.01, "flop": 1e-12}
    fit = hs.fit_law(two_models(), "chinchilla", bootstrap=200)
    given = {"budget": 500, "costs": prices, "flops_per_param": 6}
    for n_params in (None, "any", 1e7):
        plan = hs.plan(fit, n_params=n_params, **given)
        assert plan.verdict == "cannot_tell"
        assert list(added(plan.notes)) == ["n_params"]
    one = hs.plan(fit, n_params=1e5, **given)
    assert not added(one.notes)
    enough = hs.fit_law(two_models((1e5, 3e5, 8e5)), "chinchilla", bootstrap=200)
    assert hs.plan(enough, **given).verdict != "cannot_tell"


def test_suggested_runs_add_the_missing_levels():
    table = gap_table(0.0, upstream=UPSTREAM[[0, -1]])
    fit = hs.fit_law(table, bootstrap=200)
    runs = hs.suggest_runs(fit, budget=1e7, quantity="G", costs={"pretrain_image": 1.0}, table=table)
    assert runs.aim.verdict == "cannot_tell"
    assert set(runs["n_pretrain"]) == set(added(runs.aim.notes)["n_pretrain"]) == {8000.0}
    assert runs["n_finetune"].nunique() == len(runs) > 2
    assert runs["gain"].isna().all() and runs["cost"].sum() <= 1e7
    assert "cannot_tell" in runs.summary() and "nan" not in runs.summary()
    given = pd.DataFrame({"n_pretrain": [500.0, 6000.0, 60_000.0], "n_finetune": 800.0, "cost": [1.0, 3.0, 2.0]})
    assert hs.suggest_runs(fit, given, budget=3.0, quantity="G")["n_pretrain"].tolist() == [6000]
    assert hs.suggest_runs(fit, given[:1], budget=3.0, quantity="G").aim.notes[-1]["code"] == "nothing_to_gain"
    inside = hs.suggest_runs(fit, budget=1e7, at={"n_pretrain": 128_000, "n_finetune": 1e6}, table=table)
    assert inside.aim.verdict is None and (inside["gain"] > 0).all()


def test_the_command_prints_the_levels(tmp_path, capsys):
    path = tmp_path / "runs.csv"
    pd.DataFrame(gap_table(0.0, upstream=UPSTREAM[[0, -1]])).to_csv(path, index=False)
    argv = ["suggest", str(path), "--law", "transfer_gap", "--quantity", "G", "--budget", "1e9", "--bootstrap", "100"]
    with pytest.raises(SystemExit) as ended:
        main([*argv, "--json"])
    content = json.loads(capsys.readouterr().out)
    assert (ended.value.code, content["verdict"]) == (0, "cannot_tell")
    assert added(content["notes"]) == {"n_pretrain": [8000.0]}


def test_a_score_that_rises_is_judged_as_the_error_it_leaves():
    table = gap_table(0.9)
    loss = table.pop("loss")
    rising = {**table, "accuracy": 1 - 0.5 * loss / loss.max()}
    assert hs.transfer_gaps(rising, target="accuracy", bootstrap=200).table["verdict"].tolist() == ["high"]
