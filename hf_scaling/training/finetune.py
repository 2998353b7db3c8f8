"""Fine-tuning: a checkpoint on a downstream source."""

from pathlib import Path
from typing import Any

from hf_scaling import tasks
from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError
from hf_scaling.tasks import FinetuneFields, Task
from hf_scaling.training.checkpoint import Checkpoint, identify
from hf_scaling.training.configuration import describe
from hf_scaling.training.environment import check_processes, quiet_libraries
from hf_scaling.training.folder import RunFolder
from hf_scaling.training.rule import holds_out
from hf_scaling.training.run import Run
from hf_scaling.training.specification import Data, check_schedule, finetune_spec
from hf_scaling.training.warm import Warm

#: What the row of a fine-tuned run takes over from its parent's: how the parent came to be.
_INHERITED = ("arm", "distillation", "model", "teacher", "teacher_n_params", "teacher_n_pretrain", "upstream")


@quiet_libraries()
def finetune(
    fields: FinetuneFields, args: DistillationArguments, warm: Warm | None = None
) -> tuple[Path, dict[str, Any]]:
    """Fine-tune a checkpoint.

    Args:
        fields, args: What the recipe is told.
        warm: What a process that makes many runs keeps between them.

    Returns:
        The run's folder and its row.

    Raises:
        InputError: Something given cannot be used; nothing has been written.
        RunError: A run that began could not be finished.
    """
    check_processes()
    check_schedule(fields, args)
    warm, task = warm or Warm(), tasks.find(fields.task)
    parent = _find_parent(fields, task)
    model = warm.model(task, parent.folder)
    inputs = task.inputs_of(parent.folder, model, fields)
    source = warm.source(task, fields, inputs, fields.n_finetune)
    chosen = task.choose(source, "n_finetune", fields.n_finetune, args.seed, holds_out(args))
    known_as = _architecture(parent, model)
    model = task.adapt(model, fields, source, args.seed)
    n_pretrain = parent.n_pretrain(fields.n_pretrain)
    spec = finetune_spec(fields, args, Data.of(task, source, chosen, inputs), parent.id, n_pretrain)
    foreign = {"arm": "plain", "model": known_as}
    inherited = {name: parent.row[name] for name in _INHERITED} if parent.row else foreign
    run = Run(
        spec=spec,
        folder=RunFolder(args.output_dir or Path("runs") / spec.run_id),
        args=args,
        fields=fields,
        model=model,
        source=source,
        chosen=chosen,
        inputs=inputs,
        label=f"fine-tuning {inherited['model']} on {source.name}",
        columns=inherited | {"downstream": source.name, "parent": parent.name},
        resolved=describe(fields, args),
        upstream_seen=parent.seen,
    )
    return run.folder.path, run.execute()


def _find_parent(fields: FinetuneFields, task: Task) -> Checkpoint:
    if fields.checkpoint is None:
        raise InputError("checkpoint: give --checkpoint, the run folder or Hub id of the model to fine-tune")
    return identify(fields.checkpoint, task)


def _architecture(parent: Checkpoint, model: Any) -> str:
    """What a row calls a model that is none of ours: its Hub id, or the architecture its config names."""
    if parent.name != parent.id:
        return parent.name.partition("@")[0]
    return getattr(model.config, "architecture", None) or model.config.model_type
