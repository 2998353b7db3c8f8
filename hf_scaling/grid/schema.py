"""A grid's YAML, read and checked key by key, before anything heavy is loaded."""

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_scaling.errors import InputError

#: What a teacher's name may be left out for, or spelt as: no teacher.
PLAIN = "plain"
#: What an override can choose runs by.
AXES = ("model", "n_pretrain", "arm", "teacher", "seed", "checkpoint", "downstream", "n_finetune")

_ALL = "all"
_OWN = {
    "pretrain": ("task", "model", "n_pretrain", "teacher", "rungs", "trunk", "seed", "output_dir", "config"),
    "finetune": ("task", "checkpoint", "n_pretrain", "source", "n_finetune", "seed", "output_dir", "config"),
}
_PLACE = {
    "model": "models",
    "teacher": "arms",
    "rungs": "schedule",
    "trunk": "schedule",
    "seed": "seeds",
    "source": "downstream",
    "checkpoint": "checkpoints",
}
#: How the n_pretrain of one model and seed relate: runs of their own, or branches of one run.
SEPARATE, LADDER = "separate", "ladder"


def check(values: Mapping[str, Any]) -> dict[str, Any]:
    """A grid's content with every key checked, lists where lists belong and defaults where nothing was said.

    Raises:
        InputError: Unknown keys (the nearest known is named), empty or repeated lists, values of the wrong kind, or
            keys that do not go together.
    """
    _known(values, _READERS, "a grid")
    content = {name: read(name, values[name]) for name, read in _READERS.items() if name in values}
    given = "checkpoints" in content
    for name in ("models", "n_pretrain"):
        if (name in content) == given:
            raise InputError(f"{name}: checkpoints stand in its place" if given else f"{name}: missing")
    for name in ("arms", "pretrain", "schedule"):
        if given and name in content:
            raise InputError(f"{name}: the checkpoints given are trained already; leave {name} out")
    if given and "downstream" not in content:
        raise InputError("downstream: missing: checkpoints that are given are there to be fine-tuned")
    if content.get("schedule") == LADDER:
        _check_ladder(content)
    content = {"arms": [{}], "downstream": [], "seeds": [0], "pretrain": {}, "finetune": {}, "overrides": []} | content
    return content | {"downstream": _sizes_of_downstream(content)}


def _check_ladder(content: Mapping[str, Any]) -> None:
    if None in content["n_pretrain"]:
        raise InputError("n_pretrain: the rungs of a ladder are numbers: write one in the place of all")
    for arm in content.get("arms", ()):
        if arm and "/" not in arm["teacher"]:
            raise InputError(
                f"arms: the rungs of a ladder share a trained teacher, a folder or a Hub id: {arm['teacher']} is none"
            )


