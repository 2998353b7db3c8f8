"""What a task is: one object that loads, batches, evaluates and counts; and the scores of logits."""

import dataclasses
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import PreTrainedModel

from hf_scaling.errors import InputError
from hf_scaling.text import listing

#: Name -> where the class is. A task of your own is given as `module:Class`.
_TASKS = {
    "image_classification": "hf_scaling.tasks.image_classification:ImageClassification",
    "causal_lm": "hf_scaling.tasks.causal_lm:CausalLM",
}


def find(name: str) -> "Task":
    """The task `name`: image_classification, causal_lm, or one of your own as `module:Class`.

    Raises:
        InputError: There is no such task.
    """
    module, _, attribute = _TASKS.get(name, name).partition(":")
    try:
        return getattr(importlib.import_module(module), attribute)()
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"task {name}: must be one of {listing(_TASKS)}, or module:Class ({error})") from None


@dataclass
class RunFields:
    """The hyperparameters of a run that TrainingArguments does not have and every task reads."""

    task: str = field(
        default="image_classification",
        metadata={"help": "image_classification, causal_lm, or one of your own as module:Class"},
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
    averaging: str | None = field(
        default=None,
        metadata={
            "help": "evaluate and save an average of the weights: tail:SHARE (the mean over that last share of the "
            "steps) or ema:DECAY (an exponential moving average); by default the last weights"
        },
    )
    learning_rates: dict | str | None = field(
        default=None,
        metadata={"help": "learning rates of models, '{\"vit-800k\": 1e-3}'; the others take learning_rate"},
    )

    def __post_init__(self):
        if self.patience is not None and self.patience < 1:
            raise InputError(f"patience {self.patience}: must be 1 evaluation or more")
        if self.learning_rates is not None:
            given = self.learning_rates
            try:
                read = json.loads(given) if isinstance(given, str) else given
                rates = {str(name): float(rate) for name, rate in read.items()}
            except (ValueError, TypeError, AttributeError):
                raise InputError(
                    f'learning_rates {given!r}: write a rate for each model, {{"vit-800k": 1e-3}}'
                ) from None
            for name, rate in rates.items():
                if not 0 < rate < math.inf:
                    raise InputError(f"learning_rates: the rate of {name} is {rate:g}: it must be above 0")
            self.learning_rates = rates


@dataclass
class PretrainFields(RunFields):
    """Pretrain one student on an upstream source, with or without distillation."""

    model: str = field(default="", metadata={"help": "student: a family name or an architecture"})
    n_pretrain: int | None = field(
        default=None, metadata={"help": "unique images (tokens of text); by default all there are"}
    )
    teacher: str | None = field(
        default=None,
        metadata={
            "help": "family name (trained first on the same examples), a folder (./NAME) or a Hub id; "
            "none = no distillation"
        },
    )
    decay: float | None = field(
        default=None,
        metadata={
            "help": "one pass at a constant rate that falls linearly over this last share of the steps, so that "
            "larger n_pretrain can continue from before the fall (a ladder)"
        },
    )
    rungs: list[int] = field(
        default_factory=list, metadata={"help": "the smaller n_pretrain of the ladder that this run continues"}
    )
    previous_rung: str | None = field(
        default=None, metadata={"help": "folder of the run of the previous rung; by default it is trained first"}
    )

    def __post_init__(self):
        super().__post_init__()
        if self.teacher == "none":
            self.teacher = None
        if self.decay is not None and not 0 < self.decay < 1:
            raise InputError(f"decay {self.decay}: must be a share of the steps, above 0 and below 1")
        if self.decay is None and (self.rungs or self.previous_rung):
            raise InputError(
                "decay: missing; rungs and previous_rung need it: the share of the steps over which rates fall"
            )


@dataclass
class FinetuneFields(RunFields):
    """Fine-tune a checkpoint on a downstream source, or train a new model on it.

    Attributes:
        OF_A_NEW_MODEL: Names of the fields that only a new model takes, in the words of pretraining.
    """

    OF_A_NEW_MODEL: ClassVar[tuple[str, ...]] = ()

    checkpoint: str | None = field(
        default=None, metadata={"help": "run folder or Hub id[@revision] of the checkpoint to fine-tune"}
    )
    n_finetune: int | None = field(
        default=None, metadata={"help": "labelled images (tokens of text); by default all there are"}
    )
    n_pretrain: int | None = field(
        default=None,
        metadata={"help": "unique images or tokens the checkpoint was pretrained on, where it does not say"},
    )
    model: str | None = field(
        default=None,
        metadata={"help": "no pre-training: the architecture to train from random weights instead of a checkpoint"},
    )

    def __post_init__(self):
        super().__post_init__()
        if self.model is None:
            given = [name for name in self.OF_A_NEW_MODEL if getattr(self, name) is not None]
            if given:
                raise InputError(
                    f"{given[0]}: the checkpoint decides it; it is given with model, without a checkpoint"
                )
        elif self.n_pretrain is not None:
            raise InputError(
                f"n_pretrain {self.n_pretrain}: random weights (model) have no pre-training: leave it out"
            )

    @property
    def is_new_model(self) -> bool:
        """Whether it trains random weights: the comparison without pre-training, n_pretrain 0."""
        return self.model is not None


def new_model_fields(task: "Task", fields: FinetuneFields) -> PretrainFields:
    """The fields of pretraining by which the new model of a fine-tuning without a checkpoint is built.

    Raises:
        InputError: A value that pretraining refuses.
    """
    pretrain = task.fields["pretrain"]
    given = {item.name: getattr(fields, item.name, None) for item in dataclasses.fields(pretrain)}
    return pretrain(**{name: value for name, value in given.items() if value is not None})


class Inputs(Protocol):
    """What the inputs of a model are like: the size of an image, the tokenizer and the context of a text.

    Attributes:
        example_size: Units (images, tokens) in one example.
        columns: Columns of the results row that follow from the inputs.
    """

    example_size: int
    columns: Mapping[str, Any]

    def n_examples(self, n: int, n_classes: int = 0) -> int:
        """The number of examples in `n` units.

        Raises:
            InputError: They are too few for one example, or for one of each of `n_classes`.
        """

    def blank(self, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        """A batch of `n` empty examples without labels, to count or time a model with."""


@dataclass(frozen=True)
class Subset:
    """The part of a source's training split that a run uses.

    Attributes:
        train: What it is trained on: indices of images, or the tokens themselves.
        validation: What is held out, likewise.
        hashes: Gives hashes of the training examples, uint64 (n,), by which overlap is found.
        rungs: Entries of `train` up to each rung of its ladder; the last is all of them.
    """

    train: np.ndarray
    validation: np.ndarray
    hashes: Callable[[], np.ndarray]
    rungs: tuple[int, ...] = field(default=())


@dataclass(frozen=True)
class Measurement:
    """The result of an evaluation.

    Attributes:
        n_eval: Images or tokens evaluated.
        error: Top-1 error rate, 0 to 1.
        loss: Cross-entropy, nats per image or token.
        agreement: Share of them to which the teacher gives the same class; None without a teacher, as the next two.
        teacher_error, teacher_loss: The teacher's own scores on the same examples.
        class_errors: Class -> error, as JSON; None where it was not asked for.
    """

    n_eval: int
    error: float
    loss: float
    agreement: float | None = None
    teacher_error: float | None = None
    teacher_loss: float | None = None
    class_errors: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Column -> value."""
        return asdict(self)


class Task(Protocol):
    """A kind of problem. Code outside of `tasks` never looks into a source or into `Inputs`; it asks the task.

    Every model that is only counted is built by the same methods under `torch.device("meta")`, without weights.

    Attributes:
        name: The row's `task`.
        data: The kind of source it reads: a key of `data.OPENERS`.
        unit: What n_pretrain, n_finetune and n_eval count.
        fields: Stage -> the dataclass of its recipe's fields.
        families: The names of `model` that are known without timm or transformers.
        card: The template of `model_cards/` for its checkpoints.
        tag: The Hub's name of the task.
        sample: An input as an example in a printed command.
        guess: Sizes of a source that cannot be reached: n_classes, n_train, n_test.
    """

    name: str
    data: str
    unit: str
    fields: Mapping[str, type]
    families: Sequence[str]
    card: str
    tag: str
    sample: str
    guess: Mapping[str, int]

    def rule(self, fields: RunFields) -> dict[str, Any]:
        """The task's own hyperparameters, as they are written."""

    def inputs(self, fields: RunFields, parent: Inputs | None = None) -> Inputs:
        """The inputs of a run: of a new model by the fields of pretraining, or `parent`'s, fine-tuned by `fields`.

        Raises:
            InputError: The parent does not support what `fields` ask for.
        """

    def checkpoint_inputs(self, folder: Path, model: PreTrainedModel) -> Inputs:
        """The inputs that a trained checkpoint expects.

        Raises:
            InputError: The checkpoint does not say.
        """

    def guess_checkpoint(self, name: str, fields: RunFields) -> tuple[Inputs, PreTrainedModel | None]:
        """Inputs and model, on the meta device, of a checkpoint that cannot be reached; None: not known."""

    def source_arguments(self, fields: RunFields, inputs: Inputs, n: int | None) -> dict[str, Any]:
        """The arguments with which the source is opened to use `n` units of it; equal arguments are one source."""

    def choose(
        self, source: Any, field: str, n: int | None, seed: int, hold_out: bool, rungs: Sequence[int] = ()
    ) -> Subset:
        """Choose `n` units for training (None: all), and the validation part where one is held out.

        Raises:
            InputError: There are fewer, or `n` is too small; `field` is named.
        """

    def hashes(self, split: Any) -> np.ndarray:
        """Hashes of the examples of a split, uint64 (n,), comparable to those of `Subset`."""

    def is_architecture(self, name: str) -> bool:
        """Whether a model of that name can be built with random weights."""

    def build(self, name: str, fields: RunFields, source: Any, seed: int) -> PreTrainedModel:
        """A student with random weights whose outputs are those of the source."""

    def configuration(self, model: PreTrainedModel) -> dict[str, Any]:
        """The architecture and its arguments, as the run specification records them."""

    def load_model(self, folder: Path) -> PreTrainedModel:
        """A trained model, on the CPU, in float32."""

    def teacher_terms(self, folder: Path) -> dict[str, Any]:
        """What `Teacher` needs beside the model of a checkpoint: its image statistics, or its vocabulary."""

    def adapt(self, model: PreTrainedModel, fields: RunFields, source: Any, seed: int) -> PreTrainedModel:
        """Give a trained model the outputs that fine-tuning on `source` needs.

        Raises:
            InputError: The model and the source do not fit together.
        """

    def limit_training(self, model: PreTrainedModel, fields: RunFields, seed: int) -> torch.nn.Module:
        """Leave trainable, or add, only the weights that `train_part` of the fine-tuning names."""

    def processor(self, model: PreTrainedModel, inputs: Inputs) -> Any:
        """The processor or tokenizer that is saved with the weights, so that `pipeline` takes raw inputs."""

    def training_sets(
        self, source: Any, subset: Subset, inputs: Inputs, length: int, seed: int, fields: RunFields
    ) -> tuple[Dataset, Dataset | None]:
        """The training stream of `length` positions, and the validation set (None where nothing is held out).

        Both are map-style; a list of positions gives a batch.
        """

    def evaluate(
        self, model: PreTrainedModel, processor: Any, split: Any, batch_size: int, teacher: Callable | None = None
    ) -> Measurement:
        """Read a split once, in float32, and score the model, and its teacher on the same examples."""

    def training_flops(self, model: torch.nn.Module, inputs: Inputs, forward: float | None = None) -> float:
        """Floating-point operations of training on one example, forward and backward through trained weights.

        `forward` are those of its forward pass, where they have been counted.
        """


def top_one_error(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of the examples whose largest logit (n, classes) is not the label's (n,): 0 to 1."""
    return float(np.mean(np.argmax(logits, axis=1) != labels))


def cross_entropy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Cross-entropy of logits (n, classes) to labels (n,) in nats per example, summed in float64."""
    logits = np.asarray(logits, dtype=np.float64)
    logits = logits - logits.max(axis=1, keepdims=True)
    of_label = np.take_along_axis(logits, np.asarray(labels)[:, None], axis=1)[:, 0]
    return float(np.mean(np.log(np.exp(logits).sum(axis=1)) - of_label))
