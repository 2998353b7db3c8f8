"""A whole study with real workers: the table, the ids, kills, failures, plans, and one line for mistakes."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from hf_scaling import Grid, ResultsTable, data, run_grid
from hf_scaling.cli import main
from hf_scaling.errors import InputError
from hf_scaling.grid import PlannedRun, resolver
from hf_scaling.results import same_values
from hf_scaling.runner import dry_run, loop, machine, plans, status
from hf_scaling.runner.engines import local

sys.path.insert(0, str(Path(__file__).parent / "support"))
from grids import CONTENT, command, write_grid

# Commands plan in a process of their own; what is called here need not.
pytestmark = pytest.mark.usefixtures("plans_here")
N_RUNS = 12


def rows_of(study):
    return {row["run_id"]: row for row in ResultsTable.load(study).rows()}


def assert_same(one, other):
    one, other = rows_of(one), rows_of(other)
    assert set(one) == set(other)
    assert [run_id for run_id in one if not same_values(one[run_id], other[run_id])] == []


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study of the grid in tests/support/grids.py, trained by the command; its output is stored beside it."""
    folder = tmp_path_factory.mktemp("study")
    process = command("run", write_grid(folder / "tiny.yaml"), "--out", folder / "tiny", "--workers", 2)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    (folder / "out").write_text(out)
    (folder / "err").write_text(err)
    return folder / "tiny"


def test_the_table_is_complete_and_printed(study):
    rows = rows_of(study)
    grid = Grid.load(study.parent / "tiny.yaml")
    assert len(rows) == len(grid) == N_RUNS
    assert ResultsTable.load(study).missing(grid) == []
    assert len(ResultsTable().missing(grid)) == N_RUNS
    out, err = (study.parent / name for name in ("out", "err"))
    lines = [line.split() for line in out.read_text().splitlines()]
    assert {("vit-30k", "plain"), ("vit-50k", "distilled")} <= {tuple(line[:2]) for line in lines}
    assert ["next", "hf-scaling", "fit"] in [line[:3] for line in lines]
    assert "n_finetune 30" in out.read_text()
    assert f"{N_RUNS}/{N_RUNS}" in err.read_text()
    report = ["report.html", "report.md", "report_figures"]
    others = ["claims", "grid.yaml", "logs", "results", "runs", "sources.json"]
    assert {path.name for path in study.iterdir()} == {*others, *report}
    assert list((study / "logs").iterdir()) == []


def test_students_and_fine_tunings_name_the_runs_they_start_from(study):
    rows = rows_of(study)
    for row in rows.values():
        if row["stage"] == "finetune":
            parent = rows[row["parent"]]
            assert [row[name] for name in ("arm", "teacher", "model")] == [
                parent[name] for name in ("arm", "teacher", "model")
            ]
        elif row["arm"] == "distilled":
            teacher = rows[row["teacher"]]
            assert (teacher["arm"], teacher["model"], teacher["n_pretrain"]) == ("plain", "vit-30k", 40)


def test_a_run_of_the_grid_is_the_run_of_the_recipe(study, tmp_path):
    from hf_scaling import training

    values = {
        **CONTENT["pretrain"],
        "model": "vit-50k",
        "teacher": "vit-30k",
        "n_pretrain": 40,
        "alpha": 0.3,
        "seed": 0,
    }
    recipe = training.parse_fields("pretrain", {**values, "output_dir": str(tmp_path / "out"), "disable_tqdm": True})
    _, row = training.train(training.resolve(*recipe))
    assert same_values(row, rows_of(study)[row["run_id"]])


def test_a_second_call_trains_nothing_and_one_more_size_only_that(study, tmp_path, monkeypatch):
    started, given = [], []
    start, submit = local.LocalEngine._start, local.LocalEngine.submit
    monkeypatch.setattr(local.LocalEngine, "_start", lambda engine, slot: started.append(slot) or start(engine, slot))
    monkeypatch.setattr(
        local.LocalEngine, "submit", lambda engine, slot, run: given.append(run) or submit(engine, slot, run)
    )
    shutil.copytree(study, tmp_path / "copy")
    table = run_grid(study.parent / "tiny.yaml", tmp_path / "copy", workers=2, progress=False)
    assert (len(table), started) == (N_RUNS, [])
    larger = write_grid(tmp_path / "larger.yaml", n_finetune=[20, 30, 50], models=["vit-30k"], arms=["plain"])
    table = run_grid(larger, tmp_path / "copy", workers=2, progress=False)
    assert (len(table), started) == (N_RUNS + 1, [0])
    assert [run["spec"]["n_finetune"] for run in given] == [50]


