"""One image: decoded to 8-bit RGB as a person sees it, fitted into a square, packed for the cache and unpacked again.

A file of ordinary depth without transparent parts is decoded by itself. Values deeper than 8 bits need a range, and
transparent parts need a background; both are decided once for a source, from its training images (`PixelDecision`).
"""

import dataclasses
import functools
import io
import json
import struct
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import xxhash
from PIL import Image, ImageChops, ImageCms, ImageColor, ImageOps

from hf_scaling.errors import InputError
from hf_scaling.text import format_number

# Increase whenever a change below alters a cached pixel: fingerprints, and so caches and run ids, depend on it.
# Glyphs and digits are not decoded and do not depend on it.
DECODING_VERSION = 2
# Up to this side pixels are stored raw (reading a batch is one copy). Above it they are encoded, because ImageNet at
# 224 px would take 190 GB.
LARGEST_RAW_SIDE = 64

_JPEG_QUALITY = 90
_ORIENTATION = 0x0112
_PHOTOMETRIC = 262
_WHITE_IS_ZERO = 0
# Big-endian values that libtiff has swapped already when PIL unpacks them, and how to unpack them instead.
_SWAPPED = {"F;32BF": "F;32NF", "I;32BS": "I;32NS", "I;16BS": "I;16NS"}
# Formats whose further frames are no pages: previews of a photograph, layers of a drawing.
_NOT_PAGES = ("MPO", "PSD")
# Pixels of one colour differ by at most this many of 255 levels: lossy compression of a white image stays below it.
_ONE_COLOUR = 8
_WHITE, _BLACK = (255, 255, 255), (0, 0, 0)

RGB = tuple[int, int, int]

# PIL tries formats in the order in which they were loaded. Without this, loading all of them (`registered_extensions`)
# puts rare ones before JPEG and PNG, which doubles the time to open a small image.
Image.preinit()


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


class Packed(NamedTuple):
    """An image as the cache stores it.

    Attributes:
        payload: The bytes to store.
        pixel_hash: XXH3, 64 bits, of the fitted pixels before any lossy encoding.
        has_frames: Whether the file holds further frames or pages, which are not used.
    """

    payload: bytes
    pixel_hash: int
    has_frames: bool = False


class Packer(Protocol):
    """Turns an image file into bytes, for the cache or for a scan."""

    def pack(self, encoded: bytes) -> Packed:
        """Pack the bytes of an image file; raises whatever PIL raises for bytes that are not a complete image."""


@dataclass(frozen=True)
class ImagePacker:
    """Packs images of one source for the cache.

    Attributes:
        image_format: How they are stored.
        rules: The source's range and background.
    """

    image_format: ImageFormat
    rules: "PixelRules"

    @property
    def image_size(self) -> int:
        """Side of the packed images in pixels."""
        return self.image_format.image_size

    def pack(self, encoded: bytes) -> Packed:
        """Decode the first frame of an image file, turn it as its EXIF data say, fit it and pack it.

        Args:
            encoded: The bytes of a PNG, a JPEG or any other file that PIL opens.

        Raises:
            Undecided: It needs the source's range or background, which is not decided yet.
            Exception: Whatever PIL raises for bytes that are not a complete image.
        """
        frame = Frame.read(encoded)
        image = frame.render(self.rules)
        # A JPEG of the right size is stored as it is: encoding it a second time would only lose more.
        is_ready = frame.is_plain_jpeg and image.size == (self.image_size, self.image_size)
        fitted = fit_image(image, self.image_size)
        return self._pack(fitted, encoded if is_ready else None)._replace(has_frames=frame.has_frames)

    def pack_pixels(self, pixels: np.ndarray) -> Packed:
        """Pack one uint8 array (image_size, image_size, 3)."""
        return self._pack(Image.fromarray(pixels))

    def _pack(self, image: Image.Image, jpeg: bytes | None = None) -> Packed:
        raw = image.tobytes()
        if not self.image_format.is_raw and jpeg is None:
            buffer = io.BytesIO()
            image.save(buffer, "JPEG", quality=_JPEG_QUALITY)
            jpeg = buffer.getvalue()
        return Packed(raw if self.image_format.is_raw else jpeg, xxhash.xxh3_64_intdigest(raw))


