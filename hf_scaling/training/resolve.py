"""From the fields of a run to everything that is known of it before it is trained.

    fields, args = parse_pretrain(["--model", "vit-200k", "--n_pretrain", "2000"], None)
    run = resolve(fields, args)         # run.run_id, run.plan.train_flops, run.model (on the meta device)
    folder, row = train(run)

Recipes, grids, `--dry-run` and workers all use this one function. A run that needs another (its teacher, its
parent) holds that run, resolved too, or the checkpoint where it is trained already.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from hf_scaling import tasks
from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError, RunError
from hf_scaling.grid import PlannedRun, RunSpec
from hf_scaling.grid.schema import ClassSubset
from hf_scaling.tasks import FinetuneFields, Inputs, PretrainFields, RunFields, Subset, Task, new_model_fields
from hf_scaling.text import did_you_mean
from hf_scaling.training.config import (
    build_fields,
    changed_values,
    check_processes,
    check_selection,
    count_steps,
    holds_out,
    read_values,
    rule_of,
)
from hf_scaling.training.ladder import Rung, check_previous, rung_of
from hf_scaling.training.process_cache import CountedModel, ProcessCache, size_field
from hf_scaling.training.run_folder import Checkpoint, RunFolder, identify

_DISTILLATION = ("kind", "alpha", "temperature", "alpha_schedule")


@dataclass(frozen=True, eq=False)
class ResolvedRun:
    """Everything known of a run before it is trained.

    Attributes:
        plan: Its specification, id and costs: the part that is written as JSON.
        fields: The recipe's own fields.
        args: The TrainingArguments.
        source: The data, open.
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
    cache: ProcessCache

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

    @property
    def counted(self) -> CountedModel:
        """Its model in numbers."""
        start = _start_of(self.task, self.fields, self.parent)
        return self.cache.count(self.task, self.fields, self.source, self.inputs, start)

    @property
    def model(self) -> PreTrainedModel | None:
        """The model as it begins training, on the meta device (a given checkpoint: loaded); None if out of reach."""
        return self.counted.model

    @cached_property
    def subset(self) -> Subset:
        """The part of the source that the run uses; reads the source.

        Raises:
            InputError: The source is smaller than was asked for.
        """
        return self.cache.subset(self.task, self.source, self.fields, self.args)

    @property
    def test(self) -> Any:
        """The test part that the run is evaluated on: the source's own, or `n_eval` images of it; reads the source."""
        n_eval = self.spec.source.get("n_eval")
        return self.source.test if n_eval is None else self.source.test.sample(n_eval)

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
        cache: ProcessCache | None = None,
        **arguments: Any,
    ) -> "ResolvedRun":
        """A run that another process resolved; nothing is resolved again.

        Args:
            values: What `to_dict` gave.
            folder_of: run_id -> folder of a trained run; needed where the teacher or the parent is one.
            cache: What this process keeps between runs.
            **arguments: Fields and TrainingArguments to set that do not change the weights, such as output_dir.

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
            given["previous_rung" if stage == "pretrain" else "checkpoint"] = str(folder_of(plan.parent))
        fields, args = build_fields(stage, given)
        task = tasks.find(fields.task)
        if stage == "pretrain":
            teacher = None if fields.teacher is None else identify(fields.teacher, task)
            parent = None if fields.previous_rung is None else RunFolder(fields.previous_rung)
            inputs = task.inputs(fields)
        else:
            teacher, parent = None, None if fields.is_new_model else identify(fields.checkpoint, task)
            inputs = (
                task.inputs(new_model_fields(task, fields))
                if parent is None
                else cache.checkpoint_inputs(task, parent, fields)
            )
        run = cls(plan, fields, args, cache.open_source(task, fields, inputs), inputs, teacher, parent, cache)
        _check_unchanged(run)
        return run


def resolve(
    fields: RunFields,
    args: DistillationArguments | None = None,
    *,
    teacher: ResolvedRun | None = None,
    parent: ResolvedRun | None = None,
    processes: int = 1,
    cache: ProcessCache | None = None,
) -> ResolvedRun:
    """Resolve a run: open its data and checkpoints, check every size, give it its id and its costs.

    A teacher given as a family name, and the previous rung of a ladder, are resolved with it.

    Args:
        fields: Of pretraining or fine-tuning, as `parse_pretrain`, `parse_finetune` or `parse_fields` read them.
        args: TrainingArguments; by default those of an empty configuration.
        teacher: The teacher, where it is a run of its own; by default `fields.teacher`.
        parent: What it fine-tunes, or the previous rung, where that is a run of its own; by default
            `fields.checkpoint` or `fields.previous_rung`.
        processes: Processes that the run will be spread over.
        cache: What this process keeps between runs, and whether sources are read and guesses are allowed.

    Raises:
        InputError: A field, a model, a source, a checkpoint or a size cannot be used; nothing is written.
    """
    check_processes()
    cache, task = cache or ProcessCache(), tasks.find(fields.task)
    if args is None:
        _, args = build_fields("pretrain" if isinstance(fields, PretrainFields) else "finetune", {"task": task.name})
    values = changed_values(fields, args)
    if processes > 1:
        # One process resolves the step of all of them.
        args = dataclasses.replace(args, per_device_train_batch_size=args.per_device_train_batch_size * processes)
    if teacher is not None:
        fields = dataclasses.replace(fields, teacher=teacher.fields.model)
    check_selection(fields, args)
    inputs, parent = _find_inputs(task, fields, parent, cache)
    if not cache.guess:
        # A model that cannot take these inputs is refused before any image is read.
        cache.count(task, fields, cache.open_source(task, fields, inputs), inputs, _start_of(task, fields, parent))
    sized = _size_data(task, fields, args, inputs, cache)
    counted = cache.count(task, fields, sized.source, inputs, _start_of(task, fields, parent))
    if isinstance(fields, PretrainFields):
        teacher = teacher or _find_teacher(task, fields, args, cache)
        if parent is None and fields.rungs:
            previous = dataclasses.replace(fields, n_pretrain=fields.rungs[-1], rungs=fields.rungs[:-1])
            parent = RunFolder(fields.previous_rung) if fields.previous_rung else resolve(previous, args, cache=cache)
    teacher_flops = 0.0
    if isinstance(teacher, ResolvedRun):
        teacher_flops = cache.count(task, teacher.fields, teacher.source, inputs, teacher.fields).forward
    elif teacher is not None:
        teacher_flops = cache.teacher_flops(task, fields, teacher, counted.model, inputs)
    rung = rung_of(fields, args, sized.examples) if getattr(fields, "decay", None) is not None else None
    steps = rung.steps if rung else count_steps(args, sized.examples[-1], fields.min_steps)
    spec = _specify(fields, args, sized, counted.configuration, steps, teacher, parent)
    steps_before = rung.start if rung else 0
    trained = (steps - steps_before) * spec.rule["batch"]
    model, arm, class_subset = _pretraining_of(fields, spec, parent)
    plan = PlannedRun(
        spec=spec,
        model=model,
        arm=arm,
        fields=values,
        teacher=teacher.run_id if isinstance(teacher, ResolvedRun) else None,
        parent=parent.run_id if isinstance(parent, ResolvedRun) else None,
        processes=processes,
        n_params=counted.n_params,
        train_flops=trained * (counted.training + teacher_flops),
        eval_flops=sized.n_test * (counted.forward + teacher_flops),
        source_parts=sized.parts,
        provisional=sized.provisional or _provisional(teacher) or _provisional(parent),
        steps_before=steps_before,
        class_subset=class_subset,
    )
    return ResolvedRun(plan, fields, args, sized.source, inputs, teacher, parent, cache)


def resolve_runs(runs: Sequence[Mapping[str, Any]], cache: ProcessCache) -> list[PlannedRun]:
    """Resolve the runs of a grid.

    Args:
        runs: stage, fields, processes, and teacher and parent as positions in the list; each run after those it needs.
        cache: What the process keeps between runs.

    Returns:
        Their plans in the order of `runs`, equal runs once; `fields` are the grid's, without the teacher and the
        parent that are runs.

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
    plans: dict[str, PlannedRun] = {}
    for resolved_run in resolved:
        plans.setdefault(resolved_run.run_id, resolved_run.plan)
    return list(plans.values())


