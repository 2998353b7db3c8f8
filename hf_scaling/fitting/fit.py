"""`fit_law`: from a table to a `LawFit`, with intervals and a status."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.bootstrap import MANY_ROWS, METHODS, draw
from hf_scaling.fitting.clusters import cluster_effects
from hf_scaling.fitting.columns import as_table, default_zeros, note
from hf_scaling.fitting.compute import measured_compute
from hf_scaling.fitting.diagnostics import Refits, identification_notes, judge
from hf_scaling.fitting.discrepancy import estimate_discrepancy, extrapolation_notes, hold_out
from hf_scaling.fitting.estimate import Estimate, estimate
from hf_scaling.fitting.law_fit import LawFit, quantiles
from hf_scaling.fitting.prior import check_names, checked_prior, with_prior
from hf_scaling.fitting.rows import FitRows, RowFilter, select_rows, thinned
from hf_scaling.fitting.solver import Objective, coordinates_of, make_objective
from hf_scaling.laws import LAWS, Law
from hf_scaling.text import format_percent

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table, TableLike

# Limit on the configurations that a fit records for its figure: a foreign table may hold thousands.
_MOST_RECORDED = 512
# Refits beyond each end of an interval, below which its ends are the extremes of the refits.
_FEWEST_PER_TAIL = 1.0


def fit_law(
    table: "TableLike",
    law: str | Law = "transfer_gap",
    target: str = "loss",
    x: str | None = None,
    arm: str | None = None,
    upstream: str | None = None,
    downstream: str | None = None,
    stage: str | None = None,
    objective: str = "log_huber",
    delta: float | None = None,
    weights: "str | Sequence[float] | np.ndarray | None" = None,
    bootstrap: int = 1000,
    method: str = "wild",
    level: float = 0.95,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    tied: Iterable[Iterable[str]] | None = None,
    supervised: "LawFit | Mapping[str, float] | None" = None,
    combine: bool = True,
    zeros: Literal["refuse", "leave_out"] | None = None,
    direction: Literal["up", "down"] | None = None,
    bounds: tuple[float | None, float | None] | None = None,
    cluster: str | None = None,
    pool: "str | Sequence[str] | None" = None,
    prior: "str | Mapping[str, tuple[float, float]] | None" = "published",
) -> LawFit:
    """Fit a scaling law to a results table.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or what `ResultsTable.load` takes.
        law: A name of `LAWS`, a `Law`, or "auto": the law (or mixture) that best predicts the held-out largest scales.
        target: The column to fit: loss in nats, error in 0..1, or any other.
        x: The column of a one-variable law's variable; by default n_pretrain (n_finetune for rectified).
        arm: Use only the rows of this arm; by default all rows, which must then be of one arm.
        upstream: Use only the rows of this upstream data set; by default all rows, which must then be of one.
        downstream: Use only the rows of this downstream data set; by default all rows, which must then be of one.
        stage: pretrain or finetune; by default finetune for laws of n_finetune and pretrain for the others.
        objective: log_huber, log_mse or mse.
        delta: The Huber threshold on log residuals; by default 1.345 robust standard deviations, at least 1e-3.
        weights: A column's name or one positive number a row; by default equal, or from n_eval where target is error.
        bootstrap: Number of refits that the intervals come from; 0 for no intervals.
        method: wild (wild cluster bootstrap by configuration) or pairs.
        level: Level of the intervals, between 0 and 1.
        seed: Seed of the starts and draws; equal seeds give equal fits.
        fixed: Parameter name to the value at which it is held.
        tied: Groups of parameters that share one value.
        supervised: For `distillation`: a chinchilla_coupled fit or its parameters.
        combine: With "auto": whether laws may be combined.
        zeros: What happens to a row with a size at which the law is undefined, such as a zero with a negative power:
            "refuse" raises InputError, "leave_out" drops it with the note `rows_left_out`; by default leave_out for a
            ResultsTable and what `ResultsTable.load` takes, refuse for a DataFrame or a mapping.
        direction: "up" where more of the target is better (accuracy, BLEU), "down" where less is; by default judged by
            its name, else by its trend over the sizes.
        bounds: Least and most that the target can be, None for no limit; by default 0 to 1 for `error` and for rates,
            0 to infinity for `loss`, none for others. Predictions stay inside.
        cluster: Column whose equal values name rows that share their luck, such as checkpoints of one run; by default
            `run`, else `parent` of fine-tuned rows, else the ladder that pre-trained rows are of.
        pool: Columns whose values name curves, such as ["model", "downstream"]: one law is fitted to each, with
            parameters that share a distribution, so that a curve of few points borrows from the others. `predict`
            then takes these columns too, and `curves` has a row for each curve.
        prior: Prior of exponents that the rows do not determine (status not_identifiable): "published" for that of
            published curves, None for none, or exponent to (median, standard deviation of its logarithm).

    Returns:
        A LawFit. Every usable table gives one; doubts are in its status and notes.

    Raises:
        InputError: The input cannot be used; the message names the column and the row.

    Example:
        `fit_law("results.csv", "chinchilla", arm="plain").predict({"n_params": 1e9, "n_pretrain": 2e10})`
    """
    table = as_table(table)
    row_filter = RowFilter(
        target,
        x,
        arm,
        upstream,
        downstream,
        stage,
        weights=weights,
        zeros=zeros or default_zeros(table),
        direction=direction,
        bounds=bounds,
        cluster=cluster,
        pool=pool or (),
    )
    options = FitOptions(
        objective, delta, bootstrap, method, level, seed, fixed or {}, list(tied or []), supervised, combine, prior
    )
    return fit_table(table, law, row_filter, options)


@dataclass(frozen=True)
class FitOptions:
    """How to fit, apart from which rows; the public calls build it from their keywords, and it checks them.

    Attributes:
        objective: log_huber, log_mse or mse.
        delta: Huber threshold on log residuals; None for one that follows the data.
        bootstrap: Number of refits that the intervals come from; 0 for no intervals.
        method: wild or pairs.
        level: Level of the intervals, between 0 and 1.
        seed: Seed of the starts and draws.
        fixed: Parameter name to the value at which it is held.
        tied: Groups of parameters that share one value.
        supervised: For `distillation`: a chinchilla_coupled fit or its parameters.
        combine: With law="auto": whether several laws may be combined.
        prior: Of exponents that the rows do not determine: "published", None, or exponent to (median, standard
            deviation of its logarithm).

    Raises:
        InputError: A value is unknown or out of range.
    """

    objective: str = "log_huber"
    delta: float | None = None
    bootstrap: int = 1000
    method: str = "wild"
    level: float = 0.95
    seed: int = 0
    fixed: Mapping[str, float] = field(default_factory=dict)
    tied: Sequence[Iterable[str]] = ()
    supervised: "LawFit | Mapping[str, float] | None" = None
    combine: bool = True
    prior: "str | Mapping[str, tuple[float, float]] | None" = "published"

    def __post_init__(self) -> None:
        object.__setattr__(self, "prior", checked_prior(self.prior))
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is unknown: choose one of {', '.join(METHODS)}")
        for name in ("bootstrap", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 0:
                raise InputError(f"{name} must be a whole number, 0 or more, not {value!r}")
            object.__setattr__(self, name, int(value))
        if not 0 < self.level < 1:
            raise InputError(f"level must be between 0 and 1, not {self.level}")
        object.__setattr__(self, "fixed", dict(self.fixed))
        object.__setattr__(self, "tied", [list(group) for group in self.tied])
        self.make_objective()

    def make_objective(self) -> Objective:
        """The objective with its threshold."""
        return make_objective(self.objective, self.delta)

    def to_dict(self) -> dict[str, Any]:
        """The options that a fit records in law.json, as plain values."""
        return {
            "bootstrap": self.bootstrap,
            "method": self.method,
            "level": self.level,
            "seed": self.seed,
            "fixed": {name: float(value) for name, value in self.fixed.items()},
            "tied": self.tied,
        }


def fit_table(table: "Table", law: str | Law, row_filter: RowFilter, options: FitOptions) -> LawFit:
    """`fit_law` on a loaded table, with its keywords as a RowFilter and FitOptions."""
    if row_filter.pool:
        from hf_scaling.fitting.pooling import fit_pooled_table

        return fit_pooled_table(table, law, row_filter, options)
    if law == "auto":
        from hf_scaling.fitting.mixture import fit_best

        fit = fit_best(table, row_filter, options)
    else:
        selected = resolve_law(law, options.supervised)
        fit = fit_rows(select_rows(table, selected, row_filter), selected, options)
    return with_compute(fit, table)


def with_compute(fit: LawFit, table: "Table") -> LawFit:
    """The fit with what the runs of its table cost recorded in `data["compute"]`, for plans and suggestions."""
    return replace(fit, data={**fit.data, "compute": measured_compute(table, fit.data["study"])})


def resolve_law(law: str | Law, supervised: "LawFit | Mapping[str, float] | None" = None) -> Law:
    """The law of that name, with its supervised part bound where one is given.

    Raises:
        InputError: There is no such law, or it has no supervised part.
    """
    resolved = law if isinstance(law, Law) else LAWS[law]
    if supervised is None:
        return resolved
    if resolved.name != "distillation":
        raise InputError(f"supervised has no effect for {resolved.name}: only distillation takes it")
    return resolved.with_supervised(supervised.params if isinstance(supervised, LawFit) else supervised)


# A law may overflow at far sizes or parameters; the results are checked, so nothing is warned about.
@np.errstate(all="ignore")
def fit_rows(rows: FitRows, law: Law, options: FitOptions) -> LawFit:
    """Fit one law to selected rows.

    Raises:
        InputError: There are fewer rows than parameters, the objective is undefined at a target, or `fixed` or `tied`
            cannot be used.
    """
    law, options, notes = suited_to(rows, law, options)
    coordinates, objective = coordinates_of(law, options.fixed, options.tied), options.make_objective()
    free, count = len(coordinates.names), len(rows.target)
    if count < free:
        raise InputError(f"{law.name} has {free} free parameters and the table gives {count} rows: add runs")
    estimated = estimate(rows, law, coordinates, objective, options.seed)
    check_names(options.prior, law)
    effects = cluster_effects(estimated)
    identification = identification_notes(estimated, effects)
    is_open = any(n["code"] == "not_identifiable" for n in identification)
    of_rows, of_draws, used = estimated, estimated, list[dict]()
    if options.prior is not None and is_open and options.method == "wild" and effects is None and count <= MANY_ROWS:
        of_draws, used = with_prior(estimated, options.prior)
        # The published prior affects intervals alone; the caller's own prior moves the estimate too.
        estimated = estimated if options.prior == "published" else of_draws
        notes = notes + used
    draws, refits = np.full((options.bootstrap, len(law.parameters)), np.nan), None
    if options.bootstrap and estimated.has_scatter:
        drawn = draw(of_draws, options.bootstrap, options.method, options.seed)
        draws = estimated.problem.coordinates.to_theta(drawn.u)
        refits = Refits(draws, 1 - drawn.converged, options.level)
    # The status is judged without the prior.
    status, findings = judge(of_rows, effects, refits, identification)
    held_out = hold_out(estimated, coordinates)
    badly = extrapolation_notes(estimated, held_out)
    status, findings = "extrapolates_badly" if badly and status == "ok" else status, findings + badly
    problem, noise = estimated.problem, estimated.residuals * np.sqrt(count / estimated.freedom)
    fitted = estimated.fitted
    if effects is not None:
        # Rows of one cluster agree with each other by what they share, not because the law is wrong.
        fitted = problem.target - effects.within
        noise *= np.hypot(effects.shared, effects.own) / max(float(np.sqrt(np.mean(noise**2))), 1e-300)
    discrepancy = estimate_discrepancy(
        held_out,
        rows,
        problem.target,
        problem.root_weights,
        fitted,
        objective.is_log,
        determined=status != "not_identifiable",
    )
    intervals = {}
    if len(draws):
        low, high = quantiles(draws, options.level, estimated.theta)
        intervals = {name: (float(low[i]), float(high[i])) for i, name in enumerate(law.names)}
    if 0 < options.bootstrap * (1 - options.level) / 2 < _FEWEST_PER_TAIL * (1 - 1e-9):
        text = f"{options.bootstrap} refits do not give an interval of {format_percent(options.level)}"
        text += ": use bootstrap=1000"
        notes = [*notes, note("few_draws", "warn", text)]
    threshold = estimated.problem.objective.delta
    binomial = rows.target_name == "error" and rows.n_eval is not None
    weights = "given" if rows.weights is not None else "binomial from n_eval" if binomial else "equal"
    weights += "" if rows.emphasis is None else ", larger sizes more"
    return LawFit(
        law=law.name,
        status=status,
        params={name: float(value) for name, value in zip(law.names, estimated.theta)},
        intervals=intervals,
        scores=scores(estimated),
        notes=[*rows.notes, *findings, *notes],
        settings={
            "target": rows.target_name,
            "objective": objective.name,
            "delta": None if np.isinf(threshold) else threshold,
            "columns": rows.columns,
            "weights": weights,
            "n_starts": estimated.n_starts,
            "scale": rows.scale.to_dict(),
            **({"prior": options.prior} if used else {}),
            **options.to_dict(),
        },
        data={**describe_rows(rows), "discrepancy": discrepancy},
        definition=law,
        draws=draws,
        noise=noise,
        held_out=held_out,
    )


def suited_to(rows: FitRows, law: Law, options: FitOptions) -> tuple[Law, FitOptions, list[dict]]:
    """The law and the options as the rows need them, with a note where they differ from what was asked for.

    What is fitted may not be positive (a normalised loss, a score that rises and is no rate). It has no logarithm, so
    objective log_huber becomes mse, and the floor of the law may be negative.

    Raises:
        InputError: The objective is log_mse.
    """
    below = np.flatnonzero(rows.target <= 0)
    if not len(below):
        return law, options, []
    if options.objective != "mse":
        row, own = below[0], rows.scale.from_fitted(rows.target[below[:1]])[0]
        if options.objective != "log_huber" or options.delta is not None:
            place = f"column {rows.target_name!r}, row {rows.labels[row]}: {own:g}"
            raise InputError(f"{place} has no logarithm; leave the row out or use objective mse")
        what = rows.scale.describe(rows.target_name)
        text = f"{what} is not positive in every row and has no logarithm: objective mse is used"
        notes = [note("not_positive", "info", text)]
    else:
        notes = []
    return law.with_free_floor() if (rows.target < 0).any() else law, replace(options, objective="mse"), notes


def describe_rows(rows: FitRows, most: int = _MOST_RECORDED) -> dict[str, Any]:
    """What a fit records of its rows.

    Args:
        rows: The rows.
        most: The most configurations to record.

    Returns:
        ranges and levels of each size, target_range, study (values of the naming columns), and measured: the sizes and
        the mean target of each configuration, thinned where there are very many, for figures.
    """
    first = np.unique(rows.configuration, return_index=True)[1]
    kept = thinned(rows.n_configurations, most)
    target = rows.scale.from_fitted(rows.target)
    means = np.bincount(rows.configuration, target) / np.bincount(rows.configuration)
    sizes = {rows.columns[name]: values for name, values in rows.variables.items()}
    return {
        "ranges": {column: (float(a.min()), float(a.max())) for column, a in sizes.items()},
        "levels": {column: len(np.unique(a)) for column, a in sizes.items()},
        "target_range": (float(target.min()), float(target.max())),
        "study": rows.study,
        "measured": {
            **{column: values[first][kept].tolist() for column, values in sizes.items()},
            rows.target_name: means[kept].tolist(),
        },
    }


def scores(estimated: Estimate) -> dict[str, float]:
    """Root mean square errors of the fitted rows, and AICc from the log residuals (linear ones for mse)."""
    rows = estimated.rows
    fitted = estimated.problem.objective.unscale(estimated.fitted)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(rows.target) - np.log(fitted)
    count, k = len(rows.target), len(estimated.u) + 1
    square = float(np.mean(estimated.residuals**2))
    penalty = 2 * k + 2 * k * (k + 1) / (count - k - 1) if count > k + 1 else np.inf
    return {
        "log_rmse": float(np.sqrt(np.mean(logs**2))),
        "rmse": float(np.sqrt(np.mean((rows.target - fitted) ** 2))) / abs(rows.scale.factor),
        "aicc": float(count * np.log(max(square, 1e-300)) + penalty),
        "n_rows": count,
        "n_configurations": rows.n_configurations,
    }
