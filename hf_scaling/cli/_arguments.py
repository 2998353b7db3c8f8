"""What the commands share: flags over RESULTS, budgets, NAME=VALUE arguments, the table or law to load, JSON."""

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_scaling.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.fitting import LawFit

#: The flags that choose rows and columns and those of a fit; their values are keywords of the Python API.
_ROWS: dict[str, dict[str, Any]] = {
    "target": {"default": "loss", "metavar": "COLUMN", "help": "column to fit (default: loss)"},
    "x": {"metavar": "COLUMN", "help": "for a law of one variable: the column that it is of (default: n_pretrain)"},
    "arm": {"metavar": "VALUE", "help": "use the rows of this arm only: plain or distilled"},
    "upstream": {"metavar": "VALUE", "help": "use the rows of this upstream set only"},
    "downstream": {"metavar": "VALUE", "help": "use the rows of this downstream set only"},
    "stage": {"metavar": "VALUE", "help": "use the rows of this stage only: pretrain or finetune"},
    "teacher": {"metavar": "VALUE", "help": "use the distilled rows of this teacher only"},
    "direction": {
        "metavar": "up|down",
        "help": "up (larger is better) or down (smaller is better); default: by the target's name, else its trend",
    },
    "bounds": {
        "type": lambda text: [float(end) if end.strip() else None for end in text.split(",")],
        "metavar": "LOW,HIGH",
        "help": "range of the target; LOW, without HIGH has no upper limit (default: 0,1 for error and rates)",
    },
    "cluster": {
        "metavar": "COLUMN",
        "help": "column that groups correlated rows, such as checkpoints of one run (default: run, else parent)",
    },
    "pool": {
        "action": "append",
        "default": [],
        "metavar": "COLUMN",
        "help": "a curve for each value of this column, partially pooled; repeat or separate by commas for several",
    },
    "weights": {"metavar": "COLUMN", "help": "column of positive row weights (default: equal, or from n_eval)"},
}
_FITTING: dict[str, dict[str, Any]] = {
    "objective": {"default": "log_huber", "metavar": "NAME", "help": "log_huber (default), log_mse or mse"},
    "delta": {"type": float, "metavar": "D", "help": "Huber threshold on log residuals (default: from the residuals)"},
    "bootstrap": {"type": int, "default": 1000, "metavar": "N", "help": "number of bootstrap refits (default: 1000)"},
    "method": {"default": "wild", "metavar": "NAME", "help": "bootstrap: wild (default) or pairs"},
    "level": {
        "type": float,
        "default": 0.95,
        "metavar": "P",
        "help": "confidence level of the intervals (default: 0.95)",
    },
    "seed": {
        "type": int,
        "default": 0,
        "metavar": "N",
        "help": "random seed of starting points and bootstrap draws (default: 0)",
    },
    "prior": {
        "type": lambda text: None if text == "none" else text,
        "default": "published",
        "metavar": "NAME",
        "help": "prior for exponents that the rows do not determine: published (default) or none",
    },
}
#: What most commands take; `boundary` takes fewer.
ROWS = ("target", "x", "arm", "upstream", "downstream", "stage", "direction", "bounds", "weights")
INTERVALS = ("bootstrap", "level")
_RESULTS = ".parquet or .csv file, folder, study, or Hub id"


def add_results_arguments(
    parser: argparse.ArgumentParser,
    rows: Sequence[str] = ROWS,
    fitting: Sequence[str] = ("objective", "delta", "seed"),
    or_law: bool = False,
) -> None:
    """Declare RESULTS, --map, --json and the flags of rows and fits.

    Args:
        parser: The command's.
        rows: Names of the flags that choose rows and columns.
        fitting: Names of the flags of a fit.
        or_law: Whether RESULTS may also be the folder or the Hub id of a fitted law.
    """
    name, also = ("RESULTS_OR_LAW", "; or a law saved by `fit --out`") if or_law else ("RESULTS", "")
    parser.add_argument("results", metavar=name, help=_RESULTS + also)
    for title, names, flags in (("rows and columns", rows, _ROWS), ("fitting", fitting, _FITTING)):
        group = parser.add_argument_group(title)
        for flag in names:
            group.add_argument(f"--{flag}", **flags[flag])
        if flags is _ROWS:
            add_names_arguments(group)
    parser.add_argument("--json", action="store_true", help="print JSON, with the names of the Python API")


def add_names_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare --map and --arm-names."""
    map_help = (
        "what your table calls a column: n_pretrain=images, n_params=params*1e6, error=1-acc; repeat for several"
    )
    add_pairs(parser, "--map", map_help, "OURS=THEIRS")
    add_pairs(parser, "--arm-names", "what your table calls the arms: plain=baseline,distilled=KD", "OURS=THEIRS,...")


def add_budget_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Declare --budget and --cost."""
    group = parser.add_argument_group("budget")
    group.add_argument(
        "--budget", type=float, required=required, metavar="B", help="amount to spend, in the unit of the costs"
    )
    add_pairs(group, "--cost", "price of a label, pretrain_image, flop or hour; repeat for several; others are free")


