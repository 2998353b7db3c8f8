"""`run_study`: from images and hours to answers.

    hf-scaling study path/to/images --downstream path/to/labelled --hours 2

It looks at the sets, tunes the rate, measures a pilot, and then round after round what brings the nearest question
to an answer, until all are answered or the hours are spent. Everything is in the study's folder: a killed study goes
on by the same call, and more hours continue a finished one.
"""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import pandas as pd
from filelock import FileLock, Timeout

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.report import write_report
from hf_scaling.results import ResultsTable
from hf_scaling.runner import run_grid, tune
from hf_scaling.runner.engines import Engine, open_engine
from hf_scaling.runner.loop import RunsFailedError
from hf_scaling.runner.machine import default_workers
from hf_scaling.runner.study_folder import Study
from hf_scaling.runner.tune import tuned
from hf_scaling.study.clock import Clock
from hf_scaling.study.look import NAME, TUNING_SHARE, StudyPlan, look
from hf_scaling.study.questions import QUESTIONS, Answer, Question
from hf_scaling.study.rounds import Round, run_rounds
from hf_scaling.text import format_duration, one_line

STATE = "rounds.json"
# The report is written again when this share of the hours has passed since the last.
_REPORT_SHARE = 0.1
_POLL = 2.0  # seconds between two attempts of a second runner to decide


@dataclass(frozen=True)
class StudyResult:
    """How a study ended.

    Attributes:
        study: Its folder.
        status: answered, spent (the hours), exhausted (no run is left that could be trained) or planned (dry run).
        answers: The question's name to its answer; empty of a dry run.
        hours: Used so far, over all calls.
        report: The page; None of a dry run.
        plan: What was planned at the first call.
    """

    study: Path
    status: str
    answers: Mapping[str, Answer]
    hours: float
    report: Path | None
    plan: StudyPlan = field(repr=False)

    def summary(self) -> str:
        """Answers, hours and report, as text for a terminal."""
        lines = [f"{name:9} {answer.text}" for name, answer in self.answers.items()]
        lines.append(f"{'status':9} {_ENDS[self.status]} ({format_duration(self.hours * 3600)} used)")
        if self.report is not None:
            lines.append(f"{'report':9} {self.report}")
        return "\n".join(lines)


_ENDS = {
    "answered": "answered",
    "spent": "the hours are spent; a larger --hours continues the study",
    "exhausted": "every run of the study's grid is trained: larger sets or other models would tell more",
    "planned": "planned; the same command without --dry-run trains it",
}


