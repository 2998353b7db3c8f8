"""`compare_benefits`: which of several downstream sets pre-training helps more, from the runs themselves."""

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


def _usable(rows: pd.DataFrame) -> pd.DataFrame:
    if not set(_NEEDED) <= set(rows.columns):
        return pd.DataFrame(columns=_NEEDED)
    rows = (
        rows[[*_NEEDED, *(["n_params"] if "n_params" in rows else [])]].apply(pd.to_numeric, errors="coerce").dropna()
    )
    return rows[(rows["n_pretrain"] > 0) & (rows["n_finetune"] > 0) & (rows["value"] > 0)]
