"""study.json: which repositories of the Hub belong to a study. It lies in the data set of the study, as plain text."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_scaling import transport
from hf_scaling.errors import InputError

FILE = "study.json"
FORMAT = "hf_scaling.study"
VERSION = 1
_RUN_ID = re.compile(r"[0-9a-f]{16}")
_LAW = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PLACE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")


@dataclass(frozen=True)
class Manifest:
    """The parts of a study on the Hub.

    Attributes:
        models: run_id to the id of the repository that holds its checkpoint.
        laws: Name of the law's folder to the id of its repository.
        report: Id of the static Space; None where there is none.
        collection: Slug of the collection; None where there is none.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    laws: Mapping[str, str] = field(default_factory=dict)
    report: str | None = None
    collection: str | None = None

    def merge(self, newer: "Manifest") -> "Manifest":
        """Both together; where they differ, what `newer` says."""
        return Manifest(
            {**self.models, **newer.models},
            {**self.laws, **newer.laws},
            newer.report or self.report,
            newer.collection or self.collection,
        )

    def to_json(self) -> bytes:
        """The content of study.json; equal manifests give equal bytes."""
        content = {"format": FORMAT, "version": VERSION, **asdict(self)}
        return (json.dumps(content, indent=1, sort_keys=True) + "\n").encode()

    @classmethod
    def from_json(cls, content: bytes, where: str) -> "Manifest":
        """Read study.json, of which nothing is trusted.

        Args:
            content: The file's content.
            where: The repository, for messages.

        Raises:
            InputError: It is no manifest, of a newer version, or a name in it is not what it should be.
        """
        try:
            values = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{where}: {FILE} is not JSON: {error}") from None
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise InputError(f"{where}: {FILE} is no study of hf_scaling: its format is not {FORMAT!r}")
        version = values.get("version")
        if not isinstance(version, int) or version > VERSION:
            raise InputError(f"{where}: {FILE} has version {version}: install a newer hf_scaling")
        return cls(
            _ids(values.get("models"), _RUN_ID, "run id", where),
            _ids(values.get("laws"), _LAW, "name of a law", where),
            _place(values.get("report"), "report", where),
            _place(values.get("collection"), "collection", where),
        )


def push_manifest(ours: Manifest, repo_id: str) -> Manifest:
    """Merge a manifest into the one that a study's data set holds.

    Returns:
        Both together.

    Raises:
        InputError: What is there is no manifest, or no right to write.
        PushError: Offline, or the Hub kept failing.
    """
    merged = ours

    def prepare(base: transport.RemoteFolder) -> list:
        from huggingface_hub import CommitOperationAdd

        nonlocal merged
        merged = Manifest.from_json(base.read(FILE), repo_id).merge(ours) if FILE in base.files else ours
        return [CommitOperationAdd(FILE, merged.to_json())]

    transport.commit(repo_id, "dataset", prepare, "List the parts of the study", create=False)
    return merged


def _ids(values: Any, keys: re.Pattern, what: str, where: str) -> dict[str, str]:
    """Names to Hub ids; a name becomes a folder here, so it must be a plain one."""
    if not isinstance(values, dict):
        raise InputError(f"{where}: {FILE} must hold a mapping for every {what}")
    for name, repo_id in values.items():
        if not keys.fullmatch(name):
            raise InputError(f"{where}: {FILE} names {name!r}, which is no {what}")
        if not _is_place(repo_id):
            raise InputError(f"{where}: {FILE} names {repo_id!r} for {name}, which is no Hub id")
    return values


def _place(value: Any, what: str, where: str) -> str | None:
    if value is not None and not _is_place(value):
        raise InputError(f"{where}: {FILE} names {value!r}, which is no {what} of the Hub")
    return value


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and _PLACE.fullmatch(value) is not None and ".." not in value
