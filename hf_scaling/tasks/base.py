"""What a task is: one small object that says how to load, batch, evaluate and count."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import datasets
import evaluate
import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_scaling.errors import InputError

_LOGITS = datasets.Features(
    {"predictions": datasets.Sequence(datasets.Value("float32")), "references": datasets.Value("int64")}
)


class _LogitMetric(evaluate.Metric):
    """Takes logits, shape (n, classes), and labels, shape (n,)."""

    description = ""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(description=self.description, citation="", features=_LOGITS)


class TopOneError(_LogitMetric):
    """Share of the images whose largest logit is not the label's: 0..1."""

    description = "top-1 error rate, 0..1"

    def _compute(self, predictions, references) -> dict[str, float]:
        guesses = np.argmax(np.asarray(predictions), axis=1)
        return {"error": float(np.mean(guesses != np.asarray(references)))}


class CrossEntropy(_LogitMetric):
    """Cross-entropy in nats an image, summed in float64."""

    description = "cross-entropy, nats an image"

    def _compute(self, predictions, references) -> dict[str, float]:
        logits = np.asarray(predictions, dtype=np.float64)
        logits = logits - logits.max(axis=1, keepdims=True)
        labels = np.asarray(references)
        of_label = np.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return {"loss": float(np.mean(np.log(np.exp(logits).sum(axis=1)) - of_label))}


