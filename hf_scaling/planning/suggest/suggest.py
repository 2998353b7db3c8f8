"""`suggest_runs`: the runs that narrow a named quantity's interval most for a budget."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.boundary import Boundary, find_boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.fit import as_table
from hf_scaling.fitting.rows import note
from hf_scaling.grid import Grid
from hf_scaling.planning.costs import is_positive
from hf_scaling.planning.suggest.bill import Bill
from hf_scaling.planning.suggest.candidates import default_candidates, given_candidates, placed
from hf_scaling.planning.suggest.choosing import Choice, choose
from hf_scaling.planning.suggest.knowledge import Knowledge, know
from hf_scaling.planning.suggest.measured import Measured, measured_by
from hf_scaling.planning.suggest.pricing import bill_of
from hf_scaling.planning.suggest.prospect import Prospect, narrowed

if TYPE_CHECKING:
    from hf_scaling.planning.suggest.runs import SuggestedRuns


def suggest_runs(
    fit,
    candidates=None,
    *,
    budget: float,
    quantity: str = "prediction",
    at: Mapping[str, float] | None = None,
    costs: Mapping[str, float] | None = None,
    table=None,
    grid=None,
    at_most: Mapping[str, float] | None = None,
    flops_per_param: float | None = None,
    flops_per_second: float | None = None,
) -> "SuggestedRuns":
    """Choose the runs to measure next: those that narrow the interval of a quantity most for a budget.

    Args:
        fit: A law's fit with bootstrap draws; for quantity "boundary" a `Boundary`, both arms' fits as {"plain": ...,
            "distilled": ...}, or a table to find it in.
        candidates: Runs to choose among: a DataFrame, mapping or list of rows with the law's sizes (and seed, model
            and the like where they matter, and `cost` where it is known), or a grid or its path. By default the
            measured sizes, the steps halfway between them and one beyond the largest, each up to three times with
            seeds not used yet.
        budget: What may be spent, in the unit of the costs.
        quantity: "prediction", "boundary", or a parameter's symbol (G, alpha, E; "law.symbol" in a mixture).
        at: Where the prediction is asked for, the law's sizes by column (by default ten times the largest measured);
            for a boundary n_params and n_finetune.
        costs: Prices of label, pretrain_image, flop and hour, as in `plan`; FLOPs by default. Labels and images that
            the study has are not paid again, and a checkpoint that several runs share is paid once.
        table: The results the fit was made from: which runs, seeds and checkpoints there are, and what they took. By
            default what the fit remembers: all products of its sizes, with all its seeds.
        grid: The study's grid, for `to_grid`; by default the grid.yaml of the folder given as `table`, or the grid
            given as candidates.
        at_most: The largest sizes by column among the default candidates.
        flops_per_param: Training FLOPs a parameter and sample, instead of the table's train_flops.
        flops_per_second: The pace that an hour's price is turned into FLOPs by.

    Returns:
        A DataFrame of runs in the order of choice with `cost` and `gain`, and `to_grid(path)`.

    Raises:
        InputError: The quantity, the place, a candidate or a price cannot be used, or there are no draws.
    """
    if not is_positive(budget):
        raise InputError(f"budget is a positive number, in the unit of the costs, not {budget!r}")
    if quantity == "boundary" and _is_table(fit):
        table = fit if table is None else table
        fit = find_boundary(as_table(fit))
    grid, table = _grid(grid, candidates, table), None if table is None else as_table(table)
    known = know(fit, quantity, at)
    measured = measured_by(fit, known.columns, table)
    if candidates is None:
        frame = default_candidates(measured, known.columns, at_most)
    else:
        frame = given_candidates(candidates, known.columns, known.arms, measured)
    _refuse_idle(frame, candidates, costs, at_most)
    frame = placed(frame, measured, known.arms)
    pace = {"flops_per_param": flops_per_param, "flops_per_second": flops_per_second}
    bill, prices, notes = bill_of(frame, known.columns, fit, measured, costs, table, pace)
    prospect, configuration = _prospect(frame, known, measured)
    chosen = choose(prospect, bill, configuration, budget)
    if not chosen.rows:
        notes = [*notes, _why_none(prospect, bill, configuration, budget)]
    return _runs(chosen, frame, known, {"budget": float(budget), "costs": prices, "notes": notes, "grid": grid})


def _is_table(fit) -> bool:
    if isinstance(fit, Mapping):
        return not any(isinstance(each, LawFit) for each in fit.values())
    return not isinstance(fit, LawFit | Boundary)


def _grid(grid, candidates, table) -> Grid | None:
    """The grid to write runs like: as given, the candidates' own, or the study folder's."""
    if grid is not None:
        return grid if isinstance(grid, Grid) else Grid.load(grid)
    if isinstance(candidates, Grid):
        return candidates
    if isinstance(candidates, str | Path):
        return Grid.load(candidates)
    if isinstance(table, str | Path) and (Path(table) / "grid.yaml").is_file():
        return Grid.load(Path(table) / "grid.yaml")
    return None


def _refuse_idle(frame, candidates, costs, at_most) -> None:
    """Refuse arguments that would change nothing."""
    if "cost" in frame and costs is not None:
        raise InputError("the candidates have a column cost: leave costs= out, or drop the column")
    if candidates is not None and at_most is not None:
        raise InputError("at_most= limits the default candidates: leave it out, or leave such candidates out")


def _prospect(frame, known: Knowledge, measured: Measured) -> tuple[Prospect, np.ndarray]:
    """What the candidates' configurations would tell, and which of them each candidate is."""
    columns = list(known.columns)
    sizes, configuration = np.unique(frame[columns].to_numpy(dtype=float), axis=0, return_inverse=True)
    configuration = configuration.reshape(-1)
    seen = known.foresee({name: sizes[:, number] for number, name in enumerate(columns)})
    for row in np.flatnonzero(np.isnan(seen).mean(axis=0)[configuration] > 0.5):
        raise InputError(f"candidates, row {frame.index[row]}: the law is not defined at these sizes")
    there = set(measured.runs[columns].astype(float).itertuples(index=False, name=None))
    is_new = None if known.arms else np.array([tuple(size) not in there for size in sizes])
    return Prospect(known.draws[: len(seen)], seen, known.noise, is_new, known.spare), configuration


