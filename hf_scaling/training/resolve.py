"""From the fields of a run to everything that is known of it before it is trained.

    fields, args = parse_pretrain(["--model", "vit-200k", "--n_pretrain", "2000"], None)
    run = resolve(fields, args)         # run.run_id, run.plan.train_flops, run.model (on the meta device)
    folder, row = train(run)

Recipes, grids, `--dry-run` and workers all use this one function. A run that needs another (its teacher, its
parent) holds that run, resolved too, or the checkpoint where it is trained already.
"""

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Optional

import torch
from transformers import PreTrainedModel

from hf_scaling import data, models, tasks
from hf_scaling.data import SourceFacts
from hf_scaling.distillation import DistillationArguments, Teacher, input_settings
from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import PlannedRun, RunSpec
from hf_scaling.tasks import FinetuneFields, Inputs, PretrainFields, RunFields, Subset, Task
from hf_scaling.text import did_you_mean
from hf_scaling.training.config import (
    build_fields,
    changed_values,
    check_processes,
    count_steps,
    holds_out,
    read_values,
    rule_of,
)
from hf_scaling.training.ladder import Rung, check_previous, rung_of
from hf_scaling.training.run_folder import Checkpoint, RunFolder, identify

_DISTILLATION = ("kind", "alpha", "temperature", "alpha_schedule")
#: Fields of pretraining that do not change the model that is built, apart from its weights.
_NOT_OF_THE_MODEL = {"source", "n_pretrain", "teacher", "rungs", "trunk", "decay", "min_steps", "patience"}


@dataclass(frozen=True, eq=False)
class ResolvedRun:
    """Everything known of a run before it is trained.

    Attributes:
        plan: Its specification, id and costs: the part that is written as JSON.
        fields, args: The recipe's own fields and the TrainingArguments.
        source: The data, open; not read yet.
        inputs: What the inputs of the model are like, in the task's terms.
        teacher: The run that trains its teacher, the teacher's checkpoint, or None.
        parent: Of a fine-tuning, the run or the checkpoint that it fine-tunes; of a rung of a ladder, the run or
            the folder of the previous rung; else None.
        cache: What the process keeps between runs.
    """

    plan: PlannedRun
    fields: RunFields
    args: DistillationArguments
    source: Any
    inputs: Inputs
    teacher: "ResolvedRun | Checkpoint | None"
    parent: "ResolvedRun | Checkpoint | RunFolder | None"
    cache: "ProcessCache"

    @property
    def spec(self) -> RunSpec:
        """The specification that the id is the hash of."""
        return self.plan.spec

    @property
    def run_id(self) -> str:
        """The id: 16 hex digits."""
        return self.plan.run_id

    @cached_property
    def task(self) -> Task:
        """The kind of problem."""
        return tasks.find(self.fields.task)

    @cached_property
    def model(self) -> PreTrainedModel | None:
        """The model as it begins training, on the meta device (a given checkpoint: loaded); None if out of reach."""
        return self.cache.count(self.task, self.fields, self.source, self.inputs, self.parent).model

    @cached_property
    def subset(self) -> Subset:
        """The part of the source that the run uses; reads the source.

        Raises:
            InputError: The source is smaller than was asked for.
        """
        return self.cache.subset(self)

    @cached_property
    def rung(self) -> Rung | None:
        """Its place in a ladder; None without one."""
        if getattr(self.fields, "decay", None) is None:
            return None
        sizes = (*self.fields.rungs, self.spec.n_pretrain)
        return rung_of(self.fields, self.args, [self.inputs.n_examples(size) for size in sizes])

    def to_dict(self) -> dict[str, Any]:
        """The plan as JSON values; `from_dict` reads them."""
        return self.plan.to_dict()

    @classmethod
    def from_dict(
        cls,
        values: Mapping[str, Any],
        folder_of: Callable[[str], str | Path] | None = None,
        cache: Optional["ProcessCache"] = None,
        **arguments: Any,
    ) -> "ResolvedRun":
        """A run that another process resolved; nothing is resolved again.

        Args:
            values: What `to_dict` gave.
            folder_of: run_id -> folder of a trained run, for the teacher and the parent.
            cache: What this process keeps between runs.
            **arguments: Fields and TrainingArguments set on top, which must not change the weights: output_dir, ....

        Raises:
            InputError: The source or a checkpoint cannot be read.
            RunError: The source, a checkpoint or the code has changed since.
        """
        plan, cache = PlannedRun.from_dict(values), cache or ProcessCache()
        stage = plan.spec.stage
        given = {**plan.fields, **arguments}
        if plan.teacher is not None:
            given["teacher"] = str(folder_of(plan.teacher))
        if plan.parent is not None:
            given["trunk" if stage == "pretrain" else "checkpoint"] = str(folder_of(plan.parent))
        fields, args = build_fields(stage, given)
        task = tasks.find(fields.task)
        if stage == "pretrain":
            teacher = None if fields.teacher is None else identify(fields.teacher, task)
            parent = None if fields.trunk is None else RunFolder(fields.trunk)
            inputs = task.inputs(fields)
        else:
            teacher, parent = None, identify(fields.checkpoint, task)
            inputs = task.inputs(fields, task.checkpoint_inputs(parent.folder, cache.model(task, parent.folder)))
        source = cache.open_source(task, fields, inputs)
        run = cls(plan, fields, args, source, inputs, teacher, parent, cache)
        _check_unchanged(run)
        return run


