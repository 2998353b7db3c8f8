"""`hf-scaling status`: the progress of a study."""

import argparse

from hf_scaling.cli._arguments import add_json_argument, to_json

HELP = "Show the progress of a study: finished, running, failed and missing runs."
EXAMPLE = "hf-scaling status studies/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", metavar="STUDY", help="folder of the study")
    add_json_argument(
        parser, "study, runs, finished, running, failed, missing, groups, now, seconds_left, failures, uncertain"
    )


def run(arguments: argparse.Namespace) -> None:
    """Print the progress."""
    from hf_scaling.runner import status

    state = status.study_state(arguments.study)
    print(to_json(state) if arguments.json else status.describe_state(state))
