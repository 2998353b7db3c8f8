"""Image files of kinds that PIL reads but does not write: TIFF of any depth, PNG with 16 bits per channel."""

import io
import struct
import zlib

import numpy as np
from PIL import Image


def encode(image: Image.Image | np.ndarray, kind: str, **options) -> bytes:
    """An image as the bytes of a file of a format of PIL."""
    buffer = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(
    values: np.ndarray, photometric: int = 1, order: str = "<", extra: int | None = None, deflate: bool = False
) -> bytes:
    """A TIFF file.

    Args:
        values: (height, width) or (height, width, channels) of any type of numpy.
        photometric: 0 white is zero, 1 black is zero, 2 RGB, 5 CMYK, 8 CIELab.
        order: "<" little endian, ">" big endian.
        extra: Meaning of a channel beyond the colours: 2 for opacity.
        deflate: Whether it is compressed, which PIL leaves to libtiff.
    """
    channels = values.shape[2] if values.ndim == 3 else 1
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    tags = {256: (values.shape[1],), 257: (values.shape[0],), 258: (values.dtype.itemsize * 8,) * channels}
    data = zlib.compress(data) if deflate else data
    tags |= {259: (8 if deflate else 1,), 262: (photometric,), 273: (8,), 277: (channels,), 278: (values.shape[0],)}
    tags |= {279: (len(data),), 339: (sample_format,) * channels}
    if extra is not None:
        tags[338] = (extra,)
    directory = 8 + len(data) + len(data) % 2
    overflow, offset, entries = b"", directory + 2 + 12 * len(tags) + 4, b""
    for tag, items in sorted(tags.items()):
        is_long = tag in (273, 279)
        field = struct.pack(f"{order}{len(items)}{'I' if is_long else 'H'}", *items)
        if len(field) > 4:
            field, overflow = struct.pack(f"{order}I", offset + len(overflow)), overflow + field
        entries += struct.pack(f"{order}HHI", tag, 4 if is_long else 3, len(items)) + field.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, directory)
    padding = b"\0" * (len(data) % 2)
    return head + data + padding + struct.pack(f"{order}H", len(tags)) + entries + bytes(4) + overflow


def png(values: np.ndarray, transparent: tuple[int, ...] | None = None, filtered: bool = False) -> bytes:
    """A PNG file with 16 bits per channel: grey, grey and opacity, RGB or RGBA, by the number of channels.

    Args:
        values: uint16 array (height, width, channels).
        transparent: The colour that is transparent.
        filtered: Whether rows are stored as differences to the row above.
    """
    height, width, channels = values.shape
    rows = values.astype(">u2").reshape(height, -1).view(np.uint8)
    above = np.vstack([np.zeros_like(rows[:1]), rows[:-1]])
    lines = rows - above if filtered else rows
    data = b"".join(bytes([2 if filtered else 0]) + line.tobytes() for line in lines)
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    key = b"" if transparent is None else chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + key + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