def score(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Error (0..1) and loss (nats an image) of `logits` (n, classes) against `labels` (n,)."""
    metrics = evaluate.combine([TopOneError(keep_in_memory=True), CrossEntropy(keep_in_memory=True)])
    return metrics.compute(predictions=logits, references=labels)


def agreement(logits: np.ndarray, others: np.ndarray) -> float:
    """Share of the images to which two models, by their logits (n, classes), give the same class: 0..1."""
    metric = TopOneError(keep_in_memory=True)
    return 1 - metric.compute(predictions=logits, references=np.argmax(others, axis=1))["error"]


_IMAGES = "image_classification"


@dataclass
class RunFields:
    """The parts of the training rule that TrainingArguments does not have, and what every task reads."""

    task: str = field(
        default=_IMAGES, metadata={"help": "image_classification, causal_lm, or one of your own as module:Class"}
    )
    source: str = field(default="", metadata={"help": "where the examples come from"})
    streaming: bool = field(default=False, metadata={"help": "read the source as a stream into the cache, once"})
    min_steps: int = field(
        default=0,
        metadata={"help": "steps = max(min_steps, num_train_epochs * examples / batch), unless max_steps is given"},
    )
    patience: int | None = field(
        default=None,
        metadata={"help": "stop after this many evaluations of the validation part without a better one"},
    )

    def __post_init__(self):
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience {self.patience}: the evaluations to wait for a better one, 1 or more")


@dataclass
class PretrainFields(RunFields):
    """Pretrain one student on an upstream source, plain or taught by a teacher."""

    model: str = field(default="", metadata={"help": "student: a family name or an architecture"})
    n_pretrain: int | None = field(
        default=None, metadata={"help": "unique images (tokens of text); all that there are when absent"}
    )
    teacher: str | None = field(
        default=None,
        metadata={"help": "family name (trained first on the same examples), folder or Hub id; none = plain"},
    )
    decay: float | None = field(
        default=None,
        metadata={
            "help": "one pass at a constant rate that falls linearly over this last share of the steps, so that "
            "larger n_pretrain can go on from before the fall (a ladder)"
        },
    )
    rungs: list[int] = field(
        default_factory=list, metadata={"help": "the smaller n_pretrain of the ladder that this run goes on from"}
    )
    trunk: str | None = field(
        default=None, metadata={"help": "folder of the run of the rung before; trained first when absent"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.teacher == "none":
            self.teacher = None
        if self.decay is not None and not 0 < self.decay < 1:
            raise InputError(f"decay {self.decay}: a share of the steps, above 0 and below 1")
        if self.decay is None and (self.rungs or self.trunk):
            raise InputError("decay: missing: the rungs of a ladder end with a decay over this share of their steps")


@dataclass
class FinetuneFields(RunFields):
    """Fine-tune a checkpoint on a downstream source."""

    checkpoint: str | None = field(
        default=None, metadata={"help": "run folder or Hub id[@revision] of the checkpoint to fine-tune"}
    )
    n_finetune: int | None = field(
        default=None, metadata={"help": "labelled images (tokens of text); all that there are when absent"}
    )
    n_pretrain: int | None = field(
        default=None,
        metadata={"help": "unique images or tokens of the checkpoint's pretraining, where it does not say"},
    )


@dataclass(frozen=True)
class Measurement:
    """What an evaluation found: error 0..1, loss in nats an image or token; the last three None without a teacher."""

    n_eval: int
    error: float
    loss: float
    agreement: float | None = None
    teacher_error: float | None = None
    teacher_loss: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Column -> value."""
        return asdict(self)


@dataclass(frozen=True)
class Chosen:
    """What of a source's training part a run uses.

    Attributes:
        train: What it trains on, one entry an image or token.
        validation: What it holds out, likewise.
        seen: Gives hashes of what it trains on, uint64 (n,): what overlap is looked for with.
        rungs: Entries of `train` up to each rung of its ladder, the last being all of them.
    """

    train: np.ndarray
    validation: np.ndarray
    seen: Callable[[], np.ndarray]
    rungs: tuple[int, ...] = field(default=())


class Task(Protocol):
    """A kind of problem. `inputs` stands for what a model's inputs are like; only the task looks into it.

    Attributes:
        name: The row's `task`.
        data: Which kind of source it reads: a key of `data.OPENERS`.
        unit: What n_pretrain, n_finetune and n_eval count.
        fields: Stage -> the dataclass of its recipe's fields.
        card: The template of `model_cards/` that describes its checkpoints.
        tag: The Hub's name of the task.
        sample: What an example calls an input.
        guess: Arguments of `SourceFacts` where a source cannot be reached and a guess is wanted.
    """

    name: str
    data: str
    unit: str
    fields: Mapping[str, type]
    card: str
    tag: str
    sample: str
    guess: Mapping[str, int]

    def rule(self, fields: Any) -> dict[str, Any]:
        """Its part of the training rule, as it is written."""

    # Load.

    def inputs(self, fields: Any, downstream: Any = None) -> Any:
        """The inputs of a model built from `fields` (of pretrain), as `downstream` (of finetune) goes on with it."""

    def inputs_of(self, folder: Path, model: PreTrainedModel, fields: Any) -> Any:
        """The inputs of a loaded checkpoint, as `fields` (of finetune) go on with it."""

    def source_arguments(self, fields: Any, inputs: Any, n: int | None) -> dict[str, Any]:
        """What the source is opened with to take `n` units of it: equal arguments are one source."""

    def choose(
        self, source: Any, field: str, n: int | None, seed: int, hold_out: bool, rungs: Sequence[int] = ()
    ) -> Chosen:
        """Choose `n` units for training (None: all), and the validation part where one is held out.

        Raises:
            InputError: More than there are, or too few; `field` is named.
        """

    def check_size(self, field: str, n: int, n_available: int, n_classes: int, inputs: Any) -> None:
        """Refuse what `choose` would refuse, before the source is read."""

    def is_architecture(self, name: str) -> bool:
        """Whether `name` says what to build rather than where trained weights are."""

    def families(self) -> Sequence[str]:
        """The names of `model` that are ours."""

    def build(self, name: str, fields: Any, source: Any, seed: int) -> PreTrainedModel:
        """A student of that name with random weights, its outputs named as the source's."""

    def sketch(self, name: str, n_classes: int, fields: Any) -> PreTrainedModel:
        """The same without its weights, to be counted."""

    def guess_checkpoint(self, name: str, fields: Any) -> tuple[Any, PreTrainedModel | None]:
        """Inputs and model, without weights, of a checkpoint out of reach; None where its name tells nothing."""

    def configuration(self, model: PreTrainedModel) -> dict[str, Any]:
        """The architecture and what it is built with, as the specification says it."""

    def load_model(self, folder: Path) -> PreTrainedModel:
        """A trained model, on the CPU, in float32."""

    def teaching(self, folder: Path) -> dict[str, Any]:
        """What else a `Teacher` has to be told of a checkpoint."""

    def adapt(self, model: PreTrainedModel, fields: Any, source: Any, seed: int) -> torch.nn.Module:
        """A loaded checkpoint made ready for fine-tuning on `source` by `fields`.

        Raises:
            InputError: The model and the source do not fit each other.
        """

    def sketch_adapted(self, model: PreTrainedModel, fields: Any) -> torch.nn.Module:
        """A model or a sketch of one with the weights to train marked, or added, as `adapt` does."""

    def finish(self, model: torch.nn.Module) -> PreTrainedModel:
        """A trained model as it is evaluated and saved."""

    def processor(self, model: PreTrainedModel, inputs: Any) -> Any:
        """What is saved beside the weights so that `pipeline` takes raw inputs."""

    # Batch.

    def training_stream(
        self, source: Any, chosen: Chosen, inputs: Any, length: int, seed: int, fields: Any
    ) -> Dataset:
        """The training examples as a map-style stream of `length` positions; a list of positions is a batch."""

    def validation_set(self, source: Any, chosen: Chosen, inputs: Any) -> Dataset | None:
        """The validation examples; None where none are held out."""

    # Evaluate.

    def evaluate(
        self, model: PreTrainedModel, processor: Any, split: Any, batch_size: int, teacher: Callable | None = None
    ) -> Measurement:
        """Read a split once, in float32, and score the model, and its teacher on the same examples."""

    def overlap(self, chosen: Chosen, source: Any, upstream: np.ndarray | None, has_parent: bool) -> dict[str, Any]:
        """How much of the evaluation part was trained on, here and by the parent (None where that is not known)."""

    def describe_overlap(self, counts: Mapping[str, int | None]) -> str:
        """`overlap`'s counts as words."""

    # Count.

    def n_examples(self, n: int, inputs: Any) -> int:
        """Examples that `n` units make."""

    def example_size(self, inputs: Any) -> int:
        """Units in an example."""

    def columns(self, inputs: Any) -> dict[str, Any]:
        """Columns of the row that only this task fills."""

    def forward_flops(self, model: PreTrainedModel, inputs: Any) -> float:
        """Operations of one example's way through the model, or through an `AdaptedTeacher`."""

    def training_flops(self, model: torch.nn.Module, inputs: Any) -> float:
        """Operations that training takes for one example."""

    def rehearse(
        self, name: str, n_classes: int, fields: Any, batch: int
    ) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """A student and a batch of `batch` examples, labels among them, to time training with."""


#: Name -> where the task stands. Whoever has another gives `module:Class`.
_TASKS = {
    "image_classification": "hf_scaling.tasks.image_classification:ImageClassification",
    "causal_lm": "hf_scaling.tasks.causal_lm:CausalLM",
}


def find(name: str) -> Task:
    """The task of that name.

    Raises:
        InputError: There is none.
    """
    module, _, attribute = _TASKS.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"task {name}: none of {', '.join(_TASKS)}, and no module:Class ({error})") from None
