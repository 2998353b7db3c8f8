"""The bill of candidate runs: in the prices of `plan`, in FLOPs, or in what stands for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hf_scaling.boundary import Boundary
from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.bootstrap import measured_compute
from hf_scaling.fitting.rows import note
from hf_scaling.planning.costs import CostModel, compute_of, cost_model
from hf_scaling.planning.next_runs.candidates import SIZES, Measured, checkpoint_key


@dataclass
class Bill:
    """What each of N candidate runs would add to what has been chosen.

    Attributes:
        own: (N,) the cost of the run itself.
        checkpoint: (N,) the cost of the pre-training it starts from; 0 where there is none, or it was made before.
        checkpoint_key: (N,) which pre-training that is: those who share one pay once.
        n_labels: (N,) labelled images it needs.
        n_images: (N,) upstream images it needs.
        label: Price of a label beyond those that are there.
        image: Price of an image beyond those that are there.
        labels_there: Labelled images that are there.
        images_there: Upstream images that are there.
    """

    own: np.ndarray
    checkpoint: np.ndarray
    checkpoint_key: np.ndarray
    n_labels: np.ndarray
    n_images: np.ndarray
    label: float
    image: float
    labels_there: float
    images_there: float

    @classmethod
    def of(cls, own: np.ndarray) -> "Bill":
        """A bill of runs whose costs have nothing to do with each other."""
        none = np.zeros(len(own))
        return cls(own, none, np.arange(len(own)), none, none, 0.0, 0.0, 0.0, 0.0)

    def cost(self) -> np.ndarray:
        """(N,) what each run adds now."""
        labels = self.label * np.maximum(self.n_labels - self.labels_there, 0.0)
        images = self.image * np.maximum(self.n_images - self.images_there, 0.0)
        return self.own + self.checkpoint + labels + images

    def pay(self, row: int) -> None:
        """Take a run as paid for, with all that others may share with it."""
        made = self.checkpoint_key == self.checkpoint_key[row]
        self.checkpoint = np.where(made, 0.0, self.checkpoint)
        self.labels_there = max(self.labels_there, float(self.n_labels[row]))
        self.images_there = max(self.images_there, float(self.n_images[row]))


# Training FLOPs a parameter and token, and here an example: forward and backward (Kaplan et al. 2020).
_FLOPS_PER_PARAM = 6.0


@dataclass(frozen=True)
class _Priced:
    """What `cost_model` looks at of a fit, for the pairs of a boundary."""

    data: dict
    columns: dict[str, str]
    members: tuple = ()


def bill_of(frame, columns, fit, measured: Measured, costs, table, pace: Mapping[str, float | None]):
    """The bill of candidates, and notes on how it was made up.

    Args:
        frame: The candidates, placed.
        columns: The sizes that a run is chosen by.
        fit: What they are to narrow: it knows what its runs took.
        measured: What is there already.
        costs: Prices by name; None counts FLOPs.
        table: Where train_flops and the rest are read; by default as kept with the law.
        pace: flops_per_param and flops_per_second of `plan`.

    Returns:
        Bill; the prices that it is made of, None where they are the candidates' own or stand for something; notes.
    """
    own_costs = frame["cost"].to_numpy(dtype=float) if "cost" in frame else None
    if own_costs is not None:
        return Bill.of(own_costs), None, []
    arms, counted = _arms(fit, table), {"n_pretrain", "n_finetune"} & set(columns)
    own = None if isinstance(fit, Boundary) else table
    if costs is not None and not counted:
        raise InputError(f"costs= prices images and labels, and runs are chosen by {columns[0]}: give a column cost")
    if costs is None and pace["flops_per_param"] is None and not any(_knows_flops(arm, own) for arm in arms):
        return _by_size(frame, columns, len(arms))
    if not counted:
        return _by_size(frame, columns[:1], len(arms))
    prices = dict(costs or {"flop": 1.0})
    models = [cost_model(arm, prices, own, **pace) for arm in arms]
    if isinstance(fit, Boundary):
        models[0] = replace(models[0], teacher=None)
    notes = []
    for each in (n for model in models for n in model.notes):
        notes += [] if each in notes else [each]
    return _bill(frame, columns, measured, models), prices, notes


def _arms(fit, table) -> list:
    """What each run of a candidate is priced by: one law, or the plain and the distilled arm's."""
    if isinstance(fit, LawFit):
        return [fit]
    if isinstance(fit, Boundary):
        priced = _of_pairs(fit.evidence.pairs, {} if table is None else measured_compute(table, {}))
        return [priced, priced]
    return [fit["plain"], fit["distilled"]]


