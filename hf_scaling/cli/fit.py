"""`hf-scaling fit`: a law fitted to a results table, with intervals and a verdict."""

import argparse
import sys
from pathlib import Path

from hf_scaling.cli._fitting import add_table_arguments, fit_arguments, key_values, numbers, read_table, to_json

HELP = "Fit a scaling law to a results table; the verdict says whether the runs fix it."
EXAMPLE = "hf-scaling fit results.csv --law chinchilla --map n_pretrain=tokens --out my-law"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_table_arguments(parser)
    law = parser.add_argument_group("law")
    law.add_argument(
        "--law",
        default="transfer_gap",
        metavar="NAME",
        help="see `hf-scaling laws`; auto chooses (default: transfer_gap)",
    )
    law.add_argument("--fix", action="append", default=[], metavar="NAME=VALUE", help="hold a parameter at a value")
    law.add_argument("--tie", action="append", default=[], metavar="NAME,NAME", help="parameters that share one value")
    law.add_argument(
        "--supervised", metavar="LAW", help="for distillation: a kept chinchilla_coupled fit, or E=1.2,A=3355,..."
    )
    intervals = parser.add_argument_group("intervals")
    intervals.add_argument(
        "--bootstrap",
        type=int,
        default=1000,
        metavar="N",
        help="refits behind the intervals, 0 for none (default: 1000)",
    )
    intervals.add_argument("--method", default="wild", metavar="NAME", help="wild (default) or pairs")
    intervals.add_argument("--level", type=float, default=0.95, metavar="P", help="of the intervals (default: 0.95)")
    parser.add_argument("--out", metavar="FOLDER", help="keep the fit there: law.json, draws.safetensors, README.md")


def run(arguments: argparse.Namespace) -> None:
    """Fit, print, keep."""
    from hf_scaling.fitting import fit_law

    fit = fit_law(
        read_table(arguments),
        law=arguments.law,
        **fit_arguments(arguments),
        bootstrap=arguments.bootstrap,
        method=arguments.method,
        level=arguments.level,
        fixed=numbers(key_values(arguments.fix, "--fix"), "--fix"),
        tied=[[name.strip() for name in group.split(",")] for group in arguments.tie],
        supervised=_supervised(arguments.supervised),
        zeros="leave_out",
    )
    print(to_json(_content(fit)) if arguments.json else fit.summary())
    if arguments.out:
        fit.save_pretrained(arguments.out)
        print(f"kept in {arguments.out}: law.json, draws.safetensors, README.md", file=sys.stderr)


def _supervised(given: str | None):
    """A kept fit by its folder or Hub id, or the parameters written out; None where nothing was given."""
    from hf_scaling.fitting import LawFit

    if given is None or Path(given).exists() or "=" not in given:
        return given and LawFit.from_pretrained(given)
    return numbers(key_values(given.split(","), "--supervised"), "--supervised")


def _content(fit) -> dict:
    from hf_scaling.fitting.card import formula_of

    names = ("law", "status", "params", "intervals", "scores", "notes", "weights", "settings", "data")
    return {"formula": formula_of(fit), **{name: getattr(fit, name) for name in names}}
