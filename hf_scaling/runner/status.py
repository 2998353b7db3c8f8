"""The table of a study at a glance: for each student and arm, error and loss at each amount of data."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.runner.loop import name_of
from hf_scaling.runner.study_folder import Study

_STATES = ("finished", "running", "failed", "missing")
_GROUP = ("upstream", "downstream", "model", "arm", "teacher_n_params")


def summarise(folder: str | Path) -> str:
    """A study's results as text: one block a data set, one line a student and arm, one column a size.

    Pretraining runs stand by n_pretrain. Fine-tuning runs stand by n_pretrain at their largest n_finetune, and by
    n_finetune at their largest n_pretrain. Seeds, and whatever else a line does not tell apart, are averaged.
    """
    rows = Study(folder).table().rows()
    if not rows:
        return f"{folder}: no results yet"
    pretrained = [row for row in rows if row["stage"] == "pretrain"]
    blocks = _blocks(pretrained, "upstream", "n_pretrain", None)
    tuned = [row for row in rows if row["stage"] == "finetune"]
    blocks += _blocks(tuned, "downstream", "n_pretrain", "n_finetune")
    blocks += _blocks(tuned, "downstream", "n_finetune", "n_pretrain")
    return "\n\n".join([*blocks, f"{len(rows)} runs in {folder}"])


def describe_state(folder: str | Path) -> str:
    """How far a study is, as text: counts by stage and arm, then the failures, each in a line.

    Raises:
        InputError: No study is there.
    """
    study = Study(folder)
    if not (study.path / "grid.yaml").is_file():
        raise InputError(f"{folder} is no study: there is no grid.yaml in it")
    plan = Grid.load(study.path / "grid.yaml").plan(guess=True)
    finished, failures = study.table().run_ids(), study.failures()
    states = {run.run_id: _state(study, run.run_id, finished, failures) for run in plan}
    lines = [["stage", "arm", "runs", *_STATES]]
    for group in sorted({_group(run) for run in plan}, reverse=True):
        counts = Counter(states[run.run_id] for run in plan if _group(run) == group)
        lines.append([*group, str(counts.total()), *(str(counts[state]) for state in _STATES)])
    failed = [
        f"failed: {name_of(run)}: {failures[run.run_id]['error']}" for run in plan if states[run.run_id] == "failed"
    ]
    trouble = sorted({f"not sure: {run.provisional}" for run in plan if run.provisional})
    return "\n".join([*align(lines), *failed, *trouble])


def align(lines: Sequence[Sequence[str]]) -> list[str]:
    """Lines of cells as lines of text whose columns stand under each other."""
    widths = [max(map(len, column)) for column in zip(*lines)]
    return ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]


def _state(study: Study, run_id: str, finished: set[str], failures: Mapping[str, Mapping]) -> str:
    if run_id in finished:
        return "finished"
    if study.claims.is_held(run_id):
        return "running"
    return "failed" if "error" in failures.get(run_id, {}) else "missing"


def _group(run: PlannedRun) -> tuple[str, str]:
    return run.spec.stage, run.arm


def next_command(folder: str | Path) -> str:
    """The command that fits a law to what the study measured."""
    rows = Study(folder).table().rows()
    downstream = sorted({row["downstream"] for row in rows if row["downstream"]})
    if not downstream:
        return f"hf-scaling fit {folder} --law power_law --target error --arm plain"
    which = f" --downstream {downstream[0]}" if len(downstream) > 1 else ""
    return f"hf-scaling fit {folder} --law transfer_gap --target loss --arm plain{which}"


def _blocks(rows: Sequence[Mapping[str, Any]], place: str, x: str, held: str | None) -> list[str]:
    blocks = []
    for name in sorted({row[place] or "?" for row in rows}):
        here = [row for row in rows if (row[place] or "?") == name and row[x] is not None]
        if held is not None and here:
            largest = max(row[held] or 0 for row in here)
            here = [row for row in here if (row[held] or 0) == largest]
        if here:
            note = "" if held is None else f", {held} {largest:,}"
            blocks.append(_block(f"{name}{note}: error (loss) at each {x}", here, x))
    return blocks


def _block(title: str, rows: Sequence[Mapping[str, Any]], x: str) -> str:
    sizes = sorted({row[x] for row in rows})
    lines: dict[tuple, dict[int, list]] = {}
    for row in sorted(
        rows, key=lambda row: (row["n_params"], row["arm"] == "distilled", row["teacher_n_params"] or 0)
    ):
        lines.setdefault(tuple(row[name] for name in _GROUP), {}).setdefault(row[x], []).append(row)
    table = [["student", "arm", *(f"{size:,}" for size in sizes)]]
    for (_, _, model, arm, _), by_size in lines.items():
        table.append([model, arm, *(_cell(by_size.get(size, [])) for size in sizes)])
    return "\n".join([title, *align(table)])


def _cell(rows: Sequence[Mapping[str, Any]]) -> str:
    if not rows:
        return "-"
    error, loss = (statistics.fmean(row[name] for row in rows) for name in ("error", "loss"))
    return f"{error:.3f} ({loss:.2f})"