def test_a_damaged_cache_file_is_named_and_rebuilt(study, tmp_path, capfd):
    out = tmp_path / "copy"
    shutil.copytree(study, out)
    tuned = next(row for row in rows_of(study).values() if row["n_finetune"] == 30)
    (out / "results" / f"{tuned['run_id']}.parquet").unlink()
    shutil.rmtree(out / "runs" / tuned["run_id"])
    (damaged,) = Path(os.environ["HF_SCALING_CACHE"]).glob("digits-8px-*/train/*/*.arrow")
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 255
    damaged.write_bytes(content)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(study.parent / "tiny.yaml"), "--out", str(out), "--workers", "1"])
    # What the worker writes too.
    err = capfd.readouterr().err
    assert ended.value.code == 0, err
    assert str(damaged) in err
    assert_same(study, out)


def test_whatever_is_killed_the_table_is_the_same(study, tmp_path):
    grid, out = write_grid(tmp_path / "tiny.yaml"), tmp_path / "killed"
    interrupt(grid, out)
    # Two runners at once, of which one is killed and the other loses its worker.
    killed, runner = (command("run", grid, "--out", out, "--workers", 1) for _ in range(2))
    wait_for_rows(out, 4, killed)
    killed.kill()
    killed.communicate()
    wait_for_rows(out, 6, runner)
    kill_worker(runner, out)
    outputs = runner.communicate(timeout=300)
    assert runner.returncode == 0, outputs
    assert_same(study, out)
    # A kill may leave a file that was being written, which no table reads.
    assert len(list((out / "results").glob("*.parquet"))) == N_RUNS
    assert list(out.glob("runs/*/checkpoints")) == []


def interrupt(grid, out):
    """Ctrl-C after the first runs: they are kept, and no worker is left."""
    for _ in range(5):
        wait_for_rows(out, 1, runner := command("run", grid, "--out", out, "--workers", 1))
        workers = psutil.Process(runner.pid).children()
        runner.send_signal(signal.SIGINT)
        _, err = runner.communicate(timeout=60)
        if runner.returncode:
            break
        # On a busy machine the study may end before the signal comes.
        shutil.rmtree(out)
    assert runner.returncode == 130
    assert err.splitlines()[-1].startswith("error: ")
    assert "Traceback" not in err
    assert rows_of(out)
    _, alive = psutil.wait_procs(workers, timeout=20)
    assert alive == []


def test_a_failing_run_does_not_stop_the_others(tmp_path, capsys):
    broken = [{"where": {"arm": "distilled"}, "pretrain": {"learning_rate": "1e30", "max_grad_norm": 0}}]
    grid, out = write_grid(tmp_path / "tiny.yaml", models=["vit-30k"], overrides=broken), tmp_path / "study"
    with pytest.raises(SystemExit) as ended:
        main(["run", str(grid), "--out", str(out), "--workers", "1", "--json"])
    printed, err = capsys.readouterr()
    assert ended.value.code == 1, err
    assert "failures.jsonl" in err.splitlines()[-1]
    content = json.loads(printed)
    assert set(content) == {"study", "n_rows", "failures", "findings", "report", "next"}
    assert content["n_rows"] == 3
    assert len(rows_of(out)) == 3
    (failed, *waiting) = [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]
    assert "step" in failed["error"]
    assert "Traceback" in (out / failed["log"]).read_text()
    assert [record["waiting_on"] for record in waiting] == [failed["run_id"]] * 2
    assert failed["run_id"] in err
    assert content["failures"] == [{"run_id": failed["run_id"], "error": failed["error"]}]
    state = status.study_state(out)
    assert {name: state[name] for name in ("runs", *status.STATES)} == {
        "runs": 6,
        "finished": 3,
        "running": 0,
        "failed": 1,
        "missing": 2,
    }
    assert [failure["run_id"] for failure in state["failures"]] == [failed["run_id"]]
    assert sum(group["runs"] for group in state["groups"]) == 6
    assert [line.split() for line in status.describe_state(state).splitlines()[1:5]] == [
        ["pretrain", "plain", "1", "1", "0", "0", "0"],
        ["pretrain", "distilled", "1", "0", "0", "1", "0"],
        ["finetune", "plain", "2", "2", "0", "0", "0"],
        ["finetune", "distilled", "2", "0", "0", "0", "2"],
    ]


