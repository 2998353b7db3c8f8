"""One commit to a repository of the Hub, on top of whatever others commit at the same time.

The caller says what to write from a view of the repository at its head. Where somebody else was first it is asked
again, with the new head; where the Hub is busy or the connection breaks, the same is tried again after a wait. A
commit that arrived although its answer did not is recognised by a mark in its message, and not made twice.
"""

import hashlib
import re
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from hf_scaling import __version__
from hf_scaling.errors import InputError
from hf_scaling.hub import errors
from hf_scaling.hub.errors import hub_errors, retried

if TYPE_CHECKING:
    from huggingface_hub import CommitOperation, CommitOperationAdd


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: bytes, and the hash that says whether another content is the same."""

    size: int
    etag: str


@dataclass(frozen=True)
class RemoteFolder:
    """A repository at one commit.

    Attributes:
        repo_id, repo_type: Which one.
        commit: The commit's id; None where the repository is not there yet.
        private: Whether others cannot see it; None where it is not there.
    """

    repo_id: str
    repo_type: str
    commit: str | None = None
    private: bool | None = None
    _read: dict[str, bytes] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def files(self) -> Mapping[str, RemoteFile]:
        """Path -> file; empty where the repository is not there."""
        from huggingface_hub import HfApi
        from huggingface_hub.hf_api import RepoFile

        if self.commit is None:
            return MappingProxyType({})
        entries = HfApi().list_repo_tree(
            self.repo_id, recursive=True, revision=self.commit, repo_type=self.repo_type, expand=False
        )
        found = {
            each.path: RemoteFile(each.size, each.lfs.sha256 if each.lfs else each.blob_id)
            for each in entries
            if isinstance(each, RepoFile)
        }
        return MappingProxyType(found)

    def read(self, path: str) -> bytes:
        """The content of a file.

        Raises:
            InputError: There is no such file.
        """
        from huggingface_hub import hf_hub_download

        if path not in self.files:
            raise InputError(f"the {self.repo_type} {self.repo_id} holds no {path}")
        if path not in self._read:
            local = hf_hub_download(self.repo_id, path, repo_type=self.repo_type, revision=self.commit)
            self._read[path] = Path(local).read_bytes()
        return self._read[path]


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


_WORDS = {"model": "model", "dataset": "data set", "space": "Space"}
_SHA256_DIGITS = 64

Prepare = Callable[[RemoteFolder], "list[CommitOperation]"]


@dataclass(frozen=True)
class Change:
    """One file that a commit writes or deletes.

    Attributes:
        path: In the repository.
        kind: "add", "change", "delete", or "same" where there is nothing to do.
        n_bytes: Of the new content; 0 where it is deleted.
    """

    path: str
    kind: str
    n_bytes: int = 0


@dataclass(frozen=True)
class Commit:
    """A commit made.

    Attributes:
        repo_id, repo_type: Where.
        oid: The repository's head after it; where everything was there already, the head found.
        url: The page of that commit.
        changes: What it changed, without what was the same.
    """

    repo_id: str
    repo_type: str
    oid: str
    url: str
    changes: tuple[Change, ...]


@dataclass(frozen=True)
class Planned:
    """A commit that was not made: what it would change, and whether the repository would be made for it.

    Attributes:
        repo_id, repo_type: Where.
        creates: Whether the repository is not there yet.
        private: Whether others cannot see it, now or once it is made; None where the namespace's default says.
        changes: Of every file that would be sent.
    """

    repo_id: str
    repo_type: str
    creates: bool
    private: bool | None
    changes: tuple[Change, ...]

    def __str__(self) -> str:
        seen = {True: ", private", False: ", public", None: ""}[self.private]
        place = f"{_WORDS[self.repo_type]} {self.repo_id} ({'new' if self.creates else 'there already'}{seen})"
        lines = [f"  {each.kind:<6} {each.path}  {_bytes(each)}".rstrip() for each in self.changes]
        return "\n".join([f"would be written to the {place}:", *(lines or ["  nothing"])])


def commit(
    repo_id: str,
    repo_type: str,
    prepare: Prepare,
    message: str,
    private: bool | None = None,
    dry_run: bool = False,
    create: bool = True,
) -> Commit | Planned:
    """Commit to the `main` branch of a repository, all files or none.

    Args:
        repo_id: `org/name`.
        repo_type: "model", "dataset" or "space" (a static one).
        prepare: Called with the repository at its head, gives the operations; called again where the head has moved.
        message: The commit's title.
        private: Whether a repository that is made now is private; None leaves it to the namespace's default.
        dry_run: Say what would be written, and write nothing.
        create: Make the repository where it is not there.

    Raises:
        InputError: No such repository or no right to write to it; a card the Hub does not take; `private` and the
            repository is there and public.
        PushError: Offline, or the Hub kept failing: nothing of this commit is there.
    """
    if not is_repo_id(repo_id):
        raise InputError(f"{repo_id}: no repository of the Hub is called so; give org/name")
    push = _Push(repo_id, repo_type, prepare, message, private, create)
    with errors.push_errors(push.what), _quiet():
        return retried(push.plan if dry_run else push.commit)


def full_id(name: str) -> str:
    """`org/name` as it is, and a bare name as one of the account that is logged in.

    Raises:
        InputError: Nobody is logged in, or the Hub does not know the token.
        PushError: Offline, or the Hub kept failing.
    """
    from huggingface_hub import HfApi

    if "/" in name:
        return name
    with errors.push_errors(f"the repository {name}"), _quiet():
        return f"{retried(lambda: HfApi().whoami())['name']}/{name}"


@dataclass
class _Push:
    """One commit on its way: what it is, and what is known of the tries so far."""

    repo_id: str
    repo_type: str
    prepare: Prepare
    message: str
    private: bool | None
    create: bool
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)
    outcome_unknown: bool = False
    sent: tuple[Change, ...] = ()

    @property
    def what(self) -> str:
        """How messages call the repository."""
        return f"the {_WORDS[self.repo_type]} {self.repo_id}"

    def plan(self) -> Planned:
        """What `commit` would do."""
        base, operations = self._prepared()
        changes = tuple(_change(base, each) for each in operations)
        private = self.private if base.commit is None else base.private
        return Planned(self.repo_id, self.repo_type, base.commit is None, private, changes)

    def commit(self) -> Commit:
        """Make the commit, or find that an earlier try made it."""
        if self.outcome_unknown and (oid := self._arrived()):
            return self._made(oid, self.sent)
        base, operations = self._prepared()
        if base.commit is None:
            self._create_repo()
            base, operations = self._prepared()
        found = [(change, each) for each in operations if (change := _change(base, each)).kind != "same"]
        self.sent = tuple(change for change, _ in found)
        if not self.sent:
            return self._made(base.commit, ())
        try:
            return self._made(self._send([each for _, each in found], base.commit), self.sent)
        except Exception as error:
            self.outcome_unknown |= errors.may_pass(error) and not errors.was_overtaken(error)
            raise

    def _prepared(self) -> "tuple[RemoteFolder, list[CommitOperation]]":
        base = self._head()
        if self.private and base.private is False:
            raise InputError(
                f"{self.what} is there and public, and private=True only says how a new one is made: "
                f"make it private on its page, or push to another one"
            )
        return base, list(self.prepare(base))

    def _head(self) -> RemoteFolder:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

        try:
            found = HfApi().repo_info(self.repo_id, repo_type=self.repo_type)
        except GatedRepoError:
            raise
        except RepositoryNotFoundError:
            if not self.create:
                raise
            return RemoteFolder(self.repo_id, self.repo_type)
        return RemoteFolder(self.repo_id, self.repo_type, found.sha, bool(found.private))

    def _create_repo(self) -> None:
        from huggingface_hub import HfApi

        sdk = {"space_sdk": "static"} if self.repo_type == "space" else {}
        HfApi().create_repo(self.repo_id, repo_type=self.repo_type, private=self.private, exist_ok=True, **sdk)

    def _send(self, operations: "list[CommitOperation]", parent: str | None) -> str:
        from huggingface_hub import HfApi

        made = HfApi().create_commit(
            self.repo_id,
            operations,
            commit_message=self.message,
            commit_description=f"{self.mark} (hf_scaling {__version__})",
            repo_type=self.repo_type,
            parent_commit=parent,
        )
        return made.oid

    def _arrived(self) -> str | None:
        """The id of the commit that an earlier try made without our hearing of it; None where there is none."""
        from huggingface_hub import HfApi

        commits = HfApi().list_repo_commits(self.repo_id, repo_type=self.repo_type)
        return next((each.commit_id for each in commits if self.mark in each.message), None)

    def _made(self, oid: str | None, changes: tuple[Change, ...]) -> Commit:
        from huggingface_hub import HfApi

        page = HfApi().endpoint + {"model": "/", "dataset": "/datasets/", "space": "/spaces/"}[self.repo_type]
        return Commit(self.repo_id, self.repo_type, str(oid), f"{page}{self.repo_id}/commit/{oid}", changes)


def _change(base: RemoteFolder, operation: "CommitOperation") -> Change:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    path = operation.path_in_repo
    if isinstance(operation, CommitOperationDelete):
        inside = f"{path.rstrip('/')}/"
        there = any(each == path or (operation.is_folder and each.startswith(inside)) for each in base.files)
        return Change(path, "delete" if there else "same")
    if not isinstance(operation, CommitOperationAdd):
        return Change(path, "change" if path in base.files else "add")
    size = operation.upload_info.size
    if path not in base.files:
        return Change(path, "add", size)
    return Change(path, "same" if base.files[path] == _remote(operation, base.files[path]) else "change", size)


def _remote(operation: "CommitOperationAdd", there: RemoteFile) -> RemoteFile:
    """What the file would be on the Hub if it is kept in the way that the one there is."""
    size = operation.upload_info.size
    if size != there.size or len(there.etag) == _SHA256_DIGITS:
        return RemoteFile(size, operation.upload_info.sha256.hex())
    with operation.as_file() as file:
        content = file.read()
    return RemoteFile(size, hashlib.sha1(b"blob %d\0" % size + content, usedforsecurity=False).hexdigest())


def _bytes(change: Change) -> str:
    return "" if change.kind == "delete" else f"{change.n_bytes:,} bytes"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep huggingface_hub from logging what is retried, and from advice that does not fit (tables beside a model)."""
    from huggingface_hub.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="It seems that you are about to commit a data file")
        try:
            yield
        finally:
            logging.set_verbosity(before)
