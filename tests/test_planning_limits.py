"""Plans and suggested runs stay within the images and labels that sources.json of a study says there are."""

import json

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.errors import InputError
from hf_scaling.fitting.levels import levels_to_add
from hf_scaling.results import ResultsTable, new_row

TRUTH = {"A": 12.0, "alpha": 0.35, "G": 0.8, "beta": 0.25, "E": 0.2}
SOURCES = {
    "glyphs": {"train": None, "test": 10_000, "classes": 62},
    "digits": {"train": 1297, "test": 500, "classes": 10},
}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """A study of glyphs to digits with up to 1,000 of its 1,297 labels, whose loss follows a planted law."""
    folder, rows = tmp_path_factory.mktemp("limits") / "study", []
    generator = np.random.default_rng(0)
    for n_pretrain in (500, 2000, 8000, 32_000):
        for n_finetune in (50, 150, 400, 1000):
            for seed in (0, 1):
                sizes = {"n_pretrain": np.array([float(n_pretrain)]), "n_finetune": np.array([float(n_finetune)])}
                loss = hs.LAWS["transfer_gap"].predict(TRUTH, sizes)[0] * np.exp(0.02 * generator.standard_normal())
                rows.append(
                    new_row(
                        {
                            "run_id": f"{len(rows):016x}",
                            "task": "image_classification",
                            "stage": "finetune",
                            "arm": "plain",
                            "recipe": "r",
                            "model": "vit-50k",
                            "n_params": 56_522,
                            "n_pretrain": n_pretrain,
                            "n_finetune": n_finetune,
                            "seed": seed,
                            "upstream": "glyphs",
                            "downstream": "digits",
                            "eval_split": "test",
                            "n_eval": 500,
                            "loss": float(loss),
                        }
                    )
                )
    ResultsTable(rows).save(folder / "results")
    (folder / "sources.json").write_text(json.dumps(SOURCES))
    return folder


@pytest.fixture(scope="module")
def fit(study):
    return hs.fit_law(ResultsTable.load(study), "transfer_gap", bootstrap=200)


def codes(notes):
    return [note["code"] for note in notes]


COSTS = {"label": 1.0, "pretrain_image": 0.001}


def test_a_plan_buys_no_more_labels_than_the_source_has(study, fit):
    bare = hs.plan(fit, 1e5, COSTS)
    assert bare.allocation["n_finetune"] > 1297
    assert "sizes_not_limited" in codes(bare.notes)
    limited = hs.plan(fit, 1e5, COSTS, study=study)
    assert limited.allocation["n_finetune"] == 1297
    # Any number of glyphs can be drawn.
    assert limited.allocation["n_pretrain"] > 32_000
    assert limited.frontier["n_finetune"].max() <= 1297
    (note,) = [note for note in limited.notes if note["code"] == "limit_reached"]
    assert "digits" in note["text"]
    assert "sizes_not_limited" not in codes(limited.notes)
    assert hs.plan(fit, 1e5, COSTS, study=study, at_most={"n_finetune": 5000}).allocation["n_finetune"] > 1297


def test_a_free_size_stays_at_the_largest_measured(study, fit):
    assert hs.plan(fit, 1e5, {"pretrain_image": 1.0}, study=study).allocation["n_finetune"] == 1000


def test_suggested_runs_need_no_more_labels_than_the_source_has(study, fit):
    options = {"budget": 1e6, "costs": COSTS}
    bare = hs.suggest_runs(fit, table=ResultsTable.load(study), **options)
    assert bare["n_finetune"].max() > 1297
    assert "sizes_not_limited" in codes(bare.aim.notes)
    limited = hs.suggest_runs(fit, table=study, **options)
    assert limited["n_finetune"].max() == 1297
    assert "sizes_not_limited" not in codes(limited.aim.notes)
    assert set(limited["model"]) == {"vit-50k"}
    larger = hs.suggest_runs(fit, table=study, at_most={"n_finetune": 3000}, **options)
    assert 1297 < larger["n_finetune"].max() <= 3000


def test_given_candidates_beyond_the_source_are_left_out(study, fit):
    given = {"n_pretrain": [64_000, 64_000], "n_finetune": [1297, 2500]}
    assert hs.suggest_runs(fit, given, table=study, budget=1e6, costs=COSTS)["n_finetune"].tolist() == [1297]
    with pytest.raises(InputError, match=r"n_finetune.*digits.*1,297"):
        hs.suggest_runs(fit, {"n_pretrain": [64_000], "n_finetune": [2500]}, table=study, budget=1e6, costs=COSTS)


