"""The columns of a results row with their types and meanings, and when two rows are equal."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.text import COLUMNS

SCHEMA_VERSION = 2

#: Column -> type, in the order of the row. Units: error 0 to 1, loss in nats per image, FLOPs are counts (not rates).
SCHEMA = {
    "run_id": "string",
    "study": "string",
    "task": "string",
    "stage": "string",
    "arm": "string",
    "distillation": "string",
    "recipe": "string",
    "model": "string",
    "n_params": "int64",
    "n_pretrain": "int64",
    "n_finetune": "int64",
    "image_size": "int64",
    "teacher": "string",
    "teacher_n_params": "int64",
    "teacher_n_pretrain": "int64",
    "teacher_loss": "float64",
    "teacher_error": "float64",
    "agreement": "float64",
    "parent": "string",
    "seed": "int64",
    "upstream": "string",
    "classes": "string",
    "downstream": "string",
    "eval_split": "string",
    "n_eval": "int64",
    "error": "float64",
    "loss": "float64",
    "class_errors": "string",
    "samples_seen": "int64",
    "train_flops": "float64",
    "teacher_flops": "float64",
    "seconds": "float64",
    "device": "string",
    "precision": "string",
    "versions": "string",
    "schema_version": "int64",
    "created_at": "timestamp[us, tz=UTC]",
}

#: Column -> what it means, with its unit: the table in a data set's card.
MEANINGS = {name: COLUMNS[name].meaning for name in SCHEMA}

#: The columns in which two measurements of one run may differ.
INCIDENTAL = ("seconds", "device", "versions", "created_at")

#: The columns that are null where they were not asked for, or are older than they are: a null one equals any value.
OPTIONAL = ("classes", "class_errors")


def new_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """A full row of the current schema.

    Args:
        values: Column -> value. Other columns are null, but for `schema_version` (the current one) and `created_at`
            (now).

    Raises:
        InputError: A column that the schema does not have, or a run_id that cannot name a file.
    """
    now = datetime.datetime.now(datetime.UTC)
    row = {"schema_version": SCHEMA_VERSION, "created_at": now, **values}
    check_columns(row)
    return {name: row.get(name) for name in SCHEMA}


def check_columns(row: Mapping[str, Any]) -> None:
    """Check that a row has no unknown column and a usable run_id.

    Raises:
        InputError: Names the columns, or the run_id.
    """
    unknown = sorted(set(row) - set(SCHEMA))
    if unknown:
        raise InputError(f"a results row has no column {', '.join(unknown)}")
    run_id = row.get("run_id")
    if not run_id:
        raise InputError("a results row needs a run_id")
    # It names a file in the results folder.
    if "/" in str(run_id) or "\\" in str(run_id):
        raise InputError(f"run_id {run_id!r}: a run_id must not hold a slash, since it names a file")


def same_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two rows are equal in every column but the `INCIDENTAL` ones; null `OPTIONAL` ones equal any value."""
    return not differences(first, second)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The columns in which two rows differ, as `same_values` compares them, each with both values."""
    names = [
        name
        for name in SCHEMA
        if name not in INCIDENTAL and not (name in OPTIONAL and None in (first.get(name), second.get(name)))
    ]
    pairs = [(name, first.get(name), second.get(name)) for name in names]
    # A table edited by hand may hold NaN, which counts as equal to itself here.
    return [f"{name} {a!r} and {b!r}" for name, a, b in pairs if a != b and not (a != a and b != b)]


def has_results_columns(names: Sequence[str]) -> bool:
    """Whether columns of these names belong to a results table, not to a foreign table."""
    return "run_id" in names and ("schema_version" in names or set(names) <= set(SCHEMA))
