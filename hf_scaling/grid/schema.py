"""The keys of a grid's YAML, read and checked before anything heavy is imported.

Each key has a reader: a function of the key's name and its value that returns the value in the form in which the grid
holds it, or raises an InputError that begins with the name.
"""

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_scaling.errors import InputError
from hf_scaling.text import did_you_mean, listing

#: The arm without a teacher.
PLAIN = "plain"
#: Fields of pretraining that shape a model: a run without pre-training takes them too.
OF_A_NEW_MODEL = ("image_size", "patch_size", "tokenizer", "context")
#: What the `where` of an override can match.
AXES = ("model", "n_pretrain", "arm", "teacher", "seed", "checkpoint", "downstream", "n_finetune")
#: Values of `schedule`: a run for each n_pretrain, or branches of one run.
SEPARATE, LADDER = "separate", "ladder"

_ALL, _SUBSET = "all", "subset"
_DEFAULTS: dict[str, Any] = {
    "arms": [{}],
    "downstream": [],
    "seeds": [0],
    "pretrain": {},
    "finetune": {},
    "overrides": [],
}
#: Fields of the recipes that a grid sets itself: by the key named, or (None) not at all.
_FROM_GRID: dict[str, dict[str, str | None]] = {
    "pretrain": {
        "task": "task",
        "model": "models",
        "n_pretrain": "n_pretrain",
        "teacher": "arms",
        "rungs": "schedule",
        "previous_rung": "schedule",
        "seed": "seeds",
        "output_dir": None,
        "config": None,
    },
    "finetune": {
        "task": "task",
        "checkpoint": "checkpoints",
        "model": "models",
        "n_pretrain": "n_pretrain",
        "source": "downstream",
        "n_finetune": "n_finetune",
        "seed": "seeds",
        "output_dir": None,
        "config": None,
    },
}


@dataclass(frozen=True)
class ClassSubset:
    """A random subset of a source's classes, one of many; written `subset:SHARE:SEED:NUMBER`.

    Attributes:
        share: Of the classes, above 0 and below 1.
        seed: Of all the subsets.
        number: Which of them, from 0.
    """

    share: float
    seed: int
    number: int

    def __str__(self) -> str:
        return f"{_SUBSET}:{self.share}:{self.seed}:{self.number}"

    @classmethod
    def parse(cls, classes: int | str) -> "ClassSubset | None":
        """The subset that a value of `classes` writes; None where it is a number or a file.

        Raises:
            InputError: It begins as a subset, but is not one.
        """
        word, *parts = str(classes).split(":")
        if word != _SUBSET or not parts:
            return None
        try:
            share, seed, number = parts
            subset = cls(float(share), int(seed), int(number))
        except ValueError:
            subset = None
        if subset is None or not 0 < subset.share < 1 or subset.number < 0:
            raise InputError(
                f"classes: {classes} is not a subset: write subset:SHARE:SEED:NUMBER, such as subset:0.5:0:3"
            )
        return subset

    def size(self, n_classes: int) -> int:
        """Classes of `n_classes` that it has, rounded to the nearest."""
        return round(self.share * n_classes)


