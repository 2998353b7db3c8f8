"""The progress bar of a grid, on stderr: runs, time left, and the runs that are trained now."""

import os
import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from hf_scaling.grid import PlannedRun
from hf_scaling.runner.machine import Speeds
from hf_scaling.runner.time_left import TimeLeft, Work
from hf_scaling.text import format_duration, joined

# Seconds between the end of training and the end of a run, where the start of its worker hides them.
_END = 1.0
_MOST_NAMED = 2


class Progress:
    """One bar for the runs of a plan.

    Args:
        plan: All runs.
        left: Those of them that are not finished.
        workers: Number of runs trained at once.
        speeds: Speeds measured on this machine, for an estimate before the first run has finished; None without.
        show: Whether to show anything.
    """

    def __init__(
        self, plan: Sequence[PlannedRun], left: Sequence[PlannedRun], workers: int, speeds: Speeds | None, show: bool
    ) -> None:
        self._estimate = TimeLeft([Work.of(run, speeds) for run in plan], workers)
        self._open = [run.run_id for run in left]
        # Id to run, start, and whether its worker starts as well.
        self._running: dict[str, tuple[PlannedRun, float, bool]] = {}
        self._elsewhere, self._seconds_left, self._estimated_at = 0, float("nan"), time.monotonic()
        # A log file gets a line for a finished run, a terminal a new time every second.
        self._is_live = show and sys.stderr.isatty()
        try:
            has_width = os.get_terminal_size(sys.stderr.fileno()).columns > 0
        except (OSError, ValueError):
            has_width = False  # as under some tools that record terminals
        self._bar = tqdm(
            total=len(plan),
            initial=len(plan) - len(left),
            desc="runs",
            bar_format="{desc} {n_fmt}/{total_fmt} |{bar:20}| {elapsed} elapsed{postfix}",
            file=sys.stderr,
            dynamic_ncols=self._is_live and has_width,
            disable=not show,
        )
        self._update_estimate()

    def start(self, run: PlannedRun, is_first: bool) -> None:
        """Note that a worker trains a run; `is_first` where it is the first of its worker, which has to start."""
        self._running[run.run_id] = (run, time.monotonic(), is_first)

    def finish(self, run: PlannedRun, trained: float, left: Sequence[PlannedRun]) -> None:
        """Count a run that was trained here.

        Args:
            run: The run.
            trained: Its seconds of training.
            left: The runs that are still open.
        """
        _, start, is_first = self._running.pop(run.run_id, (run, time.monotonic() - trained, True))
        seconds = time.monotonic() - start
        self._estimate.finish(run.run_id, min(seconds, trained + _END) if is_first else seconds)
        self._open = [other.run_id for other in left]
        self._update_estimate()
        self._bar.update()

    def leave(self, run: PlannedRun) -> None:
        """Note that a run is no longer trained here, and not finished."""
        self._running.pop(run.run_id, None)

    def count(self, run_id: str) -> None:
        """Count a run that another runner has trained."""
        self._open = [other for other in self._open if other != run_id]
        self._update_estimate()
        self._bar.update()

    def tick(self, elsewhere: int) -> None:
        """Show the time that has passed and the runs that are trained now.

        Args:
            elsewhere: Number of runs that other runners train.
        """
        self._elsewhere = elsewhere
        if self._is_live:
            self._bar.set_postfix_str(self._postfix(), refresh=True)

    def write(self, line: str) -> None:
        """Write a line above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Leave the bar as it is."""
        self._running.clear()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._postfix() if self._open else "", refresh=False)
        self._bar.close()

    def _update_estimate(self) -> None:
        self._estimated_at = time.monotonic()
        running = {run_id: self._estimated_at - start for run_id, (_, start, _) in self._running.items()}
        self._seconds_left = self._estimate.seconds(self._open, running, self._elsewhere)
        self._bar.set_postfix_str(self._postfix(), refresh=False)

    def _postfix(self) -> str:
        """Time left, which runs down between two estimates, and the current runs."""
        left = self._seconds_left - (time.monotonic() - self._estimated_at)
        words = [f"about {format_duration(max(left, 1.0))} left"] if left == left and self._open else []
        names = [short_name(run) for run, _, _ in self._running.values()]
        words += [f"now {joined(names, most=_MOST_NAMED)}"] if names else []
        return "; ".join(words)


def short_name(run: PlannedRun) -> str:
    """A run in few words: "vit-200k distilled on 12,800", or "vit-200k plain on 12,800, then 500 digits"."""
    size = "" if run.spec.n_pretrain is None else f" on {run.spec.n_pretrain:,}"
    tuned = f", then {run.spec.n_finetune:,} {run.spec.source['name']}" if run.spec.stage == "finetune" else ""
    return f"{run.model} {run.arm}{size}{tuned}"
