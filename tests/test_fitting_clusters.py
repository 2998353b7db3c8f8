"""Rows that share their luck: which they are, and that intervals allow for it."""

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.errors import InputError

TRUTH = {"E": 1.69, "A": 406.4, "alpha": 0.34, "B": 410.7, "beta": 0.28}


def checkpoints(seed=0, luck=0.01, own=0.001, runs=8, each=8):
    """Runs of different sizes with checkpoints that share the run's luck."""
    generator, run = np.random.default_rng(seed), np.repeat(np.arange(runs), each)
    sizes = {
        "n_params": np.logspace(7, 10, runs)[run],
        "n_pretrain": np.tile(np.logspace(9, 11.5, each), runs),
    }
    shared = luck * generator.standard_normal(runs)[run] + own * generator.standard_normal(len(run))
    return pd.DataFrame({"run": run, **sizes, "loss": hs.LAWS["chinchilla"].predict(TRUTH, sizes) * np.exp(shared)})


def fine_tuned(seed=0, luck=0.02):
    """Ten checkpoints fine-tuned on five amounts each."""
    generator, parent = np.random.default_rng(seed), np.repeat(np.arange(10), 5)
    sizes = {"n_pretrain": np.geomspace(1e3, 1e7, 10)[parent], "n_finetune": np.tile(np.geomspace(10, 1e5, 5), 10)}
    truth = {"A": 12.0, "alpha": 0.35, "G": 0.8, "beta": 0.25, "E": 0.2}
    shared = luck * generator.standard_normal(10)[parent] + 0.005 * generator.standard_normal(50)
    loss = hs.LAWS["transfer_gap"].predict(truth, sizes) * np.exp(shared)
    return pd.DataFrame({"parent": [f"run{number}" for number in parent], **sizes, "loss": loss})


def width(fit, name):
    low, high = fit.intervals[name]
    return high - low


def test_checkpoints_of_a_run_are_not_independent():
    table = checkpoints()
    shared, alone = (hs.fit_law(t, "chinchilla", bootstrap=200) for t in (table, table.drop(columns="run")))
    assert shared.params == alone.params
    assert width(shared, "alpha") > 3 * width(alone, "alpha") and width(shared, "beta") < 2 * width(alone, "beta")
    assert "clusters" in shared.note_codes and "clusters" not in alone.note_codes


@pytest.mark.parametrize("column", ["run", "wandb_id"])
def test_cluster_names_another_column(column):
    table = checkpoints(seed=1).rename(columns={"run": column})
    named = hs.fit_law(table, "chinchilla", bootstrap=100, cluster=column)
    default = hs.fit_law(table, "chinchilla", bootstrap=100)
    assert ("clusters" in default.note_codes) == (column == "run")
    assert "clusters" in named.note_codes
    with pytest.raises(InputError, match="'nowhere'"):
        hs.fit_law(table, "chinchilla", cluster="nowhere")


def test_fine_tuned_rows_of_one_checkpoint_are_a_cluster():
    table = fine_tuned()
    shared, alone = (hs.fit_law(t, "transfer_gap", bootstrap=200) for t in (table, table.drop(columns="parent")))
    assert width(shared, "alpha") > 1.5 * width(alone, "alpha")
    gaps = hs.transfer_gaps(table, bootstrap=200).fits["all rows"]
    assert "clusters" in gaps.note_codes


def test_rungs_of_a_ladder_are_a_cluster():
    table = checkpoints(runs=6, each=6)
    ids = [f"{run}-{rung}" for run, rung in zip(table["run"], np.tile(np.arange(6), 6))]
    below = [None if name.endswith("-0") else f"{name[:-1]}{int(name[-1]) - 1}" for name in ids]
    ladder = table.drop(columns="run").assign(run_id=ids, parent=below, stage="pretrain")
    by_run = hs.fit_law(table, "chinchilla", bootstrap=100)
    by_ladder = hs.fit_law(ladder, "chinchilla", bootstrap=100)
    assert by_ladder.intervals == by_run.intervals


@pytest.mark.parametrize("column", ["run", "parent"])
def test_a_cluster_a_row_changes_nothing(column):
    table = checkpoints().drop(columns="run")
    named = table.assign(**{column: [f"r{i}" for i in range(len(table))]})
    one, other = (hs.fit_law(t, "chinchilla", bootstrap=100) for t in (table, named))
    assert one.intervals == other.intervals and one.notes == other.notes


