"""Suggested runs as a grid: exactly those, with what they need, under the study's own run ids; and the command."""

import json

import numpy as np
import pandas as pd
import pytest
from grids import CONTENT, write_grid

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.grid import Grid
from hf_scaling.planning.next_runs.candidates import measured_by, placed
from hf_scaling.planning.next_runs.costs import bill_of
from hf_scaling.planning.next_runs.suggest import grid_content
from hf_scaling.results import ResultsTable, new_row

STUDY = {"n_pretrain": [40, 80, 160, 320, 640], "n_finetune": [20, 40, 80, 160], "models": ["vit-30k", "vit-50k"]}
PLAIN = {"A": 6.0, "alpha": 0.4, "G": 0.8, "beta": 0.3, "E": 0.2}
TAUGHT = {"A": 3.0, "alpha": 0.25, "G": 0.9, "beta": 0.3, "E": 0.2}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study folder whose rows have a planned grid's ids and planted losses."""
    folder = tmp_path_factory.mktemp("study")
    grid = Grid.load(write_grid(folder / "grid.yaml", **STUDY))
    generator, rows = np.random.default_rng(0), []
    for run in grid.plan():
        spec, truth = run.spec, PLAIN if run.arm == "plain" else TAUGHT
        sizes = {"n_pretrain": float(spec.n_pretrain), "n_finetune": float(spec.n_finetune or 1)}
        loss = float(hs.LAWS["transfer_gap"].predict(truth, sizes)) * (run.n_params / 3e4) ** -0.1
        fine = spec.stage == "finetune"
        known = {"run_id": spec.run_id, "task": spec.task, "stage": spec.stage, "arm": run.arm, "recipe": spec.recipe}
        known |= {"model": run.model, "n_params": run.n_params, "seed": spec.seed, "eval_split": "test"}
        known |= {"n_pretrain": spec.n_pretrain, "n_finetune": spec.n_finetune, "upstream": "digits"}
        known |= {"downstream": "digits" if fine else None, "parent": spec.parent, "teacher": spec.teacher}
        known |= {"samples_seen": spec.steps * spec.rule["batch"], "train_flops": run.train_flops}
        rows.append(new_row({**known, "loss": loss * np.exp(0.02 * generator.standard_normal())}))
    ResultsTable(rows).save(folder / "results")
    return folder


def places(grid):
    """What a grid makes: pretraining runs by model, arm, n_pretrain, seed; fine-tuning ones by n_finetune as well."""
    found = set()
    for run in grid.runs:
        first = run.parent or run
        arm = "distilled" if first.teacher else "plain"
        place = (first.fields["model"], arm, first.fields["n_pretrain"], first.fields["seed"])
        found.add(place if run.parent is None else (*place, run.fields["n_finetune"]))
    return found


def suggested_places(runs):
    names = ["model", "arm", "n_pretrain", "seed", *(["n_finetune"] if "n_finetune" in runs else [])]
    return {tuple(run[name] for name in names) for run in runs.to_dict("records")}


def of(table, **names):
    frame = table.to_pandas()
    for name, value in names.items():
        frame = frame[frame[name] == value]
    return frame.reset_index(drop=True)


def test_suggested_pretraining_runs_are_written_and_no_others(study, tmp_path):
    table = ResultsTable.load(study)
    fit = hs.fit_law(of(table, model="vit-50k", stage="pretrain"), "power_law", arm="plain", bootstrap=200)
    runs = hs.suggest_runs(fit, budget=1e13, table=of(table, model="vit-50k"), grid=study / "grid.yaml")
    assert len(runs) > 2 and set(runs["model"]) == {"vit-50k"}
    runs.to_grid(tmp_path / "next.yaml")
    assert places(Grid.load(tmp_path / "next.yaml")) == suggested_places(runs)