def run_study(
    upstream: str,
    downstream: str | Sequence[str] | None = None,
    *,
    hours: float,
    out: str | Path | None = None,
    question: str = "all",
    target: str = "loss",
    budget: float | None = None,
    costs: Mapping[str, float] | None = None,
    workers: int | None = None,
    engine: str = "local",
    seed: int = 0,
    dry_run: bool = False,
    say: Callable[[str], None] | None = None,
) -> StudyResult:
    """Measure until a question is answered or the hours are spent.

    Args:
        upstream: Labelled images to pre-train on, as `open_source` takes them.
        downstream: Labelled images to fine-tune on, one set or several; None asks for the boundary alone.
        hours: Of the whole study by the clock, tuning, evaluation and fits included, summed over calls.
        out: The study's folder; None takes studies/NAME.
        question: boundary, gap, plan, or all.
        target: loss or error.
        budget: Of the question plan, in the unit of the costs.
        costs: Prices of a label, pretrain_image, flop or hour, for the question plan.
        workers: Runs trained at once; None takes one per GPU, else one per core.
        engine: "local" or "ray".
        seed: The first seed of its runs.
        dry_run: Plan only: write study.json and grid.yaml, which may be edited.
        say: Gets each step's lines; by default they are printed on stderr.

    Returns:
        How it ended, with the answers.

    Raises:
        InputError: Sets or hours that allow no study, or a question without what it needs.
        RunError: The disk is full, or no worker starts. What was trained is kept.

    Example:
        >>> run_study("glyphs", "digits", hours=0.2).summary()  # doctest: +SKIP
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    sets = [downstream] if isinstance(downstream, str) else list(downstream or ())
    if not (isinstance(hours, int | float) and math.isfinite(hours) and hours > 0):
        raise InputError(f"--hours {hours}: give a number above 0")
    names = _questions(question, target, sets, budget, costs, say)
    workers = default_workers() if workers is None else workers
    folder = Path("studies") / Path(upstream).name if out is None else Path(out)
    plan = StudyPlan.load(folder)
    if plan is not None and (plan.upstream, plan.downstream) != (str(upstream), sets):
        raise InputError(
            f"{folder} is a study of {plan.upstream} and {', '.join(plan.downstream) or 'no downstream set'}: give "
            "another --out"
        )
    if plan is None and (folder / "grid.yaml").exists():
        raise InputError(f"{folder} holds a grid of `hf-scaling run`: give another --out")
    began, content = time.monotonic(), None
    if plan is None:
        # Before anything is written: a set that allows no study leaves no folder behind.
        plan, content = look(str(upstream), sets, hours, workers, seed)
    with Clock(folder, time.monotonic() - began if content is not None else 0.0) as clock:
        if content is not None:
            plan = _write_plan(folder, plan, content)
        for line in plan.describe():
            say(f"look    {line}")
        if dry_run:
            say(f"grid    {folder / 'grid.yaml'} may be edited")
            return StudyResult(folder, "planned", {}, clock.seconds / 3600, None, plan)
        if clock.seconds >= hours * 3600 and (folder / STATE).is_file():
            say(f"time    its {hours:g} hours are spent: a larger --hours continues it")
        grid = _tuned(plan, folder, workers, engine, hours, say)
        full_range = (float(plan.n_pretrain[0]), float(plan.n_source))
        first = plan.names[sets[0]] if sets else None
        asked = [
            Question(
                name,
                target,
                plan.n_params[plan.middle],
                full_range,
                None if name == "boundary" else first,
                budget,
                costs,
            )
            for name in names
        ]
        with GridPool(grid, plan, folder, workers, engine, clock, hours) as pool, _deciding(pool, folder, say):
            reporter = _Reporter(folder, target, clock, hours, say)
            outcome = run_rounds(pool, asked, reporter, _read_state(folder), seed=seed)
            page = reporter.write()
        return StudyResult(folder, outcome.status, outcome.answers, clock.seconds / 3600, page, plan)


def _write_plan(folder: Path, plan: StudyPlan, content: Mapping[str, Any]) -> StudyPlan:
    """Write the plan and its grid; where another runner has written its own meanwhile, that one counts."""
    with FileLock(folder / "claims" / ".plan.lock"):
        written = StudyPlan.load(folder)
        if written is None:
            Study(folder).prepare(Grid.from_dict(content, folder.name))
            plan.save(folder)
        return written or plan


def _read_state(folder: Path) -> dict[str, Any] | None:
    """What the rounds need to resume; None before the first."""
    path = folder / STATE
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


@contextlib.contextmanager
def _deciding(pool: "GridPool", folder: Path, say: Callable[[str], None]) -> Iterator[None]:
    """Be the one runner that decides on rounds and writes them; until it ends or dies, help it to train its runs."""
    lock, said = FileLock(folder / "claims" / ".rounds.lock"), False
    while True:
        try:
            lock.acquire(timeout=_POLL)
            break
        except Timeout:
            if not said:
                say("round   another runner decides: this one trains runs of its rounds")
            said = True
            chosen = (_read_state(folder) or {}).get("cells", [])
            cells = pool.candidates().index.intersection(chosen, sort=False)
            if len(cells):
                pool.measure(cells)
    try:
        yield
    finally:
        lock.release()


def _questions(
    question: str,
    target: str,
    sets: Sequence[str],
    budget: float | None,
    costs: Mapping[str, float] | None,
    say: Callable[[str], None],
) -> list[str]:
    """The questions that can be asked; those of `all` that cannot are named."""
    if question not in (*QUESTIONS, "all"):
        raise InputError(f"--question {question}: must be {', '.join(QUESTIONS)} or all")
    if target not in ("loss", "error"):
        raise InputError(f"--target {target}: must be loss or error")
    lacks = {}
    if not sets:
        lacks["gap"] = "a downstream set (--downstream)"
    if budget is None or not costs:
        lacks["plan"] = "a budget and costs (--budget, --cost)"
    if question in lacks:
        raise InputError(f"--question {question}: needs {lacks[question]}")
    if question != "all":
        return [question]
    for name, lack in lacks.items():
        say(f"leaves out the question {name}: it needs {lack}")
    return [name for name in QUESTIONS if name not in lacks]


def _tuned(plan: StudyPlan, folder: Path, workers: int, engine: str, hours: float, say: Callable[[str], None]) -> Grid:
    """The study's grid with tuned rates and steps, as grid.yaml then has it."""
    content = files.read_yaml(folder / "grid.yaml", "grid")
    grid = Grid.from_dict(content, folder.name)
    if "tune" in content:
        what = "learning rates and steps" if "min_steps" in content["tune"] else "learning rates"
        say(f"tune    {what}, by short runs of the plain arm on a validation part")
        grid = tuned(grid, folder, workers, engine, hours * 3600 * TUNING_SHARE, plan.seconds)
        Study(folder).prepare(grid)
    was_tuned = (folder / tune.NAME).is_file()
    say(f"tune    {tune.describe(folder, plan.students)}" if was_tuned else "tune    rates and steps as written")
    return grid


