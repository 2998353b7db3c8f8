"""`hf-scaling pull`: a study from the Hub to a folder."""

import argparse

from hf_scaling.cli._arguments import add_json_argument, to_json

HELP = "Download a study from the Hub: rows, grid, laws, and the checkpoints that further runs start from."
EXAMPLE = "hf-scaling pull org/demo --out studies/demo"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("study", metavar="ORG/NAME", help="data set of the study on the Hub")
    parser.add_argument("--out", metavar="FOLDER", help="folder to merge it into (default: studies/NAME)")
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit of the data set")
    models_help = "parents (default): checkpoints that further runs start from or are distilled from; all; none"
    parser.add_argument("--models", default="parents", metavar="WHICH", help=models_help)
    add_json_argument(parser, "folder, n_rows, n_models, laws, next (null where the study has no grid)")


def run(arguments: argparse.Namespace) -> None:
    """Download the study and print the command that resumes it."""
    from huggingface_hub.utils import disable_progress_bars

    from hf_scaling.publishing import pull_study

    # One log line per part shows the progress; bars of single files would hide it.
    disable_progress_bars()
    folder = pull_study(arguments.study, arguments.out, arguments.revision, arguments.models)
    following = f"hf-scaling run {folder}/grid.yaml --out {folder}" if (folder / "grid.yaml").is_file() else None
    if arguments.json:
        from hf_scaling.results import ResultsTable

        names = {part: sorted(path.name for path in folder.glob(f"{part}/[!.]*")) for part in ("runs", "laws")}
        counts = {"n_rows": len(ResultsTable.load(folder)), "n_models": len(names["runs"]), "laws": names["laws"]}
        print(to_json({"folder": str(folder), **counts, "next": following}))
        return
    print(f"folder  {folder}")
    if following:
        print(f"next    {following}")
