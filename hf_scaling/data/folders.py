"""Files of a local source: their content is what identifies it, wherever they are stored."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from hf_scaling.files import write_text


def hash_files(paths: Iterable[str | Path], base: Path, root: Path, progress: bool) -> str:
    """Hash the content of files and their names relative to `base`.

    A file whose size and modification time have not changed is not read again: its hash is stored under `root`.

    Args:
        paths: The files.
        base: The folder that holds them, or the file itself; its own name is not hashed.
        root: Folder of the cache.
        progress: Whether to show a progress bar on stderr when hashing takes longer than two seconds.

    Returns:
        64 hex digits.
    """
    memory = root / "files" / f"{hashlib.sha256(os.fsencode(base.resolve())).hexdigest()[:16]}.json"
    known = json.loads(memory.read_text()) if memory.exists() else {}
    names = {os.path.relpath(path, base): path for path in paths}
    with ThreadPoolExecutor() as pool:
        entries = pool.map(lambda name: _hash_file(names[name], known.get(name)), names)
        bar = tqdm(entries, "hashing files", len(names), delay=2, disable=not progress, unit=" files")
        current = dict(zip(names, bar))
    if current != known:
        write_text(memory, json.dumps(current))
    listing = sorted((name, digest) for name, (_, _, digest) in current.items())
    return hashlib.sha256(json.dumps(listing).encode()).hexdigest()


def _hash_file(path: str | Path, known: list | None) -> list:
    """Size, modification time and SHA-256 of a file; `known` where its size and time are the same."""
    status = os.stat(path)
    stamp = [status.st_size, status.st_mtime_ns]
    if known is not None and known[:2] == stamp:
        return known
    with open(path, "rb") as file:
        return [*stamp, hashlib.file_digest(file, "sha256").hexdigest()]
