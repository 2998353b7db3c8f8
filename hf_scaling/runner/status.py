"""A study as text: its results at each amount of data, and how far it is."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.runner.loop import describe_run
from hf_scaling.runner.study_folder import Study
from hf_scaling.runner.time_left import TimeLeft, Work
from hf_scaling.text import format_duration, text_table

STATES = ("finished", "running", "failed", "missing")


def summarise(folder: str | Path) -> str:
    """The results of a study: one block per data set, one line per student and arm, one column per size.

    Pretraining runs are listed by n_pretrain; fine-tuning runs by n_pretrain at their largest n_finetune, and by
    n_finetune at their largest n_pretrain. Seeds, and whatever else a line does not tell apart, are averaged.

    Args:
        folder: The study's folder.
    """
    rows = Study(folder).table().rows()
    if not rows:
        return f"{folder}: no results yet"
    pretrained = [row for row in rows if row["stage"] == "pretrain"]
    tuned = [row for row in rows if row["stage"] == "finetune"]
    blocks = [
        *_blocks(pretrained, "upstream", "n_pretrain"),
        *_blocks(tuned, "downstream", "n_pretrain", largest="n_finetune"),
        *_blocks(tuned, "downstream", "n_finetune", largest="n_pretrain"),
    ]
    return "\n\n".join([*blocks, f"{len(rows)} runs in {folder}"])


def next_command(folder: str | Path) -> str:
    """The command that fits a law to the results of a study.

    Args:
        folder: The study's folder.
    """
    rows = [row for row in Study(folder).table().rows() if row["arm"] == "plain"]
    tuned = [row for row in rows if row["downstream"]]
    options, target = "", "error"
    if tuned:
        rows, target = [row for row in tuned if (row["n_finetune"] or 0) > 0] or tuned, "loss"
        rows, options = _of_one(rows, "downstream")
        if len({row["n_finetune"] for row in rows}) == 1:
            options += " --stage finetune"
    rows, upstream = _of_one(rows, "upstream")
    varied = [name for name in ("n_params", "n_pretrain", "n_finetune") if len({row[name] for row in rows}) > 1]
    law = _LAWS_BY_SIZES.get(tuple(varied))
    if law is None or not rows or any(len({row[name] for row in rows}) > 1 for name in ("recipe", "image_size")):
        return f"hf-scaling report {folder}"
    return f"hf-scaling fit {folder} --law {law} --target {target} --arm plain{options}{upstream}"


# The sizes that vary to the `--law` that takes all of them.
_LAWS_BY_SIZES = {
    ("n_pretrain",): "power_law",
    ("n_params",): "power_law --x n_params",
    ("n_finetune",): "rectified",
    ("n_params", "n_pretrain"): "chinchilla",
    ("n_pretrain", "n_finetune"): "transfer_gap",
    ("n_params", "n_finetune"): "joint_multiplicative",
    ("n_params", "n_pretrain", "n_finetune"): "transfer_gap_joint",
}


def _of_one(rows: list[dict[str, Any]], column: str) -> tuple[list[dict[str, Any]], str]:
    """The rows of the first value of a column, and the option that selects it where there are several."""
    names = sorted({row[column] for row in rows if row[column]})
    if len(names) < 2:
        return rows, ""
    return [row for row in rows if row[column] == names[0]], f" --{column} {names[0]}"


def study_state(folder: str | Path) -> dict[str, Any]:
    """How far a study is.

    Args:
        folder: The study's folder.

    Returns:
        study, the folder; runs, finished, running, failed and missing, numbers of runs of its grid; groups, the same
        by stage and arm; now, the runs that are trained; seconds_left, until the last run ends if as many are trained
        at once as now (NaN where none is); failures, a list of run_id, run and error; uncertain, what is guessed of
        runs whose id depends on others.

    Raises:
        InputError: The folder is not a study.
    """
    study = Study(folder)
    if not (study.path / "grid.yaml").is_file():
        raise InputError(f"{folder} is not a study: it holds no grid.yaml")
    plan = Grid.load(study.path / "grid.yaml").plan(guess=True)
    finished, failures = study.table().run_ids(), study.failures()

    def state_of(run_id: str) -> str:
        if run_id in finished:
            return "finished"
        if study.claims.is_held(run_id):
            return "running"
        return "failed" if "error" in failures.get(run_id, {}) else "missing"

    states = {run.run_id: state_of(run.run_id) for run in plan}
    counts: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for run in plan:
        counts[run.spec.stage, run.arm][states[run.run_id]] += 1
    totals = Counter(states[run.run_id] for run in plan)
    return {
        "study": str(study.path),
        "runs": len(plan),
        **{state: totals[state] for state in STATES},
        "groups": [
            {"stage": stage, "arm": arm, "runs": of.total(), **{state: of[state] for state in STATES}}
            for (stage, arm), of in sorted(counts.items(), reverse=True)
        ],
        "now": [describe_run(run) for run in plan if states[run.run_id] == "running"],
        "seconds_left": _seconds_left(study, plan, states),
        "failures": [
            {"run_id": run.run_id, "run": describe_run(run), "error": failures[run.run_id]["error"]}
            for run in plan
            if states[run.run_id] == "failed"
        ],
        "uncertain": sorted({run.provisional for run in plan if run.provisional}),
    }


def _seconds_left(study: Study, plan: Sequence[PlannedRun], states: Mapping[str, str]) -> float:
    """Seconds until the last run ends, by the seconds of the finished ones; NaN where no run is trained now."""
    running = [run_id for run_id, state in states.items() if state == "running"]
    if not running:
        return math.nan
    estimate = TimeLeft([Work.of(run) for run in plan], len(running))
    for row in study.table().rows():
        estimate.finish(row["run_id"], row["seconds"] or 0.0)
    open_ids = [run_id for run_id, state in states.items() if state in ("running", "missing")]
    # When they started is not known: half of them is done on average.
    return estimate.seconds(open_ids, {run_id: 0.5 * estimate.of_run(run_id) for run_id in running})


def describe_state(state: Mapping[str, Any]) -> str:
    """The result of `study_state` as text: counts by stage and arm, then one line per failure."""
    heads = ["stage", "arm", "runs", *STATES]
    table = text_table(heads, [[str(group[name]) for name in heads] for group in state["groups"]])
    now = [f"now: {run}" for run in state["now"]]
    if state["seconds_left"] == state["seconds_left"]:
        now.append(f"about {format_duration(state['seconds_left'])} left")
    failed = [f"failed: {failure['run']}: {failure['error']}" for failure in state["failures"]]
    return "\n".join([*table, *now, *failed, *(f"uncertain: {why}" for why in state["uncertain"])])


def _blocks(rows: Sequence[Mapping[str, Any]], place: str, x: str, largest: str | None = None) -> list[str]:
    """A table per data set (column `place`) with a column per `x`, of the rows at the largest value of `largest`."""
    blocks = []
    for name in sorted({row[place] or "?" for row in rows}):
        here = [row for row in rows if (row[place] or "?") == name and row[x] is not None]
        note = ""
        if largest is not None and here:
            size = max(row[largest] or 0 for row in here)
            here = [row for row in here if (row[largest] or 0) == size]
            note = f", {largest} {size:,}"
        if here:
            blocks.append("\n".join([f"{name}{note}: error (loss) at each {x}", *_size_table(here, x)]))
    return blocks


def _size_table(rows: Sequence[Mapping[str, Any]], x: str) -> list[str]:
    """Lines of a table: one per student and arm, the smallest student first, one column per `x`."""
    cells: dict[tuple[Any, ...], dict[int, list[Mapping[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    by_size = sorted(rows, key=lambda row: (row["n_params"], row["arm"] == "distilled", row["teacher_n_params"] or 0))
    upstreams: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in by_size:
        if row["upstream"]:
            upstreams[row["model"], row["arm"]].add(row["upstream"])
    for row in by_size:
        # Runs without pre-training have no upstream: they start the line of every upstream of their model.
        lines_of = {row["upstream"]} if row["upstream"] else upstreams[row["model"], row["arm"]] or {""}
        for upstream in sorted(lines_of):
            cells[row["model"], row["arm"], upstream, row["teacher_n_params"]][row[x]].append(row)
    sizes = sorted({row[x] for row in rows})
    named = len(set().union(*upstreams.values())) > 1
    lines = []
    for (model, arm, upstream, _), columns in cells.items():
        line = [model, arm, *([upstream] if named else [])]
        for size in sizes:
            if of_size := columns[size]:
                error, loss = (statistics.fmean(row[name] for row in of_size) for name in ("error", "loss"))
                line.append(f"{error:.3f} ({loss:.2f})")
            else:
                line.append("-")
        lines.append(line)
    return text_table(["student", "arm", *(["upstream"] if named else []), *(f"{size:,}" for size in sizes)], lines)
