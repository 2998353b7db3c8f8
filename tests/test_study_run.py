"""A study from its sets to its answers: the look, the tuning, the clock, bad input, resuming."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock
from PIL import Image

from hf_scaling.cli import main
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.results import ResultsTable
from hf_scaling.study import run as running
from hf_scaling.study.clock import Clock
from hf_scaling.study.look import STUDENTS, StudyPlan
from hf_scaling.study.run import run_study

pytestmark = pytest.mark.usefixtures("plans_here")


def exit_code(argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    return ended.value.code


def write_images(root, n, classes=("cat", "dog"), seed=0, size=16):
    draw = np.random.default_rng(seed)
    for number in range(n):
        folder = root / classes[number % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = draw.integers(0, 256, (size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return root


@pytest.fixture
def no_timing(monkeypatch):
    """Every run takes a hundred seconds a GFLOP; no model is timed."""
    monkeypatch.setattr(
        "hf_scaling.study.look.seconds_here", lambda plan, left, process: {r.run_id: 2 + r.flops * 1e-10 for r in left}
    )


def plan_of(folder):
    return StudyPlan.load(folder)


def test_a_dry_run_plans_sizes_and_levels_that_fit(tmp_path, no_timing):
    lines = []
    images = str(write_images(tmp_path / "images", 1600, size=8, classes="abcd"))
    result = run_study(images, "digits", hours=1, out=tmp_path / "study", dry_run=True, workers=2, say=lines.append)
    plan, grid = plan_of(tmp_path / "study"), yaml.safe_load((tmp_path / "study" / "grid.yaml").read_text())
    assert result.status == "planned" and result.answers == {}
    students = [plan.n_params[name] for name in plan.students]
    assert students == sorted(students) and 6 < students[-1] / students[0] < 12
    assert grid["models"] == plan.students and grid["n_pretrain"] == [0, *plan.n_pretrain]
    assert grid["arms"][1]["teacher"] == plan.teacher and plan.teacher not in plan.students
    assert len(plan.n_pretrain) >= 5 and plan.n_pretrain[0] >= 20 * 4 and plan.n_pretrain[-1] == 1440
    assert all(2 <= b / a <= 2.2 for a, b in zip(plan.n_pretrain, plan.n_pretrain[1:]))
    assert plan.n_finetune["digits"][0] >= 8 * 10 and plan.n_finetune["digits"][-1] <= 1_297
    assert any("gap" not in line and "plan" in line for line in lines)  # a plan needs a budget
    # What is fine-tuned needs its steps: fewer are tried only where nothing is.
    assert "min_steps" not in grid["tune"]
    run_study(images, hours=1, out=tmp_path / "alone", dry_run=True, workers=2, say=lambda line: None)
    alone = yaml.safe_load((tmp_path / "alone" / "grid.yaml").read_text())
    assert len(alone["tune"]["min_steps"]) == 2 and max(alone["tune"]["min_steps"]) == alone["pretrain"]["min_steps"]


def test_more_hours_and_images_plan_larger_students(tmp_path, no_timing):
    small = write_images(tmp_path / "few", 400, size=8, classes="abcd")
    large = write_images(tmp_path / "many", 2000, size=8, classes="abcd")
    sizes = {}
    for images, hours in [(large, 0.5), (large, 5000), (small, 5000)]:
        out = tmp_path / f"{images.name}{hours}"
        run_study(str(images), hours=hours, out=out, dry_run=True, workers=2, say=lambda line: None)
        plan = plan_of(out)
        sizes[images.name, hours] = plan.n_params[plan.middle]
        # A small set goes down to five images a class, for the levels that a boundary needs.
        assert len(plan.n_pretrain) == 5 and plan.n_pretrain[0] >= (5 if images == small else 20) * 4
    assert sizes["many", 5000] > sizes["many", 0.5]
    assert sizes["few", 5000] < sizes["many", 5000]


def test_the_smallest_students_reach_all_images_rather_than_larger_ones_fewer(tmp_path, no_timing):
    run_study("glyphs", hours=0.19, out=tmp_path / "study", dry_run=True, workers=2, say=lambda line: None)
    plan = plan_of(tmp_path / "study")
    assert plan.n_pretrain[-1] == plan.n_source and plan.students == list(STUDENTS[0][0])


def test_too_few_hours_name_how_many_are_enough(tmp_path, no_timing):
    with pytest.raises(InputError, match=r"--hours [\d.]+$") as caught:
        run_study("digits", hours=0.001, out=tmp_path / "study", dry_run=True, workers=1, say=lambda line: None)
    enough = float(str(caught.value).rsplit(" ", 1)[1])
    run_study("digits", hours=enough * 1.01, out=tmp_path / "s", dry_run=True, workers=1, say=lambda line: None)


def test_the_plan_of_the_first_call_stays(tmp_path, no_timing, monkeypatch):
    out = tmp_path / "study"
    run_study("digits", hours=1, out=out, dry_run=True, workers=2, say=lambda line: None)
    before = (out / "study.json").read_text(), (out / "grid.yaml").read_text()
    monkeypatch.setattr("hf_scaling.study.run.look", lambda *_: pytest.fail("looked again"))
    run_study("digits", hours=500, out=out, dry_run=True, workers=2, say=lambda line: None)
    assert ((out / "study.json").read_text(), (out / "grid.yaml").read_text()) == before
    with pytest.raises(InputError, match="--out"):
        run_study("glyphs", hours=1, out=out, dry_run=True, workers=2, say=lambda line: None)


@pytest.mark.parametrize(
    "options, named",
    [
        ({"question": "gap"}, "--downstream"),
        ({"question": "plan"}, "--budget"),
        ({"question": "why"}, "--question"),
        ({"target": "samples"}, "--target"),
        ({"hours": 0}, "--hours"),
        ({"hours": math.nan}, "--hours"),
    ],
)
def test_questions_without_what_they_need_are_refused(tmp_path, options, named):
    with pytest.raises(InputError, match=named):
        run_study("glyphs", out=tmp_path, **{"hours": 1, **options}, say=lambda line: None)
    assert not list(tmp_path.iterdir())


def test_sets_that_allow_no_study_are_refused(tmp_path, no_timing):
    images = write_images(tmp_path / "images", 200)
    copy = write_images(tmp_path / "copy", 200)
    one_class = write_images(tmp_path / "one", 20, classes=("cat",))
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "a.png")

    def study(upstream, *downstream):
        run_study(
            str(upstream),
            list(map(str, downstream)),
            hours=1,
            out=tmp_path / "out",
            dry_run=True,
            say=lambda line: None,
        )

    for sets, named in [
        ((one_class,), "one class"),
        ((tmp_path / "flat",), "class"),
        ((images, images), "upstream set itself"),
        ((images, copy), "upstream|also images"),
    ]:
        with pytest.raises(InputError, match=named):
            study(*sets)
    few = write_images(tmp_path / "few", 12, seed=3)
    with pytest.raises(InputError, match="too few"):
        study(few)


@pytest.mark.slow
def test_image_sizes_are_those_of_the_set(tmp_path, no_timing):
    for side, size in [(8, 16), (24, 32), (200, 64)]:
        images = str(write_images(tmp_path / f"images{side}", 60, size=side))
        out = tmp_path / f"study{side}"
        run_study(images, hours=50, out=out, dry_run=True, workers=2, say=lambda line: None)
        assert plan_of(out).image_size == size


@pytest.mark.slow
def test_short_hours_plan_fewer_steps_and_long_ones_smaller_patches(tmp_path, no_timing):
    images = str(write_images(tmp_path / "images", 1600, size=8, classes="abcd"))
    shapes = {}
    for hours in (500, 0.22):
        out = tmp_path / str(hours)
        run_study(images, hours=hours, out=out, dry_run=True, workers=2, say=lambda line: None)
        pretrain = yaml.safe_load((out / "grid.yaml").read_text())["pretrain"]
        shapes[hours] = pretrain["min_steps"], pretrain["patch_size"]
    assert shapes[500] == (1000, 2) and shapes[0.22][0] < 1000 and shapes[0.22][1] == 4


@pytest.mark.parametrize("case", ["hours", "overlap", "one class", "no labels", "the upstream set"])
def test_bad_input_ends_with_one_line_and_status_2(tmp_path, no_timing, capsys, case):
    images, out = write_images(tmp_path / "images", 200), tmp_path / "out"
    one_class = write_images(tmp_path / "one", 20, classes=("cat",))
    copy = write_images(tmp_path / "copy", 200)
    (tmp_path / "flat").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "flat" / "a.png")
    argv = {
        "hours": ["digits", "--hours", "0.0001"],
        "overlap": [str(images), "--downstream", str(copy), "--hours", "1"],
        "one class": [str(one_class), "--hours", "1"],
        "no labels": [str(tmp_path / "flat"), "--hours", "1"],
        "the upstream set": [str(images), "--downstream", str(images), "--hours", "1"],
    }[case]
    assert exit_code(["study", *argv, "--question", "boundary", "--out", str(out)]) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert len(lines) == 1 and not out.exists()


@pytest.mark.slow
def test_linear_probes_are_trained_beside_the_pilot_and_answer_nothing(tmp_path, no_timing):
    images = str(write_images(tmp_path / "images", 1600, size=8, classes="abcd"))
    out = tmp_path / "study"
    run_study(images, "digits", hours=1, out=out, dry_run=True, workers=2, say=lambda line: None)
    grid = Grid.from_dict(yaml.safe_load((out / "grid.yaml").read_text()) | {"seeds": [0], "overrides": []}, "g")
    plan = plan_of(out)
    with Clock(out) as clock:
        pool = running.GridPool(grid, plan, out, 1, "local", clock, 1)
        cells, runs = pool.candidates(), {run.run_id: run for run in grid.plan()}
        probes = {run_id for run_id, run in runs.items() if run.fields.get("train_part") == "head"}
        assert probes and not probes & set(cells.index)
        tuned = cells[(cells["stage"] == "finetune") & (cells["model"] == plan.middle) & (cells["arm"] == "plain")]
        beside = [runs[run_id] for run_id in pool._probes_of(tuned.index)]
        assert {run.spec.n_pretrain for run in beside} == {plan.n_pretrain[-1]} and len(beside) == 2
        recipes = {run.spec.recipe for run in beside} | {runs[run_id].spec.recipe for run_id in tuned.index}
        assert len(recipes) == 2


def test_a_runner_that_does_not_decide_trains_what_the_other_chose(tmp_path):
    class Pool:
        def __init__(self):
            self.left, self.measured = ["a", "b", "c"], []

        def candidates(self):
            return pd.DataFrame(index=self.left)

        def measure(self, cells):
            self.measured += list(cells)
            self.left = [cell for cell in self.left if cell not in cells]

    (tmp_path / "claims").mkdir()
    (tmp_path / running.STATE).write_text(json.dumps({"round": 0, "cells": ["b", "c"]}))
    pool, decider = Pool(), FileLock(tmp_path / "claims" / ".rounds.lock", is_singleton=False, thread_local=False)
    decider.acquire()
    threading.Timer(3.0, decider.release).start()
    with running._deciding(pool, tmp_path, lambda line: None):
        assert pool.measured == ["b", "c"]


def test_the_clock_sums_calls_and_leaves_out_the_time_between(tmp_path):
    for _ in range(2):
        with Clock(tmp_path) as clock:
            time.sleep(0.3)
        kept = json.loads((tmp_path / "clock.json").read_text())
        # As if a day had passed.
        (tmp_path / "clock.json").write_text(json.dumps({**kept, "last": kept["last"] - 86_400}))
    assert 0.55 < clock.seconds < 2


def test_two_runners_count_the_time_once(tmp_path):
    with Clock(tmp_path) as one, Clock(tmp_path):
        time.sleep(0.5)
    assert 0.45 < one.seconds < 0.95


@pytest.fixture
def tiny(monkeypatch):
    """Studies of three levels and two seeds with few steps, at fixed rates."""
    from hf_scaling.study import look as looking

    monkeypatch.setattr(looking, "STUDENTS", ((("vit-30k", "vit-50k", "vit-100k"), "vit-30k"),))
    grid = looking._grid

    def short(*args):
        content = grid(*args)
        content["pretrain"] |= {"min_steps": 4, "num_train_epochs": 0.01}
        content["tune"] = {"learning_rate": [1e-3, 4e-3]}
        return content

    monkeypatch.setattr(looking, "_grid", short)


@pytest.mark.slow
def test_a_study_measures_reports_and_continues(tmp_path, no_timing, tiny, capsys):
    out = tmp_path / "study"
    run_study("digits", hours=1, out=out, dry_run=True, workers=1, say=lambda line: None)
    argv = ["study", "digits", "--question", "boundary", "--out", str(out), "--workers", "1", "--json", "--hours"]
    assert exit_code([*argv, "0.01"]) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["status"] in ("spent", "exhausted", "answered") and (out / "rounds.json").is_file()
    n_rows = len(ResultsTable.load(out))
    assert n_rows > 4
    assert exit_code([*argv, "0.03"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["hours"] > first["hours"] and len(ResultsTable.load(out)) >= n_rows
    assert (out / "report.html").is_file()


@pytest.mark.slow
def test_a_killed_study_goes_on(tmp_path, no_timing, tiny):
    run_study("digits", hours=1, out=tmp_path / "s", dry_run=True, workers=1, say=lambda line: None)
    command = [sys.executable, "-m", "hf_scaling", "study", "digits", "--hours", "0.02", "--out", str(tmp_path / "s")]
    process = subprocess.Popen([*command, "--question", "boundary"], stderr=subprocess.DEVNULL, start_new_session=True)
    while not list((tmp_path / "s" / "results").glob("*.parquet")):
        time.sleep(0.2)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = set(ResultsTable.load(tmp_path / "s").run_ids())
    done = subprocess.run([*command, "--question", "boundary", "--json"], capture_output=True, text=True, check=True)
    assert before <= set(ResultsTable.load(tmp_path / "s").run_ids())
    assert json.loads(done.stdout)["status"] in ("answered", "spent", "exhausted")
    assert running.STATE in {path.name for path in (tmp_path / "s").iterdir()}
