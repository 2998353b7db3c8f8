"""What `plan` and `suggest` share: a law or a table, both arms, a budget and prices."""

import argparse
from pathlib import Path

from hf_scaling.cli._fitting import add_table_arguments, fit_arguments, key_values, numbers, read_table
from hf_scaling.errors import InputError


def add_budget_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare RESULTS_OR_LAW, the law, its intervals, the budget and the costs."""
    add_table_arguments(parser, or_law=True)
    law = parser.add_argument_group("law")
    law.add_argument(
        "--law", metavar="NAME", help="see `hf-scaling laws`; auto chooses (default: by the sizes varied)"
    )
    law.add_argument("--bootstrap", type=int, default=1000, metavar="N", help="refits (default: 1000)")
    law.add_argument("--level", type=float, default=0.95, metavar="P", help="of the intervals (default: 0.95)")
    money = parser.add_argument_group("budget")
    money.add_argument("--budget", type=float, required=True, metavar="B", help="in the unit of the costs")
    money.add_argument(
        "--cost",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="the price of a label, pretrain_image, flop or hour; repeat for several; others are free",
    )


def prices(arguments: argparse.Namespace) -> dict[str, float]:
    """--cost as the argument `costs`."""
    return numbers(key_values(arguments.cost, "--cost"), "--cost")


def read_fits(arguments: argparse.Namespace):
    """The law kept at RESULTS_OR_LAW, or the laws fitted to the table there.

    Returns:
        A fit; or arm to fit, where the table's rows hold both arms and --arm names none. And the table, None where
        there is a law alone.
    """
    kept, table = _law_or_table(arguments)
    if kept is not None:
        _refuse_row_choices(arguments)
        return kept, None
    arms = _arms(table, arguments.stage) if arguments.arm is None else []
    if len(arms) < 2:
        return _fit(table, arguments, arguments.arm), table
    return {arm: _fit(table, arguments, arm) for arm in arms}, table


def _law_or_table(arguments: argparse.Namespace):
    """The law or the table at RESULTS_OR_LAW; None for the other. A Hub id may be either."""
    from hf_scaling.fitting import LawFit

    where = arguments.results
    if (Path(where) / "law.json").is_file():
        return LawFit.from_pretrained(where), None
    try:
        return None, read_table(arguments)
    except InputError as no_table:
        if Path(where).exists() or Path(where).is_absolute():
            raise
        try:
            return LawFit.from_pretrained(where), None
        except InputError as no_law:
            raise InputError(f"{where} is no table ({no_table}) and no law ({no_law})") from None


def _refuse_row_choices(arguments: argparse.Namespace) -> None:
    for name in ("arm", "upstream", "downstream", "stage", "x", "weights", "law"):
        if getattr(arguments, name) is not None:
            raise InputError(f"--{name} chooses among a table's rows: {arguments.results} is a law already fitted")


def _arms(table, stage: str | None) -> list[str]:
    from hf_scaling.fitting.rows import Columns

    columns = Columns.of(table)
    stages = columns.distinct("stage")
    wanted = stage or ("finetune" if "finetune" in stages else None)
    if wanted and stages:
        columns = columns.where(columns.data["stage"].astype(str) == wanted, f"stage {wanted!r}")
    return columns.distinct("arm")


def _fit(table, arguments: argparse.Namespace, arm: str | None):
    from hf_scaling.fitting import fit_law
    from hf_scaling.planning.budget import default_law

    law, settings = arguments.law, fit_arguments(arguments) | {"arm": arm, "zeros": "leave_out"}
    if law is None:
        law, x = default_law(table, arguments.stage)
        settings["x"] = arguments.x or x
    return fit_law(table, law, **settings, bootstrap=arguments.bootstrap, level=arguments.level)
