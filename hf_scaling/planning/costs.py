"""What model and data sizes cost: labels, images and compute, in the unit of the user's prices."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hf_scaling.errors import InputError
from hf_scaling.fitting import LawFit
from hf_scaling.fitting.columns import as_table, note
from hf_scaling.fitting.compute import measured_compute
from hf_scaling.text import did_you_mean, format_count

if TYPE_CHECKING:
    from hf_scaling.fitting.columns import TableLike

#: What can have a price: one labelled downstream image, one unique upstream image, one FLOP, one hour of the device.
PRICES = ("label", "pretrain_image", "flop", "hour")
# A training step is three forward passes: one forward, two backward (docs/training.md).
_TRAINING_PASSES = 3
# Small enough that its exponential is 0 in double precision.
_LOG_ZERO = -700.0


@dataclass(frozen=True)
class CostOptions:
    """How compute is counted where the table's columns are not to be followed.

    Attributes:
        epochs: Passes over the upstream images; None follows the table's samples_seen.
        reuse: Number of downstream sets that share one pre-trained model: each pays its share of pre-training.
        teacher_free: Whether the teacher of a distilled arm is not counted.
        flops_per_param: Training FLOPs per parameter and sample; None follows the table's train_flops.
        flops_per_second: FLOPs per second that the price of an hour is converted with; None follows the table's
            seconds.

    Raises:
        InputError: A number is not positive.
    """

    epochs: float | None = None
    reuse: float = 1
    teacher_free: bool = False
    flops_per_param: float | None = None
    flops_per_second: float | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "reuse", "flops_per_param", "flops_per_second"):
            value = getattr(self, name)
            if value is not None and not is_positive(value):
                raise InputError(f"{name} must be a positive number, not {value!r}")


def is_positive(value: object) -> bool:
    """Whether a value is a positive, finite number."""
    return _is_number(value) and value > 0  # type: ignore[operator]  # _is_number has checked it


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | np.number) and not isinstance(value, bool) and math.isfinite(value)


def check_prices(costs: Mapping[str, float]) -> dict[str, float]:
    """All of `PRICES` with their values, 0 where not given.

    Raises:
        InputError: A name is unknown, a price is negative or not a number, or no price is above 0.
    """
    if not isinstance(costs, Mapping):
        raise InputError(f"costs must map names to prices, such as {{'label': 0.5}}, not {costs!r}")
    for name, price in costs.items():
        if name not in PRICES:
            raise InputError(f"costs: unknown name {name!r}{did_you_mean(name, PRICES) or f'; use {_PRICE_NAMES}'}")
        if not _is_number(price) or price < 0:
            raise InputError(f"costs: the price of {name} must be a number of at least 0, not {price!r}")
    if not any(costs.values()):
        raise InputError(f"costs: no price is above 0; give one or more of {_PRICE_NAMES}")
    return {name: float(costs.get(name, 0.0)) for name in PRICES}


_PRICE_NAMES = ", ".join(PRICES)


def compute_of(fit: LawFit, table: "TableLike | None" = None) -> dict:
    """Sizes, samples, FLOPs and pace of the runs behind a fit, in the form of `measured_compute`.

    Args:
        fit: The law.
        table: Where they are read; by default as stored with the law, {} where an older version stored nothing.
    """
    if table is not None:
        return measured_compute(as_table(table), fit.data["study"])
    return fit.data.get("compute", {})


class LogCurve:
    """Straight lines between measured points in logarithms, made non-decreasing: more never costs less.

    Beyond the largest x the curve is proportional to x: the passes over the images, or the FLOPs per parameter, of the
    largest one measured. Below the smallest it is proportional too, or continues the first line ("first"): where the
    hyperparameters ask for a minimum number of steps, fewer images are passed over more often and cost as much.

    Args:
        points: Pairs of x and y, positive, x ascending; a single pair whose x is None is a constant.
        below: "proportional" or "first".
    """

    def __init__(self, points: Sequence[Sequence[float | None]], below: str = "proportional"):
        x, y = points[0]
        self.constant = float(y) if x is None and y is not None else None
        if self.constant is not None:
            return
        self.x, logs = np.log(np.asarray(points, dtype=float)).T
        self.y = np.maximum.accumulate(logs)
        self.first = 1.0
        if below == "first" and len(self.x) > 1:
            self.first = float(np.clip((self.y[1] - self.y[0]) / (self.x[1] - self.x[0]), 0, 1))

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Values at sizes x of at least 0."""
        if self.constant is not None:
            return np.full(np.shape(x), self.constant)
        with np.errstate(divide="ignore"):
            logs = np.maximum(np.log(np.asarray(x, dtype=float)), _LOG_ZERO)
        inside = np.interp(logs, self.x, self.y)
        below, above = np.minimum(logs - self.x[0], 0.0), np.maximum(logs - self.x[-1], 0.0)
        return np.exp(inside + self.first * below + above)


