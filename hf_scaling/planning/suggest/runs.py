"""`SuggestedRuns`: runs worth making next, what they cost and bring, and how to have them made."""

from dataclasses import dataclass

import pandas as pd

from hf_scaling.errors import InputError
from hf_scaling.grid import Grid


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
        from hf_scaling.planning.suggest.writing import write_grid

        grid = self.aim.grid
        if grid is None:
            raise InputError("no grid to write these runs like: give grid= (--grid), the study's YAML")
        write_grid(_as_placed(self, grid), grid, path)

    def summary(self) -> str:
        """The runs in words."""
        from hf_scaling.planning.suggest.words import describe_runs

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
