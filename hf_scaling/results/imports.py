"""`import_results`: runs that other tools logged, and wide tables, as a results table with a row a measurement.

imported = import_results("outputs/")                 # run folders of a transformers Trainer
imported.mapping                                      # {"loss": "eval_loss", "n_pretrain": "unique_samples", ...}
imported = import_results("wandb.csv", map={"n_params": "config.params"})
imported.table.save("imported")
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.results.foreign import ARMS, apply_names, arm_columns, parse_size, similar_columns, wide_groups
from hf_scaling.results.table import ResultsTable
from hf_scaling.text import listing

if TYPE_CHECKING:
    import pandas as pd

#: Kinds of what can be imported -> what messages call them.
KINDS = {
    "trainer": "logs of a transformers Trainer",
    "wandb_chart": "a chart exported from W&B",
    "wandb_runs": "a table of runs exported from W&B",
    "wide": "a wide table, one column a size",
    "arms": "a wide table, one column an arm",
    "long": "a table with a row a measurement",
}
#: What THEIRS of a map is called to leave one of our columns out.
NONE = "none"
_STATE = "trainer_state.json"
_CHECKPOINT = re.compile(r"checkpoint-\d+")
# Our columns that a mapping proposes, in the order in which it is printed.
_PROPOSED = ("run", "arm", "model", "n_params", "n_pretrain", "n_finetune", "samples_seen", "train_flops", "seed")
_TARGETS = ("loss", "error")
# Columns of the table of runs that W&B exports, beside config and metrics.
_WANDB_RUNS = {"State", "Created", "Runtime", "Sweep", "Tags", "User", "ID", "Hostname", "GPU Type", "Notes"}
_WANDB_HISTORY = {"_step", "_runtime", "_timestamp"}
_WANDB_UNFINISHED = ("crashed", "failed", "killed", "running", "pending", "preempted")
# The x axes of a chart that W&B exports.
_AXES = re.compile(r"_?step|epoch|.*global_step|relative time.*|wall time|.*samples.*|.*tokens.*", re.IGNORECASE)
# Words in the headings of a wide table that name repetitions, and those that name the progress of one run.
_REPEATS = ("seed", "rep", "replicate", "repeat", "trial", "fold", "run")
_PROGRESS = ("step", "steps", "epoch", "epochs", "iteration", "iterations", "iter")
_MOST_HEADER_BYTES = 100_000_000


@dataclass(frozen=True)
class Imported:
    """A table that was imported.

    Attributes:
        table: The rows, under our names.
        kind: A key of `KINDS`.
        mapping: Our column -> theirs, as `map` takes it.
        unused: Their columns that are kept under their own names.
        notes: What was left out or assumed.
    """

    table: ResultsTable
    kind: str
    mapping: dict[str, str]
    unused: list[str]
    notes: list[str] = field(default_factory=list)


@dataclass
class _Read:
    """What a reader gives: rows under their names, our column -> theirs as far as the reader knows, and notes."""

    kind: str
    frame: "pd.DataFrame"
    known: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def import_results(
    what: str | Path, map: Mapping[str, str] | None = None, arm_names: Mapping[str, str | Sequence[str]] | None = None
) -> Imported:
    """Read runs that other tools logged, or a wide table, as a results table.

    Args:
        what: A `trainer_state.json` of a transformers Trainer, a folder with such files (of one run, or a folder a
            run); or a table in any form that `ResultsTable.load` takes: a W&B export of a chart or of runs, a wide
            table with one column a size or an arm, or a long one.
        map: Our column -> theirs, where the proposed mapping is wrong: a column's name, "NAME*1e6", "1-NAME", a number
            for all rows, or "none" to leave ours out.
        arm_names: plain and distilled -> their values in the column `arm`, as for `ResultsTable.load`.

    Returns:
        The table, with the mapping that it was made with. Checkpoints of one run have one value in the column `run`.

    Raises:
        InputError: Not readable, nothing that can be imported, or a column of `map` that is missing.

    Example:
        `import_results("outputs", map={"n_finetune": "unique_samples"}).table.save("imported")`
    """
    path = Path(what)
    if path.is_file() and path.suffix == ".json":
        read = _read_trainer([path], path.parent)
    elif path.is_dir() and (states := sorted(path.rglob(_STATE))):
        read = _read_trainer(states, path)
    else:
        table = ResultsTable.load(what)
        if not table.is_foreign:
            raise InputError(f"{what} is a results table already: there is nothing to import")
        read = _read_table(table.to_pandas(), str(what))
    mapping = _mapping(read, map or {})
    constants = {
        ours: parse_size(theirs)
        for ours, theirs in mapping.items()
        if theirs not in read.frame.columns and np.isfinite(parse_size(theirs))
    }
    columns = {ours: theirs for ours, theirs in mapping.items() if ours not in constants}
    named = apply_names(read.frame.drop(columns=[name for name in constants if name in read.frame]), columns)
    frame = apply_names(named.assign(**constants), {}, arm_names)
    first = [name for name in (*_PROPOSED, *_TARGETS) if name in frame.columns]
    frame = frame[[*first, *(name for name in frame.columns if name not in first)]]
    unused = [str(name) for name in frame.columns if name not in mapping]
    frame, notes = _with_targets(frame)
    return Imported(ResultsTable(frame), read.kind, mapping, unused, [*read.notes, *notes])


def _with_targets(frame: "pd.DataFrame") -> "tuple[pd.DataFrame, list[str]]":
    """The rows that have a loss, an error or an accuracy, and a note on those that have not, or on gaps in one."""
    targets = [name for name in (*_TARGETS, "accuracy") if name in frame and frame[name].dtype.kind in "fi"]
    finite = frame[targets].replace([np.inf, -np.inf], np.nan).notna()
    kept = finite.any(axis="columns")
    if not targets or not kept.any():
        return frame, []
    notes = []
    if not kept.all():
        notes.append(f"{int((~kept).sum())} of {len(frame)} rows left out: no {' or '.join(targets)}")
    for name in targets:
        if n_gaps := int((~finite[name])[kept].sum()):
            notes.append(f"{name} has no value in {n_gaps} of {int(kept.sum())} rows")
    return frame[kept].reset_index(drop=True), notes


def _mapping(read: _Read, given: Mapping[str, str]) -> dict[str, str]:
    """The given mapping, what the reader knows, and usual names, in this order; no proposal takes a column twice."""
    taken = set(given.values())
    mapping = {ours: theirs for ours, theirs in read.known.items() if ours not in given and theirs not in taken}
    names = [str(name) for name in read.frame.columns]
    wanted = [name for name in (*_PROPOSED[2:], *_TARGETS) if name not in {*given, *mapping}]
    here = {name: name for name in wanted if name in names}
    taken |= {*mapping.values(), *here.values()}
    free = [name for name in names if name not in taken and f"1-{name}" not in taken]
    mapping |= here | similar_columns([name for name in wanted if name not in here], free)
    if "error" not in {*mapping, *given}:
        for ours, theirs in similar_columns(
            ["accuracy"], [name for name in free if name not in mapping.values()]
        ).items():
            is_share = theirs in names and _is_share(read.frame[theirs].to_numpy())
            mapping |= {"error": f"1-{theirs}"} if is_share else {ours: theirs}
    return {ours: theirs for ours, theirs in {**mapping, **given}.items() if theirs.lower() != NONE}


# --- Trainer


def _read_trainer(states: Iterable[Path], root: Path) -> _Read:
    """A row an evaluation of each run; of several states of a run the latest counts."""
    import pandas as pd

    latest: dict[Path, tuple[Path, dict[str, Any]]] = {}
    for path in states:
        state = _read_state(path)
        folder = path.parent.parent if _CHECKPOINT.fullmatch(path.parent.name) else path.parent
        if folder not in latest or state["global_step"] >= latest[folder][1]["global_step"]:
            latest[folder] = path, state
    rows: list[dict[str, Any]] = []
    notes: list[str] = []
    for folder, (path, state) in latest.items():
        inside = folder.resolve().is_relative_to(root.resolve()) and folder.resolve() != root.resolve()
        name = folder.resolve().relative_to(root.resolve()).as_posix() if inside else folder.resolve().name
        n_params = _count_parameters([folder, path.parent])
        run_rows, note = _rows_of_state(state, _training_samples([folder, path.parent]))
        rows += [{"run": name, **({"parameters": n_params} if n_params else {}), **row} for row in run_rows]
        notes += [f"{name}: {note}"] if note else []
    if not rows:
        raise InputError(f"{listing(map(str, states), 2)}: log_history holds no evaluation and no training loss")
    frame = pd.DataFrame(rows)
    names = list(frame.columns)
    losses = ["eval_loss", *(n for n in names if re.fullmatch(r"eval_.+_loss", n)), "train_loss"]
    rates = ["eval_accuracy", *(n for n in names if re.fullmatch(r"eval_.+_accuracy", n))]
    known = {"run": "run", "n_params": "parameters", "n_pretrain": "unique_samples", "samples_seen": "samples"}
    known |= {"train_flops": "flos", "loss": next((name for name in losses if name in names), "")}
    known = {ours: theirs for ours, theirs in known.items() if theirs in names}
    rate = next((name for name in rates if name in names), None)
    if rate:
        known |= {"error": f"1-{rate}"} if _is_share(frame[rate].to_numpy()) else {"accuracy": rate}
    found = [name for name in losses if name in names and name != "train_loss"]
    is_evaluated = any(name.startswith("eval_") for name in names)
    if known.get("loss") == "train_loss" and is_evaluated:
        notes.append("no evaluation logged a loss: the loss is that of training")
    elif len(found) > 1:
        notes.append(f"the loss is {found[0]}; also logged: {listing(found[1:])}")
    return _Read("trainer", frame, known, notes)


def _is_share(values: np.ndarray) -> bool:
    """Whether a column of numbers is between 0 and 1, and so no percentage."""
    return values.dtype.kind in "fi" and bool((np.nan_to_num(values) <= 1).all())


def _read_state(path: Path) -> dict[str, Any]:
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: not JSON: {error}") from None
    history = state.get("log_history") if isinstance(state, dict) else None
    if not isinstance(history, list) or not all(isinstance(entry, dict) for entry in history):
        raise InputError(f"{path}: not a state of a Trainer: it has no list log_history")
    steps = [entry["step"] for entry in history if isinstance(entry.get("step"), int)]
    return {**state, "global_step": state.get("global_step") or max(steps, default=0)}


def _rows_of_state(state: Mapping[str, Any], n_train: int | None) -> tuple[list[dict[str, Any]], str]:
    """A row a step with an evaluation, or with a training loss where nothing was evaluated; and a note."""
    by_step: dict[int, dict[str, Any]] = {}
    train_loss, total = float("nan"), {}
    for entry in state["log_history"]:
        if "train_runtime" in entry:
            total = entry
            continue
        step = entry.get("step")
        if not isinstance(step, int):
            continue
        values = {name: value for name, value in entry.items() if isinstance(value, int | float)}
        train_loss = values.pop("loss", train_loss)
        row = by_step.setdefault(step, {"step": step})
        kept = ("epoch", "num_input_tokens_seen")
        row |= {name: value for name, value in values.items() if name.startswith("eval_") or name in kept}
        row["train_loss"] = train_loss
    speed = re.compile(r"eval_.*(runtime|per_second|jit_compilation_time|model_preparation_time)")
    rows = [{name: value for name, value in row.items() if not speed.fullmatch(name)} for row in by_step.values()]
    evaluated = [row for row in rows if any(name.startswith("eval_") for name in row)]
    note = "" if evaluated else "nothing was evaluated: the loss is that of training"
    rows = evaluated or [row for row in rows if row["train_loss"] == row["train_loss"]]
    # Samples a step, over all devices and accumulated steps.
    samples, steps = total.get("train_samples_per_second"), total.get("train_steps_per_second")
    n_steps, notes = state.get("max_steps") or state["global_step"], [note] if note else []
    if samples and total.get("train_runtime") and n_steps:
        batch = samples * total["train_runtime"] / n_steps
    elif samples and steps:
        batch = samples / steps
    else:
        batch = state.get("train_batch_size")
        if batch and rows and "num_input_tokens_seen" not in rows[-1]:
            notes.append(
                "samples are steps times train_batch_size, in whole batches: further devices and accumulation are not "
                "counted"
            )
    for row in rows:
        row |= _amounts(row, state, total, batch, n_train)
    return rows, "; ".join(notes)


def _amounts(
    row: Mapping[str, Any],
    state: Mapping[str, Any],
    total: Mapping[str, Any],
    batch: float | None,
    n_train: int | None,
) -> dict[str, float]:
    """Samples, unique samples and FLOPs up to a step, as far as they are known."""
    amounts: dict[str, float] = {}
    seen, epoch = row.get("num_input_tokens_seen"), row.get("epoch")
    if not seen and batch:
        seen = round(batch * row["step"])
        # Rounding of the logged speed: to the whole data set where it is that near.
        if n_train and epoch and abs(seen / (n_train * epoch) - 1) < 0.02:
            seen = round(n_train * epoch)
    if seen:
        amounts["samples"] = seen
        size = n_train if n_train and not row.get("num_input_tokens_seen") else seen / epoch if epoch else seen
        amounts["unique_samples"] = round(min(seen, size))
    flos = total.get("total_flos") or state.get("total_flos")
    if flos and state["global_step"]:
        amounts["flos"] = flos * row["step"] / state["global_step"]
    return amounts


def _training_samples(folders: Iterable[Path]) -> int | None:
    """Size of the training set, where the script saved it (`Trainer.save_metrics`)."""
    for folder in folders:
        for name in ("all_results.json", "train_results.json"):
            try:
                values = json.loads((folder / name).read_text(encoding="utf-8"))
            except (OSError, ValueError):
                continue
            if isinstance(values, dict) and isinstance(values.get("train_samples"), int):
                return values["train_samples"]
    return None


def _count_parameters(folders: Iterable[Path]) -> int | None:
    """Parameters of the checkpoint beside a state, from the shapes in the safetensors headers; None without one."""
    for folder in folders:
        count = 0
        try:
            for path in sorted(folder.glob("model*.safetensors")):
                with path.open("rb") as file:
                    length = int.from_bytes(file.read(8), "little")
                    header = json.loads(file.read(length)) if length <= _MOST_HEADER_BYTES else {}
                shapes = [tensor["shape"] for name, tensor in header.items() if name != "__metadata__"]
                count += sum(int(np.prod(shape)) for shape in shapes)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if count:
            return count
    return None


# --- Tables


def _read_table(frame: "pd.DataFrame", where: str) -> _Read:
    """A table from a file, by what its columns show it to be."""
    names = [str(name) for name in frame.columns]
    if frame.empty:
        raise InputError(f"{where} holds no rows")
    series = [name for name in names if " - " in name]
    if series and len(series) == len(names) - 1 and _AXES.fullmatch(names[0]):
        return _read_chart(frame, series)
    if "Name" in names and len(_WANDB_RUNS & set(names)) >= 2:
        return _read_runs(frame)
    if groups := wide_groups(names):
        return _read_wide(frame, groups)
    if arms := arm_columns(names):
        return _read_arms(frame, arms)
    known = {name: name for name in ("run", "arm") if name in names} or similar_columns(["run"], names)
    known |= {"step": "_step"} if "_step" in names else {}
    known |= {"seconds": "_runtime"} if "_runtime" in names and "seconds" not in names else {}
    is_history = len(_WANDB_HISTORY & set(names)) >= 2
    notes = [] if not is_history or "run" in known else ["no column names the run: all rows count as one run"]
    if is_history and "run" not in known:
        frame, known = frame.assign(run=Path(where).stem), {**known, "run": "run"}
    return _Read("wandb_runs" if is_history else "long", frame, known, notes)


def _read_chart(frame: "pd.DataFrame", series: Sequence[str]) -> _Read:
    """A chart of W&B: an x axis, and a column "RUN - METRIC" a run, with __MIN and __MAX beside it."""
    import pandas as pd

    axis = str(frame.columns[0])
    runs: dict[str, dict[str, str]] = {}
    for name in series:
        run, _, metric = name.rpartition(" - ")
        if not metric.endswith(("__MIN", "__MAX")) and metric != axis and not metric.startswith("_"):
            runs.setdefault(run, {})[metric] = name
    parts = []
    for run, columns in runs.items():
        rows = frame[[axis, *columns.values()]].rename(columns={name: metric for metric, name in columns.items()})
        # Grouped curves are called "n_params: 31114, arm: KD".
        values = dict(re.findall(r"([\w./]+): ([^,]+)", run))
        rows = rows.dropna(subset=list(columns), how="all").assign(run=run, **values)
        parts.append(rows)
    long = pd.concat(parts, ignore_index=True)
    for name in long.columns:
        if name not in ("run", axis) and long[name].dtype == object:
            sizes = long[name].map(parse_size)
            long[name] = sizes if sizes.notna().all() else long[name]
    known = {"run": "run"} | ({"step": axis} if re.fullmatch(r"_?step|.*global_step", axis, re.I) else {})
    known |= {"arm": "arm"} if "arm" in long.columns else {}
    return _Read("wandb_chart", long, known)


def _read_runs(frame: "pd.DataFrame") -> _Read:
    """The table of runs of W&B: a row a run, its configuration and its last metrics."""
    notes = []
    if "State" in frame.columns:
        states = frame["State"].astype(str).str.lower()
        unfinished = states.isin(_WANDB_UNFINISHED)
        if unfinished.all():
            raise InputError("no run of the table is finished: column State")
        if unfinished.any():
            notes.append(
                f"{int(unfinished.sum())} of {len(frame)} runs left out: {listing(sorted(set(states[unfinished])))}"
            )
        frame = frame[~unfinished]
    frame = frame.dropna(axis="columns", how="all").reset_index(drop=True)
    name = "ID" if "ID" in frame.columns and frame["ID"].is_unique else "Name"
    if not frame[name].is_unique:
        numbered = [f"{value} ({number})" for number, value in enumerate(frame[name], 1)]
        frame, name = frame.assign(run=numbered), "run"
    known = {"run": name} | ({"seconds": "Runtime"} if "Runtime" in frame.columns else {})
    return _Read("wandb_runs", frame, known | ({"arm": "arm"} if "arm" in frame.columns else {}), notes)


def _read_wide(frame: "pd.DataFrame", groups: Mapping[str, Mapping[float, str]]) -> _Read:
    """A wide table in long form: sizes of the headings in `heading`, cells in `value` (or in a column a group)."""
    import pandas as pd

    cells = {name for group in groups.values() for name in group.values()}
    labels = [str(name) for name in frame.columns if name not in cells]
    values = {stem: stem if len(groups) > 1 else "value" for stem in groups}
    parts = []
    for size in next(iter(groups.values())):
        columns = {values[stem]: pd.to_numeric(frame[group[size]], errors="coerce") for stem, group in groups.items()}
        parts.append(frame[labels].assign(row=np.arange(len(frame)), heading=size, **columns))
    long = pd.concat(parts, ignore_index=True).sort_values("row", kind="stable", ignore_index=True)
    empty = long[list(values.values())].isna().all(axis="columns")
    notes = [f"{int(empty.sum())} cells without a number left out"] if empty.any() else []
    known, kind_notes = _kinds_of_headings(groups, labels)
    notes += kind_notes
    if known.get("run") is None and {"step", "epoch", "samples_seen"} & set(known):
        texts = [[str(value) for value in frame[name]] for name in labels]
        named = [", ".join(cells) for cells in zip(*texts)] if texts else []
        runs = named if len(set(named)) == len(frame) else [f"row {number}" for number in range(1, len(frame) + 1)]
        long, known = long.assign(run=[runs[row] for row in long["row"]]), {**known, "run": "run"}
    return _Read("wide", long[~empty].drop(columns="row").reset_index(drop=True), known, notes)


def _read_arms(frame: "pd.DataFrame", arms: Mapping[str, Mapping[str, str]]) -> _Read:
    """A table with a column an arm in long form: the arm in `arm`, the cells in a column of the measure's name."""
    import pandas as pd

    cells = {name for columns in arms.values() for name in columns.values()}
    labels = [str(name) for name in frame.columns if name not in cells]
    parts = [
        frame[labels].assign(
            arm=arm,
            **{stem or "value": pd.to_numeric(frame[columns[arm]], errors="coerce") for stem, columns in arms.items()},
        )
        for arm in ARMS
    ]
    known = {"arm": "arm"} | ({"loss": "value"} if "" in arms else {})
    notes = ["assumed: the cells are loss; say otherwise with --map OURS=value"] if "" in arms else []
    return _Read("arms", pd.concat(parts, ignore_index=True), known, notes)


