"""Training: from a resolved run to its checkpoint, its card and its row."""

import copy
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel, PrinterCallback

from hf_scaling import models, tasks
from hf_scaling.distillation import Teacher
from hf_scaling.results import new_row
from hf_scaling.tasks import Measurement, collate, new_model_fields
from hf_scaling.training.averaging import Averaging
from hf_scaling.training.config import (
    check_processes,
    describe,
    device_name,
    is_main,
    quiet_libraries,
    rate_of,
    versions,
)
from hf_scaling.training.model_card import write_card
from hf_scaling.training.resolve import ResolvedRun
from hf_scaling.training.run_folder import Checkpoint, RunFolder, identify
from hf_scaling.training.trainer import RunTrainer, fixed_arguments

#: Columns that the row of a fine-tuned run takes from its parent's row: how the parent was trained.
_INHERITED = (
    "arm",
    "distillation",
    "model",
    "teacher",
    "teacher_n_params",
    "teacher_n_pretrain",
    "upstream",
    "classes",
)


def train(run: ResolvedRun, folder: str | Path | None = None) -> tuple[Path, dict[str, Any]]:
    """Train a run, evaluate it, and write its folder; resume a killed run; a finished run is read.

    The runs that it needs are trained first, in folders inside its own: `teacher`, `previous_rung` (of a ladder)
    and `parent`.

    Args:
        run: What `resolve` gave.
        folder: The run's folder; by default `args.output_dir`, else `runs/RUN_ID`.

    Returns:
        The folder and the row.

    Raises:
        InputError: The folder belongs to another run, or settings cannot work together; nothing is written.
        RunError: The loss is not finite; no row is written, and the checkpoints before it are kept.
    """
    check_processes()
    with quiet_libraries():
        path = Path(folder or run.args.output_dir or Path("runs") / run.run_id)
        return path, _Training(run, RunFolder(path)).execute()


def validate(run: ResolvedRun, folder: Path) -> float:
    """Train a pretraining run without a teacher and give its loss on the validation part; no checkpoint is kept.

    Args:
        run: With an `eval_strategy`, so that a validation part is held out.
        folder: For what the Trainer writes; to be removed by the caller.

    Raises:
        RunError: The loss is not finite.
    """
    with quiet_libraries():
        training = _Training(run, RunFolder(folder))
        model, origin = training._start_from(None, None, None)
        trainer = training._make_trainer(model, None, run.counted.training, origin["model"])
        trainer.remove_callback(PrinterCallback)
        trainer.train_to_end()
        return float(trainer.evaluate()["eval_loss"])


