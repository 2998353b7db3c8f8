"""A repository of the Hub at one commit, to look into while a commit on top of it is prepared."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from hf_scaling.errors import InputError


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
