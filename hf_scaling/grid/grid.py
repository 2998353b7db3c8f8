"""`Grid`: a study as a YAML file writes it, checked and expanded into runs."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from hf_scaling.errors import InputError
from hf_scaling.files import read_yaml, shipped_folder
from hf_scaling.grid import resolver
from hf_scaling.grid.schema import LADDER, OF_A_NEW_MODEL, PLAIN, check
from hf_scaling.grid.spec import PlannedRun, RunSpec, WrittenRun
from hf_scaling.processes import Process
from hf_scaling.text import one_line

#: Share of a rung's steps over which its learning rate falls, where the grid does not set `decay`.
_DECAY = 0.2


@dataclass(frozen=True)
class Grid:
    """Models, amounts of data, arms, downstream sets and seeds: every combination is a run.

    Attributes:
        name: Name of the study: the file's name without its suffix.
        content: Keys and values as written (docs/runner.md lists them).
        runs: The runs, each once and after the runs it depends on: teachers before students, pretraining before
            fine-tuning.

    Example:
        >>> grid = Grid.load("demo", settings=["seeds=[0, 1]", "pretrain.learning_rate=1e-3"])
    """

    name: str
    content: Mapping[str, Any]
    runs: tuple[WrittenRun, ...]

    @classmethod
    def load(cls, path: str | Path, settings: Sequence[str] = ()) -> "Grid":
        """Read a grid from a YAML file.

        Args:
            path: The file, or the name of a shipped grid (`demo`) where no such file exists.
            settings: `KEY=VALUE` texts that replace keys of the file; a dot reaches a key inside a mapping
                (`pretrain.learning_rate=1e-3`), and the value is read as YAML.

        Raises:
            InputError: The file cannot be read, a setting is malformed, or what `from_dict` refuses; the message
                begins with the path.
        """
        path = Path(path)
        shipped = shipped_folder("recipes") / "grids" / f"{path.name}.yaml"
        if not path.is_file() and len(path.parts) == 1 and shipped.is_file():
            path = shipped
        try:
            content = read_yaml(path, "grid")
            for setting in settings:
                _replace(content, setting)
            return cls.from_dict(content, path.stem)
        except InputError as error:
            raise InputError(str(error) if str(error).startswith(f"{path}: ") else f"{path}: {error}") from None

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], name: str = "grid") -> "Grid":
        """Build a grid from its keys and values.

        Args:
            content: Keys and values as YAML gives them (docs/runner.md lists them).
            name: Name of the study.

        Raises:
            InputError: Unknown keys (the nearest known key is named), empty lists, values of the wrong kind, or
                overrides that match no run. Fields of the recipes and sizes beyond the source are checked by `plan`.
        """
        return cls(name, dict(content), _Expansion(check(content)).expand())

    def plan(self, fill: bool = False, guess: bool = False, process: Process | None = None) -> tuple[PlannedRun, ...]:
        """Resolve the ids and costs of its runs, each once and after the runs it depends on.

        An id depends on the fingerprints of the sources and on the hyperparameters as transformers resolves them. A
        separate process computes them, so that this one loads no torch; the answer is cached on disk. No model is
        trained, and no image is read unless `fill` is set or the source is one of the embedded two.

        Args:
            fill: Fill the caches of the sources first, so that every size is checked against its source.
            guess: Where a source or checkpoint cannot be reached, guess its sizes and set the runs' `provisional`.
            process: A running worker that plans; None starts a process.

        Raises:
            InputError: An unknown field, a model or source that does not exist, or a size beyond its source.
        """
        return resolver.plan(self.runs, fill, guess, process)

    def specs(self) -> list[RunSpec]:
        """The specifications of its runs, in the order of `plan`."""
        return [run.spec for run in self.plan()]

    def __len__(self) -> int:
        return len(self.runs)

    def __hash__(self) -> int:
        return hash((self.name, self.runs))


def _replace(content: dict[str, Any], setting: str) -> None:
    """Put the value of a `KEY=VALUE` setting into `content`."""
    key, equals, text = setting.partition("=")
    if not equals or not all(key.split(".")):
        raise InputError(f"--set {setting}: write KEY=VALUE, such as seeds=[0, 1] or pretrain.learning_rate=1e-3")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"--set {setting}: the value is not YAML: {one_line(error)}") from None
    *outer, last = key.split(".")
    place = content
    for name in outer:
        inner = place.get(name, {})
        if not isinstance(inner, dict):
            raise InputError(f"--set {setting}: {name} does not hold keys; set it as a whole")
        place[name] = place = dict(inner)
    place[last] = value


def _after_needs(runs: Iterable[WrittenRun]) -> Iterator[WrittenRun]:
    for run in runs:
        yield from _after_needs(run.needs)
        yield run


class _Expansion:
    """The walk over a grid's axes; `used` records which overrides have matched a run."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.content = content
        # Left out where the grid does not set it: keys of runs written before tasks existed stay the same.
        self._task = {"task": content["task"]} if "task" in content else {}
        self._source = {"source": content["source"]} if "source" in content else {}
        # Fields that select a random subset of the upstream classes; {} for all of them.
        self._subsets = (
            [{"classes": subset} for subset in content["class_subsets"]] if "class_subsets" in content else [{}]
        )
        self.used = [False] * len(content["overrides"])

    def expand(self) -> tuple[WrittenRun, ...]:
        """Every run once, each after the runs it depends on.

        Raises:
            InputError: An override that matches no run, or no run at all.
        """
        runs = {run.key: run for run in _after_needs(self.runs())}
        for position, (override, used) in enumerate(zip(self.content["overrides"], self.used), start=1):
            if not used:
                raise InputError(f"overrides: number {position} matches no run: where {override['where']}")
        if not runs:
            raise InputError("overrides: skip leaves no run")
        return tuple(runs.values())

    def runs(self) -> Iterator[WrittenRun]:
        """The runs, fine-tuning after the pretraining that it starts from."""
        for parent, point, checkpoint in self.upstream():
            if parent is not None:
                yield parent
            for downstream in self.content["downstream"]:
                for n_finetune in downstream["n_finetune"]:
                    run = self.finetune(parent, point, checkpoint, downstream, n_finetune)
                    if run is not None:
                        yield run

    def upstream(self) -> Iterator[tuple[WrittenRun | None, dict[str, Any], dict[str, Any]]]:
        """The run to fine-tune, its point on the axes, and the fields by which fine-tuning starts from it.

        The run is None where a checkpoint is given, and without pre-training.
        """
        for given in self.content.get("checkpoints", ()):
            for seed in self.content["seeds"]:
                yield None, {**given, "seed": seed}, given
        for model in self.content.get("models", ()):
            for seed in self.content["seeds"] if 0 in self.content["n_pretrain"] else ():
                point = _point(model, {}, 0, seed)
                fields = self.content["pretrain"] | self.changes(point, "pretrain")["fields"]
                shape = {name: value for name, value in fields.items() if name in OF_A_NEW_MODEL}
                yield None, point, {**shape, "model": model}
            for arm in self.content["arms"]:
                for n_pretrain in (size for size in self.content["n_pretrain"] if size != 0):
                    for seed, classes in itertools.product(self.content["seeds"], self._subsets):
                        run = self.pretrain(model, arm, n_pretrain, seed, classes)
                        if run is not None:
                            yield run, _point(model, arm, n_pretrain, seed), {}

    def pretrain(
        self, model: str, arm: Mapping[str, Any], n_pretrain: int | None, seed: int, classes: Mapping[str, str]
    ) -> WrittenRun | None:
        """A pretraining run on a subset of the classes ({}: all); None where an override skips it."""
        changes = self.changes(_point(model, arm, n_pretrain, seed), "pretrain")
        if changes.get("skip"):
            return None
        own = {"model": model, "n_pretrain": n_pretrain, "seed": seed, **classes}
        options = {name: value for name, value in arm.items() if name != "teacher"}
        fields = {**self._task, **self._source, **self.content["pretrain"], **options, **own}
        previous = None
        if self.content.get("schedule") == LADDER:
            rungs = sorted(size for size in self.content["n_pretrain"] if 0 < size < n_pretrain)
            fields = {"decay": _DECAY, **fields, "rungs": rungs}
            previous = self.pretrain(model, arm, rungs[-1], seed, classes) if rungs else None
            if rungs and previous is None:
                raise InputError(f"overrides: skip removes n_pretrain {rungs[-1]}, which a larger rung resumes from")
        teacher = None
        # A name without a slash is always an architecture, also where a folder has the same name.
        if arm and "/" in arm["teacher"]:
            fields["teacher"] = arm["teacher"]
        elif arm:
            teacher = self.teacher(arm["teacher"], n_pretrain, seed, classes)
        return WrittenRun("pretrain", fields | changes["fields"], teacher, previous, changes.get("processes", 1))

    def teacher(self, model: str, n_pretrain: int | None, seed: int, classes: Mapping[str, str]) -> WrittenRun:
        """The plain run of the teacher's family on the same images; `skip` does not remove it."""
        own = {"model": model, "n_pretrain": n_pretrain, "seed": seed, **classes}
        changes = self.changes(_point(model, {}, n_pretrain, seed), "pretrain")
        fields = {**self._task, **self._source, **self.content["pretrain"], **own, **changes["fields"]}
        return WrittenRun("pretrain", fields, processes=changes.get("processes", 1))

    def finetune(
        self,
        parent: WrittenRun | None,
        point: Mapping[str, Any],
        checkpoint: Mapping[str, Any],
        downstream: Mapping[str, Any],
        n_finetune: int | None,
    ) -> WrittenRun | None:
        """A fine-tuning run; None where an override skips it."""
        changes = self.changes({**point, "downstream": downstream["source"], "n_finetune": n_finetune}, "finetune")
        if changes.get("skip"):
            return None
        own = {**checkpoint, "n_finetune": n_finetune, "seed": point["seed"]}
        fields = {**self._task, **self.content["finetune"], **downstream, **own, **changes["fields"]}
        fields["source"] = self.beside_upstream(fields["source"])
        return WrittenRun("finetune", fields, parent=parent, processes=changes.get("processes", 1))

    def beside_upstream(self, name: str) -> str:
        """The folder `name` beside that of `source`, where there is one; else `name` as it is."""
        path = Path(self.content.get("source", "")).parent / name
        return str(path) if "source" in self.content and "/" not in name and path.is_dir() else name

    def changes(self, point: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """What the overrides that match `point` set, the later ones winning; `fields` are those of the stage."""
        changes: dict[str, Any] = {"fields": {}}
        for position, override in enumerate(self.content["overrides"]):
            where = override["where"]
            if not all(axis in point and _axis_value(point[axis]) in map(_axis_value, where[axis]) for axis in where):
                continue
            self.used[position] = True
            changes["fields"].update(override.get(stage, {}))
            changes |= {name: override[name] for name in ("processes", "skip") if name in override}
        return changes


def _point(model: str, arm: Mapping[str, Any], n_pretrain: int | None, seed: int) -> dict[str, Any]:
    """The values of a pretraining run on the axes that overrides match."""
    of_arm = {"arm": "distilled", "teacher": arm["teacher"]} if arm else {"arm": PLAIN, "teacher": "none"}
    return {"model": model, "n_pretrain": n_pretrain, "seed": seed, **of_arm}


def _axis_value(value: Any) -> Any:
    return "all" if value is None else value
