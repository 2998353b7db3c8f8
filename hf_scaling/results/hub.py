"""Tables of the Hub: found by a data set's card, merged with what is there, never less than what was there."""

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hf_scaling import hub
from hf_scaling.errors import InputError
from hf_scaling.hub import cards
from hf_scaling.results.card import draw, file_of, write_card
from hf_scaling.results.files import concatenate, read_bytes, read_files, to_parquet, unique
from hf_scaling.results.schema import is_ours

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from huggingface_hub import CommitOperation

DEFAULT_CONFIG = "default"
_CARD = "README.md"
# Where a repository whose card names no tables may hold one; the first pattern that something matches counts.
_USUAL = (["results/*.parquet"], ["data/*.parquet"], ["*.parquet"], ["*.csv"])
_CONFIG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def fetch(where: str, revision: str | None, config_name: str) -> "pyarrow.Table":
    """The rows of a table of the Hub.

    Args:
        where: `org/name`, a data set or else a model; `org/name@revision`.
        revision: Branch, tag or commit.
        config_name: Which of the data set's tables.

    Raises:
        InputError: Offline, nothing there, no such table, or what it holds is refused.
    """
    repo_id, _, written = where.partition("@")
    if not hub.is_hub_id(repo_id):
        raise InputError(f"{where}: no such file or folder, and no Hub id (org/name)")
    revision = revision or written or None
    repo_type, folder = _download_card(repo_id, revision)
    card = (folder / _CARD).read_text(encoding="utf-8") if (folder / _CARD).is_file() else ""
    # The commit that the card is of: what is pushed meanwhile may lie elsewhere.
    commit = folder.name
    for patterns in _patterns(card, config_name, repo_id):
        folder = hub.download(repo_id, repo_type=repo_type, revision=commit, allow_patterns=patterns)
        names = [each.relative_to(folder).as_posix() for each in sorted(folder.rglob("*")) if each.is_file()]
        found = _matching(names, patterns)
        if found:
            return read_files([folder / name for name in found], [f"{repo_id}/{name}" for name in found])
    raise InputError(f"{where} holds no results: no .parquet and no .csv file")


def push(
    table: "pyarrow.Table",
    repo_id: str,
    private: bool | None,
    config_name: str,
    dry_run: bool,
    beside: Mapping[str, bytes],
) -> "hub.Commit | hub.Planned":
    """Merge a table, in today's schema, into a data set of the Hub; see `ResultsTable.push_to_hub`."""
    if not _CONFIG.fullmatch(config_name) or config_name == "results":
        raise InputError(f"config_name {config_name!r}: give letters, digits, - and _, and not results")
    work = _Merge(table, repo_id, config_name, beside)
    message = f"Merge {len(table)} results{'' if config_name == DEFAULT_CONFIG else f' into {config_name}'}"
    return hub.commit(repo_id, "dataset", work.prepare, message, private=private, dry_run=dry_run)


class _Merge:
    """What one push changes in a data set, worked out anew whenever somebody else was there first."""

    def __init__(self, table: "pyarrow.Table", repo_id: str, config_name: str, beside: Mapping[str, bytes]):
        self.table, self.repo_id, self.config_name, self.beside = table, repo_id, config_name, beside
        # A figure takes longer than all the rest, and most tries come to the same rows.
        self._drawn: dict[bytes, bytes | None] = {}

    def prepare(self, base: "hub.RemoteFolder") -> "list[CommitOperation]":
        """The operations that merge the rows into what `base` holds."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        card = base.read(_CARD).decode("utf-8", "replace") if _CARD in base.files else ""
        places = _places(card, base.files, self.repo_id)
        here = places.get(self.config_name, [])
        merged = unique(
            concatenate([*(self._rows_there(base, name) for name in here), self.table]),
            f"{self.repo_id} and the rows pushed",
        )
        content = self._content(base, places, merged, card)
        gone = [name for name in here if name not in content]
        return [
            *(CommitOperationAdd(name, each) for name, each in content.items()),
            *(CommitOperationDelete(name) for name in gone),
        ]

    def _rows_there(self, base: "hub.RemoteFolder", name: str) -> "pyarrow.Table":
        table = read_bytes(base.read(name), name)
        if not is_ours(table.column_names):
            raise InputError(
                f"{self.repo_id}: {name} is no results table, it has {', '.join(table.column_names)}: "
                f"push to another repository, or under another config_name"
            )
        return table

    def _content(self, base, places: dict[str, list[str]], merged: "pyarrow.Table", card: str) -> dict[str, bytes]:
        """Path -> content of what a push writes."""
        frames = self._others(base, places) | {self.config_name: merged.to_pandas()}
        rows = to_parquet(merged)
        if rows not in self._drawn:
            self._drawn[rows] = draw(frames[self.config_name])
        figure = self._drawn[rows]
        content = {file_of(self.config_name): rows}
        content |= {_figure_of(self.config_name): figure} if figure else {}
        content |= self.beside
        there = {*base.files, *content}
        figures = {name: _figure_of(name) for name in frames if _figure_of(name) in there}
        configs = _configs_with(card, places, self.config_name, self.repo_id)
        new = write_card(self.repo_id, self.config_name, frames, figures, configs, "grid.yaml" in there)
        kept = _without_counts(card, self.config_name, self.repo_id)
        return content | {_CARD: cards.renew_card(kept, new, self.repo_id).encode()}

    def _others(self, base: "hub.RemoteFolder", places: dict[str, list[str]]) -> "dict[str, pandas.DataFrame]":
        """The other tables that pushes like this one wrote; what others put there is left alone."""
        names = [name for name, found in places.items() if found == [file_of(name)] and name != self.config_name]
        tables = {name: read_bytes(base.read(file_of(name)), file_of(name)) for name in names}
        return {name: table.to_pandas() for name, table in tables.items() if is_ours(table.column_names)}


def _places(card: str, names: Collection[str], where: str) -> dict[str, list[str]]:
    """The tables that a data set holds: name of the config -> its files."""
    written = _written_configs(card, where)
    if written:
        return {name: _matching(names, patterns) for name, patterns in written.items()}
    usual = next((found for patterns in _USUAL if (found := _matching(names, patterns))), [])
    return {DEFAULT_CONFIG: usual} if usual else {}


def _configs_with(card: str, places: dict[str, list[str]], config_name: str, where: str) -> list[dict[str, Any]]:
    """The head's `configs`: those that are there as they are written, and the one that is pushed."""
    written = cards.read_card(card, where)[0].get("configs") or []
    if not written:
        # As soon as a card names one table, the Hub no longer sees those that it does not name.
        written = [_config(name, found) for name, found in places.items()]
    kept = [each for each in written if str(each["config_name"]) != config_name]
    ours = _config(config_name, [file_of(config_name)])
    return sorted([*kept, ours], key=lambda each: each["config_name"] != DEFAULT_CONFIG)


