"""Results tables on the Hub: found by the card of a data set, and merged with the rows that are there."""

import re
from collections.abc import Collection, Mapping
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
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
    revision = revision or written_revision or None
    try:
        # A data set before a model.
        repo_type = "dataset"
        folder = hub.download(repo_id, repo_type=repo_type, revision=revision, allow_patterns=[_CARD])
    except hub.NotOnHubError:
        repo_type = "model"
        folder = hub.download(repo_id, repo_type=repo_type, revision=revision, allow_patterns=[_CARD])
    except InputError as error:
        # The name may also be a misspelt path.
        raise InputError(f"{repo_id}: no such file or folder here; as a Hub id: {error}") from error
    card = (folder / _CARD).read_text(encoding="utf-8") if (folder / _CARD).is_file() else ""
    written = _written_configs(cards.read_card(card, repo_id)[0], repo_id)
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

        head, body = cards.read_card(base.readme(), self.repo_id)
        places = {name: _matching(base.files, p) for name, p in _written_configs(head, self.repo_id).items()}
        if not places:
            usual = next((paths for patterns in _USUAL if (paths := _matching(base.files, patterns))), None)
            places = {DEFAULT_CONFIG: usual} if usual else {}
        old_names = places.get(self.config_name, [])
        tables = [read_bytes(base.read(name), name) for name in old_names]
        for name, table in zip(old_names, tables):
            if not has_results_columns(table.column_names):
                raise InputError(
                    f"{self.repo_id}: {name} is not a results table, its columns are {', '.join(table.column_names)}: "
                    f"push to another repository, or under another config_name"
                )
        merged = drop_repeats(concatenate([*tables, self.table]), f"{self.repo_id} and the rows pushed")
        # The card also describes the other results tables that hf_scaling wrote.
        names = [name for name, paths in places.items() if paths == [file_of(name)] and name != self.config_name]
        others = {name: read_bytes(base.read(file_of(name)), file_of(name)) for name in names}
        frames = {name: table.to_pandas() for name, table in others.items() if has_results_columns(table.column_names)}
        frames[self.config_name] = merged.to_pandas()
        rows = to_parquet(merged)
        if rows not in self._figures:
            self._figures[rows] = draw(frames[self.config_name])
        content = {file_of(self.config_name): rows, **self.beside}
        if figure := self._figures[rows]:
            content[f"figures/{self.config_name}.png"] = figure
        content[_CARD] = self._card(head, body, places, frames, {*base.files, *content}).encode()
        return [
            *(CommitOperationAdd(name, file) for name, file in content.items()),
            *(CommitOperationDelete(name) for name in old_names if name not in content),
        ]

    def _card(
        self,
        head: dict[str, Any],
        body: str,
        places: Mapping[str, list[str]],
        frames: "Mapping[str, pandas.DataFrame]",
        paths: Collection[str],
    ) -> str:
        """The README with the table that is pushed among those that it names; text that people wrote is preserved."""
        # Once a card names one table, the Hub no longer finds tables that it does not name.
        written = head.get("configs") or [_config(name, names) for name, names in places.items()]
        configs = [config for config in written if str(config["config_name"]) != self.config_name]
        configs.append(_config(self.config_name, [file_of(self.config_name)]))
        configs.sort(key=lambda config: config["config_name"] != DEFAULT_CONFIG)
        # Loading would insist on the row count that `Dataset.push_to_hub` wrote into the card.
        infos = head.pop("dataset_info", [])
        infos = [info for info in (infos if isinstance(infos, list) else [infos]) if isinstance(info, dict)]
        infos = [info for info in infos if info.get("config_name", DEFAULT_CONFIG) != self.config_name]
        old = cards.with_head(head | ({"dataset_info": infos} if infos else {}), body)
        figures = {name: path for name in frames if (path := f"figures/{name}.png") in paths}
        new = write_card(self.repo_id, self.config_name, frames, figures, configs, "grid.yaml" in paths)
        return cards.renew_card(old, new, self.repo_id)


def _config(name: str, paths: list[str]) -> dict[str, Any]:
    path = paths[0] if len(paths) == 1 else paths
    return {"config_name": name, "data_files": [{"split": "train", "path": path}]}


def _written_configs(head: Mapping[str, Any], where: str) -> dict[str, list[str]]:
    """The tables that a card's head names -> the patterns of their files."""
    configs = head.get("configs") or []
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
