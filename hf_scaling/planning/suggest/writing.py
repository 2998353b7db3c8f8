"""Suggested runs as a grid: the study's own content, cut and extended to exactly these runs."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.grid.reading import PLAIN, check

# What places a pretraining run in a grid, and what places a fine-tuning run of its checkpoint.
_AXES = ("model", "arm", "n_pretrain", "seed")
_FINE = ("downstream", "n_finetune")
_HEAD = "# Suggested runs, with those that they need. What the study has already is not made again.\n"


def write_grid(runs: Sequence[Mapping[str, Any]], grid: Grid, path) -> None:
    """Write runs, and those that they need, as a grid like `grid`.

    Args:
        runs: model, arm, n_pretrain and seed of each, for a fine-tuning run downstream and n_finetune as well; what
            is absent is taken from the grid where that leaves no choice.
        grid: The study's grid: sources, rules, teachers and overrides are its.
        path: The YAML file.

    Raises:
        InputError: There is no run, or the grid leaves open what a run does not say.
    """
    import yaml

    content = grid_content(runs, grid)
    Grid.from_dict(content)
    text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
    files.write_text(path, _HEAD + text)


def grid_content(runs: Sequence[Mapping[str, Any]], grid: Grid) -> dict[str, Any]:
    """The keys and values of that grid; see `write_grid`."""
    if not runs:
        raise InputError("there is no run to write")
    study = check(grid.content)
    if "checkpoints" in study:
        raise InputError(f"grid {grid.name} fine-tunes given checkpoints: add sizes or seeds to it by hand")
    placed = [_place(run, study) for run in runs]
    pretrain = {tuple(run[axis] for axis in _AXES) for run in placed}
    finetune = {tuple(run[axis] for axis in (*_AXES, *_FINE)) for run in placed if "n_finetune" in run}
    axes = {axis: _ordered(point[at] for point in pretrain) for at, axis in enumerate(_AXES)}
    fine = {axis: _ordered(point[len(_AXES) + at] for point in finetune) for at, axis in enumerate(_FINE)}
    arms = [_arm(study, name) for name in axes["arm"]]
    overrides = _still_used(study["overrides"], axes, fine, next((a["teacher"] for a in arms if a != PLAIN), None))
    overrides += _skips(axes, pretrain, fine, finetune)
    content = {
        "models": axes["model"],
        "n_pretrain": axes["n_pretrain"],
        "arms": arms,
        "downstream": [_downstream(study, name) for name in fine["downstream"]],
        "n_finetune": fine["n_finetune"],
        "seeds": axes["seed"],
        "pretrain": study["pretrain"],
        "finetune": study["finetune"] if finetune else {},
        "overrides": overrides,
    }
    return {name: value for name, value in content.items() if value}


def _place(run: Mapping[str, Any], study: Mapping[str, Any]) -> dict[str, Any]:
    """Where a run stands on the grid's axes: what it does not say is the grid's only value.

    A seed is never guessed: the grid's may be that of a run that was made.
    """
    if "seed" not in run:
        raise InputError("the suggested runs do not say their seed: give table=, or candidates with a column seed")
    given = {
        "model": study["models"],
        "arm": [_name(arm) for arm in study["arms"]],
        "n_pretrain": study["n_pretrain"],
        "downstream": [each["source"] for each in study["downstream"]],
    }
    names = (*_AXES, *_FINE) if "n_finetune" in run else _AXES
    return {name: run[name] if name in run else _only(name, given[name]) for name in names}


def _only(name: str, values: list) -> Any:
    if len(set(values)) != 1:
        raise InputError(
            f"the suggested runs do not say their {name} and the grid has {len(set(values))}: fit the rows of one, or "
            f"give candidates with a column {name}"
        )
    return values[0]


def _ordered(values: Iterable) -> list:
    """Distinct values in ascending order."""
    return sorted(set(values))


def _name(arm: Mapping[str, Any]) -> str:
    return "distilled" if arm else PLAIN


def _arm(study: Mapping[str, Any], name: str) -> Any:
    """The study's way to write an arm."""
    if name == PLAIN:
        return PLAIN
    found = [arm for arm in study["arms"] if _name(arm) == name]
    if len(found) != 1:
        raise InputError(f"the grid has {len(found)} arms that are {name}: give a grid with the one that is meant")
    return found[0]


def _downstream(study: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The study's way to fine-tune on a set, without its sizes."""
    found = [each for each in study["downstream"] if each["source"] == name]
    if not found:
        known = ", ".join(each["source"] for each in study["downstream"]) or "none"
        raise InputError(f"the grid has no downstream {name!r}: it has {known}")
    return {field: value for field, value in found[0].items() if field != "n_finetune"}


def _still_used(overrides: Sequence[Mapping], axes: Mapping, fine: Mapping, teacher: str | None) -> list[dict]:
    """The study's overrides that choose a run of the new grid; what was skipped is asked for by name now."""
    points = [dict(zip(_AXES, values)) for values in itertools.product(*(axes[axis] for axis in _AXES))]
    points = [{**point, "teacher": "none" if point["arm"] == PLAIN else teacher} for point in points]
    fine_points = itertools.product(points, *(fine[axis] for axis in _FINE))
    points += [{**point, "downstream": source, "n_finetune": n} for point, source, n in fine_points]
    if teacher is not None:
        points += [{**point, "model": teacher, "arm": PLAIN, "teacher": "none"} for point in points]
    kept = [{name: value for name, value in each.items() if name != "skip"} for each in overrides]
    return [each for each in kept if len(each) > 1 and any(_holds(each["where"], point) for point in points)]


def _holds(where: Mapping[str, list], point: Mapping[str, Any]) -> bool:
    return all(axis in point and point[axis] in values for axis, values in where.items())


def _skips(axes: Mapping, pretrain: set[tuple], fine: Mapping, finetune: set[tuple]) -> list[dict]:
    """Overrides that leave out every combination of the lists that is not wanted."""
    boxes = _boxes(set(itertools.product(*(axes[axis] for axis in _AXES))) - pretrain, _AXES)
    sizes = itertools.product(pretrain, *(fine[axis] for axis in _FINE))
    boxes += _boxes({(*run, *size) for run, *size in sizes} - finetune, (*_AXES, *_FINE))
    return [{"where": box, "skip": True} for box in boxes]


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
