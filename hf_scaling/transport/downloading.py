"""Down from the Hub: repositories to local folders."""

import re
from pathlib import Path

from hf_scaling.errors import InputError
from hf_scaling.transport.retrying import retried
from hf_scaling.transport.telling import hub_errors

# A name that ends so is a file that is not there, not a repository.
_FILE_SUFFIXES = (".csv", ".json", ".parquet", ".txt", ".yaml", ".yml")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


def is_hub_id(name: str) -> bool:
    """Whether `name` can be a Hub id (`org/name` or `name`); a path that exists always wins."""
    if Path(name).exists() or Path(name).suffix in _FILE_SUFFIXES:
        return False
    return _HUB_ID.fullmatch(name) is not None


def is_repo_id(name: str) -> bool:
    """Whether `name` is of the form `org/name`, whatever lies at such a path here."""
    return "/" in name and _HUB_ID.fullmatch(name) is not None


def download(
    repo_id: str,
    *,
    repo_type: str = "model",
    revision: str | None = None,
    allow_patterns: list[str] | None = None,
    ignore_patterns: list[str] | None = None,
) -> Path:
    """Download a repository of the Hub into its cache.

    Returns:
        The snapshot's folder; its name is the commit.

    Raises:
        InputError: Offline, absent or gated, said as that; or it holds a path that leads out of the folder.
    """
    from huggingface_hub import snapshot_download

    which = {"revision": revision, "allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
    with hub_errors(f"the {repo_type} {repo_id}"):
        return Path(retried(lambda: snapshot_download(repo_id, repo_type=repo_type, **which)))


def local_folder(name: str, *, repo_type: str = "model", revision: str | None = None, **patterns) -> Path:
    """The folder `name` if it exists, else the Hub repository of that id, downloaded.

    Raises:
        InputError: No such folder and no such repository, or offline.
    """
    if Path(name).exists():
        return Path(name)
    if not is_hub_id(name):
        raise InputError(f"{name}: no such file or folder")
    return download(name, repo_type=repo_type, revision=revision, **patterns)
