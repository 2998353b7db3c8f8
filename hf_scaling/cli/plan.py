"""`hf-scaling plan`: what a budget buys best."""

import argparse

from hf_scaling.cli._fitting import key_values, numbers, to_json
from hf_scaling.cli._planning import add_budget_arguments, prices, read_fits
from hf_scaling.errors import InputError

HELP = "Find the model size, n_pretrain, n_finetune and arm that a budget buys best."
EXAMPLE = "hf-scaling plan studies/demo --budget 500 --cost label=0.5 --cost hour=2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_budget_arguments(parser)
    sizes = parser.add_argument_group("what may be bought")
    sizes.add_argument(
        "--n_params", metavar="N,N", help="model sizes to choose among, or any (default: those measured)"
    )
    sizes.add_argument(
        "--at_most",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the most n_pretrain or n_finetune to be had",
    )
    sizes.add_argument(
        "--epochs", type=float, metavar="N", help="passes over the upstream images (default: as measured)"
    )
    sizes.add_argument(
        "--reuse", type=float, default=1, metavar="N", help="downstream sets that share one pre-training"
    )
    sizes.add_argument("--teacher_free", action="store_true", help="do not count the teacher of the distilled arm")
    pace = parser.add_argument_group("compute, where the table does not say")
    pace.add_argument("--flops_per_param", type=float, metavar="F", help="training FLOPs a parameter and sample")
    pace.add_argument("--flops_per_second", type=float, metavar="F", help="what an hour is turned into FLOPs by")
    pace.add_argument("--runs", metavar="RESULTS", help="a table with train_flops, samples_seen and seconds")


def run(arguments: argparse.Namespace) -> None:
    """Plan and print."""
    from hf_scaling.planning import plan

    fits, _ = read_fits(arguments)
    found = plan(
        fits,
        arguments.budget,
        prices(arguments),
        n_params=_model_sizes(arguments.n_params),
        epochs=arguments.epochs,
        level=arguments.level,
        reuse=arguments.reuse,
        teacher_free=arguments.teacher_free,
        at_most=numbers(key_values(arguments.at_most, "--at_most"), "--at_most"),
        flops_per_param=arguments.flops_per_param,
        flops_per_second=arguments.flops_per_second,
        table=arguments.runs,
    )
    print(to_json(_content(found)) if arguments.json else found.summary())


def _model_sizes(given: str | None):
    if given is None or given.strip() == "any":
        return given and given.strip()
    try:
        return [float(each) for each in given.split(",") if each.strip()]
    except ValueError:
        raise InputError(f"--n_params {given}: give numbers with commas between them, or any") from None


def _content(found) -> dict:
    names = ("allocation", "predicted", "intervals", "regret", "verdict", "cost", "gap", "notes")
    content = {name: getattr(found, name) for name in (*names, "budget", "costs", "target", "level")}
    return content | {name: getattr(found, name).to_dict("records") for name in ("frontier", "marginal", "arms")}
