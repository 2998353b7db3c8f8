"""One run from its specification to its checkpoint and its row; pretraining and fine-tuning are both such runs."""

import dataclasses
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

from hf_scaling import tasks
from hf_scaling.distillation import DistillationArguments, Teacher
from hf_scaling.grid import RunSpec
from hf_scaling.tasks import Chosen, RunFields, Task, collate
from hf_scaling.training.card import write_card
from hf_scaling.training.environment import is_main
from hf_scaling.training.folder import RunFolder
from hf_scaling.training.ladder import Rung
from hf_scaling.training.row import make_row
from hf_scaling.training.trainer import RunTrainer, own_arguments


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
