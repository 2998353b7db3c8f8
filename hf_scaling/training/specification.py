"""The specification of a run from what is known before anything is trained, or even built.

Both the run that is executed and the run that is only planned come through here, so that they agree on their id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.subsets import Source
from hf_scaling.tasks import Chosen
from hf_scaling.training.configuration import FinetuneFields, PretrainFields
from hf_scaling.training.rule import count_steps, holds_out, rule_of

_DISTILLATION = ("kind", "alpha", "temperature", "alpha_schedule")


@dataclass(frozen=True)
class Images:
    """What a specification says of a run's images.

    Attributes:
        name: Of the source.
        fingerprint: Of the source's content.
        n_classes: Classes trained on.
        n_train: Images trained on.
        n_held_out: Images of the validation part.
    """

    name: str
    fingerprint: str
    n_classes: int
    n_train: int
    n_held_out: int

    @classmethod
    def of(cls, source: Source, chosen: Chosen) -> "Images":
        """Those `chosen` of a source."""
        return cls(source.name, source.fingerprint, len(source.class_names), len(chosen.train), len(chosen.validation))

    def to_dict(self) -> dict[str, Any]:
        """The source in a specification: which images, by content, and how many of them are held out."""
        return {"name": self.name, "fingerprint": self.fingerprint, "held_out": self.n_held_out}


def pretrain_spec(
    fields: PretrainFields,
    args: DistillationArguments,
    images: Images,
    configuration: Mapping[str, Any],
    teacher_id: str | None,
) -> RunSpec:
    """The specification of a pretraining run.

    Args:
        fields, args: What the recipe is told; `fields.model` is the student.
        images: Which images.
        configuration: The student's architecture and what it is built with.
        teacher_id: run_id, Hub id or hash of the teacher; None trains plain.

    Raises:
        InputError: The rule makes no step.
    """
    return RunSpec(
        stage="pretrain",
        model={"name": fields.model, "config": dict(configuration)},
        source=images.to_dict(),
        n_pretrain=images.n_train,
        n_finetune=0,
        n_classes=images.n_classes,
        rule=rule_of(args, fields),
        steps=count_steps(args, images.n_train, fields.min_steps),
        seed=args.seed,
        distillation={key: getattr(args, key) for key in _DISTILLATION} if teacher_id else None,
        teacher=teacher_id,
    )


def finetune_spec(
    fields: FinetuneFields, args: DistillationArguments, images: Images, parent_id: str, n_pretrain: int | None
) -> RunSpec:
    """The specification of a fine-tuning run.

    Args:
        fields, args: What the recipe is told.
        images: Which images.
        parent_id: run_id, Hub id or hash of the checkpoint; it covers the architecture.
        n_pretrain: Unique images that the checkpoint was pretrained on; None where nobody says.

    Raises:
        InputError: The rule makes no step.
    """
    return RunSpec(
        stage="finetune",
        model={},
        source=images.to_dict(),
        n_pretrain=n_pretrain,
        n_finetune=images.n_train,
        n_classes=images.n_classes,
        rule=rule_of(args, fields),
        steps=count_steps(args, images.n_train, fields.min_steps),
        seed=args.seed,
        parent=parent_id,
    )


def check_schedule(fields: PretrainFields, args: DistillationArguments) -> None:
    """Refuse a schedule that compares on a validation part where none is held out.

    Raises:
        InputError: Says which arguments are missing.
    """
    if fields.teacher is not None and args.alpha_schedule == "until_passed" and not holds_out(args):
        raise InputError(
            "alpha_schedule until_passed compares on a validation part: give eval_strategy and eval_steps"
        )
