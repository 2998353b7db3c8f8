"""The transfer gap of each downstream set, and what pre-training was worth in labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit, fit_law
from hf_scaling.fitting.bootstrap import SIZES
from hf_scaling.fitting.fit import as_table
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.rows import Columns, note

# A row for each n_finetune measured, thinned where a table has very many.
_MOST = 12
_DRAWS = 400


def images_worth(fit: LawFit, scratch: LawFit | None, level: float) -> list[dict]:
    """What the largest n_pretrain measured was worth, at each n_finetune measured and the largest n_params.

    Args:
        fit: A law of n_pretrain and n_finetune.
        scratch: The law of the rows without pre-training, in n_finetune; None where there are none.
        level: Of the intervals.

    Returns:
        Rows of `TransferGaps.worth`. The same target is asked of the same law at the smallest n_pretrain measured, and
        of the law without pre-training; the images found, less n_finetune, are what pre-training was worth. Draw b of
        the target goes with draw b of the law that is solved.
    """
    ranges = fit.data["ranges"]
    labelled = _labelled(fit)
    most = {name: np.full(len(labelled), ranges[name][1]) for name in ranges if name != "n_finetune"}
    theta = _with_draws(fit)
    targets = fit.definition.predict(theta, {**most, "n_finetune": labelled})
    least = {name: values[0] for name, values in most.items()} | {"n_pretrain": ranges["n_pretrain"][0]}
    worth = _solve(fit, theta, targets, least) - labelled
    rows = [
        {
            "n_pretrain": float(ranges["n_pretrain"][1]),
            "n_finetune": float(labelled[i]),
            "against": float(least["n_pretrain"]),
            **_interval("worth", worth[:, i], level),
        }
        for i in range(len(labelled))
    ]
    alone = np.full((1, len(labelled)), np.nan)
    if scratch is not None:
        theta = _with_draws(scratch)
        count = min(len(theta), len(targets))
        alone = _solve(scratch, theta[:count], targets[:count], {}) - labelled
    return [{**row, **_interval("from_scratch", alone[:, i], level)} for i, row in enumerate(rows)]


def _labelled(fit: LawFit) -> np.ndarray:
    """The values of n_finetune measured; a law kept by an older version knows their ends alone."""
    known = [v for v in fit.data.get("compute", {}).get("sizes", {}).get("n_finetune", ()) if v > 0]
    known = known or list(fit.data["ranges"]["n_finetune"])
    places = np.linspace(0, len(known) - 1, min(len(known), _MOST)).round().astype(int)
    return np.array(known)[np.unique(places)]


def _with_draws(fit: LawFit) -> np.ndarray:
    """The estimate and some of its draws, (1 + B, P)."""
    return np.concatenate([fit.theta[None], fit.draws[:: max(1, -(-len(fit.draws) // _DRAWS))]])


def _solve(fit: LawFit, theta: np.ndarray, targets: np.ndarray, sizes: dict) -> np.ndarray:
    """n_finetune (B, N) at which each parameter vector (B, P) reaches its targets (B, N)."""
    name = next(variable for variable, column in fit.columns.items() if column == "n_finetune")
    usable = np.isfinite(targets) & (targets > 0)
    found = [
        fit.definition.invert(theta, np.where(usable, targets, 1.0)[:, i], name, sizes)
        for i in range(targets.shape[1])
    ]
    return np.where(usable, np.stack(found, axis=1), np.nan)


def _interval(name: str, values: np.ndarray, level: float) -> dict[str, float]:
    value, draws = values[0], values[1:]
    low, high = quantiles(draws, level, value) if len(draws) else (np.nan, np.nan)
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}


_LAWS = {
    ("n_params", "n_pretrain"): "chinchilla",
    ("n_params", "n_finetune"): "joint_multiplicative",
    ("n_pretrain", "n_finetune"): "transfer_gap",
    SIZES: "transfer_gap_joint",
}


def suitable_law(table, stage: str | None = None) -> tuple[str, str | None]:
    """The law for the sizes that a table varies, in its fine-tuned rows where it has any.

    Args:
        table: A ResultsTable, a DataFrame or a mapping of columns.
        stage: pretrain or finetune, to choose the rows.

    Returns:
        The law's name, and the column of its variable where it has one alone.

    Raises:
        InputError: The rows vary none of n_params, n_pretrain and n_finetune.
    """
    columns = Columns.of(table)
    stages = columns.distinct("stage")
    wanted = stage or ("finetune" if "finetune" in stages else None)
    if wanted and "stage" in columns.data:
        columns = columns.where(columns.data["stage"].astype(str) == wanted, f"stage {wanted!r}")
    varied = tuple(name for name in SIZES if name in columns.data and _levels(columns, name) > 1)
    if not varied:
        raise InputError(f"the rows vary none of {', '.join(SIZES)}: nothing to plan by")
    return (_LAWS[varied], None) if len(varied) > 1 else ("power_law", varied[0])


def _levels(columns: Columns, name: str) -> int:
    values = columns.numbers(name)
    return len(np.unique(values[np.isfinite(values) & (values > 0)]))


LAWS_WITH_A_GAP = ("transfer_gap", "transfer_gap_shifted", "transfer_gap_joint")
#: G is low when it is the smaller part of what stands above the floor at the largest n_pretrain measured, high when it
#: is the larger part, in the whole interval; else the runs cannot tell.
HALF = 0.5


@dataclass(frozen=True)
class TransferGaps:
    """The transfer gaps of one or more downstream sets.

    Attributes:
        table: A DataFrame, a row a downstream set: downstream; G with low, high, in the target's unit at one labelled
            image; share with share_low, share_high: of what stands above the floor at the largest n_pretrain (and
            n_params) measured, the part that no more pre-training closes, 0 to 1; never_closed and closable, the two
            parts in the target's unit at the largest n_finetune measured; verdict low, high or cannot_tell;
            larger_model_helps, where it is high and the law knows n_params; status of the law.
        worth: A DataFrame, a row a downstream set and n_finetune measured, at the largest n_pretrain: worth with
            worth_low, worth_high, the labelled images more that the smallest n_pretrain measured (`against`) needs to
            reach the same target; from_scratch with its ends, the same against no pre-training at all, NaN where the
            table has no such rows. inf: no amount does.
        fits: Downstream set to its law.
        notes: Findings.
        target: What the laws predict.
        level: Of the intervals.
    """

    table: object
    worth: object
    fits: dict[str, LawFit] = field(repr=False)
    notes: list[dict]
    target: str
    level: float

    def summary(self) -> str:
        """The gaps and the worth in words."""
        from hf_scaling.planning.verdicts import describe_gaps

        return describe_gaps(self)


def transfer_gaps(
    table, target: str = "loss", law: str = "transfer_gap", level: float = 0.95, **fitting
) -> TransferGaps:
    """Judge for each downstream set whether to pre-train more or to label more (Barnett 2024).

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns or what `ResultsTable.load` takes: a law is fitted to
            each downstream set in it, to its rows with n_pretrain above 0; rows with n_pretrain 0 say what no
            pre-training reaches. Or a fit, or a mapping of names to fits.
        target: The column to fit.
        law: transfer_gap, transfer_gap_shifted or transfer_gap_joint.
        level: Of the intervals.
        **fitting: Further arguments of `fit_law`: arm, upstream, downstream, bootstrap, seed and the rest.

    Raises:
        InputError: The law has no transfer gap, or no downstream set can be fitted.
    """
    import pandas as pd

    fits, scratch, notes = _fits(table, target, law, level, fitting)
    rows, worth = [], []
    for name, fit in fits.items():
        rows.append({"downstream": name, **judge_gap(fit, level)})
        worth += [{"downstream": name, **row} for row in images_worth(fit, scratch.get(name), level)]
        notes += _fit_notes(name, fit)
    target = next(iter(fits.values())).settings["target"]
    return TransferGaps(pd.DataFrame(rows), pd.DataFrame(worth), fits, notes, target, level)


def judge_gap(fit: LawFit, level: float = 0.95) -> dict:
    """One fit's transfer gap and verdict: a row of `TransferGaps.table`, without its name.

    Raises:
        InputError: The law has no transfer gap, or the fit no draws.
    """
    if fit.law not in LAWS_WITH_A_GAP:
        raise InputError(f"{fit.law} has no transfer gap: fit one of {', '.join(LAWS_WITH_A_GAP)}")
    gap, low, high = fit.interval(lambda params, predict: params["G"], level)
    share, share_low, share_high = fit.interval(lambda params, predict: _share(fit, params), level)
    never, closable = (float(part[0]) for part in _parts(fit, {n: np.array([v]) for n, v in fit.params.items()}))
    labelled = (fit.data["ranges"]["n_finetune"][1] + fit.params.get("D0", 0.0)) ** -fit.params["beta"]
    verdict = "low" if share_high < HALF else "high" if share_low > HALF else "cannot_tell"
    return {
        "G": gap,
        "low": low,
        "high": high,
        "share": share,
        "share_low": share_low,
        "share_high": share_high,
        "never_closed": never * labelled,
        "closable": closable * labelled,
        "verdict": verdict,
        "larger_model_helps": verdict == "high" and "H" in fit.params,
        "status": fit.status,
    }


def _parts(fit: LawFit, params) -> tuple[np.ndarray, np.ndarray]:
    """What no more pre-training closes and what it may, at the largest sizes measured, before n_finetune's power."""
    never = params["G"]
    if "H" in params:
        never = never + params["H"] * fit.data["ranges"]["n_params"][1] ** -params["delta"]
    return never, params["A"] * fit.data["ranges"]["n_pretrain"][1] ** -params["alpha"]


