"""Effective data transferred (Hernandez 2021): how many labelled images the pre-training was worth."""

import numpy as np

from hf_scaling.fitting import LawFit
from hf_scaling.fitting.lawfit import quantiles

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