def resolve(
    fields: RunFields,
    args: DistillationArguments | None = None,
    *,
    teacher: ResolvedRun | None = None,
    parent: ResolvedRun | None = None,
    processes: int = 1,
    cache: Optional["ProcessCache"] = None,
) -> ResolvedRun:
    """Resolve a run: open its data and checkpoints, check every size, give it its id and its costs.

    A teacher given as a family name, and the previous rung of a ladder, are resolved with it.

    Args:
        fields: Of pretraining or fine-tuning, as `parse_pretrain`, `parse_finetune` or `parse_fields` read them.
        args: TrainingArguments; by default those of an empty configuration.
        teacher: The run that trains its teacher, where that is a run of its own.
        parent: The run that it fine-tunes, or of the previous rung, where that is a run of its own.
        processes: Processes that the run will be spread over.
        cache: What this process keeps between runs, and whether sources are read and guesses are allowed.

    Raises:
        InputError: A field, a model, a source, a checkpoint or a size cannot be used; nothing is written.
    """
    check_processes()
    cache = cache or ProcessCache()
    if args is None:
        _, args = build_fields("pretrain" if isinstance(fields, PretrainFields) else "finetune", {})
    if processes > 1:
        # One process resolves the step of all of them.
        args = dataclasses.replace(args, per_device_train_batch_size=args.per_device_train_batch_size * processes)
    resolve_stage = _resolve_pretrain if isinstance(fields, PretrainFields) else _resolve_finetune
    run = resolve_stage(fields, args, teacher, parent, cache)
    return dataclasses.replace(run, plan=dataclasses.replace(run.plan, processes=processes))


def resolve_runs(runs: Sequence[Mapping[str, Any]], cache: "ProcessCache") -> list[PlannedRun]:
    """Resolve the runs of a grid.

    Args:
        runs: stage, fields, processes, and teacher and parent as positions in the list; each run after those it needs.
        cache: What the process keeps between runs.

    Returns:
        Their plans, equal runs once; `fields` are the grid's, without the teacher and the parent that are runs.

    Raises:
        InputError: A field, a model, a source, a checkpoint or a size that cannot be used; the stage is named.
    """
    resolved: list[ResolvedRun] = []
    for run in runs:
        needed = {name: None if run[name] is None else resolved[run[name]] for name in ("teacher", "parent")}
        try:
            values = read_values(run["stage"], run["fields"])
            fields, args = build_fields(run["stage"], values)
            resolved_run = resolve(fields, args, **needed, processes=run["processes"], cache=cache)
        except InputError as error:
            raise InputError(f"{run['stage']}: {error}") from error
        resolved.append(dataclasses.replace(resolved_run, plan=dataclasses.replace(resolved_run.plan, fields=values)))
    return list({run.run_id: run.plan for run in reversed(resolved)}.values())[::-1]


