"""The runs of a grid, resolved: their ids and what they cost, without training any of them."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from transformers import PreTrainedModel

from hf_scaling import models, subsets
from hf_scaling.distillation import DistillationArguments
from hf_scaling.errors import InputError
from hf_scaling.grid import PlannedRun, RunSpec
from hf_scaling.subsets import SourceFacts
from hf_scaling.tasks import ImageClassification
from hf_scaling.training.checkpoint import Checkpoint, identify
from hf_scaling.training.configuration import FinetuneFields, PretrainFields, parse_fields
from hf_scaling.training.row import training_flops
from hf_scaling.training.rule import holds_out
from hf_scaling.training.specification import Images, check_schedule, finetune_spec, pretrain_spec

# Where a source or checkpoint cannot be looked at and a guess is wanted: ImageNet's.
_GUESSED_CLASSES, _GUESSED_SIZE, _GUESSED_IMAGES, _GUESSED_TEST = 1_000, 224, 1_000_000, 10_000


@dataclass(frozen=True)
class _Counted:
    """A model in numbers: weights, and operations an image forward and in training."""

    configuration: dict[str, Any]
    n_params: int
    forward: float
    training: float


@dataclass(frozen=True)
class _Given:
    """A trained checkpoint that is none of the grid's."""

    checkpoint: Checkpoint
    image_size: int
    counted: _Counted


