"""`run_grid`: train every run of a grid that its study does not have yet, each once and after those it depends on."""

import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_scaling import files
from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.results import ResultsTable
from hf_scaling.results.sources import record_sources
from hf_scaling.runner.engines import Engine, open_engine
from hf_scaling.runner.machine import Speeds
from hf_scaling.runner.progress import Progress
from hf_scaling.runner.study_folder import Study
from hf_scaling.runner.tune import tuned
from hf_scaling.text import did_you_mean, listing

_log = logging.getLogger(__name__)

_ATTEMPTS = 2  # of a run that fails
_DEATHS = 5  # workers that die during one run before it counts as failed
_POLL = 1.0  # seconds between two looks at what other runners do
_AXES = ("stage", "model", "arm", "n_pretrain", "seed", "downstream", "n_finetune", "run_id")


class RunsFailedError(RunError):
    """Some runs of a grid failed; the others were trained."""


def run_grid(
    grid: Grid | str | Path,
    out: str | Path | None = None,
    workers: int = 1,
    engine: str | Engine = "local",
    retry_failed: bool = False,
    progress: bool = True,
    only: Mapping[str, Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ResultsTable:
    """Train every run of a grid that its study does not have yet.

    Runs are identified by run_id: grids that share runs in one study folder train them once. Any number of runners may
    work in one folder, and each may be killed at any moment; the same call resumes.

    Args:
        grid: A `Grid`, the path of its YAML file, or the name of a shipped grid.
        out: The study's folder; None = studies/NAME.
        workers: Number of runs trained at once, by one persistent process each.
        engine: "local" (processes of this machine), "ray" (a running cluster, else one started here), or an engine
            that the caller has opened, whose workers are all used and stay open.
        retry_failed: Whether to retry runs that failed in an earlier call.
        progress: Whether to show a progress bar, and failures, on stderr.
        only: Train only the runs with these values, and the runs they need: a value or a list of values for stage,
            model, arm, n_pretrain, seed, downstream, n_finetune or run_id. None = all.
        stop: Asked before every run: where it returns True no further run starts, and the call returns when those in
            progress have ended. None = never.

    Returns:
        The study's table; it may hold runs of other grids too.

    Raises:
        InputError: The grid cannot be run as written, or the folder cannot be written to; nothing was trained.
        RunsFailedError: Some runs failed; failures.jsonl in the study lists why. The others were trained.
        RunError: The disk is full, or no worker starts. What was trained is kept.

    Example:
        >>> table = run_grid("demo", out="studies/demo", workers=2)
    """
    grid = grid if isinstance(grid, Grid) else Grid.load(grid)
    study = Study(default_folder(grid) if out is None else out)
    if "tune" in grid.content:
        grid = tuned(grid, study.path, workers, engine if isinstance(engine, str) else "local")
    plan = select_runs(grid.plan(), only)
    study.prepare(grid)
    record_sources(study.path, plan)
    table = study.table()
    known = table.run_ids()
    for run in plan:
        # A runner may have been killed after a run's folder was finished and before its row was added.
        row = None if run.run_id in known else study.finished_row(run.run_id)
        if row is not None:
            table.append(row)
    if runs_to_train(study, table, plan):
        # Planned again with the cache of every source filled, which checks every size before the first run.
        plan = select_runs(grid.plan(fill=True), only)
        record_sources(study.path, plan)
        _log_changed_sources(study, [run for run in plan if run.run_id not in known])
        _train_missing(study, table, plan, workers, engine, retry_failed, progress, stop)
    ids = {run.run_id for run in plan}
    records = [record for run_id, record in study.failures().items() if run_id in ids]
    if n_failed := sum("error" in record for record in records):
        waiting = f" and {len(records) - n_failed} wait for them" if len(records) > n_failed else ""
        raise RunsFailedError(
            f"{n_failed} of {len(ids)} runs failed{waiting}: the errors are in {study.path / 'failures.jsonl'}; "
            f"retry them with --retry-failed (retry_failed=True)"
        )
    return study.table()


def default_folder(grid: Grid) -> Path:
    """The study folder of a grid where none is given."""
    return Path("studies") / grid.name


def select_runs(plan: Sequence[PlannedRun], only: Mapping[str, Any] | None) -> tuple[PlannedRun, ...]:
    """The runs with the values of `only` (`run_grid`), and those they need, in the order of the plan.

    Raises:
        InputError: An unknown name, or values that no run has; what there is, is named.
    """
    wanted = set(range(len(plan)))
    # The values by which a run is selected, as its row has them.
    points = [
        {
            "stage": run.spec.stage,
            "model": run.model,
            "arm": run.arm,
            "seed": run.spec.seed,
            "downstream": run.spec.source["name"] if run.spec.stage == "finetune" else None,
            "run_id": run.run_id,
            "n_pretrain": run.spec.n_pretrain,
            "n_finetune": run.spec.n_finetune,
        }
        for run in plan
    ]
    for name, given in (only or {}).items():
        if name not in _AXES:
            raise InputError(f"--only {name}: unknown{did_you_mean(name, _AXES) or f': use {listing(_AXES)}'}")
        values = given if isinstance(given, list | tuple) else [given]
        present = list(dict.fromkeys(point[name] for point in points))
        absent = [value for value in values if value not in present]
        if absent:
            raise InputError(f"--only {name}: no run has {absent[0]!r}: the grid has {listing(map(str, present))}")
        wanted &= {position for position, point in enumerate(points) if point[name] in values}
    if not wanted:
        raise InputError("--only: no run of the grid has all of these values")
    ids = {plan[position].run_id for position in wanted}
    for run in reversed(plan):
        if run.run_id in ids:
            ids.update(run.needs)
    return tuple(run for run in plan if run.run_id in ids)


def runs_to_train(study: Study, table: ResultsTable, plan: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs without a row, and those whose checkpoint was removed and is needed by them."""
    finished = table.run_ids()
    wanted: set[str] = set()
    for run in reversed(plan):
        if run.run_id not in finished or run.run_id in wanted:
            wanted.add(run.run_id)
            wanted.update(need for need in run.needs if not (study.run_folder(need) / "model.safetensors").is_file())
    return [run for run in plan if run.run_id in wanted]


def describe_run(run: PlannedRun) -> str:
    """Id, model, arm and sizes of a run, as a line of progress names it."""
    spec = run.spec
    size = "" if spec.n_pretrain is None else f" n_pretrain {spec.n_pretrain:,}"
    tuned = f", fine-tuned on {spec.source['name']} n_finetune {spec.n_finetune:,}" if spec.stage == "finetune" else ""
    classes = "" if run.class_subset is None else f", class subset {run.class_subset}"
    return f"{run.run_id} ({run.model} {run.arm}{size}{classes}{tuned}, seed {spec.seed})"


def _log_changed_sources(study: Study, missing: Sequence[PlannedRun]) -> None:
    """Log, a line a source, that runs are trained again because their source has another fingerprint than before."""
    by_rest: dict[str, PlannedRun] = {_apart_from_fingerprint(run.spec.to_dict()): run for run in missing}
    names = {run.spec.source["name"] for run in missing}
    fingerprints = {run.spec.source["fingerprint"] for run in missing}
    for path in sorted((study.path / "runs").glob("*/run.yaml")):
        text = path.read_text(encoding="utf-8", errors="replace")
        # Parsed only where its text says that it can matter: a study may have thousands of runs.
        if not any(name in text for name in names) or any(fingerprint in text for fingerprint in fingerprints):
            continue
        try:
            before = files.read_yaml(path, "run")["spec"]
            run = by_rest.get(_apart_from_fingerprint(before))
        except (InputError, KeyError, TypeError):  # not a run's folder
            continue
        name = before["source"]["name"]
        if run is not None and name in names:
            names.remove(name)
            _log.warning(
                "%s: its content, its labels or the decoding of its images have changed since runs/%s was trained "
                "(fingerprint %s, now %s), so its runs are trained again",
                *(name, path.parent.name, before["source"]["fingerprint"], run.spec.source["fingerprint"]),
            )


def _apart_from_fingerprint(spec: Mapping[str, Any]) -> str:
    """A specification without what a changed source changes: its fingerprint, and the ids of the runs it needs."""
    source = {name: value for name, value in spec["source"].items() if name != "fingerprint"}
    return json.dumps({**spec, "source": source, "teacher": None, "parent": None}, sort_keys=True)


def _train_missing(
    study: Study,
    table: ResultsTable,
    plan: Sequence[PlannedRun],
    workers: int,
    engine: str | Engine,
    retry_failed: bool,
    show_progress: bool,
    stop: Callable[[], bool] | None,
) -> None:
    given_up = {run_id: record["error"] for run_id, record in study.failures().items() if "error" in record}
    if retry_failed:
        study.forget_failures(given_up)
        given_up = {}
    finished = {run.run_id for run in plan} - {run.run_id for run in runs_to_train(study, table, plan)}
    schedule = Schedule(plan, finished, given_up)
    if not schedule.open:
        return
    n_workers = min(workers, len(schedule.open))
    opened = open_engine(engine, study.path, n_workers) if isinstance(engine, str) else engine
    # A cluster's speed says nothing about this machine.
    speeds = Speeds() if opened.is_local else None
    progress = Progress(plan, schedule.open, n_workers, speeds, show_progress)
    try:
        _Runner(study, table, schedule, opened, progress, speeds, stop).run()
    finally:
        if isinstance(engine, str):
            opened.close()
        progress.close()
        study.record_failures({"run_id": run_id, "waiting_on": need} for run_id, need in schedule.blocked().items())
        study.forget_failures(set(study.failures()) & schedule.finished)


class _Runner:
    """The work of one call in a study: it hands runs to an engine and records how they end."""

    def __init__(
        self,
        study: Study,
        table: ResultsTable,
        schedule: "Schedule",
        engine: Engine,
        progress: Progress,
        speeds: Speeds | None,
        stop: Callable[[], bool] | None = None,
    ) -> None:
        self.study, self.table, self.schedule = study, table, schedule
        self.engine, self.progress, self.speeds = engine, progress, speeds
        self._stop = stop or (lambda: False)
        self._running: dict[int, PlannedRun] = {}
        self._last_parents: dict[int, str | None] = {}

    def run(self) -> None:
        """Work until every run is finished, failed, or waits for one that failed, or `stop` ends it."""
        while self.schedule.open:
            if not self._stop():
                self.hand_out()
            elif not self._running:
                return
            for slot, outcome in self.engine.wait(_POLL):
                self.record(self._running.pop(slot), outcome)
            self.check_other_runners()
            self.progress.tick(len(self.schedule.elsewhere))

    def hand_out(self) -> None:
        """Give the free workers the runs that can start."""
        for slot in self.engine.free():
            run = self.schedule.next(self._last_parents.get(slot))
            if run is None:
                return
            self.schedule.start(run)
            self.progress.start(run, is_first=slot not in self._last_parents)
            self._running[slot], self._last_parents[slot] = run, run.parent
            self.engine.submit(slot, run.to_dict())

    def record(self, run: PlannedRun, outcome: Mapping[str, str]) -> None:
        """Note how a run ended (`Engine.wait`)."""
        status = outcome["status"]
        if status != "done":
            self.progress.leave(run)
        if status == "done":
            row = self.study.finished_row(run.run_id)
            assert row is not None
            self.table.append(row)
            self.schedule.finish(run.run_id)
            self.progress.finish(run, row["seconds"] or 0.0, self.schedule.open)
            if self.speeds is not None and run.processes == 1:
                self.speeds.record(run, row["seconds"] or 0.0, run.examples, run.spec.rule["batch"])
        elif status == "busy":
            self.schedule.leave_to_others(run.run_id)
        elif status == "disk":
            raise RunError(outcome["error"])
        elif status == "lost":
            self.record_failure(run, self.schedule.lose(run.run_id), "its worker died")
        else:
            self.record_failure(run, self.schedule.fail(run.run_id, outcome["error"]), outcome["error"])

    def record_failure(self, run: PlannedRun, is_last: bool, error: str) -> None:
        """Report a failed attempt, and record the last one."""
        if not is_last:
            self.progress.write(f"retrying: {describe_run(run)}: {error}")
            return
        error = self.schedule.failed[run.run_id]
        self.progress.write(f"failed: {describe_run(run)}: {error}")
        log = str(self.study.log(run.run_id).relative_to(self.study.path))
        record = {"run_id": run.run_id, "run": describe_run(run), "error": error, "log": log}
        self.study.record_failures([{**record, "fields": dict(run.fields)}])

    def check_other_runners(self) -> None:
        """Take over what other runners have finished, failed or left."""
        for run_id in list(self.schedule.elsewhere):
            # In this order: a claim ends only after the row is written.
            is_held, row = self.study.claims.is_held(run_id), self.study.finished_row(run_id)
            if row is not None:
                self.table.append(row)
                self.schedule.finish(run_id)
                self.progress.count(run_id)
            elif not is_held:
                error = self.study.failures().get(run_id, {}).get("error")
                if error is None:
                    self.schedule.take_back(run_id)
                else:
                    self.schedule.give_up(run_id, error)


class Schedule:
    """The order in which the runs of a plan are trained, and their state.

    Args:
        plan: All runs, each after those it depends on.
        finished: Ids of the runs that are finished.
        given_up: run_id -> error of the runs that failed before and are not retried.

    Attributes:
        finished: Ids of the finished runs.
        failed: run_id -> error.
        running: Ids of the runs that workers of this runner train.
        elsewhere: Ids of the runs that other runners train.
    """

    def __init__(self, plan: Sequence[PlannedRun], finished: Iterable[str], given_up: Mapping[str, str]) -> None:
        self.plan = {run.run_id: run for run in plan}
        self.finished = set(finished) & set(self.plan)
        unfinished = set(self.plan) - self.finished
        self.failed = {run_id: error for run_id, error in given_up.items() if run_id in unfinished}
        self.running: set[str] = set()
        self.elsewhere: set[str] = set()
        self._errors: dict[str, int] = {}
        self._deaths: dict[str, int] = {}
        dependants: dict[str, set[str]] = {run.run_id: set() for run in plan}
        for run in reversed(plan):
            for need in run.needs:
                dependants[need] |= dependants[run.run_id] | {run.run_id}
        self._n_dependants = {run_id: len(ids) for run_id, ids in dependants.items()}

    @property
    def open(self) -> list[PlannedRun]:
        """The runs that are not finished, have not failed, and do not wait for one that failed."""
        closed = self.finished | set(self.failed) | set(self.blocked())
        return [run for run_id, run in self.plan.items() if run_id not in closed]

    def blocked(self) -> dict[str, str]:
        """run_id -> id of the failed run that it waits for, directly or not."""
        causes: dict[str, str] = {}
        for run_id, run in self.plan.items():
            cause = next((causes.get(need, need) for need in run.needs if need in self.failed or need in causes), None)
            if cause is not None and run_id not in self.finished and run_id not in self.failed:
                causes[run_id] = cause
        return causes

    def next(self, last_parent: str | None) -> PlannedRun | None:
        """The run to start now; None where none can start.

        Most dependants first, then the longest. A run of several processes starts when nothing else is running.

        Args:
            last_parent: The checkpoint that the free worker has loaded: among runs with as many dependants, those that
                start from it come first.
        """
        occupied = self.running | self.elsewhere
        ready = [run for run in self.open if run.run_id not in occupied and self.finished.issuperset(run.needs)]
        if not ready or any(self.plan[run_id].processes > 1 for run_id in self.running):
            return None
        best = max(
            ready,
            key=lambda run: (
                self._n_dependants[run.run_id],
                run.parent is not None and run.parent == last_parent,
                run.flops,
            ),
        )
        return None if best.processes > 1 and self.running else best

    def start(self, run: PlannedRun) -> None:
        """Note that a run has been given to a worker."""
        self.running.add(run.run_id)

    def finish(self, run_id: str) -> None:
        """Note that a run is finished, here or elsewhere."""
        self.running.discard(run_id)
        self.elsewhere.discard(run_id)
        self.finished.add(run_id)

    def leave_to_others(self, run_id: str) -> None:
        """Note that another runner trains a run."""
        self.running.discard(run_id)
        self.elsewhere.add(run_id)

    def take_back(self, run_id: str) -> None:
        """Note that the other runner has left a run unfinished."""
        self.elsewhere.discard(run_id)

    def give_up(self, run_id: str, error: str) -> None:
        """Note that a run failed for good in another runner."""
        self.elsewhere.discard(run_id)
        self.failed[run_id] = error

    def fail(self, run_id: str, error: str) -> bool:
        """Note that a run failed; True if that was its last attempt."""
        self._errors[run_id] = self._errors.get(run_id, 0) + 1
        return self._end(run_id, error, self._errors[run_id] >= _ATTEMPTS)

    def lose(self, run_id: str) -> bool:
        """Note that the worker of a run died; True if that was its last attempt."""
        self._deaths[run_id] = self._deaths.get(run_id, 0) + 1
        error = f"its worker died {self._deaths[run_id]} times (out of memory?)"
        return self._end(run_id, error, self._deaths[run_id] >= _DEATHS)

    def _end(self, run_id: str, error: str, is_last: bool) -> bool:
        self.running.discard(run_id)
        if is_last:
            self.failed[run_id] = error
        return is_last
