"""Down from the Hub and nothing of ours: ids to local folders, and its errors as one line each.

Nothing of Hugging Face is imported before it is needed, so that HF_ENDPOINT can still be set.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_scaling.errors import InputError

# A name that ends so is a file that is not there, not a repository.
_FILE_SUFFIXES = (".csv", ".json", ".parquet", ".txt", ".yaml", ".yml")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")


def is_hub_id(name: str) -> bool:
    """Whether `name` can be a Hub id (`org/name` or `name`); a path that exists always wins."""
    if Path(name).exists() or Path(name).suffix in _FILE_SUFFIXES:
        return False
    return _HUB_ID.fullmatch(name) is not None


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn the Hub's and the network's errors into one line about `what`: offline, absent, gated.

    Args:
        what: What was asked for, as the line should name it: "the model org/name".

    Raises:
        InputError: In place of any error of huggingface_hub, httpx, or a refused connection.
    """
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        raise InputError(f"{what} is gated: ask for access on its page, then `hf auth login`") from None
    except errors.RepositoryNotFoundError:
        raise InputError(f"{what} is not on the Hub (or private: then `hf auth login` first)") from None
    except errors.RevisionNotFoundError:
        raise InputError(f"{what} has no such revision on the Hub") from None
    except errors.RemoteEntryNotFoundError as error:
        raise InputError(f"{what}: the Hub has no such file ({_first_line(error)})") from None
    except errors.HFValidationError as error:
        raise InputError(f"{what} is no path here and no Hub id: {_first_line(error)}") from None
    except errors.LocalEntryNotFoundError as error:
        raise InputError(_offline(what)) from error
    except errors.HfHubHTTPError as error:
        raise InputError(f"{what}: the Hub answered {_first_line(error)}") from error
    except Exception as error:
        if not _is_network_error(error):
            raise
        raise InputError(_offline(what)) from error


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
        InputError: Offline, absent or gated, said as that.
    """
    from huggingface_hub import snapshot_download

    with hub_errors(f"the {repo_type} {repo_id}"):
        return Path(
            snapshot_download(
                repo_id,
                repo_type=repo_type,
                revision=revision,
                allow_patterns=allow_patterns,
                ignore_patterns=ignore_patterns,
            )
        )


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


def _is_network_error(error: BaseException) -> bool:
    """Connection refused, no route, no name: of the sockets, or of whichever httpx the Hub client uses."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return any(cls.__name__ == "TransportError" and "httpx" in cls.__module__ for cls in type(error).__mro__)


def _offline(what: str) -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return f"offline (HF_HUB_OFFLINE is set), and {what} is not in the local cache"
    return f"offline: the Hub cannot be reached, and {what} is not in the local cache"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