def _find_inputs(
    task: Task, fields: RunFields, parent: ResolvedRun | None, cache: ProcessCache
) -> tuple[Inputs, ResolvedRun | Checkpoint | None]:
    """The inputs of the model, and the checkpoint that it starts from where that is given by its fields."""
    for name in fields.learning_rates or ():
        if not task.is_architecture(name):
            raise InputError(f"learning_rates: {name} is not an architecture{did_you_mean(name, task.families)}")
    if isinstance(fields, PretrainFields):
        if not task.is_architecture(fields.model) and Path(fields.model).exists():
            raise InputError(
                f"model {fields.model}: a folder is not an architecture; for a trained teacher write ./{fields.model}"
            )
        return task.inputs(fields), parent
    if fields.is_new_model:
        if parent is not None or fields.checkpoint is not None:
            raise InputError(f"model {fields.model}: random weights and a checkpoint exclude each other: give one")
        if not task.is_architecture(fields.model):
            raise InputError(f"model {fields.model}: not an architecture{did_you_mean(fields.model, task.families)}")
        return task.inputs(new_model_fields(task, fields)), None
    if parent is not None:
        return task.inputs(fields, parent.inputs), parent
    if fields.checkpoint is None:
        raise InputError(
            "checkpoint: give --checkpoint, the run folder or Hub id of the model to fine-tune, "
            "or --model, an architecture, to train without pre-training"
        )
    checkpoint = cache.checkpoint(fields.checkpoint, task)
    return cache.checkpoint_inputs(task, checkpoint, fields), checkpoint