def test_a_dry_run_counts_and_trains_nothing(study, tmp_path, monkeypatch):
    before = sorted(study.rglob("*"))
    larger = Grid.load(write_grid(tmp_path / "larger.yaml", n_finetune=[20, 30, 60]))
    # The study was trained here, so that no step needs to be timed.
    monkeypatch.setattr(dry_run, "Process", lambda *_: pytest.fail("a step was timed"))
    content = dry_run.estimate(larger, study, workers=2)
    assert [content[name] for name in ("runs", "finished", "left", "workers")] == [16, 12, 4, 2]
    assert sum(group["train_flops"] for group in content["groups"]) == content["train_flops"] > 0
    text = dry_run.describe(content)
    cells = {line.split()[0]: line.split()[1:4] for line in text.splitlines() if line.split()}
    assert cells["all"] == ["16", "12", "4"]
    assert {"time", "disk"} <= set(cells)
    assert "unknown" not in text
    assert sorted(study.rglob("*")) == before


def test_gpu_hours_follow_from_the_counted_operations(tmp_path, monkeypatch):
    monkeypatch.setattr(dry_run, "Process", lambda *_: pytest.fail("a step was timed"))
    grid = Grid.load(write_grid(tmp_path / "tiny.yaml"))
    content = dry_run.estimate(grid, tmp_path / "study", 2, gpu=machine.GpuRate("h100", 0.35))
    operations = sum(run.flops for run in grid.plan())
    assert content["gpu_hours"] == pytest.approx(operations / (67e12 * 0.35) / 3600)
    half = dry_run.estimate(grid, tmp_path / "study", 2, gpu=machine.GpuRate("h100", 0.7))
    assert half["gpu_hours"] == pytest.approx(content["gpu_hours"] / 2)
    in_bf16 = Grid.load(write_grid(tmp_path / "bf16.yaml"), ["pretrain.bf16=true", "finetune.bf16=true"])
    faster = dry_run.estimate(in_bf16, tmp_path / "study", 2, gpu=machine.GpuRate("h100", 0.35))
    assert content["gpu_hours"] / faster["gpu_hours"] == pytest.approx(989.4 / 67)
    assert "h100" in dry_run.describe(content) and "35 %" in dry_run.describe(content)
    with pytest.raises(InputError, match=r"t4.*bf16"):
        dry_run.estimate(in_bf16, tmp_path / "study", 2, gpu=machine.GpuRate("t4", 0.35))


@pytest.mark.parametrize(
    ("name", "share", "word"), [("h10", 0.3, "h100"), ("h100", 0, "--utilisation"), ("l4", 1.1, "1.1")]
)
def test_an_unknown_gpu_or_share_is_refused(name, share, word):
    with pytest.raises(InputError, match=word):
        machine.GpuRate(name, share)


def test_only_selects_runs_and_those_they_need(study):
    plan = Grid.load(study.parent / "tiny.yaml").plan()
    assert loop.select_runs(plan, None) == plan == loop.select_runs(plan, {"seed": [0]})
    tuned = loop.select_runs(plan, {"n_finetune": 30, "arm": "distilled"})
    assert {run.spec.stage for run in tuned} == {"pretrain", "finetune"}
    asked = [run for run in tuned if run.spec.n_finetune == 30]
    assert asked and all(run.arm == "distilled" for run in asked)
    ids = {run.run_id for run in tuned}
    assert all(set(run.needs) <= ids for run in tuned)
    # The teacher of the parents is there too, and nothing that no run needs.
    assert ids == {run.run_id for run in asked} | {need for run in tuned for need in run.needs}
    assert {run.spec.stage for run in loop.select_runs(plan, {"stage": "pretrain"})} == {"pretrain"}


