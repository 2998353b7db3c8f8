"""What a report works on: its checked arguments, the parts of a table that are fitted apart, and facts of the table.

for part in split_table(frame):
    print(part.title, len(part.rows), [arm.label for arm in part.arms])
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from hf_scaling.errors import InputError
from hf_scaling.fitting import FitOptions, RowFilter
from hf_scaling.planning.costs import check_prices, is_positive
from hf_scaling.results.foreign import similar_columns
from hf_scaling.results.remedies import missing_arms, missing_columns
from hf_scaling.text import COLUMNS, format_flops, format_parameters, format_span, listing

#: Targets of a report that names none.
TARGETS = ("loss", "error")
#: At most this many parts are analysed: each takes seconds, and a longer page is not read.
MOST_PARTS = 12
# Columns that must have one value over the rows of a fit; each combination of values is a part.
_PART_COLUMNS = ("task", "upstream", "downstream", "recipe", "eval_split")
# Columns that separate distilled runs into arms of their own.
_ARM_COLUMNS = ("distillation", "teacher_n_params")
# Columns whose meaning the page states: how the numbers were collected.
_EXPLAINED = ["loss", "error", "n_params", "n_pretrain", "n_finetune", "samples_seen", "train_flops", "teacher_flops"]


@dataclass(frozen=True)
class Request:
    """The arguments of a report, checked.

    Attributes:
        targets: Columns that are reported on.
        x: Column of the laws of one variable; None for the size that varies.
        weights: Column of the weights; None for the default.
        options: How laws are fitted.
        budget: Amount to plan for, in the unit of the costs; None for no plan.
        costs: Prices, as for `plan`.
        direction: up or down; None for what the target's name or trend says.
        bounds: Range of the target; None for the default.
        cluster: Column of the rows that share their luck; None for the default of `fit_law`.
        study: Folder of the study, which says how many images its sources have; None where the table is not a study's.
    """

    targets: tuple[str, ...]
    x: str | None = None
    weights: str | None = None
    options: FitOptions = field(default_factory=FitOptions)
    budget: float | None = None
    costs: Mapping[str, float] | None = None
    direction: str | None = None
    bounds: tuple[float | None, float | None] | None = None
    study: Path | None = None
    cluster: str | None = None

    @property
    def row_filter(self) -> RowFilter:
        """The arguments that choose rows and columns, for the first target."""
        bounds = {"direction": self.direction, "bounds": self.bounds}
        rows = {"weights": self.weights, "zeros": "leave_out", "cluster": self.cluster}
        return RowFilter(self.targets[0], self.x, **rows, **bounds)

    def __post_init__(self) -> None:
        if self.budget is None:
            if self.costs:
                raise InputError("costs need a budget: give budget= as well")
            return
        if not is_positive(self.budget):
            raise InputError(f"budget is a positive number, in the unit of the costs, not {self.budget!r}")
        check_prices(self.costs or {})


def find_targets(frame: pd.DataFrame, target: str | None) -> tuple[str, ...]:
    """The columns to report on: the given one, else loss and error as far as the table has them.

    Raises:
        InputError: The table lacks the column, or both loss and error.
    """
    targets = tuple(name for name in ((target,) if target else TARGETS) if name in frame.columns)
    if targets:
        return targets
    sizes = [name for name in ("n_params", "n_pretrain", "n_finetune") if similar_columns([name], frame.columns)]
    raise missing_columns(frame, (), target or "loss", [name for name in sizes if name not in frame.columns])


@dataclass(frozen=True)
class Arm:
    """The runs of one arm: not distilled, or distilled in one way.

    Attributes:
        kind: plain, distilled, or "" where the table has no column arm, or another value in it.
        label: Name on the page.
        rows: Its rows.
    """

    kind: str
    label: str
    rows: pd.DataFrame = field(repr=False)


@dataclass(frozen=True)
class Part:
    """Rows of one stage, task, pair of data sets, recipe and evaluation split.

    Attributes:
        title: Name on the page.
        stage: pretrain, finetune, or None where the table has no stages.
        values: Column -> value, of the columns that separate it from other parts.
        rows: Its rows.
        arms: Its rows by arm, the plain one first.
    """

    title: str
    stage: str | None
    values: dict[str, str]
    rows: pd.DataFrame = field(repr=False)
    arms: tuple[Arm, ...]

    @property
    def noun(self) -> str:
        """What the amounts of data count: images, tokens, or examples where the rows name no task."""
        task = self.values.get("task", "")
        return "images" if "image" in task else "tokens" if "lm" in task else "examples"

    def arms_of(self, kind: str) -> tuple[Arm, ...]:
        """The arms of a kind, plain or distilled; runs distilled in different ways are different arms."""
        return tuple(arm for arm in self.arms if arm.kind == kind)

    def levels(self, column: str) -> np.ndarray:
        """The distinct positive numbers of a column, ascending; empty where there is no such column."""
        return levels(self.rows, column)


def numbers(frame: pd.DataFrame, column: str) -> np.ndarray:
    """(N,) a column as floats, NaN where a value is not a number; empty where there is no such column."""
    if column not in frame.columns:
        return np.empty(0)
    return pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)


def levels(frame: pd.DataFrame, column: str) -> np.ndarray:
    """The distinct positive finite numbers of a column, ascending."""
    values = numbers(frame, column)
    return np.unique(values[np.isfinite(values) & (values > 0)])


def texts(frame: pd.DataFrame, column: str) -> list[str]:
    """The distinct values of a column as text, sorted; empty where there is no such column."""
    return sorted({str(value) for value in frame[column].dropna()} - {""}) if column in frame.columns else []


def filter_rows(frame: pd.DataFrame, wanted: Mapping[str, str | None]) -> pd.DataFrame:
    """The rows that have the wanted values; None filters nothing.

    Raises:
        InputError: There is no such column, or no such row.
    """
    for name, value in wanted.items():
        if value is None:
            continue
        if name not in frame.columns:
            raise missing_columns(frame, (), None, [name])
        rows = frame[frame[name].astype(str) == value]
        if rows.empty:
            error = missing_arms(frame, value) if name == "arm" else None
            raise error if error and error.remedy else InputError(f"no row of the table has {name}={value!r}")
        frame = rows
    return frame


def split_table(frame: pd.DataFrame) -> list[Part]:
    """The parts of a table, pre-training before fine-tuning, then larger ones first."""
    stages = ("pretrain", "finetune") if texts(frame, "stage") else (None,)
    columns = [name for name in _PART_COLUMNS if texts(frame, name)]
    # Without n_params, each model is a curve of its own.
    if not len(levels(frame, "n_params")) and len(texts(frame, "model")) > 1:
        columns.append("model")
    parts = []
    for stage in stages:
        rows = frame if stage is None else frame[frame["stage"].astype(str) == stage]
        names = [name for name in columns if not (stage == "pretrain" and name == "downstream")]
        of_stage = [
            Part("", stage, {name: value for name, value in zip(names, values) if value}, group, tuple(_arms(group)))
            for values, group in _groups(rows, names)
        ]
        parts += sorted(of_stage, key=lambda part: -len(part.rows))
    for place, part in enumerate(parts):
        # A title that differs between the parts of a stage.
        peers = [peer.values for peer in parts if peer.stage == part.stage]
        differing = {name: value for name, value in part.values.items() if len({one.get(name) for one in peers}) > 1}
        sets = [part.values[name] for name in ("upstream", "downstream") if name in part.values]
        words = [", then ".join(sets)] if sets else []
        words += [differing[name] for name in ("task", "model") if name in differing]
        words += [f"{differing['eval_split']} split"] if "eval_split" in differing else []
        rest = part.values | {"recipe": None}
        if "recipe" in differing and sum(peer | {"recipe": None} == rest for peer in peers) > 1:
            # The hash alone tells a reader nothing; how long the runs were does.
            seen = part.levels("samples_seen")
            length = f" ({format_span(seen[0], seen[-1])} {part.noun} seen)" if len(seen) else ""
            words.append(f"recipe {differing['recipe']}{length}")
        parts[place] = replace(part, title=", ".join(words) or "all runs")
    return parts


def _groups(frame: pd.DataFrame, names: Sequence[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    """The rows by the values of some columns, missing values as ""."""
    if not names or frame.empty:
        return [((), frame)] if len(frame) else []
    filled = [frame[name].astype(object).where(frame[name].notna(), "").astype(str) for name in names]
    return [(values, group) for values, group in frame.groupby(filled, sort=True)]


def _arms(frame: pd.DataFrame) -> list[Arm]:
    if not texts(frame, "arm"):
        return [Arm("", "all runs", frame)]
    arms = []
    for kind in ("plain", "distilled"):
        rows = frame[frame["arm"].astype(str) == kind]
        names = [name for name in _ARM_COLUMNS if kind == "distilled" and len(texts(rows, name)) > 1]
        for values, group in _groups(rows, names):
            settings = [
                f"teacher {format_parameters(float(value))} parameters" if name == "teacher_n_params" else value
                for name, value in zip(names, values)
                if value
            ]
            arms.append(Arm(kind, f"{kind} ({', '.join(settings)})" if settings else kind, group))
    others = [value for value in texts(frame, "arm") if value not in ("plain", "distilled")]
    return arms + [Arm("", value, frame[frame["arm"].astype(str) == value]) for value in others]


def describe_table(frame: pd.DataFrame) -> dict[str, str]:
    """Facts that (Mis)Fitting (2025) asks a report to state of runs and data: name -> text, without empty ones."""
    models: Iterable[str] = texts(frame, "model")
    if models and len(levels(frame, "n_params")):
        counted = frame.groupby("model")["n_params"].max().sort_values()
        models = [f"{name} ({format_parameters(size)} parameters)" for name, size in counted.items()]
    sizes = {name: levels(frame, name) for name in ("n_params", "n_pretrain", "n_finetune", "image_size")}
    n_eval, teachers = levels(frame, "n_eval"), levels(frame, "teacher_n_params")
    evaluated = f", {format_span(n_eval[0], n_eval[-1])} images or tokens" if len(n_eval) else ""
    distilled = [_listings(frame, {"distillation": ""})]
    distilled += [f"{', '.join(map(format_parameters, teachers))} parameters"] if len(teachers) else []
    totals = {name: numbers(frame, name) for name in ("train_flops", "teacher_flops", "seconds")}
    totals = {name: float(np.nansum(values)) for name, values in totals.items() if np.isfinite(values).any()}
    costs = [
        f"{format_flops(totals[name])} {unit}"
        for name, unit in (("train_flops", "of students"), ("teacher_flops", "of teachers' forward passes"))
        if name in totals
    ]
    costs += [f"{totals['seconds'] / 3600:.3g} hours of training"] if "seconds" in totals else []
    times = frame["created_at"] if "created_at" in frame.columns else pd.Series(dtype=object)
    dates = sorted(pd.to_datetime(times, errors="coerce", utc=True).dropna().dt.strftime("%Y-%m-%d"))
    explained = [f"{name}: {COLUMNS[name].meaning}" for name in _EXPLAINED if name in frame.columns]
    facts = {
        "runs": _runs(frame),
        "models": listing(models),
        "data": _listings(frame, {"task": "", "upstream": "upstream ", "downstream": "downstream "}),
        "sizes": "; ".join(
            f"{name} {format_span(at[0], at[-1])} ({f'{len(at)} levels' if len(at) > 1 else 'one level'})"
            for name, at in sizes.items()
            if len(at)
        ),
        "evaluated on": f"{_listings(frame, {'eval_split': ''})} split{evaluated}, read once"
        if texts(frame, "eval_split")
        else "",
        "teachers": "; ".join(filter(None, distilled)),
        "training rule": _listings(frame, {"recipe": "recipe ", "precision": ""}),
        "seeds": _listings(frame, {"seed": ""}),
        "cost": ", ".join(costs),
        "devices": _listings(frame, {"device": ""}),
        "versions": _versions(frame),
        "measured": " to ".join(dict.fromkeys([dates[0], dates[-1]])) if dates else "",
        "how collected": ("; ".join(explained) if "run_id" in frame.columns else "") or "as the table's author did",
    }
    return {name: text for name, text in facts.items() if text}


def _listings(frame: pd.DataFrame, prefixes: Mapping[str, str]) -> str:
    """The distinct values of some columns, each with a prefix."""
    return "; ".join(prefix + listing(texts(frame, name)) for name, prefix in prefixes.items() if texts(frame, name))


def _runs(frame: pd.DataFrame) -> str:
    total = f"{len(frame):,} rows" if len(frame) > 1 else "one row"
    names = [name for name in ("stage", "arm") if texts(frame, name)]
    if not names:
        return total
    stages = {"pretrain": "pre-training", "finetune": "fine-tuning"}
    counts = frame.groupby(names, sort=True).size().sort_index(ascending=False)
    keys = [key if isinstance(key, tuple) else (key,) for key in counts.index]
    groups = [
        f"{number:,} {' '.join(stages.get(name, name) for name in reversed(key))}" for key, number in zip(keys, counts)
    ]
    return f"{total}: {', '.join(groups)}"


def _versions(frame: pd.DataFrame) -> str:
    """Each package with its version, or its versions where runs differ."""
    versions: dict[str, set[str]] = {}
    for text in texts(frame, "versions"):
        try:
            packages = json.loads(text)
        except ValueError:
            continue
        for name, version in packages.items() if isinstance(packages, dict) else ():
            versions.setdefault(str(name), set()).add(str(version))
    return ", ".join(f"{name} {'/'.join(sorted(values))}" for name, values in versions.items())
