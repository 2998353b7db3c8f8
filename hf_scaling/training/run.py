"""What a recipe says when its run is finished."""

import copy
import dataclasses
import difflib
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import PreTrainedModel

from hf_scaling import data, models, tasks
from hf_scaling.distillation import DistillationArguments, Teacher, input_settings
from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.results import new_row
from hf_scaling.tasks import Chosen, FinetuneFields, Measurement, PretrainFields, RunFields, Task, collate
from hf_scaling.training.config import (
    check_processes,
    describe,
    device_name,
    holds_out,
    is_main,
    quiet_libraries,
    versions,
)
from hf_scaling.training.ladder import Rung, check_trunk, rung_of
from hf_scaling.training.model_card import write_card
from hf_scaling.training.resolve import Data, check_schedule, finetune_spec, pretrain_spec
from hf_scaling.training.run_folder import Checkpoint, RunFolder, identify
from hf_scaling.training.trainer import RunTrainer, own_arguments


def make_row(
    spec: RunSpec,
    task: Task,
    inputs: Any,
    model: PreTrainedModel,
    trainer: RunTrainer,
    flops: float,
    measurement: Measurement,
    columns: Mapping[str, Any],
) -> dict[str, Any]:
    """The row of a run; `flops` are those of training on one example.

    `train_flops` are the student's, forward and backward; `teacher_flops` the teacher's forward passes on the examples
    it was asked about. Its own training is in its own row.
    """
    examples = trainer.state.global_step * spec.rule["batch"]
    asked = None if trainer.teacher is None else trainer.samples_taught * task.forward_flops(trainer.teacher, inputs)
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
        "samples_seen": examples * task.example_size(inputs),
        "train_flops": examples * flops,
        "teacher_flops": asked,
        "seconds": round(trainer.seconds, 3),
        "device": device_name(trainer.args.device, trainer.args.world_size),
        "precision": spec.rule["precision"],
        "versions": versions(),
    }
    return new_row(values | task.columns(inputs) | measurement.to_dict() | dict(columns))


def describe_distillation(distillation: Mapping[str, Any] | None) -> str | None:
    """kind, alpha, temperature and schedule as one text, the row's `distillation`."""
    if distillation is None:
        return None
    return " ".join(f"{name}={value}" for name, value in distillation.items())


class Warm:
    """Open sources, and the checkpoint that was last asked for: many fine-tunings in a row start from the same one."""

    def __init__(self):
        self._sources: dict[tuple, Any] = {}
        self._last: tuple[Path, PreTrainedModel] | None = None

    def source(self, task: Task, fields: Any, inputs: Any, n: int | None) -> Any:
        """The source that `fields` name; one that is open already is given again.

        Raises:
            InputError: See the opener in `subsets`.
        """
        arguments = task.source_arguments(fields, inputs, n)
        key = (task.data, *arguments.items())
        if key not in self._sources:
            self._sources[key] = data.OPENERS[task.data](**arguments)
        return self._sources[key]

    def model(self, task: Task, folder: Path) -> PreTrainedModel:
        """As `task.load_model`, but the last folder's model is copied rather than read again."""
        if self._last is None or self._last[0] != folder:
            self._last = (folder, task.load_model(folder))
        return copy.deepcopy(self._last[1])


@dataclass(frozen=True)
class Taught:
    """A trained teacher, and what the row says of it."""

    teacher: Teacher
    columns: dict[str, Any]