@pytest.mark.parametrize(
    ("only", "word"),
    [
        ({"modle": "vit-30k"}, "model"),
        ({"model": "vit-99k"}, "vit-99k"),
        ({"stage": "pretrain", "n_finetune": 30}, "only"),
    ],
)
def test_only_refuses_what_no_run_has(study, only, word):
    with pytest.raises(InputError, match=word):
        loop.select_runs(Grid.load(study.parent / "tiny.yaml").plan(), only)


def test_a_dry_run_on_a_fresh_machine_times_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "cache_root", lambda _: tmp_path / "cache")
    grid = Grid.load(write_grid(tmp_path / "tiny.yaml"))
    plan = grid.plan()
    assert machine.Speeds().nearest(plan[0], 100) is None
    text = dry_run.describe(dry_run.estimate(grid, tmp_path / "study", workers=2))
    assert "unknown" not in text
    assert machine.Speeds().nearest(plan[0], 2).seconds > 0
    assert not (tmp_path / "study").exists()


def resolve(guess=False, **changes):
    """The runs of a grid as the separate process plans them, in this process."""
    runs = Grid.from_dict({**CONTENT, **changes}).runs
    return plans.plan_runs(resolver.to_json(runs), fill=False, guess=guess)


def test_a_study_records_how_much_its_sources_have(study):
    sources = json.loads((study / "sources.json").read_text())
    assert sources["digits"] == {"train": 1297, "test": 500, "classes": 10}


def test_models_of_random_class_subsets_are_planned_named_and_trained(tmp_path):
    changes = {"models": ["vit-30k"], "arms": ["plain"], "n_finetune": [20], "class_subsets": {"count": 2}}
    path = write_grid(tmp_path / "halves.yaml", **changes, finetune={**CONTENT["finetune"], "class_errors": True})
    plan = Grid.load(path).plan()
    assert [run.class_subset for run in plan] == [0, 0, 1, 1] and {run.spec.n_classes for run in plan} == {5, 10}
    assert "class subset 1" in loop.describe_run(plan[3])
    assert [PlannedRun.from_dict(run.to_dict()) for run in plan] == list(plan)
    content = dry_run.estimate(Grid.load(path), tmp_path / "study", workers=1)
    assert content["class_subsets"] == 2 and "2 random subsets" in dry_run.describe(content)
    run_grid(path, out=tmp_path / "study")
    tuned = [row for row in rows_of(tmp_path / "study").values() if row["stage"] == "finetune"]
    assert len({row["classes"] for row in tuned}) == 2
    assert all(len(json.loads(row["classes"])) == 5 and len(json.loads(row["class_errors"])) == 10 for row in tuned)


def test_a_source_out_of_reach_is_guessed_where_that_is_allowed():
    far = {"pretrain": {**CONTENT["pretrain"], "source": "org/name"}}
    with pytest.raises(InputError, match="org/name"):
        resolve(**far)
    runs = resolve(guess=True, **far)
    assert len(runs) == N_RUNS
    assert all("org/name" in run["provisional"] and run["train_flops"] > 0 for run in runs)
    assert not any(run["provisional"] for run in resolve())


