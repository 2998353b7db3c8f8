"""From a grid to a full table: what is missing is made, once, in the order in which others wait for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_scaling.errors import RunError
from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.results import ResultsTable
from hf_scaling.runner.engines import Engine, open_engine
from hf_scaling.runner.progress import Progress, name_of
from hf_scaling.runner.schedule import Schedule
from hf_scaling.runner.study import Study

_LOOK_AROUND = 1.0  # seconds between two looks at what other runners do


class RunsFailedError(RunError):
    """Some runs of a grid failed, and the others were made."""


def run_grid(
    grid: Grid | str | Path,
    out: str | Path | None = None,
    workers: int = 1,
    engine: str = "local",
    retry_failed: bool = False,
    progress: bool = True,
) -> ResultsTable:
    """Make every run of a grid that its study does not have yet.

    Each run is made once: by run_id, so that grids that share runs share them in one study folder too. Any number of
    runners may work in one folder; each may be killed at any moment, and the same call goes on.

    Args:
        grid: A `Grid` or the path of its YAML file.
        out: The study's folder; studies/NAME when None.
        workers: How many runs are made at once, by one persistent process each.
        engine: "local" (processes of this machine) or "ray" (a running cluster, else one started here).
        retry_failed: Try again what failed in an earlier call.
        progress: Whether to show a bar and failures on stderr.

    Returns:
        The study's table; it may hold runs of other grids too.

    Raises:
        InputError: The grid cannot be run as it is written, or the folder cannot be written to; nothing was run.
        RunsFailedError: Some runs failed; the study's failures.jsonl says why, the others were made.
        RunError: The disk is full, or no worker starts. What was made is kept.
    """
    grid = grid if isinstance(grid, Grid) else Grid.load(grid)
    study = Study(default_folder(grid) if out is None else out)
    plan = grid.plan()
    study.prepare(grid)
    table = study.table()
    adopt(study, table, plan)
    if to_make(study, table, plan):
        # Once more, now with every source's pictures at hand, so that every size is known to be there.
        plan = grid.plan(fill=True)
        _make(study, table, plan, workers, engine, retry_failed, progress)
    _refuse_failures(study, plan)
    return study.table()


def default_folder(grid: Grid) -> Path:
    """Where a study goes that is told no folder."""
    return Path("studies") / grid.name


def adopt(study: Study, table: ResultsTable, plan: Sequence[PlannedRun]) -> None:
    """Add to the table the runs whose folders are finished: their runner was killed before it could."""
    there = table.run_ids()
    for run in plan:
        if run.run_id not in there:
            row = study.finished_row(run.run_id)
            if row is not None:
                table.append(row)


def to_make(study: Study, table: ResultsTable, plan: Sequence[PlannedRun]) -> list[PlannedRun]:
    """The runs without a row, and those with one whose checkpoint is needed by them and is gone."""
    there = table.run_ids()
    wanted: set[str] = set()
    for run in reversed(plan):
        if run.run_id not in there or run.run_id in wanted:
            wanted.add(run.run_id)
            gone = [each for each in run.needs if not (study.run_folder(each) / "model.safetensors").is_file()]
            wanted.update(gone)
    return [run for run in plan if run.run_id in wanted]


def _make(
    study: Study,
    table: ResultsTable,
    plan: Sequence[PlannedRun],
    workers: int,
    engine: str,
    retry_failed: bool,
    show: bool,
) -> None:
    wanted = to_make(study, table, plan)
    given_up = {run_id: each["error"] for run_id, each in study.failures().items() if "error" in each}
    if retry_failed:
        study.forget_failures(given_up)
        given_up = {}
    finished = {run.run_id for run in plan} - {run.run_id for run in wanted}
    schedule = Schedule(plan, finished, given_up)
    if not schedule.open:
        return
    progress = Progress(plan, len(schedule.finished), show)
    opened = open_engine(engine, study.path, min(workers, len(schedule.open)))
    try:
        _Runner(study, table, schedule, opened, progress).run()
    finally:
        opened.close()
        progress.close()
        blocked = {run_id: {"run_id": run_id, "waiting_on": cause} for run_id, cause in schedule.blocked().items()}
        study.record_failures(blocked.values())
        study.forget_failures(set(study.failures()) & set(schedule.finished))


@dataclass
class _Runner:
    """One call's share in a study."""

    study: Study
    table: ResultsTable
    schedule: Schedule
    engine: Engine
    progress: Progress

    def __post_init__(self):
        self._at: dict[int, PlannedRun] = {}
        self._last_parent: dict[int, str | None] = {}

    def run(self) -> None:
        """Until every run is finished, failed, or waits for one that failed."""
        while self.schedule.open:
            self._hand_out()
            for slot, outcome in self.engine.wait(_LOOK_AROUND):
                self._take(self._at.pop(slot), outcome)
            self._look_elsewhere()

    def _hand_out(self) -> None:
        for slot in self.engine.free():
            run = self.schedule.next(self._last_parent.get(slot))
            if run is None:
                return
            self.schedule.start(run)
            self._at[slot], self._last_parent[slot] = run, run.parent
            self.engine.submit(slot, run.to_dict())

    def _take(self, run: PlannedRun, outcome: dict[str, Any]) -> None:
        status = outcome["status"]
        if status == "done":
            self._finish(run)
        elif status == "busy":
            self.schedule.leave_to_others(run.run_id)
        elif status == "disk":
            raise RunError(outcome["error"])
        elif status == "lost":
            self._count_failure(run, self.schedule.lose(run.run_id), "its worker died")
        else:
            self._count_failure(run, self.schedule.fail(run.run_id, outcome["error"]), outcome["error"])

    def _finish(self, run: PlannedRun) -> None:
        self.table.append(self.study.finished_row(run.run_id))
        self.schedule.finish(run.run_id)
        self.progress.finish(run, self.schedule.open)

    def _count_failure(self, run: PlannedRun, last: bool, error: str) -> None:
        if not last:
            self.progress.say(f"once more: {name_of(run)}: {error}")
            return
        error = self.schedule.failed[run.run_id]
        self.progress.say(f"failed: {name_of(run)}: {error}")
        log = str(self.study.log(run.run_id).relative_to(self.study.path))
        self.study.record_failures(
            [{"run_id": run.run_id, "run": name_of(run), "error": error, "log": log, "fields": dict(run.fields)}]
        )

    def _look_elsewhere(self) -> None:
        """See what became of the runs that other runners are at."""
        for run_id in list(self.schedule.elsewhere):
            # In this order: a claim ends only after the row is there.
            held, row = self.study.claims.is_held(run_id), self.study.finished_row(run_id)
            if row is not None:
                self.table.append(row)
                self.schedule.finish(run_id)
                self.progress.found()
            elif not held:
                error = self.study.failures().get(run_id, {}).get("error")
                self.schedule.take_back(run_id) if error is None else self.schedule.give_up(run_id, error)


def _refuse_failures(study: Study, plan: Sequence[PlannedRun]) -> None:
    """Say at the end that runs are missing, and how to try them again."""
    ids = {run.run_id for run in plan}
    records = [each for run_id, each in study.failures().items() if run_id in ids]
    failed = [each for each in records if "error" in each]
    if failed:
        waiting = len(records) - len(failed)
        rest = f" and {waiting} wait for them" if waiting else ""
        raise RunsFailedError(
            f"{len(failed)} of {len(ids)} runs failed{rest}: {study.path / 'failures.jsonl'} says why; "
            f"--retry-failed (retry_failed=True) tries them again"
        )
