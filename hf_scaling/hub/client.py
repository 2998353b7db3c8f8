"""Downloads from the Hub, and commits on top of whatever others commit at the same time.

The caller of `commit` states the changes for a repository at its head. Where another commit came first, it is asked
again with the new head; a busy Hub or a broken connection is retried. A commit whose answer was lost is recognised by
a random mark in its message and not made twice.
"""

import hashlib
import os
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from hf_scaling import __version__
from hf_scaling.errors import InputError
from hf_scaling.hub.errors import hub_errors, is_offline, may_pass, push_errors, retried, was_overtaken
from hf_scaling.text import format_bytes

if TYPE_CHECKING:
    from huggingface_hub import CommitOperation

# A name with such a suffix is a missing file, not a repository.
_FILE_SUFFIXES = (".csv", ".gz", ".json", ".parquet", ".tsv", ".txt", ".yaml", ".yml")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_TYPE_NAMES = {"model": "model", "dataset": "data set", "space": "Space"}
_URL_PREFIXES = {"model": "", "dataset": "datasets/", "space": "spaces/"}
_SHA256_DIGITS = 64
# False inside `not_asked`.
_may_ask: ContextVar[bool] = ContextVar("may_ask", default=True)


def is_hub_id(name: str) -> bool:
    """Whether `name` can be a Hub id (`org/name` or `name`); an existing path never is."""
    if Path(name).exists() or Path(name).suffix in _FILE_SUFFIXES:
        return False
    return _HUB_ID.fullmatch(name) is not None


def is_repo_id(name: str) -> bool:
    """Whether `name` has the form `org/name`, also where such a path exists."""
    return "/" in name and _HUB_ID.fullmatch(name) is not None


def full_id(name: str) -> str:
    """`org/name` for a name, which belongs to the logged-in account where it has no `org/`.

    Raises:
        InputError: Not logged in, or the Hub does not accept the token.
        PushError: Offline, or the Hub kept failing.
    """
    from huggingface_hub import HfApi

    if "/" in name:
        return name
    with push_errors(f"the repository {name}"), _quiet():
        return f"{retried(lambda: HfApi().whoami())['name']}/{name}"


def login_state() -> dict[str, str | bool | None]:
    """The Hub that is talked to and whether the token there is accepted, with one request; never the token itself.

    Returns:
        endpoint; offline, whether HF_HUB_OFFLINE is set; token, where it comes from: "environment", "file" or None;
        user, None where it is not known; login: "logged in", "not logged in", "token not accepted" or "not checked".
    """
    from huggingface_hub import HfApi, constants, get_token
    from huggingface_hub.errors import HfHubHTTPError

    token = get_token()
    in_environment = any(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))
    state: dict[str, str | bool | None] = {
        # Without a password that it may hold.
        "endpoint": re.sub(r"//[^/@]*@", "//", HfApi().endpoint),
        "offline": bool(constants.HF_HUB_OFFLINE),
        "token": None if not token else "environment" if in_environment else "file",
        "user": None,
        "login": "not checked" if token else "not logged in",
    }
    if not token or state["offline"]:
        return state
    try:
        with _quiet():
            state |= {"user": str(HfApi().whoami()["name"]), "login": "logged in"}
    except HfHubHTTPError as error:
        refused = error.response is not None and error.response.status_code in (401, 403)
        state["login"] = "token not accepted" if refused else "not checked"
    except Exception:
        # No connection, in the words of whichever HTTP library is installed: the rest of the answer still holds.
        state["login"] = "not checked"
    return state


def download(
    repo_id: str,
    *,
    repo_type: str = "model",
    revision: str | None = None,
    allow_patterns: list[str] | None = None,
    ignore_patterns: list[str] | None = None,
) -> Path:
    """Download a repository into huggingface_hub's cache.

    Args:
        repo_id: `org/name`.
        repo_type: "model", "dataset" or "space".
        revision: Branch, tag or commit; the head of main when None.
        allow_patterns, ignore_patterns: Which files; all when None.

    Returns:
        The folder of the snapshot; its name is the commit.

    Raises:
        NotOnHubError: No such repository, or a private one.
        InputError: Offline and not in the cache, gated, or a path that leads out of the folder.
    """
    from huggingface_hub import snapshot_download

    patterns = {"allow_patterns": allow_patterns, "ignore_patterns": ignore_patterns}
    with hub_errors(f"the {repo_type} {repo_id}"):
        return Path(retried(lambda: snapshot_download(repo_id, repo_type=repo_type, revision=revision, **patterns)))


def local_folder(name: str, *, repo_type: str = "model", revision: str | None = None, **patterns) -> Path:
    """The folder `name` if it exists, else the Hub repository of that id, downloaded (see `download`).

    Raises:
        InputError: No such folder and no such repository, or offline.
    """
    if Path(name).exists():
        return Path(name)
    if not is_hub_id(name):
        raise InputError(f"{name}: no such file or folder")
    return download(name, repo_type=repo_type, revision=revision, **patterns)


