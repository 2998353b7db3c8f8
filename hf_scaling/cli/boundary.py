"""`hf-scaling boundary`: where distillation stops paying."""

import argparse

from hf_scaling.cli._fitting import read_table, to_json

HELP = "Find the n_pretrain at which the plain arm overtakes the distilled one."
EXAMPLE = "hf-scaling boundary studies/demo --target loss"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("results", metavar="RESULTS", help=".parquet or .csv file, folder, study, or Hub id")
    parser.add_argument("--target", default="loss", metavar="COLUMN", help="loss (default), error, or another column")
    parser.add_argument("--teacher", metavar="VALUE", help="keep the distilled rows of this teacher")
    parser.add_argument("--downstream", metavar="VALUE", help="compare the fine-tuned rows of this downstream set")
    parser.add_argument("--x", default="n_pretrain", metavar="VIEW", help="n_pretrain (default) or train_flops")
    parser.add_argument("--n_params", type=float, metavar="N", help="say it for this model size")
    parser.add_argument("--n_finetune", type=float, metavar="N", help="say it for this many labelled images")
    parser.add_argument("--bootstrap", type=int, default=1000, metavar="B", help="how many draws (default: 1000)")
    parser.add_argument("--level", type=float, default=0.95, metavar="P", help="of the intervals (default: 0.95)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draws (default: 0)")
    parser.add_argument(
        "--map", action="append", default=[], metavar="OURS=THEIRS", help="a foreign column's name: n_pretrain=images"
    )
    parser.add_argument("--json", action="store_true", help="print JSON, with the names of the Python API")


def run(arguments: argparse.Namespace) -> None:
    """Find the boundary and print it."""
    from hf_scaling.boundary import find_boundary

    names = ("target", "teacher", "downstream", "x", "bootstrap", "level", "seed")
    found = find_boundary(read_table(arguments), **{name: getattr(arguments, name) for name in names})
    if arguments.n_params is not None or arguments.n_finetune is not None:
        found = found.at(n_params=arguments.n_params, n_finetune=arguments.n_finetune)
    print(to_json(_content(found)) if arguments.json else found.summary())


def _content(found) -> dict:
    names = ("status", "n_pretrain", "low", "high", "crossings", "law_free", "sizes", "notes", "x", "level")
    content = {name: getattr(found, name) for name in names}
    content["difference"] = found.difference.to_dict("records")
    if found.teacher_not_counted is not None:
        content["teacher_not_counted"] = _content(found.teacher_not_counted)
    return content
