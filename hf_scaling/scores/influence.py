"""`class_influence`: which upstream classes help or hurt a downstream set (Jain et al. 2022, arXiv 2207.05739).

    influence = hs.class_influence("studies/halves", "digits")
    influence.table.sort_values("influence")

Models are trained on random subsets of the upstream classes and fine-tuned; a class's influence is the mean downstream
accuracy of the models with it minus that of the models without it. Every model has the same number of images, so it is
relative to the average class: leaving a class out lets the others have more.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.fitting.columns import as_table
from hf_scaling.text import did_you_mean, listing

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import TableLike

#: Verdict on a class to its meaning.
VERDICTS = {
    "helps": "the downstream set is better off with the class than with the average one",
    "hurts": "it is worse off",
    "cannot_tell": "these models do not determine it",
}
# Models in which a class must be, and not be.
_LEAST_MODELS = 4
_PERMUTATIONS = 2000
#: What a study of one model differs by, apart from its classes.
_CONDITIONS = ("model", "arm", "n_pretrain", "n_finetune", "recipe")


@dataclass(frozen=True)
class ClassInfluence:
    """The influence of each upstream class.

    Attributes:
        table: A row an upstream class: class, influence (in the target's unit; positive helps), standard_error, low,
            high (simultaneous over the classes) and verdict, a key of `VERDICTS`.
        of_classes: The same for each downstream class (column downstream_class), its intervals simultaneous over all;
            empty where the rows have no class_errors.
        downstream: The downstream set.
        n_models: Models, each of one subset of the classes.
        level: Of the intervals.
        classes: Every upstream class that a model had, also those that are in too many or too few models for `table`.
    """

    table: pd.DataFrame
    of_classes: pd.DataFrame = field(repr=False)
    downstream: str
    n_models: int
    level: float
    classes: Sequence[str] = field(repr=False)

    def summary(self) -> str:
        """The classes that help and hurt, as text for a terminal."""
        lines = [f"{self.n_models} models, {len(self.table)} upstream classes, downstream {self.downstream}"]
        for verdict in ("helps", "hurts"):
            rows = self.table[self.table["verdict"] == verdict].sort_values("influence", ascending=verdict == "hurts")
            named = (f"{row[0]} ({row[1]:+.3f})" for row in rows[["class", "influence"]].itertuples(index=False))
            lines.append(f"{verdict:8}{listing(named, 20) if len(rows) else 'none'}")
        lines.append(f"cannot tell of {(self.table['verdict'] == 'cannot_tell').sum()}")
        return "\n".join(lines)

    def expected_change(self, without: Sequence[str]) -> float:
        """What the target is expected to change by in models that are trained without some classes.

        Against models of random subsets of as many classes, all with equally many images. Classes are often chosen for
        their estimates, of which the largest promise more than they hold; so all are shrunk towards the average class
        by the share of their variance that their standard errors explain (James and Stein 1961).

        Args:
            without: The classes that are left out, of `table`.

        Returns:
            The change of the error or loss; positive is worse.

        Raises:
            InputError: Another class is named.
        """
        influence = self.table.set_index("class")["influence"]
        if unknown := set(without) - set(influence.index):
            raise InputError(f"class {min(unknown)!r}: not in the table{did_you_mean(min(unknown), influence.index)}")
        noise = (self.table["standard_error"] ** 2).mean()
        share = max(0.0, 1 - noise / max(influence.var(), 1e-300))
        n = len(influence)
        # A difference of means with and without a class is n / (n - 1) times what it has beyond the average class.
        centred = (influence - influence.mean()) * (n - 1) / n
        return float(share * centred[list(dict.fromkeys(without))].sum())

    def to_grid(
        self,
        path: str | Path,
        k: int,
        which: Literal["helpful", "harmful", "random"],
        grid: str | Path,
        seed: int = 0,
    ) -> Path:
        """Write a study without the k most helpful, most harmful or random classes: does the error move as predicted?

        Args:
            path: The grid's file; the classes that are left are listed beside it, in NAME_classes.txt.
            k: Classes to leave out.
            which: Which ones.
            grid: The grid of the study; every key but its class_subsets is kept.
            seed: Of the random classes.

        Returns:
            The path.

        Raises:
            InputError: Too few classes would be left, or another `which`.
        """
        path, names = Path(path), self.table.sort_values("influence")["class"].tolist()
        if not 0 < k <= len(names) - 2:
            raise InputError(f"k {k}: leaves fewer than two of {len(names)} classes, or takes none")
        if which not in ("helpful", "harmful", "random"):
            raise InputError(f"which {which!r}: must be helpful, harmful or random")
        if which == "random":
            out = set(np.random.default_rng(seed).choice(names, k, replace=False).tolist())
        else:
            out = set(names[-k:] if which == "helpful" else names[:k])
        content = files.read_yaml(Path(grid), "grid")
        content.pop("class_subsets", None)
        listed = path.with_name(f"{path.stem}_classes.txt")
        files.write_text(listed, "".join(f"{name}\n" for name in self.classes if name not in out))
        content["pretrain"] = {**content.get("pretrain", {}), "classes": str(listed)}
        import yaml

        files.write_text(path, yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        return path


def class_influence(
    table: "TableLike", downstream: str | None = None, target: str = "error", level: float = 0.95, seed: int = 0
) -> ClassInfluence:
    """Estimate the influence of each upstream class on a downstream set.

    The difference of the means of the models with a class and without it. The intervals hold for all classes at once:
    they are as wide as the largest standardised difference that reshuffled models show.

    Args:
        table: Results with fine-tuned rows that have `classes`: a ResultsTable, a DataFrame, or what
            `ResultsTable.load` takes. Rows of several sizes, arms or recipes are compared with their own kind.
        downstream: The downstream set; None where there is one.
        target: error or loss.
        level: Of the intervals, between 0 and 1.
        seed: Of the reshuffling.

    Raises:
        InputError: No such rows, or too few models.

    Example:
        `hs.class_influence("studies/halves", "digits").table`
    """
    given: Any = as_table(table)
    frame = given.to_pandas() if hasattr(given, "to_pandas") else pd.DataFrame(given)
    rows = _rows_of(frame, downstream, target)
    subsets = rows["classes"].map(lambda text: frozenset(json.loads(text)))
    names = sorted(frozenset.union(*subsets))
    conditions = [name for name in _CONDITIONS if name in rows]
    models = pd.DataFrame({"subset": subsets, "value": -_centred(rows, rows[target].astype(float), conditions)})
    by_model = models.groupby("subset", sort=False)["value"].mean()
    members = np.array([[name in subset for name in names] for subset in by_model.index])
    known = (members.sum(axis=0) >= _LEAST_MODELS) & ((~members).sum(axis=0) >= _LEAST_MODELS)
    if not known.any():
        raise InputError(
            f"too few models ({len(by_model)}): a class needs {_LEAST_MODELS} models with it and as many without"
        )
    used = [name for name, is_known in zip(names, known) if is_known]
    generator = np.random.default_rng(seed)
    found = _influences(by_model.to_numpy()[:, None], members[:, known], level, generator)
    whole = pd.DataFrame({"class": used, **{name: values[:, 0] for name, values in found.items()}})
    fine = pd.DataFrame(columns=["downstream_class", *whole.columns])
    if "class_errors" in rows and rows["class_errors"].notna().all():
        errors = pd.DataFrame([json.loads(text) for text in rows["class_errors"]], index=rows.index)
        centred = pd.DataFrame({name: -_centred(rows, errors[name], conditions) for name in errors.dropna(axis=1)})
        per_model = centred.groupby(subsets, sort=False).mean()
        found = _influences(per_model.to_numpy(), members[:, known], level, generator)
        fine = pd.concat(
            [
                pd.DataFrame({"downstream_class": name, "class": used, **{k: v[:, at] for k, v in found.items()}})
                for at, name in enumerate(per_model.columns)
            ],
            ignore_index=True,
        )
        fine["verdict"] = _verdicts(fine)
    whole["verdict"] = _verdicts(whole)
    return ClassInfluence(whole, fine, str(rows["downstream"].iloc[0]), len(by_model), level, names)


def _rows_of(frame: pd.DataFrame, downstream: str | None, target: str) -> pd.DataFrame:
    if target not in ("error", "loss"):
        raise InputError(f"target {target!r}: must be error or loss")
    for name in ("classes", "downstream", target):
        if name not in frame:
            raise InputError(f"the table has no column {name}: class_influence needs it")
    rows = frame[frame["classes"].notna() & frame["downstream"].notna() & frame[target].notna()]
    sets = rows["downstream"].unique().tolist()
    if not sets:
        raise InputError("no fine-tuned row has classes: train students on subsets of the upstream classes")
    if downstream is None and len(sets) > 1:
        raise InputError(f"downstream: give one of {listing(sets)}")
    if downstream is not None and downstream not in sets:
        raise InputError(f"downstream {downstream!r}: no row with classes{did_you_mean(downstream, sets)}")
    return rows if downstream is None else rows[rows["downstream"] == downstream]


def _centred(rows: pd.DataFrame, values: pd.Series, conditions: Sequence[str]) -> pd.Series:
    """Values without the mean of the rows of the same size, arm and recipe."""
    if not conditions:
        return values - values.mean()
    keys = [rows[name].fillna("") if rows[name].dtype == object else rows[name].fillna(-1) for name in conditions]
    return values - values.groupby(keys).transform("mean")


def _influences(
    values: np.ndarray, members: np.ndarray, level: float, generator: np.random.Generator
) -> dict[str, np.ndarray]:
    """Differences of means (C, T) of values (M, T) by membership (M, C), with simultaneous intervals over C and T."""
    difference, error = _differences(values, members)
    # Models are exchangeable where no class matters. Residuals of what the classes explain would be too small.
    largest = np.empty(_PERMUTATIONS)
    for at in range(_PERMUTATIONS):
        shuffled, spread = _differences(values[generator.permutation(len(values))], members)
        largest[at] = np.nanmax(np.abs(shuffled) / spread)
    width = float(np.quantile(largest, level)) * error
    return {
        "influence": difference,
        "standard_error": error,
        "low": difference - width,
        "high": difference + width,
    }


def _differences(values: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Difference of means with and without each class, and its standard error by the scatter within both groups."""
    n_with = members.sum(axis=0)[:, None]
    n_without = len(members) - n_with
    total, squares = values.sum(axis=0), (values**2).sum(axis=0)
    sums, of_squares = members.T @ values, members.T @ values**2
    mean_with, mean_without = sums / n_with, (total - sums) / n_without
    scatter = of_squares - n_with * mean_with**2 + (squares - of_squares) - n_without * mean_without**2
    variance = np.maximum(scatter, 0) / (len(values) - 2)
    with np.errstate(divide="ignore", invalid="ignore"):
        return mean_with - mean_without, np.sqrt(variance * (1 / n_with + 1 / n_without))


def _verdicts(table: pd.DataFrame) -> list[str]:
    return np.select([table["low"] > 0, table["high"] < 0], ["helps", "hurts"], "cannot_tell").tolist()