class _Training:
    """One run on its way from its resolved state to its row."""

    def __init__(self, run: ResolvedRun, folder: RunFolder, role: str = ""):
        self.run, self.folder = run, folder
        self.task, self.spec = run.task, run.spec
        role = role or ("student" if run.teacher is not None else "plain")
        name = run.plan.model
        self.label = f"{role} {name}" if self.spec.stage == "pretrain" else f"fine-tuning {name} on {run.source.name}"

    def execute(self) -> dict[str, Any]:
        row = self.folder.claim(self.spec)
        PartialState().wait_for_everyone()
        if row is not None:
            self._report(f"already finished in {self.folder.path}")
            return row
        run = self.run
        # Before there is a Trainer: new TrainingArguments, which this compares with, reset accelerate's state.
        configuration = describe(run.fields, run.args)
        subset = run.subset
        checkpoint = self._trained(run.teacher, "teacher")
        teacher = None if checkpoint is None else run.cache.teacher(self.task, checkpoint.folder)
        parent = self._trained(run.parent, "previous_rung" if self.spec.stage == "pretrain" else "parent")
        model, origin = self._start_from(parent, checkpoint, teacher)
        # A copy of each checkpoint that is fine-tuned would stay in the cache, so that one is counted as it is.
        counted = run.counted.training if self.spec.parent is None or self.spec.stage == "pretrain" else None
        flops = counted or self.task.training_flops(model, run.inputs)
        trainer = self._make_trainer(model, teacher, flops, origin["model"])
        overlap = self._count_overlap(None if isinstance(parent, RunFolder) else parent)
        if is_main():
            self.folder.write_resolved(self.spec, configuration | {"overlap": overlap})
        self._report(f"{self.spec.steps:,} steps, run {self.spec.run_id}")
        trainer.train_to_end(parent.resume_state if isinstance(parent, RunFolder) else None)
        model = trainer.model if isinstance(trainer.model, PreTrainedModel) else trainer.model.merge_and_unload()
        # The test split is read only now, when nothing can be selected by it any more.
        batch_size = trainer.args.per_device_eval_batch_size
        processor = trainer.processing_class
        options: dict[str, Any] = {"teacher": trainer.teacher}
        if getattr(run.fields, "class_errors", False):
            options["class_names"] = run.source.class_names
        measurement = self.task.evaluate(model, processor, run.test, batch_size, **options)
        row = self._row(model, trainer, flops, measurement, origin)
        if is_main():
            self.folder.save_model(model, processor)
            if self.spec.stage == "pretrain":
                self.folder.write_seen(subset.hashes())
            overlaps = describe_overlap(overlap, self.task.data)
            write_card(self.folder.path, self.task, row, overlaps, run.fields.averaging)
            self.folder.finish(row)
        PartialState().wait_for_everyone()
        return row

    def _trained(
        self, needed: ResolvedRun | Checkpoint | RunFolder | None, name: str
    ) -> Checkpoint | RunFolder | None:
        """The checkpoint of the teacher or parent, or the folder of the previous rung; trained first if need be."""
        if not isinstance(needed, ResolvedRun):
            return needed
        folder = RunFolder(self.folder.path / name)
        _Training(needed, folder, "teacher" if name == "teacher" else "").execute()
        return folder if name == "previous_rung" else identify(folder.path, self.task)

    def _start_from(
        self, parent: Checkpoint | RunFolder | None, teacher: Checkpoint | None, loaded: Teacher | None
    ) -> tuple[Any, dict[str, Any]]:
        """The model to begin with, and the columns of the row that say how it came to be."""
        run, seed = self.run, self.spec.seed
        if self.spec.stage == "pretrain":
            distillation, classes = self.spec.distillation, getattr(run.source, "selected_classes", None)
            origin = {
                "arm": self.spec.arm,
                "model": run.fields.model,
                "upstream": run.source.name,
                "classes": None if classes is None else json.dumps(classes, ensure_ascii=False),
                "distillation": distillation and " ".join(f"{name}={value}" for name, value in distillation.items()),
            }
            if teacher is not None:
                origin["teacher"] = teacher.name
                origin["teacher_n_params"] = models.count_params(loaded.model)
                origin["teacher_n_pretrain"] = teacher.row.get("n_pretrain")
            return self.task.build(run.fields.model, run.fields, run.source, seed), origin
        if parent is None:
            start = new_model_fields(self.task, run.fields)
            model = self.task.build(run.fields.model, start, run.source, seed)
            origin = {"arm": self.spec.arm, "model": run.fields.model, "downstream": run.source.name}
            return self.task.limit_training(model, run.fields, seed), origin
        model = copy.deepcopy(run.cache.model(self.task, parent.folder))
        if parent.row:
            origin = {name: parent.row[name] for name in _INHERITED}
        else:
            # A checkpoint that hf_scaling did not train: its Hub id, else the architecture that its config names.
            hub_id = parent.name.partition("@")[0] if parent.name != parent.id else None
            architecture = getattr(model.config, "architecture", None) or model.config.model_type
            origin = {"arm": "plain", "model": hub_id or architecture}
        self.label = f"fine-tuning {origin['model']} on {run.source.name}"
        model = self.task.limit_training(self.task.adapt(model, run.fields, run.source, seed), run.fields, seed)
        return model, origin | {"downstream": run.source.name, "parent": parent.name}

    def _make_trainer(self, model: Any, teacher: Teacher | None, flops: float, name: str) -> RunTrainer:
        run, args = self.run, self.run.args
        settings = fixed_arguments(args, self.spec.steps, self.folder.checkpoints)
        settings["learning_rate"] = rate_of(args, run.fields, name)
        if run.fields.patience is not None:
            settings["restore_callback_states_from_checkpoint"] = True
        if run.rung is not None:
            settings |= run.rung.arguments()
        length = self.spec.steps * self.spec.rule["batch"]
        seed = args.seed if args.data_seed is None else args.data_seed
        stream, validation = self.task.training_sets(run.source, run.subset, run.inputs, length, seed, run.fields)
        return RunTrainer(
            model=model,
            args=dataclasses.replace(args, **settings),
            teacher=teacher,
            train_dataset=stream,
            eval_dataset=validation,
            data_collator=collate,
            processing_class=self.task.processor(model, run.inputs),
            patience=run.fields.patience,
            averaging=None if run.fields.averaging is None else Averaging.parse(run.fields.averaging),
            keep=None if run.rung is None else (run.rung.branch, self.folder.resume_state),
            flops_per_example=flops,
        )

    def _count_overlap(self, parent: Checkpoint | None) -> dict[str, int | None]:
        """Evaluation examples that were trained on: in this run, and by the parent (None where that is not known)."""
        evaluated = self.task.hashes(self.run.test)
        trained = {"training": self.run.subset.hashes()}
        if parent is not None:
            trained["upstream"] = parent.seen
        counts = {
            name: None if hashes is None else int(np.isin(evaluated, hashes).sum()) for name, hashes in trained.items()
        }
        if any(counts.values()):
            self._report(f"of the evaluation {self.task.data}, {describe_overlap(counts, self.task.data)}")
        duplicates = getattr(self.run.source, "n_duplicates", None)
        return counts if duplicates is None else counts | {"duplicates": duplicates}

    def _row(
        self,
        model: PreTrainedModel,
        trainer: RunTrainer,
        flops: float,
        measurement: Measurement,
        origin: Mapping[str, Any],
    ) -> dict[str, Any]:
        """The row; `flops` are those of training on one example.

        `train_flops` are the student's, forward and backward; `teacher_flops` the teacher's forward passes on the
        examples it gave predictions for. Its own training is in its own row.
        """
        spec, inputs = self.spec, self.run.inputs
        examples = trainer.state.global_step * spec.rule["batch"]
        teacher_flops = None
        if trainer.teacher is not None:
            batch = inputs.blank(1, trainer.args.device)
            teacher_flops = trainer.samples_distilled * models.flops_of(trainer.teacher, batch)
        values = {
            "run_id": spec.run_id,
            "task": spec.task,
            "stage": spec.stage,
            "recipe": spec.recipe,
            "n_params": models.count_params(model),
            "n_pretrain": spec.n_pretrain,
            "n_finetune": spec.n_finetune,
            "parent": spec.parent,
            "seed": spec.seed,
            "eval_split": "test",
            "samples_seen": examples * inputs.example_size,
            "train_flops": examples * flops,
            "teacher_flops": teacher_flops,
            "seconds": round(trainer.seconds, 3),
            "device": device_name(trainer.args.device, trainer.args.world_size),
            "precision": spec.rule["precision"],
            "versions": versions(),
        }
        return new_row(values | dict(inputs.columns) | measurement.to_dict() | dict(origin))

    def _report(self, line: str) -> None:
        """A line of progress on stderr, from one process."""
        if is_main():
            print(f"{self.label}: {line}", file=sys.stderr, flush=True)