@dataclass
class Run:
    """Everything that one run needs, resolved.

    Attributes:
        spec: What it is; its id.
        folder: Where it goes.
        args, fields: Its TrainingArguments and the recipe's own, as it was told.
        model: The model to start from.
        source: The data.
        chosen: Which of them.
        inputs: What the model's inputs are like, in the task's terms.
        label: What progress calls the run.
        teach: Gives the trained teacher, training it first where it must; None in a plain run.
        rung: Its place in a ladder; None without one.
        trunk: Gives the training state to go on from; None in a ladder's first rung, and without one.
        columns: What else is known of the run, for its row.
        resolved: What else run.yaml should say.
        upstream_seen: Hashes of what the parent was trained on; None where it has no parent, or does not say.
    """

    spec: RunSpec
    folder: RunFolder
    args: DistillationArguments
    fields: RunFields
    model: torch.nn.Module
    source: Any
    chosen: Chosen
    inputs: Any
    label: str
    teach: Callable[[], Taught] | None = None
    rung: Rung | None = None
    trunk: Callable[[], Path] | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    upstream_seen: np.ndarray | None = None

    @property
    def task(self) -> Task:
        """What kind of problem it is."""
        return tasks.find(self.spec.task)

    def execute(self) -> dict[str, Any]:
        """Train, evaluate and write; go on where a killed run stopped; a finished run is read.

        Returns:
            The row.

        Raises:
            InputError: The folder holds another run, or the settings cannot work together; nothing is written then.
            RunError: The loss is no number; no row is written, and the checkpoints before it are kept.
        """
        finished = self.folder.claim(self.spec)
        PartialState().wait_for_everyone()
        if finished is not None:
            say(f"{self.label}: already finished in {self.folder.path}")
            return finished
        taught = self.teach() if self.teach else None
        trunk = self.trunk() if self.trunk else None
        trainer = self._make_trainer(taught)
        overlap = self._look_for_overlap()
        if is_main():
            self.folder.write_resolved(self.spec, self.resolved | {"overlap": overlap})
        say(f"{self.label}: {self.spec.steps:,} steps, run {self.spec.run_id}")
        flops = self.task.training_flops(trainer.model, self.inputs)
        trainer.go_on(trunk)
        model = self.task.finish(trainer.model)
        # Read now that nothing can be chosen by it any more.
        measurement = self.task.evaluate(
            model,
            trainer.processing_class,
            self.source.test,
            trainer.args.per_device_eval_batch_size,
            teacher=trainer.teacher,
        )
        columns = self.columns | (taught.columns if taught else {})
        row = make_row(self.spec, self.task, self.inputs, model, trainer, flops, measurement, columns)
        if is_main():
            self._write(model, trainer.processing_class, row, overlap)
        PartialState().wait_for_everyone()
        return row

    def _make_trainer(self, taught: Taught | None) -> RunTrainer:
        settings = own_arguments(self.args, self.spec.steps, self.folder.checkpoints)
        if self.fields.patience is not None:
            settings["restore_callback_states_from_checkpoint"] = True
        if self.rung is not None:
            settings |= self.rung.arguments()
        args = dataclasses.replace(self.args, **settings)
        length = self.spec.steps * self.spec.rule["batch"]
        seed = args.seed if args.data_seed is None else args.data_seed
        task, inputs = self.task, self.inputs
        return RunTrainer(
            model=self.model,
            args=args,
            teacher=taught.teacher if taught else None,
            train_dataset=task.training_stream(self.source, self.chosen, inputs, length, seed, self.fields),
            eval_dataset=task.validation_set(self.source, self.chosen, inputs),
            data_collator=collate,
            processing_class=task.processor(self.model, inputs),
            patience=self.fields.patience,
            keep=None if self.rung is None else (self.rung.branch, self.folder.trunk),
        )

    def _look_for_overlap(self) -> dict[str, int | None]:
        """How much of the evaluation part was trained on: here, and by the parent (None where that is not known)."""
        has_parent = self.spec.stage == "finetune"
        counts = self.task.overlap(self.chosen, self.source, self.upstream_seen, has_parent)
        if any(counts.values()):
            say(f"{self.label}: of the evaluation {self.task.data}, {self.task.describe_overlap(counts)}")
        return counts

    def _write(
        self, model: PreTrainedModel, processor: Any, row: Mapping[str, Any], overlap: Mapping[str, int | None]
    ) -> None:
        """Write the checkpoint beside its place and move it there, then the card, and the row last."""
        aside = self.folder.checkpoints / "final"
        model.save_pretrained(aside)
        processor.save_pretrained(aside)
        for each in aside.iterdir():
            os.replace(each, self.folder.path / each.name)
        aside.rmdir()
        if self.spec.stage == "pretrain":
            self.folder.write_seen(self.chosen.seen())
        write_card(self.folder.path, self.task, row, self.task.describe_overlap(overlap))
        self.folder.finish(row)


