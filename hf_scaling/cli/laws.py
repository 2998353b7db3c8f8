"""`hf-scaling laws`: the catalogue of scaling laws."""

import argparse
import shutil

HELP = "List the scaling laws: name, formula, variables, paper."
EXAMPLE = "hf-scaling laws transfer_gap"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="laws to list (default: all)")


def run(arguments: argparse.Namespace) -> None:
    """Print the laws."""
    from hf_scaling.laws import list_laws

    print(list_laws(arguments.names, width=shutil.get_terminal_size((100, 24)).columns), end="")
