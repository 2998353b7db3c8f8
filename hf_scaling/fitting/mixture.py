"""law="auto": the best law of a ranking, or a mixture of those that predict as well."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting.columns import note
from hf_scaling.fitting.discrepancy import HeldOut, combine_held_out, estimate_discrepancy, neighbours
from hf_scaling.fitting.fit import FitOptions, describe_rows, fit_rows
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.fitting.rows import FitRows, RowFilter, number_configurations
from hf_scaling.fitting.selection import BASELINE, Ranking, laws_of_one_variable, rank, shared_rows, with_stage
from hf_scaling.fitting.solver import Objective
from hf_scaling.laws import LAWS

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import Table


# In several variables the mixture takes the laws within this factor of the smallest typical held-out error.
_CLOSE = 1.25
# A mixture of one variable takes laws of at most this many parameters, and bnsl on curves of at least this many sizes
# for each of its parameters.
_FEW_PARAMETERS, _LONG_CURVE = 4, 8
# Rows count by (size / largest size) to the first power, plus the second times the share of a law's residuals that is
# systematic, in one variable and in several; on curves of more than this many sizes, times the root of this over their
# number.
_EMPHASIS, _EMPHASIS_SEVERAL, _SHORT_CURVE = (0.4, 0.75), (0.75, 0.4), 12
# With fewer pairs of neighbours that share is unknown and counts as one half.
_FEWEST_PAIRS = 4
# In several variables, sizes below the largest by more than this factor count the same: where sizes span decades, few
# rows would decide.
_WIDEST = 8.0
# The power of (x / largest x) with which rows count as "at the largest sizes".
_SHARPNESS = 8.0


def fit_best(table: "Table", row_filter: RowFilter, options: FitOptions) -> LawFit:
    """law="auto": rank, then fit the best law, or a mixture, to all the rows that it can use."""
    if options.fixed or options.tied:
        raise InputError("fixed and tied name parameters of one law: they cannot be used with law='auto'")
    if isinstance(options.prior, Mapping):
        raise InputError("prior names exponents of one law: with law='auto' it is 'published' or None")
    return fit_ranked(table, rank(table, row_filter, options), row_filter, options)


def fit_ranked(table: "Table", ranking: Ranking, row_filter: RowFilter, options: FitOptions) -> LawFit:
    """Fit the best law of a ranking, or the mixture that its held-out errors call for."""
    names = _mixed_laws(ranking) if options.combine else [ranking.best]
    laws = {name: LAWS[name] for name in names}
    rows, _ = shared_rows(table, with_stage(table, row_filter), laws)
    rows = emphasise_sizes(rows, ranking.fits) if options.combine and row_filter.weights is None else rows
    members = [fit_rows(rows[name], laws[name], options) for name in names]
    fit = members[0] if len(names) == 1 else combine_fits(members, [rows[name] for name in names])
    held_out = ranking.table.set_index("law")["holdout_log_rmse"]
    errors = ", ".join(f"{name} {error:.3g}" for name, error in held_out.items())
    if len(names) > 1:
        text = f"the mean of {', '.join(names)}, equally weighted; held-out log RMSE: {errors}"
        notes = [*ranking.notes, note("combined", "info", text)]
    else:
        reason = "the smallest held-out log RMSE" if names[0] == ranking.best else "the law that these rows determine"
        notes = [*ranking.notes, note("chosen", "info", f"{names[0]}: {reason}; held-out log RMSE: {errors}")]
    factor = f"{float(ranking.table['factor_out'].iloc[0]):.3g}"
    text = f"the largest scales, up to {factor} times the fitted ones: log RMSE {held_out.min():.3g} ({ranking.best})"
    return replace(fit, notes=[*fit.notes, *notes], settings={**fit.settings, "validation": text})


def _mixed_laws(ranking: Ranking) -> list[str]:
    """The laws that a mixture averages, all with the same weight.

    Short backtests select badly among forms that disagree little, so weights by backtest lose to equal ones. But a law
    that was never held out has not shown that it follows the shape. A law that the rows do not determine is free to
    predict anything beyond them: on grids it is left out where another is determined, and of one variable the laws of
    five and more parameters are, which curves of ordinary length seldom determine. Long curves take bnsl too, whose
    break may bend either way (m4 errs as shifted_power_law does). Where no law passes, AICc decides.
    """
    fits, backtest = ranking.fits, ranking.backtest
    one_variable = ranking.best in laws_of_one_variable(fits[ranking.best].columns.values())
    # On grids a single window that a law cannot predict at all would decide a root mean square.
    errors = {name: backtest.typical(name) for name in [*fits, BASELINE]}
    scored = [name for name in fits if not np.isnan(errors[name])]
    if one_variable:
        sizes = fits[ranking.best].scores["n_configurations"]
        names = [name for name in scored if len(fits[name].params) <= _FEW_PARAMETERS]
        names += [name for name in scored if name == "bnsl" and sizes >= _LONG_CURVE * len(fits[name].params)]
    else:
        beating = [name for name in scored if errors[name] <= errors[BASELINE]]
        closest = [name for name in beating if fits[name].status != "not_identifiable"] or beating
        names = [name for name in closest if errors[name] <= _CLOSE * min(errors[n] for n in closest)]
    return names or [min(scored or fits, key=lambda name: (fits[name].scores["aicc"], len(fits[name].params)))]


def emphasise_sizes(rows: Mapping[str, FitRows], fits: Mapping[str, LawFit]) -> dict[str, FitRows]:
    """The same rows for each law, the larger ones counting more: a law that is wrong should be right at the far end.

    The size is the data that the rows were trained on: n_finetune where a law has it, else n_pretrain, else the
    variable. The power grows with the share of a law's residuals that is systematic. A curve of many sizes needs less:
    they show where it ends, and the mean's residual there is carried forward.

    Args:
        rows: Law name to the same rows, as that law's variables.
        fits: Law name to its fit with equal weights.
    """
    sizes = {view.columns[name]: values for view in rows.values() for name, values in view.variables.items()}
    column = next((name for name in ("n_finetune", "n_pretrain") if name in sizes), next(iter(sizes)))
    relative = np.maximum(sizes[column], sizes[column][sizes[column] > 0].min()) / sizes[column].max()
    relative = np.maximum(relative, 1 / _WIDEST) if len(sizes) > 1 else relative
    emphasised = {}
    for name, view in rows.items():
        scale = Objective(fits[name].settings["objective"])
        residual = scale.scale(view.target) - scale.scale(fits[name].fitted_values(sizes))
        pairs = neighbours(view)
        systematic, scatter = _split_variance(residual, *pairs)
        share = systematic / max(systematic + scatter, 1e-300) if len(pairs[0]) >= _FEWEST_PAIRS else 0.5
        if len(sizes) == 1:
            power = (_EMPHASIS[0] + _EMPHASIS[1] * share) * min(1.0, (_SHORT_CURVE / view.n_configurations) ** 0.5)
        else:
            power = _EMPHASIS_SEVERAL[0] + _EMPHASIS_SEVERAL[1] * share
        emphasis = relative**power
        emphasised[name] = replace(view, emphasis=emphasis / emphasis.mean())
    return emphasised


def _split_variance(residual: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """The residuals' variance beyond the scatter between neighbours (pairs `first`, `second`), and that scatter."""
    scatter = float(np.mean((residual[first] - residual[second]) ** 2) / 2) if len(first) else 0.0
    return max(float(np.var(residual)) - scatter, 0.0), scatter


