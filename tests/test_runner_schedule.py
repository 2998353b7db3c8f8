"""The order in which the runner hands out runs, and how it handles their outcomes; nothing is trained here."""

import dataclasses
import itertools
import json

import pytest
import yaml

from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import Grid, PlannedRun, RunSpec
from hf_scaling.results import ResultsTable, new_row
from hf_scaling.results.sources import read_sources, record_sources
from hf_scaling.runner import loop
from hf_scaling.runner.loop import Schedule
from hf_scaling.runner.study_folder import Study

CONTENT = {
    "models": ["small", "large"],
    "n_pretrain": [100, 200],
    "arms": ["plain", {"teacher": "small"}],
    "downstream": ["digits"],
    "n_finetune": [10, 20],
}


def plan_of(grid, source=("digits", "0")):
    """The runs of a grid with invented ids and costs, without the process that resolves them."""
    planned = {}
    for run in grid.runs:
        teacher, parent = (need and planned[need.key].run_id for need in (run.teacher, run.parent))
        spec = RunSpec(
            stage=run.stage,
            model={"name": run.fields.get("model")},
            source=dict(zip(("name", "fingerprint"), source)),
            n_pretrain=(run.parent or run).fields["n_pretrain"],
            n_finetune=run.fields.get("n_finetune", 0),
            n_classes=10,
            rule={"batch": 8, "precision": "fp32"},
            steps=run.fields["n_pretrain"] if run.stage == "pretrain" else run.fields["n_finetune"],
            seed=run.fields["seed"],
            teacher=teacher,
            distillation={"alpha": 0.5} if teacher else None,
            parent=parent,
        )
        upstream = planned[run.parent.key] if run.parent else None
        planned[run.key] = PlannedRun(
            spec=spec,
            model=upstream.model if upstream else run.fields["model"],
            arm=upstream.arm if upstream else spec.arm,
            fields=run.fields,
            teacher=teacher,
            parent=parent,
            processes=run.processes,
            train_flops=spec.steps * (2 if "large" in run.fields.get("model", "") else 1),
        )
    return tuple(planned.values())


class Engine:
    """Finishes a run when it is waited for, or ends it as `outcomes` lists; records the runs it was given."""

    is_local = True

    def __init__(self, study, slots=2, outcomes=None):
        self.study, self.slots, self.outcomes = study, slots, outcomes or {}
        self.given, self.running, self.most, self.closed = [], {}, 0, False

    def free(self):
        return [slot for slot in range(self.slots) if slot not in self.running]

    def submit(self, slot, run):
        run = PlannedRun.from_dict(run)
        assert all(self.study.finished_row(need) is not None for need in run.needs)
        assert run.run_id not in {other.run_id for other in self.running.values()}
        self.given.append(run)
        self.running[slot] = run
        self.most = max(self.most, len(self.running))

    def wait(self, seconds):
        if not self.running:
            return []
        slot = next(iter(self.running))
        run = self.running.pop(slot)
        outcomes = self.outcomes.get(run.run_id, [])
        outcome = outcomes.pop(0) if outcomes else {"status": "done"}
        if outcome["status"] == "done":
            finish(self.study, run)
        return [(slot, outcome)]

    def close(self):
        self.closed = True


