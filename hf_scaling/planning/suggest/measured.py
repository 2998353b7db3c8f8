"""The runs that a law or a boundary was made from: their sizes, seeds, models and checkpoints."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.boundary import Boundary
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.rows import Columns

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
