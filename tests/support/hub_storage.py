"""The data of the test Hub, in memory: repositories with commits, branches and tags; large files; collections."""

import base64
import datetime
import fnmatch
import hashlib
import itertools
import json
import re
from dataclasses import dataclass, field
from functools import cached_property

import yaml

KINDS = ("models", "datasets", "spaces")
_LARGE = 10_000_000
_ATTRIBUTES = "".join(
    f"*.{suffix} filter=lfs diff=lfs merge=lfs -text\n"
    for suffix in ("arrow", "bin", "gz", "npy", "npz", "onnx", "parquet", "pickle", "pkl", "pt", "pth", "safetensors")
).encode()


class Refused(Exception):
    """A request that the Hub answers with an error."""

    def __init__(self, status: int, message: str, code: str | None = None, **more):
        super().__init__(message)
        self.status, self.message, self.code, self.more = status, message, code, more


@dataclass(frozen=True)
class Blob:
    """One file's content, in git or in the large file storage."""

    content: bytes
    lfs: bool = False

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def oid(self) -> str:
        """The id that git gives the file, or the pointer to a large one."""
        pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.content)}\n"
        kept = pointer.encode() if self.lfs else self.content
        return hashlib.sha1(b"blob %d\0" % len(kept) + kept, usedforsecurity=False).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.oid

    def entry(self, path: str) -> dict:
        found = {"type": "file", "path": path, "size": len(self.content), "oid": self.oid}
        if self.lfs:
            found["lfs"] = {"oid": self.sha256, "size": len(self.content), "pointerSize": 130}
        return found


@dataclass(frozen=True)
class Commit:
    """A state of the whole repository."""

    id: str
    parent: "Commit | None"
    tree: dict[str, Blob]
    title: str
    message: str
    author: str
    date: str

    def history(self):
        """This commit and those before it."""
        commit = self
        while commit is not None:
            yield commit
            commit = commit.parent


@dataclass
class Repo:
    """A repository: its commits, and the branches, tags and pull requests that point at them."""

    kind: str
    id: str
    private: bool = False
    sdk: str | None = None
    branches: dict[str, Commit] = field(default_factory=dict)
    tags: dict[str, Commit] = field(default_factory=dict)
    requests: dict[str, Commit] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.branches["main"]

    @property
    def files(self) -> dict[str, bytes]:
        """Path -> content of the files of `main`."""
        return {path: blob.content for path, blob in self.head.tree.items()}

    def at(self, revision: str) -> Commit:
        """The commit of a branch, tag, pull request (refs/pr/1) or id.

        Raises:
            Refused: No such revision.
        """
        name = revision.removeprefix("refs/heads/")
        for known in (self.branches, self.tags, self.requests, self.commits):
            if name in known:
                return known[name]
        found = [commit for id, commit in self.commits.items() if len(name) >= 7 and id.startswith(name)]
        if len(found) != 1:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return found[0]

    def add(self, tree: dict[str, Blob], title: str, message: str = "", author: str = "", parent=None) -> Commit:
        """Add a commit that no name points at yet."""
        content = json.dumps([title, message, len(self.commits), {path: blob.oid for path, blob in tree.items()}])
        id = hashlib.sha1(f"{self.kind}/{self.id}{content}".encode(), usedforsecurity=False).hexdigest()
        commit = Commit(id, parent, tree, title, message, author, _now())
        self.commits[id] = commit
        return commit

    def takes_as_lfs(self, path: str, size: int, sample: bytes) -> bool:
        """Whether a file is stored as a large file: by .gitattributes, by its size, or because it is binary."""
        attributes = self.head.tree.get(".gitattributes", Blob(b"")).content.decode()
        patterns = [line.split()[0] for line in attributes.splitlines() if "filter=lfs" in line]
        named = any(fnmatch.fnmatch(path.rpartition("/")[2], pattern) for pattern in patterns)
        return size > 0 and (named or size > _LARGE or b"\0" in sample)

    def card(self, commit: Commit) -> dict:
        """The YAML head of README.md; empty where there is none."""
        text = commit.tree.get("README.md", Blob(b"")).content.decode(errors="replace")
        return read_head(text) if text.startswith("---") else {}