def test_a_ladder_of_given_checkpoints_is_fine_tuned_with_its_n_pretrain(study, tmp_path):
    from hf_scaling import training

    first = next(row for row in rows_of(study).values() if row["stage"] == "pretrain" and row["arm"] == "plain")
    foreign = shutil.copytree(study / "runs" / first["run_id"], tmp_path / "foreign")
    for ours in ("results", "run.yaml", "seen.safetensors"):
        shutil.rmtree(foreign / ours) if (foreign / ours).is_dir() else (foreign / ours).unlink()
    ladder = [
        {"checkpoint": str(foreign), "n_pretrain": 7000},
        {"checkpoint": str(study / "runs" / first["run_id"])},
    ]
    content = {"checkpoints": ladder, "downstream": ["digits"], "n_finetune": [20], "finetune": CONTENT["finetune"]}
    runs = Grid.from_dict(content).runs
    planned = plans.plan_runs(resolver.to_json(runs), fill=False, guess=False)
    assert [run["spec"]["n_pretrain"] for run in planned] == [7000, 40]
    for run in planned:
        told = {**run["fields"], "output_dir": str(tmp_path / run["spec"]["parent"]), "disable_tqdm": True}
        _, row = training.train(training.resolve(*training.parse_fields("finetune", told)))
        assert row["run_id"] == PlannedRun.from_dict(run).run_id
        assert row["n_pretrain"] == run["spec"]["n_pretrain"]
    wrong = [{**ladder[1], "n_pretrain": 41}]
    with pytest.raises(InputError, match=r"41.* 40 "):
        plans.plan_runs(resolver.to_json(Grid.from_dict({**content, "checkpoints": wrong}).runs), False, False)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"pretrain": {**CONTENT["pretrain"], "learning_rat": 1}}, ["pretrain", "learning_rat", "learning_rate"]),
        ({"n_finetune": [20, 5000]}, ["finetune", "n_finetune", "5,000", "1,297"]),
        ({"n_pretrain": [5]}, ["n_pretrain", "10"]),
        ({"models": ["vit-31k"]}, ["vit-31k", "vit-30k"]),
        ({"downstream": ["digitts"]}, ["digitts", "digits"]),
        ({"arms": [{"teacher": "vit-31k"}]}, ["vit-31k", "vit-30k"]),
        ({"arms": [{"teacher": "absent/folder"}]}, ["absent/folder"]),
        ({"arms": [{"teacher": "vit-30k", "alpha_schedule": "until_passed"}]}, ["until_passed", "eval_strategy"]),
        ({"finetune": {"teacher": "vit-30k"}}, ["finetune", "teacher"]),
    ],
    ids=str,
)
def test_what_cannot_be_trained_is_refused_when_it_is_planned(changes, names):
    with pytest.raises(InputError) as caught:
        resolve(**changes)
    for name in names:
        assert name in str(caught.value)


def test_a_refused_grid_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="learning_rat"):
        run_grid(write_grid(tmp_path / "bad.yaml", finetune={"learning_rat": 1}), tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()


def test_a_plan_is_kept_until_its_source_changes(tmp_path, monkeypatch):
    from numbered_images import write_folder

    from hf_scaling import training

    write_folder(tmp_path / "images" / "train", 30)
    source = {"pretrain": {**CONTENT["pretrain"], "source": str(tmp_path / "images")}, "n_pretrain": [20]}
    first = resolve(**source)
    with monkeypatch.context() as patch:
        patch.setattr(training, "resolve_runs", lambda *_: pytest.fail("resolved again"))
        assert resolve(**source) == first
    write_folder(tmp_path / "images" / "train", 31)
    opened = []
    openers = {"images": lambda **arguments: opened.append(tuple(arguments.items())) or data.open_source(**arguments)}
    monkeypatch.setattr(data.sources, "OPENERS", openers)
    monkeypatch.setattr(data, "OPENERS", openers)
    second = resolve(**source)
    assert len(opened) == len(set(opened))  # the check of the plan and the new plan open each source once
    assert {run["spec"]["source"]["fingerprint"] for run in first if run["spec"]["stage"] == "pretrain"}.isdisjoint(
        run["spec"]["source"]["fingerprint"] for run in second if run["spec"]["stage"] == "pretrain"
    )


def test_a_thousand_planned_runs_take_little_memory():
    code = f"""
import psutil, sys
from hf_scaling import Grid, ResultsTable
grid = Grid.from_dict({CONTENT!r} | {{"seeds": list(range(84))}})
missing = ResultsTable().missing(grid)
print(len(missing), "torch" in sys.modules, psutil.Process().memory_info().rss)
"""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    missing, torch, memory = process.stdout.split()
    assert (int(missing), torch) == (1008, "False"), process.stderr
    assert int(memory) < 200e6


def wait_for_rows(out, n, runner):
    deadline = time.monotonic() + 200
    while len(list(out.glob("results/*.parquet"))) < n and runner.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def kill_worker(runner, out):
    """Kill the worker of a runner while it trains: the process that a claim names."""
    deadline = time.monotonic() + 200
    while runner.poll() is None:
        assert time.monotonic() < deadline
        owners = set()
        for claim in out.glob("claims/*.json"):
            with contextlib.suppress(OSError, ValueError):
                owners.add(json.loads(claim.read_text())["pid"])
        if workers := owners & {child.pid for child in psutil.Process(runner.pid).children()}:
            os.kill(workers.pop(), signal.SIGKILL)
            return
        time.sleep(0.002)
    pytest.fail("the study ended before its worker trained")