@dataclass(frozen=True)
class RemoteFile:
    """Size in bytes and hash of a file in a repository."""

    size: int
    etag: str


@dataclass(frozen=True)
class RemoteFolder:
    """A repository at one commit.

    Attributes:
        repo_id: `org/name`.
        repo_type: "model", "dataset" or "space".
        commit: Id of the commit; None where the repository does not exist.
        private: Whether the repository is private; None where it does not exist.
    """

    repo_id: str
    repo_type: str
    commit: str | None = None
    private: bool | None = None
    _contents: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def files(self) -> Mapping[str, RemoteFile]:
        """Path -> file; empty where the repository does not exist."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        if self.commit is None:
            return {}
        entries = HfApi().list_repo_tree(
            self.repo_id, recursive=True, revision=self.commit, repo_type=self.repo_type, expand=False
        )
        return {
            entry.path: RemoteFile(entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id)
            for entry in entries
            if isinstance(entry, RepoFile)
        }

    def readme(self) -> str:
        """The text of README.md; empty where there is none."""
        return self.read("README.md").decode("utf-8", "replace") if "README.md" in self.files else ""

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: No such file.
        """
        from huggingface_hub import hf_hub_download

        if path not in self.files:
            raise InputError(f"the {self.repo_type} {self.repo_id} has no file {path}")
        if path not in self._contents:
            local = hf_hub_download(self.repo_id, path, repo_type=self.repo_type, revision=self.commit)
            self._contents[path] = Path(local).read_bytes()
        return self._contents[path]


@dataclass(frozen=True)
class Change:
    """One file that a commit writes or deletes.

    Attributes:
        path: In the repository.
        kind: "add", "change", "delete", "same" where nothing has to be done, or "write" where the Hub was not reached
            and it is not known whether the file is there.
        n_bytes: Size of the new content; 0 where the file is deleted.
    """

    path: str
    kind: str
    n_bytes: int = 0


@dataclass(frozen=True)
class Commit:
    """A commit that was made.

    Attributes:
        repo_id: `org/name`.
        repo_type: "model", "dataset" or "space".
        oid: Head of the repository after the commit; unchanged where nothing had to be written.
        url: Web page of the commit.
        changes: The files that it wrote or deleted.
    """

    repo_id: str
    repo_type: str
    oid: str
    url: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Planned:
    """What a dry run would commit; as a string, a listing of the files.

    Attributes:
        repo_id: `org/name`.
        repo_type: "model", "dataset" or "space".
        creates: Whether the repository would be created; None where the Hub was not reached.
        private: Whether the repository is or would be private; None where the account's default decides.
        changes: Every file that was prepared, those with nothing to do included.
    """

    repo_id: str
    repo_type: str
    creates: bool | None
    private: bool | None
    changes: tuple[Change, ...]

    @property
    def written(self) -> tuple[Change, ...]:
        """The changes that there would be something to do for."""
        return tuple(change for change in self.changes if change.kind != "same")

    def summary(self) -> str:
        """The listing in one line: how many files, and their size."""
        n_files, n_bytes = len(self.written), sum(change.n_bytes for change in self.written)
        return f"{self._head} {n_files} file{'s' * (n_files != 1)}, {format_bytes(n_bytes)}"

    @property
    def _head(self) -> str:
        state = {True: "new", False: "exists", None: "not compared with the Hub"}[self.creates]
        visibility = {True: ", private", False: ", public", None: ""}[self.private]
        return f"would be written to the {_TYPE_NAMES[self.repo_type]} {self.repo_id} ({state}{visibility}):"

    def __str__(self) -> str:
        lines = [self._head]
        for change in self.changes:
            size = "" if change.kind == "delete" else f"  {format_bytes(change.n_bytes)}"
            lines.append(f"  {change.kind:<6} {change.path}{size}")
        return "\n".join(lines if self.changes else [*lines, "  nothing"])


def commit(
    repo_id: str,
    repo_type: str,
    prepare: "Callable[[RemoteFolder], list[CommitOperation]]",
    message: str,
    private: bool | None = None,
    dry_run: bool = False,
    create: bool = True,
) -> Commit | Planned:
    """Commit files to the `main` branch of a repository, all or none.

    Args:
        repo_id: `org/name`.
        repo_type: "model", "dataset" or "space" (a static one).
        prepare: Returns the operations for the repository at its head; called again where the head has moved.
        message: Title of the commit.
        private: Whether a new repository is private; the account's default when None.
        dry_run: Describe what would be written, and write nothing. Without a connection the files are described as for
            a new repository, and not compared with those on the Hub.
        create: Create the repository where it does not exist.

    Raises:
        InputError: No such repository, no right to write, an invalid card, or `private` for a repository that is
            public.
        PushError: Offline, or the Hub kept failing. Nothing was written.
    """
    if not is_repo_id(repo_id):
        raise InputError(f"{repo_id}: not a repository id; write it as org/name")
    push = _Push(repo_id, repo_type, prepare, message, private, create)
    with push_errors(push.what), _quiet():
        return retried(push.plan if dry_run else push.commit)


