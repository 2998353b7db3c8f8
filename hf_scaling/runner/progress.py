"""What a person sees while a grid runs: one bar with the time left, and failures as they come."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from hf_scaling.grid import PlannedRun

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