def say(line: str) -> None:
    """One line of progress on stderr, from one process."""
    if is_main():
        print(line, file=sys.stderr, flush=True)


@quiet_libraries()
def pretrain(
    fields: PretrainFields, args: DistillationArguments, warm: Warm | None = None
) -> tuple[Path, dict[str, Any]]:
    """Pretrain one student, and its teacher first where that is given as a family name.

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
    task = tasks.find(fields.task)
    source = (warm or Warm()).source(task, fields, task.inputs(fields), fields.n_pretrain)
    model = task.build(fields.model, fields, source, args.seed)
    setting = _Setting.of(task, fields, args, source)
    run = setting.run(fields.model, model, Path(args.output_dir) if args.output_dir else None)
    return run.folder.path, run.execute()


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What a student shares with the teacher that is trained for it: the data and the rule."""

    task: Task
    fields: PretrainFields
    args: DistillationArguments
    source: Any
    chosen: Chosen

    @classmethod
    def of(cls, task: Task, fields: PretrainFields, args: DistillationArguments, source: Any) -> "_Setting":
        """The data that `fields` ask for."""
        held_out = holds_out(args)
        chosen = task.choose(source, "n_pretrain", fields.n_pretrain, args.seed, held_out, fields.rungs)
        return cls(task, fields, args, source, chosen)

    def run(self, name: str, model, output_dir: Path | None) -> Run:
        """The run of the student."""
        if self.fields.teacher is None:
            return self._plain_run(name, model, output_dir)
        if is_architecture(self.task, self.fields.teacher):
            if self.fields.rungs:
                raise InputError("teacher: the rungs of a ladder share a trained one: give a folder or a Hub id")
            return self._taught_by_family(name, model, output_dir)
        return self._taught_by_checkpoint(name, model, output_dir)

    def _plain_run(self, name: str, model, output_dir: Path | None) -> Run:
        return self._make(self._spec(name, model, None), model, output_dir, None, f"plain {name}")

    def _taught_by_family(self, name: str, model, output_dir: Path | None) -> Run:
        """By a teacher trained first, with the same rule on the same images, in the folder `teacher`."""
        family = self.fields.teacher
        plain = dataclasses.replace(self, fields=dataclasses.replace(self.fields, teacher=None))
        teacher_model = self.task.build(family, self.fields, self.source, self.args.seed)
        teacher_spec = plain._spec(family, teacher_model, None)
        spec = self._spec(name, model, teacher_spec.run_id)
        folder = _folder(output_dir, spec)

        def teach() -> Taught:
            of_teacher = plain._make(teacher_spec, teacher_model, folder / "teacher", None, f"teacher {family}")
            row = of_teacher.execute()
            columns = {"teacher_n_params": row["n_params"], "teacher_n_pretrain": row["n_pretrain"]}
            return Taught(self._load_teacher(folder / "teacher"), columns)

        return self._make(spec, model, folder, teach, f"student {name}")

    def _taught_by_checkpoint(self, name: str, model, output_dir: Path | None) -> Run:
        """By a trained model from a folder or the Hub, checked before anything is written."""
        self._refuse_misspelt()
        found = identify(self.fields.teacher, self.task)
        teacher = self._load_teacher(found.folder)
        teacher.adapt_to(model, **input_settings(self.task.processor(model, self._inputs)))
        columns = {
            "teacher_n_params": models.count_params(teacher.model),
            "teacher_n_pretrain": found.row.get("n_pretrain"),
        }
        run = self._make(
            self._spec(name, model, found.id), model, output_dir, lambda: Taught(teacher, columns), f"student {name}"
        )
        run.columns["teacher"] = found.name
        return run

    @property
    def _inputs(self) -> Any:
        return self.task.inputs(self.fields)

    def _below(self) -> "_Setting":
        """The setting of the rung before."""
        rungs = self.fields.rungs
        fields = dataclasses.replace(self.fields, n_pretrain=rungs[-1], rungs=rungs[:-1], trunk=None)
        return _Setting.of(self.task, fields, self.args, self.source)

    def _spec(self, name: str, model, teacher_id: str | None) -> RunSpec:
        fields = dataclasses.replace(self.fields, model=name)
        data = Data.of(self.task, self.source, self.chosen, self._inputs)
        below = self._spec_below(name, model, teacher_id)
        trunk_id = below and below.run_id
        spec = pretrain_spec(fields, self.args, data, self.task.configuration(model), teacher_id, trunk_id)
        if below is not None:
            check_trunk(spec, below, fields.rungs)
        return spec

    def _spec_below(self, name: str, model, teacher_id: str | None) -> RunSpec | None:
        if not self.fields.rungs:
            return None
        if self.fields.trunk is not None:
            return RunFolder(self.fields.trunk).spec()
        return self._below()._spec(name, model, teacher_id)

    def _trunk(self, name: str, folder: Path) -> Callable[[], Path] | None:
        """Gives the trunk to go on from, training the rung before, in the folder `below`, where none is given."""
        if not self.fields.rungs:
            return None
        if self.fields.trunk is not None:
            return lambda: RunFolder(self.fields.trunk).trunk

        def train_below() -> Path:
            model = self.task.build(name, self.fields, self.source, self.args.seed)
            run = self._below().run(name, model, folder / "below")
            run.execute()
            return run.folder.trunk

        return train_below

    def _make(self, spec: RunSpec, model, output_dir: Path | None, teach, label: str) -> Run:
        name, folder = spec.model["name"], _folder(output_dir, spec)
        in_ladder = self.fields.decay is not None
        examples = Data.of(self.task, self.source, self.chosen, self._inputs).examples
        columns = {
            "arm": spec.arm,
            "model": name,
            "upstream": self.source.name,
            "teacher": spec.teacher,
            "distillation": describe_distillation(spec.distillation),
        }
        return Run(
            spec=spec,
            folder=RunFolder(folder),
            args=self.args,
            fields=self.fields,
            model=model,
            source=self.source,
            chosen=self.chosen,
            inputs=self._inputs,
            label=label,
            teach=teach,
            rung=rung_of(self.fields, self.args, examples) if in_ladder else None,
            trunk=self._trunk(name, folder),
            columns=columns,
            resolved=describe(dataclasses.replace(self.fields, model=name), self.args),
        )

    def _load_teacher(self, folder: Path) -> Teacher:
        return Teacher(self.task.load_model(folder), **self.task.teaching(folder))

    def _refuse_misspelt(self) -> None:
        """A bare name is no checkpoint: say which family was meant rather than look for it on the Hub."""
        teacher = self.fields.teacher
        if "/" in teacher or Path(teacher).exists():
            return
        near = difflib.get_close_matches(teacher, self.task.families(), n=1, cutoff=0.5)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise InputError(f"teacher {teacher}: no family name, no folder and no Hub id (org/name){meant}")


def is_architecture(task: Task, name: str) -> bool:
    """Whether `name` says what to build (a family or an architecture) rather than where trained weights are."""
    return not Path(name).exists() and "/" not in name and task.is_architecture(name)


def _folder(output_dir: Path | None, spec: RunSpec) -> Path:
    return Path("runs") / spec.run_id if output_dir is None else output_dir


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


def announce(folder: Path, row: Mapping[str, Any], next_command: str) -> None:
    """Print, from one process, the scores, the folder, and what to do next."""
    if not is_main():
        return
    source, unit = row["downstream"] or row["upstream"], tasks.find(row["task"]).unit
    print(f"error   {row['error']:.4f}  (top-1, on the {row['n_eval']:,} {row['eval_split']} {unit}s of {source})")
    print(f"loss    {row['loss']:.4f}  (cross-entropy, nats {'an' if unit[0] in 'aeiou' else 'a'} {unit})")
    if row["agreement"] is not None:
        scores = f"{row['teacher_error']:.4f} error, {row['teacher_loss']:.4f} loss"
        print(f"teacher {scores}; agreement {row['agreement']:.4f}")
    print(f"folder  {folder}  (run {row['run_id']})")
    print(f"next    {next_command}", flush=True)
