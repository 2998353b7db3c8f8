"""`hf-scaling fit`: a law fitted to a results table, with intervals and a verdict."""

import argparse
import sys
from pathlib import Path

from hf_scaling.cli._arguments import (
    INTERVALS,
    ROWS,
    add_pairs,
    add_results_arguments,
    keywords,
    numbers,
    read_table,
    to_json,
)

HELP = "Fit a scaling law to a results table; the status says whether the runs determine its parameters."
EXAMPLE = "hf-scaling fit results.csv --law chinchilla --map n_pretrain=tokens --out my-law"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_results_arguments(
        parser, (*ROWS, "cluster", "pool"), fitting=("objective", "delta", "seed", *INTERVALS, "method", "prior")
    )
    law = parser.add_argument_group("law")
    name_help = "see `hf-scaling laws`; auto selects (default: transfer_gap)"
    law.add_argument("--law", default="transfer_gap", metavar="NAME", help=name_help)
    add_pairs(law, "--fix", "hold a parameter at a value; repeat for several")
    law.add_argument("--tie", action="append", default=[], metavar="NAME,NAME", help="parameters that share one value")
    law.add_argument(
        "--supervised", metavar="LAW", help="for distillation: a saved chinchilla_coupled fit, or E=1.2,A=3355,..."
    )
    parser.add_argument("--out", metavar="FOLDER", help="save the fit: law.json, its draws, a card, a figure")


def run(arguments: argparse.Namespace) -> None:
    """Fit the law, print it, save it."""
    from hf_scaling.fitting import LawFit, fit_law
    from hf_scaling.fitting.card import formula_of

    # Parameters written out, or a saved fit by its folder or Hub id.
    supervised = arguments.supervised or None
    if supervised and "=" in supervised and not Path(supervised).exists():
        supervised = numbers(supervised.split(","), "--supervised")
    elif supervised:
        supervised = LawFit.from_pretrained(supervised)
    fit = fit_law(
        read_table(arguments),
        law=arguments.law,
        **keywords(arguments),
        fixed=numbers(arguments.fix, "--fix"),
        tied=[[name.strip() for name in group.split(",")] for group in arguments.tie],
        supervised=supervised,
        zeros="leave_out",
    )
    if arguments.json:
        names = ("law", "status", "params", "intervals", "scores", "notes", "weights", "settings", "data")
        content = {"formula": formula_of(fit), **{name: getattr(fit, name) for name in names}}
        print(to_json(content | ({"curves": fit.curves.to_dict("records")} if fit.pool else {})))
    else:
        print(fit.summary())
    if arguments.out:
        fit.save_pretrained(arguments.out)
        print(f"saved in {arguments.out}: law.json, draws.safetensors, README.md, figure.png", file=sys.stderr)
