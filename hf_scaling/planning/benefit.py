"""What the runs themselves show of pre-training, without a law.

`compare_benefits`: which of several downstream sets it helps more; `compare_stages`: whether twice its images helped
more than twice the labelled images.
"""

import itertools
from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy.special import stdtrit

#: Columns of the comparison.
COLUMNS = (
    "more",
    "less",
    "n_pretrain",
    "against",
    "benefit_more",
    "benefit_less",
    "difference",
    "low",
    "high",
    "verdict",
)
_NEEDED = ("seed", "n_pretrain", "n_finetune", "value")


def compare_benefits(sets: Mapping[str, pd.DataFrame], level: float = 0.95) -> pd.DataFrame:
    """Compare what pre-training does for each pair of downstream sets.

    No law is fitted. A set's benefit is the mean, over the n_finetune that all sets have, of the logarithm of its
    value at the smallest n_pretrain less that at the largest, with the largest model: of the models and n_pretrain
    that two seeds or more have for all sets. Sets fine-tuned from the same checkpoints share the checkpoints' luck,
    which cancels in a difference. The noise is what an additive model of sets and seeds leaves (two-way analysis of
    variance), so two seeds are the least; intervals are simultaneous over the pairs (Bonferroni).

    Args:
        sets: Downstream set to its fine-tuned rows: columns seed, n_pretrain, n_finetune, value (positive, less is
            better) and, where models differ, n_params and model, the name by which sets share a model (its n_params
            differ where the sets have other numbers of classes). Rows without pre-training are ignored.
        level: Of the intervals, between 0 and 1.

    Returns:
        A row a pair, the largest difference first, with `COLUMNS`: more and less, the sets; n_pretrain and against,
        the amounts compared; benefit_more and benefit_less, the shares by which the value falls; difference of the
        logarithms with low and high; verdict differ where the interval is above 0, else cannot_tell. Empty where
        fewer than two sets, or fewer than two seeds, have the same cells.
    """
    none = pd.DataFrame(columns=list(COLUMNS))
    frames = {name: _usable(rows) for name, rows in sets.items()}
    if len(frames) < 2 or any(rows.empty for rows in frames.values()):
        return none
    named = next((key for key in ("model", "n_params") if all(key in rows for rows in frames.values())), None)
    cells = ["architecture", "n_pretrain", "n_finetune", "seed"]
    logarithms, sizes = {}, dict[object, float]()
    for name, rows in frames.items():
        rows = rows.assign(architecture=rows[named] if named else 0, value=np.log(rows["value"]))
        logarithms[name] = rows.groupby(cells)["value"].mean()
        if "n_params" in rows:
            sizes |= rows.groupby("architecture")["n_params"].mean().to_dict()
    shared = pd.DataFrame(logarithms).dropna().reset_index()
    models = sorted(shared["architecture"].unique(), key=lambda model: sizes.get(model, 0.0), reverse=True)
    of_models = (shared[shared["architecture"] == model].drop(columns="architecture") for model in models)
    widest = next(filter(None, map(_widest_benefits, of_models)), None)
    if widest is None:
        return none
    least, most, by_set = widest
    values = by_set.to_numpy()
    n_seeds, n_sets = values.shape
    rest = values - values.mean(axis=0) - values.mean(axis=1, keepdims=True) + values.mean()
    freedom = (n_seeds - 1) * (n_sets - 1)
    error = np.sqrt(2 * (rest**2).sum() / freedom / n_seeds)
    pairs = list(itertools.combinations(range(n_sets), 2))
    width = stdtrit(freedom, 1 - (1 - level) / 2 / len(pairs)) * error
    means, compared = values.mean(axis=0), []
    for pair in pairs:
        more, less = sorted(pair, key=lambda at: -means[at])
        difference = means[more] - means[less]
        compared.append(
            {
                "more": by_set.columns[more],
                "less": by_set.columns[less],
                "n_pretrain": most,
                "against": least,
                "benefit_more": -np.expm1(-means[more]),
                "benefit_less": -np.expm1(-means[less]),
                "difference": difference,
                "low": difference - width,
                "high": difference + width,
                "verdict": "differ" if difference > width else "cannot_tell",
            }
        )
    return pd.DataFrame(compared, columns=list(COLUMNS)).sort_values("difference", ascending=False, ignore_index=True)


def _widest_benefits(values: pd.DataFrame) -> tuple[float, float, pd.DataFrame] | None:
    """The n_pretrain farthest apart that two seeds have, and the benefit of each set (a column) by seed; None without.

    Args:
        values: Columns n_pretrain, n_finetune, seed, and a set's logarithms each.
    """
    n_seeds = values.groupby("n_pretrain")["seed"].nunique()
    levels = sorted(n_seeds[n_seeds > 1].index)
    spans = sorted(itertools.combinations(levels, 2), key=lambda ends: (ends[1] / ends[0], ends[1]), reverse=True)
    for least, most in spans:
        first, last = (
            values[values["n_pretrain"] == n].set_index(["n_finetune", "seed"]).drop(columns="n_pretrain")
            for n in (least, most)
        )
        by_seed = (first - last).dropna()
        # Amounts of labels at which every seed that was fine-tuned at all has every set.
        n_at_labels = by_seed.groupby("n_finetune")[by_seed.columns[0]].transform("size")
        by_set = by_seed[n_at_labels == by_seed.index.unique("seed").size].groupby("seed").mean()
        if len(by_set) > 1:
            return least, most, by_set
    return None


