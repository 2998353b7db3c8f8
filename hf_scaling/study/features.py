"""`transferability`: scores of checkpoints on labelled images, before any of them is fine-tuned.

    hs.transferability(["runs/ID", "org/model"], "path/to/labelled").sort_values("logme")

The features of a checkpoint are what its classifying layer gets; they are computed once for a checkpoint and a subset
and kept in the cache.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from hf_scaling import files, models
from hf_scaling.data import Source, nested_subset, open_source
from hf_scaling.data.cache import cache_root
from hf_scaling.errors import InputError
from hf_scaling.results import ResultsTable
from hf_scaling.scores import SCORES, knn, linear_probe
from hf_scaling.scores.agreement import NAME, VARIED, judge_study
from hf_scaling.scores.transrate import EPSILONS, transrates
from hf_scaling.tasks import find
from hf_scaling.tasks.streams import ImageSet
from hf_scaling.text import did_you_mean, listing
from hf_scaling.training.config import quiet_libraries
from hf_scaling.training.run_folder import Checkpoint, identify

#: Columns beside the published scores: what is known of a checkpoint without its features, and probes of them.
STATIC = ("n_params", "n_pretrain", "upstream_error")
PROBES = {"knn": knn, "linear_probe": linear_probe}
_VERSION, _BATCH, _LEAST_IMAGES = 1, 250, 20


@dataclass(frozen=True)
class Features:
    """A checkpoint's view of labelled images.

    Attributes:
        features: What the head gets, float32 (n, d).
        labels: Class ids of the images, int64 (n,).
        probabilities: Of the classes that the checkpoint was trained on, float32 (n, Z).
    """

    features: np.ndarray
    labels: np.ndarray
    probabilities: np.ndarray


def transferability(
    checkpoints: Sequence[str | Path],
    source: str | Source,
    scores: Sequence[str] | None = None,
    n: int = 1000,
    seed: int = 0,
    cache_dir: str | Path | None = None,
    classes: int | str | None = None,
) -> pd.DataFrame:
    """Score checkpoints on labelled images: which will be best there once it is fine-tuned?

    How far such a ranking can be trusted is another question: `hf-scaling scores` judges each score by the fine-tuned
    rows of a study, beside rankings by size (docs/scores.md).

    Args:
        checkpoints: Folders of runs, other folders with an image classifier, or Hub ids.
        source: Labelled images, as `open_source` takes them, or an open source; their training part is used.
        scores: Names of `SCORES`, knn and linear_probe; None takes all.
        n: Images, class-balanced; all where there are fewer.
        seed: Of the subset, and of scores that draw.
        cache_dir: Folder of the cache; None takes the default.
        classes: Of `source`, where it is a name: a number or a file, as `open_source` takes them; None takes all.

    Returns:
        Index checkpoint as given; a column a score, and n_params, n_pretrain and upstream_error (the error rate on the
        upstream test images with its sign changed). Larger is better throughout. NaN where it is not known: the
        upstream columns of a checkpoint that hf_scaling did not train.

    Raises:
        InputError: An unknown score, no checkpoints, one that is not an image classifier, or images that cannot be
            scored.

    Example:
        >>> transferability(["studies/demo/runs/ID"], "digits", n=500)  # doctest: +SKIP
    """
    known = [*SCORES, *PROBES]
    wanted = known if scores is None else list(scores)
    for name in wanted:
        if name not in known:
            hint = did_you_mean(name, known) or f": choose of {listing(known, 20)}"
            raise InputError(f"scores {name!r}: unknown{hint}")
    if isinstance(checkpoints, str | Path) or not len(checkpoints):
        raise InputError("checkpoints: give a list of one or more folders or Hub ids")
    if n < _LEAST_IMAGES:
        raise InputError(f"n {n}: too few images for a score: give at least {_LEAST_IMAGES}")
    return _score_table(checkpoints, source, wanted, (), n, seed, cache_dir, classes)


def _score_table(
    checkpoints: Sequence[str | Path],
    source: str | Source,
    wanted: Sequence[str],
    epsilons: Sequence[float],
    n: int,
    seed: int,
    cache_dir: str | Path | None,
    classes: int | str | None,
) -> pd.DataFrame:
    """The table of `transferability`, with a further column for TransRate at each of some constants."""
    task, rows = find("image_classification"), {}
    varied = [f"{VARIED}{epsilon:g}" for epsilon in epsilons]
    for where in checkpoints:
        with quiet_libraries():
            checkpoint = identify(where, task)
            seen = _features(checkpoint, source, n, seed, cache_dir, classes)
        row = {
            "n_params": checkpoint.row.get("n_params", np.nan),
            "n_pretrain": checkpoint.row.get("n_pretrain", np.nan),
            "upstream_error": -checkpoint.row["error"] if checkpoint.row.get("stage") == "pretrain" else np.nan,
        }
        for name in wanted:
            if name in PROBES:
                value = PROBES[name](seen.features, seen.labels)
            else:
                value = SCORES[name](seen.features, seen.labels, seen.probabilities, seed=seed)
            row[name] = value
        rows[str(where)] = row | dict(zip(varied, transrates(seen.features, seen.labels, epsilons) if varied else ()))
    table = pd.DataFrame.from_dict(rows, orient="index", columns=[*STATIC, *wanted, *varied], dtype=float)
    table.index.name = "checkpoint"
    return table


def _features(
    checkpoint: Checkpoint,
    source: str | Source,
    n: int,
    seed: int,
    cache_dir: str | Path | None,
    classes: int | str | None,
) -> Features:
    """The features of a checkpoint, from the cache where they are there."""
    model = None
    if isinstance(source, str):
        model = models.load_model(checkpoint.folder)
        size = models.input_size(model)
        if size is None:
            raise InputError(f"{checkpoint.name}: its input size is not stated: give an open source of the right size")
        source = open_source(source, image_size=size, classes=classes, cache_dir=cache_dir)
    labels = source.train.labels
    chosen = nested_subset(labels, min(n, len(labels)), seed)
    key = [_VERSION, checkpoint.id, source.fingerprint, hashlib.sha256(chosen.tobytes()).hexdigest()]
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:24]
    path = cache_root(cache_dir) / "features" / f"{name}.npz"
    if path.is_file():
        try:
            with np.load(path) as kept:
                return Features(kept["features"], kept["labels"], kept["probabilities"])
        except (OSError, ValueError, KeyError):  # damaged: computed again
            pass
    model = model or models.load_model(checkpoint.folder)
    images = ImageSet(source.train, chosen, models.load_statistics(checkpoint.folder))
    seen = _compute(model, images, labels[chosen])
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **vars(seen))
    return seen


@torch.no_grad()
def _compute(model: Any, images: ImageSet, labels: np.ndarray) -> Features:
    model.eval()
    probabilities = []
    with models.recording_features(model) as features:
        for start in range(0, len(images), _BATCH):
            batch = images.__getitems__(list(range(start, min(start + _BATCH, len(images)))))
            logits = model(pixel_values=batch["pixel_values"]).logits.float()
            probabilities.append(logits.softmax(-1).cpu())
    return Features(torch.cat(features).numpy(), np.asarray(labels), torch.cat(probabilities).numpy())


@dataclass(frozen=True)
class StudyScores:
    """The scores of a study's checkpoints on one set, and how far each score was right in this study.

    Attributes:
        table: A row a pretraining run: run_id, model, arm, n_pretrain, source, the scores, and TransRate at constants
            over five decades.
        judged: A row a score, fine-tuned set and n_finetune (`judge_scores`); empty where nothing was fine-tuned.
        path: Where the table is kept.
    """

    table: pd.DataFrame
    judged: pd.DataFrame
    path: Path


def score_study(study: str | Path, source: str, n: int = 1000, seed: int = 0) -> StudyScores:
    """Score the checkpoints of a study on a set, and judge the scores by the study's own fine-tuned rows.

    Args:
        study: Folder of the study.
        source: Labelled images, as `open_source` takes them. Where the study fine-tunes on some of its classes, the
            scores are on these.
        n: Images.
        seed: Of the subset.

    Returns:
        The scores, kept in the study's scores.parquet beside those of other sets, and the judgements.

    Raises:
        InputError: Not a study, or one whose checkpoints are gone.
    """
    folder = Path(study)
    if not (folder / "results").is_dir():
        raise InputError(f"{study} is not the folder of a study: it has no results")
    frame = ResultsTable.load(folder).to_pandas()
    pretrained = frame[(frame["stage"] == "pretrain") & (frame["task"] == "image_classification")]
    here = [run_id for run_id in pretrained["run_id"] if (folder / "runs" / run_id / "model.safetensors").is_file()]
    if not here:
        raise InputError(f"{study}: none of its {len(pretrained):,} checkpoints is here: scores need their weights")
    name = Path(source).resolve().name if Path(source).exists() else source
    runs, classes = [folder / "runs" / run_id for run_id in here], _classes_of(folder, name)
    scored = _score_table(runs, source, [*SCORES, *PROBES], EPSILONS, n, seed, None, classes)
    scored.index = pd.Index(here, name="run_id")
    about = pretrained.set_index("run_id").loc[here, ["model", "arm", "seed"]]
    table = about.join(scored).reset_index().assign(source=name)
    path = folder / NAME
    kept = pd.read_parquet(path) if path.is_file() else table.iloc[:0]
    kept = pd.concat([kept[kept["source"] != name], table], ignore_index=True) if len(kept) else table
    with files.replacing(path) as temporary:
        kept.to_parquet(temporary)
    return StudyScores(table, judge_study(frame, table), path)


def _classes_of(study: Path, name: str) -> int | str | None:
    """The classes of a set that a study fine-tunes on; None for all, and where it does not use the set."""
    path = study / "grid.yaml"
    content = files.read_yaml(path, "grid") if path.is_file() else {}
    given = content.get("downstream", [])
    for item in given if isinstance(given, list) else [given]:
        if isinstance(item, dict) and Path(str(item.get("source"))).name == Path(name).name:
            return item.get("classes", content.get("finetune", {}).get("classes"))
    return content.get("finetune", {}).get("classes")
