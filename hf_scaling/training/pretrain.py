"""Pretraining: a student with random weights on an upstream source, plain or taught."""

import dataclasses
import difflib
from pathlib import Path
from typing import Any

import timm

from hf_scaling import models
from hf_scaling.distillation import DistillationArguments, Teacher
from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec
from hf_scaling.subsets import Source
from hf_scaling.tasks import STATISTICS, Chosen, ImageClassification
from hf_scaling.training.checkpoint import identify
from hf_scaling.training.configuration import PretrainFields, describe
from hf_scaling.training.environment import check_processes, quiet_libraries
from hf_scaling.training.folder import RunFolder
from hf_scaling.training.row import describe_distillation
from hf_scaling.training.rule import holds_out
from hf_scaling.training.run import Run, Taught
from hf_scaling.training.specification import Images, check_schedule, pretrain_spec
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
    task = ImageClassification()
    source = (warm or Warm()).source(task, fields, fields.image_size, fields.n_pretrain)
    model = _build(fields.model, fields, source, args.seed)
    chosen = task.choose(source, "n_pretrain", fields.n_pretrain, args.seed, holds_out(args))
    setting = _Setting(fields, args, source, chosen)
    run = setting.run(fields.model, model, Path(args.output_dir) if args.output_dir else None)
    return run.folder.path, run.execute()


@dataclasses.dataclass(frozen=True)
class _Setting:
    """What a student shares with the teacher that is trained for it: the images and the rule."""

    fields: PretrainFields
    args: DistillationArguments
    source: Source
    chosen: Chosen

    def run(self, name: str, model, output_dir: Path | None) -> Run:
        """The run of the student."""
        if self.fields.teacher is None:
            return self._plain_run(name, model, output_dir)
        if is_architecture(self.fields.teacher):
            return self._taught_by_family(name, model, output_dir)
        return self._taught_by_checkpoint(name, model, output_dir)

    def _plain_run(self, name: str, model, output_dir: Path | None) -> Run:
        return self._make(self._spec(name, model, None), model, output_dir, None, f"plain {name}")

    def _taught_by_family(self, name: str, model, output_dir: Path | None) -> Run:
        """By a teacher trained first, with the same rule on the same images, in the folder `teacher`."""
        family = self.fields.teacher
        plain = _Setting(dataclasses.replace(self.fields, teacher=None), self.args, self.source, self.chosen)
        teacher_model = _build(family, self.fields, self.source, self.args.seed)
        teacher_spec = plain._spec(family, teacher_model, None)
        spec = self._spec(name, model, teacher_spec.run_id)
        folder = _folder(output_dir, spec)

        def teach() -> Taught:
            of_teacher = plain._make(teacher_spec, teacher_model, folder / "teacher", None, f"teacher {family}")
            row = of_teacher.execute()
            columns = {"teacher_n_params": row["n_params"], "teacher_n_pretrain": row["n_pretrain"]}
            return Taught(Teacher.from_pretrained(folder / "teacher"), columns)

        return self._make(spec, model, folder, teach, f"student {name}")

    def _taught_by_checkpoint(self, name: str, model, output_dir: Path | None) -> Run:
        """By a trained model from a folder or the Hub, checked before anything is written."""
        _refuse_misspelt(self.fields.teacher)
        found = identify(self.fields.teacher)
        teacher = Teacher.from_pretrained(found.folder)
        models.name_classes(model, self.source.class_names)
        teacher.adapt_to(model, STATISTICS)
        columns = {
            "teacher_n_params": models.count_params(teacher.model),
            "teacher_n_pretrain": found.row.get("n_pretrain"),
        }
        run = self._make(
            self._spec(name, model, found.id), model, output_dir, lambda: Taught(teacher, columns), f"student {name}"
        )
        run.columns["teacher"] = found.name
        return run

    def _spec(self, name: str, model, teacher_id: str | None) -> RunSpec:
        fields = dataclasses.replace(self.fields, model=name)
        images = Images.of(self.source, self.chosen)
        configuration = {"architecture": model.config.architecture, **model.config.model_args}
        return pretrain_spec(fields, self.args, images, configuration, teacher_id)

    def _make(self, spec: RunSpec, model, output_dir: Path | None, teach, label: str) -> Run:
        columns = {
            "arm": spec.arm,
            "model": spec.model["name"],
            "upstream": self.source.name,
            "teacher": spec.teacher,
            "distillation": describe_distillation(spec.distillation),
        }
        return Run(
            spec=spec,
            folder=RunFolder(_folder(output_dir, spec)),
            args=self.args,
            model=model,
            source=self.source,
            chosen=self.chosen,
            statistics=STATISTICS,
            augmentation=self.fields.augmentation,
            label=label,
            teach=teach,
            columns=columns,
            resolved=describe(dataclasses.replace(self.fields, model=spec.model["name"]), self.args),
        )


def is_architecture(name: str) -> bool:
    """Whether `name` says what to build (a family or timm name) rather than where trained weights are."""
    return not Path(name).exists() and "/" not in name and (name in models.FAMILIES or timm.is_model(name))


def _refuse_misspelt(teacher: str) -> None:
    """A bare name is no checkpoint: say which family was meant rather than look for it on the Hub."""
    if "/" in teacher or Path(teacher).exists():
        return
    near = difflib.get_close_matches(teacher, models.FAMILIES, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]}?" if near else ""
    raise InputError(f"teacher {teacher}: no family name, no folder and no Hub id (org/name){meant}")


def _build(name: str, fields: PretrainFields, source: Source, seed: int):
    return models.build_student(name, len(source.class_names), fields.image_size, fields.patch_size, seed)


def _folder(output_dir: Path | None, spec: RunSpec) -> Path:
    return Path("runs") / spec.run_id if output_dir is None else output_dir