def _knows_flops(fit, table) -> bool:
    compute = compute_of(fit, table)
    return any(compute.get(stage, {}).get("flops") for stage in ("pretrain", "finetune"))


def _of_pairs(pairs, measured: dict) -> _Priced:
    """The compute of a boundary's pairs, in the form that laws keep it (`fitting.compute`).

    Args:
        pairs: Their FLOPs are counted where they were pre-trained.
        measured: What the whole table says, for what the pairs do not: the pace, the teacher's own images, and the
            checkpoints of fine-tuned pairs.
    """
    if (np.nan_to_num(pairs.n_finetune) > 0).any():
        return _Priced({"study": {}, "compute": measured}, {name: name for name in ("n_pretrain", "n_finetune")})
    compute = {**measured, "pretrain": _curves(pairs) if pairs.flops else {}}
    if "teacher_flops" in compute["pretrain"]:
        trained_on = measured.get("pretrain", {}).get("teacher_trained_on", "the same images")
        compute["pretrain"]["teacher_trained_on"] = trained_on
    return _Priced({"study": {}, "compute": compute}, {"n_pretrain": "n_pretrain"})


def _curves(pairs) -> dict:
    """FLOPs of a run as a part that follows n_params times one that follows n_pretrain, by least squares."""
    params, at_params = np.unique(np.nan_to_num(pairs.n_params), return_inverse=True)
    images, at_images = np.unique(pairs.n_pretrain, return_inverse=True)
    dummies = np.concatenate([np.eye(len(params))[at_params], np.eye(len(images))[at_images]], axis=1)
    parts = np.linalg.lstsq(dummies, np.log(pairs.flops["plain"]), rcond=None)[0]
    by_params, by_images = np.exp(parts[: len(params)]), np.exp(parts[len(params) :])
    teacher = pairs.flops["distilled_with_teacher"] - pairs.flops["distilled"]
    found = {
        "flops": [[p or None, f] for p, f in zip(params.tolist(), by_params.tolist())],
        "samples": [list(pair) for pair in zip(images.tolist(), by_images.tolist())],
    }
    if (teacher > 0).all():
        found["teacher_flops"] = float(np.exp(np.mean(np.log(teacher / by_images[at_images]))))
    return found


def _by_size(frame, columns, n_arms: int):
    """Where nothing says what runs take: their examples, times six FLOPs a parameter where those are known."""
    counted = [name for name in ("n_pretrain", "n_finetune") if name in columns]
    names = ["samples_seen"] if "samples_seen" in columns else counted or [columns[0]]
    own, words = frame[names].sum(axis=1).to_numpy(dtype=float), " + ".join(names)
    if "n_params" in frame and counted:
        own, words = own * _FLOPS_PER_PARAM * frame["n_params"].to_numpy(dtype=float), f"6 x n_params x ({words})"
    words = f"{n_arms} x {words}" if n_arms > 1 else words
    text = (
        f"no row says what runs take (train_flops): a run is counted as {words}; costs= or a column cost say otherwise"
    )
    return Bill.of(own * n_arms), None, [note("cost_by_size", "warn", text)]


def _bill(frame, columns, measured: Measured, models: list[CostModel]) -> Bill:
    sizes = {name: frame[name].to_numpy(dtype=float) for name in SIZES if name in frame}
    if "n_params" not in sizes and "n_params" in measured.runs:
        # The law does not tell models apart: a run costs what one of middling size does.
        middle = np.exp(np.log(measured.runs["n_params"].to_numpy(dtype=float)).mean())
        sizes["n_params"] = np.full(len(frame), middle)
    parts = [model.parts(sizes) for model in models]
    training = sum(part["pretrain_compute"] + part["teacher_compute"] for part in parts)
    fine_tuning = sum(part["finetune_compute"] for part in parts)
    fine, keys = "n_finetune" in columns, [checkpoint_key(run) for run in frame.to_dict("records")]
    there = np.array([key in measured.checkpoints for key in keys])
    number = {key: at for at, key in enumerate(dict.fromkeys(keys))}
    none = np.zeros(len(frame))
    return Bill(
        own=fine_tuning if fine else training,
        checkpoint=np.where(there, 0.0, training) if fine else none,
        checkpoint_key=np.array([number[key] for key in keys]),
        n_labels=sizes.get("n_finetune", none),
        n_images=sizes.get("n_pretrain", none),
        label=models[0].label,
        image=models[0].image,
        labels_there=_largest(measured, "n_finetune"),
        images_there=_largest(measured, "n_pretrain"),
    )


def _largest(measured: Measured, name: str) -> float:
    return float(measured.runs[name].max()) if name in measured.runs else 0.0
