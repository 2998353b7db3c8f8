"""What one process keeps between runs: open sources, trained checkpoints, and models that were counted.

cache = ProcessCache(guess=True)
plans = resolve_runs(runs, cache)       # each source is opened once, each size of model built once
cache.sources, cache.checkpoints        # what the plans depend on
"""

import copy
import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, TrainingArguments

from hf_scaling import data, models
from hf_scaling.data import SourceFacts
from hf_scaling.distillation import Teacher, input_settings
from hf_scaling.errors import InputError
from hf_scaling.grid.schema import ClassSubset
from hf_scaling.tasks import FinetuneFields, Inputs, PretrainFields, RunFields, Subset, Task
from hf_scaling.training.config import holds_out
from hf_scaling.training.run_folder import Checkpoint, identify

#: Fields of pretraining that do not change the model that is built, apart from its weights.
_NOT_OF_THE_MODEL = {
    "source",
    "n_pretrain",
    "teacher",
    "rungs",
    "previous_rung",
    "decay",
    "min_steps",
    "patience",
    "averaging",
    "n_eval",
    "learning_rates",
}


@dataclass(frozen=True)
class GuessedSource:
    """A source that cannot be reached; only its name and a guess of its classes are known."""

    name: str
    class_names: Sequence[Any]
    fingerprint: str = "unknown"
    end_id: int = 0


@dataclass(frozen=True)
class CountedModel:
    """A model in numbers.

    Attributes:
        model: As it begins training; None where the checkpoint cannot be reached.
        configuration: Its architecture and arguments.
        n_params: Parameters; None where they are not known.
        forward: FLOPs of a prediction for one example.
        training: FLOPs of training on one example.
    """

    model: PreTrainedModel | None
    configuration: dict[str, Any]
    n_params: int | None
    forward: float
    training: float