def check(values: Mapping[str, Any]) -> dict[str, Any]:
    """Check every key of a grid.

    Args:
        values: Keys and values as YAML gives them.

    Returns:
        The content with a list wherever a list is allowed, the defaults filled in, None for `all`, {} for the plain
        arm, and its own `n_finetune` in every downstream set.

    Raises:
        InputError: Unknown keys (the nearest known key is named), empty lists or lists with duplicates, values of the
            wrong kind, or keys that exclude each other.
    """
    _check_keys(values, _READERS, "a grid")
    content: dict[str, Any] = {name: read(name, values[name]) for name, read in _READERS.items() if name in values}
    if "checkpoints" in content:
        for name in ("source", "models", "n_pretrain", "arms", "pretrain", "tune", "schedule", "class_subsets"):
            if name in content:
                raise InputError(f"{name}: not used with checkpoints, which are trained already; remove {name}")
        if "downstream" not in content:
            raise InputError("downstream: missing: name the sets to fine-tune the checkpoints on")
    for name in ("models", "n_pretrain") if "checkpoints" not in content else ():
        if name not in content:
            raise InputError(f"{name}: missing")
    if content.get("schedule") == LADDER:
        if None in content["n_pretrain"]:
            raise InputError("n_pretrain: the rungs of a ladder are numbers: write a number instead of all")
        for teacher in (arm["teacher"] for arm in content.get("arms", ()) if arm):
            if "/" not in teacher:
                raise InputError(f"arms: a ladder needs a trained teacher, a folder or Hub id, which {teacher} is not")
    content = copy.deepcopy(_DEFAULTS) | content
    if "tune" in content:
        _check_tune(content)
    if "source" in content and "source" in content["pretrain"]:
        raise InputError("source: also in pretrain: the upstream source is given once; remove one")
    if 0 in content.get("n_pretrain", ()) and not content["downstream"]:
        raise InputError("n_pretrain: 0 trains on downstream sets without pre-training: name them by downstream")
    if not content["downstream"] and ("n_finetune" in content or content["finetune"]):
        raise InputError("downstream: missing: name the sets to fine-tune on")
    if "class_subsets" in content:
        _check_subsets(content)
    for downstream in content["downstream"]:
        if "n_finetune" not in downstream and "n_finetune" not in content:
            raise InputError(f"n_finetune: missing, for downstream {downstream['source']}")
    content["downstream"] = [{"n_finetune": content.get("n_finetune"), **item} for item in content["downstream"]]
    return content


def _check_subsets(content: Mapping[str, Any]) -> None:
    """Refuse what would give the models of random subsets of the classes other classes, or unequal images."""
    overrides = [override.get("pretrain", {}) for override in content["overrides"]]
    if any("classes" in fields for fields in [content["pretrain"], *content["arms"], *overrides]):
        raise InputError("class_subsets: classes selects upstream classes too; remove one of the two")
    for size in content["n_pretrain"]:
        if not size:
            why = (
                "subsets differ in how many images there are"
                if size is None
                else "without pre-training has no classes"
            )
            raise InputError(f"class_subsets: n_pretrain {_ALL if size is None else size}: {why}; write a number")


def _check_keys(values: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    for name in values:
        if name not in known:
            raise InputError(f"unknown key {name!r} in {what}{did_you_mean(name, known) or f': use {listing(known)}'}")


def list_of(read: Callable[[str, Any], Any]) -> Callable[[str, Any], list[Any]]:
    """A reader of a list without duplicates, not empty; a single value is a list of one."""

    def read_list(name: str, value: Any) -> list[Any]:
        items = [read(name, item) for item in (value if isinstance(value, list) else [value])]
        if not items:
            raise InputError(f"{name}: the list is empty")
        for position, item in enumerate(items):
            if item in items[:position]:
                raise InputError(f"{name}: {_ALL if item is None else item} is listed twice")
        return items

    return read_list


def read_text(name: str, value: Any) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name}: {value!r} is not a name")
    return value.strip()


def read_size(name: str, value: Any) -> int | None:
    """A number of images or tokens, 1 or more; None for `all`."""
    if value == _ALL:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        hint = "; the checkpoint itself has a row of its own" if value == 0 and name == "n_finetune" else ""
        raise InputError(f"{name}: {value!r} is not a number of images or tokens (1 or more, or all){hint}")
    return value


def read_pretrain_size(name: str, value: Any) -> int | None:
    """A number of upstream images or tokens; 0 for no pre-training, None for `all`."""
    return 0 if value == 0 and isinstance(value, int) and not isinstance(value, bool) else read_size(name, value)


