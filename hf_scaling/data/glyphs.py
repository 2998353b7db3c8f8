"""`glyphs`: characters drawn from the fonts that matplotlib ships, warped and noised; any number of images.

Every character of every font is rendered once and kept as a map of signed distances to its outline. An image is then
one warped look-up in such a map: adding to the distance makes strokes thicker, dividing it makes edges softer.
Image i depends on the seed and on i alone, whoever draws it and however many are drawn.
"""

import functools
import hashlib
import string
from pathlib import Path

import numpy as np

from hf_scaling.data.sampling import numbered, seeded_keys, uniforms
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
# Raise it whenever a change below alters a pixel: caches and run ids hang on it.
GENERATOR_VERSION = 1

_SIDE = 48  # of a distance map
_OVERSAMPLING = 3  # a glyph is rendered this much larger than its map
_CAP_HEIGHT = 0.62  # of the map's side, for the tallest letters
_N_DRAWS = 24


def identity() -> dict:
    """Say what determines the images, for the fingerprint: the generator and the font files' content."""
    digest = hashlib.sha256()
    for name in FONTS:
        digest.update(hashlib.sha256(_font_path(name).read_bytes()).digest())
    return {"generator": GENERATOR_VERSION, "fonts": digest.hexdigest()}


def labels_of(indices: np.ndarray) -> np.ndarray:
    """Give the class ids of images: int64 array; consecutive images take the classes in turn."""
    return np.asarray(indices, np.int64) % len(CHARACTERS)


def draw(indices: np.ndarray, image_size: int, seed: int, stream: str = "train") -> np.ndarray:
    """Draw images.

    Args:
        indices: Which images, int array (n,).
        image_size: Side in pixels.
        seed: Of the drawing.
        stream: "train" or "test"; no image of one is an image of the other.

    Returns:
        Grey levels, uint8 array (n, image_size, image_size).
    """
    keys = seeded_keys(seed, f"glyphs-{stream}", indices)
    draws = uniforms(keys, _N_DRAWS).T
    fonts = (draws[0] * len(FONTS)).astype(np.int64)
    distance = _look_up(fonts * len(CHARACTERS) + labels_of(indices), *_warp(draws, image_size))
    thickness = _between(draws[1], -0.010, 0.045)
    softness = _between(draws[2], 0.7, 3.0) / image_size + _between(draws[3] ** 4, 0.0, 0.10)
    ink = np.clip((distance + _per_image(thickness)) / _per_image(softness) + np.float32(0.5), 0, 1)
    return _tint(ink, draws, keys)


