"""One picture: decoded, fitted into the square, packed for the cache and unpacked again."""

import io
import warnings

import numpy as np

# Raise it whenever a change below alters a cached pixel: caches and run ids hang on it.
DECODING_VERSION = 1
# Up to this side pixels are kept raw (a batch is one copy); above it they are encoded, or ImageNet at 224 px would
# take 190 GB.
LARGEST_RAW_SIDE = 64

_JPEG_QUALITY = 90


def storage_for(image_size: int, lossless: bool) -> str:
    """Choose how pictures of a side are kept: "raw", or above 64 px "jpeg", or "png" where nothing may be lost."""
    if image_size <= LARGEST_RAW_SIDE:
        return "raw"
    return "png" if lossless else "jpeg"


def fit_picture(picture, image_size: int):
    """Fit a PIL image into `image_size` x `image_size` RGB: the shorter side resized (bicubic, antialiased), the
    centre kept. A picture that has the size already is not resampled.
    """
    from PIL import Image

    picture = picture.convert("RGB")
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
        storage: "raw", "jpeg" or "png" (see `storage_for`).

    Returns:
        The bytes to keep, and the hash of the fitted pixels before any lossy encoding.

    Raises:
        Exception: Whatever PIL raises for bytes that are not a whole picture.
    """
    from PIL import Image, ImageOps

    with warnings.catch_warnings(), Image.open(io.BytesIO(encoded)) as picture:
        warnings.simplefilter("ignore")
        is_ready = picture.format == "JPEG" and picture.mode == "RGB" and picture.size == (image_size, image_size)
        turned = ImageOps.exif_transpose(picture)
        fitted = fit_picture(turned, image_size)
    if storage == "jpeg" and is_ready:
        return encoded, hash_pixels(fitted.tobytes())  # a second JPEG encoding would only lose more
    return _encode(fitted, storage), hash_pixels(fitted.tobytes())


def pack_pixels(pixels: np.ndarray, storage: str) -> tuple[bytes, int]:
    """Pack one uint8 array (image_size, image_size, 3), as `pack` does."""
    from PIL import Image

    raw = pixels.tobytes()
    return raw if storage == "raw" else _encode(Image.fromarray(pixels), storage), hash_pixels(raw)


def unpack(encoded: bytes) -> np.ndarray:
    """Decode a picture kept as JPEG or PNG: uint8 array (image_size, image_size, 3)."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as picture:
        return np.asarray(picture)


def hash_pixels(raw: bytes) -> int:
    """Hash a picture's RGB bytes (XXH3, 64 bits)."""
    import xxhash

    return xxhash.xxh3_64_intdigest(raw)


def _encode(picture, storage: str) -> bytes:
    if storage == "raw":
        return picture.tobytes()
    buffer = io.BytesIO()
    if storage == "png":
        picture.save(buffer, "PNG", compress_level=3)
    else:
        picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()
