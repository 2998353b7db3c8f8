"""What the commands that fit laws share: the table, which of its rows, how to fit, and JSON as strict as it gets."""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError

_ROW_CHOICES = ("target", "x", "arm", "upstream", "downstream", "stage", "weights")
_FITTING = ("objective", "delta", "seed")


def add_table_arguments(parser: argparse.ArgumentParser, target: str | None = "loss", or_law: bool = False) -> None:
    """Declare RESULTS (or_law: a kept law may stand there), its rows and columns, the objective, seed and --json."""
    wanted = ".parquet or .csv file, folder, study, or Hub id" + ("; or a law kept by `fit --out`" if or_law else "")
    parser.add_argument("results", metavar="RESULTS_OR_LAW" if or_law else "RESULTS", help=wanted)
    rows = parser.add_argument_group("rows and columns")
    both = "loss and error"
    rows.add_argument(
        "--target", default=target, metavar="COLUMN", help=f"the column to fit (default: {target or both})"
    )
    rows.add_argument("--x", metavar="COLUMN", help="the variable of a law of one variable (default: n_pretrain)")
    for name in ("arm", "upstream", "downstream", "stage"):
        rows.add_argument(f"--{name}", metavar="VALUE", help=f"keep the rows of this {name}")
    rows.add_argument("--weights", metavar="COLUMN", help="a positive number a row (default: equal, or from n_eval)")
    rows.add_argument(
        "--map", action="append", default=[], metavar="OURS=THEIRS", help="a foreign column's name: n_pretrain=images"
    )
    fitting = parser.add_argument_group("fitting")
    fitting.add_argument(
        "--objective", default="log_huber", metavar="NAME", help="log_huber (default), log_mse or mse"
    )
    fitting.add_argument(
        "--delta", type=float, metavar="D", help="log_huber's threshold (default: from the residuals)"
    )
    fitting.add_argument("--seed", type=int, default=0, metavar="N", help="of the starts and draws (default: 0)")
    parser.add_argument("--json", action="store_true", help="print JSON, with the names of the Python API")


def fit_arguments(arguments: argparse.Namespace) -> dict[str, Any]:
    """The shared flags as the keyword arguments of `fit_law` and `compare_laws`."""
    return {name: getattr(arguments, name) for name in (*_ROW_CHOICES, *_FITTING)}


def read_table(arguments: argparse.Namespace) -> "NamedTable":
    """Load RESULTS, with the columns named by --map.

    Raises:
        InputError: It cannot be read, or --map names a column that is not there.
    """
    from hf_scaling.results import ResultsTable

    frame = ResultsTable.load(arguments.results).to_pandas()
    if frame.empty:
        raise InputError(f"{arguments.results} holds no rows")
    frame.index = _row_names(frame, arguments.results)
    return NamedTable(_renamed(frame, key_values(arguments.map, "--map")))


class NamedTable:
    """A loaded table, whose rows are named so that a user finds them: by their line in a CSV, by their run id."""

    def __init__(self, frame):
        self._frame = frame

    def to_pandas(self):
        """The table as a DataFrame, its index the rows' names."""
        return self._frame


def key_values(given: list[str], flag: str) -> dict[str, str]:
    """Repeated NAME=VALUE arguments as a dict.

    Raises:
        InputError: One has no "=", or an empty side, or a name stands there twice.
    """
    found = {}
    for each in given:
        name, equals, value = (part.strip() for part in each.partition("="))
        if not (name and equals and value):
            raise InputError(f"{flag} {each}: write it as NAME=VALUE")
        if name in found:
            raise InputError(f"{flag} names {name} twice")
        found[name] = value
    return found


def numbers(given: dict[str, str], flag: str) -> dict[str, float]:
    """The values of `key_values` as finite numbers.

    Raises:
        InputError: One is not.
    """
    found = {}
    for name, text in given.items():
        try:
            found[name] = float(text)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise InputError(f"{flag} {name}={text}: {text} is not a finite number")
    return found


def to_json(content: Any) -> str:
    """JSON that any reader takes: null stands for what is not finite."""
    return json.dumps(_plain(content), indent=1, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value) if math.isfinite(value) else None


def _row_names(frame, results: str) -> list[str]:
    """The rows' numbers, counted from 0 as pandas does, with what finds them again."""
    if "run_id" in frame.columns:
        return [f"{number} (run {run_id})" for number, run_id in enumerate(frame["run_id"])]
    if results.endswith(".csv"):
        # Line 1 is the header.
        return [f"{number} (line {number + 2} of {Path(results).name})" for number in range(len(frame))]
    return [str(number) for number in range(len(frame))]


def _renamed(frame, columns: dict[str, str]):
    for ours, theirs in columns.items():
        if theirs not in frame.columns:
            raise InputError(f"--map {ours}={theirs}: the table has no column {theirs!r}: it has {_listed(frame)}")
    kept = frame.drop(columns=[name for name in {*columns, *columns.values()} if name in frame.columns])
    return kept.assign(**{ours: frame[theirs] for ours, theirs in columns.items()})


def _listed(frame) -> str:
    return ", ".join(map(str, frame.columns))
