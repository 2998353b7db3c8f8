"""A grid's content to its runs as they are written: each said as its recipe would be told it."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.grid.schema import LADDER, PLAIN
from hf_scaling.grid.spec import content_hash

#: The share of a ladder's rung over which its rate falls, where the grid does not say.
_DECAY = 0.2


@dataclass(frozen=True)
class WrittenRun:
    """One run as a person would write it: the fields of its recipe, and the runs that it needs.

    Attributes:
        stage: "pretrain" or "finetune".
        fields: What `recipes/STAGE.py` is told, without the teacher or checkpoint that is another run of the grid.
        teacher: The run that trains its teacher; None in a plain run, and where `fields` names a trained teacher.
        parent: The run whose checkpoint it fine-tunes, or the rung before it in a ladder; None where there is none,
            and where `fields` names a checkpoint.
        processes: How many processes it is spread over, one GPU each.
        key: 16 hex digits: equal writings are one run.
    """

    stage: str
    fields: Mapping[str, Any]
    teacher: "WrittenRun | None" = None
    parent: "WrittenRun | None" = None
    processes: int = 1
    key: str = dataclasses.field(init=False, compare=False)

    def __post_init__(self):
        needed = [each.key for each in self.needs]
        basis = [self.stage, dict(self.fields), needed, self.parent is not None, self.processes]
        try:
            object.__setattr__(self, "key", content_hash(basis))
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.stage}: a field's value cannot be written down: {error}") from None

    @property
    def needs(self) -> tuple["WrittenRun", ...]:
        """The runs that must be finished before it."""
        return tuple(each for each in (self.teacher, self.parent) if each is not None)

    def __hash__(self) -> int:
        return hash(self.key)


def expand(content: Mapping[str, Any]) -> tuple[WrittenRun, ...]:
    """Every run of a checked content once, each after those that it needs.

    Raises:
        InputError: An override that chooses no run, or no run at all.
    """
    expansion = _Expansion(content)
    found: dict[str, WrittenRun] = {}
    for run in expansion.runs():
        for each in _after_needs(run):
            found.setdefault(each.key, each)
    for at, (override, used) in enumerate(zip(content["overrides"], expansion.used)):
        if not used:
            raise InputError(f"overrides: no run has what number {at + 1} asks for: {override['where']}")
    if not found:
        raise InputError("overrides: skip leaves no run")
    return tuple(found.values())


def _after_needs(run: WrittenRun) -> Iterator[WrittenRun]:
    for needed in run.needs:
        yield from _after_needs(needed)
    yield run


class _Expansion:
    def __init__(self, content: Mapping[str, Any]):
        self.content = content
        # What every run is told; nothing where the task is the usual one.
        self._task = {"task": content["task"]} if "task" in content else {}
        self.used = [False] * len(content["overrides"])

    def runs(self) -> Iterator[WrittenRun]:
        for parent, point, fields in self._upstream():
            if parent is not None:
                yield parent
            for downstream in self.content["downstream"]:
                for n_finetune in downstream["n_finetune"]:
                    run = self._finetune(parent, point, fields, downstream, n_finetune)
                    if run is not None:
                        yield run

    def _upstream(self) -> Iterator[tuple[WrittenRun | None, dict[str, Any], dict[str, Any]]]:
        """Run to fine-tune (None: a checkpoint is given), its place on the axes, the fields that name a checkpoint."""
        for given in self.content.get("checkpoints", ()):
            for seed in self.content["seeds"]:
                yield None, {**given, "seed": seed}, given
        for model in self.content.get("models", ()):
            for arm in self.content["arms"]:
                for n_pretrain in self.content["n_pretrain"]:
                    for seed in self.content["seeds"]:
                        point = _point(model, arm, n_pretrain, seed)
                        run = self._pretrain(model, arm, n_pretrain, seed)
                        if run is not None:
                            yield run, point, {}

    def _pretrain(self, model: str, arm: Mapping, n_pretrain: int | None, seed: int) -> WrittenRun | None:
        rest = {name: value for name, value in arm.items() if name != "teacher"}
        fields = {**self._of_pretrain(n_pretrain), **rest, "model": model, "n_pretrain": n_pretrain, "seed": seed}
        changes = self._changes(_point(model, arm, n_pretrain, seed), "pretrain")
        if changes.get("skip"):
            return None
        teacher = self._teacher(arm, n_pretrain, seed)
        if teacher is None and arm:
            fields["teacher"] = arm["teacher"]
        below = self._pretrain(model, arm, fields["rungs"][-1], seed) if fields.get("rungs") else None
        if below is None and fields.get("rungs"):
            raise InputError(f"overrides: skip takes n_pretrain {fields['rungs'][-1]} out of the ladder above it")
        processes = changes.get("processes", 1)
        return WrittenRun("pretrain", fields | changes["fields"], teacher, below, processes)

    def _of_pretrain(self, n_pretrain: int | None) -> dict[str, Any]:
        fields = {**self._task, **self.content["pretrain"]}
        if self.content.get("schedule") != LADDER:
            return fields
        rungs = sorted(each for each in self.content["n_pretrain"] if each < n_pretrain)
        return {"decay": _DECAY, **fields, "rungs": rungs}

    def _teacher(self, arm: Mapping, n_pretrain: int | None, seed: int) -> WrittenRun | None:
        """The plain run of the teacher's size on the same images, where the arm names a family and no checkpoint."""
        if not arm or "/" in arm["teacher"] or Path(arm["teacher"]).exists():
            return None
        fields = {
            **self._task,
            **self.content["pretrain"],
            "model": arm["teacher"],
            "n_pretrain": n_pretrain,
            "seed": seed,
        }
        changes = self._changes(_point(arm["teacher"], {}, n_pretrain, seed), "pretrain")
        return WrittenRun("pretrain", fields | changes["fields"], processes=changes.get("processes", 1))

    def _finetune(
        self,
        parent: WrittenRun | None,
        point: Mapping,
        checkpoint: Mapping,
        downstream: Mapping,
        n_finetune: int | None,
    ) -> WrittenRun | None:
        own = {name: value for name, value in downstream.items() if name != "n_finetune"}
        fields = {
            **self._task,
            **self.content["finetune"],
            **own,
            **checkpoint,
            "n_finetune": n_finetune,
            "seed": point["seed"],
        }
        place = {**point, "downstream": downstream["source"], "n_finetune": n_finetune}
        changes = self._changes(place, "finetune")
        if changes.get("skip"):
            return None
        return WrittenRun("finetune", fields | changes["fields"], parent=parent, processes=changes.get("processes", 1))

    def _changes(self, point: Mapping[str, Any], stage: str) -> dict[str, Any]:
        """What the overrides that fit `point` say, the later ones winning; `fields` are those of the stage."""
        found: dict[str, Any] = {"fields": {}}
        for at, override in enumerate(self.content["overrides"]):
            where = override["where"]
            if not all(axis in point and _named(point[axis]) in map(_named, where[axis]) for axis in where):
                continue
            self.used[at] = True
            found["fields"].update(override.get(stage, {}))
            found |= {name: override[name] for name in ("processes", "skip") if name in override}
        return found


def _point(model: str, arm: Mapping, n_pretrain: int | None, seed: int) -> dict[str, Any]:
    """A pretraining run's place on the axes that overrides choose by."""
    taught = {"arm": "distilled", "teacher": arm["teacher"]} if arm else {"arm": PLAIN, "teacher": "none"}
    return {"model": model, "n_pretrain": n_pretrain, "seed": seed, **taught}


def _named(value: Any) -> Any:
    return "all" if value is None else value
