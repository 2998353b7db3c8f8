"""`hf-scaling suggest`: which runs to make next."""

import argparse
import sys
from pathlib import Path

from hf_scaling.cli._fitting import key_values, numbers, read_table, to_json
from hf_scaling.cli._planning import add_budget_arguments, prices, read_fits
from hf_scaling.errors import InputError

HELP = "Choose the runs that narrow an interval most for a budget; RESULTS may be a kept law."
EXAMPLE = "hf-scaling suggest studies/demo --budget 1e15 --quantity boundary --out next.yaml"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_budget_arguments(parser)
    aim = parser.add_argument_group("what to narrow")
    aim.add_argument(
        "--quantity",
        default="prediction",
        metavar="NAME",
        help="prediction (default), boundary, or a parameter of the law: G, alpha, E",
    )
    aim.add_argument(
        "--at",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a size of the prediction (default: ten times the largest measured), or of the boundary",
    )
    runs = parser.add_argument_group("runs")
    runs.add_argument("--candidates", metavar="GRID.yaml", help="choose among this grid's runs")
    runs.add_argument(
        "--at_most", action="append", default=[], metavar="NAME=VALUE", help="the largest size among the candidates"
    )
    runs.add_argument("--grid", metavar="GRID.yaml", help="write runs like this grid's (default: the study's)")
    runs.add_argument("--out", metavar="NEXT.yaml", help="write them there, for `hf-scaling run`")
    pace = parser.add_argument_group("compute, where the table does not say")
    pace.add_argument("--flops_per_param", type=float, metavar="F", help="training FLOPs a parameter and sample")
    pace.add_argument("--flops_per_second", type=float, metavar="F", help="what an hour is turned into FLOPs by")
    pace.add_argument("--runs", metavar="RESULTS", help="for a kept law: the table of its runs")


def run(arguments: argparse.Namespace) -> None:
    """Choose, print, write."""
    from hf_scaling.planning import suggest_runs

    fit, table = _boundary(arguments) if arguments.quantity == "boundary" else _fit(arguments)
    found = suggest_runs(
        fit,
        arguments.candidates,
        budget=arguments.budget,
        quantity=arguments.quantity,
        at=numbers(key_values(arguments.at, "--at"), "--at") or None,
        costs=prices(arguments) or None,
        table=table,
        grid=arguments.grid or (None if arguments.candidates else _grid_of(arguments.results)),
        at_most=numbers(key_values(arguments.at_most, "--at_most"), "--at_most") or None,
        flops_per_param=arguments.flops_per_param,
        flops_per_second=arguments.flops_per_second,
    )
    print(to_json(_content(found)) if arguments.json else found.summary())
    if arguments.out:
        found.to_grid(arguments.out)
        study = arguments.results if _grid_of(arguments.results) else "STUDY"
        print(f"written to {arguments.out}: hf-scaling run {arguments.out} --out {study} makes them", file=sys.stderr)


def _fit(arguments: argparse.Namespace):
    fits, table = read_fits(arguments)
    if isinstance(fits, dict):
        raise InputError(f"the rows hold more than one arm: {', '.join(fits)}; choose one with --arm")
    if table is not None and arguments.runs:
        raise InputError("--runs names the table of a kept law: RESULTS is a table already")
    return fits, arguments.runs if table is None else table


def _boundary(arguments: argparse.Namespace):
    from hf_scaling.boundary import find_boundary

    for name in ("law", "arm", "upstream", "stage", "x", "weights", "runs", "delta", "objective"):
        if getattr(arguments, name) not in (None, "log_huber"):
            raise InputError(f"--{name} changes nothing for the boundary: leave it out")
    table = read_table(arguments)
    names = ("target", "downstream", "bootstrap", "level", "seed")
    return find_boundary(table, **{name: getattr(arguments, name) for name in names}), table


def _grid_of(results: str) -> Path | None:
    """The grid of a study folder."""
    path = Path(results) / "grid.yaml"
    return path if path.is_file() else None


def _content(found) -> dict:
    aim, (low, high) = found.aim, found.after
    return {
        "quantity": aim.quantity,
        "before": {"value": aim.value, "low": aim.low, "high": aim.high},
        "after": {"low": low, "high": high},
        "level": aim.level,
        "runs": found.to_dict("records"),
        "cost": float(found["cost"].sum()),
        "budget": aim.budget,
        "costs": aim.costs,
        "notes": aim.notes,
    }