def _find_teacher(
    task: Task, fields: PretrainFields, args: DistillationArguments, cache: ProcessCache
) -> ResolvedRun | Checkpoint | None:
    """The run of a teacher given as a family name, with the same rule on the same data; else its checkpoint."""
    name = fields.teacher
    if name is None:
        return None
    if "/" not in name and task.is_architecture(name):
        if fields.rungs:
            raise InputError("teacher: the rungs of a ladder share a trained teacher: give a folder or a Hub id")
        return resolve(dataclasses.replace(fields, model=name, teacher=None), args, cache=cache)
    if "/" not in name and not Path(name).exists():
        # Not looked for on the Hub, where no id is a bare name.
        meant = did_you_mean(name, task.families)
        raise InputError(f"teacher {name}: not a family name, a folder or a Hub id (org/name){meant}")
    return cache.checkpoint(name, task)


def _start_of(
    task: Task, fields: RunFields, parent: ResolvedRun | Checkpoint | RunFolder | None
) -> PretrainFields | Checkpoint:
    """How a model begins: the fields by which it is built, or the checkpoint from which it is loaded."""
    if isinstance(fields, PretrainFields):
        return fields
    if fields.is_new_model:
        return new_model_fields(task, fields)
    return parent.fields if isinstance(parent, ResolvedRun) else parent


@dataclass(frozen=True)
class _SizedData:
    """The data of a run in numbers.

    Attributes:
        source: The open source, or a `GuessedSource`.
        identity: The source in a specification: by content, how much of it is held out, and evaluated where not all.
        n_classes: Outputs of the model.
        n_train: Units trained on.
        examples: Examples up to each rung of the run's ladder; the last is all of them.
        n_test: Examples that it is evaluated on.
        parts: Units of the source to train on (None: any number) and to evaluate on; None where not counted.
        provisional: Why the sizes are a guess; None where they are known.
    """

    source: Any
    identity: dict[str, Any]
    n_classes: int
    n_train: int
    examples: tuple[int, ...]
    n_test: int
    parts: dict[str, int | None] | None
    provisional: str | None


