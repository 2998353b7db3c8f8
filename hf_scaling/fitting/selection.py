"""`compare_laws` and law="auto": which law predicts the largest scales, and what several say together."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.engine import estimate
from hf_scaling.fitting.fit import FitOptions, describe_rows, fit_rows, resolve_law
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.fitting.rows import Columns, FitRows, RowFilter, as_table, column_of, note, read_columns, take_rows
from hf_scaling.fitting.solver import Objective, coordinates_of
from hf_scaling.laws import LAWS, Law

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


# How sharply "the end" is meant: rows count by (x / largest x) to this power.
_SHARPNESS = 8.0


def combine_fits(members: list[LawFit], views: Iterable[FitRows]) -> LawFit:
    """A mixture of fits of the same rows, equally weighted; `views` are the rows as each member's variables.

    Laws are averaged on the objective's scale. In one variable, what the mean misses at the largest sizes is carried
    forward as far as it stands out of the scatter between neighbours: a curve that has left the law's path seldom
    comes back to it.
    """
    weights = {member.law: 1 / len(members) for member in members}
    scale = Objective(members[0].settings["objective"])
    rows = _all_sizes(list(views))
    fitted = np.mean([scale.scale(member.values(rows.variables)) for member in members], axis=0)
    residual = scale.scale(rows.target) - fitted
    carried = carried_residual(next(iter(rows.variables.values())), residual) if len(rows.variables) == 1 else 0.0
    residual = residual - carried
    with np.errstate(invalid="ignore", divide="ignore"):
        values = scale.unscale(fitted + carried)
        logs = np.log(rows.target / values)
    status = "ok" if any(m.status == "ok" for m in members) else members[0].status
    return LawFit(
        law="mixture",
        status=status,
        params={f"{m.law}.{name}": value for m in members for name, value in m.params.items()},
        intervals={f"{m.law}.{name}": ends for m in members for name, ends in m.intervals.items()},
        scores={
            "log_rmse": float(np.sqrt(np.mean(logs**2))),
            "rmse": float(np.sqrt(np.mean((rows.target - values) ** 2))),
            # A mean of laws has no likelihood of its own: the best member's criterion stands for it.
            "aicc": min(m.scores["aicc"] for m in members),
            "n_rows": len(rows.target),
            "n_configurations": rows.n_configurations,
        },
        notes=_member_notes(members),
        settings={
            **members[0].settings,
            "delta": None,
            "carried": carried,
            "n_starts": max(m.settings["n_starts"] for m in members),
        },
        data=describe_rows(rows),
        definition=None,
        draws=np.empty((0, 0)),
        noise=residual,
        members=tuple(members),
        weights=weights,
    )


def _all_sizes(views: list[FitRows]) -> FitRows:
    """The rows with every size that one of the laws takes: some know the model's size and some do not."""
    sizes = {view.columns[name]: values for view in views for name, values in view.variables.items()}
    together = np.unique(np.stack(list(sizes.values()), axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    return replace(views[0], columns={name: name for name in sizes}, variables=sizes, configuration=together)


def carried_residual(x: np.ndarray, residual: np.ndarray) -> float:
    """What a fit misses at the largest sizes, shrunk by how much of it is scatter.

    Args:
        x: (N,) sizes.
        residual: (N,) measured minus fitted.

    Returns:
        The mean residual with weights (x / max x)^8, times tau^2 / (tau^2 + s^2 / n): s^2 the scatter between
        neighbours along x, tau^2 the residuals' variance beyond it, n the effective number of rows in the mean.
    """
    order = np.argsort(x, kind="stable")
    weights = (x / x.max()) ** _SHARPNESS
    shift = float((weights * residual).sum() / weights.sum())
    scatter = float(np.mean(np.diff(residual[order]) ** 2) / 2) if len(x) > 1 else 0.0
    beyond = max(float(np.var(residual)) - scatter, 0.0)
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return shift * beyond / (beyond + scatter / effective) if beyond > 0 else 0.0


def _member_notes(members: list[LawFit]) -> list[dict]:
    """Each finding once, said of the laws that it holds for; parameters' doubts are no doubts of the mean's."""
    found = {}
    for member in members:
        for item in member.notes:
            if item["code"] in ("not_identifiable", "trade_off", "at_bound", "objectives"):
                continue
            found.setdefault((item["code"], item["text"]), (item, []))[1].append(member.law)
    return [{**item, "text": f"{', '.join(laws)}: {item['text']}"} for item, laws in found.values()]


# The four published forms of one variable; together they predict better than any of them (docs/fitting.md).
ONE_VARIABLE = ("power_law", "shifted_power_law", "m4", "bnsl")
# The parameter that places a law's break.
_BREAKS = {"bnsl": "d1"}
_SIZES = ("n_params", "n_pretrain", "n_finetune")
# In several variables a law within this factor of the best held-out error has a say in the mixture.
_CLOSE = 1.25
# A variable that moves the target by less than this share over its whole measured range hardly matters.
_SMALL_EFFECT = 0.05


@dataclass(frozen=True)
class Ranking:
    """Laws ranked by their error on the held-out largest scales.

    Attributes:
        table: A DataFrame: law, holdout_log_rmse, aicc, status, factor_out (how far beyond the fitted sizes the
            farthest held-out row lay); the baseline `last_value` is always in it.
        best: The law with the smallest held-out error.
        p_better: How often, in paired bootstrap draws over held-out rows, it beats the second.
        notes: What was left out, and what the comparison cannot tell.
        backtest: The held-out errors behind the table.
        fits: Law name to its fit on all compared rows (without a bootstrap).
    """

    table: object
    best: str
    p_better: float
    notes: list[dict]
    backtest: Backtest = field(repr=False)
    fits: dict[str, LawFit] = field(repr=False)

    def summary(self) -> str:
        """The ranking as text."""
        from hf_scaling.fitting.card import describe_ranking

        return describe_ranking(self)


def compare_laws(
    table,
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
    weights=None,
    seed: int = 0,
) -> Ranking:
    """Rank laws by how well they predict the largest scales from the smaller ones.

    Args:
        table: As for `fit_law`, as is everything else but laws and holdout.
        target: The column to predict.
        laws: Names or laws; by default every law whose variables the table varies.
        holdout: "largest": windows expand along each variable and the sizes beyond are predicted.
        x: See `fit_law`.
        arm: See `fit_law`.
        upstream: See `fit_law`.
        downstream: See `fit_law`.
        stage: See `fit_law`.
        objective: See `fit_law`.
        delta: See `fit_law`.
        weights: See `fit_law`.
        seed: See `fit_law`.

    Raises:
        InputError: No law suits the table, holdout is unknown, or the input cannot be used.
    """
    if holdout != "largest":
        raise InputError(f"holdout {holdout!r} is unknown: the largest scales are held out (holdout='largest')")
    row_filter = RowFilter(target, x, arm, upstream, downstream, stage, weights=weights)
    return rank(as_table(table), row_filter, FitOptions(objective, delta, bootstrap=0, seed=seed), laws)


def rank(table, row_filter: RowFilter, options: FitOptions, laws=None) -> Ranking:
    """Compare laws on the rows that all of them can take."""
    import pandas as pd

    row_filter = _with_stage(table, row_filter)
    candidates = _candidates(table, row_filter, laws)
    rows, notes = _shared_rows(table, row_filter, candidates)
    if laws is None:
        candidates, more = _small_enough(candidates, rows)
        notes += more
    backtest = run_backtest(rows, candidates, options.make_objective(), options.seed)
    if not backtest.folds:
        text = "no variable has enough sizes to hold the largest out: laws are ranked by AICc alone"
        notes.append(note("no_holdout", "warn", text))
    # These fits are only ranked: nobody needs their intervals.
    without_draws = replace(options, bootstrap=0)
    fits = {name: fit_rows(rows[name], law, without_draws) for name, law in candidates.items()}
    scored = {name: _score(backtest, name, candidates) for name in [*candidates, BASELINE]}
    order = sorted(
        scored, key=lambda n: (np.isnan(scored[n]), scored[n], fits[n].scores["aicc"] if n in fits else np.inf)
    )
    factor = max((fold.factor_out for fold in backtest.folds), default=1.0)
    frame = pd.DataFrame(
        {
            "law": order,
            "holdout_log_rmse": [scored[n] for n in order],
            "aicc": [fits[n].scores["aicc"] if n in fits else np.nan for n in order],
            "status": [fits[n].status if n in fits else "baseline" for n in order],
            "factor_out": factor,
        }
    )
    ranked = [n for n in order if n != BASELINE]
    best, second = ranked[0], order[1] if order[0] == ranked[0] else order[0]
    p_better = backtest.p_better(best, second, options.seed)
    notes += _findings(fits[best], best, order, p_better, second)
    return Ranking(frame, best, p_better, notes, backtest, fits)


def fit_best(table, row_filter: RowFilter, options: FitOptions) -> LawFit:
    """law="auto": rank, then fit the best law, or a mixture, on all the rows that it can take."""
    if options.fixed or options.tied:
        raise InputError("fixed and tied name parameters of one law: they cannot go with law='auto'")
    return fit_ranked(table, rank(table, row_filter, options), row_filter, options)


def fit_ranked(table, ranking: Ranking, row_filter: RowFilter, options: FitOptions) -> LawFit:
    """Fit the best law of a ranking, or the mixture that its held-out errors call for."""
    say = _have_a_say(ranking) if options.combine else [ranking.best]
    laws = {name: LAWS[name] for name in say}
    rows, _ = _shared_rows(table, _with_stage(table, row_filter), laws)
    members = [fit_rows(rows[name], laws[name], options) for name in say]
    notes = [*ranking.notes, _said(ranking, say)]
    fit = members[0] if len(say) == 1 else combine_fits(members, [rows[name] for name in say])
    return replace(fit, notes=[*fit.notes, *notes], settings=_validated(fit, ranking))


def _have_a_say(ranking: Ranking) -> list[str]:
    """The laws that a mixture averages, all with the same weight.

    Short backtests pick badly among forms that disagree little, so weights by backtest lose to equal ones. But a law
    that cannot beat carrying the last value forward has shown that it does not know the shape, and one whose break
    lies beyond the largest size fitted says of larger sizes whatever it likes.
    """
    table = ranking.table.set_index("law")["holdout_log_rmse"]
    if ranking.best not in _one_variable(ranking.fits[ranking.best].columns):
        return [n for n in table.index if n != BASELINE and table[n] <= _CLOSE * table[ranking.best]]
    say = [n for n in ranking.fits if not table[n] > table[BASELINE] and not _break_unseen(ranking.fits[n])]
    return say or [ranking.best]


def _break_unseen(fit: LawFit) -> bool:
    name = _BREAKS.get(fit.law)
    return name is not None and fit.params[name] > max(high for _, high in fit.data["ranges"].values())


def _one_variable(columns) -> tuple[str, ...]:
    """The one-variable laws for a table column: the rectified law is one of fine-tuning data."""
    return (*ONE_VARIABLE, "rectified") if "n_finetune" in dict(columns).values() else ONE_VARIABLE


def _candidates(table, row_filter: RowFilter, laws) -> dict[str, Law]:
    if laws is not None:
        if isinstance(laws, str | Law):
            raise InputError(f"laws takes a list of laws: write laws=[{laws!r}]")
        chosen = [resolve_law(law) for law in laws]
        if not chosen:
            raise InputError("laws is empty: name at least one, or leave it out for all that suit the table")
        return {law.name: law for law in chosen}
    varied = [row_filter.x] if row_filter.x is not None else _varied_sizes(Columns.of(table), row_filter)
    if len(varied) == 1:
        return {name: LAWS[name] for name in _one_variable({"x": varied[0]})}
    found = {}
    for name, law in LAWS.items():
        if not law.unbound and set(law.variables) <= set(varied) and len(law.variables) > 1:
            found[name] = law
    found.pop("downstream_log", None)
    if not found:
        raise InputError(
            f"no law takes what this table varies ({', '.join(varied) or 'no size'}): choose laws=, or x="
        )
    return found


def _with_stage(table, row_filter: RowFilter) -> RowFilter:
    """The same filter with the stage that a comparison takes: the fine-tuned rows where there are any."""
    columns = Columns.of(table)
    if row_filter.stage is not None or "stage" not in columns.data:
        return row_filter
    return replace(row_filter, stage="finetune" if "finetune" in columns.distinct("stage") else "pretrain")


def _small_enough(candidates: dict[str, Law], rows: dict[str, FitRows]) -> tuple[dict[str, Law], list[dict]]:
    """The laws with fewer parameters than there are rows (else the smallest laws), and a note on the others."""
    sizes = {name: len(law.parameters) for name, law in candidates.items()}
    kept = [name for name, size in sizes.items() if size < len(rows[name].target)]
    kept = kept or [name for name, size in sizes.items() if size == min(sizes.values())]
    dropped = [name for name in candidates if name not in kept]
    notes = []
    if dropped:
        text = f"{', '.join(dropped)} left out of the comparison: too many parameters for the table's rows"
        notes.append(note("laws_left_out", "info", text))
    return {name: candidates[name] for name in kept}, notes


def _varied_sizes(columns: Columns, row_filter: RowFilter) -> list[str]:
    """The sizes that take several values among the rows of the chosen stage."""
    stage = row_filter.stage
    keep = np.ones(len(columns), dtype=bool) if stage is None else columns.data["stage"].astype(str) == stage
    varied = []
    for name in _SIZES:
        if name in columns.data and keep.any():
            values = columns.where(keep, f"stage {stage!r}").numbers(name)
            if len(np.unique(values[np.isfinite(values) & (values > 0)])) > 1:
                varied.append(name)
    return varied


def _with_x(law: Law, row_filter: RowFilter, columns: Columns) -> RowFilter:
    """The same filter with the one size that varies as the x of a one-variable law."""
    if len(law.variables) > 1:
        return replace(row_filter, x=None)
    varied = _varied_sizes(columns, row_filter)
    return row_filter if row_filter.x is not None or len(varied) != 1 else replace(row_filter, x=varied[0])


def _shared_rows(table, row_filter: RowFilter, laws: dict[str, Law]) -> tuple[dict[str, FitRows], list[dict]]:
    """Each law's view of the rows that all the laws can take, and a note on those left out."""
    original = Columns.of(table)
    filters = {name: _with_x(law, row_filter, original) for name, law in laws.items()}
    columns = {name: read_columns(table, law, filters[name]) for name, law in laws.items()}
    takes = {name: set(c.labels[_defined(c, laws[name], filters[name])]) for name, c in columns.items()}
    shared = set.intersection(*takes.values())
    if not shared:
        raise InputError("these laws share no row (pretrain and finetune?): choose stage=, or compare fewer laws")
    notes, most = [], max(len(c) for c in columns.values())
    if len(shared) < most:
        text = f"{most - len(shared)} of {most} rows left out: not every law compared can take them"
        notes.append(note("rows_left_out", "info", text))
    kept = {n: c.where(np.isin(c.labels, list(shared)), "sizes every law takes") for n, c in columns.items()}
    return {name: take_rows(c, laws[name], filters[name]) for name, c in kept.items()}, notes


def _defined(columns: Columns, law: Law, row_filter: RowFilter) -> np.ndarray:
    return law.defined({v: columns.numbers(c) for v, c in column_of(law, row_filter.x).items()})


def _score(backtest: Backtest, name: str, laws: dict[str, Law]) -> float:
    """A law's held-out error over the folds that most laws could be fitted in; NaN where it is missing one."""
    counts = [sum(backtest.errors[law][i] is not None for law in laws) for i in range(len(backtest.folds))]
    folds = [i for i, count in enumerate(counts) if count >= (len(laws) + 1) // 2]
    if not folds or any(backtest.errors[name][i] is None for i in folds):
        return float("nan")
    return backtest.score(name, folds)


def _findings(fit: LawFit, best: str, order: list[str], p_better: float, second: str) -> list[dict]:
    notes = []
    if order[0] == BASELINE:
        text = (
            "no law predicts the largest scales better than carrying the last value forward: these runs show no trend"
        )
        notes.append(note("baseline_wins", "error", text))
    elif 0.05 < p_better < 0.95:
        text = f"{best} is not clearly better than {second}: ahead in {100 * p_better:.0f} % of paired bootstrap draws"
        notes.append(note("not_clearly_better", "warn", text))
    return notes + _little_effect(fit)


def _little_effect(fit: LawFit) -> list[dict]:
    """Say when moving one variable over its whole measured range hardly moves the best law."""
    ranges = fit.data["ranges"]
    if len(ranges) < 2:
        return []
    middle = {c: np.sqrt(max(low, 1e-12) * high) if low > 0 else high / 2 for c, (low, high) in ranges.items()}
    effects = {}
    for column, (low, high) in ranges.items():
        ends = fit.values({**{c: np.full(2, v) for c, v in middle.items()}, column: np.array([low, high])})
        effects[column] = abs(float(np.log(ends[1] / ends[0]))) if (ends > 0).all() else np.nan
    largest = max(effects.values())
    return [
        note(
            "hardly_matters",
            "info",
            f"{column} hardly matters here: over its whole range {fit.law} moves by {100 * effect:.1f} %",
        )
        for column, effect in effects.items()
        if effect < min(0.2 * largest, _SMALL_EFFECT)
    ]


def _said(ranking: Ranking, say: list[str]) -> dict:
    table = ranking.table.set_index("law")["holdout_log_rmse"]
    errors = ", ".join(f"{name} {table[name]:.3g}" for name in table.index)
    if len(say) > 1:
        text = f"the mean of {', '.join(say)}, equally weighted; held-out log RMSE: {errors}"
        return note("combined", "info", text)
    return note("chosen", "info", f"{say[0]} chosen by held-out log RMSE: {errors}")


def _validated(fit: LawFit, ranking: Ranking) -> dict:
    factor = float(ranking.table["factor_out"].iloc[0])
    best = float(ranking.table["holdout_log_rmse"].min())
    text = f"the largest scales, up to {factor:.3g} times the fitted ones: log RMSE {best:.3g} ({ranking.best})"
    return {**fit.settings, "validation": text}
