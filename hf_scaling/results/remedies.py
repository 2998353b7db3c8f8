"""What to do where a table lacks a column: errors that name the arguments or the import that would help."""

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.errors import ColumnsError
from hf_scaling.results.foreign import (
    SIZES,
    TARGETS,
    arm_columns,
    arm_texts,
    column_meaning,
    column_names,
    propose_arms,
    similar_columns,
    wide_headings,
)
from hf_scaling.text import did_you_mean, listing

if TYPE_CHECKING:
    import pandas as pd

    #: A table as columns.
    Data = pd.DataFrame | Mapping[str, np.ndarray]

# Columns of numbers that are no target.
_NO_TARGETS = ("seed", "run", "run_id", "model", "arm", "step", "epoch", "_step", "seconds", "year", "id")
# Laws for the sizes that a table has.
_LAWS = {
    ("n_params", "n_pretrain"): "chinchilla",
    ("n_pretrain", "n_finetune"): "transfer_gap",
    ("n_params", "n_pretrain", "n_finetune"): "transfer_gap_joint",
}


def missing_columns(
    table: "Data", sizes: Sequence[str], target: str | None = None, others: Sequence[str] = (), any_size: bool = False
) -> ColumnsError:
    """The error of a table that lacks columns, with the arguments that supply them.

    Args:
        table: The table.
        sizes: The variables of the law; a law of other sizes is proposed where the table has none of these.
        target: The column to fit.
        others: Further columns that are needed.
        any_size: Whether one of the sizes is enough, since a law is selected for those that the table has.
    """
    # Names in parentheses are columns that fits add.
    names = [str(name) for name in column_names(table) if not str(name).startswith("(")]
    absent = [name for name in (*sizes, *([target] if target else []), *others) if name not in names]
    problem = f"the table has no column {', '.join(map(repr, dict.fromkeys(absent)))}: it has {listing(names, 20)}"
    if any_size:
        lacks_target = f", and no {target!r}" if target in absent else ""
        problem = f"the table has no column {' or '.join(map(repr, sizes))}{lacks_target}: it has {listing(names, 20)}"
    if headings := wide_headings(names):
        text = f"{problem}; it seems to have one column a size ({listing(headings, 4)}): bring it into long form first"
        return ColumnsError(text, wide=True)
    remedy: dict[str, list[str]] = {}
    maps = similar_columns([name for name in (*sizes, *others) if name in absent], names)
    target_map, wanted = _target_remedy(target, [name for name in names if name not in maps.values()], table)
    if any(name in absent and name not in maps for name in sizes) and not (any_size and maps):
        maps, remedy = _other_law(table, names, {*target_map.values(), wanted or target or ""})
    maps |= target_map
    if wanted:
        remedy["target"] = [wanted]
    if not maps and not remedy and absent:
        problem += did_you_mean(absent[0], names)
    return ColumnsError(problem, {"map": [f"{ours}={theirs}" for ours, theirs in maps.items()], **remedy})


def _target_remedy(target: str | None, names: Sequence[str], table: "Data") -> tuple[dict[str, str], str | None]:
    """The map and the --target for a target that a table lacks."""
    if target is None or target in names:
        return {}, None
    if near := similar_columns([target], names):
        return near, None
    for other in TARGETS:
        if other in names:
            return {}, other
    for other in TARGETS:
        if near := similar_columns([other], names):
            return near, other
    # Perplexity, bits per byte, a score: the only column of numbers that is no size, or the only one of its kind.
    others = [name for name in names if column_meaning(name) not in (*SIZES, *_NO_TARGETS)]
    left = [name for name in others if np.asarray(table[name]).dtype.kind in "fiu"]
    return {}, left[0] if len(left) == 1 else None


def _other_law(
    table: "Data", names: Sequence[str], taken: Collection[str]
) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The maps, law and x for the sizes that a table has and that vary in it."""
    sizes = ("n_params", "n_pretrain", "n_finetune")
    free = [name for name in names if name not in taken]
    maps = similar_columns([name for name in sizes if name not in names], [name for name in free if name not in sizes])
    own = tuple(
        name for name in sizes if name in maps or (name in names and len(np.unique(np.asarray(table[name]))) > 1)
    )
    if own in _LAWS:
        return maps, {"law": [_LAWS[own]]}
    if own:
        kept = own[0]
        return {name: maps[name] for name in own[:1] if name in maps}, {"law": ["power_law"], "x": [kept]}
    known = {"seed", "run", "run_id", "step", "epoch", *TARGETS}
    varied = [name for name in free if column_meaning(name) not in known and _varies(np.asarray(table[name]))]
    # Of the evaluations of one run it is what grows.
    varied = ["samples_seen"] if "samples_seen" in varied else varied
    return {}, {"law": ["power_law"], "x": varied} if len(varied) == 1 else {}


def _varies(values: np.ndarray) -> bool:
    """Whether values are positive numbers of several sizes."""
    try:
        numbers = values.astype(float)
    except (TypeError, ValueError):
        return False
    return bool((numbers[np.isfinite(numbers)] > 0).all()) and len(np.unique(numbers[np.isfinite(numbers)])) > 2


def missing_arms(
    table: "Data", wanted: str | None = None, others: Sequence[str] = (), target: str | None = None
) -> ColumnsError:
    """The error of a table that lacks a column arm with the values plain and distilled.

    Args:
        table: The table.
        wanted: The arm that it lacks; None where it lacks the column.
        others: Further columns that are needed: those that are missing too are mapped by the same advice.
        target: The column to compare, likewise.
    """
    names = [str(name) for name in column_names(table)]
    problem = f"the table has no column 'arm': it has {listing(names, 20)}"
    values = list(dict.fromkeys(filter(None, arm_texts(np.asarray(table["arm"]))))) if "arm" in names else []
    if "arm" in names:
        problem = f"the table has no row with arm {wanted or 'plain'!r}: its arms are {listing(values)}"
        if n_empty := arm_texts(np.asarray(table["arm"])).count(""):
            problem += f", and {n_empty} rows have none: write plain or distilled there"
    remedy: dict[str, list[str]] = {}
    proposal = propose_arms(table)
    if proposal and ("arm" not in names or len(values) > 1):
        column, arms = proposal
        if column != "arm":
            problem += f"; its column {column!r} holds {listing(dict.fromkeys(arm_texts(np.asarray(table[column]))))}"
            remedy["map"] = [f"arm={column}"]
        renamed = ",".join(f"{arm}={value}" for arm, value in arms.items() if value != arm)
        remedy["arm_names"] = [renamed] if renamed else []
    if proposal is None and (measures := arm_columns(names)):
        columns = listing(name for arms in measures.values() for name in arms.values())
        return ColumnsError(f"{problem}; it seems to have one column an arm ({columns})", wide=True)
    if proposal is None and "arm" not in names:
        return ColumnsError(f"{problem}; the rows of such a column are plain or distilled, and both are compared")
    if any(name not in names for name in (*others, *([target] if target else []))):
        rest = {name: table[name] for name in column_names(table) if not proposal or name != proposal[0]}
        further = missing_columns(rest, (), target, others).remedy
        remedy = {**remedy, **further, "map": remedy.get("map", []) + further.get("map", [])}
    return ColumnsError(problem, remedy)
