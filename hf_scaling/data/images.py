"""One picture: decoded, fitted into the square, packed for the cache and unpacked again."""

import io

import numpy as np

# Raise it whenever a change below alters a cached pixel: caches and run ids hang on it.
DECODING_VERSION = 1
# Up to this side pixels are kept raw (a batch is one copy); above it they are encoded, or ImageNet at 224 px would
# take 190 GB.
LARGEST_RAW_SIDE = 64

_JPEG_QUALITY = 90


def storage_for(image_size: int, part: str) -> str:
    """Choose how the pictures of "train" or "test" are kept: "raw" or "jpeg".

    Test pictures are always raw: evaluation reads the source's very pixels, never an encoder's mistakes.
    """
    return "raw" if part == "test" or image_size <= LARGEST_RAW_SIDE else "jpeg"


def fit_picture(picture, image_size: int):
    """Fit a PIL image into `image_size` x `image_size` RGB: the shorter side resized (bicubic, antialiased), the
    centre kept. A picture that has the size already is not resampled.
    """
    from PIL import Image

    picture = picture.convert("RGB")
    if picture.size == (image_size, image_size):
        return picture
    width, height = picture.size
    scale = image_size / min(width, height)
    if scale != 1:
        size = max(image_size, round(width * scale)), max(image_size, round(height * scale))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    left, top = (picture.width - image_size) // 2, (picture.height - image_size) // 2
    return picture.crop((left, top, left + image_size, top + image_size))


def pack(encoded: bytes, image_size: int, storage: str) -> tuple[bytes, int]:
    """Decode a picture file's bytes, fit it and pack it.

    Args:
        encoded: The bytes of a PNG, JPEG or any other file that PIL opens.
        image_size: Side in pixels.
        storage: "raw" or "jpeg" (see `storage_for`).

    Returns:
        The bytes to keep, and the hash of the fitted pixels before any lossy encoding.

    Raises:
        Exception: Whatever PIL raises for bytes that are not a whole picture.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(encoded)) as picture:
        ImageOps.exif_transpose(picture, in_place=True)
        is_ready = picture.format == "JPEG" and picture.mode == "RGB" and picture.size == (image_size, image_size)
        fitted = fit_picture(picture, image_size)
    raw = fitted.tobytes()
    if storage == "raw":
        return raw, hash_pixels(raw)
    # A second JPEG encoding of what is there already would only lose more.
    return encoded if is_ready else _encode(fitted), hash_pixels(raw)


def pack_pixels(pixels: np.ndarray, storage: str) -> tuple[bytes, int]:
    """Pack one uint8 array (image_size, image_size, 3), as `pack` does."""
    from PIL import Image

    raw = pixels.tobytes()
    return raw if storage == "raw" else _encode(Image.fromarray(pixels)), hash_pixels(raw)


def unpack(encoded: bytes) -> np.ndarray:
    """Decode a picture kept as JPEG: uint8 array (image_size, image_size, 3)."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as picture:
        return np.asarray(picture)


def hash_pixels(raw: bytes) -> int:
    """Hash a picture's RGB bytes (XXH3, 64 bits)."""
    import xxhash

    return xxhash.xxh3_64_intdigest(raw)


def _encode(picture) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
