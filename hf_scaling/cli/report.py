"""`hf-scaling report`: a study as one page."""

import argparse

from hf_scaling.cli._arguments import (
    INTERVALS,
    ROWS,
    add_budget_arguments,
    add_results_arguments,
    keywords,
    numbers,
    read_table,
    to_json,
)

HELP = "Write a study as one HTML page: answers, figures, laws, and what the runs do not determine."
EXAMPLE = "hf-scaling report studies/demo --out report.html --budget 500 --cost label=0.5 --cost hour=2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_results_arguments(parser, (*ROWS[1:], "cluster"), ("objective", "delta", "seed", *INTERVALS))
    parser.add_argument("--target", metavar="COLUMN", help="column to report (default: loss and error)")
    add_budget_arguments(parser, required=False)
    parser.add_argument("--title", metavar="TEXT", help="title of the page (default: the names of the data sets)")
    out_help = "path of the page; figures and card are written beside it"
    parser.add_argument("--out", default="report.html", metavar="FILE.html", help=out_help)


def run(arguments: argparse.Namespace) -> None:
    """Write the page and print its answers."""
    from hf_scaling.report import collect_findings
    from hf_scaling.report.page import check_path, content_of, write_findings

    path = check_path(arguments.out)
    findings = collect_findings(
        read_table(arguments),
        **keywords(arguments),
        budget=arguments.budget,
        costs=numbers(arguments.cost, "--cost"),
        title=arguments.title,
        study=arguments.results,
    )
    paths = [str(file) for file in write_findings(findings, path)]
    if arguments.json:
        print(to_json(content_of(findings) | {"files": paths}))
    else:
        print(f"{findings.summary()}\n\nreport  {', '.join(paths)}")
