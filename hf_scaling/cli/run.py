"""`hf-scaling run`: a whole study, from a grid to its table of results."""

import argparse
import sys
from pathlib import Path

HELP = "Make every run of a grid that its study lacks; stop and go on as you like."
EXAMPLE = "hf-scaling run recipes/grids/demo.yaml --workers 2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("grid", metavar="GRID.yaml", help="what to run")
    parser.add_argument("--out", metavar="FOLDER", help="the study's folder (default: studies/NAME)")
    parser.add_argument("--workers", type=int, metavar="N", help="runs at once (default: one a GPU, else one a core)")
    parser.add_argument("--engine", default="local", metavar="NAME", help="local (default) or ray")
    parser.add_argument("--dry-run", action="store_true", help="say what would be run, and what it would cost")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="replace a key of the grid, such as seeds=[0,1] or pretrain.learning_rate=1e-3; may be repeated",
    )
    parser.add_argument("--retry-failed", action="store_true", help="try again what failed before")


def run(arguments: argparse.Namespace) -> int:
    """Run and summarise; 1 where some runs failed."""
    from hf_scaling.errors import InputError
    from hf_scaling.grid import Grid
    from hf_scaling.runner import dry_run, loop, machine, status

    workers = machine.default_workers() if arguments.workers is None else arguments.workers
    if workers < 1:
        raise InputError(f"--workers {workers}: give at least 1")
    grid = Grid.load(arguments.grid, arguments.set)
    out = arguments.out or loop.default_folder(grid)
    if arguments.dry_run:
        print(dry_run.describe(grid, out, workers))
        return 0
    failure = None
    try:
        loop.run_grid(grid, out, workers, arguments.engine, arguments.retry_failed)
    except loop.RunsFailedError as error:
        failure = error
    print(status.summarise(out))
    print(f"next    {status.next_command(out)}", flush=True)
    _report(Path(out))
    if failure is not None:
        print(f"error: {failure}", file=sys.stderr)
    return 0 if failure is None else 1


def _report(study: Path) -> None:
    """Write the study's report where its results are newer; what goes wrong is said and changes nothing else."""
    page, rows = study / "report.html", list((study / "results").glob("*.parquet"))
    if not rows or (page.exists() and page.stat().st_mtime >= max(row.stat().st_mtime for row in rows)):
        return
    try:
        from hf_scaling.report import write_report
        from hf_scaling.report.answers import headlines

        for line in headlines(write_report(study, page)):
            print(f"found   {line}")
        print(f"report  {page}", flush=True)
    except Exception as error:
        line = " ".join(str(error).split())
        print(
            f"no report: {type(error).__name__}: {line} (hf-scaling report {study} --debug shows where)",
            file=sys.stderr,
        )
