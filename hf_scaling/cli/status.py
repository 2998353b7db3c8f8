"""`hf-scaling status`: how far a study is."""

import argparse

HELP = "Say how far a study is: finished, being made, failed, missing."
EXAMPLE = "hf-scaling status studies/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", metavar="STUDY", help="the study's folder")


def run(arguments: argparse.Namespace) -> None:
    """Print it."""
    from hf_scaling.runner import status

    print(status.describe_state(arguments.study))