def _resolve_pretrain(
    fields: PretrainFields,
    args: DistillationArguments,
    teacher: ResolvedRun | None,
    parent: ResolvedRun | None,
    cache: "ProcessCache",
) -> ResolvedRun:
    task = tasks.find(fields.task)
    own = fields
    if teacher is not None:
        fields = dataclasses.replace(fields, teacher=teacher.fields.model)
    _check_selection(fields, args)
    inputs = task.inputs(fields)
    sized = _size_data(task, fields, args, inputs, cache)
    if not task.is_architecture(fields.model) and Path(fields.model).exists():
        raise InputError(
            f"model {fields.model}: a folder, not an architecture; as a trained teacher write ./{fields.model}"
        )
    counted = cache.count(task, fields, sized.source, inputs)
    if teacher is None and fields.teacher is not None:
        teacher = _find_teacher(task, fields, args, counted.model, cache)
    if parent is None and fields.rungs:
        parent = _find_previous_rung(fields, args, cache)
    teacher_id, teacher_flops = _cost_of_teacher(fields, teacher, counted.model, inputs, cache)
    in_ladder = fields.decay is not None
    rung = rung_of(fields, args, sized.examples) if in_ladder else None
    previous = parent.spec() if isinstance(parent, RunFolder) else parent.spec if parent is not None else None
    spec = RunSpec(
        stage="pretrain",
        model={"name": fields.model, "config": counted.configuration},
        source=sized.identity,
        n_pretrain=sized.n_train,
        n_finetune=0,
        n_classes=sized.n_classes,
        rule=rule_of(args, fields),
        steps=rung.steps if rung else count_steps(args, sized.examples[-1], fields.min_steps),
        seed=args.seed,
        distillation=None if teacher is None else {key: getattr(args, key) for key in _DISTILLATION},
        teacher=teacher_id,
        parent=previous and previous.run_id,
        task=fields.task,
    )
    if previous is not None:
        check_previous(spec, previous, fields.rungs)
    plan = _plan(spec, fields.model, spec.arm, changed_values(own, args), counted, sized, teacher_flops, rung)
    return _resolved(plan, fields, args, sized, inputs, teacher, parent, cache)


def _find_teacher(
    task: Task, fields: PretrainFields, args: DistillationArguments, student: PreTrainedModel, cache: "ProcessCache"
) -> ResolvedRun | Checkpoint:
    """The run of a teacher given as a family name, with the same rule on the same data; else its checkpoint."""
    name = fields.teacher
    if "/" not in name and task.is_architecture(name):
        if fields.rungs:
            raise InputError("teacher: the rungs of a ladder share a trained teacher: give a folder or a Hub id")
        return resolve(dataclasses.replace(fields, model=name, teacher=None), args, cache=cache)
    if "/" not in name and not Path(name).exists():
        # Not looked for on the Hub, where no id is a bare name.
        meant = did_you_mean(name, task.families)
        raise InputError(f"teacher {name}: not a family name, a folder or a Hub id (org/name){meant}")
    return cache.checkpoint(name, task)


def _find_previous_rung(
    fields: PretrainFields, args: DistillationArguments, cache: "ProcessCache"
) -> ResolvedRun | RunFolder:
    if fields.trunk is not None:
        return RunFolder(fields.trunk)
    rungs = fields.rungs
    previous = dataclasses.replace(fields, n_pretrain=rungs[-1], rungs=rungs[:-1])
    return resolve(previous, args, cache=cache)


def _cost_of_teacher(
    fields: PretrainFields,
    teacher: ResolvedRun | Checkpoint | None,
    student: PreTrainedModel,
    inputs: Inputs,
    cache: "ProcessCache",
) -> tuple[str | None, float]:
    """The teacher's id, and FLOPs of its predictions for one example.

    Raises:
        InputError: A trained teacher that does not fit the student.
    """
    task = tasks.find(fields.task)
    if teacher is None:
        return None, 0.0
    if isinstance(teacher, ResolvedRun):
        return teacher.run_id, cache.count(task, teacher.fields, teacher.source, inputs).forward
    if not teacher.is_reachable:
        _, guessed = task.guess_checkpoint(teacher.name, fields)
        return teacher.id, 0.0 if guessed is None else models.flops_of(guessed, inputs.blank(1, guessed.device))
    return teacher.id, cache.teacher_flops(task, teacher, student, inputs)


