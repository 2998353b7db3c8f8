"""Fits with planted parameters, built without fitting, and the best allocation of a budget by brute force."""

import numpy as np
import pandas as pd
from law_truths import TRUTHS, law_of

import hf_scaling as hs
from hf_scaling.fitting import LawFit

SIZES = ("n_params", "n_pretrain", "n_finetune")
MODELS = (1e5, 4e5, 1.6e6)
# A minimum number of steps below 4,000 images, ten passes beyond; fine-tuning likewise.
PRETRAIN = [[250.0, 40_000.0], [1000.0, 40_000.0], [4000.0, 40_000.0], [32_000.0, 320_000.0]]
FINETUNE = [[20.0, 5000.0], [500.0, 5000.0], [5000.0, 50_000.0]]
# Parameters of the teacher of `table`.
TEACHER = 1e4
_RANGES = {"n_params": (MODELS[0], MODELS[-1]), "n_pretrain": (250.0, 32_000.0), "n_finetune": (20.0, 5000.0)}

# Planted coefficients with which every size matters over these ranges.
SMALL = {
    **{name: TRUTHS[name] for name in ("power_law", "shifted_power_law", "m4", "bnsl")},
    "chinchilla": {"E": 0.3, "A": 40.0, "alpha": 0.4, "B": 12.0, "beta": 0.35},
    "chinchilla_coupled": {"E": 0.3, "A": 400.0, "alpha": 0.6, "B": 60.0, "beta": 0.5, "gamma": 0.7},
    "joint_additive": {"E": 0.1, "A": 40.0, "alpha": 0.4, "B": 12.0, "beta": 0.35, "C": 2.0, "gamma": 0.4},
    "joint_multiplicative": {"E": 0.1, "A": 60.0, "alpha": 0.25, "beta": 0.3},
    "joint_multiplicative_data": {"E": 0.1, "A": 40.0, "alpha": 0.25, "beta": 0.3},
    "joint_multiplicative_full": {"E": 0.1, "A": 400.0, "alpha": 0.2, "gamma": 0.2, "beta": 0.3},
    "transfer_gap": {"A": 30.0, "alpha": 0.4, "G": 0.8, "beta": 0.3, "E": 0.05},
    "transfer_gap_shifted": {"A": 30.0, "alpha": 0.4, "G": 0.8, "D0": 60.0, "beta": 0.3, "E": 0.05},
    "transfer_gap_joint": {"A": 30.0, "alpha": 0.4, "G": 0.5, "H": 30.0, "delta": 0.35, "beta": 0.3, "E": 0.05},
    "rectified": {"B": 60.0, "Dl": 40.0, "beta": 0.8, "E": 0.1},
    "rectified_joint": {"B": 60.0, "D0": 10.0, "k": 0.5, "b": 0.5, "beta": 0.8, "E": 0.1},
    "effective_data": {"k": 3.0, "a": 0.3, "b": 0.4, "B": 4.0, "beta": 0.35, "E": 0.1},
    "effective_data_shifted": {"k": 3.0, "a": 0.3, "b": 0.4, "D0": 50.0, "B": 4.0, "beta": 0.35, "E": 0.1},
    "effective_data_model": {"k": 1.0, "a": 0.3, "b": 0.4, "B": 8.0, "beta": 0.3, "E": 0.1},
}


def planted(name, params=None, spread=0.0, draws=200, x="n_pretrain", models=MODELS, seed=0, **data):
    """A fit whose parameters are the planted ones, its draws scattered around them by a share."""
    law, truth = law_of(name), {**SMALL[name], **(params or {})}
    columns = {v: x if v == "x" else v for v in law.variables}
    theta = np.array([truth[p.name] for p in law.parameters])
    scatter = np.random.default_rng(seed).standard_normal((draws, len(theta)))
    flops = [[m, 6.0 * m] for m in models]
    compute = {
        "sizes": {
            "n_params": list(models),
            "n_pretrain": [p for p, _ in PRETRAIN],
            "n_finetune": [20.0, 500.0, 5000.0],
        },
        "pretrain": {"samples": PRETRAIN, "flops": flops},
        "finetune": {"samples": FINETUNE, "flops": flops},
        "flops_per_second": 1e10,
        "devices": ["cpu"],
    }
    settings = {"target": "loss", "objective": "log_huber", "delta": None, "columns": columns, "weights": "equal"}
    settings |= {"n_starts": 1, "bootstrap": draws, "method": "wild", "level": 0.95, "seed": seed}
    return LawFit(
        law=name,
        status="ok",
        params={p.name: float(v) for p, v in zip(law.parameters, theta)},
        intervals={},
        scores={"log_rmse": 0.01, "rmse": 0.01, "aicc": 0.0, "n_rows": 60, "n_configurations": 60},
        notes=[],
        settings=settings,
        data={
            "ranges": {c: _RANGES[c] for c in columns.values()},
            "levels": dict.fromkeys(columns.values(), 4),
            "target_range": (0.1, 3.0),
            "study": {},
            "compute": {**compute, **data},
        },
        definition=law,
        draws=theta * np.exp(spread * scatter),
        noise=np.zeros(60),
    )


