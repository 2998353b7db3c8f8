"""What a checkpoint of somebody else's may not ask for: code of its own, or files other than its own."""

import json
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError

# What timm would load weights or settings from that lie elsewhere.
_ELSEWHERE = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir")


def refuse_code(folder: Path, name: str) -> None:
    """Refuse a checkpoint whose configuration names code to be run, or files that are not its own.

    transformers would ask on the terminal whether to run it; `trust_remote_code` is never set here, and nobody is
    asked.

    Args:
        folder: The checkpoint.
        name: What messages call it.

    Raises:
        InputError: Says which file asks for what, or which is no JSON.
    """
    for path in sorted(folder.glob("*.json")):
        content = _read(path, name)
        if not isinstance(content, dict):
            continue
        if content.get("auto_map"):
            raise InputError(
                f"{name} asks for code of its own to be run (auto_map in {path.name}): "
                f"only architectures of transformers and timm are loaded"
            )
        if path.name == "config.json":
            _refuse_elsewhere(content, name)


def _refuse_elsewhere(config: dict[str, Any], name: str) -> None:
    architecture, arguments = config.get("architecture"), config.get("model_args")
    if isinstance(architecture, str) and (":" in architecture or "/" in architecture):
        raise InputError(f"{name}: its config names the architecture {architecture!r}, which lies elsewhere")
    named = [key for key in _ELSEWHERE if isinstance(arguments, dict) and arguments.get(key)]
    if named:
        raise InputError(f"{name}: its config has timm load {named[0]} from elsewhere: remove it from model_args")


def _read(path: Path, name: str) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{name}: {path.name} is not JSON: {error}") from None
