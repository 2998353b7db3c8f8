"""The look of a study: what the sets hold, how fast this machine is, and the grid of runs that fits the hours.

The plan of the first call is written to the study's folder (`study.json`, `grid.yaml`) and is never estimated anew:
speeds change with what else a machine does, and what a study could have measured must not change under it.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hf_scaling import files
from hf_scaling.data import Source, count_overlap, open_source
from hf_scaling.errors import InputError
from hf_scaling.grid import Grid, PlannedRun
from hf_scaling.processes import Process
from hf_scaling.runner.dry_run import seconds_here
from hf_scaling.runner.engines import WORKER
from hf_scaling.study.rounds import spread
from hf_scaling.text import format_count, format_duration, listing

NAME = "study.json"
#: Students, the smallest about an eighth of the largest, and their teacher, which is smaller than all; small first.
STUDENTS = (
    (("vit-50k", "vit-100k", "vit-400k"), "vit-30k"),
    (("vit-100k", "vit-200k", "vit-800k"), "vit-30k"),
    (("vit-800k", "vit-2.5m", "vit-5m"), "vit-200k"),
    (("vit-2.5m", "vit-5m", "vit-21m"), "vit-800k"),
)
#: Share of the hours that the tuning may take.
TUNING_SHARE = 0.15
# Share of the hours that the pilot should take at most, so that the rounds have enough left to answer; the share up to
# which fewer patches are better than fewer levels; and the share up to which a study is not refused.
_PILOT_SHARE, _FULL_PILOT_SHARE, _MOST_PILOT_SHARE = 0.15, 0.25, 0.35
# Sources that are drawn rather than read, and how many of their images a study takes at most.
_DRAWN = {"glyphs": 12_800}
# As in the grid `demo`: small students tell all 36 characters apart too slowly for a short study.
_DRAWN_CLASSES = 10
_SEEDS = list(range(8))
# Images a class at the smallest level: fewer than the first are usually learned by heart and end worse than guessing
# by loss (docs/study.md); a small set goes down to the second for the levels that a boundary needs.
_PER_CLASS, _LEAST_PER_CLASS = 40, 5
_LEAST_LEVELS, _MOST_LEVELS = 5, 9
# The most parameters of the middle student for each image of the upstream set.
_MOST_PARAMS = 200
_RATE = 2e-3
# The least number of steps: the first that the hours allow; half of it is tried too.
_STEPS = (1000, 500)
# Of fine-tuning: with fewer, runs of few labels stop before they have learned them, and the loss shows the steps, not
# the labels (docs/study.md).
_FINETUNE_STEPS = 1000
# Image sizes; a set whose images are larger than the last is made smaller.
_SIZES = (16, 32, 64)
# Patches a side, the first that the hours allow.
_PATCHES = (8, 4)
# The fields in which the grids that are compared differ.
_SHAPE = ("patch_size", "min_steps")
# Of generated images of 16 px: attention over 4 patches learns in a third of the steps of 16 (docs/measured.md).
_DRAWN_PATCHES = 2


@dataclass(frozen=True)
class StudyPlan:
    """What a study measures, fixed at its first call.

    Attributes:
        upstream: The upstream set as it was given.
        downstream: The downstream sets as they were given.
        names: Set as it was given to its name in results.
        students: Names of the three students, small first.
        teacher: Name of the teacher.
        image_size: Side of the images in pixels.
        n_params: Parameters of each student.
        n_pretrain: Levels, small first; where the hours do not allow all images of the source, up to what they do.
        n_source: All images of the source that a study takes.
        n_finetune: Downstream set (name in results) to levels.
        overlap: Downstream set (name in results) to the number of its images that are also upstream images.
        seconds_per_flop: Measured on this machine, by counted FLOPs of an example.
        seed: Of the study.
    """

    upstream: str
    downstream: list[str]
    names: dict[str, str]
    students: list[str]
    teacher: str
    image_size: int
    n_params: dict[str, int]
    n_pretrain: list[int]
    n_source: int
    n_finetune: dict[str, list[int]]
    overlap: dict[str, int]
    seconds_per_flop: dict[str, float] = field(repr=False)
    seed: int = 0

    @property
    def middle(self) -> str:
        """The student at which the questions are asked."""
        return self.students[1]

    def seconds(self, run: PlannedRun) -> float:
        """What a run takes here, by its counted operations and the nearest speed that was measured."""
        speeds = {float(flops): seconds for flops, seconds in self.seconds_per_flop.items()}
        nearest = min(speeds, key=lambda flops: abs(math.log(flops / max(run.flops_per_example, 1.0))))
        return _OVERHEAD + run.flops * speeds[nearest]

    def save(self, folder: Path) -> None:
        """Write it into a study's folder."""
        files.write_text(folder / NAME, json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, folder: Path) -> "StudyPlan | None":
        """Read it from a study's folder; None where there is none.

        Raises:
            InputError: The file is damaged.
        """
        path = folder / NAME
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise InputError(f"{path}: damaged ({error}): remove it to plan the study anew") from None

    def describe(self) -> list[str]:
        """The plan in lines, for a person."""
        sizes = ", ".join(f"{name} ({format_count(self.n_params[name])})" for name in self.students)
        lines = [
            f"students {sizes}; teacher {self.teacher}; {self.image_size} px",
            f"n_pretrain {listing(f'{n:,}' for n in self.n_pretrain)} images of {self.names[self.upstream]}",
        ]
        for name, levels in self.n_finetune.items():
            overlap = self.overlap[name]
            also = f"; {overlap:,} of its images are also upstream images" if overlap else ""
            lines.append(f"n_finetune {listing(f'{n:,}' for n in levels)} images of {name}{also}")
        return lines


