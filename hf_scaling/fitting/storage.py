"""A fit on disk and on the Hub: law.json of plain numbers, draws in safetensors, a card. Nothing of it is executed."""

import json
import math
from pathlib import Path

import numpy as np

from hf_scaling import files, hub
from hf_scaling.errors import InputError
from hf_scaling.fitting.card import card_values
from hf_scaling.fitting.law_fit import LawFit
from hf_scaling.hub.cards import render_card, renew_card
from hf_scaling.laws import Law

FORMAT = "hf_scaling.law"
VERSION = 1
_LAW_FILE, _DRAWS_FILE, _CARD, _FIGURE = "law.json", "draws.safetensors", "README.md", "figure.png"
# A fit of seven parameters is a few kilobytes; anything near this is not one.
_LARGEST_JSON = 4_000_000


def save(fit: LawFit, folder) -> None:
    """Write a fit into a folder; each file is replaced atomically, law.json last."""
    folder = Path(folder)
    content = _contents(fit, "PATH_OR_HUB_ID")
    for name in sorted(content, key=lambda each: each == _LAW_FILE):
        with files.replacing(folder / name) as path:
            path.write_bytes(content[name])


def load(where, revision: str | None = None) -> LawFit:
    """Read a fit from a folder or a Hub id.

    Raises:
        InputError: There is no law there, or its files are damaged, of a newer version or not what they say.
    """
    repo_id, _, written = (str(where), "", "") if Path(where).exists() else str(where).partition("@")
    folder = hub.local_folder(repo_id, revision=revision or written or None, allow_patterns=[_LAW_FILE, _DRAWS_FILE])
    try:
        return _read(folder)
    except InputError as error:
        # The place that was asked for says more than one in the cache.
        raise InputError(str(error).replace(str(folder), str(where))) from None


def _read(folder: Path) -> LawFit:
    content = _read_json(folder / _LAW_FILE)
    arrays = _read_arrays(folder / _DRAWS_FILE)
    try:
        return _from_dict(content, arrays, "")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{folder / _LAW_FILE} is not a whole law: {type(error).__name__} {error}") from None


def push(
    fit: LawFit, repo_id: str, private: bool | None, dry_run: bool, dataset: str | None
) -> "hub.Commit | hub.Planned":
    """Write a fit into a model repository of the Hub; see `LawFit.push_to_hub`."""
    made = _contents(fit, repo_id, dataset)

    def prepare(base: "hub.RemoteFolder") -> list:
        from huggingface_hub import CommitOperationAdd

        if "config.json" in base.files:
            raise InputError(f"{repo_id} holds a model (config.json): push the law to a repository of its own")
        old = base.read(_CARD).decode("utf-8", "replace") if _CARD in base.files else ""
        card = renew_card(old, made[_CARD].decode(), repo_id)
        return [CommitOperationAdd(name, content) for name, content in {**made, _CARD: card.encode()}.items()]

    return hub.commit(repo_id, "model", prepare, f"{fit.law} for {fit.settings['target']}", private, dry_run)


def _contents(fit: LawFit, where: str, dataset: str | None = None) -> dict[str, bytes]:
    """File name -> content; `where` is what the card's example loads, `dataset` the rows' place on the Hub."""
    from safetensors.numpy import save as to_bytes

    from hf_scaling.fitting.card import draw_fit

    content = {"format": FORMAT, "version": VERSION, **_to_dict(fit)}
    return {
        _DRAWS_FILE: to_bytes(_arrays(fit, "")),
        _FIGURE: draw_fit(fit),
        _CARD: render_card("scaling_law", *card_values(fit, where, _FIGURE, dataset)).encode(),
        _LAW_FILE: (json.dumps(_plain(content), indent=1, allow_nan=False) + "\n").encode(),
    }


def _to_dict(fit: LawFit) -> dict:
    return {
        "law": fit.law,
        "status": fit.status,
        "params": fit.params,
        "intervals": {name: list(ends) for name, ends in fit.intervals.items()},
        "scores": fit.scores,
        "notes": fit.notes,
        "settings": fit.settings,
        "data": fit.data,
        "definition": fit.definition.to_dict() if fit.definition else None,
        "weights": fit.weights,
        "members": [_to_dict(member) for member in fit.members],
    }


def _from_dict(content: dict, arrays: dict[str, np.ndarray], prefix: str) -> LawFit:
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
    )
    if definition and fit.draws.shape[1:] != (len(definition.parameters),):
        raise InputError(f"{_DRAWS_FILE} holds draws of another law than {fit.law}")
    return fit


def _arrays(fit: LawFit, prefix: str) -> dict[str, np.ndarray]:
    found = {f"{prefix}draws": np.ascontiguousarray(fit.draws), f"{prefix}noise": np.ascontiguousarray(fit.noise)}
    for i, member in enumerate(fit.members):
        found |= _arrays(member, f"{prefix}{i}.")
    return found


def _read_json(path: Path) -> dict:
    if not path.is_file():
        raise InputError(f"{path.parent} holds no law: there is no {path.name} in it")
    if path.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{path} is too large for a law: {path.stat().st_size} bytes")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise InputError(f"{path} is not a law kept by hf_scaling: its format is not {FORMAT!r}")
    version = content.get("version")
    if not isinstance(version, int) or version > VERSION:
        raise InputError(f"{path} has version {version}; this hf_scaling reads up to {VERSION}: install a newer one")
    return content


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    if not path.is_file():
        raise InputError(f"{path.parent} holds no draws: there is no {path.name} in it")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is not a safetensors file: {error}") from None


def _plain(value):
    """Numbers, texts, lists and mappings only; infinities as text, since JSON has none."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bool) or value is None or isinstance(value, str | int):
        return value
    value = float(value)
    return value if math.isfinite(value) else repr(value)


def _restored(value):
    """The inverse of `_plain` for infinities and the pairs that JSON made lists of."""
    if isinstance(value, dict):
        return {key: _restored(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_restored(item) for item in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
