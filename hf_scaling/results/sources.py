"""`sources.json` of a study folder: how many images, labels and classes the sources of its grids have.

    {"glyphs": {"train": null, "test": 10000, "classes": 62}, "digits": {"train": 1297, "test": 500, "classes": 10}}

`train` is the most that a run of the grid can train on (null: any number), in images, or tokens of text.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from filelock import FileLock

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.grid import PlannedRun

NAME = "sources.json"


def record_sources(study: Path, runs: Iterable[PlannedRun]) -> None:
    """Write the sources of planned runs that have been counted into a study's sources.json, in place of older counts.

    Args:
        study: The folder.
        runs: Of one grid. Where they use parts of a source, such as some of its classes, the smallest counts.
    """
    found: dict[str, dict[str, int | None]] = {}
    for run in runs:
        if run.source_parts is None:
            continue
        name, counts = run.spec.source["name"], {**run.source_parts, "classes": run.spec.n_classes}
        before = found.get(name, counts)
        found[name] = {
            part: min((n for n in (before[part], count) if n is not None), default=None)
            for part, count in counts.items()
        }
    if not found:
        return
    with FileLock(study / "claims" / ".sources.lock"):
        path = study / NAME
        recorded = read_sources(study) if path.is_file() else {}
        if recorded | found != recorded:
            files.write_text(path, json.dumps(recorded | found, indent=1, ensure_ascii=False) + "\n")


def read_sources(study: str | Path) -> dict[str, dict[str, int | None]]:
    """Name -> `train`, `test` and `classes` of the counted sources of a study; empty where there is no sources.json.

    Raises:
        InputError: The file is damaged.
    """
    path = Path(study) / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not readable: {error}; remove it, `hf-scaling run` writes it again") from None
    if isinstance(content, dict):
        for name, counts in content.items():
            train = counts.get("train", 0) if isinstance(counts, Mapping) else 0
            if train is not None and (isinstance(train, bool) or not isinstance(train, int) or train < 1):
                raise InputError(f"{path}: {name}: train must be a whole number above 0, or null for any number")
        return content
    raise InputError(f"{path}: must map the name of each source to its counts")
