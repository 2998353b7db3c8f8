"""`hf-scaling pull`: a study from the Hub back to a folder."""

import argparse
import sys

HELP = "Bring a study back from the Hub: rows, grid, laws, and the checkpoints that further runs start from."
EXAMPLE = "hf-scaling pull org/demo --out studies/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", metavar="ORG/NAME", help="the study's data set on the Hub")
    parser.add_argument("--out", metavar="FOLDER", help="where to (default: studies/NAME); merged with what is there")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the data set")
    parser.add_argument(
        "--models",
        default="parents",
        metavar="WHICH",
        help="parents (default): what further runs start from or are taught by; all; none",
    )


def run(arguments: argparse.Namespace) -> None:
    """Pull, and say how to go on."""
    from huggingface_hub.utils import disable_progress_bars

    from hf_scaling.publishing import pull_study

    # A line a part says how far it is; bars of single files would bury it.
    disable_progress_bars()

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    folder = pull_study(arguments.study, arguments.out, arguments.revision, arguments.models, say)
    print(f"folder  {folder}")
    if (folder / "grid.yaml").is_file():
        print(f"next    hf-scaling run {folder}/grid.yaml --out {folder}")
