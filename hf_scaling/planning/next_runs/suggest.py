"""`suggest_runs`: the runs that narrow a named quantity's interval most for a budget."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from hf_scaling import files
from hf_scaling.boundary import Boundary, find_boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.fit import as_table
from hf_scaling.fitting.rows import note
from hf_scaling.grid import Grid
from hf_scaling.grid.schema import PLAIN, check
from hf_scaling.planning.costs import is_positive
from hf_scaling.planning.next_runs.candidates import (
    Measured,
    default_candidates,
    given_candidates,
    measured_by,
    placed,
)
from hf_scaling.planning.next_runs.costs import Bill, bill_of
from hf_scaling.planning.next_runs.gain import Knowledge, Prospect, know, narrowed


def describe_runs(runs) -> str:
    """What is narrowed and by how much, the runs, and the notes."""
    aim, money = runs.aim, _unit(runs.aim)
    lines = [f"{aim.quantity}: {_number(aim.value)}, {aim.level:.0%} [{_number(aim.low)}, {_number(aim.high)}]"]
    if runs.empty:
        lines.append("no run is suggested")
    else:
        low, high = runs.after
        ends, share = f"[{_number(low)}, {_number(high)}]", f"{runs['gain'].sum():.0%}"
        lines.append(f"after {_counted(runs)}: {ends} expected, {share} narrower")
        lines.append(f"cost {_number(runs['cost'].sum())} of {_number(aim.budget)} {money}".rstrip())
        lines += ["", runs.to_string(index=False, formatters=_formatters(runs))]
    if aim.notes:
        lines += ["", *(f"[{n['grade']}] {n['code']}: {n['text']}" for n in aim.notes)]
    return "\n".join(lines)


def _counted(runs) -> str:
    pairs = "arm" in runs and (runs["arm"] == "both").all()
    if len(runs) == 1:
        return "this pair of runs" if pairs else "this run"
    return f"these {len(runs)} {'pairs of runs' if pairs else 'runs'}"


def _unit(aim) -> str:
    if aim.costs is None:
        return ""
    if aim.costs == {"flop": 1.0}:
        return "FLOPs"
    return "(" + ", ".join(f"{name} {price:.4g}" for name, price in aim.costs.items()) + ")"


def _formatters(runs) -> dict:
    found = {name: _number for name in runs if runs[name].dtype.kind in "if" and name != "seed"}
    return {**found, "gain": "{:.1%}".format}


def _number(value) -> str:
    if value is None or math.isnan(value):
        return "unknown"
    if abs(value) < 1e-12:
        # A draw that stopped at a bound.
        return "0"
    return f"{value:,.0f}" if float(value).is_integer() and abs(value) < 1e9 else f"{value:,.4g}"


# While money is spent, a run may take as little of the interval as this; in the end it must take as much as that.
_LEAST_TRIED, _LEAST_KEPT = 0.002, 0.005
# Gains are weighed against these powers of the cost, and money left over is spent again this often.
_POWERS, _ROUNDS = (0.0, 0.5, 1.0), 2
# Up to this factor one set of runs tells as much as another.
_NEARLY = 1.1


@dataclass(frozen=True)
class Choice:
    """Runs, those that narrow the interval most first.

    Attributes:
        rows: Which candidates.
        cost: What each adds to the bill of those before it.
        width: The expected width of the interval after each, as a share of today's.
    """

    rows: list[int]
    cost: list[float]
    width: list[float]

    @property
    def final(self) -> float:
        """The width after all of them."""
        return self.width[-1] if self.width else 1.0


def choose(prospect: Prospect, bill: Bill, configuration: np.ndarray, budget: float) -> Choice:
    """Choose runs within a budget.

    The runs that a careful prospect asks for are taken where they tell nearly as much as those that the plain one
    asks for: their interval is more to be relied on. The widths are the plain prospect's.

    Args:
        prospect: What is expected before any choice; left as it is.
        bill: The bill before any choice; left as it is.
        configuration: (N,) which of the prospect's configurations each candidate is.
        budget: In the bill's unit.
    """
    best = _best(prospect, bill, configuration, budget)
    if not best.rows:
        return best
    careful = _best(prospect.carefully(), bill, configuration, budget)
    spread = _in_order(prospect, bill, configuration, careful.rows, 0.0)
    return spread if spread.final <= _NEARLY * best.final else best


def _best(prospect: Prospect, bill: Bill, configuration: np.ndarray, budget: float) -> Choice:
    """The narrowest interval that a budget buys.

    By gain alone dear runs leave no money for others, by gain per cost cheap ones use it up: both are tried, and gain
    per root of cost between them; the best is never far from the best there is (Leskovec et al. 2007). What others
    make superfluous is dropped, and the money spent again.
    """
    found = [Choice([], [], [])]
    for power in _POWERS:
        chosen = found[0]
        for _ in range(_ROUNDS):
            rows = _spend(prospect, bill, configuration, budget, power, chosen.rows)
            if len(rows) == len(chosen.rows):
                break
            chosen = _in_order(prospect, bill, configuration, rows, _LEAST_KEPT)
            found.append(chosen)
    return min(found, key=lambda choice: choice.final)


def _spend(prospect: Prospect, bill: Bill, configuration: np.ndarray, budget: float, power: float, first: list[int]):
    """The candidates that a budget buys: those bought first, then greedily by gain over a power of the cost."""
    prospect, bill = copy(prospect), copy(bill)
    rows, waiting = [], np.ones(len(configuration), dtype=bool)
    for row in first:
        budget -= bill.cost()[row]
        _take(row, prospect, bill, configuration)
        rows.append(row)
        waiting[row] = False
    while True:
        gain, cost = prospect.gains()[configuration], bill.cost()
        possible = waiting & (cost <= budget) & (gain >= _LEAST_TRIED)
        if not possible.any():
            return rows
        value = np.log(np.where(possible, gain, 1.0)) - power * np.log(np.maximum(cost, 1e-300))
        row = int(np.argmax(np.where(possible, value, -np.inf)))
        _take(row, prospect, bill, configuration)
        rows.append(row)
        waiting[row], budget = False, budget - cost[row]


def _take(row: int, prospect: Prospect, bill: Bill, configuration: np.ndarray) -> None:
    prospect.learn(configuration[row])
    bill.pay(row)


def _in_order(prospect: Prospect, bill: Bill, configuration: np.ndarray, rows: list[int], least: float) -> Choice:
    """The same runs by what each still adds, largest first, up to where it is less than `least`."""
    prospect, bill = copy(prospect), copy(bill)
    waiting, found = list(rows), Choice([], [], [])
    while waiting:
        gain = prospect.gains()[configuration[waiting]]
        if gain.max() < least:
            break
        row = waiting.pop(int(np.argmax(gain)))
        found.rows.append(row)
        found.cost.append(float(bill.cost()[row]))
        _take(row, prospect, bill, configuration)
        found.width.append(prospect.width)
    return found


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


@dataclass(frozen=True)
class Aim:
    """What the runs are to narrow.

    Attributes:
        quantity: In words: "loss at n_params 1e9, ...", "G", "boundary".
        value: The estimate; None where the arms' laws do not cross.
        low: Today's interval.
        high: See low.
        level: Of the interval.
        budget: What may be spent.
        costs: Prices by name; None where costs are the candidates' own, or stand for what nobody says.
        notes: Findings.
        grid: The study's grid, where one is known.
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