@dataclass(frozen=True)
class Training:
    """Compute of training one stage.

    Attributes:
        samples: Samples seen, by unique examples.
        flops: Training FLOPs per sample, by n_params.
    """

    samples: LogCurve
    flops: LogCurve

    def total_flops(self, n_params: np.ndarray, n_examples: np.ndarray) -> np.ndarray:
        """(N,) FLOPs of runs of these sizes; 0 where there is no example."""
        return np.where(n_examples > 0, self.flops(n_params) * self.samples(n_examples), 0.0)


@dataclass(frozen=True)
class Teacher:
    """Compute of the teacher of a distilled arm.

    Attributes:
        forward: FLOPs of its forward pass per sample.
        n_pretrain: Its own n_pretrain; None where it is the student's; NaN where unknown: its training is not counted.
        samples: Samples seen, by unique examples, as for the student.
    """

    forward: float
    n_pretrain: float | None
    samples: LogCurve

    def total_flops(self, n_pretrain: np.ndarray) -> np.ndarray:
        """(N,) FLOPs of the teacher's training and of its forward pass on every sample that the student sees."""
        own = n_pretrain if self.n_pretrain is None else np.full(np.shape(n_pretrain), self.n_pretrain)
        training = np.nan_to_num(_TRAINING_PASSES * self.forward * self.samples(own))
        return np.where(n_pretrain > 0, training + self.forward * self.samples(n_pretrain), 0.0)