def _without_counts(card: str, config_name: str, where: str) -> str:
    """A card without the number of rows that `Dataset.push_to_hub` wrote of a table: loading would insist on it."""
    head, body = cards.read_card(card, where)
    if "dataset_info" not in head:
        return card
    told = head.pop("dataset_info")
    told = told if isinstance(told, list) else [told]
    named = [each for each in told if isinstance(each, dict)]
    others = [each for each in named if each.get("config_name", DEFAULT_CONFIG) != config_name]
    return cards.with_head(head | ({"dataset_info": others} if others else {}), body)


def _config(name: str, found: list[str]) -> dict[str, Any]:
    return {"config_name": name, "data_files": [{"split": "train", "path": found[0] if len(found) == 1 else found}]}


def _patterns(card: str, config_name: str, where: str) -> list[list[str]]:
    """Where to look for a table: the first of these lists that matches a file says it."""
    written = _written_configs(card, where)
    if not written and config_name == DEFAULT_CONFIG:
        return list(_USUAL)
    if config_name not in written:
        raise InputError(f"{where} holds no table {config_name!r}: it has {', '.join(written) or DEFAULT_CONFIG}")
    return [written[config_name]]


def _written_configs(card: str, where: str) -> dict[str, list[str]]:
    """What a card says of its tables: name of the config -> patterns of its files."""
    configs = cards.read_card(card, where)[0].get("configs") or []
    try:
        found = {str(each["config_name"]): _flat(each.get("data_files", [])) for each in configs}
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{where}: the configs in the head of README.md are not what the Hub takes") from None
    for pattern in (each for patterns in found.values() for each in patterns):
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or ":" in pattern:
            raise InputError(f"{where}: README.md names the file {pattern!r}, which is outside of the repository")
    return found


def _flat(data_files: Any) -> list[str]:
    """`data_files` as the Hub takes it (a pattern, several, or splits with theirs) as a list of patterns."""
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        return _flat(data_files["path"]) if "path" in data_files else _flat(list(data_files.values()))
    return [pattern for each in data_files for pattern in _flat(each)]


def _matching(names: Collection[str], patterns: list[str]) -> list[str]:
    return sorted(name for name in names if any(_matches(name, pattern) for pattern in patterns))


def _matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a file; only ** reaches across folders."""
    return fnmatchcase(name, pattern) and ("**" in pattern or name.count("/") == pattern.count("/"))


def _figure_of(config_name: str) -> str:
    return f"figures/{config_name}.png"


def _download_card(repo_id: str, revision: str | None) -> tuple[str, Path]:
    """The kind of repository, a data set before a model, and its snapshot with the card."""
    try:
        return "dataset", hub.download(repo_id, repo_type="dataset", revision=revision, allow_patterns=[_CARD])
    except InputError as as_dataset:
        if "is not on the Hub" not in str(as_dataset):
            # The name may as well have been meant as a path, misspelt.
            raise InputError(f"{repo_id}: no such file or folder here; as a Hub id: {as_dataset}") from as_dataset
        return "model", hub.download(repo_id, repo_type="model", revision=revision, allow_patterns=[_CARD])
