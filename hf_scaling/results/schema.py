"""The row: its columns, their types, units and meanings, and when two rows are equal."""

import datetime
from collections.abc import Mapping
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.text import COLUMNS

SCHEMA_VERSION = 1

#: Column -> type, in the order of the row. Units: error 0..1, loss in nats an image, flops operations (not rates).
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
    "downstream": "string",
    "eval_split": "string",
    "n_eval": "int64",
    "error": "float64",
    "loss": "float64",
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

#: Column -> what it means, with its unit: the table of a data set's card.
MEANINGS = {name: COLUMNS[name].meaning for name in SCHEMA}

#: The columns in which two measurements of one run may differ.
INCIDENTAL = ("seconds", "device", "versions", "created_at")


def new_row(values: Mapping[str, Any]) -> dict[str, Any]:
    """A full row of the current schema from `values`; columns not given are null, `created_at` is now.

    Raises:
        InputError: A column that the schema does not have.
    """
    now = datetime.datetime.now(datetime.UTC)
    given = {"schema_version": SCHEMA_VERSION, "created_at": now, **values}
    refuse_unknown(given)
    return {name: given.get(name) for name in SCHEMA}


def refuse_unknown(row: Mapping[str, Any]) -> None:
    """Refuse a row that has other columns than the schema's, or no run_id.

    Raises:
        InputError: Names the columns.
    """
    unknown = sorted(set(row) - set(SCHEMA))
    if unknown:
        raise InputError(f"a results row has no column {', '.join(unknown)}")
    run_id = row.get("run_id")
    if not run_id:
        raise InputError("a results row needs a run_id")
    # It becomes the name of a file.
    if "/" in str(run_id) or "\\" in str(run_id):
        raise InputError(f"run_id {run_id!r} of a results row is no plain name")


def same_values(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    """Whether two rows are equal in design's sense: in every column but the `INCIDENTAL` ones."""
    return not differences(first, second)


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """The columns in which two rows differ, each with both values; the `INCIDENTAL` ones left out."""
    names = [name for name in SCHEMA if name not in INCIDENTAL]
    pairs = [(name, first.get(name), second.get(name)) for name in names]
    # NaN is no value of a row, but a table made by hand may hold one: it equals itself here.
    return [f"{name} {a!r} and {b!r}" for name, a, b in pairs if a != b and not (a != a and b != b)]


def is_ours(names: list[str]) -> bool:
    """Whether columns of these names are a results table's and not somebody else's."""
    return "run_id" in names and ("schema_version" in names or set(names) <= set(SCHEMA))
