"""A table as the parts in which one question can be asked: rows that may stand in one comparison."""

from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.report.numbers import count

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
        said[name].format(count(float(value)) if name == "teacher_n_params" else value)
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
    return f" ({count(seen[0])}{f' to {count(seen[-1])}' if len(seen) > 1 else ''} {part.noun} seen)"


def _texts(frame, name: str) -> list[str]:
    if name not in frame.columns:
        return []
    return sorted({str(value) for value in frame[name].dropna()} - {""})
