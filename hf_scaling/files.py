"""Atomic writes, YAML and JSON files, shipped files, and messages for disk errors."""

import errno
import json
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


def decode_text(content: bytes) -> str:
    """The text of a foreign file: UTF-8, or UTF-16 by its mark, else Windows-1252; without the mark."""
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", "replace")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file atomically: yield a temporary path beside `path`, which replaces it if the block ends well.

    Args:
        path: The file to write or replace; missing parent folders are created.

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
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        # mkstemp makes a private file; the umask can only be read by setting it.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` as UTF-8 to `path`, atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_yaml(path: Path, what: str) -> dict[str, Any]:
    """Read the keys and values of a YAML file.

    Args:
        path: The file.
        what: What messages call a missing file: "configuration", "grid".

    Raises:
        InputError: Missing, unreadable, not YAML, or not a mapping.
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
        raise InputError(f"{path}: must hold keys and values, one `key: value` per line")
    return values


def parse_json(content: bytes | str, place: str, form: str, version: int) -> dict[str, Any]:
    """Parse a JSON file that this package writes, which states its format and the version of that.

    Args:
        content: The file's content.
        place: The file, for messages.
        form: What `format` must be: "hf_scaling.law", "hf_scaling.study".
        version: The newest version that can be read.

    Raises:
        InputError: Not JSON, of another format, or of a newer version.
    """
    try:
        values = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place} is not JSON: {error}") from None
    if not isinstance(values, dict) or values.get("format") != form:
        raise InputError(f"{place} was not written by hf_scaling: its format is not {form!r}")
    stated = values.get("version")
    if not isinstance(stated, int) or stated > version:
        raise InputError(f"{place} has version {stated}; this hf_scaling reads up to {version}: install a newer one")
    return values


def disk_trouble(error: BaseException | None) -> str | None:
    """The message for a full or read-only disk; None for other errors.

    Args:
        error: The exception; its causes are checked too, since libraries wrap the system's error.
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
