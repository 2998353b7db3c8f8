"""Candidate runs: between and beyond the measured sizes, with further seeds, or as given by the caller."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_scaling.boundary import Boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.columns import SIZES, Columns
from hf_scaling.fitting.rows import thinned
from hf_scaling.grid import Grid
from hf_scaling.text import format_whole

# At most this many measured levels of a size are used, since all their products are candidates.
_MOST_LEVELS = 8
# All available images are a further level only where they exceed the largest other level by this factor.
_DISTINCT = 1.1
# Candidates with the same sizes, each with its own seed.
_REPEATS = 3
# Columns that hold whole numbers.
_COUNTS = (*SIZES, "samples_seen")


@dataclass(frozen=True)
class MeasuredRuns:
    """The runs that exist.

    Attributes:
        runs: A row a run: its sizes, and model and seed where known.
        names: arm, downstream and model, where all runs have the same.
        checkpoints: `checkpoint_key` of every pre-trained run.
    """

    runs: pd.DataFrame
    names: dict[str, str]
    checkpoints: frozenset[tuple]

    @property
    def seeds(self) -> list[int]:
        """The seeds in use, ascending; empty where unknown."""
        return sorted({int(seed) for seed in self.runs["seed"]}) if "seed" in self.runs else []


def checkpoint_key(run: Mapping[Any, Any]) -> tuple:
    """The pre-training that a run starts from: its model, by name where known, its images and its seed."""
    return (run.get("model", run.get("n_params")), run.get("n_pretrain"), run.get("seed"))


def measured_runs(
    fit: LawFit | Boundary | Mapping[str, LawFit], columns: tuple[str, ...], table: Any = None
) -> MeasuredRuns:
    """The runs behind a fit, a boundary, or both arms' fits.

    Without the table that they came from, all products of the sizes and seeds stored with a law count as measured, and
    of a boundary only the sizes are known.
    """
    source = None if table is None else Columns.of(table)
    if isinstance(fit, Boundary):
        study: Mapping[str, list[str]] = {} if source is None else {"arm": ["distilled"]}
        pairs = fit.evidence.pairs
        runs, names = pd.DataFrame({name: getattr(pairs, name) for name in SIZES}).dropna(axis=1), {}
        if source is not None:
            paired, sizes = set(runs.itertuples(index=False, name=None)), [str(name) for name in runs]
            runs = _rows(source, study, sizes)
            keep = [row in paired for row in runs[sizes].itertuples(index=False, name=None)]
            runs = runs[keep].reset_index(drop=True)
    else:
        law = fit if isinstance(fit, LawFit) else fit["distilled"]
        study, sizes_of = law.data["study"], law.data.get("compute", {}).get("sizes", {})
        names = {name: study[name][0] for name in ("arm", "downstream", "model") if len(study.get(name, ())) == 1}
        if source is not None:
            runs = _rows(source, study, columns)
        else:
            axes: dict[str, Iterable] = {}
            for name in columns:
                # At most eight measured levels; where they are not stored, as many evenly spaced ones.
                if stored := sizes_of.get(name):
                    levels = np.array([size for size in stored if size > 0 or len(stored) == 1])
                else:
                    (low, high), count = law.data["ranges"][name], law.data["levels"][name]
                    levels = np.geomspace(low, high, count) if low > 0 else np.linspace(low, high, count)
                axes[name] = levels[thinned(len(levels), _MOST_LEVELS)]
            if study.get("seed"):
                axes["seed"] = [int(float(seed)) for seed in study["seed"]]
            runs = pd.DataFrame(itertools.product(*axes.values()), columns=list(axes))
        for name, values in sizes_of.items():
            # The law does not take this size, and it is the same in all runs.
            if name not in runs and len(values) == 1 and values[0] > 0:
                runs[name] = values[0]
    checkpoints = {checkpoint_key(run) for run in runs.to_dict("records")}
    if source is not None and {"stage", "model"} <= set(source.data):
        lineage = {"stage": ["pretrain"], **{name: study[name] for name in ("arm", "upstream") if study.get(name)}}
        pretrained = _rows(source, lineage, ["n_pretrain"])
        checkpoints |= {checkpoint_key(run) for run in pretrained.to_dict("records")}
    return MeasuredRuns(runs, names, frozenset(checkpoints))


def _rows(table: Columns, study: Mapping[str, list[str]], columns: Sequence[str]) -> pd.DataFrame:
    """The rows of a table whose naming columns have the values of a study, with sizes, model and seed."""
    keep = table.like(study, [name for name in {**study, "upstream": ()} if name != "seed"])
    if "n_finetune" in columns and "n_finetune" in table.data and study.get("stage") == ["finetune"]:
        keep &= table.numbers("n_finetune") > 0
    wanted = [name for name in (*columns, "model", "seed") if name in table.data]
    return pd.DataFrame({name: table.data[name][keep] for name in wanted}).dropna(axis=1, how="any")


def default_candidates(
    measured: MeasuredRuns,
    columns: tuple[str, ...],
    at_most: Mapping[str, float] | None,
    missing: Mapping[str, Sequence[float]],
    available: Mapping[str, float],
) -> pd.DataFrame:
    """Measured sizes, the steps halfway between them, one step beyond the largest, each several times.

    Model sizes are the measured ones where models have names: there is none halfway between two of them. `missing` has
    further levels for sizes with too few. A step beyond what is `available` of a size is replaced by all of it.
    """
    axes = {}
    for name in columns:
        levels = np.unique(measured.runs[name].to_numpy(dtype=float))
        levels = levels[thinned(len(levels), _MOST_LEVELS)]
        named = name == "n_params" and "model" in measured.runs
        # Sizes of at most one are shares: they get no further steps.
        if not named and len(levels) >= 2 and levels.max() > 1:
            positive = levels[levels > 0]
            steps = np.concatenate([np.sqrt(positive[1:] * positive[:-1]), positive[-1:] ** 2 / positive[-2:-1]])
            steps = np.array([float(f"{step:.3g}") for step in steps])
            levels = np.unique(np.concatenate([levels, steps.round() if name in _COUNTS else steps]))
        if not named:
            levels = np.unique(np.concatenate([levels, np.asarray(missing.get(name, ()), dtype=float)]))
        if levels.max() > (most := available.get(name, np.inf)):
            inside = levels[levels <= most]
            is_new = not len(inside) or most > _DISTINCT * inside.max()
            levels = np.append(inside, most) if is_new else inside
        axes[name] = levels
    for name, most in (at_most or {}).items():
        if name not in axes:
            raise InputError(f"at_most: unknown name {name!r}; the sizes of a run are {', '.join(columns)}")
        axes[name] = axes[name][axes[name] <= most]
        if not len(axes[name]):
            raise InputError(f"at_most {name} {format_whole(most)} is below every measured size")
    sizes = pd.DataFrame(itertools.product(*axes.values()), columns=list(axes))
    return sizes.loc[sizes.index.repeat(_REPEATS)].reset_index(drop=True)


def given_candidates(
    given: Any, columns: tuple[str, ...], arms: tuple[str, ...], measured: MeasuredRuns
) -> pd.DataFrame:
    """Candidates from a DataFrame, a mapping of columns, a list of rows, a grid or the path of one.

    Of a grid, its runs with the stage, arm, model and downstream set of the measured ones are taken; of pairs, the
    distilled runs.

    Raises:
        InputError: A column is missing, there are no rows, a size is not a number of at least 0, or the grid has no
            such run.
    """
    if isinstance(given, str | Path):
        given = Grid.load(given)
    if isinstance(given, Grid):
        names = measured.names | ({"arm": arms[-1]} if arms else {})
        stage, rows = "finetune" if "n_finetune" in columns or "downstream" in names else "pretrain", []
        for run in given.plan():
            row = {"model": run.model, "arm": run.arm, "n_params": run.n_params, "n_pretrain": run.spec.n_pretrain}
            if stage == "finetune":
                row |= {"n_finetune": run.spec.n_finetune, "downstream": run.spec.source["name"]}
            if run.spec.stage == stage and all(row[name] == value for name, value in names.items()):
                rows.append({**row, "seed": run.spec.seed})
        if not rows:
            wanted = ", ".join(f"{name} {value}" for name, value in {"stage": stage, **names}.items())
            raise InputError(f"grid {given.name} has no run with {wanted}")
        return pd.DataFrame(rows).drop(columns="arm" if arms else [])
    if not isinstance(given, Mapping | pd.DataFrame | list):
        raise InputError(f"candidates must be a DataFrame, a mapping of columns or a grid, not {type(given).__name__}")
    frame = pd.DataFrame(given).copy()
    for name in (*columns, *(["cost"] if "cost" in frame else [])):
        if name not in frame:
            raise InputError(f"candidates: no column {name!r}; the sizes of a run are {', '.join(columns)}")
        values = pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float)
        for place in np.flatnonzero(~(np.isfinite(values) & (values >= 0))):
            label = frame.index[int(place)]
            raise InputError(f"candidates, column {name!r}, row {label}: not a number of at least 0")
        frame[name] = values
    if frame.empty:
        raise InputError("candidates: the table has no rows: give at least one run")
    return frame


def finished_candidates(among: Any, law: LawFit | None, columns: tuple[str, ...], table: Any) -> pd.DataFrame:
    """Candidates from the rows of a results table that the law was not fitted to.

    Args:
        among: The loaded table.
        law: The law; rows of another task, recipe, stage, arm, upstream or downstream than its own are left out.
        columns: The sizes of the law.
        table: The loaded results that the law was fitted to; None where they are unknown.

    Returns:
        The rows' sizes, with run_id, model and seed where known, and their cost: the column cost, else the measured
        FLOPs of the student and its teacher. The index is that of the rows.

    Raises:
        InputError: A size is missing, or no row is left.
    """
    if law is None:
        raise InputError("among= selects rows for one law; a boundary needs pairs of runs: give candidates=")
    rows = Columns.of(among)
    for name in columns:
        rows.require(name)
    names = ("task", "recipe", "stage", "arm", "upstream", "downstream", "eval_split")
    keep = rows.like(law.data["study"], names)
    if law.data["study"].get("stage") == ["finetune"] and "n_finetune" in columns:
        keep &= rows.numbers("n_finetune") > 0
    target = law.settings["target"]
    known = [name for name in (*columns, target) if name in rows.data]
    if table is not None and target in known:
        fitted = Columns.of(table)
        measured = set(zip(*(fitted.numbers(name, strict=False) for name in known)))
        keep &= np.array([row not in measured for row in zip(*(rows.numbers(name) for name in known))], dtype=bool)
    if not keep.any():
        raise InputError("among: table= has every row that the law can use: give a table with further runs")
    frame = pd.DataFrame({name: rows.numbers(name) for name in columns}, index=rows.labels)
    frame = frame.assign(**{name: rows.data[name] for name in ("run_id", "model", "seed") if name in rows.data})
    if "cost" in rows.data:
        frame["cost"] = rows.numbers("cost")
    elif "train_flops" in rows.data:
        frame["cost"] = rows.numbers("train_flops") + np.nan_to_num(rows.numbers("teacher_flops", strict=False))
        frame = frame.drop(columns="cost") if frame["cost"][keep].isna().any() else frame
    return frame[keep]


def complete_candidates(frame: pd.DataFrame, measured: MeasuredRuns, arms: tuple[str, ...]) -> pd.DataFrame:
    """Candidates with the model, other sizes, arm, downstream and seed of a study, without the runs that exist.

    A candidate without a seed gets the first one not used at its sizes: of the study's seeds, then of new ones.

    Raises:
        InputError: Every candidate has been measured.
    """
    frame, runs = frame.copy(), measured.runs
    if "model" not in frame and "n_params" in frame and {"n_params", "model"} <= set(runs):
        models = dict(zip(runs["n_params"], runs["model"]))
        if set(frame["n_params"]) <= set(models):
            frame["model"] = frame["n_params"].map(models)
    constants: dict[str, Any] = {
        name: runs[name].iloc[0]
        for name in ("n_params", "n_pretrain", "model")
        if name in runs and runs[name].nunique() == 1
    }
    for name, value in {**constants, **measured.names, **({"arm": "both"} if arms else {})}.items():
        if name not in frame:
            frame[name] = value
    if not measured.seeds:
        return frame
    names = [name for name in (*SIZES, "model") if name in frame and name in runs]
    used: dict[tuple, set[int]] = {}
    for run in runs[[*names, "seed"]].itertuples(index=False, name=None):
        used.setdefault(run[:-1], set()).add(int(run[-1]))
    places = list(frame[names].itertuples(index=False, name=None))
    if "seed" in frame:
        known = np.array([int(seed) in used.get(place, ()) for place, seed in zip(places, frame["seed"])])
        if known.all():
            raise InputError("candidates: every run has been measured: give others, or another seed")
        return frame[~known]
    seeds = []
    for place in places:
        taken = used.setdefault(place, set())
        free = itertools.chain(measured.seeds, itertools.count(measured.seeds[-1] + 1))
        seeds.append(next(seed for seed in free if seed not in taken))
        taken.add(seeds[-1])
    return frame.assign(seed=seeds)
