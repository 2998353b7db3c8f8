"""How long the rest of a grid takes: from the operations that are counted in its plan and from what has finished.

left = TimeLeft([Work.of(run) for run in plan], workers=2)
left.finish(run_id, seconds=31.0)
left.seconds(running={other_id: 12.0}, open_ids=ids)
"""

import math
import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from hf_scaling.grid import PlannedRun
from hf_scaling.runner.machine import Speeds

# Seconds of a run on one core before any has finished; only the ratios of runs to each other matter.
_START = 0.7  # seconds of a run that are neither training nor evaluation
_STEP = 2e-3  # seconds of a step of a model of no size
_PACE = 3e10  # operations a second
# A kind of run is judged by its own finished runs as soon as there are about this many; before, by runs like it.
_ENOUGH = 1.0
_EARLIER = 0.1  # weight, in runs, of speeds measured earlier: the machine may have been several times as busy
_EXTRAPOLATED = 100.0  # factor in FLOPs per example beyond which a speed measured earlier says nothing
_LEAST = 0.1  # least share of its estimate that a run which takes longer than estimated has left


@dataclass(frozen=True)
class Work:
    """What a run takes, as far as its plan says.

    Attributes:
        run_id: Its id.
        kinds: From what all runs share to what only runs like it share; seconds are compared within each.
        steps: Steps of training.
        flops: Operations of training and evaluation.
        needs: Ids of the runs that must finish before it.
        expected: Seconds by a speed that was measured on this machine; None where none is known.
    """

    run_id: str
    kinds: tuple[tuple[str, ...], ...]
    steps: int
    flops: float
    needs: tuple[str, ...] = ()
    expected: float | None = None

    @classmethod
    def of(cls, run: PlannedRun, speeds: Speeds | None = None) -> "Work":
        """The work of a planned run.

        Args:
            run: The run.
            speeds: Speeds of this machine; None where the runs are trained elsewhere.
        """
        stage, steps = run.spec.stage, run.spec.steps - run.steps_before
        speed = speeds.nearest(run, _EXTRAPOLATED) if speeds is not None else None
        expected = None if speed is None else _START + run.flops * speed.seconds / max(speed.flops, 1.0)
        kinds = ((stage,), (stage, run.model), (stage, run.model, run.arm))
        return cls(run.run_id, kinds, steps, run.flops, run.needs, expected)

    @property
    def shape(self) -> float:
        """Seconds before anything has finished: of a measured speed where there is one, else of a typical core."""
        return self.expected if self.expected is not None else _START + _STEP * self.steps + self.flops / _PACE


class TimeLeft:
    """The estimate of one call of `run_grid`.

    A run is expected to take its shape times the ratio of measured to expected seconds of the runs of its kind; a kind
    of which little has finished leans on the wider kind.

    Args:
        plan: All runs.
        workers: Number of runs trained at once.
    """

    def __init__(self, plan: Iterable[Work], workers: int) -> None:
        self._plan = {work.run_id: work for work in plan}
        self._workers = max(1, workers)
        self._seconds: dict[str, float] = {}
        # Kind -> measured seconds, expected seconds and number of its finished runs; () is all runs.
        self._sums: dict[tuple[str, ...], tuple[float, float, int]] = {}

    def finish(self, run_id: str, seconds: float) -> None:
        """Learn from a finished run.

        Args:
            run_id: Its id.
            seconds: How long it occupied its worker.
        """
        work = self._plan.get(run_id)
        if work is None or not seconds > 0:
            return
        self._seconds[run_id] = seconds
        for kind in ((), *work.kinds):
            measured, expected, n = self._sums.get(kind, (0.0, 0.0, 0))
            self._sums[kind] = (measured + seconds, expected + work.shape, n + 1)

    @property
    def is_known(self) -> bool:
        """Whether there is anything to estimate from: a finished run, or speeds measured earlier."""
        return bool(self._seconds) or all(work.expected is not None for work in self._plan.values())

    def of_run(self, run_id: str) -> float:
        """Expected seconds of a run."""
        work, ratio = self._plan[run_id], 1.0
        for kind in ((), *work.kinds):
            measured, expected, n = self._sums.get(kind, (0.0, 0.0, 0))
            if n:
                n_runs = _ENOUGH
                if kind == ():
                    # Without earlier speeds, the shape has no unit: the first finished run gives it.
                    n_runs = 0.0 if work.expected is None else _EARLIER
                weight = n_runs * expected / n
                ratio = (measured + weight * ratio) / (expected + weight)
        return work.shape * ratio

    def seconds(self, open_ids: Collection[str], running: Mapping[str, float], elsewhere: int = 0) -> float:
        """Seconds until the last run ends.

        Args:
            open_ids: Ids of the runs that are not finished, the running ones among them.
            running: Id to seconds since its start, of the runs that workers train now.
            elsewhere: Number of runs that other runners train now.

        Returns:
            Seconds; NaN where nothing is known yet.
        """
        if not open_ids:
            return 0.0
        if not self.is_known:
            return math.nan
        left = {}
        for run_id in open_ids:
            whole = self.of_run(run_id)
            left[run_id] = max(whole - running.get(run_id, 0.0), _LEAST * whole)
        # The workers share the work, but a chain of runs that wait for each other takes as long as it is, and a worker
        # that ends early waits for half of a run of the others on average.
        ends: dict[str, float] = {}
        for run_id, work in self._plan.items():
            if run_id in left:
                ends[run_id] = max((ends.get(need, 0.0) for need in work.needs), default=0.0) + left[run_id]
        workers = self._workers + elsewhere
        tail = 0.5 * statistics.median(left.values()) * (1 - 1 / workers)
        return max(math.fsum(left.values()) / workers + tail, max(ends.values()))