def compare_stages(rows: pd.DataFrame, level: float = 0.95) -> dict[str, float | str]:
    """Compare what twice the upstream images and twice the labelled images changed.

    A split-plot analysis of the logarithms. The labelled images vary within checkpoints: each has a slope of its own,
    and their scatter is the error of the mean. The upstream images vary between checkpoints, which have luck of their
    own: their means at equal n_finetune are regressed on n_pretrain, with an intercept for each seed and n_params.
    Cells with n_pretrain and n_finetune in the upper half of their logarithmic ranges are used; all where these are
    too few.

    Args:
        rows: The fine-tuned rows of one downstream set: columns as `compare_benefits` takes them; seed may be absent.
        level: Of the intervals, between 0 and 1.

    Returns:
        images_doubled and labels_doubled, the share by which the value changed (-0.1: a tenth lower), each with _low
        and _high; helps_more: images or labels, where the interval of the difference excludes 0, else cannot_tell;
        over: upper_half or all. NaN, and over "", where fewer than two checkpoints more than there are seeds and
        n_params have two n_finetune.
    """
    rows = _usable(rows if "seed" in rows else rows.assign(seed=0))
    upper = pd.Series(True, index=rows.index)
    for size in ("n_pretrain", "n_finetune"):
        upper &= rows[size] ** 2 >= rows[size].min() * rows[size].max() * (1 - 1e-9)
    for over, own in (("upper_half", rows[upper]), ("all", rows)):
        if stages := _stages(own, level):
            return {**stages, "over": over}
    empty = {f"{kind}_doubled{end}": np.nan for kind in ("images", "labels") for end in ("", "_low", "_high")}
    return {**empty, "helps_more": "cannot_tell", "over": ""}


def _stages(rows: pd.DataFrame, level: float) -> dict[str, float | str] | None:
    """`compare_stages` of these cells; None where they are too few."""
    keys = [name for name in ("n_params", "seed") if name in rows]
    checkpoint = [*keys, "n_pretrain"]
    values = (
        rows.assign(value=np.log(rows["value"])).groupby([*checkpoint, "n_finetune"])["value"].mean().reset_index()
    )
    # A checkpoint with one n_finetune has no slope, and may have met an easy or a hard number of labels.
    values = values[values.groupby(checkpoint)["n_finetune"].transform("size") > 1]
    labels = np.log2(values["n_finetune"])
    values = values.assign(
        labels=labels, own=labels - labels.groupby([values[key] for key in checkpoint]).transform("mean")
    )
    grouped = values.assign(product=values["own"] * values["value"], square=values["own"] ** 2).groupby(checkpoint)
    sums = grouped[["product", "square", "value", "labels"]].agg("sum")
    counts = grouped.size()
    slopes = (sums["product"] / sums["square"]).to_numpy()
    if not len(slopes):
        return None
    # Checkpoints are compared as if all had been fine-tuned on the same numbers of labels.
    means = (sums["value"] - slopes.mean() * sums["labels"]) / counts
    images = pd.Series(np.log2(means.index.get_level_values("n_pretrain").to_numpy(float)), index=means.index)
    within = [series - series.groupby(level=keys).transform("mean") for series in (means, images)]
    mean, image = (series.to_numpy() for series in within)
    freedom = len(slopes) - means.groupby(level=keys).ngroups - 1
    if freedom < 1 or not image.any():
        return None
    slope = image @ mean / (image @ image)
    scatter = np.sum((mean - slope * image) ** 2) / freedom
    changes = {"images": slope, "labels": slopes.mean()}
    errors = np.sqrt([scatter / (image @ image), slopes.var(ddof=1) / len(slopes)])
    freedoms = np.array([freedom, len(slopes) - 1.0])
    stages: dict[str, float | str] = {}
    for (kind, change), half in zip(changes.items(), stdtrit(freedoms, (1 + level) / 2) * errors):
        ends = np.expm1(np.array([change, change - half, change + half]))
        stages |= dict(zip((f"{kind}_doubled", f"{kind}_doubled_low", f"{kind}_doubled_high"), ends.tolist()))
    # With the fewer degrees of freedom: Welch's say more than three checkpoints can.
    difference = changes["labels"] - changes["images"]
    half = stdtrit(freedoms.min(), (1 + level) / 2) * np.sqrt((errors**2).sum())
    more = "labels" if difference < -half else "images" if difference > half else "cannot_tell"
    return {**stages, "helps_more": more}


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    if not set(_NEEDED) <= set(rows.columns):
        return pd.DataFrame(columns=_NEEDED)
    numbers = rows[[*_NEEDED, *(["n_params"] if "n_params" in rows else [])]].apply(pd.to_numeric, errors="coerce")
    if "model" in rows and rows["model"].notna().all():
        numbers["model"] = rows["model"]
    rows = numbers.dropna()
    return rows[(rows["n_pretrain"] > 0) & (rows["n_finetune"] > 0) & (rows["value"] > 0)]
