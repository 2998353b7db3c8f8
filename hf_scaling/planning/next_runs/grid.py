"""Suggested runs as a grid, written like the study's own: the same sources, hyperparameters, teachers and run ids."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.grid.schema import LADDER, PLAIN, check

# The axes of a grid that a pre-training run lies on, and those of a fine-tuning run of its checkpoint.
_AXES = ("model", "arm", "n_pretrain", "seed")
_FINE = ("downstream", "n_finetune")


def grid_content(runs: Sequence[Mapping[str, Any]], grid: Grid) -> dict[str, Any]:
    """The content of a grid that trains some runs, and those that they need, as another grid would.

    In a ladder a run needs all smaller rungs. Sizes between the study's rungs become rungs too, from which the larger
    ones resume: those are then other runs than the study's, with ids of their own.

    Args:
        runs: model, arm, n_pretrain and seed of each, for a fine-tuning run downstream and n_finetune as well; what
            is absent is the grid's only value.
        grid: The study's grid, whose sources, hyperparameters, teachers and overrides are used.

    Raises:
        InputError: `runs` is empty, the grid has several values of a field that a run does not set, or it is one
            from before its tuning.
    """
    if not runs:
        raise InputError("no runs to write to a grid")
    study = check(grid.content)
    if "checkpoints" in study:
        raise InputError(f"grid {grid.name} fine-tunes given checkpoints: add sizes or seeds to it by hand")
    if "tune" in study:
        raise InputError(f"grid {grid.name} is not tuned yet: give the grid.yaml of the study folder, which is")
    places = [_place(run, study) for run in runs]
    pretrain = {tuple(run[axis] for axis in _AXES) for run in places}
    if study.get("schedule") == LADDER:
        rungs = {n for n in study["n_pretrain"] if n} | {run["n_pretrain"] for run in places}
        smaller = itertools.product(pretrain, rungs)
        pretrain |= {(model, arm, rung, seed) for (model, arm, n, seed), rung in smaller if rung < n}
    finetune = {tuple(run[axis] for axis in (*_AXES, *_FINE)) for run in places if "n_finetune" in run}
    axes = {axis: sorted({point[at] for point in pretrain}) for at, axis in enumerate(_AXES)}
    fine = {axis: sorted({point[len(_AXES) + at] for point in finetune}) for at, axis in enumerate(_FINE)}
    arms: list[Any] = []
    for name in axes["arm"]:
        written = [PLAIN] if name == PLAIN else [arm for arm in study["arms"] if arm and name == "distilled"]
        if len(written) != 1:
            raise InputError(f"grid {grid.name} has {len(written)} arms that are {name}: give a grid with one")
        arms += written
    downstream = []
    for name in fine["downstream"]:
        sets = {each["source"]: each for each in study["downstream"]}
        if name not in sets:
            raise InputError(f"grid {grid.name} has no downstream {name!r}: it has {', '.join(sets) or 'none'}")
        downstream.append({field: value for field, value in sets[name].items() if field != "n_finetune"})
    teacher = next((arm["teacher"] for arm in arms if arm != PLAIN), None)
    content = {
        "task": study.get("task"),
        "source": study.get("source"),
        "models": axes["model"],
        "n_pretrain": axes["n_pretrain"],
        "schedule": study.get("schedule"),
        "arms": arms,
        "class_subsets": grid.content.get("class_subsets"),
        "downstream": downstream,
        "n_finetune": fine["n_finetune"],
        "seeds": axes["seed"],
        "pretrain": study["pretrain"],
        "finetune": study["finetune"] if finetune else {},
        "overrides": _overrides(study["overrides"], axes, fine, teacher, pretrain, finetune),
    }
    return {name: value for name, value in content.items() if value}


def _place(run: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """A run on the axes of a grid. A seed is never taken from the grid: it may be that of a run that exists."""
    if "seed" not in run:
        raise InputError("the suggested runs have no seed: set table=, or give candidates with a column seed")
    values = {
        "model": study["models"],
        "arm": ["distilled" if arm else PLAIN for arm in study["arms"]],
        "n_pretrain": study["n_pretrain"],
        "downstream": [each["source"] for each in study["downstream"]],
    }
    place = {}
    for name in (*_AXES, *_FINE) if "n_finetune" in run else _AXES:
        if name not in run and len(set(values[name])) != 1:
            raise InputError(
                f"the suggested runs have no {name} and the grid has {len(set(values[name]))}: fit the rows of one, "
                f"or give candidates with a column {name}"
            )
        place[name] = run[name] if name in run else values[name][0]
    return place


def _overrides(
    study: Sequence[Mapping],
    axes: Mapping[str, list],
    fine: Mapping[str, list],
    teacher: str | None,
    pretrain: set[tuple],
    finetune: set[tuple],
) -> list[dict]:
    """The study's overrides that choose a run of the new grid, and skips of every combination that is not wanted.

    The study's own skips are left out: those runs are named now.
    """
    points = [dict(zip(_AXES, values)) for values in itertools.product(*(axes[axis] for axis in _AXES))]
    points = [{**point, "teacher": "none" if point["arm"] == PLAIN else teacher} for point in points]
    fine_points = itertools.product(points, *(fine[axis] for axis in _FINE))
    points += [{**point, "downstream": source, "n_finetune": n} for point, source, n in fine_points]
    if teacher is not None:
        points += [{**point, "model": teacher, "arm": PLAIN, "teacher": "none"} for point in points]
    used = []
    for override in study:
        kept, where = {name: value for name, value in override.items() if name != "skip"}, override["where"]
        chosen = any(all(axis in point and point[axis] in where[axis] for axis in where) for point in points)
        if len(kept) > 1 and chosen:
            used.append(kept)
    unwanted = _boxes(set(itertools.product(*(axes[axis] for axis in _AXES))) - pretrain, _AXES)
    sizes = itertools.product(pretrain, *(fine[axis] for axis in _FINE))
    unwanted += _boxes({(*run, *size) for run, *size in sizes} - finetune, (*_AXES, *_FINE))
    return used + [{"where": box, "skip": True} for box in unwanted]


def _boxes(points: set[tuple], axes: Sequence[str]) -> list[dict[str, list]]:
    """The points as products of lists: axis by axis, boxes that are equal in all others are joined."""
    boxes = [tuple((value,) for value in point) for point in sorted(points)]
    for at in reversed(range(len(axes))):
        joined: dict[tuple, tuple] = {}
        for box in boxes:
            rest = (box[:at], box[at + 1 :])
            joined[rest] = joined.get(rest, ()) + box[at]
        boxes = [(*before, values, *after) for (before, after), values in joined.items()]
    return [{axis: list(values) for axis, values in zip(axes, box)} for box in boxes]