def _sizes_of_downstream(content: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each downstream set with its own n_finetune or the grid's."""
    if not content["downstream"] and ("n_finetune" in content or content["finetune"]):
        raise InputError("downstream: missing: name the sets to fine-tune on")
    for each in content["downstream"]:
        if "n_finetune" not in each and "n_finetune" not in content:
            raise InputError(f"n_finetune: missing, for downstream {each['source']}")
    return [{"n_finetune": content.get("n_finetune")} | each for each in content["downstream"]]


def _known(values: Mapping[str, Any], known: Sequence[str] | Mapping, what: str) -> None:
    for name in values:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
            meant = f"; did you mean {near[0]}?" if near else f": it has {', '.join(known)}"
            raise InputError(f"unknown key {name!r} in {what}{meant}")


def _list_of(read: Callable[[str, Any], Any]) -> Callable[[str, Any], list]:
    """A reader of a list, not empty and nothing twice; one value alone stands for a list of it."""

    def read_list(name: str, value: Any) -> list:
        values = [read(name, each) for each in (value if isinstance(value, list) else [value])]
        if not values:
            raise InputError(f"{name}: the list is empty")
        for at, each in enumerate(values):
            if each in values[:at]:
                raise InputError(f"{name}: {_ALL if each is None else each} stands there twice")
        return values

    return read_list


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{name}: {value!r} is no name")
    return value.strip()


def _size(name: str, value: Any) -> int | None:
    """A number of images, 1 or more; None for `all`."""
    if value == _ALL:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        hint = "; a pretrained model before fine-tuning is its own row" if name == "n_finetune" and value == 0 else ""
        raise InputError(f"{name}: {value!r} is no number of images or tokens (1 or more, or all){hint}")
    return value


def _whole(name: str, value: Any, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name}: {value!r} must be a whole number, {least} or more")
    return value


def _fields(name: str, value: Any) -> dict[str, Any]:
    """Fields of a recipe: which of them there are the recipe itself checks, where its torch is."""
    if not isinstance(value, Mapping):
        raise InputError(f"{name}: must hold fields of recipes/{name}.py, one `field: value` a line")
    for field in _OWN[name]:
        if field in value:
            place = _PLACE.get(field, field)
            own = (
                f"is said by the grid's {place}" if place not in ("output_dir", "config") else "has no place in a grid"
            )
            raise InputError(f"{name}: {field} {own}")
    if "push_to_hub" in value:
        raise InputError(f"{name}: push_to_hub has no place in a grid: hf-scaling push brings the study to the Hub")
    return dict(value)


def _arm(name: str, value: Any) -> dict[str, Any]:
    """{} for plain, else the teacher and what else its students are told."""
    if value == PLAIN:
        return {}
    if not isinstance(value, Mapping) or "teacher" not in value:
        raise InputError(f"{name}: {value!r}: an arm is `plain`, or holds a teacher: {{teacher: vit-30k, alpha: 0.5}}")
    rest = {field: each for field, each in value.items() if field != "teacher"}
    return {"teacher": _text("teacher", value["teacher"]), **_fields("pretrain", rest)}


def _checkpoint(name: str, value: Any) -> list[dict[str, Any]]:
    """One checkpoint, or as many as there are steps along the pretraining run of one."""
    if not isinstance(value, Mapping) or "checkpoint" not in value:
        raise InputError(f"{name}: {value!r}: write {{checkpoint: FOLDER_OR_HUB_ID[@REVISION], n_pretrain: N}}")
    _known(value, ("checkpoint", "n_pretrain", "steps", "tokens_per_step"), name)
    where = _text("checkpoint", value["checkpoint"])
    if "steps" in value:
        return _along(name, where, value)
    if "n_pretrain" not in value:
        return [{"checkpoint": where}]
    return [{"checkpoint": where, "n_pretrain": _whole("n_pretrain", value["n_pretrain"], 1)}]


def _along(name: str, where: str, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    if "{step}" not in where or "tokens_per_step" not in value or "n_pretrain" in value:
        raise InputError(
            f"{name}: {where}: steps go with {{step}} in the checkpoint's name (@step{{step}}) and tokens_per_step, "
            f"and without n_pretrain"
        )
    steps = _list_of(lambda key, each: _whole(key, each, 1))("steps", value["steps"])
    per_step = _whole("tokens_per_step", value["tokens_per_step"], 1)
    return [{"checkpoint": where.replace("{step}", str(step)), "n_pretrain": step * per_step} for step in steps]


def _checkpoints(name: str, value: Any) -> list[dict[str, Any]]:
    found = [each for given in _list_of(_checkpoint)(name, value) for each in given]
    return _list_of(lambda _, each: each)(name, found)


def _schedule(name: str, value: Any) -> str:
    if value not in (SEPARATE, LADDER):
        raise InputError(
            f"{name}: {value!r}: {SEPARATE} (a run for each n_pretrain) or {LADDER} (branches of one run)"
        )
    return value


def _downstream(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"source": _text(name, value)}
    if not isinstance(value, Mapping) or "source" not in value:
        raise InputError(f"{name}: {value!r}: write a source, or {{source: NAME, n_finetune: [...], FIELD: VALUE}}")
    rest = {field: each for field, each in value.items() if field not in ("source", "n_finetune")}
    sizes = {"n_finetune": _list_of(_size)("n_finetune", value["n_finetune"])} if "n_finetune" in value else {}
    return {"source": _text("source", value["source"]), **sizes, **_fields("finetune", rest)}


def _override(name: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get("where"), Mapping) or len(value) < 2:
        raise InputError(f"{name}: {value!r}: write {{where: {{model: vit-30k}}, pretrain: {{learning_rate: 1e-3}}}}")
    _known(value, ("where", "pretrain", "finetune", "processes", "skip"), name)
    _known(value["where"], AXES, f"{name}: where")
    where = {axis: each if isinstance(each, list) else [each] for axis, each in value["where"].items()}
    read = {"pretrain": _fields, "finetune": _fields, "processes": _processes, "skip": _skip}
    if "pretrain" in value and {"downstream", "n_finetune"} & set(where):
        raise InputError(f"{name}: downstream and n_finetune choose fine-tuning runs: give finetune, not pretrain")
    return {"where": where, **{key: read[key](key, each) for key, each in value.items() if key != "where"}}


def _processes(name: str, value: Any) -> int:
    return _whole(name, value, 1)


def _skip(name: str, value: Any) -> bool:
    if value is not True:
        raise InputError(f"{name}: {value!r}: say `skip: true` to leave the runs out, or nothing")
    return True


_READERS: dict[str, Callable[[str, Any], Any]] = {
    "task": _text,
    "models": _list_of(_text),
    "n_pretrain": _list_of(_size),
    "schedule": _schedule,
    "arms": _list_of(_arm),
    "checkpoints": _checkpoints,
    "downstream": _list_of(_downstream),
    "n_finetune": _list_of(_size),
    "seeds": _list_of(lambda name, value: _whole(name, value, 0)),
    "pretrain": _fields,
    "finetune": _fields,
    "overrides": _list_of(_override),
}
