"""What sizes cost: labels, images and compute, in the unit of the user's prices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.bootstrap import measured_compute
from hf_scaling.fitting.fit import as_table
from hf_scaling.fitting.rows import note


class LogCurve:
    """Straight lines between measured points in logarithms, that never fall: more does not cost less.

    Beyond the largest x the curve stays proportional to x: as many passes over the images as at the largest measured,
    as many FLOPs a parameter. Below the smallest it is proportional too, or keeps to its first line ("first"): where a
    training rule asks for a least number of steps, fewer images are passed over more often, and cost as much.

    Args:
        points: Pairs of x and y, positive, x ascending; a single pair without x (None) is a constant.
        below: "proportional" or "first".
    """

    def __init__(self, points, below: str = "proportional"):
        self.constant = float(points[0][1]) if points[0][0] is None else None
        if self.constant is not None:
            return
        self.x, y = np.log(np.asarray(points, dtype=float)).T
        self.y = np.maximum.accumulate(y)
        self.first = 1.0
        if below == "first" and len(self.x) > 1:
            self.first = float(np.clip((self.y[1] - self.y[0]) / (self.x[1] - self.x[0]), 0, 1))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at sizes x, 0 or more."""
        if self.constant is not None:
            return np.full(np.shape(x), self.constant)
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(np.asarray(x, dtype=float)), -700.0)
        inside = np.interp(logs, self.x, self.y)
        below, above = np.minimum(logs - self.x[0], 0.0), np.maximum(logs - self.x[-1], 0.0)
        return np.exp(inside + self.first * below + above)


#: What can have a price: one labelled downstream image, one unique upstream image, one FLOP, one hour of the device.
PRICES = ("label", "pretrain_image", "flop", "hour")
# A training step is three forward passes: one forward, two backward (docs/training.md).
_TRAINING_PASSES = 3


@dataclass(frozen=True)
class Training:
    """What training one stage takes.

    Attributes:
        samples: Unique examples to samples seen.
        flops: n_params to training FLOPs a sample.
    """

    samples: LogCurve
    flops: LogCurve

    def of(self, n_params: np.ndarray, n_examples: np.ndarray) -> np.ndarray:
        """FLOPs of runs of these sizes (N,); none where there is no example."""
        return np.where(n_examples > 0, self.flops(n_params) * self.samples(n_examples), 0.0)


@dataclass(frozen=True)
class Teacher:
    """What the teacher of a distilled arm takes.

    Attributes:
        forward: FLOPs of its forward pass a sample.
        trained_on: Its own n_pretrain; None where it is the student's; NaN where unknown: its training is not counted.
        samples: Unique examples to samples seen, by the rule that teacher and student share.
    """

    forward: float
    trained_on: float | None
    samples: LogCurve

    def of(self, n_pretrain: np.ndarray) -> np.ndarray:
        """FLOPs of training the teacher and of asking it about every sample its student sees (N,)."""
        own = n_pretrain if self.trained_on is None else np.full(np.shape(n_pretrain), self.trained_on)
        training = np.nan_to_num(_TRAINING_PASSES * self.forward * self.samples(own))
        return np.where(n_pretrain > 0, training + self.forward * self.samples(n_pretrain), 0.0)


