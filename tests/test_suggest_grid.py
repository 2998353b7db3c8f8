"""Suggested runs as a grid: those and what they need, with the run ids of the study; and the command."""

import json

import numpy as np
import pandas as pd
import pytest
from grids import CONTENT, write_grid
from in_process import plan_here

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.grid import Grid
from hf_scaling.planning.costs import CostOptions
from hf_scaling.planning.next_runs.candidates import complete_candidates, measured_runs
from hf_scaling.planning.next_runs.costs import run_costs
from hf_scaling.planning.next_runs.grid import grid_content
from hf_scaling.results import ResultsTable, new_row

# Grids are planned by this process: each plan by a process of its own takes seconds.
pytestmark = pytest.mark.usefixtures("plans_here")
STUDY = {"n_pretrain": [40, 80, 160, 320, 640], "n_finetune": [20, 40, 80, 160], "models": ["vit-30k", "vit-50k"]}
PLAIN = {"A": 6.0, "alpha": 0.4, "G": 0.8, "beta": 0.3, "E": 0.2}
DISTILLED = {"A": 3.0, "alpha": 0.25, "G": 0.9, "beta": 0.3, "E": 0.2}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study folder whose rows have a planned grid's ids and planted losses."""
    folder = tmp_path_factory.mktemp("study")
    grid = Grid.load(write_grid(folder / "grid.yaml", **STUDY))
    generator, rows = np.random.default_rng(0), []
    with pytest.MonkeyPatch.context() as patch:
        plan_here(patch)
        plan = grid.plan()
    for run in plan:
        spec, truth = run.spec, PLAIN if run.arm == "plain" else DISTILLED
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
    """The runs of a grid: pre-trained ones by model, arm, n_pretrain, seed; fine-tuned ones by n_finetune as well."""
    result = set()
    for run in grid.runs:
        first = run.parent or run
        arm = "distilled" if first.teacher else "plain"
        place = (first.fields["model"], arm, first.fields["n_pretrain"], first.fields["seed"])
        result.add(place if run.parent is None else (*place, run.fields["n_finetune"]))
    return result


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


def test_the_runs_of_the_grid_that_the_table_lacks_are_the_suggested_ones(study, tmp_path):
    table = ResultsTable.load(study)
    rows = of(table, model="vit-50k")
    fit = hs.fit_law(rows, "transfer_gap", arm="plain", downstream="digits", bootstrap=200)
    arguments = {"budget": 2e9, "quantity": "G", "at_most": {"n_pretrain": 640}}
    runs = hs.suggest_runs(fit, table=rows, grid=study / "grid.yaml", **arguments)
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
    measured = measured_runs(fit, columns, rows)
    wanted = pd.DataFrame({"n_pretrain": [1280, 1280, 640], "n_finetune": [160, 80, 113]})
    frame = complete_candidates(wanted, measured, ())
    costs, prices, _ = run_costs(frame, columns, fit, measured, None, rows, CostOptions())
    assert prices == {"flop": 1.0}
    # All runs of the grid take as many steps; twice the largest n_pretrain is counted as twice as many. The
    # checkpoint at 640 is there.
    alone = costs.added()[2]
    assert costs.added() == pytest.approx([3 * alone, 3 * alone, alone], rel=0.01)
    costs.pay(0)
    assert costs.added()[1] == pytest.approx(alone, rel=0.01)


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


PRETRAIN = {name: value for name, value in CONTENT["pretrain"].items() if name != "source"}
# A ladder sets the number of steps itself.
ONE_PASS = {name: value for name, value in PRETRAIN.items() if name != "max_steps"}
TOP = {"task": "image_classification", "source": "digits", "arms": ["plain"], "models": ["vit-30k"]}


@pytest.mark.parametrize(
    "keys",
    [{"pretrain": PRETRAIN}, {"schedule": "ladder", "pretrain": {**ONE_PASS, "per_device_train_batch_size": 4}}],
)
def test_a_study_with_its_source_task_and_schedule_at_the_top_gets_runs_of_them(keys, tmp_path):
    sizes = [40, 80, 160, 320, 640]
    written = write_grid(tmp_path / "grid.yaml", **TOP, **keys, n_pretrain=sizes, downstream=["digits"])
    grid = Grid.load(written)
    generator = np.random.default_rng(0)
    rows = [
        new_row(
            {
                "run_id": run.spec.run_id,
                "task": run.spec.task,
                "stage": "pretrain",
                "arm": "plain",
                "recipe": run.spec.recipe,
                "model": run.model,
                "n_params": run.n_params,
                "n_pretrain": run.spec.n_pretrain,
                "n_finetune": 0,
                "upstream": "digits",
                "eval_split": "test",
                "seed": 0,
                "train_flops": run.train_flops,
                "loss": (0.3 + 6 * run.spec.n_pretrain**-0.4) * np.exp(0.02 * generator.standard_normal()),
            }
        )
        for run in grid.plan()
        if run.spec.stage == "pretrain" and run.spec.n_pretrain != 160
    ]
    ResultsTable(rows).save(tmp_path / "results")
    fit = hs.fit_law(tmp_path, "power_law", stage="pretrain", bootstrap=100)
    candidates = pd.DataFrame({"n_pretrain": [160.0], "seed": [0]})
    runs = hs.suggest_runs(fit, candidates, budget=1e15, table=tmp_path, at={"n_pretrain": 160})
    runs.to_grid(tmp_path / "next.yaml")
    following = Grid.load(tmp_path / "next.yaml")
    assert {name: following.content.get(name) for name in ("task", "source", "schedule")} == {
        "task": "image_classification",
        "source": "digits",
        "schedule": keys.get("schedule"),
    }
    # The suggested run is that of the study's grid; a ladder has its smaller rungs too, and no run is another one.
    wanted = {run.spec.run_id: run.spec.n_pretrain for run in grid.plan() if run.spec.stage == "pretrain"}
    ids = [spec.run_id for spec in following.specs()]
    assert sorted(wanted[name] for name in ids) == ([40, 80, 160] if "schedule" in keys else [160])


