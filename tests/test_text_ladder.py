"""Ladders: one pretraining run whose rungs branch off and end as finished models, for text and for images."""

import dataclasses
import json
import time

import numpy as np
import pytest
from grids import command
from texts import write_texts

from hf_scaling import Grid, InputError, ResultsTable, run_grid
from hf_scaling.models import load_model
from hf_scaling.results import same_values
from hf_scaling.tasks.streams import Epochs
from hf_scaling.training import parse_pretrain, resolve, train
from hf_scaling.training.ladder import rung_of

_FIXED = ("--max_steps=5", "--num_train_epochs=2", "--min_steps=9", "--lr_scheduler_type=cosine")
QUIET = ["--report_to=none", "--disable_tqdm=true", "--logging_strategy=no", "--per_device_eval_batch_size=64"]
TEXT = ["--task=causal_lm", "--context=16", "--per_device_train_batch_size=4", "--learning_rate=3e-3", *QUIET]
IMAGES = ["--source=digits", "--model=vit-30k", "--image_size=8", "--patch_size=4", "--learning_rate=3e-3", *QUIET]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("text") / "upstream")


def run(folder, *argv):
    return train(resolve(*parse_pretrain([*argv, f"--output_dir={folder}", "--save_strategy=no"], None)))


def test_a_rung_continues_from_where_the_rate_of_the_previous_one_began_to_fall():
    fields, args = parse_pretrain(["--decay=0.25", "--warmup_steps=0.1", "--per_device_train_batch_size=10"], None)
    first, second = (rung_of(fields, args, examples) for examples in ([400], [400, 1_000]))
    assert (first.warmup, first.start, first.branch, first.steps) == (4, 0, 30, 40)
    assert (second.warmup, second.start, second.branch, second.steps) == (4, 30, 75, 100)
    with pytest.raises(InputError, match="rungs: rung 2"):
        rung_of(fields, args, [400, 400])


@pytest.mark.parametrize("argument", _FIXED)
def test_what_a_ladder_sets_cannot_be_given(argument):
    with pytest.raises(InputError, match=argument[2:].partition("=")[0]):
        rung_of(*parse_pretrain(["--decay=0.2", argument], None), [800])


def test_the_examples_of_a_smaller_rung_come_first():
    epoch = Epochs(100, seed=3, rungs=(10, 40, 100)).find(np.arange(100))[1]
    for rung in (10, 40, 100):
        assert sorted(epoch[:rung]) == list(range(rung))
    assert np.array_equal(Epochs(40, 3, (10, 40)).find(np.arange(40))[1], epoch[:40])


def test_one_command_trains_the_previous_rungs(texts, tmp_path):
    argv = [*TEXT, f"--source={texts}", "--decay=0.25", "--warmup_steps=2"]
    folder, row = run(tmp_path / "top", *argv, "--n_pretrain=4000", "--rungs", "1000", "2000")
    (middle,), (bottom,) = (
        ResultsTable.load(folder / name).rows() for name in ("previous_rung", "previous_rung/previous_rung")
    )
    assert [rung["n_pretrain"] for rung in (bottom, middle, row)] == [1_000, 2_000, 4_000]
    assert [rung["parent"] for rung in (bottom, middle, row)] == [None, bottom["run_id"], middle["run_id"]]
    assert len({rung["recipe"] for rung in (bottom, middle, row)}) == 1
    # 62 windows of 16 tokens, four a step; what a model has seen counts the rungs before it.
    assert [rung["samples_seen"] for rung in (bottom, middle, row)] == [16 * 64, 32 * 64, 63 * 64]
    assert row["loss"] < middle["loss"] < bottom["loss"]
    # A rung of its own by the same rule is the bottom one.
    _, alone = run(tmp_path / "alone", *argv, "--n_pretrain=1000")
    assert (alone["run_id"], alone["loss"]) == (bottom["run_id"], bottom["loss"])


