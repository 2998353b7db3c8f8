"""Linear probes of a study: recipes that train the head alone, which a row does not name."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_scaling import files

if TYPE_CHECKING:
    import pandas as pd

#: The key of `DataFrame.attrs` under which a study's table holds these recipes.
PROBES = "linear_probes"


def find_probes(study: Path, rows: "pd.DataFrame") -> list[str]:
    """The recipes of fine-tuned rows that train the head alone (`train_part: head`), by a run.yaml of each.

    Args:
        study: The study's folder; one without run folders has none.
        rows: Rows of its table.

    Returns:
        The recipes, sorted.

    Raises:
        InputError: A run.yaml is damaged.
    """
    if not {"stage", "recipe", "run_id"} <= set(rows.columns) or not (study / "runs").is_dir():
        return []
    heads = []
    tuned = rows[rows["stage"] == "finetune"]
    for recipe, run_ids in tuned.groupby("recipe")["run_id"]:
        paths = (study / "runs" / str(run_id) / "run.yaml" for run_id in run_ids)
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            rule = files.read_yaml(path, "run").get("spec", {}).get("rule", {})
            heads += [str(recipe)] if rule.get("train_part") == "head" else []
    return sorted(heads)
