"""What a law's sizes may be bought at: which are free to choose, between which ends, at what price."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.compute import SIZES
from hf_scaling.fitting.rows import note
from hf_scaling.planning.costs import CostModel

# How far beyond the measured sizes an optimum is looked for, as a factor; notes say how far out it is.
REACH = 1e6
_MODEL_REACH = 1e3


@dataclass(frozen=True)
class Problem:
    """One arm's question: the smallest predicted target for a budget.

    Attributes:
        fit: The law.
        costs: What sizes cost.
        bought: The sizes that the law takes and the budget buys, of n_pretrain and n_finetune.
        ends: n_pretrain and n_finetune to the least and the most that may be bought; equal ends where held.
        n_params: (K,) model sizes to choose among; a single NaN where the size is not known and does not matter.
        any_n_params: Whether every size from the least to the largest of n_params may be chosen.
        zero: Whether the budget buys n_pretrain, and the law is defined without any.
        notes: What was held, and why.
    """

    fit: LawFit
    costs: CostModel
    bought: tuple[str, ...]
    ends: dict[str, tuple[float, float]]
    n_params: np.ndarray
    any_n_params: bool
    zero: bool
    notes: tuple[dict, ...]

    def predict(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) predictions at sizes by column; infinite where a size or the prediction is undefined."""
        with np.errstate(all="ignore"):
            values = self.fit.values(sizes)
        return np.where(np.isfinite(values), values, np.inf)


def make_problem(
    fit: LawFit, costs: CostModel, sizes: Mapping[str, list[float]], n_params, at_most: Mapping[str, float]
) -> Problem:
    """The question that a fit, its costs and the user's limits ask.

    Args:
        fit: The law.
        costs: What sizes cost.
        sizes: n_params, n_pretrain and n_finetune to the values measured.
        n_params: A number or several to choose among, "any", or None for the measured ones.
        at_most: n_pretrain and n_finetune to the most that may be had.

    Raises:
        InputError: The law's variables are no sizes that can be bought, none has a price, a limit cannot be used, or
            the law does not fall with size.
    """
    refuse_others(fit)
    _refuse_rising(fit)
    notes: list[dict] = []
    models, any_size = _models(fit, costs, sizes, n_params, notes)
    ends = {name: _ends(fit, costs, name, sizes, at_most, notes) for name in SIZES[1:]}
    bought = tuple(n for n in SIZES[1:] if ends[n][0] < ends[n][1])
    if not bought and not ("n_params" in fit.columns.values() and costs.prices("n_params")):
        wanted = ", ".join(fit.columns.values())
        raise InputError(
            f"these prices buy nothing that {fit.law} depends on ({wanted}): give the price of one of them"
        )
    zero = "n_pretrain" in bought and _defined_at_zero(fit)
    return Problem(fit, costs, bought, ends, models, any_size, zero, tuple(notes))


def refuse_others(fit: LawFit) -> None:
    """Raise unless every variable of the law is a size that a budget buys."""
    others = [column for column in fit.columns.values() if column not in SIZES]
    if others:
        raise InputError(
            f"plan buys {', '.join(SIZES)}, and {fit.law} depends on {', '.join(others)} as well: fit a law without"
        )


def _refuse_rising(fit: LawFit) -> None:
    ends = [{c: np.array([span[i]]) for c, span in fit.data["ranges"].items()} for i in (0, 1)]
    smallest, largest = (float(fit.values(at)[0]) for at in ends)
    if largest > smallest:
        target = fit.settings["target"]
        raise InputError(
            f"{fit.law} predicts {target} {smallest:.4g} at the smallest sizes measured and {largest:.4g} at the "
            "largest: plan buys sizes to make its target small"
        )


