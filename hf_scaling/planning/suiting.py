"""Which law a plan takes where nobody named one: by the sizes that the rows vary."""

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.compute import SIZES
from hf_scaling.fitting.rows import Columns

_LAWS = {
    ("n_params", "n_pretrain"): "chinchilla",
    ("n_params", "n_finetune"): "joint_multiplicative",
    ("n_pretrain", "n_finetune"): "transfer_gap",
    SIZES: "transfer_gap_joint",
}


def suitable_law(table, stage: str | None = None) -> tuple[str, str | None]:
    """The law for the sizes that a table varies, in its fine-tuned rows where it has any.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of columns.
        stage: pretrain or finetune, to choose the rows.

    Returns:
        The law's name, and the column of its variable where it has one alone.

    Raises:
        InputError: The rows vary none of n_params, n_pretrain and n_finetune.
    """
    columns = Columns.of(table)
    stages = columns.distinct("stage")
    wanted = stage or ("finetune" if "finetune" in stages else None)
    if wanted and "stage" in columns.data:
        columns = columns.where(columns.data["stage"].astype(str) == wanted, f"stage {wanted!r}")
    varied = tuple(name for name in SIZES if name in columns.data and _levels(columns, name) > 1)
    if not varied:
        raise InputError(f"the rows vary none of {', '.join(SIZES)}: nothing to plan by")
    return (_LAWS[varied], None) if len(varied) > 1 else ("power_law", varied[0])


def _levels(columns: Columns, name: str) -> int:
    values = columns.numbers(name)
    return len(np.unique(values[np.isfinite(values) & (values > 0)]))
