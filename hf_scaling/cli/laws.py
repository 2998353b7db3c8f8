"""`hf-scaling laws`: the catalogue of scaling laws."""

import argparse
import shutil

from hf_scaling.cli._arguments import add_json_argument, to_json

HELP = "List the scaling laws: name, formula, variables, paper."
EXAMPLE = "hf-scaling laws transfer_gap"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="laws to list (default: all)")
    add_json_argument(parser, "laws, a list of name, summary, formula, latex, variables, parameters, paper")


def run(arguments: argparse.Namespace) -> None:
    """Print the laws."""
    from hf_scaling.laws import LAWS, list_laws

    if not arguments.json:
        print(list_laws(arguments.names, width=shutil.get_terminal_size((100, 24)).columns), end="")
        return
    names = ("name", "summary", "formula", "latex", "variables", "paper")
    laws = [
        {name: getattr(law, name) for name in names} | {"parameters": [parameter.name for parameter in law.parameters]}
        for law in map(LAWS.__getitem__, arguments.names or LAWS)
    ]
    print(to_json({"laws": laws}))