class GridPool:
    """The runs of a grid as a pool (`rounds.Pool`): measuring is training them in the study's folder.

    Args:
        grid: All runs that the study may train.
        plan: The study's plan, for the seconds of a run.
        folder: The study's folder.
        workers: Runs trained at once.
        engine: "local" or "ray".
        clock: Of the study.
        hours: Of the study.
    """

    def __init__(
        self, grid: Grid, plan: StudyPlan, folder: Path, workers: int, engine: str, clock: Clock, hours: float
    ):
        self._grid, self._plan, self._folder = grid, plan, folder
        self.workers, self._engine, self._clock, self._hours = workers, engine, clock, hours
        self._study = Study(folder)
        self._runs = {run.run_id: run for run in grid.plan(fill=True)}
        self._probes = {run_id for run_id, run in self._runs.items() if run.fields.get("train_part") == "head"}
        self._opened: Engine | None = None

    def __enter__(self) -> "GridPool":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._opened is not None:
            self._opened.close()

    def candidates(self) -> pd.DataFrame:
        """The runs without a row that have not failed; a run's seconds include what it still needs."""
        finished = self._study.table().run_ids()
        closed = finished | set(self._study.failures()) | self._probes
        rows: dict[str, dict[str, Any]] = {}
        for run_id, run in self._runs.items():
            if run_id in closed or run.model not in self._plan.students:
                continue
            needed, seconds, spec = [run_id], 0.0, run.spec
            while needed:
                each = needed.pop()
                if each not in finished:
                    seconds += self._plan.seconds(self._runs[each])
                    needed += self._runs[each].needs
            rows[run_id] = {
                "stage": spec.stage,
                "model": run.model,
                "n_params": run.n_params,
                "arm": run.arm,
                "n_pretrain": spec.n_pretrain or 0,
                "n_finetune": spec.n_finetune,
                "downstream": spec.source["name"] if spec.stage == "finetune" else None,
                "seed": spec.seed,
                "seconds": seconds / self.workers,
            }
        columns = ["stage", "model", "n_params", "arm", "n_pretrain", "n_finetune", "downstream", "seed", "seconds"]
        return pd.DataFrame.from_dict(rows, orient="index", columns=columns)

    def measure(self, cells: pd.Index) -> None:
        """Train the runs, and start none after the hours; those that fail are in failures.jsonl and leave the pool."""
        if self._opened is None:
            self._opened = open_engine(self._engine, self._folder, self.workers)
        with contextlib.suppress(RunsFailedError):
            run_grid(
                self._grid,
                self._folder,
                self.workers,
                self._opened,
                only={"run_id": [*cells, *self._probes_of(cells)]},
                stop=lambda: self.seconds_left() <= 0,
            )

    def _probes_of(self, cells: pd.Index) -> list[str]:
        """Linear probes beside fine-tuned cells: of the checkpoint with the most images."""
        beside = {
            (run.spec.source["name"], run.parent)
            for run in (self._runs[run_id] for run_id in cells)
            if run.parent is not None
            and run.arm == "plain"
            and run.model == self._plan.middle
            and run.spec.n_pretrain == self._plan.n_pretrain[-1]
        }
        runs = [self._runs[run_id] for run_id in self._probes]
        return [run.run_id for run in runs if (run.spec.source["name"], run.parent) in beside]

    def table(self) -> ResultsTable:
        """All finished rows but linear probes, which are another recipe and answer none of the questions."""
        return ResultsTable([row for row in self._study.table().rows() if row["run_id"] not in self._probes])

    def seconds_left(self) -> float:
        """Seconds of the hours that are left."""
        return self._hours * 3600 - self._clock.seconds


class _Reporter:
    """Says what a round learned and what comes next, keeps the state, and writes the report now and then."""

    def __init__(self, folder: Path, target: str, clock: Clock, hours: float, say: Callable[[str], None]):
        self._folder, self._target, self._clock, self._hours, self._say = folder, target, clock, hours, say
        self._reported = clock.seconds

    def __call__(self, now: Round) -> None:
        files.write_text(self._folder / STATE, json.dumps(now.state) + "\n")
        for answer in now.answers.values():
            self._say(f"round {now.number}: {answer.text}{'' if answer.answered else ' (open)'}")
        if len(now.cells):
            what = f"for the {now.question}" if now.question else "as a pilot"
            time = format_duration(now.seconds)
            self._say(f"round {now.number}: next {len(now.cells)} runs {what}, about {time}")
        if self._clock.seconds - self._reported > _REPORT_SHARE * self._hours * 3600:
            self.write()

    def write(self) -> Path | None:
        """Write the report; one that fails is said and is no reason to stop measuring."""
        self._reported = self._clock.seconds
        page = self._folder / "report.html"
        try:
            write_report(self._folder, page, target=self._target)
        except InputError as error:
            self._say(f"no report yet: {one_line(error)}")
            return None
        return page


__all__ = ["NAME", "GridPool", "StudyResult", "run_study"]
