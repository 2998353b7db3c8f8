"""`hf-scaling predict`: what a law predicts at any sizes, with intervals."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling.cli._arguments import (
    INTERVALS,
    ROWS,
    add_pairs,
    add_results_arguments,
    has_one_variable,
    keywords,
    read_fit,
    read_frame,
    sets_of_sizes,
    to_json,
)
from hf_scaling.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.fitting import LawFit

HELP = "Predict the target at any sizes, with intervals, from a saved law or a table."
EXAMPLE = (
    "hf-scaling predict studies/demo --target error --arm plain --at n_params=213450 --at n_pretrain=50000 "
    "--at n_finetune=500"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_results_arguments(parser, (*ROWS, "pool"), ("objective", "delta", "seed", *INTERVALS, "prior"), or_law=True)
    law_help = "see `hf-scaling laws`; auto selects or combines (default: auto)"
    parser.add_argument("--law", metavar="NAME", help=law_help)
    place = parser.add_argument_group("sizes")
    at_help = "a size to predict at; repeat a name for another prediction, which keeps the other sizes"
    add_pairs(place, "--at", at_help)
    place.add_argument("--frame", metavar="FILE", help="CSV or Parquet file with a column for each size of the law")
    place.add_argument(
        "--kind",
        default="mean",
        metavar="NAME",
        help="interval for: mean (default), the mean of runs; or new_run, a single one",
    )
    parser.add_argument("--csv", action="store_true", help="print CSV: the sizes, value, low, high, extrapolation")


def run(arguments: argparse.Namespace) -> None:
    """Predict and print."""
    if arguments.json and arguments.csv:
        raise InputError("--json and --csv: choose one")
    if bool(arguments.at) == bool(arguments.frame):
        raise InputError("give the sizes to predict at: --at NAME=VALUE for each size of the law, or --frame FILE")
    pool = keywords(arguments)["pool"] or []
    frame = None
    if arguments.frame:
        frame = read_frame(arguments.frame).drop(columns=["value", "low", "high", "extrapolation"], errors="ignore")
    given = list(frame) if frame is not None else [text.partition("=")[0].strip() for text in arguments.at]
    named = [name for name in dict.fromkeys(given) if name not in pool]
    if frame is None and not (Path(arguments.results) / "law.json").is_file():
        # A mistake is reported before a table is read and fitted.
        sets_of_sizes(arguments.at, pool)
    if arguments.x is None and has_one_variable(arguments.law) and len(named) == 1:
        arguments.x = named[0]
    fit, _ = read_fit(arguments, law="auto")
    sizes = _sizes(fit, sets_of_sizes(arguments.at, fit.pool)) if frame is None else frame
    predicted = sizes.join(fit.predict(sizes, arguments.kind, arguments.level))
    if arguments.csv:
        predicted.to_csv(sys.stdout, index=False)
    elif arguments.json:
        content = {"law": fit.law, "status": fit.status, "target": fit.settings["target"], "level": arguments.level}
        content |= {"kind": arguments.kind, "predictions": predicted.to_dict("records"), "notes": fit.notes}
        print(to_json(content))
    else:
        print(_describe(fit, predicted, arguments.level))


def _sizes(fit: "LawFit", sets: list[dict[str, Any]]) -> "pd.DataFrame":
    import pandas as pd

    from hf_scaling.text import did_you_mean

    columns = [*fit.pool, *dict.fromkeys(fit.columns.values())]
    for sizes in sets:
        for name in sizes:
            if name not in columns:
                known = f"{fit.law} has {', '.join(columns)}{did_you_mean(name, columns)}"
                raise InputError(f"--at {name}: not a size of the law; {known}")
        if missing := [name for name in columns if name not in sizes]:
            largest = {name: high for name, (_, high) in fit.data["ranges"].items()}
            add = " ".join(f"--at {name}={f'{largest[name]:.10g}' if name in largest else 'NAME'}" for name in missing)
            ranges = " (the largest measured)" if set(missing) & set(largest) else ""
            raise InputError(f"--at: {', '.join(missing)} missing; {fit.law} needs each size: add {add}{ranges}")
    return pd.DataFrame(sets)[columns]


def _describe(fit: "LawFit", predicted: "pd.DataFrame", level: float) -> str:
    """A row a set of sizes, then the law's status and its warnings."""
    import numpy as np

    from hf_scaling.fitting.law_fit import VERDICTS
    from hf_scaling.text import format_count, format_interval, format_percent, format_value, text_table, wrap

    target, names = fit.settings["target"], [*fit.pool, *dict.fromkeys(fit.columns.values())]
    heads = [*names, target, format_percent(level), "beyond"]
    rows = [
        [
            *(str(row[name]) if name in fit.pool else format_count(row[name]) for name in names),
            format_value(target, row["value"]),
            format_interval(target, row["low"], row["high"]),
            ""
            if not row["extrapolation"] > 0
            else f"{format_count(np.exp(row['extrapolation']))}x"
            if np.isfinite(row["extrapolation"])
            else "undefined",
        ]
        for row in predicted.to_dict("records")
    ]
    lines = [f"{fit.law}, status {fit.status}: {VERDICTS[fit.status]}", *text_table(heads, rows)]
    lines += ["", "beyond: factor outside the measured sizes"] if (predicted["extrapolation"] > 0).any() else []
    for n in fit.notes:
        lines += wrap(f"[{n['grade']}] {n['code']}: {n['text']}", "  ", "    ") if n["grade"] != "info" else []
    return "\n".join(lines)
