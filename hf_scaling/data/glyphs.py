"""`glyphs`: characters drawn from the fonts that matplotlib ships, warped and noised; any number of images.

Every character of every font is rendered once and stored as a map of signed distances to its outline. An image is then
one warped look-up in such a map: adding to the distance makes strokes thicker, dividing it makes edges softer.
Image i depends on the seed and on i alone, whichever process draws it and however many are drawn.
"""

import functools
import hashlib
import string
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hf_scaling.data.cache import Block
from hf_scaling.data.images import ImagePacker
from hf_scaling.data.sampling import random_words, seeded_keys, uniforms
from hf_scaling.errors import InputError

CHARACTERS = string.digits + string.ascii_uppercase
FONTS = (
    *(f"DejaVuSans{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}.ttf" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}.ttf" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}.ttf" for style in ("", "Bol", "Italic", "BolIta")),
    *("cmr10.ttf", "cmb10.ttf", "cmss10.ttf", "cmtt10.ttf"),
)
N_TEST = 2_000
DEFAULT_N_IMAGES = 50_000
# Increase whenever a change below alters a pixel: fingerprints, and so caches and run ids, depend on it.
GENERATOR_VERSION = 1

_CHUNK = 64  # images drawn at once: their arrays fit in the processor's cache, twice as fast as 512
_SIDE = 48  # of a distance map
_OVERSAMPLING = 3  # a character is rendered this much larger than its map
_CAP_HEIGHT = 0.62  # of the map's side, for the tallest letters
_N_DRAWS = 24


class GlyphOrigin:
    """The glyphs as an `Origin`: `n_images` for training (50,000 when None), 2,000 for the test."""

    name = "glyphs"
    class_names = tuple(CHARACTERS)
    has_test = True
    is_generated = True

    def __init__(self, n_images: int | None, seed: int):
        self._n_images = DEFAULT_N_IMAGES if n_images is None else n_images
        if self._n_images < 1:
            raise InputError(f"n_images: {n_images} is not a number of images: give at least 1")
        self._seed = seed

    def identity(self) -> dict:
        """What determines the images: the generator, the fonts' content, how many there are and the seed."""
        digest = hashlib.sha256()
        for name in FONTS:
            digest.update(hashlib.sha256(_font_path(name).read_bytes()).digest())
        generator = {"generator": GENERATOR_VERSION, "fonts": digest.hexdigest()}
        return {"glyphs": generator, "n_images": self._n_images, "seed": self._seed}

    def reader(self, part: str, class_ids: np.ndarray, packer: ImagePacker, skip_corrupt: bool) -> "GlyphReader":
        """Prepare to draw a part; nothing drawn is corrupt."""
        n_images = self._n_images if part == "train" else N_TEST
        # The test images do not depend on the seed, so that runs of several seeds are compared on one set.
        seed = self._seed if part == "train" else 0
        return GlyphReader(n_images, class_ids, packer, seed, part)


class GlyphReader:
    """Draws glyphs of the selected classes: image i is the i-th of these classes, in the generator's order."""

    sequential = False

    def __init__(self, n_images: int, class_ids: np.ndarray, packer: ImagePacker, seed: int, part: str):
        self.n_rows = self.n_images = n_images
        self._class_ids, self._packer, self._seed, self._part = class_ids, packer, seed, part

    def read(self, start: int, stop: int, state: dict | None) -> Block:
        """Draw the images `start` to `stop`."""
        block, stop = Block(), min(stop, self.n_rows)
        for begin in range(start, stop, _CHUNK):
            rounds, labels = np.divmod(np.arange(begin, min(begin + _CHUNK, stop)), len(self._class_ids))
            indices = rounds * len(CHARACTERS) + self._class_ids[labels]
            grey = draw(indices, self._packer.image_size, self._seed, self._part)
            block.append_pixels(np.repeat(grey[..., None], 3, axis=-1), labels, self._packer)
        return block


def draw(indices: np.ndarray, image_size: int, seed: int, stream: str = "train") -> np.ndarray:
    """Draw images; image i shows character i % 36.

    Args:
        indices: Numbers of the images, int array (n,).
        image_size: Side in pixels.
        seed: Seed of the drawing.
        stream: "train" or "test"; no image of one is an image of the other.

    Returns:
        Grey levels, uint8 array (n, image_size, image_size).
    """
    keys = seeded_keys(seed, f"glyphs-{stream}", indices)
    draws = uniforms(keys, _N_DRAWS).T
    characters = np.asarray(indices, np.int64) % len(CHARACTERS)
    fonts = (draws[0] * len(FONTS)).astype(np.int64)
    distance = _look_up(fonts * len(CHARACTERS) + characters, *_warp(draws, image_size))
    thickness = _between(draws[1], -0.010, 0.045)
    softness = _between(draws[2], 0.7, 3.0) / image_size + _between(draws[3] ** 4, 0.0, 0.10)
    ink = np.clip((distance + _per_image(thickness)) / _per_image(softness) + np.float32(0.5), 0, 1)
    return _tint(ink, draws, keys)


