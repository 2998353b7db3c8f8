"""`hf-scaling compare`: laws ranked by how well they predict the largest scales from the smaller ones."""

import argparse

from hf_scaling.cli._arguments import add_results_arguments, keywords, read_table, to_json

HELP = "Rank scaling laws by their error on the held-out largest scales."
EXAMPLE = "hf-scaling compare results.csv --target error --laws transfer_gap,transfer_gap_shifted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_results_arguments(parser)
    parser.add_argument(
        "--laws", metavar="NAME,NAME", help="laws to compare (default: every law whose variables vary)"
    )


def run(arguments: argparse.Namespace) -> None:
    """Compare the laws and print the ranking."""
    from hf_scaling.fitting import compare_laws

    laws = None if arguments.laws is None else [name.strip() for name in arguments.laws.split(",") if name.strip()]
    ranking = compare_laws(read_table(arguments), laws=laws, **keywords(arguments))
    if not arguments.json:
        print(ranking.summary())
        return
    content = {name: getattr(ranking, name) for name in ("best", "p_better", "notes")}
    print(to_json({"table": ranking.table.to_dict("records"), **content}))