def _share(fit: LawFit, params) -> np.ndarray:
    never, closable = _parts(fit, params)
    with np.errstate(divide="ignore", invalid="ignore"):
        return never / (never + closable)


def _fits(table, target, law, level, fitting) -> tuple[dict[str, LawFit], dict[str, LawFit], list[dict]]:
    """Each downstream set's law, the law of its rows without pre-training where there are any, and notes."""
    if isinstance(table, LawFit):
        return {_name(table): table}, {}, []
    if isinstance(table, Mapping) and table and all(isinstance(each, LawFit) for each in table.values()):
        return {str(name): each for name, each in table.items()}, {}, []
    if law not in LAWS_WITH_A_GAP:
        raise InputError(f"{law} has no transfer gap: choose one of {', '.join(LAWS_WITH_A_GAP)}")
    frame = _frame(as_table(table))
    fits, scratch, notes, failed = {}, {}, [], None
    for name in _downstream_sets(frame, fitting):
        own = {**fitting, "target": target, "level": level, "downstream": name}
        try:
            fit = fit_law(frame[~_scratch_rows(frame)], law, **own)
        except InputError as error:
            failed = failed or error
            notes.append(note("not_fitted", "warn", f"{name or 'this table'}: {error}"))
            continue
        fits[name or _name(fit)] = fit
        found, said = _from_scratch(frame, fit, own)
        scratch, notes = scratch | ({name or _name(fit): found} if found else {}), notes + said
    if not fits:
        raise failed or InputError("the table holds no downstream set")
    return fits, scratch, notes


