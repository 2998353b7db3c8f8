"""Several fits as one prediction: the mean of the laws, with what they all miss at the end carried forward."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from hf_scaling.fitting.fit import describe_rows
from hf_scaling.fitting.lawfit import LawFit
from hf_scaling.fitting.objectives import Objective
from hf_scaling.fitting.rows import FitRows

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
