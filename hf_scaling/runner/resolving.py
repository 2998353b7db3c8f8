"""The process that resolves a grid's runs: a question as JSON on stdin, the answer as JSON on stdout.

Torch and timm take seconds to load and hundreds of megabytes to hold, which is why this is a process of its own, and
why an answer is remembered: it is given again, without them, as long as the code, the libraries, the sources and the
checkpoints are what they were.
"""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hf_scaling
from hf_scaling import data, files, hub
from hf_scaling.data.cache import cache_root
from hf_scaling.errors import InputError
from hf_scaling.grid import content_hash

# Of ours, what ids and costs follow from; a change of the deciding half changes neither.
_CODE = ("grid", "data", "models", "tasks", "distillation", "training")
_LIBRARIES = ("torch", "transformers", "tokenizers", "timm", "accelerate", "datasets")


def main() -> None:
    """Answer one question."""
    # An interrupt is the asking process's to report.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    answer_to = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    try:
        answer = {"runs": resolve(json.load(sys.stdin))}
    except InputError as error:
        answer = {"error": str(error)}
    json.dump(answer, answer_to)
    answer_to.close()


def resolve(question: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The planned runs of `question` (keys runs, fill, guess), remembered or worked out.

    Raises:
        InputError: What `Planner.plan` refuses.
    """
    memory = cache_root(None) / "plans" / f"{content_hash(_basis(question))}.json"
    remembered = _read(memory)
    if remembered is not None and _still_true(remembered, question):
        return remembered["runs"]
    from hf_scaling.training.resolve import Planner

    planner = Planner(question["fill"], question["guess"])
    runs = [each.to_dict() for each in planner.plan(question["runs"])]
    if not any(each["provisional"] for each in runs):
        checkpoints = {where: _stamp(where) for where in planner.checkpoints}
        content = {"sources": planner.sources, "checkpoints": checkpoints, "runs": runs}
        # A cache that cannot be written costs time, not the answer.
        with contextlib.suppress(OSError):
            files.write_text(memory, json.dumps(content))
    return runs


def _basis(question: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan follows from, sources and checkpoints apart."""
    home = Path(hf_scaling.__file__).parent
    files_of_ours = sorted(each for part in _CODE for each in (home / part).rglob("*.py"))
    code = [[str(each.relative_to(home)), *_size_and_time(each)] for each in files_of_ours]
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION")
    return {
        "runs": question["runs"],
        "code": code,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "precision": precision,
    }


def _read(memory: Path) -> dict[str, Any] | None:
    try:
        return json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _still_true(remembered: Mapping[str, Any], question: Mapping[str, Any]) -> bool:
    """Whether the sources and checkpoints are what they were; fills the sources' caches if asked to."""
    try:
        for each in remembered["sources"]:
            facts = asdict(data.source_facts(each["data"], each["arguments"], question["fill"]))
            if facts != each["facts"] and not _only_counted(each["facts"], facts):
                return False
        return all(_stamp(where) == stamp for where, stamp in remembered["checkpoints"].items())
    except InputError:
        if question["guess"]:
            return False
        raise


def _only_counted(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Whether a source is the same, and was counted before but is not now: its cache has gone."""
    same = all(before[name] == now[name] for name in ("name", "fingerprint", "n_classes"))
    return same and now["n_train"] is None and now["n_test"] is None


def _stamp(where: str) -> Any:
    """What changes when a checkpoint does: sizes and times of a folder's files, or the commit of a Hub id."""
    path = Path(where)
    if path.exists():
        return [[each.name, *_size_and_time(each)] for each in sorted(path.iterdir()) if each.is_file()]
    repository, _, revision = where.partition("@")
    return hub.download(repository, revision=revision or None, allow_patterns=["config.json"]).name


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


if __name__ == "__main__":
    main()
