"""`suggest_runs`: the runs that narrow the interval of a quantity most for a budget, and the grid that trains them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml

from hf_scaling import files
from hf_scaling.boundary import Boundary, find_boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.columns import Columns, as_table, note
from hf_scaling.fitting.levels import distinct_levels, level_notes
from hf_scaling.grid import Grid
from hf_scaling.grid.schema import PLAIN
from hf_scaling.planning.costs import CostOptions, is_positive
from hf_scaling.planning.limits import SOURCE_OF, Available, available_sizes, study_of
from hf_scaling.planning.next_runs.candidates import (
    MeasuredRuns,
    complete_candidates,
    default_candidates,
    finished_candidates,
    given_candidates,
    measured_runs,
)
from hf_scaling.planning.next_runs.costs import RunCosts, run_costs
from hf_scaling.planning.next_runs.error import expected_error
from hf_scaling.planning.next_runs.gain import (
    At,
    Estimate,
    Source,
    estimate_quantity,
    expected_gain,
    narrowed,
)
from hf_scaling.planning.next_runs.grid import grid_content
from hf_scaling.planning.next_runs.selection import Selection, in_order, select_by_error, select_levels, select_runs
from hf_scaling.planning.verdicts import describe_runs
from hf_scaling.text import format_count, format_percent, format_whole

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table, TableLike


@dataclass(frozen=True)
class Aim:
    """What the suggested runs are to narrow.

    Attributes:
        quantity: As text: "loss at n_params 1,000,000, ...", "G", "boundary".
        value: The estimate; None where the arms' laws do not cross.
        low: Lower end of today's interval.
        high: Upper end of today's interval.
        level: Of the interval.
        budget: The most that may be spent.
        costs: Prices by name; None where costs are the candidates' own, or follow from their sizes.
        notes: Findings, each with code, grade and text.
        grid: The study's grid, where one is known.
        verdict: cannot_tell where a size takes too few levels for any expectation: the runs then add levels, and have
            no gain; else None.
    """

    quantity: str
    value: float | None
    low: float
    high: float
    level: float
    budget: float
    costs: dict[str, float] | None
    notes: list[dict]
    grid: Grid | None = None
    verdict: str | None = None


class SuggestedRuns(pd.DataFrame):
    """Runs in the order of their value.

    Columns: what a run is (its sizes; model, arm, downstream and seed where known; arm "both" is a pair), `cost` (what
    it adds to the costs of those above it), `gain` (the share of today's interval that it is expected to take away
    after those above it), `low` and `high` (the interval expected after it and those above it). Gain and interval are
    NaN where the measured sizes take too few levels to expect anything. Of a mixture each law has a column: what it
    expects of the run.
    """

    _metadata = ["aim"]  # noqa: RUF012 (how pandas declares attributes that copies keep)
    aim: Aim

    @property
    def _constructor(self):
        return SuggestedRuns

    @property
    def after(self) -> tuple[float, float]:
        """The interval expected after all of them."""
        if self.empty or self.aim.verdict:
            return self.aim.low, self.aim.high
        return float(self["low"].iloc[-1]), float(self["high"].iloc[-1])

    def to_grid(self, path: str | Path) -> None:
        """Write them as a grid for `hf-scaling run`, with the hyperparameters, sources and teachers of the study's.

        Run ids are those of the study's grid, so that what exists is not trained again; checkpoints and teachers that
        these runs need are part of the grid.

        Args:
            path: The YAML file.

        Raises:
            InputError: No grid is known, no runs are suggested, or the grid has several values of a field that
                they do not set.
        """
        grid = self.aim.grid
        if grid is None:
            raise InputError("no grid to write these runs like: set grid= (--grid), the study's YAML")
        runs = self
        if "model" not in runs and "n_params" in runs:
            stage = "finetune" if "n_finetune" in runs else "pretrain"
            models = {run.n_params: run.model for run in grid.plan() if run.spec.stage == stage}
            unknown = sorted(set(runs["n_params"]) - set(models))
            if unknown:
                size = format_whole(unknown[0])
                raise InputError(f"grid {grid.name} has no model of {size} parameters: give candidates a column model")
            runs = runs.assign(model=runs["n_params"].map(models))
        rows: list[dict[str, Any]] = []
        for row in runs.to_dict("records"):
            run: dict[str, Any] = {name: row[name] for name in ("model", "arm", "downstream") if name in row}
            run |= {name: int(row[name]) for name in ("n_pretrain", "n_finetune", "seed") if name in row}
            rows += [{**run, "arm": arm} for arm in (PLAIN, "distilled")] if run.get("arm") == "both" else [run]
        content = grid_content(rows, grid)
        Grid.from_dict(content)
        text = yaml.safe_dump(content, sort_keys=False, default_flow_style=None, allow_unicode=True, width=120)
        files.write_text(path, f"# Suggested runs and those that they need; existing ones are not repeated.\n{text}")

    def summary(self) -> str:
        """The quantity, its interval before and after, the runs and the notes as text for a terminal."""
        return describe_runs(self)


def suggest_runs(
    fit: "LawFit | Boundary | Mapping[str, LawFit] | TableLike",
    candidates: "pd.DataFrame | Mapping | list | Grid | str | Path | None" = None,
    *,
    budget: float,
    quantity: str = "prediction",
    at: At | None = None,
    costs: Mapping[str, float] | None = None,
    table: "TableLike | None" = None,
    grid: Grid | str | Path | None = None,
    at_most: Mapping[str, float] | None = None,
    flops_per_param: float | None = None,
    flops_per_second: float | None = None,
    among: "TableLike | None" = None,
    study: str | Path | None = None,
) -> SuggestedRuns:
    """Select the runs to measure next: those that narrow the interval of a quantity most for a budget.

    Args:
        fit: A law's fit with bootstrap draws; of a mixture (law="auto") the runs are chosen over all its laws, whose
            disagreement is part of the interval, and each law's expectation of a run is a column. For quantity
            "boundary" a `Boundary`, both arms' fits as {"plain": ..., "distilled": ...}, or a table to find it in.
        candidates: Runs to select among: a DataFrame, mapping or list of rows with the law's sizes (and seed, model
            and the like where they matter, and `cost` where it is known), or a grid or its path. By default the
            measured sizes, the steps halfway between them and one beyond the largest, each up to three times with
            seeds not used yet.
        budget: The most that may be spent, in the unit of the costs.
        quantity: "prediction", "boundary", or a parameter's symbol (G, alpha, E; "law.symbol" in a mixture).
        at: Place of the prediction, the law's sizes by column (by default ten times the largest measured); several
            places as columns or a DataFrame: the runs are those for the error at all of them, the interval that of
            their mean. Of a boundary n_params and n_finetune.
        costs: Prices of label, pretrain_image, flop and hour, as in `plan`; FLOPs by default. Labels and images that
            the study has are not paid again, and a checkpoint that several runs share is paid once.
        table: The results that the fit was made from: which runs, seeds and checkpoints exist, and their compute. By
            default what is stored with the fit: all products of its sizes, with all its seeds.
        grid: The study's grid, for `to_grid`; by default the grid.yaml of the folder given as `table`, or the grid
            given as candidates.
        at_most: The largest sizes by column among the default candidates; by default what the sources of `study` have.
        flops_per_param: Training FLOPs per parameter and sample, instead of the table's train_flops.
        flops_per_second: FLOPs per second that the price of an hour is converted with.
        among: A results table of finished runs: select among its rows that are not in `table`, as in a replay. Their
            cost is the column cost, else their measured FLOPs, unless costs= is given; the index names the rows.
        study: Folder of the study whose sources.json says how many images and labels there are: candidates beyond them
            are left out. By default `table`, or the folder of `grid`, where that is one.

    Returns:
        A DataFrame of runs in the order of selection with `cost` and `gain`, and `to_grid(path)`.

    Raises:
        InputError: The quantity, the place, a candidate or a price is unusable, or there are no draws.

    Example:
        `hs.suggest_runs(fit, budget=1e15, quantity="G", table="studies/demo").to_grid("next.yaml")`
    """
    if not is_positive(budget):
        raise InputError(f"budget must be a positive number, in the unit of the costs, not {budget!r}")
    source: Source = fit  # type: ignore[assignment]  # estimate_quantity refuses a table
    of_arms = isinstance(fit, Mapping) and any(isinstance(each, LawFit) for each in fit.values())
    if quantity == "boundary" and not of_arms and not isinstance(fit, LawFit | Boundary):
        table = fit if table is None else table  # type: ignore[assignment]  # no fits left
        source = find_boundary(as_table(fit))  # type: ignore[arg-type]
    folder = study_of(study, table, grid)
    grid = _study_grid(grid, candidates, table)
    basis = _Basis.of(source, estimate_quantity(source, quantity, at), table, folder, at_most)
    frame = _candidates(basis, candidates, among, costs, at_most)
    options = CostOptions(flops_per_param=flops_per_param, flops_per_second=flops_per_second)
    run_cost, prices, notes = run_costs(
        frame, basis.estimate.columns, source, basis.measured, costs, basis.table, options
    )
    selection, no_run = _select(basis, frame, run_cost, budget, replay=among is not None)
    by_default = candidates is None and among is None
    runs = _as_runs(frame.iloc[selection.rows], selection, basis.estimate, basis.law)
    runs.aim = Aim(
        quantity=basis.estimate.name,
        value=basis.estimate.value,
        low=basis.estimate.low,
        high=basis.estimate.high,
        level=basis.estimate.level,
        budget=float(budget),
        costs=prices,
        notes=[*basis.too_few, *notes, *(basis.available.notes() if by_default else ()), *no_run],
        grid=grid,
        verdict="cannot_tell" if basis.too_few else None,
    )
    return runs


@dataclass(frozen=True)
class _Basis:
    """What is known before any run is selected.

    Attributes:
        source: The fit, both arms' fits, or the boundary.
        law: The fit, where it is one.
        table: The results that `source` was made from, where they are given.
        estimate: The quantity and its interval today.
        measured: The runs that exist.
        available: How many images and labels there are.
        too_few: A note for each size that takes too few levels for any expectation.
    """

    source: Source
    law: LawFit | None
    table: "Table | None"
    estimate: Estimate
    measured: MeasuredRuns
    available: Available
    too_few: list[dict[str, Any]]

    @classmethod
    def of(
        cls,
        source: Source,
        estimate: Estimate,
        table: "TableLike | None",
        folder: Path | None,
        at_most: Mapping[str, float] | None,
    ) -> "_Basis":
        table = None if table is None else as_table(table)
        measured = measured_runs(source, estimate.columns, table)
        # The upstream and downstream sources behind fits, or behind a boundary's table.
        sources: dict[str, list[str]] = {}
        if not isinstance(source, Boundary):
            fits = [source] if isinstance(source, LawFit) else list(source.values())
            for name in SOURCE_OF.values():
                sources[name] = [one for fit in fits for one in fit.data["study"].get(name, ())]
        elif table is not None:
            columns = Columns.of(table)
            sources = {name: columns.distinct(name) for name in SOURCE_OF.values()}
        available = available_sizes(folder, estimate.columns, sources, at_most or ())
        levels = {}
        for name in ("n_pretrain",) if estimate.arms else estimate.columns:
            values = distinct_levels(measured.runs[name])
            # At a measured size the curve of that size plays no part.
            places = estimate.at.get(name)
            if places is None or not np.isclose(values[:, None], places, rtol=1e-3).any(axis=0).all():
                levels[name] = values
        too_few = level_notes(levels, f"the {estimate.name}", most=available.most)
        law = source if isinstance(source, LawFit) else None
        return cls(source, law, table, estimate, measured, available, too_few)

    @property
    def missing_levels(self) -> dict[str, Any]:
        """The levels to add, by the column that takes too few."""
        return {column: levels for found in self.too_few for column, levels in found["add"].items()}


def _candidates(
    basis: _Basis,
    given: Any,
    among: "TableLike | None",
    costs: Mapping[str, float] | None,
    at_most: Mapping[str, float] | None,
) -> pd.DataFrame:
    """The runs to select among: finished ones, those given, or the default ones; each with all that a run is.

    Raises:
        InputError: Arguments of `suggest_runs` contradict each other, or a candidate is unusable.
    """
    columns, arms, measured = basis.estimate.columns, basis.estimate.arms, basis.measured
    if among is not None:
        if given is not None:
            raise InputError("among= and candidates= both say what to select among: give one")
        given = finished_candidates(as_table(among), basis.law, columns, basis.table)
        given = given if costs is None else given.drop(columns="cost", errors="ignore")
    if given is None:
        frame = default_candidates(measured, columns, at_most, basis.missing_levels, basis.available.most)
    else:
        if at_most is not None:
            raise InputError("at_most= limits the default candidates: leave it out, or drop such candidates")
        frame = given_candidates(given, columns, arms, measured)
        # Finished runs exist whatever is left of the source.
        for name, most in basis.available.most.items() if among is None else ():
            if not (frame[name] <= most).any():
                raise InputError(
                    f"candidates: {name}: {basis.available.source[name]} has {format_whole(most)} at most"
                )
            frame = frame[frame[name] <= most]
    if "cost" in frame and costs is not None:
        raise InputError("the candidates have a column cost: leave costs= out, or drop the column")
    return complete_candidates(frame, measured, arms)


def _select(
    basis: _Basis, frame: pd.DataFrame, run_cost: RunCosts, budget: float, replay: bool
) -> tuple[Selection, list[dict[str, Any]]]:
    """Select by the error of a prediction where there is one, else by new levels or by the interval's width.

    Args:
        basis: What is known.
        frame: The candidates.
        run_cost: What each costs, alone and after others.
        budget: The most that may be spent.
        replay: Whether the candidates are finished runs: those of one configuration are then taken together.

    Returns:
        The selection, and a note where no run was selected.
    """
    estimate, measured, missing = basis.estimate, basis.measured, basis.missing_levels
    expected, configuration = expected_gain(frame, estimate, measured)
    if basis.law is not None and estimate.at:
        error = expected_error(basis.law, frame, estimate, measured)
        rows = select_by_error(error, run_cost, configuration, budget, together=replay)
        selection = in_order(expected, run_cost, configuration, rows, least=-np.inf)
        selection = selection.without_width() if basis.too_few else selection
    elif basis.too_few:
        selection = select_levels(frame, measured, missing, run_cost, configuration, budget)
    else:
        selection = select_runs(expected, run_cost, configuration, budget)
    if selection.rows:
        return selection, []
    costs = run_cost.added()
    affordable = costs <= budget
    if not affordable.any():
        text = f"the cheapest run costs {format_count(costs.min())}, the budget is {format_count(budget)}"
        return selection, [note("budget_too_small", "warn", text)]
    if missing:
        text = f"no affordable candidate has a new level of {', '.join(missing)}: give some, or a larger budget"
        return selection, [note("nothing_to_gain", "warn", text)]
    best = format_percent(float(expected.gains()[configuration][affordable].max()), 2)
    text = f"no affordable run narrows the interval by more than {best}: give other sizes, or a larger budget"
    return selection, [note("nothing_to_gain", "warn", text)]


def _as_runs(rows: pd.DataFrame, selection: Selection, estimate: Estimate, law: LawFit | None) -> SuggestedRuns:
    """The selected candidates with their costs and gains, and in a mixture what each law expects of them."""
    rows = rows.drop(columns="cost", errors="ignore")
    whole = [n for n in rows if rows[n].dtype.kind == "f" and bool((np.isfinite(rows[n]) & (rows[n] % 1 == 0)).all())]
    rows = rows.astype(dict.fromkeys(whole, int))
    if law is not None and len(law.members) > 1:
        sizes = {name: rows[name].to_numpy(dtype=float) for name in estimate.columns}
        rows = rows.assign(**{m.law: law.scale.from_fitted(m.fitted_values(sizes)) for m in law.members})
    value = float(np.nanmedian(estimate.draws)) if estimate.value is None else estimate.value
    ends = [
        (np.nan, np.nan) if np.isnan(width) else narrowed(estimate.draws, value, estimate.level, width)
        for width in selection.width
    ]
    gain = -np.diff([1.0, *selection.width])
    low, high = [end[0] for end in ends], [end[1] for end in ends]
    return SuggestedRuns(rows.assign(cost=selection.cost, gain=gain, low=low, high=high))


def _study_grid(grid: Any, candidates: Any, table: Any) -> Grid | None:
    """The grid to write runs like: the one given, the candidates' own, or the study folder's."""
    for given in (grid, candidates):
        if isinstance(given, Grid):
            return given
        if isinstance(given, str | Path):
            return Grid.load(given)
    path = Path(table) / "grid.yaml" if isinstance(table, str | Path) else None
    return Grid.load(path) if path and path.is_file() else None
