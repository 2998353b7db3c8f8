"""Results tables on the Hub: found by the card of a data set, and merged with the rows that are there."""

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from hf_scaling import hub
from hf_scaling.errors import InputError
from hf_scaling.hub import cards
from hf_scaling.results.card import draw, file_of, write_card
from hf_scaling.results.files import concatenate, drop_repeats, read_bytes, read_files, to_parquet
from hf_scaling.results.schema import has_results_columns
from hf_scaling.text import listing

if TYPE_CHECKING:
    import pandas
    import pyarrow
    from huggingface_hub import CommitOperation

DEFAULT_CONFIG = "default"
_CARD = "README.md"
# Where a table may be in a repository whose card names none; the first list that matches a file counts.
_USUAL = (["results/*.parquet"], ["data/*.parquet"], ["*.parquet"], ["*.csv"])
_CONFIG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


def download_table(where: str, revision: str | None, config_name: str) -> "pyarrow.Table":
    """Download a table.

    Args:
        where: `org/name` of a data set or else of a model; `org/name@revision`.
        revision: Branch, tag or commit; the head of main when None.
        config_name: Which of the tables of the data set.

    Raises:
        InputError: Offline, no such repository or table, or a table that is refused.
    """
    repo_id, _, written_revision = where.partition("@")
    if not hub.is_hub_id(repo_id):
        raise InputError(f"{where}: no such file or folder, and not a Hub id (org/name)")
    repo_type, folder = _download_card(repo_id, revision or written_revision or None)
    card = (folder / _CARD).read_text(encoding="utf-8") if (folder / _CARD).is_file() else ""
    written = _written_configs(card, repo_id)
    known = list(written) or [DEFAULT_CONFIG]
    if config_name not in known:
        raise InputError(f"{repo_id} has no table {config_name!r}: it has {listing(known)}")
    # Of the same commit as the card: a push in between may move the files.
    commit = folder.name
    for patterns in [written[config_name]] if written else _USUAL:
        folder = hub.download(repo_id, repo_type=repo_type, revision=commit, allow_patterns=patterns)
        paths = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
        if names := _matching(paths, patterns):
            return read_files([folder / name for name in names], [f"{repo_id}/{name}" for name in names])
    raise InputError(f"{where} holds no results: no .parquet and no .csv file")


def _download_card(repo_id: str, revision: str | None) -> tuple[str, Path]:
    """The type of the repository, a data set before a model, and its snapshot with the card."""
    try:
        return "dataset", hub.download(repo_id, repo_type="dataset", revision=revision, allow_patterns=[_CARD])
    except hub.NotOnHubError:
        return "model", hub.download(repo_id, repo_type="model", revision=revision, allow_patterns=[_CARD])
    except InputError as error:
        # The name may also be a misspelt path.
        raise InputError(f"{repo_id}: no such file or folder here; as a Hub id: {error}") from error


def push_table(
    table: "pyarrow.Table",
    repo_id: str,
    config_name: str,
    beside: Mapping[str, bytes],
    private: bool | None,
    dry_run: bool,
) -> "hub.Commit | hub.Planned":
    """Merge a table of the current schema into a data set on the Hub: `ResultsTable.push_to_hub` says how."""
    if not _CONFIG.fullmatch(config_name) or config_name == "results":
        raise InputError(f"config_name {config_name!r}: use letters, digits, - and _, and a name other than results")
    merge = _Merge(table, repo_id, config_name, beside)
    message = f"Merge {len(table)} results{'' if config_name == DEFAULT_CONFIG else f' into {config_name}'}"
    return hub.commit(repo_id, "dataset", merge.prepare, message, private=private, dry_run=dry_run)