# Seconds beyond training that a run takes, in a worker that is warm.
_OVERHEAD = 1.5


def look(
    upstream: str,
    downstream: Sequence[str],
    hours: float,
    workers: int,
    seed: int = 0,
    cache_dir: str | Path | None = None,
) -> tuple[StudyPlan, dict[str, Any]]:
    """Look at the sets and at this machine; plan the study.

    Args:
        upstream: The upstream set, as `open_source` takes it.
        downstream: The downstream sets.
        hours: Of the study, by the clock.
        workers: Runs trained at once.
        seed: Of the study; the seeds of its runs begin there.
        cache_dir: Folder of the cache; None takes the default.

    Returns:
        The plan, and the grid of all runs that the study may train, as grid.yaml has it.

    Raises:
        InputError: A set that is not labelled, has one class, is both upstream and downstream or overlaps wholly with
            it, or hours in which no pilot ends; the hours that would be enough are named.
    """
    # The worker loads its libraries while the sets are read.
    with Process(WORKER, {"OMP_NUM_THREADS": "1"}) as worker:
        sets = _open_sets(upstream, downstream, cache_dir)
        n_most = min(_DRAWN.get(upstream, len(sets.upstream.train)), len(sets.upstream.train))
        n_classes = len(sets.upstream.class_names)
        # From all images down by halves, small first.
        levels = [n_most]
        while len(levels) < _MOST_LEVELS:
            per_class = _PER_CLASS if len(levels) >= _LEAST_LEVELS else _LEAST_PER_CLASS
            if levels[0] // 2 < per_class * n_classes:
                break
            levels.insert(0, levels[0] // 2)
        if len(levels) < 3:
            raise InputError(f"{upstream}: {n_most:,} images of {n_classes:,} classes are too few for a study")
        labels = {}
        for opened in sets.downstream.values():
            # Four levels of n_finetune, evenly spread in their logarithms: from eight images a class, since fewer are
            # learned by heart and end worse than guessing by loss (docs/study.md), to 16 times as many.
            most, least = len(opened.train), min(max(8 * len(opened.class_names), 20), len(opened.train) // 4)
            labels[opened.name] = sorted({round(n) for n in np.geomspace(least, min(most, 16 * least), 4)})
        # Details first (small patches, many steps) while a pilot with them reaches all images; then fewer levels.
        patches_a_side = (_DRAWN_PATCHES,) if sets.side is None else _PATCHES
        contents = [
            _grid(upstream, list(downstream), sets.image_size, sets.image_size // patches, steps, levels, labels, seed)
            for patches in patches_a_side
            for steps in _STEPS
        ]
        costs = _Costs([content["pretrain"] for content in contents], levels, seed, worker)
        content, fitted = _choose(contents, costs, levels, hours, workers)
    students, teacher = fitted.students, fitted.teacher
    content["models"], content["n_pretrain"] = list(students), [0, *fitted.levels] if downstream else fitted.levels
    content["arms"] = ["plain", {"teacher": teacher, "alpha": 0.5, "temperature": 2.0}]
    rates = {
        str(run.flops_per_example): (fitted.seconds[run.run_id] - _OVERHEAD) / run.flops
        for run in fitted.runs
        if not math.isnan(fitted.seconds[run.run_id])
    }
    plan = StudyPlan(
        upstream=upstream,
        downstream=list(downstream),
        names={upstream: sets.upstream.name} | {name: opened.name for name, opened in sets.downstream.items()},
        students=list(students),
        teacher=teacher,
        image_size=sets.image_size,
        n_params={run.model: int(run.n_params or 0) for run in fitted.runs if run.model in students},
        n_pretrain=fitted.levels,
        n_source=n_most,
        n_finetune=labels,
        overlap=sets.overlap,
        seconds_per_flop=rates,
        seed=seed,
    )
    return plan, content


@dataclass(frozen=True)
class _Sets:
    """The sets of a study, open.

    Attributes:
        upstream: Source of the upstream images.
        downstream: Downstream set as it was given to its source.
        overlap: Downstream set (name in results) to the number of its images that are also upstream images.
        side: Of the upstream images as they are stored, in pixels; None where they are generated.
        image_size: Of all images, in pixels.
    """

    upstream: Source
    downstream: dict[str, Source]
    overlap: dict[str, int]
    side: int | None
    image_size: int


def _open_sets(upstream: str, downstream: Sequence[str], cache_dir: str | Path | None) -> _Sets:
    """Open the sets at the size of the upstream images, and compare them."""
    classes = _DRAWN_CLASSES if upstream in _DRAWN else None
    side = open_source(upstream, classes=classes, cache_dir=cache_dir).side
    image_size = next((size for size in _SIZES if side is None or size >= side), _SIZES[-1])
    source = open_source(upstream, image_size=image_size, classes=classes, cache_dir=cache_dir)
    sources = {name: open_source(name, image_size=image_size, cache_dir=cache_dir) for name in downstream}
    overlap = {}
    for name, below in sources.items():
        if name == upstream or below.fingerprint == source.fingerprint:
            raise InputError(f"--downstream {name}: is the upstream set itself: give other images")
        n = count_overlap(source.train, below.test) + count_overlap(source.train, below.train)
        if n >= 0.5 * (len(below.test) + len(below.train)):
            raise InputError(
                f"--downstream {name}: {n:,} of its images are also images of {upstream}: give images that are not"
            )
        overlap[below.name] = n
    return _Sets(source, sources, overlap, side, image_size)


def _choose(
    contents: Sequence[dict[str, Any]], costs: "_Costs", levels: list[int], hours: float, workers: int
) -> tuple[dict[str, Any], "_Fitted"]:
    """The first of the grids of which a pilot fits the hours; those with the largest patches may have fewer levels."""
    fewest = min(_LEAST_LEVELS, len(levels))
    cheapest = contents[-len(_STEPS) :]
    attempts = [(content, len(levels), _PILOT_SHARE, STUDENTS) for content in contents]
    # Always and never are answers only where all images of the source are measured.
    attempts += [(content, len(levels), _FULL_PILOT_SHARE, STUDENTS[:1]) for content in cheapest]
    attempts += [(content, fewest, _PILOT_SHARE, STUDENTS) for content in cheapest]
    attempts.append((contents[-1], fewest, _MOST_PILOT_SHARE, STUDENTS))
    seconds = hours * 3600 * workers
    for content, least, share, choices in attempts:
        fitted = _fit(costs, content["pretrain"], levels, seconds * share, least, choices)
        if isinstance(fitted, _Fitted):
            return content, fitted
    enough = fitted / share / workers / 3600
    raise InputError(
        f"--hours {hours:g}: too few for a pilot, which takes {format_duration(fitted / workers)} here: give at least "
        f"--hours {math.ceil(enough * 100) / 100:g}"
    )


def _grid(
    upstream: str,
    downstream: list[str],
    image_size: int,
    patch_size: int,
    steps: int,
    levels: list[int],
    labels: Mapping[str, list[int]],
    seed: int,
) -> dict[str, Any]:
    """The grid without its models: every level, both arms, eight seeds, of which the first two are fine-tuned."""
    # Flips turn letters and signs into others, and shifts hurt where patches are few; what a set supports is unknown:
    # parts of the images are erased. Smoothed labels keep small sets, which are learned by heart, from costing more
    # than guessing.
    rule = {
        "learning_rate": _RATE,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.1,
        "weight_decay": 0.05,
        "augmentation": ["erase"],
        "label_smoothing_factor": 0.1,
        "per_device_eval_batch_size": 500,
        "save_strategy": "no",
    }
    size = {"image_size": image_size, "patch_size": patch_size}
    pretrain = {"source": upstream, **size, **rule, "per_device_train_batch_size": 64}
    pretrain |= {"num_train_epochs": 8, "min_steps": steps}
    if upstream in _DRAWN:
        # Drawn warped and noised already: erased too, they are not learned in so few steps.
        pretrain |= {"classes": _DRAWN_CLASSES, "augmentation": []}
    seeds = [seed + number for number in _SEEDS]
    content: dict[str, Any] = {"models": [], "n_pretrain": levels, "arms": ["plain"], "seeds": seeds}
    content["tune"] = {"learning_rate": True}
    if downstream:
        every = sorted({n for levels in labels.values() for n in levels})
        # The linear probe, which a person compares with, at the fewest and the most labels.
        ends = zip(downstream, labels.values())
        probes = [{"source": name, "n_finetune": [own[0], own[-1]], "train_part": "head"} for name, own in ends]
        content |= {"downstream": [*downstream, *probes], "n_finetune": every, "pretrain": pretrain}
        steps_of_labels = {"per_device_train_batch_size": 32, "num_train_epochs": 8, "min_steps": _FINETUNE_STEPS}
        content["finetune"] = {**rule, **steps_of_labels, "n_eval": 2000}
        content["overrides"] = [{"where": {"seed": seeds[2:], "n_finetune": every}, "skip": True}]
        for name, own in zip(downstream, labels.values()):
            others = [n for n in every if n not in own]
            if others:
                content["overrides"].append({"where": {"downstream": name, "n_finetune": others}, "skip": True})
    else:
        # Fewer steps often cost nothing upstream; but what is fine-tuned from them is worse (docs/study.md).
        content["tune"]["min_steps"] = [steps // 2, steps]
        content["pretrain"] = pretrain
    return content


@dataclass(frozen=True)
class _Fitted:
    """Students and levels that fit the hours.

    Attributes:
        students: Small first.
        teacher: Their teacher.
        levels: Of n_pretrain.
        runs: The plain runs of students and teacher at every level.
        seconds: run_id to seconds here.
    """

    students: tuple[str, ...]
    teacher: str
    levels: list[int]
    runs: list[PlannedRun]
    seconds: dict[str, float]


class _Costs:
    """What the runs of students and their teacher take here, asked for when they are needed.

    Args:
        rules: The fields of pre-training of each grid that is compared.
        levels: Of n_pretrain.
        seed: Of the study.
        worker: Plans and times them.
    """

    def __init__(self, rules: Sequence[Mapping[str, Any]], levels: list[int], seed: int, worker: Process):
        self._rules, self._levels, self._seed, self._worker = rules, levels, seed, worker
        self._planned: dict[tuple[str, ...], tuple[PlannedRun, ...]] = {}

    def plan(self, models: tuple[str, ...], rule: Mapping[str, Any]) -> list[PlannedRun]:
        """The plain run of each model at every level; those of all grids are planned in one go."""
        if models not in self._planned:
            axes = {"models": list(dict.fromkeys(models)), "n_pretrain": self._levels, "seeds": [self._seed]}
            grids = [Grid.from_dict({**axes, "pretrain": rule}, "look") for rule in self._rules]
            runs = tuple(run for grid in grids for run in grid.runs)
            self._planned[models] = Grid("look", {}, runs).plan(guess=True, process=self._worker)
        return [run for run in self._planned[models] if all(run.fields[name] == rule[name] for name in _SHAPE)]

    def seconds(self, runs: Sequence[PlannedRun]) -> dict[str, float]:
        """run_id to seconds."""
        return seconds_here(runs, runs, self._worker)


def _fit(
    costs: _Costs,
    rule: Mapping[str, Any],
    levels: list[int],
    budget: float,
    least: int,
    choices: Sequence[tuple[tuple[str, ...], str]],
) -> _Fitted | float:
    """All levels or fewer, then the largest students, of which a pilot takes some seconds at most.

    Models are timed from small to large, and none after the first students that do not fit: a step of a model that is
    far too large takes longer than all else in the look.

    Args:
        costs: Of any models.
        rule: The fields of pre-training of the grid.
        levels: Of n_pretrain.
        budget: Seconds of one worker that a pilot may take.
        least: The fewest levels.
        choices: Students and their teacher, small first.

    Returns:
        What fits; where nothing does, the seconds of the smallest pilot.
    """
    best: _Fitted | None = None
    for students, teacher in choices:
        own = costs.plan((*students, teacher), rule)
        # Larger students only learn a small set by heart.
        n_params = next(run.n_params or 0 for run in own if run.model == students[1])
        if best is not None and n_params > _MOST_PARAMS * levels[-1]:
            break
        seconds = costs.seconds(own)
        by_cell = {(run.model, run.spec.n_pretrain): seconds[run.run_id] for run in own}
        # Both arms; the distilled one also waits for the teacher's forward passes, which are about a third of it.
        cost = {n: 2.3 * by_cell[students[1], n] + by_cell[teacher, n] for n in levels}
        pilots = {
            most: sum(cost[n] for n in spread(np.array(levels[:most]), _LEAST_LEVELS).tolist())
            for most in range(least, len(levels) + 1)
        }
        fitting = [most for most, pilot in pilots.items() if pilot <= budget]
        if not fitting:
            return pilots[least] if best is None else best
        if best is None or fitting[-1] >= len(best.levels):
            best = _Fitted(students, teacher, levels[: fitting[-1]], own, seconds)
    assert best is not None
    return best