class SuggestedRuns(pd.DataFrame):
    """Runs in the order in which they are worth making.

    Columns: what a run is (its sizes; model, arm, downstream and seed where known; arm "both" is a pair), `cost` (what
    it adds to the bill of those above it), `gain` (the share of today's interval that it is expected to take away
    after those above it), `low` and `high` (the interval expected after it and those above it).
    """

    _metadata = ["aim"]  # noqa: RUF012 (pandas' own way to say what a copy keeps)

    @property
    def _constructor(self):
        return SuggestedRuns

    @property
    def after(self) -> tuple[float, float]:
        """The interval expected once all of them are made."""
        return (
            (self.aim.low, self.aim.high)
            if self.empty
            else (float(self["low"].iloc[-1]), float(self["high"].iloc[-1]))
        )

    def to_grid(self, path) -> None:
        """Write them as a grid that `hf-scaling run` takes, with the rules, sources and teachers of the study's.

        Run ids are those of the study's grid, so that what it has is not made again; checkpoints and teachers that
        these runs need are made with them.

        Raises:
            InputError: No grid is known, there is no run, or the runs do not say what the grid leaves open.
        """
        pass

        grid = self.aim.grid
        if grid is None:
            raise InputError("no grid to write these runs like: give grid= (--grid), the study's YAML")
        write_grid(_as_placed(self, grid), grid, path)

    def summary(self) -> str:
        """The runs in words."""
        pass

        return describe_runs(self)


def _as_placed(runs: SuggestedRuns, grid: Grid) -> list[dict]:
    """The runs as `write_grid` takes them: one for each arm, plain Python values."""
    if "model" not in runs and "n_params" in runs:
        stage = "finetune" if "n_finetune" in runs else "pretrain"
        models = {run.n_params: run.model for run in grid.plan() if run.spec.stage == stage}
        unknown = sorted(set(runs["n_params"]) - set(models))
        if unknown:
            raise InputError(
                f"the grid has no model of {unknown[0]:,.0f} parameters: give candidates with a column model"
            )
        runs = runs.assign(model=runs["n_params"].map(models))
    found = []
    for row in runs.to_dict("records"):
        run = {name: row[name] for name in ("model", "arm", "downstream") if name in row}
        run |= {name: int(row[name]) for name in ("n_pretrain", "n_finetune", "seed") if name in row}
        arms = ("plain", "distilled") if run.get("arm") == "both" else (run.get("arm"),)
        found += [{**run, "arm": arm} if arm else run for arm in arms]
    return found


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
    pass

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