def add_planning_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare RESULTS_OR_LAW, the law to fit, its intervals, the budget, and how fast runs are."""
    add_results_arguments(parser, fitting=("objective", "delta", "seed", *INTERVALS), or_law=True)
    parser.add_argument("--law", metavar="NAME", help="see `hf-scaling laws`; auto selects (default: by the sizes)")
    add_budget_arguments(parser)
    speed = parser.add_argument_group("compute, where the table does not have it")
    speed.add_argument("--flops-per-param", type=float, metavar="F", help="training FLOPs per parameter and sample")
    speed.add_argument(
        "--flops-per-second", type=float, metavar="F", help="training speed in FLOP/s, to price an hour"
    )
    speed.add_argument(
        "--runs", metavar="RESULTS", help="with a saved law: table that has train_flops, samples_seen and seconds"
    )


def add_pairs(parser: argparse._ActionsContainer, flag: str, help: str, metavar: str = "NAME=VALUE") -> None:
    """Declare a flag that may be repeated and takes NAME=VALUE."""
    parser.add_argument(flag, action="append", default=[], metavar=metavar, help=help)


def add_json_argument(parser: argparse.ArgumentParser, keys: str) -> None:
    """Declare --json, with the keys that it prints."""
    parser.add_argument("--json", action="store_true", help=f"print JSON: {keys}")


def keywords(arguments: argparse.Namespace) -> dict[str, Any]:
    """The shared flags of rows and fits that the command has, as keyword arguments of the Python API."""
    given = {name: value for name, value in vars(arguments).items() if name in _ROWS or name in _FITTING}
    if "pool" in given:
        given["pool"] = [name.strip() for text in given["pool"] for name in text.split(",") if name.strip()] or None
    return given


def pairs(given: Sequence[str], flag: str) -> dict[str, str]:
    """Repeated NAME=VALUE arguments as a dict.

    Raises:
        InputError: No "=", an empty side, or a repeated name.
    """
    values: dict[str, str] = {}
    for text in given:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not (name and equals and value):
            raise InputError(f"{flag} {text}: write it as NAME=VALUE")
        if name in values:
            raise InputError(f"{flag} {name}: given twice")
        values[name] = value
    return values


def arm_names(given: Sequence[str]) -> dict[str, list[str]]:
    """The arguments of --arm-names, plain=NAME,distilled=NAME, as arm -> names; a name may contain commas.

    Raises:
        InputError: No "=", or an empty side.
    """
    names: dict[str, list[str]] = {}
    for text in given:
        for pair in re.split(r",(?=\s*(?:plain|distilled)\s*=)", text):
            for arm, name in pairs([pair], "--arm-names").items():
                names.setdefault(arm, []).append(name)
    return names


def numbers(given: Sequence[str], flag: str) -> dict[str, float]:
    """Repeated NAME=NUMBER arguments as a dict; a number may be written 10k, 1.3B, 1,000 or 5%, as in a table.

    Raises:
        InputError: As `pairs`, or a value that is not a finite number.
    """
    from hf_scaling.results.foreign import parse_size

    values = {}
    for name, text in pairs(given, flag).items():
        percent = text.endswith("%")
        values[name] = parse_size(text.removesuffix("%").strip()) * (0.01 if percent else 1.0)
        if not math.isfinite(values[name]):
            raise InputError(f"{flag} {name}={text}: {text} is not a finite number")
    return values


def sets_of_sizes(given: Sequence[str], pool: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The sets of sizes in the arguments of --at: a name given again begins the next set.

    Args:
        given: The arguments, NAME=NUMBER each.
        pool: Names whose values are text: the columns that name a curve.

    Example:
        ["n_params=1e6", "n_pretrain=1e4", "n_pretrain=1e5"] are two sets with the same n_params.

    Raises:
        InputError: An argument is not NAME=NUMBER.
    """
    sets: list[dict[str, Any]] = []
    named: set[str] = set()
    for text in given:
        name = text.partition("=")[0].strip()
        size: dict[str, Any] = dict(pairs([text], "--at")) if name in pool else dict(numbers([text], "--at"))
        if not sets or named & set(size):
            sets.append(dict(sets[-1]) if sets else {})
            named = set()
        sets[-1] |= size
        named |= set(size)
    return sets


def read_frame(path: str) -> "pd.DataFrame":
    """The sizes in the file of --frame, read as a table of runs is: any delimiter, sizes such as 1.3B.

    Raises:
        InputError: The file cannot be read or has no rows.
    """
    from hf_scaling.results import ResultsTable

    try:
        frame = ResultsTable.load(path).to_pandas()
    except InputError as error:
        raise InputError(f"--frame {error}") from None
    if frame.empty:
        raise InputError(f"--frame {path}: the file has no rows")
    return frame