class Planner:
    """Resolves written runs in order; opens each source, and looks at each checkpoint and each model size, once.

    Args:
        fill: Fill the sources' caches, so that every size is checked.
        guess: Go on with a guess, and mark the runs as provisional, where a source or a checkpoint cannot be reached.
    """

    def __init__(self, fill: bool, guess: bool):
        self.fill, self.guess = fill, guess
        self.task = ImageClassification()
        self._facts: dict[tuple, SourceFacts] = {}
        self._given: dict[str, _Given] = {}
        self._unreachable: dict[tuple, str] = {}
        self._trouble: str | None = None

    @property
    def sources(self) -> list[dict[str, Any]]:
        """The sources looked at: what they were opened with, and what was found."""
        return [{"arguments": dict(key), "facts": dataclasses.asdict(facts)} for key, facts in self._facts.items()]

    @property
    def checkpoints(self) -> list[str]:
        """The trained checkpoints looked at, as they are written."""
        return list(self._given)

    def plan(self, runs: Sequence[Mapping[str, Any]]) -> list[PlannedRun]:
        """Resolve runs, each standing after those that it needs (see `grid.asking.to_json`).

        Raises:
            InputError: A field, a model, a source, a checkpoint or a size that cannot be used.
        """
        resolved: list[PlannedRun] = []
        for run in runs:
            of_stage = self._pretrain if run["stage"] == "pretrain" else self._finetune
            needed = run["teacher"] if run["stage"] == "pretrain" else run["parent"]
            needed = None if needed is None else resolved[needed]
            self._trouble = needed and needed.provisional
            try:
                resolved.append(of_stage(run, needed))
            except InputError as error:
                raise InputError(f"{run['stage']}: {error}") from error
        return list({each.run_id: each for each in reversed(resolved)}.values())[::-1]

    def _pretrain(self, run: Mapping[str, Any], teacher: PlannedRun | None) -> PlannedRun:
        fields, args = self._parse(run)
        if teacher is not None:
            fields = dataclasses.replace(fields, teacher=teacher.fields["model"])
        check_schedule(fields, args)
        images, n_test = self._images(fields, args, fields.image_size, "n_pretrain")
        student = _count_student(fields.model, images.n_classes, fields.image_size, fields.patch_size)
        teacher_id, asking = self._teacher(fields, teacher, images)
        spec = pretrain_spec(fields, args, images, student.configuration, teacher_id)
        who = {"model": fields.model, "arm": spec.arm, "teacher": teacher and teacher.run_id}
        return self._planned(run, spec, who, student, n_test, asking)

    def _teacher(self, fields: PretrainFields, planned: PlannedRun | None, images: Images) -> tuple[str | None, float]:
        """The teacher's id, and the operations of asking it about one image."""
        if fields.teacher is None:
            return None, 0.0
        if planned is not None:
            own = _count_student(fields.teacher, images.n_classes, fields.image_size, fields.patch_size)
            return planned.run_id, own.forward
        given = self._look_at(fields.teacher)
        return given.checkpoint.id, given.counted.forward

    def _finetune(self, run: Mapping[str, Any], parent: PlannedRun | None) -> PlannedRun:
        fields, args = self._parse(run)
        if parent is not None:
            upstream, _ = parse_fields("pretrain", parent.fields)
            images, n_test = self._images(fields, args, upstream.image_size, "n_finetune")
            student = _count_student(
                upstream.model, images.n_classes, upstream.image_size, upstream.patch_size, fields.train_part
            )
            spec = finetune_spec(fields, args, images, parent.run_id, parent.spec.n_pretrain)
            who = {"model": parent.model, "arm": parent.arm, "parent": parent.run_id}
            return self._planned(run, spec, who, student, n_test)
        given = self._look_at(fields.checkpoint)
        images, n_test = self._images(fields, args, given.image_size, "n_finetune")
        n_pretrain = given.checkpoint.n_pretrain(fields.n_pretrain)
        spec = finetune_spec(fields, args, images, given.checkpoint.id, n_pretrain)
        who = {"model": fields.checkpoint, "arm": given.checkpoint.row.get("arm", "plain")}
        return self._planned(run, spec, who, given.counted, n_test)

    def _parse(self, run: Mapping[str, Any]) -> tuple[PretrainFields | FinetuneFields, DistillationArguments]:
        fields, args = parse_fields(run["stage"], run["fields"])
        if run["processes"] > 1:
            # The step of several processes, as one process would take it.
            batch = args.per_device_train_batch_size * run["processes"]
            args = dataclasses.replace(args, per_device_train_batch_size=batch)
        return fields, args

    def _planned(
        self, run, spec: RunSpec, who: Mapping[str, Any], student: _Counted, n_test: int, asking: float = 0.0
    ) -> PlannedRun:
        return PlannedRun(
            spec=spec,
            **who,
            fields=run["fields"],
            processes=run["processes"],
            n_params=student.n_params,
            train_flops=spec.steps * spec.rule["batch"] * (student.training + asking),
            eval_flops=n_test * (student.forward + asking),
            provisional=self._trouble,
        )

    def _images(self, fields, args: DistillationArguments, image_size: int, field: str) -> tuple[Images, int]:
        """Which images a run trains on, and how many it is evaluated on."""
        n, held_out = getattr(fields, field), holds_out(args)
        arguments = self.task.source_arguments(fields, image_size, n)
        facts = self._source(arguments, needs_size=n is None or held_out)
        n_train = (n or _GUESSED_IMAGES) if facts.n_train is None else facts.n_train
        n_held_out = _held_out(n_train) if held_out else 0
        if n is not None and facts.n_train is not None:
            _check_size(field, n, n_train - n_held_out, facts.n_classes)
        n_chosen = n_train - n_held_out if n is None else n
        images = Images(facts.name, facts.fingerprint, facts.n_classes, n_chosen, n_held_out)
        return images, _GUESSED_TEST if facts.n_test is None else facts.n_test

    def _source(self, arguments: dict[str, Any], needs_size: bool) -> SourceFacts:
        key = tuple(arguments.items())
        found = self._facts.get(key)
        if found is None or (found.n_train is None and needs_size and not self.guess):
            try:
                found = subsets.source_facts(arguments, self.fill or (needs_size and not self.guess))
            except InputError as error:
                if not self.guess:
                    raise
                found = SourceFacts(arguments["name"], "unknown", _classes_of(arguments), None, None)
                self._unreachable[key] = str(error)
            self._facts[key] = found
        if found.n_train is None and needs_size:
            self._trouble = f"{found.name}: how many images it has is not known before its cache is filled"
        self._trouble = self._unreachable.get(key, self._trouble)
        return found

    def _look_at(self, where: str | None) -> _Given:
        if where is None:
            raise InputError("checkpoint: give a folder or a Hub id")
        if where not in self._given:
            try:
                checkpoint = identify(where)
                model = models.load_model(checkpoint.folder)
                if models.input_size(model) is None:
                    raise InputError(f"checkpoint {where}: its config states no image size")
                self._given[where] = _Given(checkpoint, models.input_size(model), _count(model))
            except InputError as error:
                if not self.guess:
                    raise
                self._trouble = str(error)
                return _Given(Checkpoint("", where, where, {}, None), _GUESSED_SIZE, _Counted({}, None, 0.0, 0.0))
        return self._given[where]


@functools.cache
def _count_student(
    name: str, n_classes: int, image_size: int, patch_size: int | None, train_part: str = "all"
) -> _Counted:
    model = models.sketch_student(name, n_classes, image_size, patch_size)
    if train_part == "head":
        models.freeze_backbone(model)
    return _count(model)


def _count(model: PreTrainedModel) -> _Counted:
    size = models.input_size(model)
    configuration = {
        "architecture": getattr(model.config, "architecture", None),
        **(getattr(model.config, "model_args", None) or {}),
    }
    return _Counted(
        configuration, models.count_params(model), models.forward_flops(model, size), training_flops(model, size)
    )


@functools.cache
def _held_out(n_images: int) -> int:
    _, validation = subsets.hold_out_validation(np.zeros(n_images, np.int64), seed=0)
    return len(validation)


def _check_size(field: str, n: int, n_available: int, n_classes: int) -> None:
    """Refuse a size that the subset's own choice would refuse, with its words."""
    if n_classes <= n <= n_available:
        return
    try:
        subsets.nested_subset(np.arange(n_available) % n_classes, n, seed=0)
    except InputError as error:
        raise InputError(f"{field}: {error}") from None


def _classes_of(arguments: Mapping[str, Any]) -> int:
    return arguments["classes"] if isinstance(arguments["classes"], int) else _GUESSED_CLASSES