def combine_fits(members: Sequence[LawFit], views: Sequence[FitRows]) -> LawFit:
    """A mixture of fits of the same rows, equally weighted; `views` are the rows as each member's variables.

    Laws are averaged on the objective's scale. In one variable, the mean's residual at the largest sizes is carried
    forward as far as it exceeds the scatter between neighbours: a curve that has left the law's path seldom returns
    to it.
    """
    scale = Objective(members[0].settings["objective"])
    # The rows with every size that one of the laws takes: some laws take the model's size and some do not.
    sizes = {view.columns[name]: values for view in views for name, values in view.variables.items()}
    configuration = number_configurations(sizes.values())
    rows = replace(views[0], columns={n: n for n in sizes}, variables=sizes, configuration=configuration)
    fitted = np.mean([scale.scale(member.fitted_values(sizes)) for member in members], axis=0)
    residual = scale.scale(rows.target) - fitted
    carried = carried_residual(next(iter(sizes.values())), residual) if len(sizes) == 1 else 0.0
    held_out = _mixture_held_out(members, rows, scale)
    with np.errstate(invalid="ignore", divide="ignore"):
        values = scale.unscale(fitted + carried)
        logs = np.log(rows.target / values)
    weights = rows.weights if rows.weights is not None else 1.0
    root_weights = np.sqrt(weights * (np.ones_like(rows.target) if rows.emphasis is None else rows.emphasis))
    discrepancy = estimate_discrepancy(
        held_out,
        rows,
        scale.scale(rows.target),
        root_weights,
        fitted + carried,
        scale.is_log,
        determined=any(member.status != "not_identifiable" for member in members),
    )
    settings: dict[str, Any] = {
        **members[0].settings,
        "delta": None,
        "carried": carried,
        "n_starts": max(m.settings["n_starts"] for m in members),
    }
    return LawFit(
        law="mixture",
        status="ok" if any(m.status == "ok" for m in members) else members[0].status,
        params={f"{m.law}.{name}": value for m in members for name, value in m.params.items()},
        intervals={f"{m.law}.{name}": ends for m in members for name, ends in m.intervals.items()},
        scores={
            "log_rmse": float(np.sqrt(np.mean(logs**2))),
            "rmse": float(np.sqrt(np.mean((rows.target - values) ** 2))) / abs(rows.scale.factor),
            # A mean of laws has no likelihood of its own: the best member's criterion is given.
            "aicc": min(m.scores["aicc"] for m in members),
            "n_rows": len(rows.target),
            "n_configurations": rows.n_configurations,
        },
        notes=_member_notes(members),
        settings=settings,
        data={**describe_rows(rows), "discrepancy": discrepancy},
        definition=None,
        draws=np.empty((0, 0)),
        noise=residual - carried,
        members=tuple(members),
        weights={member.law: 1 / len(members) for member in members},
        held_out=held_out,
    )


