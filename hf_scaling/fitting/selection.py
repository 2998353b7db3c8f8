"""`compare_laws`: which law predicts the largest scales best."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.columns import SIZES, Columns, as_table, note
from hf_scaling.fitting.estimate import estimate
from hf_scaling.fitting.fit import FitOptions, fit_rows, resolve_law, suited_to
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.fitting.mixed import MixedRowsError
from hf_scaling.fitting.rows import FitRows, RowFilter, column_of, number_configurations, read_columns, take_rows
from hf_scaling.fitting.solver import Objective, coordinates_of
from hf_scaling.laws import LAWS, Law
from hf_scaling.results.remedies import missing_columns
from hf_scaling.text import format_percent

if TYPE_CHECKING:
    import pandas as pd

    from hf_scaling.fitting.columns import Table, TableLike

#: The baseline of every comparison: the mean of what was measured at the largest fitted sizes.
BASELINE = "last_value"
#: The four published forms of one variable; together they predict better than any of them (docs/fitting.md).
ONE_VARIABLE = ("power_law", "shifted_power_law", "m4", "bnsl")
# How much of a variable's log range is held out, from the top.
_SHARES = (0.1, 0.2, 0.3)
# A variable that moves the target by less than this share over its whole measured range hardly matters.
_SMALL_EFFECT = 0.05


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

    def score(self, name: str) -> float:
        """Root mean square of a law's held-out errors, over the folds in which most laws could be fitted.

        Each fold counts the same; NaN without a fold, or where the law could not be fitted in one of them.
        """
        fitted = [[errors[i] is not None for errors in self.errors.values()] for i in range(len(self.folds))]
        # The baseline, which every fold has, does not count.
        errors = [self.errors[name][i] for i, laws in enumerate(fitted) if sum(laws) - 1 >= len(laws) // 2]
        squares = [np.mean(error**2) for error in errors if error is not None]
        return float(np.sqrt(np.mean(squares))) if squares and len(squares) == len(errors) else float("nan")

    def typical(self, name: str) -> float:
        """The geometric mean over windows of a law's root mean square error: one impossible window does not decide.

        NaN without a window, or where the law could not be fitted in one that most laws could be.
        """
        if np.isnan(self.score(name)):
            return float("nan")
        squares = [np.mean(error**2) for error in self.errors[name] if error is not None]
        return float(np.exp(0.5 * np.mean(np.log(np.maximum(squares, 1e-24)))))

    def p_better(self, first: str, second: str, seed: int = 0, draws: int = 1000) -> float:
        """The share of paired bootstrap draws, over held-out rows, in which the first law's error is the smaller."""
        gains = [
            theirs**2 - ours**2
            for ours, theirs in zip(self.errors[first], self.errors[second])
            if ours is not None and theirs is not None
        ]
        if not gains:
            return float("nan")
        generator = np.random.default_rng(seed)
        totals = np.zeros(draws)
        for gain in gains:
            totals += gain[generator.integers(len(gain), size=(draws, len(gain)))].mean(axis=1)
        return float(np.mean(totals > 0) + 0.5 * np.mean(totals == 0))


@dataclass(frozen=True)
class Ranking:
    """Laws ranked by their error on the held-out largest scales.

    Attributes:
        table: A DataFrame: law, holdout_log_rmse, aicc, status, factor_out (how far beyond the fitted sizes the
            farthest held-out row is); it always holds the baseline `last_value`.
        best: The law with the smallest held-out error.
        p_better: Share of paired bootstrap draws over held-out rows in which it beats the second.
        notes: What was left out, and what the comparison cannot decide.
        backtest: The held-out errors behind the table.
        fits: Law name to its fit on all compared rows (without a bootstrap).
    """

    table: "pd.DataFrame"
    best: str
    p_better: float
    notes: list[dict]
    backtest: Backtest = field(repr=False)
    fits: dict[str, LawFit] = field(repr=False)

    def summary(self) -> str:
        """The ranking as text for a terminal."""
        from hf_scaling.fitting.card import describe_ranking

        return describe_ranking(self)


