"""How well laws predict scales they have not seen: fit the smaller sizes, predict the largest, along each variable.

Random hold-outs measure interpolation, which every law does well. What a law is for is the next scale, so windows
expand along each variable and the sizes beyond are predicted.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hf_scaling.fitting.coordinates import coordinates_of
from hf_scaling.fitting.engine import estimate
from hf_scaling.fitting.rows import FitRows
from hf_scaling.laws import Law

# How much of a variable's log range is held out, from the top.
_SHARES = (0.1, 0.2, 0.3)
BASELINE = "last_value"


@dataclass(frozen=True)
class Fold:
    """One window: rows (N,) to fit, rows to predict, the variable it expands along and how far out it predicts."""

    column: str
    train: np.ndarray
    test: np.ndarray
    factor_out: float


@dataclass(frozen=True)
class Backtest:
    """The held-out errors of several laws.

    Attributes:
        folds: The windows.
        errors: Law name to one array a fold: predicted minus measured (T,) on the objective's scale; None where the
            fold leaves the law fewer rows than parameters.
    """

    folds: list[Fold]
    errors: dict[str, list[np.ndarray | None]]

    def common(self, names) -> list[int]:
        """The folds that all of these laws could be fitted in."""
        return [i for i in range(len(self.folds)) if all(self.errors[name][i] is not None for name in names)]

    def score(self, name: str, folds: list[int] | None = None) -> float:
        """Root mean square of the held-out errors, each fold counting the same; NaN without a fold."""
        chosen = range(len(self.folds)) if folds is None else folds
        squares = [np.mean(self.errors[name][i] ** 2) for i in chosen if self.errors[name][i] is not None]
        return float(np.sqrt(np.mean(squares))) if squares else float("nan")

    def p_better(self, first: str, second: str, seed: int = 0, draws: int = 1000) -> float:
        """The share of paired bootstrap draws, over held-out rows, in which the first law's error is the smaller."""
        folds = self.common([first, second])
        if not folds:
            return float("nan")
        gains = [self.errors[second][i] ** 2 - self.errors[first][i] ** 2 for i in folds]
        generator = np.random.default_rng(seed)
        totals = sum(g[generator.integers(len(g), size=(draws, len(g)))].mean(axis=1) for g in gains)
        return float(np.mean(totals > 0) + 0.5 * np.mean(totals == 0))


def expanding_folds(rows: FitRows, smallest: int) -> list[Fold]:
    """Windows along each variable that leave at least `smallest` configurations to fit."""
    folds = []
    for name, values in rows.variables.items():
        levels = np.unique(values[values > 0])
        if len(levels) < 3:
            continue
        span = np.log(levels[-1] / levels[0])
        cuts = {levels[levels <= levels[-1] * np.exp(-share * span) * (1 + 1e-9)].max() for share in _SHARES}
        for cut in sorted(cuts, reverse=True):
            train = values <= cut
            if len(np.unique(rows.configuration[train])) >= smallest:
                folds.append(Fold(rows.columns[name], train, ~train, float(levels[-1] / cut)))
    return folds


def run_backtest(rows: Mapping[str, FitRows], laws: Mapping[str, Law], objective, seed: int) -> Backtest:
    """Fit every law in every window and predict what lies beyond.

    Args:
        rows: Law name to the same rows, as that law's variables.
        laws: Law name to law.
        objective: What fits minimise.
        seed: Of the starts.
    """
    widest = max(rows.values(), key=lambda r: len(r.variables))
    fewest = min(len(law.parameters) for law in laws.values()) + 1
    folds = expanding_folds(widest, fewest)
    target = objective.scale(widest.target)
    errors = {BASELINE: [last_value(widest, fold, target) - target[fold.test] for fold in folds]}
    for name, law in laws.items():
        errors[name] = [_held_out(rows[name], law, fold, objective, seed) for fold in folds]
    return Backtest(folds, errors)


def _held_out(rows: FitRows, law: Law, fold: Fold, objective, seed: int) -> np.ndarray | None:
    train = rows.subset(fold.train)
    if train.n_configurations <= len(law.parameters):
        return None
    found = estimate(train, law, coordinates_of(law), objective, seed)
    beyond = {name: values[fold.test] for name, values in rows.variables.items()}
    with np.errstate(all="ignore"):
        predicted = objective.scale(law.evaluator(beyond).value(found.theta[None])[0])
    target = objective.scale(rows.target[fold.test])
    # A prediction that does not exist is as wrong as one that misses by a factor of e.
    return np.where(np.isfinite(predicted), predicted - target, 1.0)


def last_value(rows: FitRows, fold: Fold, target: np.ndarray) -> np.ndarray:
    """(T,) for each held-out row the mean of what was measured at the largest fitted size nearest to it otherwise."""
    logs = {name: np.log(np.maximum(values, 1e-12)) for name, values in rows.variables.items()}
    along = next(name for name, column in rows.columns.items() if column == fold.column)
    inside = np.flatnonzero(fold.train)
    last = []
    for row in np.flatnonzero(fold.test):
        apart = sum((np.abs(logs[n][inside] - logs[n][row]) for n in logs if n != along), np.zeros(len(inside)))
        near = inside[apart <= apart.min() + 1e-9]
        at = near[logs[along][near] >= logs[along][near].max() - 1e-9]
        last.append(target[at].mean())
    return np.array(last)