def test_too_few_runs_are_said_so():
    table = checkpoints(runs=3, each=12)
    fit = hs.fit_law(table, "chinchilla", bootstrap=100)
    assert "few_clusters" in fit.note_codes and fit.status == "not_identifiable"


@pytest.mark.parametrize(
    ("plant", "law", "name"), [(checkpoints, "chinchilla", "alpha"), (fine_tuned, "transfer_gap", "G")]
)
def test_planted_luck_is_covered(plant, law, name):
    truth = {"alpha": 0.34, "G": 0.8}[name]
    fits = [hs.fit_law(plant(seed), law, bootstrap=100, seed=seed) for seed in range(40)]
    held = np.mean([fit.intervals[name][0] <= truth <= fit.intervals[name][1] for fit in fits])
    # 40 studies of a 95 % interval: fewer than 33 have a chance of one in ten thousand.
    assert held >= 33 / 40


def test_weights_and_pairs_go_with_clusters():
    table = checkpoints().assign(certainty=np.linspace(0.5, 2, 64))
    for settings in ({"weights": "certainty"}, {"method": "pairs"}):
        fit = hs.fit_law(table, "chinchilla", bootstrap=100, **settings)
        assert np.isfinite(list(fit.intervals.values())).all()


def test_a_table_of_many_checkpoints_is_condensed(monkeypatch):
    table = checkpoints(each=12)
    whole = hs.fit_law(table, "chinchilla", bootstrap=300)
    monkeypatch.setattr("hf_scaling.fitting.bootstrap.MANY_ROWS", 50)
    condensed = hs.fit_law(table, "chinchilla", bootstrap=300)
    for parameter in TRUTH:
        assert width(condensed, parameter) == pytest.approx(width(whole, parameter), rel=0.05)


@pytest.mark.parametrize("column", ["run", "parent"])
def test_rows_of_one_run_alone_are_judged_within_it(column):
    table = checkpoints(runs=2, each=10).query("run == 1").drop(columns=["n_params", "run"])
    table["loss"] -= table["loss"].min() / 2
    if column == "run":
        named = table.assign(run="only")
    else:
        named = table.assign(run_id=[f"r{i}" for i in range(10)], parent=[None, *(f"r{i}" for i in range(9))])
    alone, one = (hs.fit_law(rows, "power_law", bootstrap=100) for rows in (table, named))
    assert one.intervals == alone.intervals and one.status == alone.status and "few_clusters" in one.note_codes


@pytest.mark.parametrize("name", ["run_name", "Run", "Run Name", "experiment"])
def test_other_names_of_the_run_are_known_where_they_repeat(name):
    table = checkpoints()
    renamed = table.rename(columns={"run": name}).assign(**{name: [f"sun-{run}" for run in table["run"]]})
    fits = [hs.fit_law(one, "chinchilla", bootstrap=100) for one in (table, renamed)]
    for parameter, ends in fits[0].intervals.items():
        assert fits[1].intervals[parameter] == pytest.approx(ends)
    unique = renamed.assign(**{name: [f"sun-{row}" for row in range(len(table))]})
    assert "clusters" not in [n["code"] for n in hs.fit_law(unique, "chinchilla", bootstrap=100).notes]


@pytest.mark.parametrize("seed", [0, 1])
def test_checkpoints_that_no_column_names_are_suspected(seed):
    fit = hs.fit_law(checkpoints(seed).drop(columns="run"), "chinchilla", bootstrap=100)
    (found,) = [n for n in fit.notes if n["code"] == "shared_luck"]
    assert "n_params" in found["text"]
    independent = hs.fit_law(checkpoints(seed, luck=0, own=0.01).drop(columns="run"), "chinchilla", bootstrap=100)
    assert "shared_luck" not in [n["code"] for n in independent.notes]


@pytest.mark.parametrize("missing", [1, 16])
def test_rows_without_a_run_are_counted(missing):
    table = checkpoints().assign(
        run=lambda t: [None if row < missing else f"r{run}" for row, run in enumerate(t["run"])]
    )
    fit = hs.fit_law(table, "chinchilla", bootstrap=100)
    (found,) = [n for n in fit.notes if n["code"] == "rows_without_cluster"]
    assert found["text"].startswith(f"{missing} of 64")
