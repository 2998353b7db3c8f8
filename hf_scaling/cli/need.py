"""`hf-scaling need`: how much of a size a target takes, and what to collect now."""

import argparse
from typing import Any

from hf_scaling.cli._arguments import (
    INTERVALS,
    ROWS,
    add_pairs,
    add_results_arguments,
    has_one_variable,
    numbers,
    pairs,
    read_fit,
    to_json,
)
from hf_scaling.errors import InputError

HELP = "Find how many images, labels or parameters it takes to reach a target, and what to collect next."
EXAMPLE = "hf-scaling need studies/demo --target error=0.05 --solve-for n_finetune --arm plain"
_NAMES = (
    "value",
    "low",
    "high",
    "verdict",
    "collect",
    "extrapolation",
    "target",
    "target_value",
    "solve_for",
    "sizes",
    "level",
    "notes",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    rows = [*(name for name in ROWS if name not in ("target", "x")), "pool"]
    add_results_arguments(parser, rows, ("objective", "delta", "seed", *INTERVALS), or_law=True)
    law_help = "see `hf-scaling laws`; auto selects or combines (default: auto)"
    parser.add_argument("--law", metavar="NAME", help=law_help)
    aim = parser.add_argument_group("target")
    aim.add_argument("--target", required=True, metavar="NAME=VALUE", help="column and the value to reach: error=0.05")
    aim.add_argument("--solve-for", required=True, metavar="COLUMN", help="the size to find: n_finetune")
    add_pairs(aim, "--at", "another size of the law (default: the largest measured); repeat for several")


def run(arguments: argparse.Namespace) -> None:
    """Solve and print."""
    from hf_scaling.planning import need

    wanted = numbers([arguments.target], "--target")
    arguments.target, value = next(iter(wanted.items()))
    given = pairs(arguments.at, "--at")
    if arguments.solve_for in given:
        raise InputError(f"--at {arguments.solve_for}: this is the size to solve for; leave it out")
    arguments.x = arguments.solve_for if has_one_variable(arguments.law) else None
    fit, _ = read_fit(arguments, law="auto")
    curve = {name: text for name, text in given.items() if name in fit.pool}
    places: dict[str, Any] = numbers(
        [text for text in arguments.at if text.partition("=")[0].strip() not in curve], "--at"
    )
    places |= curve
    result = need(
        fit, arguments.target, value, arguments.solve_for, level=arguments.level, study=arguments.results, **places
    )
    print(to_json({name: getattr(result, name) for name in _NAMES}) if arguments.json else result.summary())
