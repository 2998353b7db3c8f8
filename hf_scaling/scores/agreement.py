"""How far a ranking of checkpoints agrees with what fine-tuning showed, beside rankings that need no score."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from hf_scaling.errors import InputError

#: Rankings that a person has without any score: the larger the better.
TRIVIAL = ("n_params", "n_pretrain", "upstream_accuracy")
#: Under so many configurations no verdict is given.
LEAST_CONFIGURATIONS = 12
_BEST = 1e-12


def weighted_tau(ranking: np.ndarray, accuracy: np.ndarray) -> float:
    """Kendall's tau with scipy's hyperbolic weights: 1 for the same order, -1 for the reverse; NaN if constant."""
    from scipy.stats import weightedtau

    if np.ptp(ranking) == 0 or np.ptp(accuracy) == 0:
        return float("nan")
    return float(weightedtau(ranking, accuracy).statistic)


def regret(ranking: np.ndarray, accuracy: np.ndarray) -> float:
    """How much less accurate the checkpoint with the largest score is than the best; the mean over ties."""
    chosen = ranking >= np.max(ranking) - _BEST
    return float(np.max(accuracy) - accuracy[chosen].mean())


def judge_scores(
    scores: pd.DataFrame,
    accuracy: Sequence[float],
    configuration: Sequence[str] | None = None,
    trivial: Sequence[str] = TRIVIAL,
    draws: int = 2000,
    level: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each score with the best trivial ranking, whole configurations resampled.

    Each draw takes the trivial ranking that is best in that draw, since one chosen afterwards is a winner's curse.

    Args:
        scores: A row a checkpoint, a column a score; larger is better throughout.
        accuracy: Of the same checkpoints after fine-tuning.
        configuration: What is resampled as a whole (model, n_pretrain and arm of a checkpoint, say); None takes every
            checkpoint for itself.
        trivial: The columns that are trivial rankings; absent and constant ones are left out.
        draws: Bootstrap draws.
        level: Of the intervals, and one minus the error of the verdicts, corrected over the scores by Holm.
        seed: Of the draws.

    Returns:
        A row a score: tau, low, high, pearson, regret, difference (to the best trivial tau), p_value and verdict:
        better | not | cannot_tell | trivial.

    Raises:
        InputError: Lengths differ, a score is not finite, or no trivial ranking is left.
    """
    truth = np.asarray(accuracy, dtype=float)
    values = scores.to_numpy(dtype=float)
    if len(values) != len(truth) or not np.isfinite(truth).all():
        raise InputError(f"scores: {len(values)} checkpoints need as many finite accuracies, not {len(truth)}")
    finite = np.isfinite(values).all(axis=0)
    if not finite.all():
        raise InputError(f"scores: {scores.columns[int(np.argmin(finite))]} is not finite for every checkpoint")
    names = list(scores.columns)
    baselines = [at for at, name in enumerate(names) if name in trivial and np.ptp(values[:, at]) > 0]
    if not baselines:
        raise InputError(f"scores: none of {', '.join(trivial)} varies, so there is nothing to compare with")
    groups = np.unique(np.arange(len(truth)) if configuration is None else configuration, return_inverse=True)[1]
    members = [np.flatnonzero(groups == group) for group in range(groups.max() + 1)]
    taus = np.array([weighted_tau(column, truth) for column in values.T])
    drawn = np.full((draws, len(names)), np.nan)
    generator = np.random.default_rng(seed)
    for draw in range(draws):
        rows = np.concatenate([members[group] for group in generator.integers(len(members), size=len(members))])
        drawn[draw] = [weighted_tau(column, truth[rows]) for column in values[rows].T]
    differences = (
        drawn - np.nanmax(np.where(np.isnan(drawn[:, baselines]), -1.0, drawn[:, baselines]), axis=1)[:, None]
    )
    tail = 100 * (1 - level) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
    judged = [at for at, name in enumerate(names) if name not in trivial]
    sides = [_tails(differences[:, at]) for at in judged]
    adjusted = _holm(np.array([2 * min(side) for side in sides]))
    table = []
    for at, name in enumerate(names):
        verdict, p_value = "trivial", float("nan")
        if at in judged:
            place = judged.index(at)
            p_value = adjusted[place]
            clear = p_value <= 1 - level and len(members) >= LEAST_CONFIGURATIONS
            verdict = ("better" if sides[place][0] < sides[place][1] else "not") if clear else "cannot_tell"
        table.append(
            {
                "score": name,
                "tau": taus[at],
                "low": low[at],
                "high": high[at],
                "pearson": np.corrcoef(values[:, at], truth)[0, 1] if np.ptp(values[:, at]) > 0 else np.nan,
                "regret": regret(values[:, at], truth),
                "difference": taus[at] - np.nanmax(taus[baselines]),
                "p_value": p_value,
                "verdict": verdict,
            }
        )
    return pd.DataFrame(table)


def _tails(differences: np.ndarray) -> tuple[float, float]:
    """Shares of draws at or below 0, and at or above it, never 0."""
    known = differences[np.isfinite(differences)]
    if not len(known):
        return 1.0, 1.0
    return (np.sum(known <= 0) + 1) / (len(known) + 1), (np.sum(known >= 0) + 1) / (len(known) + 1)


def _holm(p_values: np.ndarray) -> np.ndarray:
    """P values corrected for their number, step by step (Holm 1979)."""
    order, n = np.argsort(p_values), len(p_values)
    corrected = np.empty(n)
    corrected[order] = np.maximum.accumulate(p_values[order] * (n - np.arange(n)))
    return np.minimum(corrected, 1.0)
