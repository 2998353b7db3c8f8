"""What the runner hands out, and what it makes of how runs end; no run is trained here."""

import dataclasses
import itertools
import json

import pytest

from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import Grid, PlannedRun, RunSpec
from hf_scaling.results import ResultsTable, new_row
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


def plan_of(grid):
    """The runs of a grid with made-up ids and costs, without asking the training half."""
    planned = {}
    for run in grid.runs:
        teacher, parent = (each and planned[each.key].run_id for each in (run.teacher, run.parent))
        spec = RunSpec(
            stage=run.stage,
            model={"name": run.fields.get("model")},
            source={"name": "digits", "fingerprint": "0"},
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
    """Finishes a run the moment it is waited for, or ends it as `ends` says; counts what it was given."""

    def __init__(self, study, slots=2, ends=None):
        self.study, self.ends, self.given, self.at, self.most = study, ends or {}, [], {}, 0
        self.slots, self.closed = slots, False

    def free(self):
        return [slot for slot in range(self.slots) if slot not in self.at]

    def submit(self, slot, run):
        run = PlannedRun.from_dict(run)
        for needed in run.needs:
            assert self.study.finished_row(needed) is not None
        assert run.run_id not in {each.run_id for each in self.at.values()}
        self.given.append(run)
        self.at[slot] = run
        self.most = max(self.most, len(self.at))

    def wait(self, seconds):
        if not self.at:
            return []
        slot = next(iter(self.at))
        run = self.at.pop(slot)
        ends = self.ends.get(run.run_id, [])
        outcome = ends.pop(0) if ends else {"status": "done"}
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
    """Run a grid with the engine above; gives the engine, also where the run raises (then it is `run.engine`)."""
    monkeypatch.setattr(Grid, "plan", lambda grid, fill=False, guess=False: plan_of(grid))
    study = Study(tmp_path / "study")

    def run(content=CONTENT, ends=None, slots=2, **options):
        run.engine = Engine(study, slots, ends)
        monkeypatch.setattr(loop, "open_engine", lambda name, path, workers: run.engine)
        run.table = loop.run_grid(Grid.from_dict(content), study.path, progress=False, **options)
        return run.engine

    run.study, run.plan = study, plan_of(Grid.from_dict(CONTENT))
    return run


def chosen(plan, **axes):
    (found,) = [
        each
        for each in plan
        if all(getattr(each, name, getattr(each.spec, name, None)) == axes[name] for name in axes)
    ]
    return found


def test_each_run_is_made_once_and_a_second_call_makes_none(run):
    engine = run()
    assert sorted(each.run_id for each in engine.given) == sorted(each.run_id for each in run.plan)
    assert len(run.table) == len(run.plan) == 24
    assert (engine.most, engine.closed) == (2, True)
    assert run().given == []
    assert run.table.missing(Grid.from_dict(CONTENT)) == []


def test_a_grid_with_one_more_size_makes_only_what_is_new(run):
    run()
    engine = run({**CONTENT, "n_finetune": [10, 20, 30]})
    assert [each.spec.n_finetune for each in engine.given] == [30] * 8
    assert len(run.table) == 32


def test_what_most_others_wait_for_comes_first_then_the_longest(run):
    order = [(each.model, each.arm, each.spec.n_pretrain, each.spec.n_finetune) for each in run(slots=1).given]
    assert order[:2] == [("small", "plain", 200, 0), ("small", "plain", 100, 0)]
    assert [each[3] == 0 for each in order] == [True] * 8 + [False] * 16
    assert order[2][:3] == ("large", "plain", 200)


def test_fine_tunings_of_one_checkpoint_go_to_the_worker_that_holds_it(run):
    tuned = [each for each in run(slots=1).given if each.spec.stage == "finetune"]
    changes = sum(a.parent != b.parent for a, b in itertools.pairwise(tuned))
    assert changes == 7


def test_a_failing_run_is_tried_once_more_then_recorded_while_the_rest_goes_on(run):
    bad = chosen(run.plan, model="small", arm="plain", n_pretrain=100, n_finetune=0)
    failure = {"status": "failed", "error": "the loss became nan"}
    with pytest.raises(RunError, match=r"1 of 24 runs failed and 8 wait .* --retry-failed"):
        run(ends={bad.run_id: [failure, failure]})
    assert [each.run_id for each in run.engine.given].count(bad.run_id) == 2
    records = [json.loads(line) for line in (run.study.path / "failures.jsonl").read_text().splitlines()]
    assert records[0]["run_id"] == bad.run_id
    assert records[0]["error"] == "the loss became nan"
    assert [each.get("waiting_on") for each in records[1:]] == [bad.run_id] * 8
    assert len(run.study.table()) == 24 - 9


def test_what_failed_before_waits_to_be_asked_for(run):
    bad = chosen(run.plan, model="small", arm="plain", n_pretrain=100, n_finetune=0)
    failure = {"status": "failed", "error": "x"}
    with pytest.raises(RunError):
        run(ends={bad.run_id: [failure, failure]})
    with pytest.raises(RunError):
        run()
    assert run.engine.given == []
    engine = run(retry_failed=True)
    assert len(engine.given) == 9
    assert (run.study.path / "failures.jsonl").read_text() == ""
    assert len(run.table) == 24


def test_one_failure_is_forgiven(run):
    bad = run.plan[0]
    engine = run(ends={bad.run_id: [{"status": "failed", "error": "x"}]})
    assert len(engine.given) == 25
    assert run.study.failures() == {}


def test_dead_workers_are_not_the_runs_fault_until_there_are_many(run):
    unlucky, deadly = run.plan[0], chosen(run.plan, model="large", arm="distilled", n_pretrain=200, n_finetune=0)
    with pytest.raises(RunError, match="1 of 24"):
        run(ends={unlucky.run_id: [{"status": "lost"}] * 4, deadly.run_id: [{"status": "lost"}] * 9})
    assert [each.run_id for each in run.engine.given].count(deadly.run_id) == 5
    assert "worker died 5 times" in run.study.failures()[deadly.run_id]["error"]


def test_a_full_disk_stops_the_study_and_keeps_what_there_is(run):
    with pytest.raises(RunError, match="the disk is full"):
        run(slots=1, ends={run.plan[0].run_id: [{"status": "disk", "error": "the disk is full; free some space"}]})
    assert run.engine.closed
    made = {each.run_id for each in run.engine.given} - {run.plan[0].run_id}
    assert run.study.table().run_ids() == made
    assert run.study.failures() == {}


def test_a_run_that_another_runner_is_at_is_left_to_it(run, monkeypatch):
    busy = chosen(run.plan, model="small", arm="plain", n_pretrain=200, n_finetune=0)
    looks = iter([True, True, False])

    def is_held(claims, run_id):
        assert run_id == busy.run_id
        held = next(looks)
        if not held:
            finish(run.study, busy)
        return held

    monkeypatch.setattr("hf_scaling.runner.study_folder.Claims.is_held", is_held)
    engine = run(ends={busy.run_id: [{"status": "busy"}]})
    assert [each.run_id for each in engine.given].count(busy.run_id) == 1
    assert len(run.table) == 24
    assert next(looks, "all looks taken") == "all looks taken"


def test_a_run_left_unfinished_by_another_runner_is_taken_up(run):
    dropped = run.plan[0]
    engine = run(ends={dropped.run_id: [{"status": "busy"}]})
    assert [each.run_id for each in engine.given].count(dropped.run_id) == 2
    assert len(run.table) == 24


def test_a_finished_folder_that_the_table_lacks_is_added_without_being_made(run):
    run.study.prepare(Grid.from_dict(CONTENT))
    finish(run.study, run.plan[0])
    engine = run()
    assert run.plan[0].run_id not in {each.run_id for each in engine.given}
    assert len(run.table) == 24


def test_a_checkpoint_that_is_gone_is_made_again_only_where_it_is_needed(run):
    run()
    parent = chosen(run.plan, model="large", arm="plain", n_pretrain=100, n_finetune=0)
    (run.study.run_folder(parent.run_id) / "model.safetensors").unlink()
    assert run().given == []
    engine = run({**CONTENT, "n_finetune": [10, 20, 30]})
    assert [each.run_id for each in engine.given].count(parent.run_id) == 1
    assert len(engine.given) == 9


def test_a_run_of_several_processes_has_the_machine_for_itself(run):
    content = {**CONTENT, "overrides": [{"where": {"model": "large", "n_pretrain": 200}, "processes": 4}]}
    schedule = Schedule(plan_of(Grid.from_dict(content)), [], {})
    while schedule.open:
        started = list(iter(lambda: _start(schedule), None))
        assert len(started) == 1 or all(each.processes == 1 for each in started)
        for each in started:
            schedule.finish(each.run_id)


def _start(schedule):
    found = schedule.next(None)
    if found is not None:
        schedule.start(found)
    return found


def test_a_folder_that_cannot_be_written_to_is_one_line(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a study cannot be written there"):
        loop.run_grid(Grid.from_dict(CONTENT), tmp_path / "file" / "study", progress=False)


def test_planned_runs_read_back_as_they_were_written(run):
    for each in run.plan:
        again = PlannedRun.from_dict(json.loads(json.dumps(each.to_dict())))
        assert dataclasses.asdict(again) == dataclasses.asdict(each)
        assert again.run_id == each.run_id