def _mixture_held_out(members: Sequence[LawFit], rows: FitRows, scale: Objective) -> HeldOut:
    """What the mixture would have predicted beyond each window, its carried residual included."""
    parts = [member.held_out for member in members if member.held_out is not None]
    held_out = combine_held_out(parts, [1 / len(parts)] * len(parts))
    if len(rows.variables) > 1:
        return held_out
    (x,) = rows.variables.values()
    values = held_out.values.copy()
    for window, predicted in zip(held_out.windows, values):
        residual = scale.scale(rows.target) - predicted
        predicted += carried_residual(x[window.train], residual[window.train])
    return replace(held_out, values=values)


def carried_residual(x: np.ndarray, residual: np.ndarray) -> float:
    """The residual of a fit at the largest sizes, shrunk by the share of it that is scatter.

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
    systematic, scatter = _split_variance(residual, order[:-1], order[1:])
    effective = float(weights.sum() ** 2 / (weights**2).sum())
    return shift * systematic / (systematic + scatter / effective) if systematic > 0 else 0.0


def _member_notes(members: Sequence[LawFit]) -> list[dict]:
    """Each finding once, with the laws that it is about; doubts about parameters do not concern the mean."""
    laws: dict[tuple[str, str, str], list[str]] = {}
    for member in members:
        for item in member.notes:
            if item["code"] not in ("not_identifiable", "trade_off", "at_bound", "objectives"):
                laws.setdefault((item["code"], item["grade"], item["text"]), []).append(member.law)
    return [note(code, grade, f"{', '.join(names)}: {text}") for (code, grade, text), names in laws.items()]
