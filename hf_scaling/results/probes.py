"""Linear probes of a study: recipes that train the head alone, which a row does not name."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_scaling import files

if TYPE_CHECKING:
    import pandas as pd

#: The key of `DataFrame.attrs` under which a study's table holds these recipes.
PROBES = "linear_probes"


# Training the head alone takes the forward pass and little more, a third of what all weights take.
_MOST_COST = 0.45


def find_probes(study: Path | None, rows: "pd.DataFrame") -> list[str]:
    """The recipes of fine-tuned rows that train the head alone (`train_part: head`).

    A study's run.yaml of each recipe says so. A table without run folders, such as one from the Hub, shows it by its
    cost: recipes whose FLOPs per example are less than .45 of the largest of the same model and image size.

    Args:
        study: The study's folder, or None.
        rows: Rows of its table.

    Returns:
        The recipes, sorted.

    Raises:
        InputError: A run.yaml is damaged.
    """
    if not {"stage", "recipe", "run_id"} <= set(rows.columns):
        return []
    tuned = rows[rows["stage"] == "finetune"]
    if study is None or not (study / "runs").is_dir():
        return _cheap_recipes(tuned)
    heads = []
    for recipe, run_ids in tuned.groupby("recipe")["run_id"]:
        paths = (study / "runs" / str(run_id) / "run.yaml" for run_id in run_ids)
        path = next((path for path in paths if path.is_file()), None)
        if path is not None:
            rule = files.read_yaml(path, "run").get("spec", {}).get("rule", {})
            heads += [str(recipe)] if rule.get("train_part") == "head" else []
    return sorted(heads)


def _cheap_recipes(tuned: "pd.DataFrame") -> list[str]:
    kind = [name for name in ("model", "n_params", "image_size") if name in tuned]
    if tuned["recipe"].nunique() < 2 or not {"train_flops", "samples_seen"} <= set(tuned.columns) or not kind:
        return []
    cost = tuned["train_flops"] / tuned["samples_seen"].where(tuned["samples_seen"] > 0)
    largest = cost.groupby([tuned[name] for name in kind], dropna=False).transform("max")
    is_cheap = (cost < _MOST_COST * largest).groupby(tuned["recipe"]).all()
    return sorted(map(str, is_cheap.index[is_cheap]))