def compare_laws(
    table: "TableLike",
    target: str = "loss",
    laws: Iterable[str | Law] | None = None,
    holdout: str = "largest",
    x: str | None = None,
    arm: str | None = None,
    upstream: str | None = None,
    downstream: str | None = None,
    stage: str | None = None,
    objective: str = "log_huber",
    delta: float | None = None,
    weights: "str | Sequence[float] | np.ndarray | None" = None,
    seed: int = 0,
    direction: Literal["up", "down"] | None = None,
    bounds: tuple[float | None, float | None] | None = None,
) -> Ranking:
    """Rank laws by how well they predict the largest scales from the smaller ones.

    The laws are compared on the rows that all of them can use.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes.
        target: The column to predict.
        laws: Names or laws; by default every law whose variables the table varies.
        holdout: "largest": windows expand along each variable and the sizes beyond are predicted.
        x: The column of the one-variable laws' variable; by default the one size that varies.
        arm: Use only the rows of this arm; by default all rows, which must then be of one arm.
        upstream: Use only the rows of this upstream data set; by default all rows, which must then be of one.
        downstream: Use only the rows of this downstream data set; by default all rows, which must then be of one.
        stage: pretrain or finetune; by default finetune where the table has such rows.
        objective: log_huber, log_mse or mse.
        delta: The Huber threshold on log residuals; by default it follows the data.
        weights: A column's name or one positive number a row; by default equal, or from n_eval where target is error.
        seed: Seed of the starts and draws.
        direction: "up" where more of the target is better, "down" where less is; as for `fit_law`.
        bounds: Least and most that the target can be; as for `fit_law`.

    Raises:
        InputError: No law fits the table's columns, holdout is unknown, or the input cannot be used.

    Example:
        `compare_laws(table, target="error", laws=["transfer_gap", "transfer_gap_shifted"]).best`
    """
    if holdout != "largest":
        raise InputError(f"holdout {holdout!r} is unknown: the only choice is 'largest'")
    row_filter = RowFilter(
        target, x, arm, upstream, downstream, stage, weights=weights, direction=direction, bounds=bounds
    )
    return rank(as_table(table), row_filter, FitOptions(objective, delta, bootstrap=0, seed=seed), laws)


def rank(
    table: "Table", row_filter: RowFilter, options: FitOptions, laws: Iterable[str | Law] | None = None
) -> Ranking:
    """`compare_laws` on a loaded table, with its keywords as a RowFilter and FitOptions."""
    import pandas as pd

    row_filter = with_stage(table, row_filter)
    candidates = _candidates(table, row_filter, laws)
    rows, notes = shared_rows(table, row_filter, candidates)
    candidates = {name: law for name, law in candidates.items() if name in rows}
    if laws is None:
        # Those with fewer parameters than there are rows, else the smallest.
        sizes = {name: len(law.parameters) for name, law in candidates.items()}
        kept = [name for name, size in sizes.items() if size < len(rows[name].target)]
        kept = kept or [name for name, size in sizes.items() if size == min(sizes.values())]
        if dropped := [name for name in candidates if name not in kept]:
            text = f"{', '.join(dropped)} left out of the comparison: too many parameters for the table's rows"
            notes.append(note("laws_left_out", "info", text))
            candidates = {name: candidates[name] for name in kept}
    for name, law in candidates.items():
        candidates[name], options, _ = suited_to(rows[name], law, options)
    backtest = run_backtest(rows, candidates, options.make_objective(), options.seed)
    if not backtest.folds:
        text = "no variable has enough sizes to hold out the largest: laws are ranked by AICc alone"
        notes.append(note("no_holdout", "warn", text))
    # These fits are only ranked: nobody needs their intervals.
    without_draws = replace(options, bootstrap=0)
    fits = {name: fit_rows(rows[name], law, without_draws) for name, law in candidates.items()}
    errors = {name: backtest.score(name) for name in [*candidates, BASELINE]}
    aicc = {name: fit.scores["aicc"] for name, fit in fits.items()}
    sizes = {name: len(law.parameters) for name, law in candidates.items()}
    order = sorted(errors, key=lambda n: (np.isnan(errors[n]), errors[n], aicc.get(n, np.inf), sizes.get(n, 0)))
    frame = pd.DataFrame(
        {
            "law": order,
            "holdout_log_rmse": [errors[n] for n in order],
            "aicc": [aicc.get(n, np.nan) for n in order],
            "status": [fits[n].status if n in fits else "baseline" for n in order],
            "factor_out": max((fold.factor_out for fold in backtest.folds), default=1.0),
        }
    )
    best = next(n for n in order if n != BASELINE)
    second = order[1] if order[0] == best else order[0]
    p_better = backtest.p_better(best, second, options.seed)
    if order[0] == BASELINE:
        text = "no law predicts the largest scales better than the last value carried forward: there is no trend"
        notes.append(note("baseline_wins", "error", text))
    elif 0.05 < p_better < 0.95:
        share = format_percent(p_better)
        text = f"{best} is not clearly better than {second}: ahead in {share} of paired bootstrap draws"
        notes.append(note("not_clearly_better", "warn", text))
    return Ranking(frame, best, p_better, notes + _small_effects(fits[best]), backtest, fits)


