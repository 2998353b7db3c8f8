"""`hf-scaling plan`: how to spend a budget."""

import argparse
from typing import Any

from hf_scaling.cli._arguments import add_pairs, add_planning_arguments, numbers, read_fits, to_json
from hf_scaling.errors import InputError

HELP = "Find the model size, n_pretrain, n_finetune and arm with the best prediction for a budget."
EXAMPLE = "hf-scaling plan studies/demo --budget 500 --cost label=0.5 --cost hour=2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_planning_arguments(parser)
    sizes = parser.add_argument_group("limits")
    sizes.add_argument(
        "--n-params", metavar="N,N", help="model sizes to choose from, or any (default: those measured)"
    )
    add_pairs(sizes, "--at-most", "largest n_pretrain or n_finetune that you can get: n_finetune=5000; repeat")
    sizes.add_argument(
        "--epochs", type=float, metavar="N", help="passes over the upstream images (default: as measured)"
    )
    sizes.add_argument(
        "--reuse",
        type=float,
        default=1,
        metavar="N",
        help="number of downstream sets that share one pre-trained model",
    )
    sizes.add_argument("--teacher-free", action="store_true", help="do not charge the distilled arm for its teacher")


def run(arguments: argparse.Namespace) -> None:
    """Plan and print."""
    from hf_scaling.planning import plan

    n_params: list[float] | str | None = arguments.n_params and arguments.n_params.strip()
    if n_params is not None and n_params != "any":
        try:
            n_params = [float(text) for text in n_params.split(",") if text.strip()]
        except ValueError:
            raise InputError(f"--n-params {n_params}: give numbers with commas between them, or any") from None
    fits, _ = read_fits(arguments)
    result = plan(
        fits,
        arguments.budget,
        numbers(arguments.cost, "--cost"),
        n_params=n_params,
        epochs=arguments.epochs,
        level=arguments.level,
        reuse=arguments.reuse,
        teacher_free=arguments.teacher_free,
        at_most=numbers(arguments.at_most, "--at-most"),
        flops_per_param=arguments.flops_per_param,
        flops_per_second=arguments.flops_per_second,
        table=arguments.runs,
        study=arguments.runs or arguments.results,
    )
    if not arguments.json:
        print(result.summary())
        return
    names = ("allocation", "predicted", "intervals", "regret", "verdict", "cost", "gap", "notes")
    content: dict[str, Any] = {name: getattr(result, name) for name in (*names, "budget", "costs", "target", "level")}
    for name in ("frontier", "marginal", "arms"):
        content[name] = getattr(result, name).to_dict("records")
    print(to_json(content))