class _Merge:
    """The changes that one push makes to a data set; worked out again whenever another commit came first."""

    def __init__(self, table: "pyarrow.Table", repo_id: str, config_name: str, beside: Mapping[str, bytes]):
        self.table, self.repo_id, self.config_name, self.beside = table, repo_id, config_name, beside
        # Drawing takes longer than all the rest, and most attempts end with the same rows.
        self._figures: dict[bytes, bytes | None] = {}

    def prepare(self, base: "hub.RemoteFolder") -> "list[CommitOperation]":
        """The operations that merge the rows into the data set at `base`."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        card = base.read(_CARD).decode("utf-8", "replace") if _CARD in base.files else ""
        places = _places(card, base.files, self.repo_id)
        old_names = places.get(self.config_name, [])
        tables = [read_bytes(base.read(name), name) for name in old_names]
        for name, table in zip(old_names, tables):
            if not has_results_columns(table.column_names):
                raise InputError(
                    f"{self.repo_id}: {name} is not a results table, its columns are {', '.join(table.column_names)}: "
                    f"push to another repository, or under another config_name"
                )
        merged = drop_repeats(concatenate([*tables, self.table]), f"{self.repo_id} and the rows pushed")
        content = self._content(base, places, merged, card)
        return [
            *(CommitOperationAdd(name, file) for name, file in content.items()),
            *(CommitOperationDelete(name) for name in old_names if name not in content),
        ]

    def _content(
        self, base: "hub.RemoteFolder", places: Mapping[str, list[str]], merged: "pyarrow.Table", card: str
    ) -> dict[str, bytes]:
        """Path -> content of the files that the push writes."""
        frames = self._other_frames(base, places) | {self.config_name: merged.to_pandas()}
        rows = to_parquet(merged)
        if rows not in self._figures:
            self._figures[rows] = draw(frames[self.config_name])
        content = {file_of(self.config_name): rows, **self.beside}
        if figure := self._figures[rows]:
            content[f"figures/{self.config_name}.png"] = figure
        paths = {*base.files, *content}
        figures = {name: path for name in frames if (path := f"figures/{name}.png") in paths}
        configs = _merged_configs(card, places, self.config_name, self.repo_id)
        new_card = write_card(self.repo_id, self.config_name, frames, figures, configs, "grid.yaml" in paths)
        old_card = _without_counts(card, self.config_name, self.repo_id)
        return content | {_CARD: cards.renew_card(old_card, new_card, self.repo_id).encode()}

    def _other_frames(
        self, base: "hub.RemoteFolder", places: Mapping[str, list[str]]
    ) -> "dict[str, pandas.DataFrame]":
        """The other results tables of the data set, where hf_scaling wrote them."""
        names = [name for name, paths in places.items() if paths == [file_of(name)] and name != self.config_name]
        tables = {name: read_bytes(base.read(file_of(name)), file_of(name)) for name in names}
        return {name: table.to_pandas() for name, table in tables.items() if has_results_columns(table.column_names)}


def _places(card: str, names: Collection[str], where: str) -> dict[str, list[str]]:
    """Name of each table in a data set -> its files."""
    if written := _written_configs(card, where):
        return {name: _matching(names, patterns) for name, patterns in written.items()}
    usual = next((paths for patterns in _USUAL if (paths := _matching(names, patterns))), None)
    return {DEFAULT_CONFIG: usual} if usual else {}


def _merged_configs(card: str, places: Mapping[str, list[str]], config_name: str, where: str) -> list[dict[str, Any]]:
    """The `configs` of the card's head: those that are there, as they are written, and the one that is pushed."""
    written = cards.read_card(card, where)[0].get("configs") or []
    if not written:
        # Once a card names one table, the Hub no longer finds tables that it does not name.
        written = [_config(name, paths) for name, paths in places.items()]
    others = [config for config in written if str(config["config_name"]) != config_name]
    configs = [*others, _config(config_name, [file_of(config_name)])]
    return sorted(configs, key=lambda config: config["config_name"] != DEFAULT_CONFIG)


def _config(name: str, paths: list[str]) -> dict[str, Any]:
    path = paths[0] if len(paths) == 1 else paths
    return {"config_name": name, "data_files": [{"split": "train", "path": path}]}


def _without_counts(card: str, config_name: str, where: str) -> str:
    """Remove the row count of a table that `Dataset.push_to_hub` wrote into a card: loading would insist on it."""
    head, body = cards.read_card(card, where)
    if "dataset_info" not in head:
        return card
    infos = head.pop("dataset_info")
    infos = [info for info in (infos if isinstance(infos, list) else [infos]) if isinstance(info, dict)]
    others = [info for info in infos if info.get("config_name", DEFAULT_CONFIG) != config_name]
    return cards.with_head(head | ({"dataset_info": others} if others else {}), body)


def _written_configs(card: str, where: str) -> dict[str, list[str]]:
    """The tables that a card names -> the patterns of their files."""
    configs = cards.read_card(card, where)[0].get("configs") or []
    try:
        patterns = {str(config["config_name"]): _flat(config.get("data_files", [])) for config in configs}
    except (TypeError, KeyError, AttributeError):
        raise InputError(f"{where}: the configs in the head of README.md are not in the Hub's format") from None
    for pattern in (pattern for group in patterns.values() for pattern in group):
        if PurePosixPath(pattern).is_absolute() or ".." in PurePosixPath(pattern).parts or ":" in pattern:
            raise InputError(f"{where}: README.md names the file {pattern!r}, which is outside of the repository")
    return patterns


def _flat(data_files: Any) -> list[str]:
    """`data_files` in any of the Hub's forms (a pattern, a list, or splits with patterns) as a list of patterns."""
    if isinstance(data_files, str):
        return [data_files]
    if isinstance(data_files, dict):
        return _flat(data_files["path"]) if "path" in data_files else _flat(list(data_files.values()))
    return [pattern for entry in data_files for pattern in _flat(entry)]


def _matching(names: Collection[str], patterns: Collection[str]) -> list[str]:
    """The names that match a pattern; only ** reaches across folders."""
    return sorted(
        name
        for name in names
        if any(fnmatchcase(name, p) and ("**" in p or name.count("/") == p.count("/")) for p in patterns)
    )