def with_stage(table: "Table", row_filter: RowFilter) -> RowFilter:
    """The filter with the stage that a comparison takes: the fine-tuned rows where there are any."""
    columns = Columns.of(table)
    if row_filter.stage is not None or "stage" not in columns.data:
        return row_filter
    return replace(row_filter, stage="finetune" if "finetune" in columns.distinct("stage") else "pretrain")


def candidates_of(table: "Table", row_filter: RowFilter) -> tuple[dict[str, Law], RowFilter]:
    """The laws of the sizes that vary within the curves of a pool, and the filter with the column of their variable.

    Raises:
        InputError: No size varies within a curve, or no law is of those that do.
    """
    if row_filter.x is not None:
        return {name: LAWS[name] for name in laws_of_one_variable([row_filter.x])}, row_filter
    columns = Columns.of(table)
    columns.require(*row_filter.pool)
    curve = number_configurations(
        [np.unique(columns.data[name].astype(str), return_inverse=True)[1] for name in row_filter.pool]
    )
    varied = []
    for name in _varied_sizes(columns, row_filter.stage):
        values = columns.numbers(name)
        known = np.isfinite(values) & (values > 0)
        if len(np.unique(np.stack([curve, values])[:, known], axis=1).T) > len(np.unique(curve[known])):
            varied.append(name)
    if len(varied) == 1:
        return {name: LAWS[name] for name in laws_of_one_variable(varied)}, replace(row_filter, x=varied[0])
    several = {
        name: law
        for name, law in LAWS.items()
        if not law.unbound and len(law.variables) > 1 and set(law.variables) <= set(varied)
    }
    if not several:
        sizes = ", ".join(varied) or "no size"
        raise InputError(f"no law has the variables that vary within a curve ({sizes}): choose law= or x=")
    return several, row_filter


def _candidates(table: "Table", row_filter: RowFilter, laws: Iterable[str | Law] | None) -> dict[str, Law]:
    if laws is not None:
        if isinstance(laws, str | Law):
            raise InputError(f"laws must be a list: write laws=[{laws!r}]")
        named = {law.name: law for law in map(resolve_law, laws)}
        if not named:
            raise InputError("laws is empty: name at least one, or leave it out to compare all that fit the table")
        return named
    varied = [row_filter.x] if row_filter.x is not None else _varied_sizes(Columns.of(table), row_filter.stage)
    if len(varied) == 1:
        return {name: LAWS[name] for name in laws_of_one_variable(varied)}
    several = {
        name: law
        for name, law in LAWS.items()
        if not law.unbound and set(law.variables) <= set(varied) and len(law.variables) > 1
    }
    several.pop("downstream_log", None)
    if not several:
        columns = Columns.of(table)
        if not any(name in columns.data for name in SIZES):
            raise missing_columns(columns.data, SIZES, row_filter.target, any_size=True)
        sizes = ", ".join(varied) or "no size"
        raise InputError(f"no law has the variables that this table varies ({sizes}): choose laws= or x=")
    return several


def laws_of_one_variable(columns: Iterable[str]) -> tuple[str, ...]:
    """The one-variable laws for a table's columns: the rectified law is one of fine-tuning data."""
    return (*ONE_VARIABLE, "rectified") if "n_finetune" in columns else ONE_VARIABLE


def _varied_sizes(columns: Columns, stage: str | None) -> list[str]:
    """The sizes that take several positive values among the rows of a stage."""
    if stage is not None:
        columns.require("stage")
        keep = columns.data["stage"].astype(str) == stage
        if not keep.any():
            return []
        columns = columns.where(keep, f"stage={stage!r}")
    varied = []
    for name in SIZES:
        if name in columns.data and len(columns):
            values = columns.numbers(name)
            if len(np.unique(values[np.isfinite(values) & (values > 0)])) > 1:
                varied.append(name)
    return varied


def shared_rows(
    table: "Table", row_filter: RowFilter, laws: Mapping[str, Law]
) -> tuple[dict[str, FitRows], list[dict]]:
    """The rows that all the laws can use, as each law's variables, and a note on those left out."""
    x = row_filter.x
    if x is None and any(len(law.variables) == 1 for law in laws.values()):
        varied = _varied_sizes(Columns.of(table), row_filter.stage)
        x = varied[0] if len(varied) == 1 else None
    filters, columns, usable = {}, {}, []
    for name, law in laws.items():
        filters[name] = replace(row_filter, x=x if len(law.variables) == 1 else None)
        own = columns[name] = read_columns(table, law, filters[name])
        defined = law.defined({v: own.numbers(column) for v, column in column_of(law, filters[name].x).items()})
        usable.append(set(own.labels[defined]))
    shared = list(set.intersection(*usable))
    if not shared:
        raise InputError("these laws share no row (pretrain and finetune?): choose stage=, or compare fewer laws")
    notes = list(next(iter(columns.values())).notes)
    most = max(len(own) for own in columns.values())
    if len(shared) < most:
        text = f"{most - len(shared)} of {most} rows left out: not every law compared can use them"
        notes.append(note("rows_left_out", "info", text))
    rows: dict[str, FitRows] = {}
    refused: MixedRowsError | None = None
    for name, law in laws.items():
        own = columns[name].where(np.isin(columns[name].labels, shared), "sizes that every law can use")
        try:
            rows[name] = take_rows(own, law, filters[name])
        except MixedRowsError as error:
            refused = refused or error
            notes.append(note("laws_left_out", "info", f"{name} left out of the comparison: {error}"))
    if not rows and refused is not None:
        raise refused
    return rows, notes