def finish(study, run):
    row = new_row({"run_id": run.run_id, "stage": run.spec.stage, "error": 0.5, "loss": 1.0})
    folder = study.run_folder(run.run_id)
    ResultsTable([row]).save(folder / "results")
    (folder / "model.safetensors").write_bytes(b"")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a grid with the engine above; returns the engine, which is `run.engine` where the call raises."""
    monkeypatch.setattr(Grid, "plan", lambda grid, fill=False, guess=False: plan_of(grid))
    study = Study(tmp_path / "study")

    def run(content=CONTENT, outcomes=None, slots=2, **options):
        run.engine = Engine(study, slots, outcomes)
        monkeypatch.setattr(loop, "open_engine", lambda name, path, workers: run.engine)
        run.table = loop.run_grid(Grid.from_dict(content), study.path, progress=False, **options)
        return run.engine

    run.study, run.plan = study, plan_of(Grid.from_dict(CONTENT))
    return run


def only(plan, **axes):
    """The one run of a plan with these values."""
    (match,) = [
        run for run in plan if all(getattr(run, name, getattr(run.spec, name, None)) == axes[name] for name in axes)
    ]
    return match


def test_each_run_is_trained_once_and_a_second_call_trains_none(run):
    engine = run()
    assert sorted(given.run_id for given in engine.given) == sorted(planned.run_id for planned in run.plan)
    assert len(run.table) == len(run.plan) == 24
    assert (engine.most, engine.closed) == (2, True)
    assert run().given == []
    assert run.table.missing(Grid.from_dict(CONTENT)) == []


def test_a_grid_with_one_more_size_trains_only_what_is_new(run):
    run()
    engine = run({**CONTENT, "n_finetune": [10, 20, 30]})
    assert [given.spec.n_finetune for given in engine.given] == [30] * 8
    assert len(run.table) == 32


def test_runs_with_most_dependants_come_first_then_the_longest(run):
    order = [(given.model, given.arm, given.spec.n_pretrain, given.spec.n_finetune) for given in run(slots=1).given]
    assert order[:2] == [("small", "plain", 200, 0), ("small", "plain", 100, 0)]
    assert [n_finetune == 0 for *_, n_finetune in order] == [True] * 8 + [False] * 16
    assert order[2][:3] == ("large", "plain", 200)


def test_fine_tunings_of_one_checkpoint_go_to_the_worker_that_has_loaded_it(run):
    tuned = [given for given in run(slots=1).given if given.spec.stage == "finetune"]
    changes = sum(a.parent != b.parent for a, b in itertools.pairwise(tuned))
    assert changes == 7


def test_a_failing_run_is_retried_once_then_recorded_while_the_rest_continues(run):
    bad = only(run.plan, model="small", arm="plain", n_pretrain=100, n_finetune=0)
    failure = {"status": "failed", "error": "the loss became nan"}
    with pytest.raises(loop.RunsFailedError, match=r"1 of 24 .* 8 .* --retry-failed"):
        run(outcomes={bad.run_id: [failure, failure]})
    assert [given.run_id for given in run.engine.given].count(bad.run_id) == 2
    records = [json.loads(line) for line in (run.study.path / "failures.jsonl").read_text().splitlines()]
    assert records[0]["run_id"] == bad.run_id
    assert records[0]["error"] == "the loss became nan"
    assert [record.get("waiting_on") for record in records[1:]] == [bad.run_id] * 8
    assert len(run.study.table()) == 24 - 9


def test_what_failed_before_is_retried_on_request_alone(run):
    bad = only(run.plan, model="small", arm="plain", n_pretrain=100, n_finetune=0)
    failure = {"status": "failed", "error": "x"}
    with pytest.raises(RunError):
        run(outcomes={bad.run_id: [failure, failure]})
    with pytest.raises(RunError):
        run()
    assert run.engine.given == []
    engine = run(retry_failed=True)
    assert len(engine.given) == 9
    assert (run.study.path / "failures.jsonl").read_text() == ""
    assert len(run.table) == 24


def test_a_run_that_succeeds_when_retried_is_not_a_failure(run):
    bad = run.plan[0]
    engine = run(outcomes={bad.run_id: [{"status": "failed", "error": "x"}]})
    assert len(engine.given) == 25
    assert run.study.failures() == {}


def test_a_run_fails_after_the_fifth_worker_that_died_during_it(run):
    unlucky, deadly = run.plan[0], only(run.plan, model="large", arm="distilled", n_pretrain=200, n_finetune=0)
    with pytest.raises(loop.RunsFailedError, match="1 of 24"):
        run(outcomes={unlucky.run_id: [{"status": "lost"}] * 4, deadly.run_id: [{"status": "lost"}] * 9})
    assert [given.run_id for given in run.engine.given].count(deadly.run_id) == 5
    assert "5 times" in run.study.failures()[deadly.run_id]["error"]
    assert unlucky.run_id not in run.study.failures()


def test_a_full_disk_ends_the_study_and_keeps_finished_runs(run):
    with pytest.raises(RunError, match=r"model\.safetensors"):
        run(
            slots=1,
            outcomes={run.plan[0].run_id: [{"status": "disk", "error": "the disk is full: model.safetensors"}]},
        )
    assert run.engine.closed
    trained = {given.run_id for given in run.engine.given} - {run.plan[0].run_id}
    assert run.study.table().run_ids() == trained
    assert run.study.failures() == {}


def test_a_run_that_another_runner_trains_is_left_to_it(run, monkeypatch):
    busy = only(run.plan, model="small", arm="plain", n_pretrain=200, n_finetune=0)
    looks = iter([True, True, False])

    def is_held(claims, run_id):
        assert run_id == busy.run_id
        held = next(looks)
        if not held:
            finish(run.study, busy)
        return held

    monkeypatch.setattr("hf_scaling.runner.study_folder.Claims.is_held", is_held)
    engine = run(outcomes={busy.run_id: [{"status": "busy"}]})
    assert [given.run_id for given in engine.given].count(busy.run_id) == 1
    assert len(run.table) == 24
    assert next(looks, "all looks taken") == "all looks taken"


def test_a_run_left_unfinished_by_another_runner_is_trained_here(run):
    dropped = run.plan[0]
    engine = run(outcomes={dropped.run_id: [{"status": "busy"}]})
    assert [given.run_id for given in engine.given].count(dropped.run_id) == 2
    assert len(run.table) == 24


def test_a_finished_folder_that_the_table_lacks_is_added_without_training(run):
    run.study.prepare(Grid.from_dict(CONTENT))
    finish(run.study, run.plan[0])
    engine = run()
    assert run.plan[0].run_id not in {given.run_id for given in engine.given}
    assert len(run.table) == 24


def write_run_file(study, run, **changes):
    spec = {**run.spec.to_dict(), **changes}
    (study.run_folder(run.run_id) / "run.yaml").write_text(yaml.safe_dump({"run_id": run.run_id, "spec": spec}))


def test_a_study_says_once_that_a_changed_source_is_trained_on_again(run, monkeypatch, caplog):
    run()
    for planned in run.plan:
        write_run_file(run.study, planned, source={"name": "digits", "fingerprint": "0123456789abcdef"})
    changed = ("digits", "fedcba9876543210")
    monkeypatch.setattr(Grid, "plan", lambda grid, fill=False, guess=False: plan_of(grid, changed))
    run()
    (message,) = [record.getMessage() for record in caplog.records if record.name == "hf_scaling.runner.loop"]
    assert all(part in message for part in ("digits", "0123456789abcdef", "fedcba9876543210"))


@pytest.mark.parametrize("source", [("letters", "1"), ("digits", "2")])
def test_a_study_says_nothing_of_runs_that_are_new(source, run, monkeypatch, caplog):
    run()
    for planned in run.plan:
        write_run_file(run.study, planned, n_classes=99)
    monkeypatch.setattr(Grid, "plan", lambda grid, fill=False, guess=False: plan_of(grid, source))
    run()
    assert [record for record in caplog.records if record.name == "hf_scaling.runner.loop"] == []


def test_a_removed_checkpoint_is_trained_again_only_where_it_is_needed(run):
    run()
    parent = only(run.plan, model="large", arm="plain", n_pretrain=100, n_finetune=0)
    (run.study.run_folder(parent.run_id) / "model.safetensors").unlink()
    assert run().given == []
    engine = run({**CONTENT, "n_finetune": [10, 20, 30]})
    assert [given.run_id for given in engine.given].count(parent.run_id) == 1
    assert len(engine.given) == 9


def test_a_run_of_several_processes_runs_alone(run):
    content = {**CONTENT, "overrides": [{"where": {"model": "large", "n_pretrain": 200}, "processes": 4}]}
    schedule = Schedule(plan_of(Grid.from_dict(content)), [], {})
    while schedule.open:
        started = list(iter(lambda: _start(schedule), None))
        assert len(started) == 1 or all(run.processes == 1 for run in started)
        for run in started:
            schedule.finish(run.run_id)


def _start(schedule):
    run = schedule.next(None)
    if run is not None:
        schedule.start(run)
    return run


def test_a_folder_that_cannot_be_written_to_is_refused(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=str(tmp_path / "file")):
        loop.run_grid(Grid.from_dict(CONTENT), tmp_path / "file" / "study", progress=False)


def test_planned_runs_read_back_as_written(run):
    for planned in run.plan:
        again = PlannedRun.from_dict(json.loads(json.dumps(planned.to_dict())))
        assert dataclasses.asdict(again) == dataclasses.asdict(planned)
        assert again.run_id == planned.run_id


def test_a_study_records_the_sources_that_were_counted(run):
    parts = [None, {"train": 1297, "test": 500}, {"train": 1168, "test": 500}]
    planned = [dataclasses.replace(item, source_parts=part) for item, part in zip(run.plan, parts)]
    run()
    path = run.study.path / "sources.json"
    assert not path.exists() and read_sources(run.study.path) == {}
    record_sources(run.study.path, planned)
    assert read_sources(run.study.path) == {"digits": {"train": 1168, "test": 500, "classes": 10}}
    before = path.stat().st_mtime_ns
    record_sources(run.study.path, planned)
    assert path.stat().st_mtime_ns == before
    unlimited = dataclasses.replace(
        plan_of(Grid.from_dict(CONTENT), ("glyphs", "0"))[0], source_parts={"train": None, "test": 2000}
    )
    record_sources(run.study.path, [unlimited, dataclasses.replace(planned[0], source_parts=parts[1])])
    assert read_sources(run.study.path) == {
        "digits": {"train": 1297, "test": 500, "classes": 10},
        "glyphs": {"train": None, "test": 2000, "classes": 10},
    }
