"""`transfer_gaps`: whether to pre-train more or to label more, and the worth of pre-training in labelled images."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from hf_scaling.errors import InputError
from hf_scaling.fitting import FitOptions, LawFit, RowFilter
from hf_scaling.fitting.columns import Columns, as_table, note, notes_on_rows
from hf_scaling.fitting.estimate import estimate
from hf_scaling.fitting.fit import fit_table
from hf_scaling.fitting.law_fit import quantiles
from hf_scaling.fitting.levels import LEAST_LEVELS, level_notes, levels_of
from hf_scaling.fitting.rows import read_columns, select_rows, thinned
from hf_scaling.fitting.solver import coordinates_of, make_objective
from hf_scaling.laws import LAWS, Law
from hf_scaling.planning.benefit import compare_benefits, compare_stages
from hf_scaling.planning.limits import available_sizes, study_of
from hf_scaling.planning.optimum import thin_draws
from hf_scaling.planning.verdicts import describe_gaps
from hf_scaling.text import format_count

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import TableLike

LAWS_WITH_A_GAP = ("transfer_gap", "transfer_gap_shifted", "transfer_gap_joint")
#: A gap is low where, in its whole interval, it is less than this share of the target above the floor at the largest
#: measured n_pretrain; high where it is more; otherwise the runs cannot tell.
HALF = 0.5
# Levels of n_pretrain and n_finetune must span this factor to separate A n^-alpha from G, and beta from the floor.
_SPAN = 3.0
# Rows of the worth for one downstream set, and draws that its intervals come from.
_MOST_ROWS, _DRAWS = 12, 400


@dataclass(frozen=True)
class TransferGaps:
    """The transfer gaps of one or more downstream sets.

    Attributes:
        table: A row a downstream set: downstream; G with low, high, in the target's unit at one labelled image; share
            with share_low, share_high: of the target above the floor at the largest measured n_pretrain, n_params, the
            part that no more pre-training closes, 0 to 1; never_closed and closable, both parts in the target's
            unit at the largest measured n_finetune; verdict low, high or cannot_tell; larger_model_helps, where it is
            high and the law takes n_params at three levels or more; status of the law; and, by the runs
            alone, what twice the images of either stage changed (`compare_stages`), NaN where fits were given.
        worth: A row a downstream set and n_finetune measured, at the largest n_pretrain: worth with worth_low,
            worth_high, the additional labelled images that the smallest n_pretrain measured (`against`) needs to reach
            the same target; from_scratch with its ends, the same without pre-training, NaN where the table has no such
            rows. inf: no amount does.
        fits: Downstream set to its law.
        contrasts: A row a pair of sets: which of them the largest pre-training helped more, by the runs of two seeds
            or more (`compare_benefits`); empty where the sets were not fine-tuned alike, or fits were given.
        notes: Findings, each with code, grade and text.
        target: The predicted column.
        level: Of the intervals.
    """

    table: pd.DataFrame
    worth: pd.DataFrame
    fits: dict[str, LawFit] = field(repr=False)
    notes: list[dict]
    target: str
    level: float
    contrasts: pd.DataFrame = field(default_factory=lambda: compare_benefits({}))

    def summary(self) -> str:
        """The gaps and the worth as text for a terminal."""
        return describe_gaps(self)


def transfer_gaps(
    table: "TableLike | LawFit | Mapping[str, LawFit]",
    target: str = "loss",
    law: str = "transfer_gap",
    level: float = 0.95,
    study: str | Path | None = None,
    **fitting: Any,
) -> TransferGaps:
    """Judge for each downstream set whether to pre-train more or to label more (Barnett 2024).

    Args:
        table: A ResultsTable, a DataFrame, a mapping of columns or what `ResultsTable.load` takes: a law is fitted to
            the rows of each downstream set with n_pretrain above 0; rows with n_pretrain 0 show what is reached
            without pre-training. Or a fit, or a mapping of names to fits.
        target: The column to fit.
        law: transfer_gap, transfer_gap_shifted or transfer_gap_joint.
        level: Of the intervals, between 0 and 1.
        study: Folder of the study whose sources.json says how many images and labels there are: levels that are
            missing are proposed within that. By default `table`, where it is one.
        **fitting: Further arguments of `fit_law`: arm, upstream, downstream, bootstrap, seed and the rest.

    Raises:
        InputError: The law has no transfer gap, or no downstream set can be fitted.

    Example:
        `hs.transfer_gaps("studies/demo", target="error").table`
    """
    notes, folder = list[dict](), study_of(study, table)
    scratch, seeded = dict[str, LawFit](), dict[str, pd.DataFrame]()
    if isinstance(table, LawFit):
        fits = {_downstream_of(table): table}
    elif isinstance(table, Mapping) and table and all(isinstance(fit, LawFit) for fit in table.values()):
        fits = {str(name): fit for name, fit in table.items() if isinstance(fit, LawFit)}
    else:
        _check_law(law)
        given = {name: value for name, value in fitting.items() if value is not None}
        rows = RowFilter(target, **{f.name: given.pop(f.name) for f in fields(RowFilter) if f.name in given})
        options = FitOptions(level=level, **given)
        fits, scratch, seeded, notes = _fit_each(as_table(table), law, rows, options)  # type: ignore[arg-type]  # no fits left
    gaps, worth = [], []
    for name, fit in fits.items():
        stages = compare_stages(seeded.get(name, pd.DataFrame()), level)
        gaps.append({"downstream": name, **judge_gap(fit, level), **stages})
        worth += [{"downstream": name, **row} for row in images_worth(fit, scratch.get(name), level)]
        most = available_sizes(folder, fit.columns.values(), fit.data["study"], ()).most
        notes += [{**found, "text": f"{name}: {found['text']}"} for found in gap_notes(fit, most)]
        notes += [{**found, "text": f"{name}: {found['text']}"} for found in notes_on_rows(fit.notes)]
        if fit.status != "ok":
            text = f"{name}: the law's own status is {fit.status}; the verdict on the gap is from its draws alone"
            notes.append(note("law_in_doubt", "warn", text))
    target = next(iter(fits.values())).settings["target"]
    contrasts = compare_benefits(seeded, level)
    return TransferGaps(pd.DataFrame(gaps), pd.DataFrame(worth), fits, notes, target, level, contrasts)


def _check_law(name: str) -> None:
    if name not in LAWS_WITH_A_GAP:
        raise InputError(f"{name} has no transfer gap: fit one of {', '.join(LAWS_WITH_A_GAP)}")


def _downstream_of(fit: LawFit) -> str:
    return ", ".join(fit.data["study"].get("downstream", [])) or "all rows"


def _fit_each(
    table: Any, law: str, rows: RowFilter, options: FitOptions
) -> tuple[dict[str, LawFit], dict[str, LawFit], dict[str, pd.DataFrame], list[dict]]:
    """The law of each downstream set, that of its rows without pre-training if there are any, its rows, and notes."""
    frame = table.to_pandas() if hasattr(table, "to_pandas") else table
    if not isinstance(frame, pd.DataFrame):
        frame = pd.DataFrame(frame)
    columns = Columns.of(frame)
    for name in ("n_pretrain", "n_finetune"):
        columns.require(name)
    from_scratch = (columns.numbers("n_pretrain") == 0) & (columns.numbers("n_finetune") > 0)
    fits, scratch, seeded, notes, failed = {}, {}, {}, [], None
    sets: list[Any] = columns.distinct("downstream") or [None]
    for downstream in sets if rows.downstream is None else [rows.downstream]:
        own = replace(rows, downstream=downstream)
        try:
            fit = fit_table(frame[~from_scratch], law, own, options)
        except InputError as error:
            failed = failed or error
            notes.append(note("not_fitted", "warn", f"{downstream or 'this table'}: {error}"))
            continue
        name = downstream or _downstream_of(fit)
        fits[name] = fit
        used = read_columns(frame[~from_scratch], LAWS[law], own)
        sizes = [size for size in ("seed", "n_params", "n_pretrain", "n_finetune") if size in used.data]
        if not fit.scale.rises:
            values = {"value": used.numbers(rows.target)}
            if "model" in used.data:
                values["model"] = used.data["model"]
            seeded[name] = pd.DataFrame({size: used.numbers(size) for size in sizes} | values)
        kept = from_scratch
        if "n_params" in fit.columns.values():
            kept = kept & (columns.numbers("n_params") == fit.data["ranges"]["n_params"][1])
        if not kept.any():
            notes.append(note("no_scratch_rows", "info", f"{name}: no row has n_pretrain 0 to compare with"))
            continue
        # Another seed, since the draws of other rows must not have the same multipliers. Without pre-training there is
        # neither an arm nor an upstream set to select by.
        own = replace(own, x="n_finetune", arm=None, upstream=None)
        try:
            scratch[name] = fit_table(frame[kept], "power_law", own, replace(options, seed=options.seed + 1))
        except InputError as error:
            notes.append(note("no_scratch_rows", "info", f"{name}, rows with n_pretrain 0: {error}"))
            continue
        if scratch[name].status == "not_identifiable":
            text = f"{name}: the rows with n_pretrain 0 do not determine their own law: from_scratch is rough"
            notes.append(note("scratch_in_doubt", "warn", text))
    if not fits:
        raise failed or InputError("the table has no downstream set")
    return fits, scratch, seeded, notes


def judge_gap(fit: LawFit, level: float = 0.95) -> dict[str, Any]:
    """The transfer gap and verdict of one fit: a row of `TransferGaps.table` without its name.

    Raises:
        InputError: The law has no transfer gap, or the fit has no draws.
    """
    _check_law(fit.law)
    largest = {name: end for name, (_, end) in fit.data["ranges"].items()}

    def parts(params: Mapping[str, Any]) -> tuple[Any, Any]:
        """What no more pre-training closes and what it may, at the largest sizes, before the power of n_finetune."""
        never = params["G"]
        if "H" in params:
            never = never + params["H"] * largest["n_params"] ** -params["delta"]
        return never, params["A"] * largest["n_pretrain"] ** -params["alpha"]

    def share_of(params: Mapping[str, np.ndarray], _: object) -> np.ndarray:
        never, closable = parts(params)
        with np.errstate(divide="ignore", invalid="ignore"):
            return never / (never + closable)

    gap = dict(zip(("G", "low", "high"), fit.interval(lambda params, predict: params["G"], level)))
    share = dict(zip(("share", "share_low", "share_high"), fit.interval(share_of, level)))
    never, closable = parts(fit.params)
    labelled = (largest["n_finetune"] + fit.params.get("D0", 0.0)) ** -fit.params["beta"]
    verdict = "low" if share["share_high"] < HALF else "high" if share["share_low"] > HALF else "cannot_tell"
    # Where the rows do not determine a law, all refits may end near the estimate: a narrow interval proves nothing.
    if verdict != "cannot_tell" and gap_notes(fit):
        verdict = "cannot_tell"
    models = levels_of(fit, "n_params") if "H" in fit.params else np.empty(0)
    return {
        **gap,
        **share,
        "never_closed": never * labelled,
        "closable": closable * labelled,
        "verdict": verdict,
        "larger_model_helps": verdict == "high" and len(models) >= LEAST_LEVELS,
        "status": fit.status,
    }


def gap_notes(fit: LawFit, most: Mapping[str, float] | None = None) -> list[dict]:
    """Notes on why the rows of a fit cannot separate the gap from what more pre-training closes; [] where they can.

    Args:
        fit: The law.
        most: Size to the most that the sources of its study have: no more is proposed.
    """
    if not {"n_pretrain", "n_finetune"} <= set(fit.columns.values()):
        return []
    levels = {name: levels_of(fit, name) for name in ("n_pretrain", "n_finetune")}
    notes = level_notes(levels, "what more pre-training closes from what it never does", span=_SPAN, most=most)
    if not notes and half_fits_as_well(fit):
        low, high = fit.data["ranges"]["n_pretrain"]
        text = "a gap of half of the target above the floor fits these rows about as well (95 %): add runs with "
        text += f"n_pretrain below {format_count(low)} and above {format_count(high)}, or seeds"
        notes.append(note("gap_open", "warn", text))
    return notes


def half_fits_as_well(fit: LawFit, level: float = 0.95) -> bool:
    """Whether the law with a share of one half fits the configuration means as well as the fit does.

    A one-sided F test of the profile: the law is refitted with the share held at one half at the largest sizes, and
    the losses of the two are compared.
    """
    measured = fit.data.get("measured")
    # Parameters that the caller fixed are taken as true, not tested.
    if measured is None or fit.settings.get("fixed") or fit.settings.get("tied"):
        return False
    target, ends = fit.settings["target"], fit.data["ranges"]
    never = "1"
    if "H" in fit.params:
        never = f"q + (1 - q)*(n_params/{float(ends['n_params'][1])!r})**-delta"
    shift = "(n_finetune + D0)" if "D0" in fit.params else "n_finetune"
    closable = f"(n_pretrain/{float(ends['n_pretrain'][1])!r})**-alpha"
    law = Law(
        "half", f"A*({closable} + {never})*{shift}**-beta + E", bounds={"q": (0, 1)} if "H" in fit.params else {}
    )
    objective = make_objective(fit.settings["objective"], fit.settings["delta"])
    sizes = {name: np.asarray(values) for name, values in measured.items() if name != target}
    means = fit.scale.to_fitted(np.asarray(measured[target]))
    rows = select_rows({**sizes, "mean": means}, law, RowFilter("mean", direction="down"))
    half = estimate(rows, law, coordinates_of(law), objective, fit.settings["seed"])
    free = objective.scale(rows.target) - objective.scale(fit.fitted_values(sizes))
    freedom = len(free) - len(fit.params)
    if freedom < 1:
        return True
    least, loss = (float(objective.loss(residuals)) for residuals in (free, half.residuals))
    return bool(loss - least <= stdtrit(freedom, level) ** 2 * least / freedom)


def images_worth(fit: LawFit, scratch: LawFit | None, level: float) -> list[dict[str, float]]:
    """Rows of `TransferGaps.worth`: of the largest measured n_pretrain, at each n_finetune and the largest n_params.

    Both are the effective data transferred (Hernandez et al. 2021): the law at the smallest measured n_pretrain, and
    the law without pre-training, are inverted for the n_finetune at which they reach the same target, less n_finetune.
    Draw b of the target is paired with draw b of the law that is inverted.

    Args:
        fit: A law of n_pretrain and n_finetune.
        scratch: The law of the rows without pre-training, in n_finetune; None where there are none.
        level: Of the intervals.
    """
    ranges = fit.data["ranges"]
    # A law stored by an older version has the ends of n_finetune alone.
    measured = [n for n in fit.data.get("compute", {}).get("sizes", {}).get("n_finetune", ()) if n > 0]
    measured = measured or list(ranges["n_finetune"])
    labelled = np.array(measured)[thinned(len(measured), _MOST_ROWS)]
    most = {name: np.full(len(labelled), ranges[name][1]) for name in ranges if name != "n_finetune"}
    theta = _with_draws(fit)
    targets = fit.definition.predict(theta, {**most, "n_finetune": labelled})  # type: ignore[union-attr]  # no mixture
    against = {name: values[0] for name, values in most.items()} | {"n_pretrain": ranges["n_pretrain"][0]}
    worth = _solve(fit, theta, targets, against) - labelled
    alone = np.full((1, len(labelled)), np.nan)
    if scratch is not None:
        theta = _with_draws(scratch)
        count = min(len(theta), len(targets))
        alone = _solve(scratch, theta[:count], targets[:count], {}) - labelled
    return [
        {
            "n_pretrain": float(ranges["n_pretrain"][1]),
            "n_finetune": float(labelled[i]),
            "against": float(against["n_pretrain"]),
            **_interval("worth", worth[:, i], level),
            **_interval("from_scratch", alone[:, i], level),
        }
        for i in range(len(labelled))
    ]


def _with_draws(fit: LawFit) -> np.ndarray:
    """(1 + B, P) the estimate and at most 400 of its draws."""
    return np.concatenate([fit.theta[None], thin_draws(fit, _DRAWS).draws])


def _solve(fit: LawFit, theta: np.ndarray, targets: np.ndarray, sizes: Mapping[str, float]) -> np.ndarray:
    """n_finetune (B, N) at which each parameter vector (B, P) reaches its targets (B, N)."""
    name = next(variable for variable, column in fit.columns.items() if column == "n_finetune")
    usable = np.isfinite(targets) & (targets > 0)
    solved = [
        fit.definition.invert(theta, column, name, sizes)  # type: ignore[union-attr]  # never a mixture
        for column in np.where(usable, targets, 1.0).T
    ]
    return np.where(usable, np.stack(solved, axis=1), np.nan)


def _interval(name: str, values: np.ndarray, level: float) -> dict[str, float]:
    """The estimate and the interval of its draws, under the keys of a row."""
    value, draws = values[0], values[1:]
    low, high = quantiles(draws, level, value) if len(draws) else (np.nan, np.nan)
    return {name: float(value), f"{name}_low": float(low), f"{name}_high": float(high)}