def _name(fit: LawFit) -> str:
    return ", ".join(fit.data["study"].get("downstream", [])) or "all rows"


def _frame(table):
    import pandas as pd

    frame = table.to_pandas() if hasattr(table, "to_pandas") else pd.DataFrame(table)
    for name in ("n_pretrain", "n_finetune"):
        if name not in frame.columns:
            raise InputError(f"the table has no column {name!r}: it has {', '.join(map(str, frame.columns))}")
    return frame


def _downstream_sets(frame, fitting) -> list[str | None]:
    if fitting.get("downstream") is not None:
        return [fitting["downstream"]]
    return Columns.of(frame).distinct("downstream") or [None]


def _scratch_rows(frame) -> np.ndarray:
    columns = Columns.of(frame)
    return (columns.numbers("n_pretrain") == 0) & (columns.numbers("n_finetune") > 0)


def _from_scratch(frame, fit: LawFit, settings: dict) -> tuple[LawFit | None, list[dict]]:
    """A power law of n_finetune through the rows without pre-training, of the largest model where the law knows it."""
    keep = _scratch_rows(frame)
    if "n_params" in fit.columns.values() and "n_params" in frame.columns:
        keep &= (frame["n_params"] == fit.data["ranges"]["n_params"][1]).to_numpy()
    if not keep.any():
        text = f"{_name(fit)}: no row has n_pretrain 0: what no pre-training reaches is not known"
        return None, [note("no_scratch_rows", "info", text)]
    # Another seed: the rows are others, so their draws must not follow the same multipliers. Without pre-training they
    # have neither an arm nor upstream images to be chosen by.
    settings = {**settings, "seed": settings.get("seed", 0) + 1, "arm": None, "upstream": None}
    try:
        found = fit_law(frame[keep], "power_law", x="n_finetune", **settings)
    except InputError as error:
        return None, [note("no_scratch_rows", "info", f"{_name(fit)}, rows with n_pretrain 0: {error}")]
    if found.status == "not_identifiable":
        text = f"{_name(fit)}: the rows with n_pretrain 0 do not fix their own law: read from_scratch as rough"
        return found, [note("scratch_in_doubt", "warn", text)]
    return found, []


def _fit_notes(name: str, fit: LawFit) -> list[dict]:
    if fit.status == "ok":
        return []
    text = f"{name}: the law's own verdict is {fit.status}; the gap's verdict goes by the draws alone"
    return [note("law_in_doubt", "warn", text)]
