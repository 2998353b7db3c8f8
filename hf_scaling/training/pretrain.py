"""Pretraining: a student with random weights on an upstream source, plain or taught."""

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hf_scaling import models, tasks
from hf_scaling.distillation import DistillationArguments, Teacher, terms_of
from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.tasks import Chosen, PretrainFields, Task
from hf_scaling.training.checkpoint import identify
from hf_scaling.training.configuration import describe
from hf_scaling.training.environment import check_processes, quiet_libraries
from hf_scaling.training.folder import RunFolder
from hf_scaling.training.ladder import check_trunk, rung_of
from hf_scaling.training.row import describe_distillation
from hf_scaling.training.rule import holds_out
from hf_scaling.training.run import Run, Taught
from hf_scaling.training.specification import Data, check_schedule, pretrain_spec
from hf_scaling.training.warm import Warm


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
        teacher.adapt_to(model, **terms_of(self.task.processor(model, self._inputs)))
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