_OVERLAP = {
    "training": "also in this run's training {data}",
    "upstream": "also in the upstream training {data}",
    "duplicates": "duplicates were removed from the source",
}


def describe_overlap(counts: Mapping[str, int | None], data: str) -> str:
    """The counts of overlap as words; `data` is the kind of source."""
    return ", ".join(
        f"{'an unknown number' if count is None else f'{count:,}'} {_OVERLAP[name].format(data=data)}"
        for name, count in counts.items()
    )


def print_result(folder: Path, row: Mapping[str, Any], next_command: str) -> None:
    """Print, from one process, the scores, the folder, and a command to run next."""
    if not is_main():
        return
    source, unit = row["downstream"] or row["upstream"], tasks.find(row["task"]).unit
    print(f"error   {row['error']:.4f}  (top-1, on the {row['n_eval']:,} {row['eval_split']} {unit}s of {source})")
    print(f"loss    {row['loss']:.4f}  (cross-entropy, nats per {unit})")
    if row["agreement"] is not None:
        scores = f"{row['teacher_error']:.4f} error, {row['teacher_loss']:.4f} loss"
        print(f"teacher {scores}; agreement {row['agreement']:.4f}")
    print(f"folder  {folder}  (run {row['run_id']})")
    print(f"next    {next_command}", flush=True)