def unpack(encoded: bytes) -> np.ndarray:
    """Decode an image stored as JPEG: uint8 array (image_size, image_size, 3)."""
    with Image.open(io.BytesIO(encoded)) as image:
        return np.asarray(image)


def fit_image(image: Image.Image, image_size: int) -> Image.Image:
    """Fit an image into an RGB square of `image_size` pixels a side.

    The shorter side is resized (bicubic, antialiased), then the centre is cropped. An image that has the size already
    is not resampled.
    """
    image = _as_rgb(image)
    if image.size == (image_size, image_size):
        return image
    width, height = image.size
    scale = image_size / min(width, height)
    if scale != 1:
        size = max(image_size, round(width * scale)), max(image_size, round(height * scale))
        image = image.resize(size, Image.Resampling.BICUBIC)
    left, top = (image.width - image_size) // 2, (image.height - image_size) // 2
    return image.crop((left, top, left + image_size, top + image_size))


def parse_background(name: str) -> RGB:
    """The colour of a background: a name such as white, or #rrggbb.

    Raises:
        InputError: It is not a colour.
    """
    try:
        return ImageColor.getrgb(name)[:3]
    except (ValueError, AttributeError):
        raise InputError(
            f"background: {name} is not a colour: give a name such as white or gray, or #rrggbb"
        ) from None


# Decoding.


@dataclass(frozen=True)
class Frame:
    """The first frame of an image file, upright.

    Attributes:
        image: 8 bits deep: RGB, or RGBA where parts are transparent. None for deeper images.
        values: The values of a deeper image: (height, width), or (height, width, channels) of RGB or CMYK.
        alpha: Opacity of a deeper image: uint8 array (height, width), None where all is opaque.
        is_inverted: Whether the smallest of `values` is white.
        is_plain_jpeg: Whether the file is an RGB JPEG that needs no rotation.
        has_frames: Whether the file holds further frames or pages.
    """

    image: Image.Image | None
    values: np.ndarray | None = None
    alpha: np.ndarray | None = None
    is_inverted: bool = False
    is_plain_jpeg: bool = False
    has_frames: bool = False

    @classmethod
    def read(cls, encoded: bytes) -> "Frame":
        """Decode an image file; raises whatever PIL raises for bytes that are not a complete image."""
        with Image.open(io.BytesIO(encoded)) as image:
            try:
                has_frames = bool(getattr(image, "is_animated", False)) and image.format not in _NOT_PAGES
            except (OSError, IndexError, ValueError, SyntaxError, struct.error):  # a second frame that is cut off
                has_frames = True
            raw_mode = _raw_mode(image)
            if raw_mode in _SWAPPED and image.tile[0].codec_name == "libtiff":
                image.tile = [tile._replace(args=(_SWAPPED[raw_mode], *tile.args[1:])) for tile in image.tile]
            if not _is_deep(image):
                is_jpeg = image.format == "JPEG" and image.mode == "RGB"
                is_plain_jpeg = is_jpeg and image.getexif().get(_ORIENTATION, 1) not in range(2, 9)
                ImageOps.exif_transpose(image, in_place=True)
                return cls(_convert(image), is_plain_jpeg=is_plain_jpeg, has_frames=has_frames)
            is_inverted = image.format == "TIFF" and image.tag_v2.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            key = image.info.get("transparency")
            ImageOps.exif_transpose(image, in_place=True)
            values, alpha = np.asarray(image), None
            if values.ndim == 3:
                values, alpha = _combine_bytes(values, raw_mode, encoded)
            elif raw_mode == "I;32N":  # unsigned, which PIL reads as signed
                values = values.view(np.uint32)
            if alpha is None and key is not None:
                is_key = values == np.asarray(key)
                alpha = np.where(is_key.all(axis=-1) if values.ndim == 3 else is_key, 0, 255).astype(np.uint8)
            if alpha is not None and alpha.min() == 255:
                alpha = None
            return cls(None, values, alpha, is_inverted, has_frames=has_frames)

    @property
    def kind(self) -> str | None:
        """ "integers" or "floats" for values deeper than 8 bits, else None."""
        if self.values is None:
            return None
        return "floats" if self.values.dtype.kind == "f" else "integers"

    @property
    def is_transparent(self) -> bool:
        """Whether a pixel is not opaque."""
        return self.alpha is not None or (self.image is not None and self.image.mode == "RGBA")

    def render(self, rules: "PixelRules") -> Image.Image:
        """The frame as 8-bit RGB.

        Args:
            rules: The source's range and background; used only where the frame needs them.

        Raises:
            Undecided: It needs them, and they are not decided yet.
            ValueError: No training image of the source has values of this kind.
        """
        image = self.image if self.values is None else self._scale(*rules.range_of(self.kind))
        if not self.is_transparent:
            return image
        return _lay_on(image, rules.background())

    def _scale(self, low: float, high: float) -> Image.Image:
        values = np.nan_to_num(self.values.astype(np.float64), nan=low, posinf=high, neginf=low)
        levels = np.rint((np.clip(values, low, high) - low) * (255 / (high - low))).astype(np.uint8)
        if self.is_inverted:
            levels = 255 - levels
        channels = levels.shape[2] if levels.ndim == 3 else 1
        mode = {1: "L", 3: "RGB", 4: "CMYK"}[channels]
        image = Image.frombytes(mode, levels.shape[1::-1], levels.tobytes()).convert("RGB")
        if self.alpha is not None:
            image.putalpha(Image.fromarray(self.alpha))
        return image