def _warp(draws: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each pixel looks in its map, as fractions of the side: two float32 arrays (n, size, size).

    Rotation, shear, scales and shift, then a wave along each axis. Each coordinate is the sum of a term of the row and
    a term of the column, so that sines are computed per row and per column, not per pixel.
    """
    place = (np.arange(image_size) + 0.5) / image_size - 0.5
    angle, shear = _between(draws[4], -0.25, 0.25), _between(draws[5], -0.25, 0.25)
    wide, tall = 1 / _between(draws[6], 0.85, 1.35), 1 / _between(draws[7], 0.95, 1.35)
    across, down = _between(draws[8], -0.07, 0.07), _between(draws[9], -0.07, 0.07)
    cos, sin = np.cos(angle), np.sin(angle)
    wave = _wave(draws[10:13], place), _wave(draws[13:16], place)
    u_of_column, u_of_row = np.outer(wide * cos, place), np.outer(wide * (sin + shear * cos), place) + wave[0]
    v_of_column, v_of_row = np.outer(-tall * sin, place) + wave[1], np.outer(tall * (cos - shear * sin), place)
    u_of_column += (across + 0.5)[:, None]
    v_of_column += (down + 0.5)[:, None]
    return tuple(
        of_column.astype(np.float32)[:, None, :] + of_row.astype(np.float32)[:, :, None]
        for of_column, of_row in ((u_of_column, u_of_row), (v_of_column, v_of_row))
    )


def _wave(draws: np.ndarray, place: np.ndarray) -> np.ndarray:
    height, frequency, phase = _between(draws[0], 0, 0.04), _between(draws[1], 3, 9), _between(draws[2], 0, 2 * np.pi)
    return height[:, None] * np.sin(np.outer(frequency, place) + phase[:, None])


def _look_up(maps: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Bilinear look-up in the distance maps: float32 array (n, size, size)."""
    column, row = np.clip(u * _SIDE - 0.5, 0, _SIDE - 1.001), np.clip(v * _SIDE - 0.5, 0, _SIDE - 1.001)
    left, top = column.astype(np.int32), row.astype(np.int32)
    column -= left
    row -= top
    at = top * _SIDE + left + (maps * _SIDE * _SIDE).astype(np.int32)[:, None, None]
    atlas = _distance_maps()
    upper = atlas[at]
    upper += (atlas[at + 1] - upper) * column
    at += _SIDE
    lower = atlas[at]
    lower += (atlas[at + 1] - lower) * column
    return upper + (lower - upper) * row


def _tint(ink: np.ndarray, draws: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Grey levels of ink and paper (light ink nine times in ten), with a gradient of light and grain."""
    size = ink.shape[1]
    dark = _between(draws[16], 0, 0.35)
    light = dark + (1 - dark) * _between(draws[17], 0.45, 1.0)
    inverted = draws[18] < 0.1
    paper, contrast = np.where(inverted, light, dark), np.where(inverted, dark - light, light - dark)
    image = ink * _per_image(contrast)
    place = (np.arange(size) + 0.5) / size - 0.5
    image += (np.outer(_between(draws[19], -0.2, 0.2), place) + paper[:, None]).astype(np.float32)[:, None, :]
    image += np.outer(_between(draws[20], -0.2, 0.2), place).astype(np.float32)[:, :, None]
    # Grain: noise of mean 0 and variance 1, a sum of four uniforms.
    words = random_words(keys[:, None], np.arange(_N_DRAWS, _N_DRAWS + size * size))
    quarters = words.view(np.uint16).reshape(len(keys), size, size, 4)
    grain = quarters[..., 0].astype(np.float32)
    for part in (1, 2, 3):
        grain += quarters[..., part]
    grain -= np.float32(2 * 65535)
    grain *= np.float32(np.sqrt(3.0) / 65535)
    image += grain * _per_image(_between(draws[21] ** 2, 0.0, 0.12))
    image *= 255
    image += np.float32(0.5)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


@functools.cache
def _distance_maps() -> np.ndarray:
    """Every character of every font: float32 array, flat, of maps (font, character) in shares of the side."""
    from scipy.ndimage import distance_transform_edt

    maps, side = [], _SIDE * _OVERSAMPLING
    for name in FONTS:
        path, layout = str(_font_path(name)), ImageFont.Layout.BASIC
        _, top, _, bottom = ImageFont.truetype(path, 200, layout_engine=layout).getbbox("H")
        size = round(200 * _CAP_HEIGHT * _SIDE * _OVERSAMPLING / (bottom - top))
        font = ImageFont.truetype(path, size, layout_engine=layout)
        for character in CHARACTERS:
            canvas = Image.new("L", (side, side))
            left, top, right, bottom = font.getbbox(character)
            ImageDraw.Draw(canvas).text(((side - right - left) / 2, (side - bottom - top) / 2), character, 255, font)
            inside = np.asarray(canvas) > 127
            distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
            means = distance.reshape(_SIDE, _OVERSAMPLING, _SIDE, _OVERSAMPLING).mean((1, 3))
            maps.append(means.astype(np.float32).ravel() / side)
    return np.concatenate(maps)


def _font_path(name: str) -> Path:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    if not path.is_file():
        raise InputError(
            f"glyphs: matplotlib does not ship the font {name}, which is drawn from: reinstall matplotlib"
        )
    return path


def _between(draws: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * draws


def _per_image(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None, None]