def _kinds_of_headings(
    groups: Mapping[str, Mapping[float, str]], labels: Sequence[str]
) -> tuple[dict[str, str], list[str]]:
    """Our columns for the headings and the cells of a wide table, and notes on what is assumed."""
    # One letter says little: n=100 may count anything.
    words = [word for stem in groups for word in (stem, *stem.split()) if len(word) > 1 or word == "d"]
    known: dict[str, str] = similar_columns(["run"], labels) | {
        name: name for name in ("arm", "run") if name in labels
    }
    notes = []
    sizes = ("n_params", "n_pretrain", "n_finetune", "samples_seen")
    named = next((name for name in sizes if any(similar_columns([name], [word]) for word in words)), None)
    if any(word in _REPEATS for word in words):
        named = "seed"
    elif any(word in _PROGRESS for word in words):
        named = "epoch" if any(word.startswith("epoch") for word in words) else "step"
    if named is None:
        have = {name for name in sizes if name in labels or similar_columns([name], labels)}
        named = next((name for name in ("n_pretrain", "n_params", "n_finetune") if name not in have), "n_pretrain")
        notes.append(f"assumed: the headings are {named}; say otherwise with --map OURS=heading")
    known[named] = "heading"
    if len(groups) == 1:
        targets = [name for name in ("loss", "error", "accuracy") if any(similar_columns([name], [w]) for w in words)]
        known[targets[0] if targets else "loss"] = "value"
        if not targets:
            notes.append("assumed: the cells are loss; say otherwise with --map OURS=value")
    return known, notes