def run_backtest(rows: Mapping[str, FitRows], laws: Mapping[str, Law], objective: Objective, seed: int) -> Backtest:
    """Fit every law in every window and predict the sizes beyond it.

    Args:
        rows: Law name to the same rows, as that law's variables.
        laws: Law name to law.
        objective: What the fits minimise.
        seed: Seed of the starts.
    """
    widest = max(rows.values(), key=lambda r: len(r.variables))
    folds = expanding_folds(widest, min(len(law.parameters) for law in laws.values()) + 1)
    target = objective.scale(widest.target)
    errors: dict[str, list[np.ndarray | None]] = {
        BASELINE: [last_value(widest, fold, target) - target[fold.test] for fold in folds]
    }
    for name, law in laws.items():
        own, errors[name] = rows[name], []
        for fold in folds:
            train = own.subset(fold.train)
            if train.n_configurations <= len(law.parameters):
                errors[name].append(None)
                continue
            theta = estimate(train, law, coordinates_of(law), objective, seed).theta
            beyond = {variable: values[fold.test] for variable, values in own.variables.items()}
            with np.errstate(all="ignore"):
                predicted = objective.scale(law.evaluator(beyond).value(theta[None])[0])
            missed = predicted - objective.scale(own.target[fold.test])
            # An undefined prediction counts as one that misses by a factor of e.
            errors[name].append(np.where(np.isfinite(predicted), missed, 1.0))
    return Backtest(folds, errors)


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


def last_value(rows: FitRows, fold: Fold, target: np.ndarray) -> np.ndarray:
    """(T,) for each held-out row the mean target at the largest fitted size among the rows nearest to it otherwise."""
    from scipy.spatial import cKDTree

    logs = {name: np.log(np.maximum(values, 1e-12)) for name, values in rows.variables.items()}
    along = next(name for name, column in rows.columns.items() if column == fold.column)
    inside, beyond = np.flatnonzero(fold.train), np.flatnonzero(fold.test)
    others = [values for name, values in logs.items() if name != along]

    def at_largest(near: np.ndarray) -> float:
        return float(target[near[logs[along][near] >= logs[along][near].max() - 1e-9]].mean())

    if not others:
        return np.full(len(beyond), at_largest(inside))
    # Rows that are equal in the other sizes are equally near.
    places, number = np.unique(np.stack(others, axis=1)[inside].round(9), axis=0, return_inverse=True)
    wanted, row_number = np.unique(np.stack(others, axis=1)[beyond].round(9), axis=0, return_inverse=True)
    tree = cKDTree(places)
    distance, _ = tree.query(wanted, p=1)
    members = np.split(np.argsort(number, kind="stable"), np.cumsum(np.bincount(number.reshape(-1)))[:-1])
    last = []
    for near in tree.query_ball_point(wanted, distance + 1e-8, p=1):
        nearest = [members[place] for place in near]  # type: ignore[union-attr]  # near is a list: wanted has rows
        last.append(at_largest(inside[np.concatenate(nearest)]))
    return np.array(last)[row_number.reshape(-1)]


def _small_effects(fit: LawFit) -> list[dict]:
    """Notes on variables that hardly move the law over their whole measured range."""
    ranges = fit.data["ranges"]
    if len(ranges) < 2:
        return []
    middle = {c: np.sqrt(max(low, 1e-12) * high) if low > 0 else high / 2 for c, (low, high) in ranges.items()}
    effects = {}
    for column, ends in ranges.items():
        values = fit.values({**{c: np.full(2, v) for c, v in middle.items()}, column: np.array(ends)})
        effects[column] = abs(float(np.log(values[1] / values[0]))) if (values > 0).all() else np.nan
    largest, notes = max(effects.values()), []
    for column, effect in effects.items():
        if effect < min(0.2 * largest, _SMALL_EFFECT):
            change = format_percent(effect, 2)
            text = f"{column} hardly matters here: over its whole range {fit.law} changes by {change}"
            notes.append(note("hardly_matters", "info", text))
    return notes