def read_integer(name: str, value: Any, least: int) -> int:
    """An integer, `least` or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}: {value!r} must be an integer, {least} or more")
    return value


def read_fields(name: str, value: Any) -> dict[str, Any]:
    """Fields of the recipe `name`; unknown ones are refused where torch is loaded, when the grid is resolved."""
    if not isinstance(value, Mapping):
        raise InputError(f"{name}: must hold fields of recipes/{name}.py, one `field: value` per line")
    for field, key in _FROM_GRID[name].items():
        if field in value:
            raise InputError(f"{name}: {field} {f'is set by the key {key} of the grid' if key else 'is not allowed'}")
    if "push_to_hub" in value:
        raise InputError(f"{name}: push_to_hub is not allowed in a grid: use hf-scaling push on the study")
    return dict(value)


def read_arm(name: str, value: Any) -> dict[str, Any]:
    """{} for plain, else the teacher and the distillation fields of its students."""
    if value == PLAIN:
        return {}
    if not isinstance(value, Mapping) or "teacher" not in value:
        raise InputError(f"{name}: {value!r}: write plain, or a teacher: {{teacher: vit-30k, alpha: 0.5}}")
    options = {field: item for field, item in value.items() if field != "teacher"}
    return {"teacher": read_text("teacher", value["teacher"]), **read_fields("pretrain", options)}


def read_checkpoint(name: str, value: Any) -> list[dict[str, Any]]:
    """One checkpoint, or one for each of its `steps`."""
    if not isinstance(value, Mapping) or "checkpoint" not in value:
        raise InputError(f"{name}: {value!r}: write {{checkpoint: FOLDER_OR_HUB_ID[@REVISION], n_pretrain: N}}")
    _check_keys(value, ("checkpoint", "n_pretrain", "steps", "tokens_per_step"), name)
    where = read_text("checkpoint", value["checkpoint"])
    if "steps" not in value:
        sizes = {"n_pretrain": read_integer("n_pretrain", value["n_pretrain"], 1)} if "n_pretrain" in value else {}
        return [{"checkpoint": where, **sizes}]
    if "{step}" not in where or "tokens_per_step" not in value or "n_pretrain" in value:
        raise InputError(
            f"{name}: {where}: steps need {{step}} in the checkpoint's name (@step{{step}}) and tokens_per_step, "
            f"and no n_pretrain"
        )
    steps = list_of(lambda key, item: read_integer(key, item, 1))("steps", value["steps"])
    per_step = read_integer("tokens_per_step", value["tokens_per_step"], 1)
    return [{"checkpoint": where.replace("{step}", str(step)), "n_pretrain": step * per_step} for step in steps]


def read_checkpoints(name: str, value: Any) -> list[dict[str, Any]]:
    """The checkpoints of a list, without duplicates."""
    checkpoints = [checkpoint for given in list_of(read_checkpoint)(name, value) for checkpoint in given]
    return list_of(lambda _, checkpoint: checkpoint)(name, checkpoints)


def read_tune(name: str, value: Any) -> dict[str, Any]:
    """What is tuned before the first run: `learning_rate` (True or rates) and `min_steps` (numbers)."""
    if not isinstance(value, Mapping) or not value:
        raise InputError(f"{name}: {value!r}: write {{learning_rate: true, min_steps: [500, 1000]}}, or one of both")
    _check_keys(value, ("learning_rate", "min_steps"), name)
    read: dict[str, Any] = {}
    if "learning_rate" in value:
        rates = value["learning_rate"]
        read["learning_rate"] = True if rates is True else list_of(_read_rate)(f"{name}: learning_rate", rates)
    if "min_steps" in value:
        read["min_steps"] = list_of(lambda key, item: read_integer(key, item, 1))("min_steps", value["min_steps"])
    for key, values in read.items():
        if values is not True and len(values) < 2:
            raise InputError(f"{name}: {key}: {values[0]} alone leaves nothing to tune: give two or more")
    return read


def _read_rate(name: str, value: Any) -> float:
    try:
        # YAML reads 1e-3 as text.
        rate = float(value) if not isinstance(value, bool) else 0.0
    except (TypeError, ValueError):
        rate = 0.0
    if not 0 < rate < float("inf"):
        raise InputError(f"{name}: {value!r} is not a rate above 0: write true, or a list such as [1e-3, 4e-3]")
    return rate


def _check_tune(content: Mapping[str, Any]) -> None:
    """Refuse a `tune` that other keys would leave without effect."""
    if content.get("schedule") == LADDER or all(size == 0 for size in content["n_pretrain"]):
        raise InputError("tune: needs runs that are pretrained one by one: no ladder, and n_pretrain above 0")
    places = [("pretrain", content["pretrain"])]
    places += [("arms", arm) for arm in content["arms"]]
    places += [("overrides", override.get("pretrain", {})) for override in content["overrides"]]
    for place, fields in places:
        # A number of steps in `pretrain` is where tuning starts from; anywhere else it would win over what is tuned.
        for key, other in (("learning_rate", "learning_rates"), ("min_steps", "max_steps")):
            for rival in (other,) if place == "pretrain" else (key, other):
                if key in content["tune"] and rival in fields:
                    raise InputError(f"tune: {key} has no effect where {place} sets {rival}: remove one")


def read_schedule(name: str, value: Any) -> str:
    """`separate` or `ladder`."""
    if value not in (SEPARATE, LADDER):
        raise InputError(
            f"{name}: {value!r}: write {SEPARATE} (a run per n_pretrain) or {LADDER} (branches of one run)"
        )
    return str(value)


def read_subsets(name: str, value: Any) -> list[str]:
    """The random subsets of the upstream classes, as values of the field `classes`."""
    if not isinstance(value, Mapping) or "count" not in value:
        raise InputError(f"{name}: {value!r}: write {{count: 60, share: 0.5, seed: 0}}")
    _check_keys(value, ("count", "share", "seed"), name)
    count, seed = read_integer("count", value["count"], 1), read_integer("seed", value.get("seed", 0), 0)
    share = value.get("share", 0.5)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share < 1:
        raise InputError(f"share: {share!r} must be a share of the classes, above 0 and below 1")
    return [str(ClassSubset(float(share), seed, number)) for number in range(count)]


def read_downstream(name: str, value: Any) -> dict[str, Any]:
    """A source to fine-tune on, with its own sizes and fields where they are given."""
    if isinstance(value, str):
        return {"source": read_text(name, value)}
    if not isinstance(value, Mapping) or "source" not in value:
        raise InputError(f"{name}: {value!r}: write a source, or {{source: NAME, n_finetune: [...], FIELD: VALUE}}")
    options = {field: item for field, item in value.items() if field not in ("source", "n_finetune")}
    sizes = {"n_finetune": list_of(read_size)("n_finetune", value["n_finetune"])} if "n_finetune" in value else {}
    return {"source": read_text("source", value["source"]), **sizes, **read_fields("finetune", options)}


def read_override(name: str, value: Any) -> dict[str, Any]:
    """An override, with a list for every axis of its `where`."""
    if not isinstance(value, Mapping) or not isinstance(value.get("where"), Mapping) or len(value) < 2:
        raise InputError(f"{name}: {value!r}: write {{where: {{model: vit-30k}}, pretrain: {{learning_rate: 1e-3}}}}")
    _check_keys(value, ("where", "pretrain", "finetune", "processes", "skip"), name)
    _check_keys(value["where"], AXES, f"{name}: where")
    if "pretrain" in value and {"downstream", "n_finetune"} & set(value["where"]):
        raise InputError(f"{name}: downstream and n_finetune match fine-tuning runs: write finetune, not pretrain")
    if value.get("skip", True) is not True:
        raise InputError(f"skip: {value['skip']!r}: write `skip: true` to leave the runs out, or remove the key")
    where = {axis: item if isinstance(item, list) else [item] for axis, item in value["where"].items()}
    override: dict[str, Any] = {"where": where}
    override |= {stage: read_fields(stage, value[stage]) for stage in ("pretrain", "finetune") if stage in value}
    if "processes" in value:
        override["processes"] = read_integer("processes", value["processes"], 1)
    return override | ({"skip": True} if "skip" in value else {})


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "task": read_text,
    "source": read_text,
    "models": list_of(read_text),
    "n_pretrain": list_of(read_pretrain_size),
    "schedule": read_schedule,
    "arms": list_of(read_arm),
    "class_subsets": read_subsets,
    "checkpoints": read_checkpoints,
    "downstream": list_of(read_downstream),
    "n_finetune": list_of(read_size),
    "seeds": list_of(lambda name, value: read_integer(name, value, 0)),
    "pretrain": read_fields,
    "finetune": read_fields,
    "tune": read_tune,
    # An empty list removes those of a file: --set overrides=[].
    "overrides": lambda name, value: [] if value == [] else list_of(read_override)(name, value),
}
