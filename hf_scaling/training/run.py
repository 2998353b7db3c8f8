"""One run from its specification to its checkpoint and its row; pretraining and fine-tuning are both such runs."""

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from accelerate import PartialState
from transformers import PreTrainedModel

from hf_scaling import models
from hf_scaling.distillation import DistillationArguments, Teacher
from hf_scaling.grid import RunSpec
from hf_scaling.subsets import Source
from hf_scaling.tasks import Chosen, ImageClassification, Measurement, collate
from hf_scaling.training.card import write_card
from hf_scaling.training.environment import is_main
from hf_scaling.training.folder import RunFolder
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
        args: Its TrainingArguments, as the recipe was told.
        model: The model to start from.
        source: The images.
        chosen: Which of them.
        statistics: How pixels are normalised.
        augmentation: Names.
        label: What progress calls the run.
        teach: Gives the trained teacher, training it first where it must; None in a plain run.
        columns: What else is known of the run, for its row.
        resolved: What else run.yaml should say.
        upstream_seen: Hashes of the images the parent was trained on; None where it has no parent, or does not say.
    """

    spec: RunSpec
    folder: RunFolder
    args: DistillationArguments
    model: PreTrainedModel
    source: Source
    chosen: Chosen
    statistics: models.ImageStatistics
    augmentation: list[str]
    label: str
    teach: Callable[[], Taught] | None = None
    columns: dict[str, Any] = field(default_factory=dict)
    resolved: dict[str, Any] = field(default_factory=dict)
    upstream_seen: np.ndarray | None = None
    task: ImageClassification = field(default_factory=ImageClassification)

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
        trainer = self._make_trainer(taught)
        overlap = self._look_for_overlap()
        if is_main():
            self.folder.write_resolved(self.spec, self.resolved | {"overlap": overlap})
        say(f"{self.label}: {self.spec.steps:,} steps, run {self.spec.run_id}")
        trainer.go_on()
        measurement = self._evaluate(trainer)
        columns = self.columns | (taught.columns if taught else {})
        row = make_row(self.spec, trainer, self.source, measurement, columns)
        if is_main():
            self._write(trainer, row, overlap)
        PartialState().wait_for_everyone()
        return row

    def _make_trainer(self, taught: Taught | None) -> RunTrainer:
        models.name_classes(self.model, self.source.class_names)
        args = dataclasses.replace(self.args, **own_arguments(self.args, self.spec.steps, self.folder.checkpoints))
        length = self.spec.steps * self.spec.rule["batch"]
        seed = args.seed if args.data_seed is None else args.data_seed
        return RunTrainer(
            model=self.model,
            args=args,
            teacher=taught.teacher if taught else None,
            train_dataset=self.task.training_stream(
                self.source, self.chosen, self.statistics, length, seed, self.augmentation
            ),
            eval_dataset=self.task.validation_set(self.source, self.chosen, self.statistics),
            data_collator=collate,
            processing_class=models.build_processor(self.model, self.statistics.mean, self.statistics.std),
        )

    def _look_for_overlap(self) -> dict[str, int | None]:
        """How many evaluation images were trained on: here, and by the parent (None where that is not known)."""
        seen = {"training": self.task.seen(self.source, self.chosen)}
        if self.spec.parent is not None:
            seen["upstream"] = self.upstream_seen
        counts = {
            name: None if hashes is None else self.task.count_overlap(hashes, self.source)
            for name, hashes in seen.items()
        }
        if any(counts.values()):
            say(f"{self.label}: of the evaluation images, {describe_overlap(counts)}")
        return counts

    def _evaluate(self, trainer: RunTrainer) -> Measurement:
        """Read the test split, once, now that nothing can be chosen by it any more."""
        return self.task.evaluate(
            trainer.model,
            trainer.processing_class,
            self.source.test,
            trainer.args.per_device_eval_batch_size,
            teacher=trainer.teacher,
        )

    def _write(self, trainer: RunTrainer, row: Mapping[str, Any], overlap: Mapping[str, int | None]) -> None:
        """Write the checkpoint beside its place and move it there, then the card, and the row last."""
        aside = self.folder.checkpoints / "final"
        trainer.model.save_pretrained(aside)
        trainer.processing_class.save_pretrained(aside)
        for each in aside.iterdir():
            os.replace(each, self.folder.path / each.name)
        aside.rmdir()
        if self.spec.stage == "pretrain":
            self.folder.write_seen(self.task.seen(self.source, self.chosen))
        write_card(self.folder.path, row, describe_overlap(overlap))
        self.folder.finish(row)


def describe_overlap(counts: Mapping[str, int | None]) -> str:
    """`_look_for_overlap`'s counts as words."""
    words = {"training": "in this run's training images", "upstream": "in the upstream training images"}
    return ", ".join(
        f"{'an unknown number' if count is None else count} {'is' if count == 1 else 'are'} also {words[name]}"
        for name, count in counts.items()
    )


def say(line: str) -> None:
    """One line of progress on stderr, from one process."""
    if is_main():
        print(line, file=sys.stderr, flush=True)
