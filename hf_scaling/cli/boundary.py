"""`hf-scaling boundary`: the n_pretrain beyond which distillation no longer pays."""

import argparse
from typing import TYPE_CHECKING, Any

from hf_scaling.cli._arguments import INTERVALS, add_results_arguments, keywords, read_table, to_json

if TYPE_CHECKING:
    from hf_scaling.boundary import Boundary

HELP = "Find up to how many images distillation pays: the n_pretrain at which the plain arm overtakes."
EXAMPLE = "hf-scaling boundary studies/demo --target loss"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_results_arguments(parser, ("target", "teacher", "downstream", "direction", "bounds"), (*INTERVALS, "seed"))
    where = parser.add_argument_group("where")
    where.add_argument(
        "--x",
        default="n_pretrain",
        metavar="COLUMN",
        help="compare the arms at equal n_pretrain (default) or train_flops",
    )
    where.add_argument(
        "--n-params", type=float, metavar="N", help="model size to give the boundary at (default: the geometric mean)"
    )
    where.add_argument(
        "--n-finetune", type=float, metavar="N", help="number of labelled images to give it at (default: the smallest)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Find the boundary and print it."""
    from hf_scaling.boundary import find_boundary

    boundary = find_boundary(read_table(arguments), **keywords(arguments))
    if arguments.n_params is not None or arguments.n_finetune is not None:
        boundary = boundary.at(n_params=arguments.n_params, n_finetune=arguments.n_finetune)
    print(to_json(_content(boundary)) if arguments.json else boundary.summary())


def _content(boundary: "Boundary") -> dict[str, Any]:
    names = ("status", "n_pretrain", "low", "high", "crossings", "law_free", "sizes", "notes", "x", "level")
    content = {name: getattr(boundary, name) for name in names}
    content["difference"] = boundary.difference.to_dict("records")
    if boundary.teacher_not_counted is not None:
        content["teacher_not_counted"] = _content(boundary.teacher_not_counted)
    return content