def _resolve_finetune(
    fields: FinetuneFields,
    args: DistillationArguments,
    teacher: None,
    parent: ResolvedRun | None,
    cache: "ProcessCache",
) -> ResolvedRun:
    task = tasks.find(fields.task)
    _check_selection(fields, args)
    if parent is None:
        if fields.checkpoint is None:
            raise InputError("checkpoint: give --checkpoint, the run folder or Hub id of the model to fine-tune")
        parent = cache.checkpoint(fields.checkpoint, task)
        parent_id, n_pretrain = parent.id, parent.n_pretrain(fields.n_pretrain)
        name, arm = fields.checkpoint, parent.row.get("arm", "plain")
        inputs = cache.checkpoint_inputs(task, parent, fields)
    else:
        parent_id, n_pretrain = parent.run_id, parent.spec.n_pretrain
        name, arm = parent.plan.model, parent.plan.arm
        inputs = task.inputs(fields, parent.inputs)
    sized = _size_data(task, fields, args, inputs, cache)
    counted = cache.count(task, fields, sized.source, inputs, parent)
    spec = RunSpec(
        stage="finetune",
        # The parent's id covers the architecture.
        model={},
        source=sized.identity,
        n_pretrain=n_pretrain,
        n_finetune=sized.n_train,
        n_classes=sized.n_classes,
        rule=rule_of(args, fields),
        steps=count_steps(args, sized.examples[-1], fields.min_steps),
        seed=args.seed,
        parent=parent_id,
        task=fields.task,
    )
    plan = _plan(spec, name, arm, changed_values(fields, args), counted, sized)
    return _resolved(plan, fields, args, sized, inputs, None, parent, cache)


