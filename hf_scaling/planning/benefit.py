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
    value at the smallest n_pretrain less that at the largest, with the largest model that all have. Sets fine-tuned
    from the same checkpoints share the checkpoints' luck, which cancels in a difference. The noise is what an additive
    model of sets and seeds leaves (two-way analysis of variance), so two seeds are the least; intervals are
    simultaneous over the pairs (Bonferroni).

    Args:
        sets: Downstream set to its fine-tuned rows: columns seed, n_pretrain, n_finetune, value (positive, less is
            better) and, where models differ in it, n_params. Rows without pre-training are ignored.
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
    if all("n_params" in rows for rows in frames.values()):
        models = set.intersection(*(set(rows["n_params"]) for rows in frames.values()))
        if not models:
            return none
        frames = {name: rows[rows["n_params"] == max(models)] for name, rows in frames.items()}
    shared = set.intersection(*(set(rows["n_pretrain"]) for rows in frames.values()))
    if len(shared) < 2:
        return none
    least, most = min(shared), max(shared)
    benefits = {}
    for name, rows in frames.items():
        means = rows.assign(value=np.log(rows["value"])).groupby(["seed", "n_finetune", "n_pretrain"])["value"].mean()
        ends = means.unstack().reindex(columns=[least, most])
        benefits[name] = (ends[least] - ends[most]).dropna()
    by_seed = pd.DataFrame(benefits).dropna()
    # Amounts of labels at which every seed that was fine-tuned at all has every set.
    seeds = by_seed.index.unique("seed")
    is_whole = by_seed.groupby("n_finetune")[by_seed.columns[0]].transform("size") == len(seeds)
    by_set = by_seed[is_whole].groupby("seed").mean()
    if len(by_set) < 2:
        return none
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


def compare_stages(rows: pd.DataFrame, level: float = 0.95) -> dict[str, float | str]:
    """Compare what twice the upstream images and twice the labelled images changed, over the upper half of each.

    A split-plot analysis of the logarithms, of the cells with n_pretrain and n_finetune in the upper half of their
    logarithmic ranges. The labelled images vary within checkpoints: each has a slope of its own, and their scatter is
    the error of the mean. The upstream images vary between checkpoints, which have luck of their own: their means are
    regressed on n_pretrain, with an intercept for each seed and n_params.

    Args:
        rows: The fine-tuned rows of one downstream set: columns as `compare_benefits` takes them; seed may be absent.
        level: Of the intervals, between 0 and 1.

    Returns:
        images_doubled and labels_doubled, the share by which the value changed (-0.1: a tenth lower), each with _low
        and _high, and helps_more: images or labels, where the interval of the difference excludes 0, else cannot_tell.
        NaN where fewer than two checkpoints more than there are seeds and n_params are left, or one n_finetune.
    """
    kinds = ("images", "labels")
    rows = _usable(rows if "seed" in rows else rows.assign(seed=0))
    empty = {f"{kind}_doubled{end}": np.nan for kind in kinds for end in ("", "_low", "_high")}
    for size in ("n_pretrain", "n_finetune"):
        if len(rows):
            rows = rows[rows[size] ** 2 >= rows[size].min() * rows[size].max() * (1 - 1e-9)]
    keys = [name for name in ("n_params", "seed") if name in rows]
    values = rows.assign(value=np.log(rows["value"])).groupby([*keys, "n_pretrain", "n_finetune"])["value"].mean()
    cells = values.unstack().dropna() if len(values) else pd.DataFrame()
    group = cells.groupby(level=keys).ngroup().to_numpy() if len(cells) else np.empty(0, dtype=int)
    freedom = len(cells) - len(set(group)) - 1
    if freedom < 1 or cells.shape[1] < 2:
        return {**empty, "helps_more": "cannot_tell"}

    def centred(numbers: np.ndarray) -> np.ndarray:
        """Numbers of checkpoints less the mean of their group."""
        return numbers - (np.bincount(group, numbers) / np.bincount(group))[group]

    labels = np.log2(cells.columns.to_numpy(float))
    labels -= labels.mean()
    slopes = cells.to_numpy() @ labels / (labels @ labels)
    images = centred(np.log2(cells.index.get_level_values("n_pretrain").to_numpy(float)))
    means = centred(cells.mean(axis=1).to_numpy())
    if not images.any():
        return {**empty, "helps_more": "cannot_tell"}
    slope = images @ means / (images @ images)
    changes = np.array([slope, slopes.mean()])
    scatter = np.sum((means - slope * images) ** 2) / freedom
    errors = np.sqrt([scatter / (images @ images), slopes.var(ddof=1) / len(slopes)])
    freedoms = np.array([freedom, len(slopes) - 1.0])
    stages: dict[str, float | str] = {}
    for kind, change, half in zip(kinds, changes, stdtrit(freedoms, (1 + level) / 2) * errors):
        ends = np.expm1(np.array([change, change - half, change + half]))
        stages |= dict(zip((f"{kind}_doubled", f"{kind}_doubled_low", f"{kind}_doubled_high"), ends.tolist()))
    # Welch's degrees of freedom of the difference.
    joint = (errors**2).sum() ** 2 / max((errors**4 / freedoms).sum(), np.finfo(float).tiny)
    difference, half = changes[1] - changes[0], stdtrit(joint, (1 + level) / 2) * np.sqrt((errors**2).sum())
    more = "labels" if difference < -half else "images" if difference > half else "cannot_tell"
    return {**stages, "helps_more": more}


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    if not set(_NEEDED) <= set(rows.columns):
        return pd.DataFrame(columns=_NEEDED)
    rows = (
        rows[[*_NEEDED, *(["n_params"] if "n_params" in rows else [])]].apply(pd.to_numeric, errors="coerce").dropna()
    )
    return rows[(rows["n_pretrain"] > 0) & (rows["n_finetune"] > 0) & (rows["value"] > 0)]