def _warp(draws: np.ndarray, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Give where each pixel looks in its map, as fractions of the side: two float32 arrays (n, size, size).

    Rotation, shear, scales and shift, then a wave along each axis. Each is a sum of a term of the row and a term of
    the column, so that sines are taken a row and a column, not a pixel.
    """
    place = (np.arange(image_size) + 0.5) / image_size - 0.5
    angle, shear = _between(draws[4], -0.25, 0.25), _between(draws[5], -0.25, 0.25)
    wide, tall = 1 / _between(draws[6], 0.85, 1.35), 1 / _between(draws[7], 0.95, 1.35)
    across, down = _between(draws[8], -0.07, 0.07), _between(draws[9], -0.07, 0.07)
    cos, sin = np.cos(angle), np.sin(angle)
    wave = _wave(draws[10:13], place), _wave(draws[13:16], place)
    u_of_column, u_of_row = np.outer(wide * cos, place), np.outer(wide * (sin + shear * cos), place) + wave[0]
    v_of_column, v_of_row = np.outer(-tall * sin, place) + wave[1], np.outer(tall * (cos - shear * sin), place)
    u = (u_of_column + (across + 0.5)[:, None]).astype(np.float32)[:, None, :] + u_of_row.astype(np.float32)[
        :, :, None
    ]
    v = (v_of_column + (down + 0.5)[:, None]).astype(np.float32)[:, None, :] + v_of_row.astype(np.float32)[:, :, None]
    return u, v


def _wave(draws: np.ndarray, place: np.ndarray) -> np.ndarray:
    height, frequency, phase = _between(draws[0], 0, 0.04), _between(draws[1], 3, 9), _between(draws[2], 0, 2 * np.pi)
    return height[:, None] * np.sin(np.outer(frequency, place) + phase[:, None])


def _look_up(maps: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Read distances between the points of the maps (bilinear): float32 array (n, size, size)."""
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
    """Give ink and paper their grey levels, light ink nine times in ten, a shade across, and grain."""
    size = ink.shape[1]
    dark = _between(draws[16], 0, 0.35)
    light = dark + (1 - dark) * _between(draws[17], 0.45, 1.0)
    inverted = draws[18] < 0.1
    paper, contrast = np.where(inverted, light, dark), np.where(inverted, dark - light, light - dark)
    image = ink * _per_image(contrast)
    place = (np.arange(size) + 0.5) / size - 0.5
    image += (np.outer(_between(draws[19], -0.2, 0.2), place) + paper[:, None]).astype(np.float32)[:, None, :]
    image += np.outer(_between(draws[20], -0.2, 0.2), place).astype(np.float32)[:, :, None]
    image += _grain(keys, size) * _per_image(_between(draws[21] ** 2, 0.0, 0.12))
    image *= 255
    image += np.float32(0.5)
    return np.clip(image, 0, 255, out=image).astype(np.uint8)


def _grain(keys: np.ndarray, size: int) -> np.ndarray:
    """Draw noise of mean 0 and variance 1 (a sum of four uniforms): float32 array (n, size, size)."""
    words = numbered(keys[:, None], np.arange(_N_DRAWS, _N_DRAWS + size * size))
    quarters = words.view(np.uint16).reshape(len(keys), size, size, 4)
    total = quarters[..., 0].astype(np.float32)
    for part in (1, 2, 3):
        total += quarters[..., part]
    total -= np.float32(2 * 65535)
    return total * np.float32(np.sqrt(3.0) / 65535)


@functools.cache
def _distance_maps() -> np.ndarray:
    """Render every character of every font: float32 array, flat, of maps (font, character) in shares of the side."""
    maps = [_distance_map(font, character) for font in map(_font, FONTS) for character in CHARACTERS]
    return np.concatenate([each.ravel() for each in maps])


def _distance_map(font, character: str) -> np.ndarray:
    from PIL import Image, ImageDraw
    from scipy.ndimage import distance_transform_edt

    side = _SIDE * _OVERSAMPLING
    canvas = Image.new("L", (side, side))
    left, top, right, bottom = font.getbbox(character)
    ImageDraw.Draw(canvas).text(((side - right - left) / 2, (side - bottom - top) / 2), character, 255, font)
    inside = np.asarray(canvas) > 127
    distance = distance_transform_edt(inside) - distance_transform_edt(~inside)
    return distance.reshape(_SIDE, _OVERSAMPLING, _SIDE, _OVERSAMPLING).mean((1, 3)).astype(np.float32) / side


def _font(name: str):
    from PIL import ImageFont

    wanted = _CAP_HEIGHT * _SIDE * _OVERSAMPLING
    trial = ImageFont.truetype(str(_font_path(name)), 200, layout_engine=ImageFont.Layout.BASIC)
    _, top, _, bottom = trial.getbbox("H")
    return ImageFont.truetype(
        str(_font_path(name)), round(200 * wanted / (bottom - top)), layout_engine=trial.layout_engine
    )


def _font_path(name: str) -> Path:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name
    if not path.is_file():
        raise InputError(
            f"glyphs is drawn with the font {name}, which this matplotlib does not ship: reinstall matplotlib"
        )
    return path


def _between(draws: np.ndarray, low: float, high: float) -> np.ndarray:
    return low + (high - low) * draws


def _per_image(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)[:, None, None]
