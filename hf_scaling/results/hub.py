"""Tables of the Hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from hf_scaling import transport
from hf_scaling.errors import InputError
from hf_scaling.results.reading import read

if TYPE_CHECKING:
    import pyarrow

DEFAULT_CONFIG = "default"


def fetch(where: str, revision: str | None, config_name: str) -> "pyarrow.Table":
    """The rows of a repository."""
    return read(_download(where, revision))


def _download(where: str, revision: str | None) -> Path:
    if not transport.is_hub_id(where):
        raise InputError(f"{where}: no such file or folder, and no Hub id (org/name)")
    patterns = ["*.parquet", "results/*.parquet"]
    try:
        return transport.download(where, repo_type="dataset", revision=revision, allow_patterns=patterns)
    except InputError as as_dataset:
        if "is not on the Hub" not in str(as_dataset):
            # The name may as well have been meant as a path, misspelt.
            raise InputError(f"{where}: no such file or folder here; as a Hub id: {as_dataset}") from as_dataset
        return transport.download(where, repo_type="model", revision=revision, allow_patterns=patterns)