@contextmanager
def not_asked() -> Iterator[None]:
    """Inside, dry runs send no request: for the parts after one that found no connection; each would wait for one.

    Example:
        >>> with not_asked():
        ...     planned = commit("org/name", "dataset", prepare, "Add rows", dry_run=True)
    """
    token = _may_ask.set(False)
    try:
        yield
    finally:
        _may_ask.reset(token)


@dataclass
class _Push:
    """The attempts to make one commit."""

    repo_id: str
    repo_type: str
    prepare: "Callable[[RemoteFolder], list[CommitOperation]]"
    message: str
    private: bool | None
    create: bool
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    outcome_unknown: bool = False
    sent: tuple[Change, ...] = ()

    @property
    def what(self) -> str:
        """What messages call the repository."""
        return f"the {_TYPE_NAMES[self.repo_type]} {self.repo_id}"

    def plan(self) -> Planned:
        """Describe what `commit` would do."""
        try:
            base, operations = self._prepared() if _may_ask.get() else (None, [])
        except Exception as error:
            if not is_offline(error):
                raise
            base = None
        if base is None:
            absent = RemoteFolder(self.repo_id, self.repo_type)
            changes = tuple(replace(_change(absent, file), kind="write") for file in self.prepare(absent))
            return Planned(self.repo_id, self.repo_type, None, self.private, changes)
        changes = tuple(_change(base, operation) for operation in operations)
        private = self.private if base.commit is None else base.private
        return Planned(self.repo_id, self.repo_type, base.commit is None, private, changes)

    def commit(self) -> Commit:
        """Make the commit, or find that an earlier attempt made it."""
        from huggingface_hub import HfApi

        if self.outcome_unknown:
            recent = HfApi().list_repo_commits(self.repo_id, repo_type=self.repo_type)
            if oid := next((entry.commit_id for entry in recent if self.mark in entry.message), None):
                return self._made(oid, self.sent)
        base, operations = self._prepared()
        if base.commit is None:
            sdk = "static" if self.repo_type == "space" else None
            HfApi().create_repo(
                self.repo_id, repo_type=self.repo_type, private=self.private, exist_ok=True, space_sdk=sdk
            )
            base, operations = self._prepared()
        pairs = [(_change(base, operation), operation) for operation in operations]
        pairs = [(change, operation) for change, operation in pairs if change.kind != "same"]
        self.sent = tuple(change for change, _ in pairs)
        if not pairs:
            return self._made(base.commit, ())
        try:
            made = HfApi().create_commit(
                self.repo_id,
                [operation for _, operation in pairs],
                commit_message=self.message,
                commit_description=f"{self.mark} (hf_scaling {__version__})",
                repo_type=self.repo_type,
                parent_commit=base.commit,
            )
        except Exception as error:
            self.outcome_unknown |= may_pass(error) and not was_overtaken(error)
            raise
        return self._made(made.oid, self.sent)

    def _prepared(self) -> "tuple[RemoteFolder, list[CommitOperation]]":
        """The repository at its head, and the operations for it."""
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            info = HfApi().repo_info(self.repo_id, repo_type=self.repo_type)
            base = RemoteFolder(self.repo_id, self.repo_type, info.sha, bool(info.private))
        except RepositoryNotFoundError as error:
            if isinstance(error, GatedRepoError) or not self.create:
                raise
            base = RemoteFolder(self.repo_id, self.repo_type)
        if self.private and base.private is False:
            raise InputError(
                f"{self.what} exists and is public, and private=True applies to new repositories only: "
                f"make it private on its page, or push to another one"
            )
        return base, list(self.prepare(base))

    def _made(self, oid: str | None, changes: tuple[Change, ...]) -> Commit:
        from huggingface_hub import HfApi

        url = f"{HfApi().endpoint}/{_URL_PREFIXES[self.repo_type]}{self.repo_id}/commit/{oid}"
        return Commit(self.repo_id, self.repo_type, str(oid), url, changes)


def _change(base: RemoteFolder, operation: "CommitOperation") -> Change:
    """What an operation changes in the repository at `base`."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    path = operation.path_in_repo
    old = base.files.get(path)
    if isinstance(operation, CommitOperationDelete):
        inside = f"{path.rstrip('/')}/"
        exists = old or (operation.is_folder and any(name.startswith(inside) for name in base.files))
        return Change(path, "delete" if exists else "same")
    if not isinstance(operation, CommitOperationAdd):
        return Change(path, "change" if old else "add")
    size = operation.upload_info.size
    if old is None:
        return Change(path, "add", size)
    if size != old.size:
        return Change(path, "change", size)
    # The hash of the file to upload, of the kind that the Hub gave the old file: SHA-256 (large files) or git's.
    if len(old.etag) == _SHA256_DIGITS:
        etag = operation.upload_info.sha256.hex()
    else:
        with operation.as_file() as file:
            content = file.read()
        etag = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    return Change(path, "same" if etag == old.etag else "change", size)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub from logging errors that are retried, and from advice on where to put data files."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        try:
            yield
        finally:
            logging.set_verbosity(before)
