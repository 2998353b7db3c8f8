"""Costs of candidate runs: in the prices of `plan`, in FLOPs, or by their sizes."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from hf_scaling.boundary import Boundary
from hf_scaling.boundary.arms import Pairs
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.columns import SIZES, note
from hf_scaling.fitting.compute import measured_compute
from hf_scaling.planning.costs import CostOptions, compute_of, cost_model
from hf_scaling.planning.next_runs.candidates import MeasuredRuns, checkpoint_key

# Training FLOPs per parameter and token, and here per example: forward and backward (Kaplan et al. 2020).
_FLOPS_PER_PARAM = 6.0


@dataclass
class RunCosts:
    """What each of N candidate runs adds to the costs of those selected before it.

    Attributes:
        own: (N,) cost of the run itself.
        checkpoint: (N,) cost of the pre-training it starts from; 0 where there is none, or it exists.
        checkpoint_key: (N,) which pre-training that is: runs that share one pay once.
        n_labels: (N,) labelled images it needs.
        n_images: (N,) upstream images it needs.
        label: Price of a label beyond the available ones.
        image: Price of an image beyond the available ones.
        available_labels: Labelled images that exist.
        available_images: Upstream images that exist.
    """

    own: np.ndarray
    checkpoint: np.ndarray
    checkpoint_key: np.ndarray
    n_labels: np.ndarray
    n_images: np.ndarray
    label: float
    image: float
    available_labels: float
    available_images: float

    @classmethod
    def independent(cls, own: np.ndarray) -> "RunCosts":
        """Costs of runs that share nothing."""
        none = np.zeros(len(own))
        return cls(own, none, np.arange(len(own)), none, none, 0.0, 0.0, 0.0, 0.0)

    def added(self) -> np.ndarray:
        """(N,) what each run adds now."""
        labels = self.label * np.maximum(self.n_labels - self.available_labels, 0.0)
        images = self.image * np.maximum(self.n_images - self.available_images, 0.0)
        return self.own + self.checkpoint + labels + images

    def pay(self, row: int) -> None:
        """Count a run as paid, with everything that others may share with it."""
        shared = self.checkpoint_key == self.checkpoint_key[row]
        self.checkpoint = np.where(shared, 0.0, self.checkpoint)
        self.available_labels = max(self.available_labels, float(self.n_labels[row]))
        self.available_images = max(self.available_images, float(self.n_images[row]))


def run_costs(
    frame: pd.DataFrame,
    columns: tuple[str, ...],
    fit: LawFit | Boundary | Mapping[str, LawFit],
    measured: MeasuredRuns,
    costs: Mapping[str, float] | None,
    table: Any,
    options: CostOptions,
) -> tuple[RunCosts, dict[str, float] | None, list[dict]]:
    """Costs of complete candidates.

    Args:
        frame: The candidates.
        columns: The sizes that a run is chosen by.
        fit: What they are to narrow, with the compute of its runs.
        measured: The runs that exist.
        costs: Prices by name; None counts FLOPs.
        table: Loaded results to read compute from; None for what is stored with the law.
        options: How compute is counted.

    Returns:
        The costs; their prices, None where the costs are the candidates' own or follow from sizes; notes.
    """
    if "cost" in frame:
        return RunCosts.independent(frame["cost"].to_numpy(dtype=float)), None, []
    counted = {"n_pretrain", "n_finetune"} & set(columns)
    if costs is not None and not counted:
        raise InputError(f"costs= prices images and labels, and runs are chosen by {columns[0]}: give a column cost")
    # A run is priced by its law; a pair by the plain and the distilled arm's.
    if isinstance(fit, Boundary):
        pairs = fit.evidence.pairs
        arms = [_compute_of_pairs(pairs, {} if table is None else measured_compute(table, {}))] * 2
    else:
        fits = [fit] if isinstance(fit, LawFit) else [fit["plain"], fit["distilled"]]
        arms = [(law.columns.values(), compute_of(law, table)) for law in fits]
    has_flops = any(compute.get(stage, {}).get("flops") for _, compute in arms for stage in ("pretrain", "finetune"))
    if costs is None and options.flops_per_param is None and not has_flops:
        return _costs_by_size(frame, columns, len(arms))
    if not counted:
        return _costs_by_size(frame, columns[:1], len(arms))
    prices = dict(costs or {"flop": 1.0})
    models = [cost_model(taken, compute, prices, options) for taken, compute in arms]
    if isinstance(fit, Boundary):
        models[0] = replace(models[0], teacher=None)
    notes: list[dict] = []
    for one in (n for model in models for n in model.notes):
        notes += [] if one in notes else [one]
    sizes = {name: frame[name].to_numpy(dtype=float) for name in SIZES if name in frame}
    if "n_params" not in sizes:
        # The law does not take n_params: a run costs what one of the geometric mean size does.
        known = measured.runs.get("n_params", arms[0][1].get("sizes", {}).get("n_params", ()))
        of_models = np.asarray(known, dtype=float)
        if (of_models > 0).any():
            middle = np.exp(np.log(of_models[of_models > 0]).mean())
            sizes["n_params"] = np.full(len(frame), middle)
    parts, none, fine = [model.parts(sizes) for model in models], np.zeros(len(frame)), "n_finetune" in columns
    training = sum((part["pretrain_compute"] + part["teacher_compute"] for part in parts), none)
    keys = [checkpoint_key(run) for run in frame.to_dict("records")]
    number = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    exists = np.array([key in measured.checkpoints for key in keys])
    labels, images = (
        float(measured.runs[name].max()) if name in measured.runs else 0.0 for name in ("n_finetune", "n_pretrain")
    )
    result = RunCosts(
        own=sum((part["finetune_compute"] for part in parts), none) if fine else training,
        checkpoint=np.where(exists, 0.0, training) if fine else none,
        checkpoint_key=np.array([number[key] for key in keys]),
        n_labels=sizes.get("n_finetune", none),
        n_images=sizes.get("n_pretrain", none),
        label=models[0].label,
        image=models[0].image,
        available_labels=labels,
        available_images=images,
    )
    return result, prices, notes


def _compute_of_pairs(pairs: Pairs, measured: dict) -> tuple[Collection[str], dict]:
    """The sizes that a boundary's pairs are chosen by, and their compute in the form of `measured_compute`.

    FLOPs of pre-trained pairs are a factor that follows n_params times one that follows n_pretrain, by least squares.

    Args:
        pairs: The pairs.
        measured: Compute of the whole table, for what pairs do not have: the pace, the teacher's own images, and the
            checkpoints of fine-tuned pairs.
    """
    if (np.nan_to_num(pairs.n_finetune) > 0).any():
        return ("n_pretrain", "n_finetune"), measured
    if not pairs.flops:
        return ("n_pretrain",), {**measured, "pretrain": {}}
    params, at_params = np.unique(np.nan_to_num(pairs.n_params), return_inverse=True)
    images, at_images = np.unique(pairs.n_pretrain, return_inverse=True)
    dummies = np.concatenate([np.eye(len(params))[at_params], np.eye(len(images))[at_images]], axis=1)
    factors = np.exp(np.linalg.lstsq(dummies, np.log(pairs.flops["plain"]), rcond=None)[0])
    by_params, by_images = factors[: len(params)], factors[len(params) :]
    pretrain: dict[str, Any] = {
        "flops": [[p or None, f] for p, f in zip(params.tolist(), by_params.tolist())],
        "samples": [list(point) for point in zip(images.tolist(), by_images.tolist())],
    }
    teacher = pairs.flops["distilled_with_teacher"] - pairs.flops["distilled"]
    if (teacher > 0).all():
        pretrain["teacher_flops"] = float(np.exp(np.mean(np.log(teacher / by_images[at_images]))))
        own = measured.get("pretrain", {}).get("teacher_trained_on", "the same images")
        pretrain["teacher_trained_on"] = own
    return ("n_pretrain",), {**measured, "pretrain": pretrain}


def _costs_by_size(
    frame: pd.DataFrame, columns: Sequence[str], n_arms: int
) -> tuple[RunCosts, dict[str, float] | None, list[dict]]:
    """Costs where no row has FLOPs: the examples of a run, times six FLOPs per parameter where those are known."""
    counted = [name for name in ("n_pretrain", "n_finetune") if name in columns]
    names = ["samples_seen"] if "samples_seen" in columns else counted or [columns[0]]
    own, words = frame[names].sum(axis=1).to_numpy(dtype=float), " + ".join(names)
    if "n_params" in frame and counted:
        own, words = own * _FLOPS_PER_PARAM * frame["n_params"].to_numpy(dtype=float), f"6 x n_params x ({words})"
    words = f"{n_arms} x {words}" if n_arms > 1 else words
    text = f"no row has train_flops: a run counts as {words}; set costs= or a column cost for others"
    return RunCosts.independent(own * n_arms), None, [note("cost_by_size", "warn", text)]
