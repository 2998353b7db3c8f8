"""`fit_law`: from a table to a `LawFit`, with intervals and an honest verdict."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import diagnostics
from hf_scaling.fitting.bootstrap import METHODS, draw, measured_compute
from hf_scaling.fitting.engine import Estimate, estimate
from hf_scaling.fitting.law_fit import LawFit, quantiles
from hf_scaling.fitting.rows import FitRows, RowFilter, as_table, choose_rows, default_zeros, note
from hf_scaling.fitting.solver import Objective, coordinates_of, make_objective
from hf_scaling.laws import LAWS, Law

# Configurations that a fit remembers: somebody else's table may hold thousands, and a figure needs no more.
_MOST_KEPT = 512


def fit_law(
    table,
    law: str | Law = "transfer_gap",
    target: str = "loss",
    x: str | None = None,
    arm: str | None = None,
    upstream: str | None = None,
    downstream: str | None = None,
    stage: str | None = None,
    objective: str = "log_huber",
    delta: float | None = None,
    weights=None,
    bootstrap: int = 1000,
    method: str = "wild",
    level: float = 0.95,
    seed: int = 0,
    fixed: Mapping[str, float] | None = None,
    tied: Iterable[Iterable[str]] | None = None,
    supervised=None,
    combine: bool = True,
    zeros: Literal["refuse", "leave_out"] | None = None,
) -> LawFit:
    """Fit a scaling law to a results table.

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns, or whatever `ResultsTable.load` takes.
        law: A name of `LAWS`, a `Law`, or "auto": the law (or mixture) that best predicts the held-out largest scales.
        target: The column to fit: loss in nats, error in 0..1, or any other.
        x: The column of a one-variable law's variable; n_pretrain by default (n_finetune for rectified).
        arm: Keep the rows of this arm; likewise upstream, downstream and stage.
        upstream: See arm.
        downstream: See arm.
        stage: See arm; by default finetune for laws of n_finetune and pretrain for the others.
        objective: log_huber, log_mse or mse.
        delta: The Huber threshold on log residuals; by default 1.345 robust standard deviations, at least 1e-3.
        weights: A column's name or one positive number a row; by default equal, or from n_eval where target is error.
        bootstrap: How many refits the intervals come from; 0 for none.
        method: wild (wild cluster bootstrap by configuration) or pairs.
        level: Of the intervals.
        seed: Of the starts and draws; equal seeds give equal fits.
        fixed: Parameters held at a value.
        tied: Groups of parameters that share one value.
        supervised: For `distillation`: a chinchilla_coupled fit or its parameters.
        combine: With "auto": whether laws may be combined.
        zeros: What happens to a row with a size at which the law is undefined, such as a zero with a negative power:
            "refuse" raises InputError, "leave_out" drops it with the note `rows_left_out`; by default leave_out for a
            ResultsTable and what `ResultsTable.load` takes, refuse for a DataFrame or a mapping.

    Returns:
        A LawFit. Every usable table gives one; doubts are in its status and notes.

    Raises:
        InputError: The input cannot be used; the message names the column and the row.
    """
    table = as_table(table)
    rows = RowFilter(target, x, arm, upstream, downstream, stage, weights=weights, zeros=zeros or default_zeros(table))
    options = FitOptions(
        objective, delta, bootstrap, method, level, seed, fixed or {}, list(tied or []), supervised, combine
    )
    return fit_table(table, law, rows, options)


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
        fixed: Parameter name to the value that it keeps.
        tied: Groups of parameters that share one value.
        supervised: For `distillation`: a chinchilla_coupled fit or its parameters.
        combine: With law="auto": whether several laws may be combined.

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

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise InputError(f"method {self.method!r} is unknown: choose one of {', '.join(METHODS)}")
        for name in ("bootstrap", "seed"):
            value = getattr(self, name)
            if not isinstance(value, int | np.integer) or value < 0:
                raise InputError(f"{name} is a whole number, 0 or more, not {value!r}")
            object.__setattr__(self, name, int(value))
        if not 0 < self.level < 1:
            raise InputError(f"level must lie between 0 and 1, not {self.level}")
        object.__setattr__(self, "fixed", dict(self.fixed))
        object.__setattr__(self, "tied", [list(group) for group in self.tied])
        self.make_objective()

    def make_objective(self) -> Objective:
        """The objective with its threshold."""
        return make_objective(self.objective, self.delta)

    def to_dict(self) -> dict:
        """Plain values, for law.json."""
        return {
            "bootstrap": self.bootstrap,
            "method": self.method,
            "level": self.level,
            "seed": self.seed,
            "fixed": {name: float(value) for name, value in self.fixed.items()},
            "tied": self.tied,
        }


def fit_table(table, law: str | Law, row_filter: RowFilter, options: FitOptions) -> LawFit:
    """`fit_law` on a loaded table, with its keywords as a RowFilter and FitOptions."""
    if law == "auto":
        from hf_scaling.fitting.selection import fit_best

        fit = fit_best(table, row_filter, options)
    else:
        fit = fit_one(table, resolve_law(law, options.supervised), row_filter, options)
    return replace(fit, data={**fit.data, "compute": measured_compute(table, fit.data["study"])})


def resolve_law(law: str | Law, supervised=None) -> Law:
    """The law of that name, with its supervised part bound where it has one."""
    found = law if isinstance(law, Law) else LAWS[law]
    if supervised is None:
        return found
    if found.name != "distillation":
        raise InputError(f"supervised changes nothing for {found.name}: only distillation takes it")
    return found.with_supervised(getattr(supervised, "params", supervised))


def fit_one(table, law: Law, row_filter: RowFilter, options: FitOptions) -> LawFit:
    """Fit one law."""
    return fit_rows(choose_rows(table, law, row_filter), law, options)


# A law overflows at sizes or parameters far out; what comes of it is looked at, not announced.
@np.errstate(all="ignore")
def fit_rows(rows: FitRows, law: Law, options: FitOptions) -> LawFit:
    """Fit one law to chosen rows."""
    coordinates = coordinates_of(law, options.fixed, options.tied)
    objective = options.make_objective()
    check_target(rows, objective)
    if len(rows.target) < len(coordinates.names):
        free = len(coordinates.names)
        raise InputError(
            f"{law.name} has {free} free parameters and the table gives {len(rows.target)} rows: add runs"
        )
    found = estimate(rows, law, coordinates, objective, options.seed)
    draws, notes = np.full((options.bootstrap, len(law.parameters)), np.nan), []
    if options.bootstrap and found.has_scatter:
        drawn = draw(found, options.bootstrap, options.method, options.seed)
        draws = found.problem.coordinates.to_theta(drawn.u)
        if drawn.converged < 0.9:
            share = f"{100 * (1 - drawn.converged):.0f} %"
            notes.append(note("draws_not_converged", "warn", f"{share} of the refits did not come to rest"))
    status, found_notes = _verdict(found)
    return _assemble(found, status, [*rows.notes, *found_notes, *notes], draws, options)


def check_target(rows: FitRows, objective) -> None:
    """Refuse targets that the objective is undefined at."""
    if not objective.is_log:
        return
    for row in np.flatnonzero(rows.target <= 0):
        raise InputError(
            f"column {rows.target_name!r}, row {rows.labels[row]}: {rows.target[row]:g} has no logarithm; "
            "leave the row out or use objective mse"
        )


def _verdict(found: Estimate) -> tuple[str, list[dict]]:
    notes, hopeless = diagnostics.design_notes(found.rows)
    profiles = diagnostics.profile_exponents(found)
    loose = [p for p in profiles if not p.identified]
    if found.rows.n_configurations <= len(found.u):
        count = found.rows.n_configurations
        text = f"{count} distinct sizes, however often repeated, leave nothing to judge {len(found.u)} parameters by"
        notes.append(note("too_few_configurations", "error", text))
        hopeless = True
    notes += [_loose_note(p) for p in loose]
    bound_notes, at_bound = diagnostics.bound_notes(found)
    notes += bound_notes + diagnostics.zero_notes(found)
    trade_off = diagnostics.trade_off_note(found) if loose else None
    notes += [trade_off] if trade_off else []
    fit_notes, poor = diagnostics.lack_of_fit(found)
    notes += fit_notes + diagnostics.replicate_notes(found) + diagnostics.leave_one_out(found)
    notes += diagnostics.other_objectives(found)
    if not found.converged:
        notes.append(
            note("not_converged", "warn", "the solver did not come to rest: the flattest direction is still open")
        )
    if hopeless or loose:
        return "not_identifiable", notes
    return ("at_bound" if at_bound else "poor_fit" if poor else "ok"), notes


def _loose_note(profile) -> dict:
    text = f"these runs do not fix {profile.in_words()}: add larger and smaller sizes, or seeds"
    return note("not_identifiable", "error", text)


def _assemble(found: Estimate, status: str, notes: list[dict], draws: np.ndarray, options: FitOptions) -> LawFit:
    rows, law = found.rows, found.law
    names = [p.name for p in law.parameters]
    low, high = quantiles(draws, options.level, found.theta) if len(draws) else (None, None)
    return LawFit(
        law=law.name,
        status=status,
        params={name: float(value) for name, value in zip(names, found.theta)},
        intervals={name: (float(low[i]), float(high[i])) for i, name in enumerate(names)} if len(draws) else {},
        scores=scores(found),
        notes=notes,
        settings={
            "target": rows.target_name,
            "objective": found.problem.objective.name,
            "delta": None if np.isinf(found.problem.objective.delta) else found.problem.objective.delta,
            "columns": rows.columns,
            "weights": _weights_in_words(rows),
            "n_starts": found.n_starts,
            **options.to_dict(),
        },
        data=describe_rows(rows),
        definition=law,
        draws=draws,
        noise=found.residuals * np.sqrt(len(rows.target) / found.freedom),
    )


def describe_rows(rows: FitRows) -> dict:
    """What a fit remembers of its rows: the range of each size, of the target, who they are, and their means."""
    return {
        "ranges": {rows.columns[v]: (float(a.min()), float(a.max())) for v, a in rows.variables.items()},
        "levels": {rows.columns[v]: len(np.unique(a)) for v, a in rows.variables.items()},
        "target_range": (float(rows.target.min()), float(rows.target.max())),
        "study": rows.study,
        "measured": _means(rows),
    }


def _means(rows: FitRows) -> dict[str, list[float]]:
    """The sizes and the mean target of each configuration, evenly thinned where there are very many: for figures."""
    count = rows.n_configurations
    first = np.unique(rows.configuration, return_index=True)[1]
    kept = np.unique(np.linspace(0, count - 1, min(count, _MOST_KEPT)).round().astype(int))
    means = np.bincount(rows.configuration, rows.target) / np.bincount(rows.configuration)
    sizes = {rows.columns[name]: values[first][kept].tolist() for name, values in rows.variables.items()}
    return {**sizes, rows.target_name: means[kept].tolist()}


def _weights_in_words(rows: FitRows) -> str:
    if rows.weights is not None:
        return "given"
    return "binomial from n_eval" if rows.target_name == "error" and rows.n_eval is not None else "equal"


def scores(found: Estimate) -> dict[str, float]:
    """Root mean square errors of the fitted rows, and AICc from the log residuals (linear ones for mse)."""
    rows = found.rows
    fitted = found.problem.objective.unscale(found.fitted)
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(rows.target) - np.log(fitted)
    count, k = len(rows.target), len(found.u) + 1
    square = float(np.mean(found.residuals**2))
    penalty = 2 * k + 2 * k * (k + 1) / (count - k - 1) if count > k + 1 else np.inf
    return {
        "log_rmse": float(np.sqrt(np.mean(logs**2))),
        "rmse": float(np.sqrt(np.mean((rows.target - fitted) ** 2))),
        "aicc": float(count * np.log(max(square, 1e-300)) + penalty),
        "n_rows": count,
        "n_configurations": rows.n_configurations,
    }
