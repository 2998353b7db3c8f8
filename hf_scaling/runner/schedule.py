"""Which run is next: what most others wait for, then the longest."""

from collections.abc import Iterable, Mapping, Sequence

from hf_scaling.grid import PlannedRun

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
