"""`hf-scaling suggest`: the runs to train next."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling.cli._arguments import (
    add_pairs,
    add_planning_arguments,
    numbers,
    read_fit,
    read_frame,
    read_table,
    sets_of_sizes,
    to_json,
)
from hf_scaling.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.planning.next_runs.suggest import SuggestedRuns

HELP = "Select the runs to train next: those that narrow an interval most for a budget."
EXAMPLE = "hf-scaling suggest studies/demo --budget 1e15 --quantity boundary --out next.yaml"
# Flags that change nothing for a boundary, and their defaults.
_NOT_FOR_BOUNDARY = dict.fromkeys(("law", "arm", "upstream", "stage", "x", "weights", "runs", "delta")) | {
    "objective": "log_huber"
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_planning_arguments(parser)
    aim = parser.add_argument_group("what to narrow")
    quantity_help = "prediction (default), boundary, or a parameter of the law: G, alpha, E"
    aim.add_argument("--quantity", default="prediction", metavar="NAME", help=quantity_help)
    at_help = "a size of the prediction (default: ten times the largest measured), or of the boundary; "
    at_help += "repeat a name for another place of the prediction, which keeps the other sizes"
    add_pairs(aim, "--at", at_help)
    aim.add_argument("--frame", metavar="FILE", help="CSV or Parquet file with the places of the prediction, instead")
    runs = parser.add_argument_group("runs")
    runs.add_argument("--candidates", metavar="GRID.yaml", help="choose among the runs of this grid")
    runs.add_argument(
        "--among", metavar="RESULTS", help="choose among the finished runs of this table, to replay a study"
    )
    add_pairs(runs, "--at-most", "largest size among the candidates")
    runs.add_argument("--grid", metavar="GRID.yaml", help="write runs like those of this grid (default: the study's)")
    runs.add_argument("--out", metavar="NEXT.yaml", help="write a grid for `hf-scaling run`")


def run(arguments: argparse.Namespace) -> None:
    """Select the runs, print them, write them as a grid."""
    from hf_scaling.planning import suggest_runs

    if arguments.quantity == "boundary":
        from hf_scaling.boundary import find_boundary

        for name, default in _NOT_FOR_BOUNDARY.items():
            if getattr(arguments, name) != default:
                raise InputError(f"--{name} changes nothing for the boundary: leave it out")
        options = ("target", "downstream", "direction", "bounds", "bootstrap", "level", "seed")
        table = read_table(arguments)
        fit = find_boundary(table, **{name: getattr(arguments, name) for name in options})
    else:
        fit, table = read_fit(arguments)
        if table is not None and arguments.runs:
            raise InputError("--runs is for a law: RESULTS is a table already")
        table = arguments.runs if table is None else table
    among = None
    if arguments.among is not None:
        if arguments.out:
            raise InputError("--out writes a grid of runs to train, and those of --among are finished: leave it out")
        among = read_table(argparse.Namespace(**{**vars(arguments), "results": arguments.among}))
    study_grid = Path(arguments.results) / "grid.yaml"
    grid = study_grid if study_grid.is_file() else None
    suggestion = suggest_runs(
        fit,
        arguments.candidates,
        budget=arguments.budget,
        quantity=arguments.quantity,
        at=_places(arguments),
        costs=numbers(arguments.cost, "--cost") or None,
        table=table,
        grid=arguments.grid or (None if arguments.candidates else grid),
        at_most=numbers(arguments.at_most, "--at-most") or None,
        flops_per_param=arguments.flops_per_param,
        flops_per_second=arguments.flops_per_second,
        among=among,
        study=arguments.runs or arguments.results,
    )
    print(to_json(_content(suggestion)) if arguments.json else suggestion.summary())
    if arguments.out:
        suggestion.to_grid(arguments.out)
        study = arguments.results if grid else "STUDY"
        print(f"written to {arguments.out}; to train: hf-scaling run {arguments.out} --out {study}", file=sys.stderr)


def _places(arguments: argparse.Namespace) -> "dict[str, Any] | pd.DataFrame | None":
    """The places of --at and --frame; None where there are none."""
    if arguments.frame and (arguments.at or arguments.quantity != "prediction"):
        raise InputError("--frame has the places of a prediction: use it without --at and --quantity")
    if arguments.frame:
        return read_frame(arguments.frame)
    if arguments.quantity != "prediction":
        return numbers(arguments.at, "--at") or None
    sets = sets_of_sizes(arguments.at)
    names = dict.fromkeys(name for sizes in sets for name in sizes)
    return {name: [sizes.get(name, float("nan")) for sizes in sets] for name in names} or None


def _content(suggestion: "SuggestedRuns") -> dict[str, Any]:
    aim, (low, high) = suggestion.aim, suggestion.after
    return {
        "quantity": aim.quantity,
        "verdict": aim.verdict,
        "before": {"value": aim.value, "low": aim.low, "high": aim.high},
        "after": {"low": low, "high": high},
        "level": aim.level,
        "runs": suggestion.to_dict("records"),
        "cost": float(suggestion["cost"].sum()),
        "budget": aim.budget,
        "costs": aim.costs,
        "notes": aim.notes,
    }
