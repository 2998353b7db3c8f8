"""A fit as files: law.json (plain numbers), the draws as safetensors, a card and its figure."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from hf_scaling import files
from hf_scaling.errors import InputError
from hf_scaling.fitting.curves import CurveFits
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.laws import Law

FORMAT, VERSION = "hf_scaling.law", 1
#: The files of a stored law.
LAW_FILE, DRAWS_FILE, CARD, FIGURE = "law.json", "draws.safetensors", "README.md", "figure.png"
# The fields of a LawFit that law.json holds as they are.
_PLAIN_FIELDS = ("law", "status", "params", "intervals", "scores", "notes", "settings", "data", "weights")
# A fit of seven parameters is a few kilobytes; a file of this size is no law.
_LARGEST_JSON = 4_000_000


def fit_files(fit: LawFit, where: str, dataset: str | None = None) -> dict[str, bytes]:
    """The files that store a fit: name to content.

    Args:
        fit: The fit.
        where: What the card's example loads.
        dataset: The rows' repository on the Hub, which the card links.
    """
    from safetensors.numpy import save as to_bytes

    from hf_scaling.fitting.card import card_values, draw_fit
    from hf_scaling.hub.cards import render_card

    content = {"format": FORMAT, "version": VERSION, **_to_dict(fit)}
    return {
        DRAWS_FILE: to_bytes(_arrays(fit, "")),
        FIGURE: draw_fit(fit),
        CARD: render_card("scaling_law", *card_values(fit, where, FIGURE, dataset)).encode(),
        LAW_FILE: (json.dumps(_plain(content), indent=1, allow_nan=False) + "\n").encode(),
    }


def _to_dict(fit: LawFit) -> dict[str, Any]:
    curves = {} if fit.pooled is None else {"curves": fit.pooled.to_dict()}
    return {
        **{name: getattr(fit, name) for name in _PLAIN_FIELDS},
        "definition": fit.definition.to_dict() if fit.definition else None,
        "members": [_to_dict(member) for member in fit.members],
        **curves,
    }


def _arrays(fit: LawFit, prefix: str) -> dict[str, np.ndarray]:
    arrays = {f"{prefix}draws": np.ascontiguousarray(fit.draws), f"{prefix}noise": np.ascontiguousarray(fit.noise)}
    if fit.pooled is not None:
        arrays |= {f"{prefix}{name}": values for name, values in fit.pooled.arrays().items()}
    for i, member in enumerate(fit.members):
        arrays |= _arrays(member, f"{prefix}{i}.")
    return arrays


def read_fit(folder: Path) -> LawFit:
    """Read a fit from the files that `fit_files` describes; nothing in them is executed.

    Raises:
        InputError: A file is missing, damaged, of a newer version, or not of a law.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path, draws = folder / LAW_FILE, folder / DRAWS_FILE
    if not path.is_file():
        raise InputError(f"{folder} holds no law: there is no {LAW_FILE} in it")
    if path.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{path} is too large for a law: {path.stat().st_size} bytes")
    content = files.parse_json(path.read_bytes(), str(path), FORMAT, VERSION)
    if not draws.is_file():
        raise InputError(f"{folder} holds no draws: there is no {DRAWS_FILE} in it")
    try:
        arrays = load_file(draws)
    except SafetensorError as error:
        raise InputError(f"{draws} is not a safetensors file: {error}") from None
    try:
        return _from_dict(content, arrays, "")
    except InputError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{path} is not a complete law: {type(error).__name__} {error}") from None


def _from_dict(content: dict[str, Any], arrays: dict[str, np.ndarray], prefix: str) -> LawFit:
    definition = Law.from_dict(content["definition"]) if content["definition"] else None
    members = [_from_dict(m, arrays, f"{prefix}{i}.") for i, m in enumerate(content["members"])]
    content = _restored(content)
    fit = LawFit(
        law=str(content["law"]),
        status=str(content["status"]),
        params={str(name): float(value) for name, value in content["params"].items()},
        intervals={name: (float(low), float(high)) for name, (low, high) in content["intervals"].items()},
        scores=content["scores"],
        notes=content["notes"],
        settings=content["settings"],
        data=content["data"],
        definition=definition,
        draws=arrays[f"{prefix}draws"],
        noise=arrays[f"{prefix}noise"],
        members=tuple(members),
        weights={str(name): float(value) for name, value in content["weights"].items()},
        pooled=CurveFits.from_dict(content["curves"], arrays, prefix) if "curves" in content else None,
    )
    if definition and fit.draws.shape[1:] != (len(definition.parameters),):
        raise InputError(f"{DRAWS_FILE} holds the draws of another law than {fit.law}")
    return fit


def _plain(value: Any) -> Any:
    """The value as numbers, texts, lists and mappings; infinities and NaN as text, since JSON has none."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value) if math.isfinite(value) else repr(float(value))


def _restored(value: Any) -> Any:
    """The value with infinities and NaN as floats again."""
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
