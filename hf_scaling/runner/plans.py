"""Plans of grids, kept in the cache: a grid that was planned before is planned again without loading torch.

A kept plan is used as long as the code, the libraries, the sources and the checkpoints are what they were.
`python -m hf_scaling.runner.plans` answers the request `plan` of `grid.resolver`.
"""

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hf_scaling
from hf_scaling import data, files, hub
from hf_scaling.data.cache import cache_root
from hf_scaling.errors import InputError
from hf_scaling.grid import content_hash
from hf_scaling.processes import serve

#: The packages that ids and costs depend on; a change in the deciding half affects neither.
_PACKAGES = ("grid", "data", "models", "tasks", "distillation", "training")
_LIBRARIES = ("torch", "transformers", "tokenizers", "timm", "accelerate", "datasets")


def plan_runs(runs: Sequence[Mapping[str, Any]], fill: bool, guess: bool) -> list[dict[str, Any]]:
    """Plan written runs: from the cache where they were planned before, else by resolving them.

    Args:
        runs: As `grid.resolver.to_json` gives them.
        fill, guess: As in `Grid.plan`.

    Returns:
        The runs as `PlannedRun.to_dict` gives them, each once and after the runs it depends on.

    Raises:
        InputError: See `Grid.plan`.
    """
    package = Path(hf_scaling.__file__).parent
    modules = sorted(path for name in _PACKAGES for path in (package / name).rglob("*.py"))
    # What a plan depends on, apart from the sources and checkpoints.
    basis = {
        "runs": runs,
        "code": [[str(path.relative_to(package)), *_size_and_time(path)] for path in modules],
        "libraries": {name: version(name) for name in _LIBRARIES},
        "precision": os.environ.get("ACCELERATE_MIXED_PRECISION"),
    }
    path = cache_root(None) / "plans" / f"{content_hash(basis)}.json"
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        kept = None
    opened: dict[tuple, Any] = {}
    if kept is not None and _is_current(kept, fill, guess, opened):
        return kept["runs"]
    from hf_scaling import training

    cache = training.ProcessCache(fill, guess, opened)
    planned = [run.to_dict() for run in training.resolve_runs(runs, cache)]
    if not any(run["provisional"] for run in planned):
        checkpoints = {where: _state(where) for where in cache.checkpoints}
        content = {"sources": cache.sources, "checkpoints": checkpoints, "runs": planned}
        # A cache that cannot be written to costs time, not the plan.
        with contextlib.suppress(OSError):
            files.write_text(path, json.dumps(content))
    return planned


def _is_current(kept: Mapping[str, Any], fill: bool, guess: bool, opened: dict[tuple, Any]) -> bool:
    """Whether the sources (whose caches are filled where `fill` is set) and checkpoints of a plan are unchanged.

    The sources that it opens are added to `opened`.
    """
    try:
        for source in kept["sources"]:
            before = source["facts"]
            now = asdict(data.source_facts(source["data"], source["arguments"], fill, opened))
            # The counts are missing where the cache of the source has been removed since.
            counted = now["n_train"] is not None or now["n_test"] is not None
            if any(now[name] != before[name] for name in (now if counted else ("name", "fingerprint", "n_classes"))):
                return False
        return all(_state(where) == state for where, state in kept["checkpoints"].items())
    except InputError:
        if guess:
            return False
        raise


def _state(checkpoint: str) -> list[Any] | str:
    """What changes when a checkpoint does: sizes and times of a folder's files, or the commit of a Hub id."""
    path = Path(checkpoint)
    if path.exists():
        return [[file.name, *_size_and_time(file)] for file in sorted(path.iterdir()) if file.is_file()]
    repository, _, revision = checkpoint.partition("@")
    return hub.download(repository, revision=revision or None, allow_patterns=["config.json"]).name


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


if __name__ == "__main__":
    serve({"plan": plan_runs})
