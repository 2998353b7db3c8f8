"""From a grid to a full table: what is missing is made, once, in the order in which others wait for it."""

import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hf_scaling.errors import RunError
from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.results import ResultsTable
from hf_scaling.runner.engines import Engine, open_engine
from hf_scaling.runner.study_folder import Study

_OVERHEAD = 1e10  # operations that a run's start and end take the time of


class Progress:
    """The bar of a grid, on stderr.

    Args:
        plan: All runs.
        finished: How many of them are finished already.
        show: Whether to show anything.
    """

    def __init__(self, plan: Sequence[PlannedRun], finished: int, show: bool):
        self._costs = {run.run_id: run.flops + _OVERHEAD for run in plan}
        self._done, self._began = 0.0, time.monotonic()
        bar_format = "{desc}: {n_fmt}/{total_fmt} runs |{bar:20}| {elapsed} gone{postfix}"
        self._bar = tqdm(
            total=len(plan), initial=finished, desc="grid", bar_format=bar_format, file=sys.stderr, disable=not show
        )

    def finish(self, run: PlannedRun, left: Sequence[PlannedRun]) -> None:
        """Count a run that was made here; `left` are those still to be made."""
        self._done += self._costs[run.run_id]
        pace = (time.monotonic() - self._began) / self._done
        seconds = pace * sum(self._costs[each.run_id] for each in left)
        self._bar.set_postfix_str(f"about {tqdm.format_interval(seconds)} left", refresh=False)
        self._bar.update()

    def found(self) -> None:
        """Count a run that another runner has made."""
        self._bar.update()

    def say(self, line: str) -> None:
        """A line above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it stands."""
        self._bar.close()


def name_of(run: PlannedRun) -> str:
    """A run as a person would call it, with its id."""
    spec = run.spec
    known = "" if spec.n_pretrain is None else f" n_pretrain {spec.n_pretrain:,}"
    tuned = f", fine-tuned on {spec.source['name']} n_finetune {spec.n_finetune:,}" if spec.stage == "finetune" else ""
    return f"{run.run_id} ({run.model} {run.arm}{known}{tuned}, seed {spec.seed})"


_FAILED_DEATHS = 5  # workers that a run may take with it before it counts as failed
_ATTEMPTS = 2


class Schedule:
    """The runs of a plan that are still to be made.

    Args:
        plan: All runs, each after those it needs.
        finished: Ids of the runs that are finished.
        given_up: run_id -> error of the runs that failed before and are not tried again.
    """

    def __init__(self, plan: Sequence[PlannedRun], finished: Iterable[str], given_up: Mapping[str, str]):
        self.plan = {run.run_id: run for run in plan}
        self.finished = set(finished) & set(self.plan)
        self.failed = {run_id: error for run_id, error in given_up.items() if run_id in self.plan}
        self.failed = {run_id: error for run_id, error in self.failed.items() if run_id not in self.finished}
        self.running: set[str] = set()
        self.elsewhere: set[str] = set()
        self._errors: dict[str, int] = {}
        self._deaths: dict[str, int] = {}
        self._waiting_for = _count_dependants(plan)

    @property
    def open(self) -> list[PlannedRun]:
        """Neither finished, nor failed, nor waiting for one that failed."""
        closed = self.finished | set(self.failed) | set(self.blocked())
        return [run for run_id, run in self.plan.items() if run_id not in closed]

    def blocked(self) -> dict[str, str]:
        """run_id -> id of the failed run that it waits for, directly or not."""
        found: dict[str, str] = {}
        for run_id, run in self.plan.items():
            cause = next((found.get(each, each) for each in run.needs if each in self.failed or each in found), None)
            if cause is not None and run_id not in self.finished and run_id not in self.failed:
                found[run_id] = cause
        return found

    def next(self, last_parent: str | None) -> PlannedRun | None:
        """The run to start now; None where none can.

        Args:
            last_parent: The checkpoint that the free worker holds: among the runs that nobody waits for, those that
                start from it come first.
        """
        ready = [run for run in self.open if self._is_ready(run)]
        if not ready:
            return None
        best = max(
            ready,
            key=lambda run: (
                self._waiting_for[run.run_id],
                run.parent is not None and run.parent == last_parent,
                run.flops,
            ),
        )
        alone = best.processes > 1
        if (alone and self.running) or any(self.plan[each].processes > 1 for each in self.running):
            return None
        return best

    def start(self, run: PlannedRun) -> None:
        """Note that a run has been given to a worker."""
        self.running.add(run.run_id)

    def finish(self, run_id: str) -> None:
        """Note that a run is finished, here or elsewhere."""
        self.running.discard(run_id)
        self.elsewhere.discard(run_id)
        self.finished.add(run_id)

    def leave_to_others(self, run_id: str) -> None:
        """Note that another runner is at a run."""
        self.running.discard(run_id)
        self.elsewhere.add(run_id)

    def take_back(self, run_id: str) -> None:
        """Note that the other runner has left a run unfinished."""
        self.elsewhere.discard(run_id)

    def fail(self, run_id: str, error: str) -> bool:
        """Note that a run failed; True if that was its last attempt."""
        self._errors[run_id] = self._errors.get(run_id, 0) + 1
        return self._end(run_id, error, self._errors[run_id] >= _ATTEMPTS)

    def lose(self, run_id: str) -> bool:
        """Note that a run's worker died; True if it has taken too many with it."""
        self._deaths[run_id] = self._deaths.get(run_id, 0) + 1
        error = f"its worker died {self._deaths[run_id]} times (out of memory?)"
        return self._end(run_id, error, self._deaths[run_id] >= _FAILED_DEATHS)

    def give_up(self, run_id: str, error: str) -> None:
        """Note that another runner gave a run up."""
        self.elsewhere.discard(run_id)
        self.failed[run_id] = error

    def _end(self, run_id: str, error: str, last: bool) -> bool:
        self.running.discard(run_id)
        if last:
            self.failed[run_id] = error
        return last

    def _is_ready(self, run: PlannedRun) -> bool:
        at_it = run.run_id in self.running or run.run_id in self.elsewhere
        return not at_it and all(each in self.finished for each in run.needs)


def _count_dependants(plan: Sequence[PlannedRun]) -> dict[str, int]:
    """run_id -> how many runs wait for it, directly or not."""
    waiting: dict[str, set[str]] = {run.run_id: set() for run in plan}
    for run in reversed(plan):
        for needed in run.needs:
            waiting[needed] |= waiting[run.run_id] | {run.run_id}
    return {run_id: len(each) for run_id, each in waiting.items()}


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