class Storage:
    """Everything on the Hub."""

    def __init__(self):
        self.repos: dict[tuple[str, str], Repo] = {}
        self.large: dict[str, bytes] = {}
        self.collections: dict[str, dict] = {}
        self._numbers = itertools.count(1)

    def create(self, kind: str, id: str, private: bool = False, sdk: str | None = None, author: str = "") -> Repo:
        """A new repository with its first commit.

        Raises:
            Refused: It exists.
        """
        if (kind, id) in self.repos:
            raise Refused(409, "You already created this repo", url=f"/{id}")
        repo = self.repos[kind, id] = Repo(kind, id, private, sdk)
        repo.branches["main"] = repo.add({".gitattributes": Blob(_ATTRIBUTES)}, "initial commit", author=author)
        return repo

    def add(self, kind: str, id: str, files: dict[str, bytes], private: bool = False) -> Repo:
        """Add files to a repository, which is created if needed; nothing is checked, so they may be hostile."""
        repo = self.repos.get((kind, id)) or self.create(kind, id, private, "static" if kind == "spaces" else None)
        blobs = {path: Blob(content, repo.takes_as_lfs(path, len(content), b"")) for path, content in files.items()}
        repo.branches["main"] = repo.add(repo.head.tree | blobs, "Add files", parent=repo.head)
        return repo

    def get(self, kind: str, id: str) -> Repo:
        """The repository.

        Raises:
            Refused: It does not exist.
        """
        if (kind, id) not in self.repos:
            raise Refused(404, "Repository not found", "RepoNotFound")
        return self.repos[kind, id]

    def commit(
        self, repo: Repo, revision: str, lines: list[dict], author: str, as_request: bool
    ) -> tuple[Commit, str]:
        """Apply a commit's lines on top of a branch.

        Returns:
            The commit and the name that points at it: the branch, or refs/pr/N of a new pull request.

        Raises:
            Refused: The branch has another head (412), or a line cannot be applied.
        """
        header = next(line["value"] for line in lines if line["key"] == "header")
        name, head = revision.removeprefix("refs/heads/"), repo.at(revision)
        if not as_request and not (name in repo.branches or name in repo.requests):
            raise Refused(400, f"{revision} is no branch")
        parent = header.get("parentCommit")
        if parent and not head.id.startswith(parent) and not as_request:
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        tree = self._apply(head.tree, [line for line in lines if line["key"] != "header"])
        commit = repo.add(tree, header["summary"], header.get("description", ""), author, head)
        if as_request:
            name = f"refs/pr/{len(repo.requests) + 1}"
        (repo.requests if name.startswith("refs/pr/") else repo.branches)[name] = commit
        return commit, name

    def _apply(self, tree: dict[str, Blob], lines: list[dict]) -> dict[str, Blob]:
        tree = dict(tree)
        for line in lines:
            path = _checked(line["value"]["path"])
            if line["key"] == "file":
                tree[path] = Blob(base64.b64decode(line["value"]["content"]))
            elif line["key"] == "lfsFile":
                if line["value"]["oid"] not in self.large:
                    raise Refused(400, f"The LFS object of {path} was not uploaded")
                tree[path] = Blob(self.large[line["value"]["oid"]], lfs=True)
            elif line["key"] == "deletedFile":
                if tree.pop(path, None) is None:
                    raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
            elif line["key"] == "deletedFolder":
                tree = {name: blob for name, blob in tree.items() if not name.startswith(f"{path.rstrip('/')}/")}
            else:
                raise Refused(400, f"Unknown line {line['key']}")
        return tree

    def create_collection(self, owner: str, title: str, description: str | None, private: bool) -> dict:
        """A new collection.

        Raises:
            Refused: The owner has one of that title; the answer names its slug.
        """
        for slug, known in self.collections.items():
            if (known["owner"]["name"], known["title"]) == (owner, title):
                raise Refused(409, "There is a collection with this title", slug=slug)
        slug = f"{owner}/{'-'.join(title.lower().split())}-{next(self._numbers):024x}"
        collection = {"slug": slug, "title": title, "description": description, "owner": {"name": owner}, "items": []}
        collection |= {"lastUpdated": _now(), "position": 0, "private": private, "theme": "indigo", "upvotes": 0}
        self.collections[slug] = collection
        return collection

    def add_to_collection(self, slug: str, item: dict, note: str | None) -> dict:
        """A collection with one more item.

        Raises:
            Refused: No such collection or repository, or the item is in it.
        """
        found = self.collection(slug)
        if f"{item['type']}s" in KINDS:
            self.get(f"{item['type']}s", item["id"])
        if any((other["type"], other["id"]) == (item["type"], item["id"]) for other in found["items"]):
            raise Refused(409, "Item already in collection")
        numbered = {"_id": f"{next(self._numbers):024x}", "position": len(found["items"]), **item}
        found["items"].append(numbered | ({"note": {"text": note}} if note else {}))
        return found

    def collection(self, slug: str) -> dict:
        """The collection, by its slug.

        Raises:
            Refused: It does not exist.
        """
        if slug not in self.collections:
            raise Refused(404, "Collection not found")
        return self.collections[slug]


def read_head(text: str) -> dict:
    """The YAML head of a card.

    Raises:
        Refused: Not YAML, or not a mapping.
    """
    if not text.startswith("---"):
        return {}
    try:
        head = yaml.safe_load(text.removeprefix("---").partition("\n---")[0]) or {}
    except yaml.YAMLError as error:
        raise Refused(400, f"YAML: {error}", errors=[{"message": str(error)}]) from None
    if not isinstance(head, dict):
        raise Refused(400, "YAML: no mapping", errors=[{"message": "the metadata must be keys and values"}])
    return head


def evaluations(commit: Commit) -> list[dict]:
    """The entries of .eval_results, as the Hub lists them with a model."""
    texts = [blob.content for path, blob in commit.tree.items() if re.fullmatch(r"\.eval_results/[^/]+\.yaml", path)]
    return [entry for text in texts for entry in yaml.safe_load(text)]


def folders_of(paths) -> list[str]:
    """Every folder that contains one of the paths."""
    return sorted({path.rpartition("/")[0] for item in paths for path in _and_above(item)} - {""})


def _and_above(path: str):
    while path:
        yield path
        path = path.rpartition("/")[0]


def _checked(path: str) -> str:
    if path.startswith("/") or ".." in path.split("/") or ".git" in path.split("/"):
        raise Refused(400, f"Invalid path {path!r}")
    return path


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
