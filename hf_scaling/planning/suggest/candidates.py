"""Runs that could be measured next: between and beyond the measured sizes, with further seeds, or as given."""

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.planning.suggest.measured import SIZES, Measured, thinned

if TYPE_CHECKING:
    import pandas

# How many runs of one configuration are offered, each with a seed of its own.
_REPEATS = 3
# Sizes that come in whole numbers.
_COUNTS = (*SIZES, "samples_seen")


def default_candidates(
    measured: Measured, columns: tuple[str, ...], at_most: Mapping[str, float] | None
) -> "pandas.DataFrame":
    """Measured sizes, the steps halfway between them, one step beyond the largest, each several times.

    Model sizes are offered as measured where they have names: nothing lies halfway between two models.
    """
    import pandas as pd

    named = "model" in measured.runs
    axes = {name: _steps(measured, name, name == "n_params" and named) for name in columns}
    for name, most in (at_most or {}).items():
        if name not in axes:
            raise InputError(f"at_most has {name!r}: runs are chosen by {', '.join(columns)}")
        axes[name] = axes[name][axes[name] <= most]
        if not len(axes[name]):
            raise InputError(f"at_most {name} {most:g} is below all that was measured")
    sizes = pd.DataFrame(itertools.product(*axes.values()), columns=list(axes))
    return sizes.loc[sizes.index.repeat(_REPEATS)].reset_index(drop=True)


def _steps(measured: Measured, column: str, as_measured: bool) -> np.ndarray:
    levels = thinned(np.unique(measured.runs[column].to_numpy(dtype=float)))
    if as_measured or len(levels) < 2 or levels.max() <= 1:
        # Shares end at one.
        return levels
    positive = levels[levels > 0]
    steps = np.concatenate([np.sqrt(positive[1:] * positive[:-1]), positive[-1:] ** 2 / positive[-2:-1]])
    # Three digits: nobody asks for 2,370,370 of anything.
    steps = np.array([float(f"{step:.3g}") for step in steps])
    return np.unique(np.concatenate([levels, steps.round() if column in _COUNTS else steps]))


def given_candidates(given, columns: tuple[str, ...], arms: tuple[str, ...], measured: Measured) -> "pandas.DataFrame":
    """Candidates from a DataFrame, a mapping of columns, a list of rows, a grid or the path of one.

    Raises:
        InputError: A column is missing, a size is not a positive number, or no run of the grid is of the kind asked
            about.
    """
    import pandas as pd

    if isinstance(given, str | Path):
        given = Grid.load(given)
    if isinstance(given, Grid):
        return _of_grid(given, columns, arms, measured)
    if not isinstance(given, Mapping | pd.DataFrame | list):
        raise InputError(f"candidates are a DataFrame, a mapping of columns or a grid, not {type(given).__name__}")
    frame = pd.DataFrame(given).copy()
    for name in (*columns, *(["cost"] if "cost" in frame else [])):
        if name not in frame:
            raise InputError(f"candidates have no column {name!r}: a run is chosen by {', '.join(columns)}")
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
        for row in np.flatnonzero(~(np.isfinite(values) & (values >= 0))):
            raise InputError(f"candidates, column {name!r}, row {frame.index[row]}: not a number of 0 or more")
        frame[name] = values
    if frame.empty:
        raise InputError("candidates hold no row")
    return frame


def _of_grid(grid: Grid, columns: tuple[str, ...], arms: tuple[str, ...], measured: Measured) -> "pandas.DataFrame":
    """The runs of a grid that are of the stage and of the names of the measured ones; of pairs, the distilled ones."""
    import pandas as pd

    names = measured.names | ({"arm": arms[-1]} if arms else {})
    stage = "finetune" if "n_finetune" in columns or "downstream" in names else "pretrain"
    rows = []
    for run in grid.plan():
        row = {"model": run.model, "arm": run.arm, "n_params": run.n_params, "n_pretrain": run.spec.n_pretrain}
        if stage == "finetune":
            row |= {"n_finetune": run.spec.n_finetune, "downstream": run.spec.source["name"]}
        if run.spec.stage == stage and all(row[name] == value for name, value in names.items()):
            rows.append({**row, "seed": run.spec.seed})
    if not rows:
        words = ", ".join(f"{name} {value}" for name, value in {"stage": stage, **names}.items())
        raise InputError(f"grid {grid.name} has no run with {words} to choose")
    frame = pd.DataFrame(rows)
    return frame.drop(columns="arm") if arms else frame


def placed(frame: "pandas.DataFrame", measured: Measured, arms: tuple[str, ...]) -> "pandas.DataFrame":
    """Candidates with what places them in a study: model, other sizes, arm, downstream, seed; measured ones left out.

    A candidate without a seed gets the first that its sizes lack, of the study's seeds or, after them, a new one.
    """
    frame = frame.copy()
    models = measured.models
    if "model" not in frame and models and "n_params" in frame and set(frame["n_params"]) <= set(models):
        frame["model"] = frame["n_params"].map(models)
    shared = {name: measured.runs[name] for name in ("n_params", "n_pretrain", "model") if name in measured.runs}
    shared = {name: values.iloc[0] for name, values in shared.items() if values.nunique() == 1}
    for name, value in {**shared, **measured.names, **({"arm": "both"} if arms else {})}.items():
        if name not in frame:
            frame[name] = value
    return _with_seeds(frame, measured) if measured.seeds else frame


def _with_seeds(frame: "pandas.DataFrame", measured: Measured) -> "pandas.DataFrame":
    names = [name for name in (*SIZES, "model") if name in frame and name in measured.runs]
    used: dict[tuple, set[int]] = {}
    for *place, seed in measured.runs[[*names, "seed"]].itertuples(index=False, name=None):
        used.setdefault(tuple(place), set()).add(int(seed))
    places = list(frame[names].itertuples(index=False, name=None))
    if "seed" in frame:
        there = [int(seed) in used.get(place, ()) for place, seed in zip(places, frame["seed"])]
        if all(there):
            raise InputError("every candidate has been measured already")
        return frame[~np.array(there)]
    seeds = []
    for place in places:
        taken = used.setdefault(place, set())
        free = (seed for seed in itertools.chain(measured.seeds, itertools.count(measured.seeds[-1] + 1)))
        seeds.append(next(seed for seed in free if seed not in taken))
        taken.add(seeds[-1])
    return frame.assign(seed=seeds)
