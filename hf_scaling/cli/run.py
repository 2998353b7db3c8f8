"""`hf-scaling run`: a study, from a grid to its results table."""

import argparse
import logging
import sys
from pathlib import Path

import yaml

from hf_scaling.cli._arguments import add_json_argument, add_pairs, pairs, to_json
from hf_scaling.errors import InputError
from hf_scaling.text import one_line

HELP = "Train the runs of a grid that are missing in its study; interrupt and resume at any time."
EXAMPLE = "hf-scaling run demo --workers 2"
logger = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "grid", metavar="GRID.yaml", help="grid file, or the name of a grid that ships with the package: demo"
    )
    parser.add_argument("--out", metavar="FOLDER", help="folder of the study (default: studies/NAME)")
    workers_help = "runs trained at once (default: one per GPU, else one per core)"
    parser.add_argument("--workers", type=int, metavar="N", help=workers_help)
    parser.add_argument("--engine", default="local", metavar="NAME", help="local (default) or ray")
    parser.add_argument("--dry-run", action="store_true", help="show what would be trained and what it would cost")
    gpu_help = "with --dry-run: GPU hours on this kind of GPU (h100, a100, l4, ...), from the FLOPs of the runs"
    parser.add_argument("--gpu", metavar="KIND", help=gpu_help)
    share_help = "with --gpu: share of the GPU's peak that training reaches (default: 0.35)"
    parser.add_argument("--utilisation", type=float, default=0.35, metavar="SHARE", help=share_help)
    set_help = "replace a key of the grid: seeds=[0,1] or pretrain.learning_rate=1e-3; repeat for several"
    add_pairs(parser, "--set", set_help, "KEY=VALUE")
    only_help = "train only the runs with these values, and those they need: model=vit-200k or seed=[0,1]; repeat"
    add_pairs(parser, "--only", only_help)
    parser.add_argument("--retry-failed", action="store_true", help="train failed runs again")
    add_json_argument(
        parser,
        "study, n_rows, failures, findings, report, next; with --dry-run: runs, seconds, disk_bytes, gpu_hours, ...",
    )


def run(arguments: argparse.Namespace) -> int:
    """Train the missing runs and summarise the study; 1 where some runs failed."""
    from hf_scaling.grid import Grid
    from hf_scaling.runner import dry_run, loop, machine, status
    from hf_scaling.runner.study_folder import Study

    workers = machine.default_workers() if arguments.workers is None else arguments.workers
    only = {}
    for name, value in pairs(arguments.only, "--only").items():
        try:
            only[name] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise InputError(f"--only {name}: the value is not YAML: {one_line(error)}") from None
    if workers < 1:
        raise InputError(f"--workers {workers}: give at least 1")
    grid = Grid.load(arguments.grid, arguments.set)
    out = arguments.out or loop.default_folder(grid)
    if arguments.gpu is not None and not arguments.dry_run:
        raise InputError("--gpu: states GPU hours with --dry-run; add it, or leave --gpu out")
    if arguments.dry_run:
        gpu = None if arguments.gpu is None else machine.GpuRate(arguments.gpu.lower(), arguments.utilisation)
        content = dry_run.estimate(grid, out, workers, only, gpu)
        print(to_json(content) if arguments.json else dry_run.describe(content))
        return 0
    failure = None
    try:
        loop.run_grid(grid, out, workers, arguments.engine, arguments.retry_failed, only=only)
    except loop.RunsFailedError as error:
        failure = error
    study, following = Study(out), status.next_command(out)
    if not arguments.json:
        print(status.summarise(out))
        print(f"next    {following}", flush=True)
    found, page = _write_report(Path(out))
    if arguments.json:
        finished = study.table().run_ids()
        failed = [r for run_id, r in study.failures().items() if "error" in r and run_id not in finished]
        failures = [{"run_id": record["run_id"], "error": record["error"]} for record in failed]
        content = {"study": str(out), "n_rows": len(study.table()), "failures": failures, "findings": found}
        print(to_json({**content, "report": page, "next": following}))
    else:
        for line in found:
            print(f"found   {line}")
        if page:
            print(f"report  {page}", flush=True)
    if failure is None:
        return 0
    print(f"error: {failure}", file=sys.stderr)
    return 1


def _write_report(study: Path) -> tuple[list[str], str | None]:
    """Write the report of a study whose results are newer than it; a report that fails is a warning only.

    Returns:
        Its answers, empty where it was not written now; and its path, None where there is none.
    """
    page, files = study / "report.html", list((study / "results").glob("*.parquet"))
    if not files or (page.exists() and page.stat().st_mtime >= max(file.stat().st_mtime for file in files)):
        return [], str(page) if page.exists() else None
    logger.info("fitting the laws and writing the report")
    try:
        from hf_scaling.report import write_report
        from hf_scaling.report.headlines import headlines

        return [line.text for line in headlines(write_report(study, page))], str(page)
    except Exception as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        logger.warning("no report: %s (hf-scaling report %s --debug shows where)", reason, study)
        return [], None
