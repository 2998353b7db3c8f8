"""`hf-scaling influence`: which upstream classes help or hurt a downstream set?"""

import argparse

from hf_scaling.cli._arguments import add_json_argument, to_json

HELP = "Estimate which upstream classes help or hurt a downstream set, from models of random subsets of the classes."
EXAMPLE = "hf-scaling influence studies/halves --downstream digits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", metavar="STUDY", help="study whose fine-tuned rows list their upstream classes")
    parser.add_argument("--downstream", metavar="SET", help="the downstream set (default: the only one)")
    parser.add_argument(
        "--target", default="error", choices=("error", "loss"), help="what a class helps or hurts (default: error)"
    )
    parser.add_argument("--level", type=float, default=0.95, help="confidence level of the intervals (default: 0.95)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="random seed of the permutations (default: 0)"
    )
    add_json_argument(parser, "downstream, n_models, level, table (a row a class) and of_classes")


def run(arguments: argparse.Namespace) -> int:
    """Estimate and print."""
    from hf_scaling.scores.influence import class_influence

    found = class_influence(arguments.study, arguments.downstream, arguments.target, arguments.level, arguments.seed)
    if arguments.json:
        tables = {name: getattr(found, name).to_dict("records") for name in ("table", "of_classes")}
        print(to_json({"downstream": found.downstream, "n_models": found.n_models, "level": found.level, **tables}))
    else:
        print(found.summary(), flush=True)
    return 0