class ProcessCache:
    """Opens every source, reads every checkpoint and counts every model once.

    Args:
        fill: Read every source into its cache on disk, so that all sizes are known and checked.
        guess: Where a source or a checkpoint cannot be reached, continue with guessed sizes; the plans of such runs
            are provisional.
        opened: Sources that this process has open already, as `data.source_facts` collects them.
    """

    def __init__(self, fill: bool = True, guess: bool = False, opened: Mapping[tuple, Any] | None = None):
        self.fill, self.guess = fill, guess
        self._sources: dict[tuple, Any] = dict(opened or {})
        self._facts: dict[tuple, SourceFacts] = {}
        self._unreachable: dict[tuple, str] = {}
        self._checkpoints: dict[tuple[str, str], Checkpoint] = {}
        self._inputs: dict[tuple[str, Path], Inputs] = {}
        self._counted: dict[tuple, CountedModel] = {}
        self._teacher_flops: dict[tuple, float] = {}
        # Many runs in a row start from the same checkpoint, share a teacher or a subset: the last of each is kept.
        self._model: tuple[Path, PreTrainedModel] | None = None
        self._teacher: tuple[Path, Teacher] | None = None
        self._subset: tuple[tuple, Subset] | None = None

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The sources that were counted: opener, arguments and facts, as JSON values."""
        return [
            {"data": key[0], "arguments": dict(key[1:]), "facts": dataclasses.asdict(facts)}
            for key, facts in self._facts.items()
        ]

    @property
    def checkpoints(self) -> list[str]:
        """The trained checkpoints that were read, as they are written in the fields."""
        return list(dict.fromkeys(where for where, _ in self._checkpoints))

    def open_source(self, task: Task, fields: RunFields, inputs: Inputs) -> Any:
        """The source of `fields`; one that is open already is returned again.

        Raises:
            InputError: See the opener in `data`.
        """
        key = _source_key(task, fields, inputs)
        if key not in self._sources:
            self._sources[key] = data.OPENERS[key[0]](**dict(key[1:]))
        return self._sources[key]

    def facts(
        self, task: Task, fields: RunFields, inputs: Inputs, needs_size: bool
    ) -> tuple[Any, SourceFacts, str | None]:
        """The source of `fields`, its sizes, and why they are a guess (None where they are known).

        Args:
            task: Opens the source.
            fields: Of the run.
            inputs: Of its model.
            needs_size: Whether the run cannot be resolved without the size of the source.

        Raises:
            InputError: The source cannot be reached, and no guess is allowed.
        """
        key = _source_key(task, fields, inputs)
        facts = self._facts.get(key)
        if facts is None or (facts.n_train is None and needs_size and not self.guess):
            try:
                source = self.open_source(task, fields, inputs)
                facts = SourceFacts.of(source, self.fill or (needs_size and not self.guess))
            except InputError as error:
                if not self.guess:
                    raise
                arguments = dict(key[1:])
                n_classes, classes = task.guess["n_classes"], arguments.get("classes")
                if isinstance(classes, int):
                    n_classes = classes
                elif classes is not None and (subset := ClassSubset.parse(classes)) is not None:
                    n_classes = subset.size(n_classes)
                facts = SourceFacts(arguments["name"], "unknown", n_classes, None, None, None)
                self._sources[key] = GuessedSource(facts.name, range(n_classes))
                self._unreachable[key] = str(error)
            self._facts[key] = facts
        provisional = self._unreachable.get(key)
        if provisional is None and facts.n_train is None and needs_size:
            provisional = f"{facts.name}: its number of {task.unit}s is not known before its cache is filled"
        return self._sources[key], facts, provisional

    def subset(self, task: Task, source: Any, fields: RunFields, args: TrainingArguments) -> Subset:
        """The part of its source that a run uses; a student and its teacher share one."""
        field, rungs = size_field(fields), tuple(getattr(fields, "rungs", ()))
        choice = (field, getattr(fields, field), args.seed, holds_out(args), rungs)
        key = (id(source), *choice)
        if self._subset is None or self._subset[0] != key:
            self._subset = key, task.choose(source, *choice)
        return self._subset[1]

    def checkpoint(self, where: str, task: Task) -> Checkpoint:
        """The checkpoint in a folder or a Hub repository.

        Raises:
            InputError: See `identify`; where guesses are allowed, one that cannot be reached is returned as such.
        """
        key = (where, task.name)
        if key not in self._checkpoints:
            try:
                self._checkpoints[key] = identify(where, task)
            except InputError as error:
                if not self.guess:
                    raise
                return Checkpoint(Path(where), where, where, {}, None, unreachable=str(error))
        return self._checkpoints[key]

    def checkpoint_inputs(self, task: Task, checkpoint: Checkpoint, fields: FinetuneFields) -> Inputs:
        """The inputs of a checkpoint that is fine-tuned by `fields`.

        Raises:
            InputError: See `Task.checkpoint_inputs` and `Task.inputs`.
        """
        if not checkpoint.is_reachable:
            return task.guess_checkpoint(checkpoint.name, fields)[0]
        key = (task.name, checkpoint.folder)
        if key not in self._inputs:
            self._inputs[key] = task.checkpoint_inputs(checkpoint.folder, self.model(task, checkpoint.folder))
        return task.inputs(fields, self._inputs[key])

    def model(self, task: Task, folder: Path) -> PreTrainedModel:
        """The trained model of a folder; copy it before it is changed."""
        if self._model is None or self._model[0] != folder:
            self._model = folder, task.load_model(folder)
        return self._model[1]

    def teacher(self, task: Task, folder: Path) -> Teacher:
        """The trained model of a folder as a teacher."""
        if self._teacher is None or self._teacher[0] != folder:
            self._teacher = folder, Teacher(task.load_model(folder), **task.teacher_terms(folder))
        return self._teacher[1]

    def teacher_flops(
        self, task: Task, fields: RunFields, checkpoint: Checkpoint, student: PreTrainedModel, inputs: Inputs
    ) -> float:
        """FLOPs of a trained teacher's prediction for one example of the student's; 0 where that is not known.

        Raises:
            InputError: The two do not fit together.
        """
        if not checkpoint.is_reachable:
            _, guessed = task.guess_checkpoint(checkpoint.name, fields)
            return 0.0 if guessed is None else models.flops_of(guessed, inputs.blank(1, guessed.device))
        key = (checkpoint.folder, id(student))
        if key not in self._teacher_flops:
            teacher = self.teacher(task, checkpoint.folder)
            adapted = teacher.adapt_to(student, **input_settings(task.processor(student, inputs)))
            self._teacher_flops[key] = models.flops_of(adapted, inputs.blank(1, teacher.model.device))
        return self._teacher_flops[key]

    def count(
        self,
        task: Task,
        fields: RunFields,
        source: Any,
        inputs: Inputs,
        start: PretrainFields | Checkpoint,
    ) -> CountedModel:
        """Count a model as it begins training.

        Args:
            task: Builds it.
            fields: Of the run.
            source: Gives the outputs of the model.
            inputs: Of the model.
            start: The fields by which it is built, on the meta device; or the checkpoint from which it is loaded.

        Raises:
            InputError: There is no such model, or it does not fit the source.
        """
        if isinstance(start, Checkpoint):
            identity = start.name if start.unreachable else str(start.folder)
        else:
            values = dataclasses.asdict(start)
            of_model = {name: value for name, value in values.items() if name not in _NOT_OF_THE_MODEL}
            identity = json.dumps(of_model, default=str)
        part = (getattr(fields, "train_part", None), json.dumps(task.rule(fields)))
        key = (task.name, identity, inputs, len(source.class_names), *part)
        if key not in self._counted:
            self._counted[key] = self._count(task, fields, source, inputs, start)
        return self._counted[key]

    def _count(
        self, task: Task, fields: RunFields, source: Any, inputs: Inputs, start: PretrainFields | Checkpoint
    ) -> CountedModel:
        name = None
        if isinstance(start, PretrainFields):
            name = start.model
            with torch.device("meta"):
                model = task.build(name, start, source, seed=0)
        elif start.unreachable:
            model = task.guess_checkpoint(start.name, fields)[1]
        else:
            name = start.name
            model = copy.deepcopy(self.model(task, start.folder))
            if not isinstance(source, GuessedSource):
                model = task.adapt(model, fields, source, seed=0)
        if model is None:
            return CountedModel(None, {}, None, 0.0, 0.0)
        n_params, configuration = models.count_params(model), task.configuration(model)
        is_guess = isinstance(source, GuessedSource) or name is None
        n_outputs = None if is_guess else len(source.class_names)
        try:
            forward = models.try_forward(model, inputs.blank(1, model.device), n_outputs, name or start.name)
        except NotImplementedError:
            # The meta device lacks an operation of this model: it is counted with its weights.
            real = task.build(start.model, start, source, seed=0)
            forward = models.try_forward(real, inputs.blank(1, real.device), n_outputs, start.model)
        trained = model
        if isinstance(fields, FinetuneFields):
            with torch.device(model.device):
                trained = task.limit_training(model, fields, seed=0)
        # Low-rank weights, which wrap the model, are counted with it.
        training = task.training_flops(trained, inputs, forward if trained is model else None)
        return CountedModel(trained, configuration, n_params, forward, training)


def size_field(fields: RunFields) -> str:
    """The field that says how much of its source a run uses: n_pretrain or n_finetune."""
    return "n_pretrain" if isinstance(fields, PretrainFields) else "n_finetune"


def _source_key(task: Task, fields: RunFields, inputs: Inputs) -> tuple:
    """The kind of source and the arguments that open it."""
    return (task.data, *task.source_arguments(fields, inputs, getattr(fields, size_field(fields))).items())
