"""A shard: one Arrow file with some hundreds or thousands of pictures, whole or absent.

The file's name ends with the hash of its content, so that a damaged file is found without another file to trust.
"""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from hf_scaling.files import replacing
from hf_scaling.subsets.pictures import unpack

_RAW_BYTES = 1 << 25
_ENCODED_ROWS = 1_024
_NAME = re.compile(r"(\d{6})-([0-9a-f]{16})\.arrow")


@dataclass
class Block:
    """What a reader made of some consecutive rows of its source.

    Attributes:
        payloads: The packed pictures, in the rows' order.
        labels: Their class ids.
        hashes: Their pixels' hashes.
        n_rows: How many rows were read, those left out included; fewer than asked for means that the source ended.
        skipped: The rows whose pictures could not be decoded, named.
        state: Where a stream goes on after these rows, as JSON; None for a source with random access.
    """

    payloads: list[bytes] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    hashes: list[int] = field(default_factory=list)
    n_rows: int = 0
    skipped: list[str] = field(default_factory=list)
    state: dict | None = None


class Shard:
    """A shard's pictures, memory-mapped: nothing is read before it is asked for."""

    def __init__(self, path: Path, storage: str, image_size: int):
        """Map the file `path`."""
        import pyarrow as pa

        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        metadata = {key.decode(): json.loads(value) for key, value in table.schema.metadata.items()}
        self.n_rows, self.skipped, self.state = metadata["n_rows"], metadata["skipped"], metadata["state"]
        self.labels = table["label"].to_numpy()
        self.hashes = table["hash"].to_numpy()
        self._pixels = self._offsets = None
        chunks = table["image"].chunks
        if storage == "raw":
            data = chunks[0].buffers()[1] if chunks else b""
            self._pixels = np.frombuffer(data, np.uint8).reshape(-1, image_size, image_size, 3)
        elif chunks:
            _, offsets, self._data = chunks[0].buffers()
            self._offsets = np.frombuffer(offsets, np.int64)

    def images(self, rows: np.ndarray) -> np.ndarray:
        """Give pictures: uint8 array (len(rows), image_size, image_size, 3)."""
        if self._pixels is not None:
            return self._pixels[rows]
        spans = zip(self._offsets[rows], self._offsets[rows + 1])
        return np.stack([unpack(self._data[start:stop].to_pybytes()) for start, stop in spans])


def rows_per_shard(storage: str, image_size: int) -> int:
    """Give the rows of a shard, a power of two: some 15 to 30 MB of pictures."""
    if storage != "raw":
        return _ENCODED_ROWS
    return 1 << max(0, (_RAW_BYTES // (3 * image_size**2)).bit_length() - 1)


def write_shard(folder: Path, number: int, block: Block, storage: str, image_size: int) -> Path:
    """Write `block` as shard `number` of `folder`, atomically; give its path."""
    content = _serialise(block, storage, image_size)
    path = folder / f"{number:06d}-{_digest(content)}.arrow"
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


def find_shards(folder: Path) -> dict[int, Path]:
    """Find the shards in `folder`: number to path."""
    matches = ((_NAME.fullmatch(path.name), path) for path in sorted(folder.glob("*.arrow")))
    return {int(match[1]): path for match, path in matches if match}


def is_whole(path: Path) -> bool:
    """Whether a shard's content is what was written; False if it is gone."""
    try:
        with path.open("rb") as file:
            return _digest_file(file) == _NAME.fullmatch(path.name)[2]
    except OSError:
        return False


def _serialise(block: Block, storage: str, image_size: int) -> memoryview:
    import pyarrow as pa

    table = pa.table(
        {
            "image": _image_column(block, storage, image_size),
            "label": pa.array(block.labels, pa.int64()),
            "hash": pa.array(block.hashes, pa.uint64()),
        },
        metadata={name: json.dumps(getattr(block, name)) for name in ("n_rows", "skipped", "state")},
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _image_column(block: Block, storage: str, image_size: int):
    import pyarrow as pa

    if storage != "raw":
        return pa.array(block.payloads, pa.large_binary())
    data = pa.py_buffer(b"".join(block.payloads))
    kind = pa.binary(image_size * image_size * 3)
    return pa.FixedSizeBinaryArray.from_buffers(kind, len(block.payloads), [None, data])


def _digest(content: memoryview) -> str:
    import xxhash

    return xxhash.xxh3_64_hexdigest(content)


def _digest_file(file) -> str:
    import xxhash

    hasher = xxhash.xxh3_64()
    while chunk := file.read(1 << 24):
        hasher.update(chunk)
    return hasher.hexdigest()