def test_stopping_at_a_rung_does_not_change_the_next(texts, tmp_path):
    argv = [*TEXT, f"--source={texts}", "--decay=0.25", "--warmup_steps=2", "--n_pretrain=2000", "--rungs", "1000"]
    folder, row = run(tmp_path / "ladder", *argv)
    (tmp_path / "ladder" / "previous_rung" / "resume_state" / "optimizer.pt").unlink()
    with pytest.raises(InputError, match="resume_state"):
        run(tmp_path / "again", *argv, f"--previous_rung={folder / 'previous_rung'}")
    # The same rule and order from the first step, without a rung to stop at.
    resolved = resolve(*parse_pretrain([*argv, "--save_strategy=no"], None))
    undisturbed, same = train(dataclasses.replace(resolved, parent=None), tmp_path / "undisturbed")
    assert (undisturbed / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert same_values(row, same)


def test_a_previous_rung_of_another_run_is_refused(texts, tmp_path):
    argv = [*TEXT, f"--source={texts}", "--decay=0.25"]
    folder, _ = run(tmp_path / "first", *argv, "--n_pretrain=1000")
    above = [*argv, "--n_pretrain=2000", f"--previous_rung={folder}"]
    with pytest.raises(InputError, match="n_pretrain"):
        run(tmp_path / "other", *above, "--rungs", "900")
    with pytest.raises(InputError, match="rule"):
        run(tmp_path / "other", *above, "--rungs", "1000", "--learning_rate=1e-3")
    with pytest.raises(InputError, match="decay"):
        parse_pretrain(["--rungs", "1000"], None)
    with pytest.raises(InputError, match="teacher"):
        run(tmp_path / "other", *above, "--rungs", "1000", "--teacher=lm-100k")


def test_images_have_ladders_too(tmp_path):
    argv = [*IMAGES, "--decay=0.2", "--n_pretrain=1200", "--rungs", "300"]
    folder, row = run(tmp_path / "images", *argv)
    below = ResultsTable.load(folder / "previous_rung").rows()[0]
    assert (row["task"], row["samples_seen"], below["samples_seen"]) == ("image_classification", 1_200, 304)
    assert load_model(folder).config.num_labels == 10
    assert (row["parent"], below["parent"]) == (below["run_id"], None)


SHORT = {"per_device_train_batch_size": 4, "learning_rate": "3e-3", "per_device_eval_batch_size": 64}


def write_grid(path, texts, **changes):
    content = {
        "task": "causal_lm",
        "models": "lm-100k",
        "n_pretrain": [2_000, 1_000, 4_000],
        "schedule": "ladder",
        "downstream": [str(texts)],
        "n_finetune": [100, 400],
        "pretrain": {"source": str(texts), "context": 16, "save_strategy": "no", **SHORT},
        "finetune": {"max_steps": 2, "save_strategy": "no", **SHORT},
    }
    path.write_text(json.dumps({**content, **changes}))
    return path


def test_a_grid_trains_a_ladder_and_resumes_it_after_a_kill(texts, tmp_path, plans_here):
    path = write_grid(tmp_path / "ladder.yaml", texts)
    process = command("run", path, "--out", tmp_path / "study")
    while not list((tmp_path / "study").glob("results/*.parquet")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.kill()
    process.wait()
    table = run_grid(path, out=tmp_path / "study", progress=False)
    plan = Grid.load(path).plan()
    assert {row["run_id"] for row in table.rows()} == {run.run_id for run in plan}
    rungs = [run for run in plan if run.spec.stage == "pretrain"]
    assert [rung.spec.n_pretrain for rung in rungs] == [1_000, 2_000, 4_000]
    assert [rung.parent for rung in rungs] == [None, rungs[0].run_id, rungs[1].run_id]
    # Each pays for its own part alone: 16, 32 - 13 and 63 - 26 steps.
    step = rungs[0].train_flops / 16
    assert [round(rung.train_flops / step) for rung in rungs] == [16, 19, 37]
    losses = {row["n_pretrain"]: row["loss"] for row in table.rows() if row["stage"] == "pretrain"}
    assert losses[4_000] < losses[2_000] < losses[1_000]


def test_grids_refuse_impossible_ladders(texts, tmp_path):
    cases = [
        ({"n_pretrain": ["all", 1_000]}, "n_pretrain"),
        ({"arms": [{"teacher": "lm-100k"}]}, "arms"),
        ({"schedule": "stairs"}, "schedule: 'stairs'"),
        ({"pretrain": {"rungs": [3]}}, "rungs.*schedule"),
        ({"overrides": [{"where": {"n_pretrain": 1_000}, "skip": True}]}, "1000"),
    ]
    for changes, named in cases:
        with pytest.raises(InputError, match=named):
            Grid.load(write_grid(tmp_path / "grid.yaml", texts, **changes))


def test_steps_along_one_pretraining_run_are_checkpoints():
    along = {"checkpoint": "EleutherAI/pythia-70m@step{step}", "steps": [1, 512], "tokens_per_step": 2_097_152}
    grid = Grid.from_dict({"task": "causal_lm", "checkpoints": [along], "downstream": "licences", "n_finetune": 1_000})
    given = [(run.fields["checkpoint"], run.fields["n_pretrain"]) for run in grid.runs]
    assert given == [("EleutherAI/pythia-70m@step1", 2_097_152), ("EleutherAI/pythia-70m@step512", 1_073_741_824)]
    with pytest.raises(InputError, match="tokens_per_step"):
        Grid.from_dict({"checkpoints": [{**along, "tokens_per_step": 0}], "downstream": "licences"})
    with pytest.raises(InputError, match="step"):
        Grid.from_dict({"checkpoints": [{**along, "checkpoint": "a/b"}], "downstream": "licences"})