@dataclass(frozen=True)
class CostModel:
    """The price of any sizes.

    Attributes:
        label: Price of a labelled downstream image.
        image: Price of a unique upstream image.
        flop: Price of a FLOP, hours folded in.
        pretraining: FLOPs of pre-training; None where compute has no price or is not known.
        finetuning: FLOPs of fine-tuning; None likewise.
        teacher: FLOPs of the teacher; None where there is none, or it is free.
        reuse: Over how many downstream sets a pre-trained model is used: each pays its share of pre-training.
        notes: What was assumed.
    """

    label: float
    image: float
    flop: float
    pretraining: Training | None
    finetuning: Training | None
    teacher: Teacher | None
    reuse: float
    notes: tuple[dict, ...] = ()

    def parts(self, sizes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What is paid for what, each (N,), at sizes by column; absent or NaN sizes are not paid for.

        Returns:
            label, pretrain_image, pretrain_compute, teacher_compute, finetune_compute.
        """
        n_params, n_pretrain, n_finetune = (_size(sizes, n) for n in ("n_params", "n_pretrain", "n_finetune"))
        none = np.zeros(np.broadcast_shapes(*(np.shape(v) for v in sizes.values())))
        pre, fine, teacher = self.pretraining, self.finetuning, self.teacher
        return {
            "label": none + self.label * n_finetune,
            "pretrain_image": none + self.image / self.reuse * n_pretrain,
            "pretrain_compute": none + (self.flop / self.reuse * pre.of(n_params, n_pretrain) if pre else 0.0),
            "teacher_compute": none + (self.flop / self.reuse * teacher.of(n_pretrain) if teacher else 0.0),
            "finetune_compute": none + (self.flop * fine.of(n_params, n_finetune) if fine else 0.0),
        }

    def total(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """The whole price (N,) of sizes by column."""
        return sum(self.parts(sizes).values())

    def stage(self, name: str, n_params: np.ndarray):
        """The price of one stage, as a function of its data: n_pretrain's or n_finetune's, for model sizes (N,).

        The whole price is the sum of both stages', so a budget can be split between them.
        """
        if name == "n_pretrain":
            unit, training, teacher = self.image / self.reuse, self.pretraining, self.teacher
            flop = self.flop / self.reuse
        else:
            unit, training, teacher, flop = self.label, self.finetuning, None, self.flop
        a_sample = flop * training.flops(n_params) if training else None

        def price(size: np.ndarray) -> np.ndarray:
            paid = unit * size
            if training:
                paid = paid + np.where(size > 0, a_sample * training.samples(size), 0.0)
            return paid + flop * teacher.of(size) if teacher else paid

        return price

    def prices(self, name: str) -> bool:
        """Whether more of a size costs anything."""
        if name == "n_pretrain":
            return self.image > 0 or self.pretraining is not None
        if name == "n_finetune":
            return self.label > 0 or self.finetuning is not None
        return self.pretraining is not None or self.finetuning is not None


def cost_model(
    fit: LawFit,
    costs: Mapping[str, float],
    table=None,
    epochs: float | None = None,
    reuse: float = 1,
    teacher_free: bool = False,
    flops_per_param: float | None = None,
    flops_per_second: float | None = None,
) -> CostModel:
    """The cost model of a fit's runs; the arguments are those of `plan`.

    Raises:
        InputError: A price, epochs, reuse or a pace cannot be used, or compute has a price and nothing says how much
            of it a run takes.
    """
    prices = check_prices(costs)
    for name, value in {
        "epochs": epochs,
        "reuse": reuse,
        "flops_per_param": flops_per_param,
        "flops_per_second": flops_per_second,
    }.items():
        if value is not None and not is_positive(value):
            raise InputError(f"{name} is a positive number, not {value!r}")
    compute, notes = compute_of(fit, table), []
    flop = prices["flop"] + _price_of_hour(prices["hour"], compute, flops_per_second, notes)
    pretraining = finetuning = teacher = None
    if flop:
        pretraining = _pretraining(fit, compute, epochs, flops_per_param, notes)
        finetuning = _finetuning(fit, compute, flops_per_param, notes)
        teacher = _teacher(compute.get("pretrain", {}), pretraining, teacher_free, notes)
    return CostModel(
        prices["label"], prices["pretrain_image"], flop, pretraining, finetuning, teacher, float(reuse), tuple(notes)
    )


def check_prices(costs: Mapping[str, float]) -> dict[str, float]:
    """All of `PRICES` with what they cost, 0 where not given.

    Raises:
        InputError: A name is unknown, a price is no number or negative, or nothing has a price.
    """
    if not isinstance(costs, Mapping):
        raise InputError(f"costs maps names to prices, such as {{'label': 0.5}}, not {costs!r}")
    for name, price in costs.items():
        if name not in PRICES:
            raise InputError(f"costs has no {name!r}: what can have a price is {', '.join(PRICES)}")
        if not _is_number(price) or price < 0:
            raise InputError(f"the cost of a {name} is a number, 0 or more, not {price!r}")
    if not any(costs.values()):
        raise InputError(f"nothing has a price: give costs for one or more of {', '.join(PRICES)}")
    return {name: float(costs.get(name, 0.0)) for name in PRICES}


def compute_of(fit: LawFit, table=None) -> dict:
    """What runs take (`fitting.compute`): of the table given, else as kept with the law, else nothing."""
    if table is not None:
        return measured_compute(as_table(table), fit.data["study"])
    return fit.data.get("compute", {})


def is_positive(value) -> bool:
    """Whether a value is a positive, finite number."""
    return _is_number(value) and value > 0


def _is_number(value) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def _size(sizes: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    return np.nan_to_num(np.asarray(sizes.get(name, 0.0), dtype=float))


def _price_of_hour(price: float, compute: dict, flops_per_second: float | None, notes: list[dict]) -> float:
    """The price of a FLOP that an hour's price amounts to."""
    if not price:
        return 0.0
    pace = flops_per_second or compute.get("flops_per_second")
    if not pace:
        raise InputError(
            "an hour has a price, but no row says how fast runs are (train_flops and seconds): "
            "give flops_per_second=, or table= with such rows"
        )
    if flops_per_second is None:
        where = ", ".join(compute.get("devices", [])) or "an unnamed device"
        text = f"an hour is {3600 * pace:.3g} FLOPs: the median of the runs on {where} ({pace:.3g} FLOPs a second)"
        notes.append(note("pace", "info", text))
    return price / (3600 * pace)


def _pretraining(fit: LawFit, compute: dict, epochs, flops_per_param, notes: list[dict]) -> Training | None:
    """What pre-training takes, where the law takes n_pretrain or all its rows share one."""
    bought = "n_pretrain" in fit.columns.values()
    if not bought and len(compute.get("sizes", {}).get("n_pretrain", ())) != 1:
        return None
    found = _training(compute.get("pretrain", {}), epochs, flops_per_param, notes, "pre-training")
    if found is None and bought:
        raise InputError(
            "compute has a price, but no row says how much pre-training takes (train_flops): give table= with such "
            "rows, or flops_per_param= (6 where a sample is a token)"
        )
    return found


def _finetuning(fit: LawFit, compute: dict, flops_per_param, notes: list[dict]) -> Training | None:
    if "n_finetune" not in fit.columns.values():
        return None
    found = _training(compute.get("finetune", {}), None, flops_per_param, notes, "fine-tuning")
    if found is None:
        notes.append(
            note("finetuning_not_counted", "warn", "no row says how much compute fine-tuning takes: not counted")
        )
    return found


def _training(measured: dict, epochs, flops_per_param, notes: list[dict], stage: str) -> Training | None:
    """What training a stage takes: by the caller's word, else as measured; None where nobody knows."""
    if flops_per_param is None and not measured.get("flops"):
        return None
    flops = LogCurve(measured["flops"] if flops_per_param is None else [[1.0, flops_per_param]])
    if epochs is not None:
        return Training(LogCurve([[1.0, epochs]]), flops)
    if not measured.get("samples"):
        notes.append(note("one_pass", "info", f"no row has samples_seen: {stage} counts each example as seen once"))
        return Training(LogCurve([[1.0, 1.0]]), flops)
    return Training(LogCurve(measured["samples"], below="first"), flops)


def _teacher(measured: dict, pretraining: Training | None, free: bool, notes: list[dict]) -> Teacher | None:
    if free or pretraining is None or not measured.get("teacher_flops"):
        return None
    trained_on = measured["teacher_trained_on"]
    if trained_on is None:
        text = "the teacher came ready: its forward passes are counted, its own training is not"
        notes.append(note("teacher_training_unknown", "info", text))
        trained_on = math.nan
    elif isinstance(trained_on, str):
        trained_on = None
    return Teacher(measured["teacher_flops"], trained_on, pretraining.samples)