def _size_data(
    task: Task, fields: RunFields, args: DistillationArguments, inputs: Inputs, cache: ProcessCache
) -> _SizedData:
    """Count the data of a run, and refuse sizes that the source does not have."""
    field, rungs, held_out = size_field(fields), getattr(fields, "rungs", ()), holds_out(args)
    n = getattr(fields, field)
    limit = getattr(fields, "n_eval", None)
    needs_size = n is None or held_out or limit is not None
    source, facts, provisional = cache.facts(task, fields, inputs, needs_size)
    is_known = facts.n_train is not None
    n_held_out = (facts.n_held_out or 0) if held_out else 0
    available = (facts.n_train if is_known else n or task.guess["n_train"]) - n_held_out
    sizes = (*rungs, available if n is None else n)
    if is_known and max(sizes) > available:
        raise InputError(f"{field}: there are only {available:,} {task.unit}s, fewer than {max(sizes):,}")
    try:
        examples = tuple(inputs.n_examples(size, facts.n_classes if is_known else 0) for size in sizes)
    except InputError as error:
        raise InputError(f"{field}: {error}") from None
    n_test = task.guess["n_test"] if facts.n_test is None else facts.n_test
    identity = {"name": facts.name, "fingerprint": facts.fingerprint, "held_out": n_held_out}
    if limit is not None and limit < n_test:
        # The weights do not depend on it, the row does: two rows of one id must not differ.
        identity["n_eval"] = n_test = limit
    return _SizedData(
        source=source,
        identity=identity,
        n_classes=facts.n_classes,
        n_train=sizes[-1],
        examples=examples,
        n_test=max(1, n_test // inputs.example_size),
        parts={"train": None if facts.is_unlimited else available, "test": facts.n_test} if is_known else None,
        provisional=provisional,
    )


def _specify(
    fields: RunFields,
    args: DistillationArguments,
    sized: _SizedData,
    configuration: Mapping[str, Any],
    steps: int,
    teacher: ResolvedRun | Checkpoint | None,
    parent: ResolvedRun | Checkpoint | RunFolder | None,
) -> RunSpec:
    """The specification: all that changes the weights, and nothing else."""
    shared = {
        "source": sized.identity,
        "n_classes": sized.n_classes,
        "rule": rule_of(args, fields),
        "steps": steps,
        "seed": args.seed,
        "parent": _id_of(parent),
        "task": fields.task,
    }
    if isinstance(fields, FinetuneFields) and fields.is_new_model:
        model = {"name": fields.model, "config": dict(configuration)}
        return RunSpec("finetune", model=model, n_pretrain=0, n_finetune=sized.n_train, **shared)
    if isinstance(fields, FinetuneFields):
        own = isinstance(parent, ResolvedRun)
        n_pretrain = parent.spec.n_pretrain if own else parent.n_pretrain(fields.n_pretrain)
        # The parent's id covers the architecture.
        return RunSpec("finetune", model={}, n_pretrain=n_pretrain, n_finetune=sized.n_train, **shared)
    spec = RunSpec(
        "pretrain",
        model={"name": fields.model, "config": dict(configuration)},
        n_pretrain=sized.n_train,
        n_finetune=0,
        distillation=None if teacher is None else {key: getattr(args, key) for key in _DISTILLATION},
        teacher=_id_of(teacher),
        **shared,
    )
    if parent is not None:
        check_previous(spec, parent.spec() if isinstance(parent, RunFolder) else parent.spec, fields.rungs)
    return spec


def _pretraining_of(
    fields: RunFields, spec: RunSpec, parent: ResolvedRun | Checkpoint | RunFolder | None
) -> tuple[str, str, int | None]:
    """Of a run, or of the run that it fine-tunes: model (or where its checkpoint is), arm and random class subset."""
    if isinstance(fields, FinetuneFields):
        if fields.is_new_model:
            return fields.model, spec.arm, None
        if isinstance(parent, ResolvedRun):
            return parent.plan.model, parent.plan.arm, parent.plan.class_subset
        return fields.checkpoint, parent.row.get("arm", "plain"), None
    classes = getattr(fields, "classes", None)
    subset = None if classes is None else ClassSubset.parse(classes)
    return fields.model, spec.arm, None if subset is None else subset.number


def _id_of(needed: ResolvedRun | Checkpoint | RunFolder | None) -> str | None:
    """What a specification calls a teacher or a parent."""
    if needed is None:
        return None
    if isinstance(needed, ResolvedRun):
        return needed.run_id
    return needed.spec().run_id if isinstance(needed, RunFolder) else needed.id


def _provisional(needed: ResolvedRun | Checkpoint | RunFolder | None) -> str | None:
    """Why a run that needs this one is a guess."""
    if isinstance(needed, ResolvedRun):
        return needed.plan.provisional
    return needed.unreachable if isinstance(needed, Checkpoint) else None


def _check_unchanged(run: ResolvedRun) -> None:
    """Refuse to train another run than the one that was resolved.

    Raises:
        RunError: The first part that has changed is named.
    """
    present = {
        "source": {"name": run.source.name, "fingerprint": run.source.fingerprint},
        "n_classes": len(run.source.class_names),
        "rule": json.loads(json.dumps(rule_of(run.args, run.fields))),
        "teacher": _id_of(run.teacher),
        "parent": _id_of(run.parent),
    }
    planned = run.spec.to_dict()
    planned["source"] = {name: planned["source"][name] for name in present["source"]}
    for name, value in present.items():
        if value != planned[name]:
            raise RunError(
                f"run {run.run_id}: its {name} is {value}, and was {planned[name]} when it was planned: plan it again"
            )
