"""Fine-tuning: a checkpoint with a fresh head on a labelled downstream source."""

from pathlib import Path
from typing import Any

from hf_scaling import models
from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError
from hf_scaling.subsets import Source
from hf_scaling.tasks import Chosen, ImageClassification
from hf_scaling.training.checkpoint import Checkpoint, identify
from hf_scaling.training.configuration import FinetuneFields, describe
from hf_scaling.training.environment import check_processes, quiet_libraries
from hf_scaling.training.folder import RunFolder
from hf_scaling.training.rule import holds_out
from hf_scaling.training.run import Run
from hf_scaling.training.specification import Images, finetune_spec
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
    warm = warm or Warm()
    parent = _find_parent(fields)
    model = warm.model(parent.folder)
    image_size = models.input_size(model)
    if image_size is None:
        raise InputError(f"checkpoint {fields.checkpoint}: its config states no image size")
    task = ImageClassification()
    source = warm.source(task, fields, image_size, fields.n_finetune)
    chosen = task.choose(source, "n_finetune", fields.n_finetune, args.seed, holds_out(args))
    models.replace_head(model, len(source.class_names), args.seed)
    if fields.train_part == "head":
        models.freeze_backbone(model)
    run = _make_run(fields, args, parent, model, source, chosen)
    return run.folder.path, run.execute()


def _find_parent(fields: FinetuneFields) -> Checkpoint:
    if fields.checkpoint is None:
        raise InputError("checkpoint: give --checkpoint, the run folder or Hub id of the model to fine-tune")
    return identify(fields.checkpoint)


def _make_run(
    fields: FinetuneFields,
    args: DistillationArguments,
    parent: Checkpoint,
    model: Any,
    source: Source,
    chosen: Chosen,
) -> Run:
    n_pretrain = parent.n_pretrain(fields.n_pretrain)
    spec = finetune_spec(fields, args, Images.of(source, chosen), parent.id, n_pretrain)
    foreign = {"arm": "plain", "model": _architecture(parent, model)}
    inherited = {name: parent.row[name] for name in _INHERITED} if parent.row else foreign
    return Run(
        spec=spec,
        folder=RunFolder(args.output_dir or Path("runs") / spec.run_id),
        args=args,
        model=model.train(),
        source=source,
        chosen=chosen,
        statistics=models.load_statistics(parent.folder),
        augmentation=fields.augmentation,
        label=f"fine-tuning {inherited['model']} on {source.name}",
        columns=inherited | {"downstream": source.name, "parent": parent.name},
        resolved=describe(fields, args),
        upstream_seen=parent.seen,
    )


def _architecture(parent: Checkpoint, model: Any) -> str:
    """What a row calls a model that is none of ours: its Hub id, or the architecture its config names."""
    if parent.name != parent.id:
        return parent.name.partition("@")[0]
    return getattr(model.config, "architecture", None) or model.config.model_type
