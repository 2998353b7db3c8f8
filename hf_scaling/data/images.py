"""One image: decoded, fitted into a square, packed for the cache and unpacked again."""

import io
from dataclasses import dataclass

import numpy as np
import xxhash
from PIL import Image, ImageOps

# Increase whenever a change below alters a cached pixel: fingerprints, and so caches and run ids, depend on it.
DECODING_VERSION = 1
# Up to this side pixels are stored raw (reading a batch is one copy). Above it they are encoded, because ImageNet at
# 224 px would take 190 GB.
LARGEST_RAW_SIDE = 64

_JPEG_QUALITY = 90


@dataclass(frozen=True)
class ImageFormat:
    """How the images of a part are stored.

    Attributes:
        image_size: Side of the square RGB images in pixels.
        is_raw: Whether as raw pixels rather than as JPEG.
    """

    image_size: int
    is_raw: bool

    @classmethod
    def for_part(cls, image_size: int, part: str) -> "ImageFormat":
        """The format of "train" or "test".

        Test images are always raw, so that evaluation reads the source's pixels without an encoder's errors.
        """
        return cls(image_size, part == "test" or image_size <= LARGEST_RAW_SIDE)

    @property
    def name(self) -> str:
        """ "raw" or "jpeg"."""
        return "raw" if self.is_raw else "jpeg"

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return self.image_size, self.image_size, 3

    def pack(self, encoded: bytes) -> tuple[bytes, int]:
        """Decode an image file, turn it as its EXIF data say, fit it and pack it.

        Args:
            encoded: The bytes of a PNG, a JPEG or any other file that PIL opens.

        Returns:
            The bytes to store, and the hash (XXH3, 64 bits) of the fitted pixels before any lossy encoding.

        Raises:
            Exception: Whatever PIL raises for bytes that are not a complete image.
        """
        with Image.open(io.BytesIO(encoded)) as image:
            ImageOps.exif_transpose(image, in_place=True)
            is_ready = image.format == "JPEG" and image.mode == "RGB" and image.size == self.shape[:2]
            fitted = fit_image(image, self.image_size)
        # A JPEG of the right size is stored as it is: encoding it a second time would only lose more.
        return self._pack(fitted, encoded if is_ready else None)

    def pack_pixels(self, pixels: np.ndarray) -> tuple[bytes, int]:
        """Pack one uint8 array (image_size, image_size, 3), as `pack` does."""
        return self._pack(Image.fromarray(pixels))

    def _pack(self, image: Image.Image, jpeg: bytes | None = None) -> tuple[bytes, int]:
        raw = image.tobytes()
        if not self.is_raw and jpeg is None:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
            jpeg = buffer.getvalue()
        return raw if self.is_raw else jpeg, xxhash.xxh3_64_intdigest(raw)


def unpack(encoded: bytes) -> np.ndarray:
    """Decode an image stored as JPEG: uint8 array (image_size, image_size, 3)."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image)


def fit_image(image: Image.Image, image_size: int) -> Image.Image:
    """Fit an image into an RGB square of `image_size` pixels a side.

    The shorter side is resized (bicubic, antialiased), then the centre is cropped. An image that has the size already
    is not resampled.
    """
    image = image.convert("RGB")
    if image.size == (image_size, image_size):
        return image
    width, height = image.size
    scale = image_size / min(width, height)
    if scale != 1:
        size = max(image_size, round(width * scale)), max(image_size, round(height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))