def test_a_grid_from_before_its_tuning_is_refused():
    grid = Grid.from_dict({**CONTENT, **TOP, "pretrain": ONE_PASS, "tune": {"learning_rate": True}})
    with pytest.raises(hs.InputError, match="tuned"):
        grid_content([{"model": "vit-30k", "arm": "plain", "n_pretrain": 40, "seed": 1}], grid)


def test_hyperparameters_and_overrides_that_apply_are_copied():
    overrides = [
        {"where": {"model": "vit-30k"}, "pretrain": {"learning_rate": "2e-3"}},
        {"where": {"model": "vit-100k"}, "pretrain": {"learning_rate": "4e-3"}},
        {"where": {"n_finetune": 20}, "finetune": {"max_steps": 9}},
        {"where": {"model": "vit-50k", "n_pretrain": 80}, "skip": True},
    ]
    grid = Grid.from_dict({**CONTENT, **STUDY, "models": ["vit-30k", "vit-50k", "vit-100k"], "overrides": overrides})
    distilled = {"model": "vit-50k", "arm": "distilled", "n_pretrain": 80, "seed": 3}
    content = grid_content([distilled], grid)
    # The teacher is a vit-30k; no run is a vit-100k, fine-tuned, or skipped.
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
    "run, change, named",
    [
        ({"n_pretrain": 40, "seed": 1, "model": "vit-30k"}, {}, "arm.*2"),
        ({"n_pretrain": 40, "seed": 1, "arm": "plain"}, {}, "model"),
        ({"n_pretrain": 40, "model": "vit-30k", "arm": "plain"}, {}, "seed"),
        ({"n_pretrain": 40, "seed": 1, "model": "vit-30k", "arm": "distilled"}, {"arms": ["plain"]}, "distilled"),
    ],
)
def test_errors_name_what_the_grid_leaves_open(run, change, named):
    with pytest.raises(hs.InputError, match=named):
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


def test_the_command_prints_and_writes_by_the_grid_of_the_study(study, tmp_path, capsys):
    out = tmp_path / "next.yaml"
    arguments = ["suggest", study, "--budget", "1e13", "--quantity", "boundary", "--bootstrap", "200"]
    assert run(*arguments, "--at", "n_params=56522", "--out", out, "--json") == 0
    captured = capsys.readouterr()
    content = json.loads(captured.out)
    assert {"quantity", "before", "after", "runs", "cost", "budget", "notes"} <= set(content)
    assert content["cost"] <= content["budget"] == 1e13
    assert {"n_pretrain", "model", "seed", "arm", "cost", "gain", "low", "high"} <= set(content["runs"][0])
    assert str(out) in captured.err
    assert len(Grid.load(out)) >= len(content["runs"])
    assert run(*arguments) == 0
    assert "boundary" in capsys.readouterr().out


def test_the_command_takes_a_saved_law_and_refuses_flags_without_effect(study, tmp_path, capsys):
    table = ResultsTable.load(study)
    fit = hs.fit_law(of(table, stage="pretrain", model="vit-50k"), "power_law", arm="plain", bootstrap=200)
    fit.save_pretrained(tmp_path / "law")
    assert run("suggest", tmp_path / "law", "--budget", "1e12", "--at", "n_pretrain=1000") == 0
    out = capsys.readouterr().out
    assert "loss" in out and "n_pretrain 1,000" in out
    pretrain = ["--stage", "pretrain"]
    for flags, named in (
        (["--law", "power_law", "--quantity", "boundary"], "--law"),
        ([*pretrain, "--runs", study, "--arm", "plain", "--law", "chinchilla"], "--runs"),
        ([*pretrain, "--arm", "plain", "--law", "chinchilla", "--quantity", "x"], "'x'"),
        (pretrain, "--arm"),
    ):
        assert run("suggest", study, "--budget", "1e12", *flags) == 2
        assert named in capsys.readouterr().err