def _raw_mode(image: Image.Image) -> str:
    """How an image that is not loaded yet stores its pixels, in PIL's names: "RGB;16B"; "" where PIL does not say."""
    tile = getattr(image, "tile", None)
    arguments = tile[0].args if tile else ""
    raw_mode = arguments[0] if isinstance(arguments, tuple) and arguments else arguments
    return raw_mode if isinstance(raw_mode, str) else ""


def _is_deep(image: Image.Image) -> bool:
    """Whether an opened image has more than 8 bits per channel."""
    if image.mode[0] in "IF":
        return True
    base, _, depth = _raw_mode(image).partition(";")
    return depth in ("16B", "16L", "16N") and base in ("RGB", "RGBX", "RGBA", "LA", "CMYK")


def _combine_bytes(high: np.ndarray, raw_mode: str, encoded: bytes) -> tuple[np.ndarray, np.ndarray | None]:
    """The 16-bit channels of a colour image, of which PIL decodes one byte each; and the opacity's high byte.

    PIL takes the high byte in the file's byte order, so decoding in the opposite order gives the low byte.

    Args:
        high: The high bytes: uint8 array (height, width, channels).
        raw_mode: How the file stores them.
        encoded: The file.
    """
    base, _, depth = raw_mode.partition(";")
    order = depth[-1] if depth[-1] != "N" else {"little": "L", "big": "B"}[sys.byteorder]
    # Grey with opacity is read as four channels of one byte, since PIL has no other order for it.
    other = "RGBA" if base == "LA" else f"{base};16{'L' if order == 'B' else 'B'}"
    with Image.open(io.BytesIO(encoded)) as image:
        arguments = image.tile[0].args
        changed = other if isinstance(arguments, str) else (other, *arguments[1:])
        image.tile = [tile._replace(args=changed) for tile in image.tile]
        ImageOps.exif_transpose(image, in_place=True)
        low = np.asarray(image)
    if base == "LA":
        return low[..., 0].astype(np.uint16) * 256 + low[..., 1], low[..., 2]
    values = high.astype(np.uint16) * 256 + low
    return (values[..., :3], high[..., 3]) if base == "RGBA" else (values, None)


def _convert(image: Image.Image) -> Image.Image:
    """An image of 8 bits or fewer as RGB, or as RGBA where parts are transparent."""
    if image.mode == "LAB":
        return ImageCms.applyTransform(image, _lab_to_rgb())
    if image.mode == "CMYK" and image.format == "JPEG" and "adobe" not in image.info:
        image = ImageChops.invert(image)  # PIL takes every CMYK JPEG for one of Adobe's, which are inverted
    if image.has_transparency_data:
        opaque_or_not = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
        if opaque_or_not.getextrema()[3][0] < 255:
            return opaque_or_not
        return opaque_or_not.convert("RGB")
    return _as_rgb(image)


def _as_rgb(image: Image.Image) -> Image.Image:
    return image if image.mode == "RGB" else image.convert("RGB")  # converting RGB to RGB would copy it