def _models(fit: LawFit, costs: CostModel, sizes, n_params, notes: list[dict]) -> tuple[np.ndarray, bool]:
    """The model sizes to choose among, and whether those between them may be chosen too."""
    known = [size for size in sizes.get("n_params", ()) if size > 0]
    if "n_params" not in fit.columns.values():
        return np.array([_model_held(fit, costs, known, n_params, notes)]), False
    low, high = fit.data["ranges"]["n_params"]
    if isinstance(n_params, str):
        if n_params != "any":
            raise InputError(
                f"n_params {n_params!r} is unknown: give numbers, any, or leave it out for those measured"
            )
        if costs.prices("n_params"):
            return np.array([low / _MODEL_REACH, high * _MODEL_REACH]), True
        notes.append(_free("n_params", high))
        return np.array([high]), False
    if n_params is not None:
        return _positive(n_params, "n_params"), False
    return (np.array(known) if known else np.array([low, high])), not known


def _model_held(fit: LawFit, costs: CostModel, known: list[float], n_params, notes: list[dict]) -> float:
    """The one model size of a law that does not take it; NaN where nothing depends on it."""
    if n_params is not None and not isinstance(n_params, str):
        given = _positive(n_params, "n_params")
        if len(given) == 1:
            return float(given[0])
    if n_params is not None:
        raise InputError(f"{fit.law} does not take n_params: give the one size to plan for, or nothing")
    if len(known) == 1:
        return known[0]
    trainings = [t for t in (costs.pretraining, costs.finetuning) if t is not None]
    if any(t.flops.constant is None for t in trainings):
        raise InputError(
            f"compute has a price, {fit.law} does not take n_params and the rows hold {len(known) or 'no'} model "
            "sizes: say with n_params= which size to plan for, or fit a law that takes it"
        )
    return float("nan")


def _ends(
    fit: LawFit, costs: CostModel, name: str, sizes, at_most: Mapping[str, float], notes: list[dict]
) -> tuple[float, float]:
    """The least and the most of a size that may be bought; held where the law does not take it or it costs nothing."""
    limit = float(at_most.get(name, np.inf))
    if name not in fit.columns.values():
        known = sizes.get(name, ())
        held = float(known[0]) if len(known) == 1 else float("nan")
        if len(known) > 1:
            text = f"{fit.law} does not take {name}: it is taken as settled, and not paid for"
            notes.append(note("not_in_law", "info", text))
        return held, held
    high = fit.data["ranges"][name][1]
    if costs.prices(name):
        return 1.0, min(limit, high * REACH)
    held = limit if np.isfinite(limit) else high
    notes.append(_free(name, held))
    return held, held


def _free(name: str, held: float) -> dict:
    text = f"{name} costs nothing at these prices: held at {held:,.10g}, the most that at_most= allows or was measured"
    return note("free_size", "info", text)


def _defined_at_zero(fit: LawFit) -> bool:
    at = {column: np.array([span[1]]) for column, span in fit.data["ranges"].items()} | {"n_pretrain": np.zeros(1)}
    with np.errstate(all="ignore"):
        return bool(np.isfinite(fit.values(at)[0]))


def check_limits(at_most: Mapping[str, float] | None) -> dict[str, float]:
    """The user's limits as numbers.

    Raises:
        InputError: A name is none of n_pretrain and n_finetune, or a limit is below 1.
    """
    found = {}
    for name, value in (at_most or {}).items():
        if name not in SIZES[1:]:
            raise InputError(f"at_most has no {name!r}: there are {' and '.join(SIZES[1:])}; n_params= chooses models")
        found[name] = float(_positive(value, f"at_most {name}")[0])
        if found[name] < 1:
            raise InputError(f"at_most {name} is {value}: at least 1")
    return found


def _positive(values, name: str) -> np.ndarray:
    try:
        found = np.unique(np.atleast_1d(np.asarray(values, dtype=float)))
    except (TypeError, ValueError):
        found = np.array([np.nan])
    if not len(found) or not (np.isfinite(found) & (found > 0)).all():
        raise InputError(f"{name} takes positive numbers, not {values!r}")
    return found
