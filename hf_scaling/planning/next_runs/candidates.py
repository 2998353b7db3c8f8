"""Runs that could be measured next: between and beyond the measured sizes, with further seeds, or as given."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.boundary import Boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.rows import Columns
from hf_scaling.grid import Grid

if TYPE_CHECKING:
    import pandas


SIZES = ("n_params", "n_pretrain", "n_finetune")
# Where no table is at hand the measured runs are taken to be all products of this many values of each size.
_MOST_LEVELS = 8


@dataclass(frozen=True)
class Measured:
    """What has been measured.

    Attributes:
        runs: A row a run: its sizes, and model and seed where known.
        names: arm, downstream and model, where all runs have the same.
        checkpoints: `checkpoint_key` of every pre-trained run there is.
    """

    runs: "pandas.DataFrame"
    names: dict[str, str]
    checkpoints: frozenset

    @property
    def seeds(self) -> list[int]:
        """The seeds used, ascending; empty where nobody says."""
        return sorted({int(seed) for seed in self.runs["seed"]}) if "seed" in self.runs else []

    @property
    def models(self) -> dict[float, str]:
        """n_params to the model's name; empty where nobody says."""
        if not {"n_params", "model"} <= set(self.runs):
            return {}
        return dict(zip(self.runs["n_params"], self.runs["model"]))


def checkpoint_key(run: Mapping) -> tuple:
    """Which pre-training a run starts from: its model, by name where known, its images and its seed."""
    model = run.get("model", run.get("n_params"))
    return (model, run.get("n_pretrain"), run.get("seed"))


def measured_by(fit, columns: tuple[str, ...], table=None) -> Measured:
    """The runs behind a fit, a boundary, or two arms' fits.

    Args:
        fit: Any of them.
        columns: The sizes that runs are chosen by.
        table: The results that they came from; without it a law knows its sizes and seeds alone, and a boundary its
            sizes.
    """
    if isinstance(fit, Boundary):
        return _behind_boundary(fit, columns, table)
    first = fit if isinstance(fit, LawFit) else fit["distilled"]
    study = first.data["study"]
    names = {name: study[name][0] for name in ("arm", "downstream", "model") if len(study.get(name, ())) == 1}
    runs = _levels(first, columns) if table is None else _rows(Columns.of(table), study, columns)
    for name, values in first.data.get("compute", {}).get("sizes", {}).items():
        # A size that the law does not take, but all runs share.
        if name not in runs and len(values) == 1 and values[0] > 0:
            runs[name] = values[0]
    return Measured(runs, names, _checkpoints(runs, study, table))


def _behind_boundary(line: Boundary, columns: tuple[str, ...], table) -> Measured:
    import pandas as pd

    pairs = line.evidence.pairs
    sizes = pd.DataFrame({name: getattr(pairs, name) for name in SIZES}).dropna(axis=1)
    if table is None:
        return Measured(sizes, {}, _checkpoints(sizes, {}, None))
    rows = _rows(Columns.of(table), {"arm": ["distilled"]}, tuple(sizes))
    measured = set(sizes.itertuples(index=False, name=None))
    keep = [size in measured for size in rows[list(sizes)].itertuples(index=False, name=None)]
    runs = rows[keep].reset_index(drop=True)
    return Measured(runs, {}, _checkpoints(runs, {"arm": ["distilled"]}, table))


def _rows(table: Columns, study: Mapping[str, list[str]], columns: tuple[str, ...]) -> "pandas.DataFrame":
    """The rows of a table that have the names of a study, with what a run is placed by."""
    import pandas as pd

    keep = np.ones(len(table), dtype=bool)
    for name, values in study.items():
        if name in table.data and name != "seed":
            keep &= np.isin(table.data[name].astype(str), values)
    if "n_finetune" in columns and "n_finetune" in table.data and study.get("stage") == ["finetune"]:
        keep &= table.numbers("n_finetune") > 0
    wanted = [name for name in (*columns, "model", "seed") if name in table.data]
    return pd.DataFrame({name: table.data[name][keep] for name in wanted}).dropna(axis=1, how="any")


def _levels(fit: LawFit, columns: tuple[str, ...]) -> "pandas.DataFrame":
    """All products of the sizes that a law remembers, with all its seeds."""
    import pandas as pd

    kept = fit.data.get("compute", {}).get("sizes", {})
    axes = {name: thinned(_axis(fit, name, kept)) for name in columns}
    seeds = [int(float(seed)) for seed in fit.data["study"].get("seed", ())]
    if seeds:
        axes["seed"] = seeds
    return pd.DataFrame(itertools.product(*axes.values()), columns=list(axes))


def _axis(fit: LawFit, column: str, kept: Mapping[str, list[float]]) -> np.ndarray:
    """A column's measured values, or as many as there were, evenly from the smallest to the largest."""
    if kept.get(column):
        values = np.array(kept[column])
        return values[values > 0] if len(values) > 1 else values
    low, high = fit.data["ranges"][column]
    count = fit.data["levels"][column]
    return np.geomspace(low, high, count) if low > 0 else np.linspace(low, high, count)


def thinned(levels: np.ndarray) -> np.ndarray:
    """At most eight of ascending levels, the ends among them."""
    at = np.linspace(0, len(levels) - 1, min(len(levels), _MOST_LEVELS)).round().astype(int)
    return levels[np.unique(at)]


def _checkpoints(runs: "pandas.DataFrame", study: Mapping[str, list[str]], table) -> frozenset:
    """Those that the runs started from, and the table's own pre-trained runs."""
    found = {checkpoint_key(run) for run in runs.to_dict("records")}
    if table is None or not {"stage", "model"} <= set(Columns.of(table).data):
        return frozenset(found)
    names = {"stage": ["pretrain"], **{name: study[name] for name in ("arm", "upstream") if study.get(name)}}
    pretrained = _rows(Columns.of(table), names, ("n_pretrain",))
    return frozenset(found | {checkpoint_key(run) for run in pretrained.to_dict("records")})


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
