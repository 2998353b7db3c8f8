"""The runs of a grid, resolved: their ids and what they cost, without training any of them."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_scaling import data, models, tasks
from hf_scaling.data import SourceFacts
from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError
from hf_scaling.grid import PlannedRun, RunSpec
from hf_scaling.tasks import Chosen, FinetuneFields, PretrainFields, Task
from hf_scaling.training.config import count_steps, holds_out, parse_fields, rule_of
from hf_scaling.training.ladder import check_trunk, rung_of
from hf_scaling.training.run_folder import Checkpoint, identify

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


@dataclass(frozen=True)
class _Counted:
    """A model in numbers: weights, and operations an example forward and in training."""

    configuration: dict[str, Any]
    n_params: int | None
    forward: float
    training: float


@dataclass(frozen=True)
class _Given:
    """A trained checkpoint that is none of the grid's."""

    checkpoint: Checkpoint
    inputs: Any
    counted: _Counted


class Planner:
    """Resolves written runs in order; opens each source, and looks at each checkpoint and each model size, once.

    Args:
        fill: Fill the sources' caches, so that every size is checked.
        guess: Go on with a guess, and mark the runs as provisional, where a source or a checkpoint cannot be reached.
    """

    def __init__(self, fill: bool, guess: bool):
        self.fill, self.guess = fill, guess
        self._facts: dict[tuple, SourceFacts] = {}
        self._given: dict[tuple, _Given] = {}
        self._counted: dict[tuple, _Counted] = {}
        self._unreachable: dict[tuple, str] = {}
        self._trouble: str | None = None

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The sources looked at: what they were opened with, and what was found."""
        return [
            {"data": key[0], "arguments": dict(key[1:]), "facts": dataclasses.asdict(facts)}
            for key, facts in self._facts.items()
        ]

    @property
    def checkpoints(self) -> list[str]:
        """The trained checkpoints looked at, as they are written."""
        return list(dict.fromkeys(key[0] for key in self._given))

    def plan(self, runs: Sequence[Mapping[str, Any]]) -> list[PlannedRun]:
        """Resolve runs, each standing after those that it needs (see `grid.asking.to_json`).

        Raises:
            InputError: A field, a model, a source, a checkpoint or a size that cannot be used.
        """
        resolved: list[PlannedRun] = []
        for run in runs:
            of_stage = self._pretrain if run["stage"] == "pretrain" else self._finetune
            needed = {name: None if run[name] is None else resolved[run[name]] for name in ("teacher", "parent")}
            self._trouble = next((each.provisional for each in needed.values() if each), None)
            try:
                resolved.append(of_stage(run, **needed))
            except InputError as error:
                raise InputError(f"{run['stage']}: {error}") from error
        return list({each.run_id: each for each in reversed(resolved)}.values())[::-1]

    def _pretrain(self, run: Mapping[str, Any], teacher: PlannedRun | None, parent: PlannedRun | None) -> PlannedRun:
        task, fields, args = self._parse(run)
        if teacher is not None:
            fields = dataclasses.replace(fields, teacher=teacher.fields["model"])
        check_schedule(fields, args)
        inputs = task.inputs(fields)
        data, n_test = self._data(task, fields, args, inputs, "n_pretrain", fields.rungs)
        student = self._count_student(task, fields.model, data.n_classes, fields)
        teacher_id, asking = self._teacher(task, fields, teacher, data)
        spec = pretrain_spec(fields, args, data, student.configuration, teacher_id, self._trunk_id(fields, parent))
        steps_before = 0
        if fields.rungs:
            steps_before = rung_of(fields, args, data.examples).start
            if parent is not None:
                check_trunk(spec, parent.spec, fields.rungs)
        who = {"model": fields.model, "arm": spec.arm, "teacher": teacher and teacher.run_id}
        who["parent"] = parent and parent.run_id
        return self._planned(run, spec, who, student, task.n_examples(n_test, inputs), asking, steps_before)

    def _teacher(
        self, task: Task, fields: PretrainFields, planned: PlannedRun | None, data: Data
    ) -> tuple[str | None, float]:
        """The teacher's id, and the operations of asking it about one example."""
        if fields.teacher is None:
            return None, 0.0
        if planned is not None:
            return planned.run_id, self._count_student(task, fields.teacher, data.n_classes, fields).forward
        given = self._look_at(task, fields.teacher, fields)
        return given.checkpoint.id, given.counted.forward

    def _finetune(self, run: Mapping[str, Any], teacher: None, parent: PlannedRun | None) -> PlannedRun:
        task, fields, args = self._parse(run)
        check_schedule(fields, args)
        if parent is None:
            given = self._look_at(task, fields.checkpoint, fields)
            inputs, student = given.inputs, given.counted
            parent_id, n_pretrain = given.checkpoint.id, given.checkpoint.n_pretrain(fields.n_pretrain)
            who = {"model": fields.checkpoint, "arm": given.checkpoint.row.get("arm", "plain")}
        else:
            upstream, _ = parse_fields("pretrain", parent.fields)
            inputs, student = task.inputs(upstream, fields), None
            parent_id, n_pretrain = parent.run_id, parent.spec.n_pretrain
            who = {"model": parent.model, "arm": parent.arm, "parent": parent.run_id}
        data, n_test = self._data(task, fields, args, inputs, "n_finetune")
        if student is None:
            student = self._count_student(task, upstream.model, data.n_classes, upstream, fields)
        spec = finetune_spec(fields, args, data, parent_id, n_pretrain)
        return self._planned(run, spec, who, student, task.n_examples(n_test, inputs))

    def _trunk_id(self, fields: PretrainFields, parent: PlannedRun | None) -> str | None:
        if parent is None and fields.rungs:
            raise InputError("rungs: the rung before is no run of the grid")
        return parent and parent.run_id

    def _parse(self, run: Mapping[str, Any]) -> tuple[Task, PretrainFields | FinetuneFields, DistillationArguments]:
        fields, args = parse_fields(run["stage"], run["fields"])
        if run["processes"] > 1:
            # The step of several processes, as one process would take it.
            batch = args.per_device_train_batch_size * run["processes"]
            args = dataclasses.replace(args, per_device_train_batch_size=batch)
        return tasks.find(fields.task), fields, args

    def _planned(
        self,
        run,
        spec: RunSpec,
        who: Mapping[str, Any],
        student: _Counted,
        n_test: int,
        asking: float = 0.0,
        steps_before: int = 0,
    ) -> PlannedRun:
        return PlannedRun(
            spec=spec,
            **who,
            fields=run["fields"],
            processes=run["processes"],
            n_params=student.n_params,
            train_flops=(spec.steps - steps_before) * spec.rule["batch"] * (student.training + asking),
            steps_before=steps_before,
            eval_flops=n_test * (student.forward + asking),
            provisional=self._trouble,
        )

    def _data(
        self, task: Task, fields, args: DistillationArguments, inputs: Any, field: str, rungs: Sequence[int] = ()
    ) -> tuple[Data, int]:
        """Which data a run trains on, and on how many units it is evaluated."""
        n, held_out = getattr(fields, field), holds_out(args)
        arguments = task.source_arguments(fields, inputs, n)
        facts = self._source(task, arguments, needs_size=n is None or held_out)
        n_train = (n or task.guess["n_train"]) if facts.n_train is None else facts.n_train
        n_held_out = (facts.n_held_out or 0) if held_out else 0
        for size in () if facts.n_train is None else (*rungs, n_train - n_held_out if n is None else n):
            task.check_size(field, size, n_train - n_held_out, facts.n_classes, inputs)
        n_chosen = n_train - n_held_out if n is None else n
        examples = tuple(task.n_examples(each, inputs) for each in (*rungs, n_chosen))
        data = Data(facts.name, facts.fingerprint, facts.n_classes, n_chosen, n_held_out, examples)
        return data, task.guess["n_test"] if facts.n_test is None else facts.n_test

    def _source(self, task: Task, arguments: dict[str, Any], needs_size: bool) -> SourceFacts:
        key = (task.data, *arguments.items())
        found = self._facts.get(key)
        if found is None or (found.n_train is None and needs_size and not self.guess):
            try:
                found = data.source_facts(task.data, arguments, self.fill or (needs_size and not self.guess))
            except InputError as error:
                if not self.guess:
                    raise
                found = SourceFacts(arguments["name"], "unknown", _classes_of(task, arguments), None, None, None)
                self._unreachable[key] = str(error)
            self._facts[key] = found
        if found.n_train is None and needs_size:
            self._trouble = f"{found.name}: how many {task.unit}s it has is not known before its cache is filled"
        self._trouble = self._unreachable.get(key, self._trouble)
        return found

    def _look_at(self, task: Task, where: str | None, fields: Any) -> _Given:
        if where is None:
            raise InputError("checkpoint: give a folder or a Hub id")
        key = (where, fields.task, json.dumps(task.rule(fields)), getattr(fields, "train_part", None))
        if key not in self._given:
            try:
                checkpoint = identify(where, task)
                model = task.load_model(checkpoint.folder)
                inputs = task.inputs_of(checkpoint.folder, model, fields)
                self._given[key] = _Given(checkpoint, inputs, _count(task, model, inputs, fields))
            except InputError as error:
                if not self.guess:
                    raise
                self._trouble = str(error)
                inputs, model = task.guess_checkpoint(where, fields)
                counted = _Counted({}, None, 0.0, 0.0) if model is None else _count(task, model, inputs, fields)
                return _Given(Checkpoint(Path(where), where, where, {}, None), inputs, counted)
        return self._given[key]

    def _count_student(self, task: Task, name: str, n_classes: int, upstream: Any, downstream: Any = None) -> _Counted:
        """The student of that name, built from `upstream` (of pretrain) and gone on with as `downstream` says."""
        inputs = task.inputs(upstream, downstream)
        part = getattr(downstream, "train_part", "all")
        key = (task.name, name, n_classes, repr(inputs), part, getattr(upstream, "patch_size", None))
        if key not in self._counted:
            self._counted[key] = _count(task, task.sketch(name, n_classes, upstream), inputs, downstream)
        return self._counted[key]


def _count(task: Task, model: PreTrainedModel, inputs: Any, fields: Any) -> _Counted:
    """Count a model, gone on with as `fields` (of finetune) say; None: trained from scratch."""
    n_params, forward = models.count_params(model), task.forward_flops(model, inputs)
    configuration = task.configuration(model)
    if hasattr(fields, "train_part"):
        model = task.sketch_adapted(model, fields)
    return _Counted(configuration, n_params, forward, task.training_flops(model, inputs))


def _classes_of(task: Task, arguments: Mapping[str, Any]) -> int:
    classes = arguments.get("classes")
    return classes if isinstance(classes, int) else task.guess["n_classes"]
