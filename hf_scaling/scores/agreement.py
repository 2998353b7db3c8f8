"""How far a ranking of checkpoints agrees with what fine-tuning showed, beside rankings that need no score."""

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from hf_scaling.errors import InputError
from hf_scaling.text import format_percent

#: Where a study keeps its scores: a row a checkpoint and scored set (`source`), upstream_error with its sign changed.
NAME = "scores.parquet"
#: Its columns that are not scores.
ABOUT = ("run_id", "model", "arm", "seed", "source")
#: Rankings that a person has without any score: the larger the better.
TRIVIAL = ("n_params", "n_pretrain", "upstream_accuracy")
#: Before the value of its constant in the name of a column that holds TransRate at another constant than its default.
VARIED = "transrate epsilon "
#: Under so many configurations no verdict is given.
LEAST_CONFIGURATIONS = 12
_BEST = 1e-12


def weighted_taus(rankings: np.ndarray, accuracy: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Kendall's tau with hyperbolic weights (Vigna 2015), as `scipy.stats.weightedtau` has it, for many samples.

    Args:
        rankings: Scores, (k, n); larger is better.
        accuracy: What they should rank, (n,).
        times: How often each of the n is in each sample, integers (samples, n).

    Returns:
        (samples, k): 1 for the same order, -1 for the reverse; NaN where either is constant in the sample.
    """
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, times.sum(axis=1).max() + 1))])
    of_truth = np.sign(accuracy[:, None] - accuracy)
    taus = np.empty((len(times), len(rankings)))
    for at, ranking in enumerate(rankings):
        of_ranking = np.sign(ranking[:, None] - ranking)
        agree, moved, differ = (times @ pairs for pairs in (of_ranking * of_truth, of_ranking**2, of_truth**2))
        halves = []
        # Weights by the rank in one, ties by the other; the mean of both. A member that is drawn m times has m ranks.
        for keys in ((accuracy, ranking), (ranking, accuracy)):
            order = np.lexsort(keys)[::-1]
            last = np.cumsum(times[:, order], axis=1)
            weights = np.empty(times.shape)
            weights[:, order] = harmonic[last] - harmonic[last - times[:, order]]
            top, left, right = ((weights * pairs).sum(axis=1) for pairs in (agree, moved, differ))
            with np.errstate(invalid="ignore"):
                halves.append(top / np.sqrt(left * right))
        taus[:, at] = (halves[0] + halves[1]) / 2
    return taus


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
    n_groups = int(groups.max()) + 1
    taus = weighted_taus(values.T, truth, np.ones((1, len(truth)), int))[0]
    generator = np.random.default_rng(seed)
    of_group = generator.multinomial(n_groups, np.full(n_groups, 1 / n_groups), size=draws)
    drawn = weighted_taus(values.T, truth, of_group[:, groups])
    differences = (
        drawn - np.nanmax(np.where(np.isnan(drawn[:, baselines]), -1.0, drawn[:, baselines]), axis=1)[:, None]
    )
    tail = 100 * (1 - level) / 2
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a constant column has no tau in any draw
        low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
    judged = [at for at, name in enumerate(names) if name not in trivial]
    # Shares of draws at or below 0, and at or above it, never 0.
    sides = []
    for at in judged:
        known = differences[np.isfinite(differences[:, at]), at]
        n_draws = len(known) + 1
        sides.append((((known <= 0).sum() + 1) / n_draws, ((known >= 0).sum() + 1) / n_draws))
    # P values corrected for their number, step by step (Holm 1979).
    p_values = np.array([2 * min(side) for side in sides])
    order, n = np.argsort(p_values), len(p_values)
    adjusted = np.empty(n)
    adjusted[order] = np.maximum.accumulate(p_values[order] * (n - np.arange(n)))
    adjusted = np.minimum(adjusted, 1.0)
    table = []
    for at, name in enumerate(names):
        verdict, p_value = "trivial", float("nan")
        if at in judged:
            place = judged.index(at)
            p_value = adjusted[place]
            clear = p_value <= 1 - level and n_groups >= LEAST_CONFIGURATIONS
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


def constant_columns(table: pd.DataFrame) -> list[str]:
    """The columns with TransRate at several constants, the smallest first; none in a table of an older version."""
    names = [str(name) for name in table if str(name).startswith(VARIED)]
    return sorted(names, key=lambda name: float(name.removeprefix(VARIED)))


def judge_constants(varied: np.ndarray, accuracy: Sequence[float]) -> dict[str, float]:
    """How far a ranking depends on the constant of its score.

    Args:
        varied: The score at each constant, (constants, n).
        accuracy: What it should rank, (n,).

    Returns:
        flipped: share of the pairs of checkpoints whose order is not the same at all constants; tau_least and
        tau_most: the extremes of the weighted tau. NaN where no constant gives an order.
    """
    truth = np.asarray(accuracy, dtype=float)
    signs = np.sign(varied[:, :, None] - varied[:, None, :])
    first, second = np.triu_indices(len(truth), 1)
    differ = (signs != signs[0]).any(axis=0)[first, second]
    taus = weighted_taus(varied, truth, np.ones((1, len(truth)), int))[0]
    known = taus[np.isfinite(taus)]
    least, most = (known.min(), known.max()) if len(known) else (np.nan, np.nan)
    return {"flipped": float(differ.mean()) if len(differ) else np.nan, "tau_least": least, "tau_most": most}


def judge_study(frame: pd.DataFrame, table: pd.DataFrame, targets: Sequence[str] = ("error", "loss")) -> pd.DataFrame:
    """Judge the scores of a study's checkpoints by its rows fine-tuned on the scored sets, for each n_finetune.

    Args:
        frame: The rows of the study.
        table: As scores.parquet holds it.
        targets: Columns that a score should rank; less is better.

    Returns:
        The rows of `judge_scores` with downstream, n_finetune, target and n_configurations, and for TransRate flipped,
        tau_least and tau_most (`judge_constants`), NaN for other scores; empty where nothing was fine-tuned on a
        scored set.
    """
    judged, varied = [], constant_columns(table)
    for source, of_set in table.groupby("source", sort=False):
        about = of_set.set_index("run_id")
        scores = about.drop(columns=[*(set(ABOUT) & set(about)), *varied]).rename(
            columns={"upstream_error": TRIVIAL[-1]}
        )
        scores = scores[[name for name in scores if np.isfinite(scores[name]).all()]]
        tuned = frame[(frame["stage"] == "finetune") & frame["parent"].isin(scores.index)]
        for n_finetune, rows in tuned[tuned["downstream"] == source].groupby("n_finetune"):
            means = rows.groupby("parent")[list(targets)].mean()
            own = about.loc[means.index]
            configuration = [f"{m} {a} {n}" for m, a, n in zip(own["model"], own["arm"], own["n_pretrain"])]
            for target in targets:
                try:
                    found = judge_scores(scores.loc[means.index], (-means[target]).tolist(), configuration)
                except InputError:
                    continue
                where = {"downstream": source, "n_finetune": n_finetune, "target": target}
                found = found.assign(**where, n_configurations=len(set(configuration)))
                constants = (
                    judge_constants(own[varied].to_numpy(dtype=float).T, (-means[target]).tolist()) if varied else {}
                )
                for name in ("flipped", "tau_least", "tau_most"):
                    value = constants.get(name, np.nan)
                    found[name] = np.where(found["score"] == "transrate", value, np.nan)
                judged.append(found)
    return pd.concat(judged, ignore_index=True) if judged else pd.DataFrame()


def describe_constants(judged: pd.DataFrame) -> list[str]:
    """A clause for each set on which the order by TransRate depends on its constant.

    Args:
        judged: The rows of `judge_study`, of one target.
    """
    if "flipped" not in judged:
        return []
    clauses = []
    for downstream, rows in judged[judged["flipped"] > 0].groupby("downstream", sort=False):
        flipped = format_percent(rows["flipped"].max())
        clauses.append(
            f"over five decades of its constant epsilon, transrate changes the order of {flipped} of the pairs of "
            f"checkpoints on {downstream}, and its weighted tau goes from {rows['tau_least'].min():.2f} to "
            f"{rows['tau_most'].max():.2f}"
        )
    return clauses