@pytest.mark.parametrize("command", ["plan", "suggest"])
def test_the_commands_read_the_sources_of_a_study(study, command, capsys):
    flags = ["--budget", "1e5", "--cost", "label=1", "--cost", "pretrain_image=0.001", "--bootstrap", "100", "--json"]

    def asked(*more):
        with pytest.raises(SystemExit) as ended:
            main([command, str(study), *flags, *more])
        assert ended.value.code == 0
        content = json.loads(capsys.readouterr().out)
        runs = [content["allocation"]] if command == "plan" else content["runs"]
        return max(run["n_finetune"] for run in runs), codes(content["notes"])

    largest, found = asked()
    assert largest == 1297 and "sizes_not_limited" not in found
    assert asked("--at-most", "n_finetune=3000")[0] > 1297


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"digits": 3}', '{"digits": {"train": "many"}}', '{"digits": {"train": 0}}']
)
def test_a_damaged_file_of_sources_is_named(study, fit, tmp_path, content):
    (tmp_path / "sources.json").write_text(content)
    with pytest.raises(InputError, match=r"sources\.json"):
        hs.plan(fit, 100, COSTS, study=tmp_path)


@pytest.mark.parametrize(
    ("levels", "most", "added"),
    [
        ([250, 1000], 1297, [62.5]),
        ([100, 500], 1297, [1290]),
        ([100, 500], np.inf, [2000]),
        ([50, 1000], 1297, [224]),
    ],
)
def test_levels_to_add_exist(levels, most, added):
    assert levels_to_add(np.array(levels, dtype=float), most=most) == added


def test_too_few_levels_of_a_study_are_completed_within_its_source(study):
    frame = ResultsTable.load(study).to_pandas()
    few = pd.DataFrame(frame[frame["n_finetune"].isin([150, 400])])
    fit = hs.fit_law(few, "transfer_gap", bootstrap=50)
    for notes in (
        hs.plan(fit, 1e5, COSTS, study=study).notes,
        hs.suggest_runs(fit, budget=1e6, costs=COSTS, table=few, study=study).aim.notes,
    ):
        add = [note["add"]["n_finetune"] for note in notes if note["code"] == "too_few_levels"]
        assert add and max(map(max, add)) <= 1297


def test_a_need_and_a_transfer_gap_propose_no_level_above_what_there_is(study, tmp_path):
    folder = tmp_path / "study"
    frame = ResultsTable.load(study).to_pandas()
    frame[frame["n_finetune"].isin([150, 400])].to_csv(tmp_path / "rows.csv", index=False)
    ResultsTable.load(tmp_path / "rows.csv").save(folder / "results")
    (folder / "sources.json").write_text(json.dumps(SOURCES))

    def added(notes):
        return [size for n in notes for size in n.get("add", {}).get("n_finetune", ())]

    settings = {"law": "transfer_gap", "bootstrap": 100}
    needed = hs.need(str(folder), "loss", 0.9, "n_finetune", **settings)
    assert needed.verdict == "cannot_tell" and added(needed.notes) and max(added(needed.notes)) <= 1297
    assert max(added(hs.need(ResultsTable.load(folder), "loss", 0.9, "n_finetune", **settings).notes)) > 1297
    gaps = hs.transfer_gaps(str(folder), "loss", bootstrap=100)
    assert added(gaps.notes) and max(added(gaps.notes)) <= 1297


def test_what_is_to_be_collected_exists(study, fit):
    bare, limited = (hs.need(fit, "loss", 0.37, "n_finetune", **options) for options in ({}, {"study": study}))
    assert bare.value == limited.value > 1297 and bare.collect > 1297
    assert limited.collect == 1297
    assert "too_few_exist" in [note["code"] for note in limited.notes]
    assert "too_few_exist" not in [note["code"] for note in bare.notes]


def test_levels_to_add_for_a_need_and_a_gap_exist(study):
    frame = ResultsTable.load(study).to_pandas()
    few = pd.DataFrame(frame[frame["n_finetune"].isin([150, 400])])
    fit = hs.fit_law(few, "transfer_gap", bootstrap=50)
    found = hs.need(fit, "loss", 0.37, "n_finetune", study=study)
    gaps = hs.transfer_gaps(few, "loss", study=study, bootstrap=50)
    for notes in (found.notes, gaps.notes):
        add = [note["add"]["n_finetune"] for note in notes if note["code"] == "too_few_levels"]
        assert add and max(map(max, add)) <= 1297
    assert found.verdict == "cannot_tell" and found.collect <= 1297
    beyond = [note["add"] for note in hs.transfer_gaps(few, "loss", bootstrap=50).notes if "add" in note]
    assert max(beyond[0]["n_finetune"]) > 1297
