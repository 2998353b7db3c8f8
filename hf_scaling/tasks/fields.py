"""What a recipe of any task is told; each task adds its own fields."""

from dataclasses import dataclass, field

from hf_scaling.errors import InputError

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