def samples(points, n):
    """Samples seen by `PRETRAIN` or `FINETUNE`, computed independently."""
    return np.maximum(points[0][1], points[-1][1] / points[-1][0] * n)


def price(costs, n_params, n_pretrain, n_finetune):
    """Cost of sizes, computed independently."""
    seen = samples(PRETRAIN, n_pretrain) * (n_pretrain > 0) + samples(FINETUNE, n_finetune) * (n_finetune > 0)
    flops = 6 * n_params * seen
    flop = costs.get("flop", 0) + costs.get("hour", 0) / 3600e10
    return costs.get("label", 0) * n_finetune + costs.get("pretrain_image", 0) * n_pretrain + flop * flops


def brute_force(fit, budget, costs):
    """The smallest prediction over all whole sizes of a fine grid that the budget pays for.

    4,000 values of n_pretrain by 20,000 of n_finetune for each model size. The laws fall with n_finetune, so of those
    that the budget pays for beside an n_pretrain only the largest is evaluated.
    """
    columns, best = tuple(fit.columns.values()), np.inf
    upstream = np.append(0, _whole(4000, 1e9)) if "n_pretrain" in columns else np.zeros(1)
    labelled = _whole(20_000, 1e8) if "n_finetune" in columns else np.zeros(1)
    for n_params in MODELS if "n_params" in columns else MODELS[:1]:
        left = budget - price(costs, n_params, upstream, np.zeros(1))
        most = np.searchsorted(price(costs, n_params, np.zeros(1), labelled), left, side="right") - 1
        paid = (left >= 0) & (most >= 0)
        if paid.any():
            n_pretrain, n_finetune = upstream[paid], labelled[most[paid]]
            sizes = {"n_params": np.full(paid.sum(), n_params), "n_pretrain": n_pretrain, "n_finetune": n_finetune}
            best = min(best, np.nanmin(fit.values(sizes), initial=np.inf))
    return best


def _whole(count, largest):
    return np.unique(np.floor(np.geomspace(1, largest, count)))


def table(arm="plain", own_images=True):
    """Rows of both stages of one arm, as runs write them: 6 FLOPs per parameter and sample, 1e10 per second."""
    law, rows = hs.LAWS["transfer_gap"], []
    for n_params in (1e5,):
        for n_pretrain in (250, 1000, 4000, 8000, 32_000):
            seen = float(samples(PRETRAIN, n_pretrain))
            shared = {"arm": arm, "n_params": n_params, "n_pretrain": n_pretrain, "device": "cpu", "task": "images"}
            pre = {**shared, "stage": "pretrain", "n_finetune": 0, "samples_seen": seen, "loss": 1.0}
            if arm == "distilled":
                pre |= {"teacher_flops": 2 * TEACHER * seen, "teacher_n_pretrain": n_pretrain if own_images else 4000}
            rows.append(pre)
            for n_finetune in (20, 100, 500, 5000):
                loss = law.predict((30.0, 0.4, 0.8, 0.3, 0.05), {"n_pretrain": n_pretrain, "n_finetune": n_finetune})
                seen = max(5000.0, 10.0 * n_finetune)
                fine = {"stage": "finetune", "n_finetune": n_finetune, "samples_seen": seen, "loss": float(loss)}
                rows.append({**shared, **fine})
    frame = pd.DataFrame(rows)
    frame["train_flops"] = 6 * frame["n_params"] * frame["samples_seen"]
    frame["seconds"] = (
        frame["train_flops"] + frame.get("teacher_flops", pd.Series(0.0, frame.index)).fillna(0)
    ) / 1e10
    return frame