@functools.cache
def _lab_to_rgb() -> ImageCms.ImageCmsTransform:
    return ImageCms.buildTransform(ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB"), "LAB", "RGB")


def _lay_on(image: Image.Image, background: RGB) -> Image.Image:
    ground = Image.new("RGBA", image.size, (*background, 255))
    ground.alpha_composite(image)
    return ground.convert("RGB")


# The rules of a source: one range for values deeper than 8 bits, one background for transparent parts.


@dataclass(frozen=True)
class PixelDecision:
    """How the pixels of a source become 8-bit RGB, decided from its training images.

    Attributes:
        n_images: Number of training images.
        n_integers: Number of those with integers of more than 8 bits.
        integers: Integers that become black and white; None where there are none.
        n_floats: Number of training images with floating-point values.
        floats: Values that become black and white; None where there are none.
        n_transparent: Number of training images with transparent parts.
        n_white: Number of those that are of one colour on white.
        n_black: Number of those that are of one colour on black.
    """

    n_images: int = 0
    n_integers: int = 0
    integers: tuple[int, int] | None = None
    n_floats: int = 0
    floats: tuple[float, float] | None = None
    n_transparent: int = 0
    n_white: int = 0
    n_black: int = 0

    @classmethod
    def from_facts(cls, facts: Iterable["PixelFacts"]) -> "PixelDecision":
        """Decide from what `PixelScan` found in each training image.

        Integers start at 0, or at minus a power of two where there are negative ones, and end at the next power of two
        above the largest less one (4,095, 65,535). Floats within 0 to 1 stay as they are; others span their range.
        """
        counts = dict.fromkeys(("n_images", "n_integers", "n_floats", "n_transparent", "n_white", "n_black"), 0)
        lows: dict[str, float] = {}
        highs: dict[str, float] = {}
        for image in facts:
            counts["n_images"] += 1
            counts["n_transparent"] += image.is_transparent
            counts["n_white"] += image.is_transparent and image.is_plain_on_white
            counts["n_black"] += image.is_transparent and image.is_plain_on_black
            if image.kind:
                counts[f"n_{image.kind}"] += 1
                lows[image.kind] = min(lows.get(image.kind, image.low), image.low)
                highs[image.kind] = max(highs.get(image.kind, image.high), image.high)
        integers = integer_range(int(lows["integers"]), int(highs["integers"])) if "integers" in lows else None
        floats = float_range(lows["floats"], highs["floats"]) if "floats" in lows else None
        return cls(integers=integers, floats=floats, **counts)

    @classmethod
    def from_json(cls, text: str) -> "PixelDecision":
        """Read what `to_json` wrote."""
        values = json.loads(text)
        pairs = {name: tuple(values[name]) for name in ("integers", "floats") if values[name] is not None}
        return cls(**{**values, **pairs})

    def to_json(self) -> str:
        """All attributes as a JSON object."""
        return json.dumps(dataclasses.asdict(self))

    @property
    def background(self) -> RGB:
        """White, or black where over half of the transparent images would be of one colour on white, and fewer are on
        black.
        """
        return _BLACK if 2 * self.n_white > self.n_transparent and self.n_black < self.n_white else _WHITE

    def remarks(self, has_background: bool) -> list[str]:
        """What a user should know, a line each.

        Args:
            has_background: Whether the user named a background.
        """
        lines = []
        of = f"of {self.n_images:,} training images"
        if self.integers:
            low, high = (f"{value:,}" for value in self.integers)
            lines.append(f"{self.n_integers:,} {of} have more than 8 bits: {low} becomes black and {high} white")
        if self.floats:
            low, high = (format_number(value, 6) for value in self.floats)
            lines.append(f"{self.n_floats:,} {of} hold floats: {low} becomes black and {high} white")
        if self.n_transparent and not has_background:
            line = f"{self.n_transparent:,} {of} have transparent parts: laid on white"
            if self.background == _BLACK:
                line = f"{line.removesuffix('white')}black, since {self.n_white:,} would be of one colour on white"
            lines.append(f"{line} (set background for another colour)")
        return lines


def integer_range(low: int, high: int) -> tuple[int, int]:
    """The integers that become black and white, given the smallest and largest of the training images.

    Example:
        >>> integer_range(12, 3_000), integer_range(0, 256), integer_range(-1_000, 3_071)
        ((0, 4095), (0, 511), (-1024, 4095))
    """
    return (0 if low >= 0 else -(1 << (-low - 1).bit_length())), (1 << max(high, 1).bit_length()) - 1


def float_range(low: float, high: float) -> tuple[float, float]:
    """The floats that become black and white, given the smallest and largest of the training images."""
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, high if high > low else low + 1


class Undecided(Exception):
    """An image needs a range or a background that its source has not decided yet.

    Attributes:
        rules: The source's; `rules.decide()` decides.
    """

    def __init__(self, rules: "PixelRules"):
        super().__init__()
        self.rules = rules


class PixelRules:
    """Range and background of a source, decided when an image first needs them.

    Args:
        make_decision: Decides from the training images, or reads what was decided.
        background: The background that the user named; None leaves it to the decision.
    """

    def __init__(self, make_decision: Callable[[], PixelDecision], background: RGB | None = None):
        self._make_decision, self._background = make_decision, background
        self._decision: PixelDecision | None = None

    def decide(self) -> PixelDecision:
        """The decision; made at the first call."""
        if self._decision is None:
            self._decision = self._make_decision()
        return self._decision

    def background(self) -> RGB:
        """The colour behind transparent parts.

        Raises:
            Undecided: It depends on the training images, and nothing is decided yet.
        """
        if self._background is not None:
            return self._background
        if self._decision is None:
            raise Undecided(self)
        return self._decision.background

    def range_of(self, kind: str) -> tuple[float, float]:
        """The values that become black and white.

        Args:
            kind: "integers" or "floats".

        Raises:
            Undecided: Nothing is decided yet.
            ValueError: No training image has such values.
        """
        if self._decision is None:
            raise Undecided(self)
        limits = self._decision.integers if kind == "integers" else self._decision.floats
        if limits is None:
            depth = "more than 8 bits" if kind == "integers" else "floats"
            raise ValueError(f"it has {depth} and no training image has: convert all parts to one depth")
        return limits


class PixelFacts(NamedTuple):
    """What one training image contributes to a `PixelDecision`.

    Attributes:
        kind: "integers" or "floats" for values deeper than 8 bits, else None.
        low: Smallest finite value of such an image.
        high: Largest.
        is_transparent: Whether a pixel is not opaque.
        is_plain_on_white: Whether a transparent image is of one colour on white.
        is_plain_on_black: Whether it is on black.
    """

    kind: str | None = None
    low: float = 0
    high: float = 0
    is_transparent: bool = False
    is_plain_on_white: bool = False
    is_plain_on_black: bool = False

    @classmethod
    def read(cls, encoded: bytes) -> "PixelFacts":
        """Read an image file: its header, and its pixels only where the header names depth or transparency."""
        with Image.open(io.BytesIO(encoded)) as image:
            if not (_is_deep(image) or image.has_transparency_data):
                return cls()
        frame = Frame.read(encoded)
        low = high = 0
        if frame.values is not None:
            values = frame.values[np.isfinite(frame.values)] if frame.kind == "floats" else frame.values
            low, high = (values.min().item(), values.max().item()) if values.size else (0, 0)
        if not frame.is_transparent:
            return cls(frame.kind, low, high)
        image = frame.image
        if frame.kind:
            image = frame._scale(*(integer_range(low, high) if frame.kind == "integers" else float_range(low, high)))
        extrema = [_lay_on(image, ground).getextrema() for ground in (_WHITE, _BLACK)]
        is_plain = [all(most - least <= _ONE_COLOUR for least, most in channels) for channels in extrema]
        return cls(frame.kind, low, high, True, *is_plain)


class PixelScan:
    """Packs the facts of an image instead of its pixels, so that a source is scanned as its cache is filled."""

    def pack(self, encoded: bytes) -> Packed:
        """The `PixelFacts` of an image file, as JSON."""
        return Packed(json.dumps(PixelFacts.read(encoded)).encode(), 0)

    @staticmethod
    def unpack(payloads: Iterable[bytes]) -> Iterable[PixelFacts]:
        """The facts that `pack` packed."""
        return (PixelFacts(*json.loads(payload)) for payload in payloads)


class SideScan:
    """Packs the shorter side of an image in pixels instead of its pixels."""

    def pack(self, encoded: bytes) -> Packed:
        """The shorter side of an image file, as decimal digits."""
        with Image.open(io.BytesIO(encoded)) as image:
            return Packed(str(min(image.size)).encode(), 0)
