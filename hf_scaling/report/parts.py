"""How the numbers of a table were collected: what (Mis)Fitting (2025) asks a report to state of runs and data."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.planning.costs import check_prices, is_positive
from hf_scaling.text import format_count

#: What is reported where no target is named.
TARGETS = ("loss", "error")


@dataclass(frozen=True)
class Asked:
    """The arguments of a report, checked.

    Attributes:
        targets: The columns that are reported on.
        x: The column of one-variable laws; None for the size that varies.
        fitting: objective, delta, weights, seed: the keyword arguments of `fit_law` and `compare_laws` alike.
        bootstrap: Draws behind every interval.
        level: Of the intervals.
        budget: What there is to spend; None asks for no plan.
        costs: As for `plan`.
    """

    targets: tuple[str, ...]
    x: str | None = None
    fitting: dict = field(default_factory=dict)
    bootstrap: int = 1000
    level: float = 0.95
    budget: float | None = None
    costs: Mapping[str, float] | None = None


def find_targets(columns, target: str | None) -> tuple[str, ...]:
    """The columns to report on: the one that is named, else loss and error as far as they are there.

    Raises:
        InputError: There is no such column, or neither loss nor error.
    """
    found = tuple(name for name in ((target,) if target else TARGETS) if name in columns)
    if found:
        return found
    has = ", ".join(map(str, columns))
    if target:
        raise InputError(f"the table has no column {target!r}: it has {has}")
    raise InputError(f"the table has neither loss nor error: name the column to report with target=; it has {has}")


def check_money(budget: float | None, costs: Mapping[str, float] | None) -> None:
    """Refuse a budget or prices that no plan could be made of.

    Raises:
        InputError: The budget is no positive number, a price cannot be used, or one was given without the other.
    """
    if budget is None:
        if costs:
            raise InputError("costs ask for a plan: give a budget as well")
        return
    if not is_positive(budget):
        raise InputError(f"budget is a positive number, in the unit of the costs, not {budget!r}")
    check_prices(costs or {})


# What must be one value over the rows of a fit; each value, or combination, is a part of its own.
_APART = ("task", "upstream", "downstream", "recipe", "eval_split")
# What makes one way of teaching: runs taught otherwise are another arm.
_TEACHING = ("distillation", "teacher_n_params")
#: At most so many parts are worked out: a page of more is not read, and each costs seconds.
MOST_PARTS = 12


class Rows:
    """A DataFrame as a results table: rows that a law cannot take are left out with a note instead of refused."""

    def __init__(self, frame):
        self._frame = frame

    def __len__(self) -> int:
        return len(self._frame)

    def to_pandas(self):
        """The rows, on an index that names them."""
        return self._frame


@dataclass(frozen=True)
class Arm:
    """The runs of one arm: plain, or distilled in one way.

    Attributes:
        kind: plain, distilled, or "" where the table knows no arms.
        label: How it is called on the page.
        rows: Its rows.
    """

    kind: str
    label: str
    rows: Rows


@dataclass(frozen=True)
class Part:
    """Rows of one stage, task, data set, recipe and evaluation split.

    Attributes:
        title: How it is called on the page.
        stage: pretrain, finetune, or None where the table knows no stages.
        choice: Column to value, of the columns that set it apart from other parts.
        rows: Its rows.
        arms: Its rows by arm, the plain one first.
    """

    title: str
    stage: str | None
    choice: dict[str, str]
    rows: Rows
    arms: tuple[Arm, ...]

    @property
    def noun(self) -> str:
        """What the amounts of data count: images, tokens, or examples where the rows do not say."""
        task = self.choice.get("task", "")
        return "images" if "image" in task else "tokens" if "lm" in task else "examples"

    def arm(self, kind: str) -> tuple[Arm, ...]:
        """The arms of a kind; there may be several ways of teaching."""
        return tuple(arm for arm in self.arms if arm.kind == kind)

    def levels(self, column: str) -> np.ndarray:
        """The distinct positive numbers of a column, ascending; empty where there is no such column."""
        return levels(self.rows.to_pandas(), column)


def levels(frame, column: str) -> np.ndarray:
    """The distinct positive finite numbers of a column, ascending; empty where it has none."""
    if column not in frame.columns:
        return np.empty(0)
    import pandas as pd

    values = pd.to_numeric(frame[column], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
    return np.unique(values[np.isfinite(values) & (values > 0)])


def keep(frame, wanted: dict[str, str | None]):
    """The rows with the wanted values of arm, upstream, downstream and stage.

    Raises:
        InputError: There is no such column, or no such row.
    """
    for name, value in wanted.items():
        if value is None:
            continue
        if name not in frame.columns:
            raise InputError(f"the table has no column {name!r}: it has {', '.join(map(str, frame.columns))}")
        frame = frame[frame[name].astype(str) == value]
        if frame.empty:
            raise InputError(f"no row of the table has {name}={value!r}")
    return frame


def split(frame) -> list[Part]:
    """The parts of a table, pre-training first, larger ones first."""
    stages = _texts(frame, "stage")
    apart = [name for name in _APART if len(_texts(frame, name)) > 0]
    # Without its size, another model is another curve.
    apart += ["model"] if not len(levels(frame, "n_params")) and len(_texts(frame, "model")) > 1 else []
    found = []
    for stage in ("pretrain", "finetune") if stages else (None,):
        rows = frame if stage is None else frame[frame["stage"].astype(str) == stage]
        names = [name for name in apart if not (stage == "pretrain" and name == "downstream")]
        parts = [_part(stage, values, group, names) for values, group in _groups(rows, names)]
        found += sorted(parts, key=lambda part: -len(part.rows))
    return _named(found)


def _groups(frame, names: list[str]):
    if not names or frame.empty:
        return [((), frame)] if len(frame) else []
    filled = [frame[name].astype(object).where(frame[name].notna(), "").astype(str) for name in names]
    return [(values, group) for values, group in frame.groupby(filled, sort=True)]


def _part(stage: str | None, values, frame, names: list[str]) -> Part:
    choice = {name: value for name, value in zip(names, values) if value}
    return Part("", stage, choice, Rows(frame), tuple(_arms(frame)))


def _arms(frame) -> list[Arm]:
    if not _texts(frame, "arm"):
        return [Arm("", "all runs", Rows(frame))]
    found = []
    for kind in ("plain", "distilled"):
        rows = frame[frame["arm"].astype(str) == kind]
        names = [name for name in _TEACHING if kind == "distilled" and len(_texts(rows, name)) > 1]
        for values, group in _groups(rows, names):
            found.append(Arm(kind, _arm_label(kind, names, values), Rows(group)))
    return found


def _arm_label(kind: str, names: list[str], values) -> str:
    said = {"teacher_n_params": "teacher {} parameters", "distillation": "{}"}
    parts = [
        said[name].format(format_count(float(value)) if name == "teacher_n_params" else value)
        for name, value in zip(names, values)
        if value
    ]
    return f"{kind} ({', '.join(parts)})" if parts else kind


def _named(parts: list[Part]) -> list[Part]:
    """The same parts with titles that tell those of one stage apart."""
    return [replace(part, title=_title(part, _varied(parts, part.stage))) for part in parts]


def _varied(parts: list[Part], stage: str | None) -> set[str]:
    """The columns that take several values over the parts of a stage."""
    peers = [part.choice for part in parts if part.stage == stage]
    return {name for name in (*_APART, "model") if len({choice.get(name) for choice in peers}) > 1}


def _title(part: Part, varied: set[str]) -> str:
    places = [part.choice[name] for name in ("upstream", "downstream") if name in part.choice]
    said = [", then ".join(places)] if places else []
    said += [part.choice[name] for name in ("task", "model") if name in varied & set(part.choice)]
    said += [f"{part.choice[name]} split" for name in ("eval_split",) if name in varied & set(part.choice)]
    said += [f"recipe {part.choice[name]}{_seen(part)}" for name in ("recipe",) if name in varied & set(part.choice)]
    return ", ".join(said) or "all runs"


def _seen(part: Part) -> str:
    """How long the runs of a recipe were: its hash tells a reader nothing."""
    seen = part.levels("samples_seen")
    if not len(seen):
        return ""
    return f" ({format_count(seen[0])}{f' to {format_count(seen[-1])}' if len(seen) > 1 else ''} {part.noun} seen)"


def _texts(frame, name: str) -> list[str]:
    if name not in frame.columns:
        return []
    return sorted({str(value) for value in frame[name].dropna()} - {""})


_MOST_NAMES = 8
_STAGES = {"pretrain": "pre-training", "finetune": "fine-tuning"}
# How the columns of a results row come about; a foreign table's are its author's.
_COLLECTED = {
    "loss": "loss: cross-entropy in nats, mean over the evaluation split",
    "error": "error: top-1 error rate over the evaluation split, 0 to 1",
    "n_params": "n_params: counted in the built model",
    "n_pretrain": "n_pretrain: unique upstream images (or tokens)",
    "n_finetune": "n_finetune: unique labelled downstream images (or tokens)",
    "samples_seen": "samples_seen: steps times batch, repeats counted",
    "train_flops": "train_flops: operations of the student, forward and backward",
    "teacher_flops": "teacher_flops: operations of the teacher's forward passes; its own training is in its own row",
}


def facts_of_table(frame) -> dict[str, str]:
    """Name to text: runs, models, data, sizes, cost, settings, devices, versions, dates."""
    facts = {
        "runs": _runs(frame),
        "models": _models(frame),
        "data": _named_columns(frame, (("task", ""), ("upstream", "upstream "), ("downstream", "downstream "))),
        "sizes": _sizes(frame),
        "evaluated on": _evaluation(frame),
        "teachers": _named_columns(frame, (("distillation", ""),)) + _teachers(frame),
        "training rule": _named_columns(frame, (("recipe", "recipe "), ("precision", ""))),
        "seeds": _named_columns(frame, (("seed", ""),)),
        "cost": _cost(frame),
        "devices": _named_columns(frame, (("device", ""),)),
        "versions": _versions(frame),
        "measured": _dates(frame),
    }
    collected = (
        [text for name, text in _COLLECTED.items() if name in frame.columns] if "run_id" in frame.columns else []
    )
    facts["how collected"] = "; ".join(collected) or "as the table's author did"
    return {name: text for name, text in facts.items() if text}


def _runs(frame) -> str:
    groups = [name for name in ("stage", "arm") if _distinct(frame, name)]
    total = f"{len(frame):,} rows" if len(frame) > 1 else "one row"
    if not groups:
        return total
    counts = frame.groupby(groups, sort=True).size().sort_index(ascending=False)
    keys = [key if isinstance(key, tuple) else (key,) for key in counts.index]
    said = [
        f"{number:,} {' '.join(_STAGES.get(name, name) for name in reversed(key))}"
        for key, number in zip(keys, counts)
    ]
    return f"{total}: {', '.join(said)}"


def _models(frame) -> str:
    names = _distinct(frame, "model")
    if not names:
        return ""
    if not len(levels(frame, "n_params")):
        return _listed(names)
    sizes = frame.groupby("model")["n_params"].max().sort_values()
    return _listed([f"{name} ({format_count(size)} parameters)" for name, size in sizes.items()])


def _sizes(frame) -> str:
    said = []
    for name in ("n_params", "n_pretrain", "n_finetune", "image_size"):
        values = levels(frame, name)
        if len(values):
            number = f"{len(values)} levels" if len(values) > 1 else "one level"
            span = format_count(values[0]) + (f" to {format_count(values[-1])}" if len(values) > 1 else "")
            said.append(f"{name} {span} ({number})")
    return "; ".join(said)


def _evaluation(frame) -> str:
    split, n_eval = _distinct(frame, "eval_split"), levels(frame, "n_eval")
    sizes = (
        f", {format_count(n_eval[0])}" + (f" to {format_count(n_eval[-1])}" if len(n_eval) > 1 else "")
        if len(n_eval)
        else ""
    )
    return f"{_listed(split)} split{f', {sizes} images or tokens' if sizes else ''}, read once" if split else ""


def _teachers(frame) -> str:
    sizes = levels(frame, "teacher_n_params")
    return f"; {', '.join(format_count(size) for size in sizes)} parameters" if len(sizes) else ""


def _cost(frame) -> str:
    said = []
    for name, unit in (("train_flops", "FLOPs of students"), ("teacher_flops", "of teachers' answers")):
        values = _numbers(frame, name)
        if np.isfinite(values).any():
            said.append(f"{format_count(float(np.nansum(values)))} {unit}")
    seconds = _numbers(frame, "seconds")
    if np.isfinite(seconds).any():
        said.append(f"{np.nansum(seconds) / 3600:.3g} hours of training")
    return ", ".join(said)


def _versions(frame) -> str:
    """Each package with its version, or versions where runs differ."""
    found: dict[str, set[str]] = {}
    for text in _distinct(frame, "versions"):
        try:
            packages = json.loads(text)
        except ValueError:
            packages = {}
        for name, version in packages.items() if isinstance(packages, dict) else ():
            found.setdefault(str(name), set()).add(str(version))
    return ", ".join(f"{name} {'/'.join(sorted(versions))}" for name, versions in found.items())


def _dates(frame) -> str:
    if "created_at" not in frame.columns:
        return ""
    import pandas as pd

    times = pd.to_datetime(frame["created_at"], errors="coerce", utc=True).dropna()
    if times.empty:
        return ""
    first, last = times.min().strftime("%Y-%m-%d"), times.max().strftime("%Y-%m-%d")
    return first if first == last else f"{first} to {last}"


def _named_columns(frame, columns) -> str:
    return "; ".join(prefix + _listed(_distinct(frame, name)) for name, prefix in columns if _distinct(frame, name))


def _distinct(frame, name: str) -> list[str]:
    return sorted({str(value) for value in frame[name].dropna()} - {""}) if name in frame.columns else []


def _listed(values: list[str]) -> str:
    rest = len(values) - _MOST_NAMES
    return ", ".join(values[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _numbers(frame, name: str) -> np.ndarray:
    if name not in frame.columns:
        return np.empty(0)
    import pandas as pd

    return pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
