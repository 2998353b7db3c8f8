"""What may neither go to the Hub nor come from it: weights that are no safetensors, configurations that name code."""

import json
from pathlib import Path

from hf_scaling.errors import InputError


def check_files(folder: Path, name: str | None = None) -> None:
    """Look at a checkpoint's weights and configurations without loading them.

    Args:
        folder: Where they lie.
        name: How messages call the place; the folder's path when None.

    Raises:
        InputError: Weights that are no safetensors file, JSON that is none, or one that names code to be run.
    """
    place = name or str(folder)
    for path in sorted(folder.glob("*.safetensors")):
        _check_weights(path, f"{place}/{path.name}")
    for path in sorted(folder.glob("*.json")):
        _check_configuration(path, f"{place}/{path.name}")


def _check_weights(path: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise InputError(f"{name} is no safetensors file and is not sent or taken: {error}") from None


def _check_configuration(path: Path, name: str) -> None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{name} is not JSON and is not sent or taken: {error}") from None
    if isinstance(content, dict) and "auto_map" in content:
        raise InputError(f"{name} names code to be run where it is loaded (auto_map) and is not sent or taken")
