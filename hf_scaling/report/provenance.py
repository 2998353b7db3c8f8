"""How the numbers of a table were collected: what (Mis)Fitting (2025) asks a report to state of runs and data."""

import json

import numpy as np

from hf_scaling.report.numbers import count
from hf_scaling.report.parts import levels

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
        "data": _named(frame, (("task", ""), ("upstream", "upstream "), ("downstream", "downstream "))),
        "sizes": _sizes(frame),
        "evaluated on": _evaluation(frame),
        "teachers": _named(frame, (("distillation", ""),)) + _teachers(frame),
        "training rule": _named(frame, (("recipe", "recipe "), ("precision", ""))),
        "seeds": _named(frame, (("seed", ""),)),
        "cost": _cost(frame),
        "devices": _named(frame, (("device", ""),)),
        "versions": _versions(frame),
        "measured": _dates(frame),
    }
    collected = (
        [text for name, text in _COLLECTED.items() if name in frame.columns] if "run_id" in frame.columns else []
    )
    facts["how collected"] = "; ".join(collected) or "as the table's author did"
    return {name: text for name, text in facts.items() if text}


def _runs(frame) -> str:
    groups = [name for name in ("stage", "arm") if _texts(frame, name)]
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
    names = _texts(frame, "model")
    if not names:
        return ""
    if not len(levels(frame, "n_params")):
        return _listed(names)
    sizes = frame.groupby("model")["n_params"].max().sort_values()
    return _listed([f"{name} ({count(size)} parameters)" for name, size in sizes.items()])


def _sizes(frame) -> str:
    said = []
    for name in ("n_params", "n_pretrain", "n_finetune", "image_size"):
        values = levels(frame, name)
        if len(values):
            number = f"{len(values)} levels" if len(values) > 1 else "one level"
            span = count(values[0]) + (f" to {count(values[-1])}" if len(values) > 1 else "")
            said.append(f"{name} {span} ({number})")
    return "; ".join(said)


def _evaluation(frame) -> str:
    split, n_eval = _texts(frame, "eval_split"), levels(frame, "n_eval")
    sizes = f", {count(n_eval[0])}" + (f" to {count(n_eval[-1])}" if len(n_eval) > 1 else "") if len(n_eval) else ""
    return f"{_listed(split)} split{sizes + ' images or tokens' if sizes else ''}, read once" if split else ""


def _teachers(frame) -> str:
    sizes = levels(frame, "teacher_n_params")
    return f"; {', '.join(count(size) for size in sizes)} parameters" if len(sizes) else ""


def _cost(frame) -> str:
    said = []
    for name, unit in (("train_flops", "FLOPs of students"), ("teacher_flops", "of teachers' answers")):
        values = _numbers(frame, name)
        if np.isfinite(values).any():
            said.append(f"{count(float(np.nansum(values)))} {unit}")
    seconds = _numbers(frame, "seconds")
    if np.isfinite(seconds).any():
        said.append(f"{np.nansum(seconds) / 3600:.3g} hours of training")
    return ", ".join(said)


def _versions(frame) -> str:
    """Each package with its version, or versions where runs differ."""
    found: dict[str, set[str]] = {}
    for text in _texts(frame, "versions"):
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


def _named(frame, columns) -> str:
    return "; ".join(prefix + _listed(_texts(frame, name)) for name, prefix in columns if _texts(frame, name))


def _texts(frame, name: str) -> list[str]:
    return sorted({str(value) for value in frame[name].dropna()} - {""}) if name in frame.columns else []


def _listed(values: list[str]) -> str:
    rest = len(values) - _MOST_NAMES
    return ", ".join(values[:_MOST_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _numbers(frame, name: str) -> np.ndarray:
    if name not in frame.columns:
        return np.empty(0)
    import pandas as pd

    return pd.to_numeric(frame[name], errors="coerce").to_numpy(dtype=float, na_value=np.nan)