def _check_selection(fields: PretrainFields | FinetuneFields, args: DistillationArguments) -> None:
    """Refuse what compares on a validation part where none is held out.

    Raises:
        InputError: The missing arguments are named.
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


@dataclass(frozen=True)
class _SizedData:
    """The data of a run in numbers.

    Attributes:
        source: The open source, or a `GuessedSource`.
        identity: The source in a specification: by content, and how much of it is held out.
        n_classes: Outputs of the model.
        n_train: Units trained on.
        examples: Examples up to each rung of the run's ladder; the last is all of them.
        n_test: Examples that it is evaluated on.
        provisional: Why the sizes are a guess; None where they are known.
    """

    source: Any
    identity: dict[str, Any]
    n_classes: int
    n_train: int
    examples: tuple[int, ...]
    n_test: int
    provisional: str | None


def _size_data(
    task: Task, fields: RunFields, args: DistillationArguments, inputs: Inputs, cache: "ProcessCache"
) -> _SizedData:
    """Count the data of a run, and refuse sizes that the source does not have."""
    field, rungs, held_out = _size_field(fields), getattr(fields, "rungs", ()), holds_out(args)
    n = getattr(fields, field)
    source, facts, provisional = cache.facts(task, fields, inputs, needs_size=n is None or held_out)
    n_all = facts.n_train if facts.n_train is not None else n or task.guess["n_train"]
    n_held_out = (facts.n_held_out or 0) if held_out else 0
    n_train = n_all - n_held_out if n is None else n
    if facts.n_train is not None:
        for size in (*rungs, n_train):
            if size > n_all - n_held_out:
                raise InputError(f"{field}: there are only {n_all - n_held_out:,} {task.unit}s, fewer than {size:,}")
    n_classes = facts.n_classes if facts.n_train is not None else 0
    try:
        examples = tuple(inputs.n_examples(size, n_classes) for size in (*rungs, n_train))
    except InputError as error:
        raise InputError(f"{field}: {error}") from None
    n_test = task.guess["n_test"] if facts.n_test is None else facts.n_test
    identity = {"name": facts.name, "fingerprint": facts.fingerprint, "held_out": n_held_out}
    n_test_examples = max(1, n_test // inputs.example_size)
    return _SizedData(source, identity, facts.n_classes, n_train, examples, n_test_examples, provisional)


def _size_field(fields: RunFields) -> str:
    return "n_pretrain" if isinstance(fields, PretrainFields) else "n_finetune"


def _plan(
    spec: RunSpec,
    model: str,
    arm: str,
    fields: Mapping[str, Any],
    counted: "CountedModel",
    sized: _SizedData,
    teacher_flops: float = 0.0,
    rung: Rung | None = None,
) -> PlannedRun:
    """The specification with its costs."""
    steps_before = rung.start if rung else 0
    examples = (spec.steps - steps_before) * spec.rule["batch"]
    return PlannedRun(
        spec=spec,
        model=model,
        arm=arm,
        fields=fields,
        n_params=counted.n_params,
        train_flops=examples * (counted.training + teacher_flops),
        eval_flops=sized.n_test * (counted.forward + teacher_flops),
        steps_before=steps_before,
    )


def _resolved(
    plan: PlannedRun,
    fields: RunFields,
    args: DistillationArguments,
    sized: _SizedData,
    inputs: Inputs,
    teacher: ResolvedRun | Checkpoint | None,
    parent: ResolvedRun | Checkpoint | RunFolder | None,
    cache: "ProcessCache",
) -> ResolvedRun:
    """The run with the ids of the runs that it needs, and why it is provisional, if it is."""
    needed = {
        name: run.run_id for name, run in (("teacher", teacher), ("parent", parent)) if isinstance(run, ResolvedRun)
    }
    reasons = [run.plan.provisional for run in (teacher, parent) if isinstance(run, ResolvedRun)]
    reasons += [run.unreachable for run in (teacher, parent) if isinstance(run, Checkpoint)]
    provisional = sized.provisional or next((reason for reason in reasons if reason), None)
    plan = dataclasses.replace(plan, **needed, provisional=provisional)
    return ResolvedRun(plan, fields, args, sized.source, inputs, teacher, parent, cache)


def _check_unchanged(run: ResolvedRun) -> None:
    """Refuse to train another run than the one that was resolved.

    Raises:
        RunError: The first part that has changed is named.
    """
    teacher, parent = run.teacher, run.parent
    present = {
        "source": (run.source.name, run.source.fingerprint),
        "n_classes": len(run.source.class_names),
        "rule": json.loads(json.dumps(rule_of(run.args, run.fields))),
        "teacher": None if teacher is None else teacher.id,
        "parent": None if parent is None else parent.spec().run_id if isinstance(parent, RunFolder) else parent.id,
    }
    spec = run.spec.to_dict()
    spec["source"] = (spec["source"]["name"], spec["source"]["fingerprint"])
    for name, value in present.items():
        if value != spec[name]:
            raise RunError(
                f"run {run.run_id}: its {name} is {value} and was {spec[name]} when the run was planned: plan it again"
            )


@dataclass(frozen=True)
class GuessedSource:
    """Stands for a source that cannot be reached."""

    name: str
    class_names: Sequence[str]
    fingerprint: str = "unknown"
    end_id: int = 0


@dataclass(frozen=True)
class CountedModel:
    """A model in numbers.

    Attributes:
        model: As it begins training; None where the checkpoint cannot be reached.
        configuration: Its architecture and arguments.
        n_params: Parameters; None where it is not known.
        forward: FLOPs of a prediction for one example.
        training: FLOPs of training on one example.
    """

    model: PreTrainedModel | None
    configuration: dict[str, Any]
    n_params: int | None
    forward: float
    training: float


class ProcessCache:
    """What a process keeps between runs: open sources, trained checkpoints, counted models.

    Args:
        fill: Read every source once into its cache on disk, so that all sizes are known and checked.
        guess: Where a source or a checkpoint cannot be reached, continue with guessed sizes; the plans of such runs
            are provisional.
    """

    def __init__(self, fill: bool = True, guess: bool = False):
        self.fill, self.guess = fill, guess
        self._sources: dict[tuple, Any] = {}
        self._facts: dict[tuple, SourceFacts] = {}
        self._unreachable: dict[tuple, str] = {}
        self._checkpoints: dict[tuple[str, str], Checkpoint] = {}
        self._inputs: dict[tuple[str, Path], Inputs] = {}
        self._counted: dict[tuple, CountedModel] = {}
        self._teacher_flops: dict[tuple, float] = {}
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
        key = self._source_key(task, fields, inputs)
        if key not in self._sources:
            self._sources[key] = data.OPENERS[key[0]](**dict(key[1:]))
        return self._sources[key]

    def facts(
        self, task: Task, fields: RunFields, inputs: Inputs, needs_size: bool
    ) -> tuple[Any, SourceFacts, str | None]:
        """The source of `fields`, its sizes, and why they are a guess (None where they are known).

        Args:
            needs_size: Whether the run cannot be resolved without the size of the source.

        Raises:
            InputError: The source cannot be reached, and no guess is allowed.
        """
        key = self._source_key(task, fields, inputs)
        facts = self._facts.get(key)
        if facts is None or (facts.n_train is None and needs_size and not self.guess):
            try:
                source = self.open_source(task, fields, inputs)
                facts = SourceFacts.of(source, self.fill or (needs_size and not self.guess))
            except InputError as error:
                if not self.guess:
                    raise
                arguments = dict(key[1:])
                classes = arguments.get("classes")
                n_classes = classes if isinstance(classes, int) else task.guess["n_classes"]
                facts = SourceFacts(arguments["name"], "unknown", n_classes, None, None, None)
                self._sources[key] = GuessedSource(facts.name, [str(label) for label in range(n_classes)])
                self._unreachable[key] = str(error)
            self._facts[key] = facts
        provisional = self._unreachable.get(key)
        if provisional is None and facts.n_train is None and needs_size:
            provisional = f"{facts.name}: its number of {task.unit}s is not known before its cache is filled"
        return self._sources[key], facts, provisional

    def _source_key(self, task: Task, fields: RunFields, inputs: Inputs) -> tuple:
        arguments = task.source_arguments(fields, inputs, getattr(fields, _size_field(fields)))
        return (task.data, *arguments.items())

    def subset(self, run: ResolvedRun) -> Subset:
        """The part of its source that a run uses; a student and its teacher share one."""
        fields, field = run.fields, _size_field(run.fields)
        rungs = tuple(getattr(fields, "rungs", ()))
        chosen = (field, getattr(fields, field), run.args.seed, holds_out(run.args), rungs)
        key = (id(run.source), *chosen)
        if self._subset is None or self._subset[0] != key:
            self._subset = key, run.task.choose(run.source, *chosen)
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

    def checkpoint_inputs(self, task: Task, parent: Checkpoint, fields: FinetuneFields) -> Inputs:
        """The inputs of a checkpoint that is fine-tuned by `fields`."""
        if not parent.is_reachable:
            return task.guess_checkpoint(parent.name, fields)[0]
        key = (task.name, parent.folder)
        if key not in self._inputs:
            self._inputs[key] = task.checkpoint_inputs(parent.folder, self.model(task, parent.folder))
        return task.inputs(fields, self._inputs[key])

    def model(self, task: Task, folder: Path) -> PreTrainedModel:
        """The trained model of a folder; many fine-tunings in a row start from the same one, so the last is kept.

        Copy it before it is changed.
        """
        if self._model is None or self._model[0] != folder:
            self._model = folder, task.load_model(folder)
        return self._model[1]

    def teacher(self, task: Task, folder: Path) -> Teacher:
        """The trained model of a folder as a teacher; the last is kept."""
        if self._teacher is None or self._teacher[0] != folder:
            self._teacher = folder, Teacher(task.load_model(folder), **task.teacher_terms(folder))
        return self._teacher[1]

    def teacher_flops(self, task: Task, checkpoint: Checkpoint, student: PreTrainedModel, inputs: Inputs) -> float:
        """FLOPs of a trained teacher's prediction for one example of the student's.

        Raises:
            InputError: The two do not fit together.
        """
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
        parent: ResolvedRun | Checkpoint | RunFolder | None = None,
    ) -> CountedModel:
        """Count a model as it begins training: built on the meta device, or loaded where it is a given checkpoint."""
        part = getattr(fields, "train_part", "all")
        upstream = parent.fields if isinstance(parent, ResolvedRun) else fields
        if isinstance(fields, FinetuneFields) and isinstance(parent, Checkpoint):
            start = parent.name if not parent.is_reachable else str(parent.folder)
        else:
            values = dataclasses.asdict(upstream).items()
            start = json.dumps({name: value for name, value in values if name not in _NOT_OF_THE_MODEL}, default=str)
        key = (task.name, start, inputs, len(source.class_names), part, json.dumps(task.rule(fields)))
        if key not in self._counted:
            self._counted[key] = self._count(task, fields, upstream, source, inputs, parent)
        return self._counted[key]

    def _count(
        self, task: Task, fields: RunFields, upstream: RunFields, source: Any, inputs: Inputs, parent: Any
    ) -> CountedModel:
        if isinstance(fields, FinetuneFields) and isinstance(parent, Checkpoint):
            if parent.is_reachable:
                model = copy.deepcopy(self.model(task, parent.folder))
                if not isinstance(source, GuessedSource):
                    model = task.adapt(model, fields, source, seed=0)
            else:
                model = task.guess_checkpoint(parent.name, fields)[1]
        else:
            with torch.device("meta"):
                model = task.build(upstream.model, upstream, source, seed=0)
        if model is None:
            return CountedModel(None, {}, None, 0.0, 0.0)
        n_params, configuration = models.count_params(model), task.configuration(model)
        forward = models.flops_of(model, inputs.blank(1, model.device))
        if isinstance(fields, FinetuneFields):
            with torch.device(model.device):
                model = task.limit_training(model, fields, seed=0)
        return CountedModel(model, configuration, n_params, forward, task.training_flops(model, inputs))
