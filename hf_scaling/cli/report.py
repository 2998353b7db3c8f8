"""`hf-scaling report`: a study in one page."""

import argparse

from hf_scaling.cli._fitting import add_table_arguments, fit_arguments, key_values, numbers, read_table, to_json

HELP = "Write a study as one HTML page: answers, figures, laws, and what the runs cannot say."
EXAMPLE = "hf-scaling report studies/demo --out report.html --budget 500 --cost label=0.5 --cost hour=2"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_table_arguments(parser, target=None)
    intervals = parser.add_argument_group("intervals")
    intervals.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="draws behind the intervals (default: 1000)"
    )
    intervals.add_argument("--level", type=float, default=0.95, metavar="P", help="of the intervals (default: 0.95)")
    money = parser.add_argument_group("plan")
    money.add_argument("--budget", type=float, metavar="B", help="plan for it; in the unit of the costs")
    money.add_argument(
        "--cost",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the price of a label, pretrain_image, flop or hour; repeat for several; others are free",
    )
    parser.add_argument("--title", metavar="TEXT", help="of the page (default: from the data sets' names)")
    parser.add_argument(
        "--out", default="report.html", metavar="FILE.html", help="the page; figures and card go beside it"
    )


def run(arguments: argparse.Namespace) -> None:
    """Ask, write, print the answers."""
    from hf_scaling.report import collect_findings
    from hf_scaling.report.page import check_path, content_of, write_findings

    path = check_path(arguments.out)
    findings = collect_findings(
        read_table(arguments),
        **fit_arguments(arguments),
        bootstrap=arguments.bootstrap,
        level=arguments.level,
        budget=arguments.budget,
        costs=numbers(key_values(arguments.cost, "--cost"), "--cost"),
        title=arguments.title,
    )
    written = write_findings(findings, path)
    if arguments.json:
        print(to_json(content_of(findings) | {"files": [str(each) for each in written]}))
        return
    print(findings.summary())
    print(f"\nreport  {', '.join(map(str, written))}")