def test_what_the_written_grid_has_and_the_table_lacks_is_what_was_suggested(study, tmp_path):
    table = ResultsTable.load(study)
    rows = of(table, model="vit-50k")
    fit = hs.fit_law(rows, "transfer_gap", arm="plain", downstream="digits", bootstrap=200)
    asked = {"budget": 2e9, "quantity": "G", "at_most": {"n_pretrain": 640}}
    runs = hs.suggest_runs(fit, table=rows, grid=study / "grid.yaml", **asked)
    runs.to_grid(tmp_path / "next.yaml")
    following = Grid.load(tmp_path / "next.yaml")
    fine, first = suggested_places(runs), {place[:4] for place in suggested_places(runs)}
    measured = {place[:4] for place in places(Grid.load(study / "grid.yaml"))}
    assert places(following) == fine | first
    missing = table.missing(following)
    assert sum(spec.stage == "finetune" for spec in missing) == len(runs) == len(fine)
    # Checkpoints that the study has keep their ids; new seeds and sizes need new ones.
    assert sum(spec.stage == "pretrain" for spec in missing) == len(first - measured)
    assert first & measured and {spec.run_id for spec in following.specs()} & table.run_ids()


def test_a_new_checkpoint_is_paid_for_once(study):
    rows, columns = of(ResultsTable.load(study), model="vit-50k"), ("n_pretrain", "n_finetune")
    fit = hs.fit_law(rows, "transfer_gap", arm="plain", downstream="digits", bootstrap=100)
    measured = measured_by(fit, columns, rows)
    wanted = pd.DataFrame({"n_pretrain": [1280, 1280, 640], "n_finetune": [160, 80, 113]})
    pace = {"flops_per_param": None, "flops_per_second": None}
    bill, prices, _ = bill_of(placed(wanted, measured, ()), columns, fit, measured, None, rows, pace)
    assert prices == {"flop": 1.0}
    # All runs of the grid take as many steps; twice the largest n_pretrain is counted as twice as many. The
    # checkpoint at 640 is there.
    alone = bill.cost()[2]
    assert bill.cost() == pytest.approx([3 * alone, 3 * alone, alone], rel=0.01)
    bill.pay(0)
    assert bill.cost()[1] == pytest.approx(alone, rel=0.01)


def test_pairs_bring_both_arms_and_the_teacher(study, tmp_path):
    table = of(ResultsTable.load(study), model="vit-50k", stage="pretrain")
    table["loss"] *= np.where(table["arm"] == "distilled", (table["n_pretrain"] / 100) ** 0.15, 1.0)
    runs = hs.suggest_runs(table, budget=1e13, quantity="boundary", grid=study / "grid.yaml")
    assert set(runs["arm"]) == {"both"}
    runs.to_grid(tmp_path / "next.yaml")
    wanted = {(model, arm, n, s) for model, _, n, s in suggested_places(runs) for arm in ("plain", "distilled")}
    teachers = {("vit-30k", "plain", n, s) for _, _, n, s in wanted}
    assert places(Grid.load(tmp_path / "next.yaml")) == wanted | teachers


def test_a_grid_given_as_candidates_is_chosen_from(study, tmp_path):
    table = ResultsTable.load(study)
    there = of(table, model="vit-50k", stage="pretrain")
    there = there[there["n_pretrain"] != 320]
    fit = hs.fit_law(there, "power_law", arm="plain", bootstrap=200)
    runs = hs.suggest_runs(fit, study / "grid.yaml", budget=1e13, table=there)
    # All else of this model and arm is there.
    assert suggested_places(runs) == {("vit-50k", "plain", 320, 0)}
    runs.to_grid(tmp_path / "next.yaml")
    assert places(Grid.load(tmp_path / "next.yaml")) == suggested_places(runs)


