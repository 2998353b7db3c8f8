"""What identifies a data set: the content of its files here, the commit on the Hub; never a path."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hf_scaling.files import write_text


def hash_files(paths: Iterable[str], base: Path, root: Path, progress: bool) -> str:
    """Hash files' content and their names below `base`.

    A file whose size and time of change are as before is not read again: its hash is remembered under `root`.

    Args:
        paths: The files.
        base: The folder that holds them, or the file itself; its own name does not count.
        root: The cache's folder.
        progress: Whether to show a progress bar on stderr when it takes longer than two seconds.

    Returns:
        64 hex digits.
    """
    from tqdm import tqdm

    memory = root / "files" / f"{hashlib.sha256(os.fsencode(base.resolve())).hexdigest()[:16]}.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    names = {os.path.relpath(path, base): path for path in paths}
    with ThreadPoolExecutor() as pool:
        entries = pool.map(lambda name: _entry(names[name], known.get(name)), names)
        bar = tqdm(entries, "reading files' content", len(names), delay=2, disable=not progress, unit=" files")
        found = dict(zip(names, bar))
    if found != known:
        write_text(memory, json.dumps(found))
    listing = sorted((name, digest) for name, (_, _, digest) in found.items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _entry(path: str, known: list | None) -> list:
    status = os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns]
    if known is not None and known[:2] == stamp:
        return known
    with open(path, "rb") as file:
        return [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
