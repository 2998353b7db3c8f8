"""Hashes of the content of files, stored in the cache with their sizes and times, so that no file is read twice."""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xxhash
from tqdm import tqdm

from hf_scaling.errors import InputError
from hf_scaling.files import replacing, write_text

if TYPE_CHECKING:
    from hf_scaling.data.folders import ImageFolder


def hash_contents(folder: "ImageFolder", memory: Path, progress: bool = False) -> str:
    """Hash the classes, and the contents of the images in their order; never a path.

    A folder whose files have the same sizes and times as before is not read; of another one only the changed
    files are.

    Args:
        folder: The folder, as `read_image_folder` returns it.
        memory: The folder of the cache that stores hashes.
        progress: Whether to show a progress bar on stderr when it takes longer than two seconds.

    Returns:
        32 hexadecimal digits.

    Raises:
        InputError: A file cannot be read.
    """
    paths = [path for files in folder.parts.values() for path in files.paths]
    stamps = np.concatenate([files.stamps for files in folder.parts.values()])
    layout = xxhash.xxh3_128("\n".join(folder.class_names).encode())
    for part, files in folder.parts.items():
        layout.update(f"\n{part} {len(files.paths)}\n".encode())
        layout.update(files.labels.tobytes())
    state = xxhash.xxh3_128(layout.digest() + stamps.tobytes() + os.fsencode("\0".join(paths))).hexdigest()
    key = hashlib.sha256(os.fsencode(folder.root.resolve())).hexdigest()[:16]
    whole, single = memory / f"{key}.txt", memory / f"{key}.npz"
    if whole.exists():
        known_state, _, known_hash = whole.read_text().partition(" ")
        if known_state == state:
            return known_hash
    known = _known_digests(single)
    digests = bytearray()
    base = os.open(folder.root, os.O_RDONLY)
    try:
        bar = tqdm(paths, "reading files' content", delay=2, disable=not progress, unit=" files", miniters=1000)
        for path, stamp in zip(bar, stamps.tolist()):
            digest = known.get((path, *stamp)) if known else None
            digests += digest or xxhash.xxh3_128_digest(_read(path, stamp[0], base))
    except OSError as error:
        raise InputError(f"{folder.root / path}: cannot be read: {error.strerror}") from error
    finally:
        os.close(base)
    content = xxhash.xxh3_128(layout.digest() + bytes(digests)).hexdigest()
    with replacing(single) as partial, open(partial, "wb") as file:
        names = np.frombuffer(os.fsencode("\0".join(paths)), np.uint8)
        np.savez(file, names=names, stamps=stamps, digests=np.frombuffer(digests, np.uint8))
    write_text(whole, f"{state} {content}")
    return content


def _known_digests(path: Path) -> dict[tuple, bytes]:
    """Path, size and times of the files that were hashed before, to their digests of 16 bytes."""
    if not path.exists():
        return {}
    try:
        with np.load(path) as stored:
            names = os.fsdecode(stored["names"].tobytes()).split("\0")
            digests = stored["digests"].tobytes()
            stamps = stored["stamps"].tolist()
    except (OSError, ValueError, KeyError):  # a damaged file of hashes costs time, nothing else
        return {}
    return {(name, *stamps[at]): digests[16 * at : 16 * at + 16] for at, name in enumerate(names)}


def _read(path: str, size: int, base: int) -> bytes:
    """A file's bytes; three system calls where `size` is right, which is half the time of `Path.read_bytes`."""
    handle = os.open(path, os.O_RDONLY, dir_fd=base)
    try:
        content = os.read(handle, size + 1)
        while len(content) > size or (size and len(content) < size):
            more = os.read(handle, 1 << 24)
            if not more:
                break
            content += more
        return content
    finally:
        os.close(handle)


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
