"""Files: writes that a kill cannot tear, and YAML read with one clear line for whatever is wrong with it."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM)


def shipped_folder(name: str) -> Path:
    """The folder of `model_cards` or `recipes`: inside an installed package, or at the top of a clone.

    Args:
        name: "model_cards" or "recipes".
    """
    package = Path(__file__).resolve().parent
    installed = package / name
    return installed if installed.is_dir() else package.parent / name


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Give a temporary path beside `path`; on leaving without an error it takes the place of `path` atomically.

    Args:
        path: The file to write or replace; missing parent folders are made.

    Yields:
        The path to write to. It is removed when the block raises.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        _flush_to_disk(temporary)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """The keys and values of a YAML file; `what` is how messages call a missing one: "configuration", "grid".

    Raises:
        InputError: No such file, unreadable, not YAML, or no mapping; one line.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what} file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold keys and values, one `key: value` a line")
    return values


def write_text(path: str | os.PathLike, text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def disk_trouble(error: BaseException | None) -> str | None:
    """The line for a disk that takes no more writes, also where a library wrapped the system's error into its own.

    Args:
        error: What was raised; the errors that it came from are looked at too.

    Returns:
        None where the error has nothing to do with a full disk or a folder that cannot be written to.
    """
    while error is not None:
        where = getattr(error, "filename", None)
        number = getattr(error, "errno", None)
        if number in _FULL or os.strerror(errno.ENOSPC) in str(error):
            return f"the disk is full{f': {where}' if where else ''}; free some space and run the same command again"
        if number in _READ_ONLY and where:
            return f"{where} cannot be written to: {os.strerror(number)}"
        error = error.__cause__ or error.__context__
    return None


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
