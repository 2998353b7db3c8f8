"""A study from its sets to its answers: the look, the tuning, the clock, bad input, resuming."""

import json
import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from PIL import Image

from hf_scaling.cli import main
from hf_scaling.errors import InputError
from hf_scaling.results import ResultsTable
from hf_scaling.study import run as running
from hf_scaling.study.clock import Clock
from hf_scaling.study.look import StudyPlan
from hf_scaling.study.run import run_study
from hf_scaling.study.tune import RATES, tune


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
        "hf_scaling.study.look.seconds_here", lambda plan, left: {r.run_id: 2 + r.flops * 1e-10 for r in left}
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
    assert len(plan.n_pretrain) >= 5 and plan.n_pretrain[0] >= 5 * 4 and plan.n_pretrain[-1] == 1440
    assert all(2 <= b / a <= 2.2 for a, b in zip(plan.n_pretrain, plan.n_pretrain[1:]))
    assert plan.n_finetune["digits"][-1] <= 1_297
    assert any("gap" not in line and "plan" in line for line in lines)  # a plan needs a budget


def test_more_hours_and_images_plan_larger_students(tmp_path, no_timing):
    small = write_images(tmp_path / "few", 400, size=8, classes="abcd")
    large = write_images(tmp_path / "many", 2000, size=8, classes="abcd")
    sizes = {}
    for images, hours in [(large, 0.5), (large, 5000), (small, 5000)]:
        out = tmp_path / f"{images.name}{hours}"
        run_study(str(images), hours=hours, out=out, dry_run=True, workers=2, say=lambda line: None)
        plan = plan_of(out)
        sizes[images.name, hours] = plan.n_params[plan.middle]
    assert sizes["many", 5000] > sizes["many", 0.5]
    assert sizes["few", 5000] < sizes["many", 5000]


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


def test_tuning_finds_the_planted_rate_of_each_size(tmp_path):
    plan = StudyPlan(
        "up", [], {"up": "up"}, ["small", "middle", "large"], "teacher", 16,
        {"small": 50_000, "middle": 150_000, "large": 450_000}, [100, 200, 400, 800, 1600], 1600, {}, {}, {"1": 1.0},
    )  # fmt: skip
    best, steps = {"small": 4e-3, "large": 1e-3}, []

    def loss_of(fields):
        steps.append(fields["num_train_epochs"])
        assert fields["eval_strategy"] != "no" and fields["teacher"] == "none"
        return 1 + abs(math.log(fields["learning_rate"] / best[fields["model"]])) + 1 / fields["n_pretrain"]

    content = {"pretrain": {"num_train_epochs": 8, "min_steps": 500}}
    rates = tune(plan, content, tmp_path, 1e6, loss_of)
    assert (rates["small"], rates["large"], rates["middle"]) == (4e-3, 1e-3, 2e-3)
    tried = json.loads((tmp_path / "tuning.json").read_text())["tried"]
    # Halving: every rate at a quarter of the steps, fewer at more.
    assert [sum(t["steps"] == s and t["model"] == "small" for t in tried) for s in (0.25, 0.5)] == [2 * len(RATES), 4]
    assert tune(plan, content, tmp_path, 1e6, lambda fields: pytest.fail("tuned again")) == rates


def test_tuning_ends_with_its_seconds(tmp_path):
    plan = StudyPlan(
        "up",
        [],
        {"up": "up"},
        ["s", "m", "l"],
        "t",
        16,
        {"s": 1, "m": 3, "l": 9},
        [100, 200, 400],
        400,
        {},
        {},
        {"1": 1.0},
    )
    tried = []
    tune(plan, {"pretrain": {"num_train_epochs": 8}}, tmp_path, 0.0, lambda fields: tried.append(fields) or 1.0)
    assert len(tried) == 2  # one rate at two n_pretrain, which is the least


def test_a_killed_tuning_tries_nothing_twice(tmp_path):
    plan = StudyPlan(
        "up", [], {"up": "up"}, ["s", "m", "l"], "t", 16, {"s": 1, "m": 3, "l": 9}, [100, 200], 200, {}, {}, {"1": 1.0}
    )
    content, tried = {"pretrain": {"num_train_epochs": 8, "min_steps": 10}}, []

    def loss_of(fields):
        if len(tried) == 7:
            raise KeyboardInterrupt
        tried.append(json.dumps(fields, sort_keys=True))
        return fields["learning_rate"]

    with pytest.raises(KeyboardInterrupt):
        tune(plan, content, tmp_path, 1e6, loss_of)
    before, again = list(tried), []
    tune(plan, content, tmp_path, 1e6, lambda fields: again.append(json.dumps(fields, sort_keys=True)) or 1.0)
    assert again and not set(before) & set(again)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tuning.json"]


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
        content["pretrain"] |= {"min_steps": 4, "num_train_epochs": 0.01, "learning_rates": {"vit-50k": 1e-3}}
        return content

    monkeypatch.setattr(looking, "_grid", short)


@pytest.mark.slow
def test_a_study_measures_reports_and_continues(tmp_path, no_timing, tiny, capsys):
    out = tmp_path / "study"
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
def test_a_killed_study_goes_on(tmp_path):
    command = [sys.executable, "-m", "hf_scaling", "study", "digits", "--hours", "0.2", "--out", str(tmp_path / "s")]
    process = subprocess.Popen([*command, "--question", "boundary"], stderr=subprocess.DEVNULL, start_new_session=True)
    while not list((tmp_path / "s" / "results").glob("*.parquet")):
        time.sleep(0.2)
        assert process.poll() is None
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = set(ResultsTable.load(tmp_path / "s").run_ids())
    done = subprocess.run([*command, "--question", "boundary", "--json"], capture_output=True, text=True, check=True)
    assert before <= set(ResultsTable.load(tmp_path / "s").run_ids())
    assert json.loads(done.stdout)["status"] in ("answered", "spent")
    assert running.STATE in {path.name for path in (tmp_path / "s").iterdir()}
