"""The outcomes that a worker reports, and a run of several processes."""

import errno
import json
import sys
from pathlib import Path

import pytest

from hf_scaling import Grid, ResultsTable, run_grid, training
from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import PlannedRun, resolver
from hf_scaling.runner.plans import plan_runs
from hf_scaling.runner.study_folder import Study
from hf_scaling.runner.worker import Worker

sys.path.insert(0, str(Path(__file__).parent / "support"))
from grids import CONTENT, write_grid


@pytest.fixture(scope="module")
def planned():
    """One planned pretraining run."""
    runs = Grid.from_dict(CONTENT).runs
    return plan_runs(resolver.to_json(runs), fill=False, guess=False)[0]


def full_disk():
    raise OSError(errno.ENOSPC, "No space left on device", "model.safetensors")


def full_cache():
    try:
        full_disk()
    except OSError as error:
        raise InputError("the disk of the cache is full: set HF_SCALING_CACHE") from error


def read_only():
    raise OSError(errno.EROFS, "Read-only file system", "runs/x")


def broken():
    raise ValueError("two\nlines")


def diverged():
    raise RunError("the loss became nan at step 2")


@pytest.mark.parametrize(
    ("fault", "status", "text"),
    [
        (full_disk, "disk", "model.safetensors"),
        (full_cache, "disk", "HF_SCALING_CACHE"),
        (read_only, "disk", "runs/x"),
        (broken, "failed", "ValueError: two lines"),
        (diverged, "failed", "nan at step 2"),
    ],
)
def test_a_fault_is_one_line_and_its_traceback_is_in_the_log(planned, tmp_path, monkeypatch, fault, status, text):
    monkeypatch.setattr(training, "train", lambda *_: fault())
    outcome = Worker().train(str(tmp_path), planned)
    assert outcome["status"] == status
    assert text in outcome["error"]
    assert "\n" not in outcome["error"]
    (log,) = (tmp_path / "logs").iterdir()
    assert f"in {fault.__name__}" in log.read_text()
    assert not list((tmp_path / "claims").glob("*.json"))


def test_a_run_of_another_runner_is_not_touched(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    with Study(tmp_path).claims.held(PlannedRun.from_dict(planned).run_id):
        assert Worker().train(str(tmp_path), planned) == {"status": "busy"}


def test_a_run_that_differs_from_its_plan_is_not_trained(planned, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda *_: pytest.fail("trained"))
    for name, value in (("source", {**planned["spec"]["source"], "fingerprint": "0" * 16}), ("rule", {"batch": 1})):
        outcome = Worker().train(str(tmp_path), {**planned, "spec": {**planned["spec"], name: value}})
        assert outcome["status"] == "failed"
        assert name in outcome["error"]


def test_records_of_failures_survive_a_damaged_line(tmp_path):
    study = Study(tmp_path)
    study.claims.folder.mkdir()
    study.record_failures([{"run_id": "a", "error": "x"}, {"run_id": "b", "error": "y"}])
    path = tmp_path / "failures.jsonl"
    path.write_text(path.read_text() + '{"run_id": "c", "err')
    study.forget_failures(["a"])
    assert [json.loads(line)["run_id"] for line in path.read_text().splitlines()] == ["b"]


@pytest.mark.slow
def test_a_run_of_several_processes_goes_through_accelerate(tmp_path):
    overrides = [{"where": {"model": "vit-30k"}, "processes": 2}, {"where": {"n_finetune": 20}, "processes": 1}]
    grid = write_grid(tmp_path / "two.yaml", models=["vit-30k"], arms=["plain"], n_finetune=[20], overrides=overrides)
    run_grid(grid, tmp_path / "study", progress=False)
    pretrained, tuned = sorted(ResultsTable.load(tmp_path / "study").rows(), key=lambda row: row["n_finetune"])
    assert (pretrained["device"], pretrained["samples_seen"]) == ("2 x cpu", 2 * 16 * 4)
    assert (tuned["device"], tuned["samples_seen"]) == ("cpu", 16 * 4)