@dataclass(frozen=True)
class CostModel:
    """The cost of any sizes.

    Attributes:
        label: Price of a labelled downstream image.
        image: Price of a unique upstream image.
        flop: Price of a FLOP, the price of an hour included.
        pretraining: Compute of pre-training; None where compute has no price or is unknown.
        finetuning: Compute of fine-tuning; None likewise.
        teacher: Compute of the teacher; None where there is none, or it is free.
        reuse: Number of downstream sets that share one pre-trained model: each pays its share of pre-training.
        notes: Assumptions made.
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
        """Costs by item, each (N,), at sizes by column; absent or NaN sizes cost nothing.

        Returns:
            label, pretrain_image, pretrain_compute, teacher_compute, finetune_compute.
        """
        n_params, n_pretrain, n_finetune = (
            np.nan_to_num(np.asarray(sizes.get(name, 0.0), dtype=float))
            for name in ("n_params", "n_pretrain", "n_finetune")
        )
        none = np.zeros(np.broadcast_shapes(*(np.shape(v) for v in sizes.values())))
        pre, fine, teacher = self.pretraining, self.finetuning, self.teacher
        shared = self.flop / self.reuse
        return {
            "label": none + self.label * n_finetune,
            "pretrain_image": none + self.image / self.reuse * n_pretrain,
            "pretrain_compute": none + (shared * pre.total_flops(n_params, n_pretrain) if pre else 0.0),
            "teacher_compute": none + (shared * teacher.total_flops(n_pretrain) if teacher else 0.0),
            "finetune_compute": none + (self.flop * fine.total_flops(n_params, n_finetune) if fine else 0.0),
        }

    def total(self, sizes: Mapping[str, np.ndarray]) -> np.ndarray:
        """(N,) total cost at sizes by column."""
        label, *others = self.parts(sizes).values()
        return sum(others, label)

    def stage(self, name: str, n_params: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        """The cost of one stage for model sizes (N,), as a function of its data: n_pretrain or n_finetune.

        The total cost is the sum of both stages', so that a budget can be divided between them.
        """
        if name == "n_pretrain":
            unit, training, teacher = self.image / self.reuse, self.pretraining, self.teacher
            flop = self.flop / self.reuse
        else:
            unit, training, teacher, flop = self.label, self.finetuning, None, self.flop
        per_sample = flop * training.flops(n_params) if training else 0.0

        def cost(size: np.ndarray) -> np.ndarray:
            total = unit * size
            if training:
                total = total + np.where(size > 0, per_sample * training.samples(size), 0.0)
            return total + flop * teacher.total_flops(size) if teacher else total

        return cost

    def has_price(self, name: str) -> bool:
        """Whether more of n_params, n_pretrain or n_finetune costs anything."""
        if name == "n_pretrain":
            return self.image > 0 or self.pretraining is not None
        if name == "n_finetune":
            return self.label > 0 or self.finetuning is not None
        return self.pretraining is not None or self.finetuning is not None


def cost_model(
    columns: Collection[str], compute: Mapping, costs: Mapping[str, float], options: CostOptions | None = None
) -> CostModel:
    """The cost model of runs.

    Args:
        columns: The sizes that the law takes.
        compute: Samples, FLOPs and pace of the runs, as `compute_of` gives them.
        costs: Prices by name, as for `plan`.
        options: How compute is counted; by default as the table says.

    Raises:
        InputError: A price is unusable, or compute has a price and its amount is unknown.
    """
    options, prices, notes = options or CostOptions(), check_prices(costs), list[dict]()
    flop, measured = prices["flop"], compute.get("pretrain", {})
    if prices["hour"]:
        pace = options.flops_per_second or compute.get("flops_per_second")
        if not pace:
            raise InputError(
                "costs: an hour has a price, but no row has train_flops and seconds to tell the pace: "
                "set flops_per_second=, or table= with such rows"
            )
        if options.flops_per_second is None:
            devices = ", ".join(compute.get("devices", [])) or "an unnamed device"
            text = f"an hour is {format_count(3600 * pace)} FLOPs: the median pace of the runs on {devices}"
            notes.append(note("pace", "info", f"{text}, {format_count(pace)} FLOPs per second"))
        flop += prices["hour"] / (3600 * pace)
    pretraining = finetuning = teacher = None
    # A law that does not take n_pretrain pays for pre-training where all its rows share one.
    if flop and ("n_pretrain" in columns or len(compute.get("sizes", {}).get("n_pretrain", ())) == 1):
        pretraining = _training(measured, options.epochs, options.flops_per_param, notes, "pre-training")
        if pretraining is None and "n_pretrain" in columns:
            raise InputError(
                "costs: compute has a price, but no row has the train_flops of pre-training: set table= with such "
                "rows, or flops_per_param= (6 where a sample is a token)"
            )
    if flop and "n_finetune" in columns:
        finetuning = _training(compute.get("finetune", {}), None, options.flops_per_param, notes, "fine-tuning")
        if finetuning is None:
            text = "no row has the train_flops of fine-tuning: its compute is not counted"
            notes.append(note("finetuning_not_counted", "warn", text))
    if pretraining and measured.get("teacher_flops") and not options.teacher_free:
        own = measured["teacher_trained_on"]
        if own is None:
            text = "the teacher was not trained in this table: its forward passes are counted, its training is not"
            notes.append(note("teacher_training_unknown", "info", text))
            own = math.nan
        teacher = Teacher(measured["teacher_flops"], None if isinstance(own, str) else own, pretraining.samples)
    return CostModel(
        label=prices["label"],
        image=prices["pretrain_image"],
        flop=flop,
        pretraining=pretraining,
        finetuning=finetuning,
        teacher=teacher,
        reuse=float(options.reuse),
        notes=tuple(notes),
    )


def _training(
    measured: Mapping, epochs: float | None, flops_per_param: float | None, notes: list[dict], stage: str
) -> Training | None:
    """Compute of training one stage: as the options set it, else as measured; None where neither says."""
    if flops_per_param is None and not measured.get("flops"):
        return None
    flops = LogCurve(measured["flops"] if flops_per_param is None else [[1.0, flops_per_param]])
    if epochs is not None:
        return Training(LogCurve([[1.0, epochs]]), flops)
    if not measured.get("samples"):
        notes.append(note("one_pass", "info", f"no row has samples_seen: {stage} counts each example as seen once"))
        return Training(LogCurve([[1.0, 1.0]]), flops)
    return Training(LogCurve(measured["samples"], below="first"), flops)