def test_rules_and_overrides_of_the_study_that_still_hold_are_kept():
    overrides = [
        {"where": {"model": "vit-30k"}, "pretrain": {"learning_rate": "2e-3"}},
        {"where": {"model": "vit-100k"}, "pretrain": {"learning_rate": "4e-3"}},
        {"where": {"n_finetune": 20}, "finetune": {"max_steps": 9}},
        {"where": {"model": "vit-50k", "n_pretrain": 80}, "skip": True},
    ]
    grid = Grid.from_dict({**CONTENT, **STUDY, "models": ["vit-30k", "vit-50k", "vit-100k"], "overrides": overrides})
    taught = {"model": "vit-50k", "arm": "distilled", "n_pretrain": 80, "seed": 3}
    content = grid_content([taught], grid)
    # The teacher is a vit-30k; nobody is a vit-100k, fine-tuned, or skipped.
    assert content["overrides"] == [{"where": {"model": ["vit-30k"]}, "pretrain": {"learning_rate": "2e-3"}}]
    assert content["pretrain"] == CONTENT["pretrain"] and "finetune" not in content
    fine = {"model": "vit-50k", "arm": "plain", "n_pretrain": 40, "seed": 0, "downstream": "digits", "n_finetune": 20}
    content = grid_content([fine, {**fine, "n_pretrain": 80, "n_finetune": 30}], grid)
    assert {"where": {"n_finetune": [20]}, "finetune": {"max_steps": 9}} in content["overrides"]
    written = places(Grid.from_dict(content))
    assert {place for place in written if len(place) == 5} == {
        ("vit-50k", "plain", 40, 0, 20),
        ("vit-50k", "plain", 80, 0, 30),
    }


@pytest.mark.parametrize(
    "run, change, words",
    [
        ({"n_pretrain": 40, "seed": 1, "model": "vit-30k"}, {}, "do not say their arm and the grid has 2"),
        ({"n_pretrain": 40, "seed": 1, "arm": "plain"}, {}, "do not say their model"),
        ({"n_pretrain": 40, "model": "vit-30k", "arm": "plain"}, {}, "do not say their seed"),
        ({"n_pretrain": 40, "seed": 1, "model": "vit-30k", "arm": "distilled"}, {"arms": ["plain"]}, "0 arms"),
    ],
)
def test_what_a_grid_leaves_open_is_named(run, change, words):
    with pytest.raises(hs.InputError, match=words):
        grid_content([run], Grid.from_dict({**CONTENT, **change}))


def test_runs_without_a_grid_cannot_be_written(study):
    fit = hs.fit_law(
        of(ResultsTable.load(study), stage="pretrain", model="vit-50k"), "power_law", arm="plain", bootstrap=100
    )
    with pytest.raises(hs.InputError, match="grid="):
        hs.suggest_runs(fit, budget=1e13).to_grid("next.yaml")


def run(*argv):
    with pytest.raises(SystemExit) as end:
        main([*map(str, argv)])
    return end.value.code


def test_the_command_prints_writes_and_knows_the_studys_grid(study, tmp_path, capsys):
    out = tmp_path / "next.yaml"
    asked = ["suggest", study, "--budget", "1e13", "--quantity", "boundary", "--bootstrap", "200"]
    assert run(*asked, "--at", "n_params=56522", "--out", out, "--json") == 0
    said = capsys.readouterr()
    content = json.loads(said.out)
    assert {"quantity", "before", "after", "runs", "cost", "budget", "notes"} <= set(content)
    assert content["cost"] <= content["budget"] == 1e13
    assert {"n_pretrain", "model", "seed", "arm", "cost", "gain", "low", "high"} <= set(content["runs"][0])
    assert f"hf-scaling run {out}" in said.err
    assert len(Grid.load(out)) >= len(content["runs"])
    assert run(*asked) == 0
    assert "narrower" in capsys.readouterr().out


def test_the_command_takes_a_kept_law_and_refuses_idle_flags(study, tmp_path, capsys):
    table = ResultsTable.load(study)
    fit = hs.fit_law(of(table, stage="pretrain", model="vit-50k"), "power_law", arm="plain", bootstrap=200)
    fit.save_pretrained(tmp_path / "law")
    assert run("suggest", tmp_path / "law", "--budget", "1e12", "--at", "n_pretrain=1000") == 0
    assert "loss at n_pretrain 1,000" in capsys.readouterr().out
    for flags, words in (
        (["--law", "power_law", "--quantity", "boundary"], "--law changes nothing"),
        (
            ["--runs", study, "--arm", "plain", "--stage", "pretrain", "--law", "chinchilla"],
            "RESULTS is a table already",
        ),
        (
            ["--arm", "plain", "--law", "chinchilla", "--stage", "pretrain", "--quantity", "x"],
            "quantity 'x' is unknown",
        ),
        (["--stage", "pretrain"], "choose one with --arm"),
    ):
        assert run("suggest", study, "--budget", "1e12", *flags) == 2
        assert words in capsys.readouterr().err