def _why_none(prospect: Prospect, bill: Bill, configuration: np.ndarray, budget: float) -> dict:
    cost = bill.cost()
    if not (cost <= budget).any():
        text = f"a budget of {budget:g} buys none of these runs: the cheapest costs {cost.min():.4g}"
        return note("budget_too_small", "warn", text)
    best = float(prospect.gains()[configuration][cost <= budget].max())
    text = f"no run that the budget buys narrows the interval by more than {best:.1%}: other sizes, or more money"
    return note("nothing_to_gain", "warn", text)


def _runs(chosen: Choice, frame, known: Knowledge, asked: Mapping) -> "SuggestedRuns":
    from hf_scaling.planning.suggest.runs import Aim, SuggestedRuns

    runs = frame.iloc[chosen.rows].drop(columns="cost", errors="ignore")
    runs = runs.astype({name: int for name in runs if _is_whole(runs[name])})
    value = float(np.nanmedian(known.draws)) if known.value is None else known.value
    ends = [narrowed(known.draws, value, known.level, width) for width in chosen.width]
    gain = -np.diff([1.0, *chosen.width])
    runs = SuggestedRuns(runs.assign(cost=chosen.cost, gain=gain, low=[e[0] for e in ends], high=[e[1] for e in ends]))
    runs.aim = Aim(known.name, known.value, known.low, known.high, known.level, **asked)
    return runs


def _is_whole(values) -> bool:
    return values.dtype.kind == "f" and bool(np.isfinite(values).all() and (values == values.round()).all())