def read_table(arguments: argparse.Namespace) -> "pd.DataFrame":
    """Load RESULTS, with its columns renamed by --map and its arms by --arm-names.

    Returns:
        The rows; the index names each row by its number and by its run id or its line in a CSV, for messages.

    Raises:
        InputError: Not readable, no rows, or --map or --arm-names names something that is missing.
    """
    from hf_scaling.results import ResultsTable
    from hf_scaling.results.foreign import DELIMITED

    names = {"map": pairs(arguments.map, "--map"), "arm_names": arm_names(arguments.arm_names)}
    frame = ResultsTable.load(arguments.results, **names).to_pandas()
    if frame.empty:
        raise InputError(f"{arguments.results} has no rows")
    # Rows are counted from 0 as pandas does, lines from 1, of which the first is the header.
    if "run_id" in frame.columns:
        frame.index = [f"{number} (run {run_id})" for number, run_id in enumerate(frame["run_id"])]
    elif arguments.results.lower().endswith(DELIMITED):
        file = Path(arguments.results).name
        frame.index = [f"{number} (line {number + 2} of {file})" for number in range(len(frame))]
    return frame


def read_fits(
    arguments: argparse.Namespace, law: str | None = None
) -> "tuple[LawFit | dict[str, LawFit], pd.DataFrame | None]":
    """Load the law at RESULTS_OR_LAW, or fit laws to the table there.

    Args:
        arguments: The command's.
        law: The law of a table where --law names none; None for that of the sizes that vary.

    Returns:
        The fit, or arm -> fit where the rows are of both arms and --arm selects none; and the table, None for a law.

    Raises:
        InputError: Neither a law nor a table, or flags for a table where there is a law.
    """
    from hf_scaling.fitting import LawFit
    from hf_scaling.planning.budget import rows_of_stage

    law_or_table = _load_law_or_table(arguments)
    if not isinstance(law_or_table, LawFit):
        table = law_or_table
        pool = keywords(arguments).get("pool") or []
        arms = rows_of_stage(table, arguments.stage).distinct("arm") if arguments.arm is None else []
        arms = [] if "arm" in pool else arms
        if len(arms) < 2:
            return _fit(table, arguments, arguments.arm, law), table
        return {arm: _fit(table, arguments, arm, law) for arm in arms}, table
    for name in ("arm", "upstream", "downstream", "stage", "x", "weights", "law", "pool"):
        if getattr(arguments, name, None):
            raise InputError(
                f"--{name} selects rows of a table, but {arguments.results} is a fitted law: leave it out"
            )
    return law_or_table, None


def read_fit(arguments: argparse.Namespace, law: str | None = None) -> "tuple[LawFit, pd.DataFrame | None]":
    """`read_fits` where only one arm makes sense.

    Raises:
        InputError: As `read_fits`, or the rows are of both arms and --arm selects none.
    """
    fits, table = read_fits(arguments, law)
    if isinstance(fits, dict):
        raise InputError(f"{arguments.results} has runs of several arms: {', '.join(fits)}; select one with --arm")
    return fits, table


def _load_law_or_table(arguments: argparse.Namespace) -> "LawFit | pd.DataFrame":
    from hf_scaling.fitting import LawFit

    where = arguments.results
    if (Path(where) / "law.json").is_file():
        return LawFit.from_pretrained(where)
    try:
        return read_table(arguments)
    except InputError as no_table:
        if Path(where).exists() or Path(where).is_absolute():
            raise
        # A Hub id may name either.
        try:
            return LawFit.from_pretrained(where)
        except InputError as no_law:
            raise InputError(f"{where} is neither a table ({no_table}) nor a law ({no_law})") from None


def _fit(table: "pd.DataFrame", arguments: argparse.Namespace, arm: str | None, default: str | None) -> "LawFit":
    from hf_scaling.fitting import fit_law
    from hf_scaling.planning.budget import default_law

    options = keywords(arguments) | {"arm": arm}
    law = arguments.law or default
    if law is None:
        law, x = default_law(table, arguments.stage, arguments.target)
        options["x"] = arguments.x or x
    return fit_law(table, law, **options, zeros="leave_out")


def has_one_variable(law: str | None) -> bool:
    """Whether a law given by name takes one size, whose column --x names."""
    from hf_scaling.laws import LAWS

    return law is not None and law != "auto" and len(LAWS[law].variables) == 1


def to_json(content: Mapping[str, Any]) -> str:
    """Strict JSON: null for numbers that are not finite."""
    return json.dumps(_plain(content), indent=1, allow_nan=False, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value) if math.isfinite(value) else None
