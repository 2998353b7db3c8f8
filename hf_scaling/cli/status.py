"""`hf-scaling status`: the progress of a study."""

import argparse

HELP = "Show the progress of a study: finished, running, failed and missing runs."
EXAMPLE = "hf-scaling status studies/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", metavar="STUDY", help="folder of the study")


def run(arguments: argparse.Namespace) -> None:
    """Print the progress."""
    from hf_scaling.runner import status

    print(status.describe_state(arguments.study))
