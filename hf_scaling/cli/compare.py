"""`hf-scaling compare`: laws ranked by how well they predict the largest scales from the smaller ones."""

import argparse

from hf_scaling.cli._fitting import add_table_arguments, fit_arguments, read_table, to_json

HELP = "Rank scaling laws by their error on the held-out largest scales."
EXAMPLE = "hf-scaling compare results.csv --target error --laws transfer_gap,transfer_gap_shifted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_table_arguments(parser)
    parser.add_argument("--laws", metavar="NAME,NAME", help="by default every law whose variables the table varies")


def run(arguments: argparse.Namespace) -> None:
    """Compare and print."""
    from hf_scaling.fitting import compare_laws

    laws = None if arguments.laws is None else [name.strip() for name in arguments.laws.split(",") if name.strip()]
    ranking = compare_laws(read_table(arguments), laws=laws, **fit_arguments(arguments))
    print(to_json(_content(ranking)) if arguments.json else ranking.summary())


def _content(ranking) -> dict:
    table = ranking.table.to_dict("records")
    return {"table": table, "best": ranking.best, "p_better": ranking.p_better, "notes": ranking.notes}
