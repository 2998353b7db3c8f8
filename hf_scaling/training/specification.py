"""The specification of a run from what is known before anything is trained, or even built.

Both the run that is executed and the run that is only planned come through here, so that they agree on their id.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.tasks import Chosen, FinetuneFields, PretrainFields, Task
from hf_scaling.training.ladder import rung_of
from hf_scaling.training.rule import count_steps, holds_out, rule_of

_DISTILLATION = ("kind", "alpha", "temperature", "alpha_schedule")


@dataclass(frozen=True)
class Data:
    """What a specification says of a run's data, in the task's units (images, tokens).

    Attributes:
        name: Of the source.
        fingerprint: Of the source's content.
        n_classes: Outputs to tell apart.
        n_train: Units trained on.
        n_held_out: Units of the validation part.
        examples: Examples up to each rung of the run's ladder, all of them last.
    """

    name: str
    fingerprint: str
    n_classes: int
    n_train: int
    n_held_out: int
    examples: tuple[int, ...]

    @classmethod
    def of(cls, task: Task, source: Any, chosen: Chosen, inputs: Any) -> "Data":
        """What is `chosen` of a source."""
        sizes = len(chosen.train), len(chosen.validation)
        examples = tuple(task.n_examples(each, inputs) for each in chosen.rungs)
        return cls(source.name, source.fingerprint, len(source.class_names), *sizes, examples)

    def to_dict(self) -> dict[str, Any]:
        """The source in a specification: which data, by content, and how much of it is held out."""
        return {"name": self.name, "fingerprint": self.fingerprint, "held_out": self.n_held_out}


def pretrain_spec(
    fields: PretrainFields,
    args: DistillationArguments,
    data: Data,
    configuration: Mapping[str, Any],
    teacher_id: str | None,
    trunk_id: str | None = None,
) -> RunSpec:
    """The specification of a pretraining run.

    Args:
        fields, args: What the recipe is told; `fields.model` is the student.
        data: Which data.
        configuration: The student's architecture and what it is built with.
        teacher_id: run_id, Hub id or hash of the teacher; None trains plain.
        trunk_id: run_id of the ladder's rung before; None in the first, and without a ladder.

    Raises:
        InputError: The rule makes no step.
    """
    in_ladder = fields.decay is not None
    count = rung_of(fields, args, data.examples).steps if in_ladder else _steps(fields, args, data.examples)
    return RunSpec(
        stage="pretrain",
        model={"name": fields.model, "config": dict(configuration)},
        source=data.to_dict(),
        n_pretrain=data.n_train,
        n_finetune=0,
        n_classes=data.n_classes,
        rule=rule_of(args, fields),
        steps=count,
        seed=args.seed,
        distillation={key: getattr(args, key) for key in _DISTILLATION} if teacher_id else None,
        teacher=teacher_id,
        parent=trunk_id,
        task=fields.task,
    )


def finetune_spec(
    fields: FinetuneFields, args: DistillationArguments, data: Data, parent_id: str, n_pretrain: int | None
) -> RunSpec:
    """The specification of a fine-tuning run.

    Args:
        fields, args: What the recipe is told.
        data: Which data.
        parent_id: run_id, Hub id or hash of the checkpoint; it covers the architecture.
        n_pretrain: Unique units that the checkpoint was pretrained on; None where nobody says.

    Raises:
        InputError: The rule makes no step.
    """
    return RunSpec(
        stage="finetune",
        model={},
        source=data.to_dict(),
        n_pretrain=n_pretrain,
        n_finetune=data.n_train,
        n_classes=data.n_classes,
        rule=rule_of(args, fields),
        steps=_steps(fields, args, data.examples),
        seed=args.seed,
        parent=parent_id,
        task=fields.task,
    )


def check_schedule(fields: PretrainFields | FinetuneFields, args: DistillationArguments) -> None:
    """Refuse what compares on a validation part where none is held out.

    Raises:
        InputError: Says which arguments are missing.
    """
    passing = getattr(fields, "teacher", None) is not None and args.alpha_schedule == "until_passed"
    if passing and not holds_out(args):
        raise InputError(
            "alpha_schedule until_passed compares on a validation part: give eval_strategy and eval_steps"
        )
    if fields.patience is not None and not (holds_out(args) and args.load_best_model_at_end):
        raise InputError(
            "patience waits for a better model by a validation part: give eval_strategy, eval_steps, save_strategy, "
            "save_steps and load_best_model_at_end"
        )


def _steps(fields: PretrainFields | FinetuneFields, args: DistillationArguments, examples: Sequence[int]) -> int:
    return count_steps(args, examples[-1], fields.min_steps)
