"""Pixels as a person sees them: depth, transparency, orientation, colour, frames; one rule for a whole source."""

import io
import json
import logging
import os
import threading

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features
from image_files import encode, png, tiff
from PIL import Image, ImageChops

from hf_scaling import data
from hf_scaling.data import cache, readers, sources
from hf_scaling.data.images import Frame, PixelDecision, PixelFacts, PixelRules, integer_range
from hf_scaling.errors import InputError

SIDE = 16
RAMP = np.linspace(0, 1, SIDE * SIDE).reshape(SIDE, SIDE)  # black at the top left to white at the bottom right
ORIENTATION = 0x0112


@pytest.fixture(autouse=True)
def own_caches(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    cache.log_once.cache_clear()


def write(folder, suffix, **classes):
    """Write the files of each class; `classes` are lists of contents."""
    for name, contents in classes.items():
        (folder / name).mkdir(parents=True)
        for number, content in enumerate(contents):
            (folder / name / f"{number:02d}.{suffix}").write_bytes(content)
    return folder


def open_quietly(folder, cache_dir, image_size=SIDE, **options):
    return data.open_source(folder, image_size, cache_dir=cache_dir / "cache", progress=False, **options)


def everything(source):
    """All images of a source, the training part first."""
    parts = [source.train, source.test]
    return np.concatenate([part.images(np.arange(len(part))) for part in parts])


def grey_of(source):
    images = everything(source)
    assert (images == images[..., :1]).all()
    return images[..., 0]


def show(encoded, background=None):
    """The pixels of one file that is a source's only image."""
    decision = PixelDecision.from_facts([PixelFacts.read(encoded)])
    rules = PixelRules(lambda: decision, background)
    rules.decide()
    return np.asarray(Frame.read(encoded).render(rules))


def lines_of(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def save_orientation(image, orientation, kind, **options):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return encode(image, kind, exif=exif, **options)


# Depth.

DEEP = {
    "12 bits in a TIFF": (lambda ramp: tiff((ramp * 4_000).astype(np.uint16)), "tif", "4,095", 4_095 / 4_000),
    "big endian TIFF": (lambda ramp: tiff((ramp * 900).astype(np.uint16), order=">"), "tif", "1,023", 1_023 / 900),
    "unsigned 32 bits": (
        lambda ramp: tiff((ramp * 4_000_000_000).astype(np.uint32)),
        "tiff",
        "4,294,967,295",
        4_294_967_295 / 4_000_000_000,
    ),
    "signed 32 bits": (lambda ramp: tiff((ramp * 70_000).astype(np.int32)), "tiff", "131,071", 131_071 / 70_000),
    "10 bits in a PNG": (lambda ramp: encode((ramp * 1_000).astype(np.uint16), "PNG"), "png", "1,023", 1_023 / 1_000),
    "white is zero": (lambda ramp: tiff(((1 - ramp) * 4_095).astype(np.uint16), 0), "tif", "4,095", 1),
    "floats within 0 to 1": (lambda ramp: tiff((ramp * 0.5).astype(np.float32)), "tif", "1", 2),
    "floats beyond 1": (lambda ramp: tiff((ramp * 6_000 - 1_000).astype(np.float32)), "tif", "5000", 1),
    "a narrow range": (lambda ramp: tiff((ramp * 2 + 7).astype(np.float32), order=">"), "tif", "9", 1),
}


@pytest.mark.parametrize("case", DEEP)
def test_values_deeper_than_8_bits_share_one_range(case, tmp_path, caplog):
    make, suffix, white, factor = DEEP[case]
    dim = [make(0.5 * RAMP)] * 3 if factor == 1 else []  # images of one source keep their relative brightness
    folder = write(tmp_path / "deep", suffix, left=[make(RAMP), *dim] * 5, right=[make(RAMP[:, ::-1])] * 5)
    source = open_quietly(folder, tmp_path)
    images = grey_of(source).astype(float)
    expected = [RAMP * 255 / factor, RAMP[:, ::-1] * 255 / factor, 127.5 * RAMP / factor]
    if case == "white is zero":
        expected[2] = 255 * 0.5 * RAMP
    errors = [min(abs(image - candidate).max() for candidate in expected) for image in images]
    assert max(errors) <= 1.5
    assert any(f" {white} " in line and str(len(images)) in line for line in lines_of(caplog))
    stored = json.loads(next(tmp_path.rglob("pixels-v*.json")).read_text())
    assert stored["n_integers"] + stored["n_floats"] == stored["n_images"] == len(images)


@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("largest", [3_000, 65_535])
@pytest.mark.parametrize("kind", ["png", "II", "MM"])
def test_colours_of_16_bits_keep_both_bytes(kind, largest, filtered):
    colours = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
    values = np.rint(colours * largest).astype(np.uint16)
    encoded = png(values, filtered=filtered) if kind == "png" else tiff(values, 2, {"II": "<", "MM": ">"}[kind])
    assert Image.open(io.BytesIO(encoded)).mode == "RGB"
    expected = values * (255 / integer_range(0, largest)[1])
    assert abs(show(encoded) - expected).max() <= 0.51


@pytest.mark.parametrize("channels", [2, 4])
def test_opacity_of_16_bits_is_applied(channels):
    values = np.zeros((SIDE, SIDE, channels), np.uint16)
    values[..., :-1] = 700
    values[: SIDE // 2, :, -1] = 65_535
    for encoded in (png(values), png(values, filtered=True)):
        pixels = show(encoded)
        assert (pixels[: SIDE // 2] == round(700 * 255 / 1_023)).all() and (pixels[SIDE // 2 :] == 255).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_transparent_colour_of_16_bits_is_transparent(channels):
    values = np.full((SIDE, SIDE, channels), 500, np.uint16)
    values[:4] = 10
    pixels = show(png(values, transparent=(10,) * channels), background=(0, 0, 255))
    assert (pixels[:4] == (0, 0, 255)).all() and (pixels[4:] == round(500 * 255 / 511)).all()


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.float32])
def test_compression_and_byte_order_do_not_matter(kind, order, deflate):
    values = np.rint(RAMP * 4_095).astype(kind)
    assert abs(show(tiff(values, order=order, deflate=deflate))[..., 0] - RAMP * 255).max() <= 0.6
    colours = np.rint(np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1) * 4_095).astype(np.uint16)
    assert abs(show(tiff(colours, 2, order, deflate=deflate)) - colours * (255 / 4_095)).max() <= 0.51


def test_negative_integers_start_at_minus_a_power_of_two():
    values = np.rint(RAMP * 4_000 - 1_000).astype(np.int16)
    assert abs(show(tiff(values))[..., 0] - (values + 1_024.0) * 255 / (4_095 + 1_024)).max() <= 0.51
    assert integer_range(-1, 0) == (-1, 1) and integer_range(-1_025, 65_536) == (-2_048, 131_071)


def test_missing_floats_are_black_and_infinite_ones_at_the_ends():
    values = (RAMP * 10).astype(np.float32)
    values[0, :3] = np.nan, np.inf, -np.inf
    pixels = show(tiff(values))
    assert pixels[0, :3, 0].tolist() == [0, 255, 0] and pixels[-1, -1, 0] == 255


def test_the_range_is_of_the_training_images_and_test_images_are_cut_off(tmp_path):
    dark, bright = (encode((RAMP * largest).astype(np.uint16), "PNG") for largest in (1_023, 65_535))
    write(tmp_path / "scans" / "train", "png", a=[dark] * 4, b=[dark] * 4)
    write(tmp_path / "scans" / "test", "png", a=[bright], b=[bright])
    source = open_quietly(tmp_path / "scans", tmp_path)
    test = source.test.images([0])[0, ..., 0]  # the test part is read first
    assert abs(source.train.images([0])[0, ..., 0] - RAMP * 255).max() <= 1
    assert (test[1:] == 255).all()


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_depth_in_the_test_part_alone_is_refused_by_name(kind, tmp_path):
    ordinary, deep = encode((RAMP * 255).astype(np.uint8), "TIFF"), tiff((RAMP * 4_000).astype(kind))
    write(tmp_path / "scans" / "train", "tif", a=[ordinary] * 4, b=[ordinary] * 4)
    write(tmp_path / "scans" / "test", "tif", a=[ordinary], b=[deep])
    source = open_quietly(tmp_path / "scans", tmp_path)
    assert len(source.train) == 8
    with pytest.raises(InputError, match=r"test/b/00\.tif") as caught:
        _ = source.test
    assert "\n" not in str(caught.value)


# Transparency.

OPACITY = np.zeros((SIDE, SIDE), np.uint8)
OPACITY[4:8] = 255  # a bar


def palette_with_opacity():
    image = Image.fromarray((OPACITY > 0).astype(np.uint8), "P")
    image.putpalette([9, 9, 9, 20, 20, 20])
    return image


def drawing(level, mode="RGBA"):
    """A bar of one grey level on a transparent ground, whose hidden pixels have the same level."""
    grey = Image.new("L", (SIDE, SIDE), level)
    return Image.merge("LA", [grey, Image.fromarray(OPACITY)]).convert(mode)


def coloured(key):
    image = Image.new("RGB", (SIDE, SIDE), key)
    image.paste((20, 20, 20), (0, 4, SIDE, 8))
    return image


DARK = {
    "palette PNG": (lambda: encode(palette_with_opacity(), "PNG", transparency=0), 20),
    "palette PNG with levels": (lambda: encode(palette_with_opacity(), "PNG", transparency=bytes([0, 255])), 20),
    "palette GIF": (lambda: encode(palette_with_opacity(), "GIF", transparency=0), 20),
    "grey and opacity": (lambda: encode(drawing(7, "LA"), "PNG"), 7),
    "WebP": (lambda: encode(drawing(30), "WEBP", lossless=True), 30),
    "TIFF": (lambda: encode(drawing(11), "TIFF"), 11),
    "a transparent colour": (lambda: encode(coloured((0, 255, 0)), "PNG", transparency=(0, 255, 0)), 20),
    "a transparent grey": (lambda: encode(coloured((3, 3, 3)).convert("L"), "PNG", transparency=3), 20),
}


@pytest.mark.parametrize("case", DARK)
def test_transparent_parts_are_laid_on_white(case):
    make, level = DARK[case]
    expected = np.where(OPACITY[..., None] > 0, level, 255) * np.ones(3)
    assert np.array_equal(show(make()), expected)
    red = np.where(OPACITY[..., None] > 0, level, np.array([255, 0, 0]))
    assert np.array_equal(show(make(), background=(255, 0, 0)), red)


def test_half_opaque_pixels_are_mixed():
    image = Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 51))
    image.putpixel((0, 0), (0, 0, 0, 255))
    assert show(encode(image, "PNG"))[5, 5].tolist() == [204, 204, 204]


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_white_drawings_are_laid_on_black(kind, tmp_path, caplog):
    white = encode(drawing(255), kind, **({"quality": 60} if kind == "WEBP" else {}))
    dark = encode(drawing(60), kind)
    folder = write(tmp_path / "icons", kind.lower(), a=[white] * 12, b=[white] * 3 + [dark] * 9)
    source = open_quietly(folder, tmp_path)
    images = grey_of(source)
    assert (images[:, 0] <= 2).all() and (images.max(axis=(1, 2)) > 50).all()
    assert any("24" in line and "15" in line and "background" in line for line in lines_of(caplog))
    # With fewer white ones the ground is white.
    folder = write(tmp_path / "more", kind.lower(), a=[white] * 12, b=[dark] * 12)
    assert (grey_of(open_quietly(folder, tmp_path))[:, 0] >= 253).all()


def test_opaque_photographs_do_not_outvote_white_drawings(tmp_path):
    white, opaque = encode(drawing(255), "PNG"), encode(Image.new("RGBA", (SIDE, SIDE), (9, 9, 9, 255)), "PNG")
    images = grey_of(open_quietly(write(tmp_path / "icons", "png", a=[white] * 6, b=[opaque] * 20), tmp_path))
    assert sorted(images.max(axis=(1, 2)).tolist()) == [9] * 20 + [255] * 6
    assert sorted(images.min(axis=(1, 2)).tolist()) == [0] * 6 + [9] * 20


@pytest.mark.parametrize("name", ["gray", "#808080"])
def test_a_background_can_be_named(name, tmp_path, caplog):
    files = [encode(drawing(255), "PNG")] * 6
    folder = write(tmp_path / "icons", "png", a=files, b=files)
    automatic, named = open_quietly(folder, tmp_path), open_quietly(folder, tmp_path, background=name)
    assert (grey_of(named)[:, 0] == 128).all()
    assert named.fingerprint != automatic.fingerprint
    assert named.fingerprint == open_quietly(folder, tmp_path, background="rgb(128, 128, 128)").fingerprint
    assert not list(tmp_path.rglob("pixels-v*.json"))  # nothing was to be decided
    with pytest.raises(InputError, match="background: no-colour"):
        open_quietly(folder, tmp_path, background="no-colour")


def test_a_background_does_not_change_embedded_sources(tmp_path):
    plain, named = (open_quietly("digits", tmp_path, 8, background=name) for name in (None, "red"))
    assert plain.fingerprint == named.fingerprint


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_opaque_images_need_no_scan(mode, tmp_path, caplog):
    opaque = Image.fromarray((RAMP * 255).astype(np.uint8)).convert(mode)
    folder = write(tmp_path / "plain", "png", a=[encode(opaque, "PNG")] * 6, b=[encode(opaque.rotate(90), "PNG")] * 6)
    source = open_quietly(folder, tmp_path)
    assert (abs(source.train.images([0])[0] - RAMP[..., None] * 255) <= 1).all()
    assert not list(tmp_path.rglob("pixels-v*.json")) and lines_of(caplog) == []


# Orientation.


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "WEBP", "JPEG", "TIFF"])
def test_every_orientation_is_applied(kind, orientation):
    upright = np.zeros((SIDE, SIDE, 3), np.uint8)
    upright[: SIDE // 2, : SIDE // 2] = 255
    upright[: SIDE // 2, SIDE // 2 :] = 128
    # What a camera stores so that the orientation turns it upright.
    turns = [None, "identity", "left", "half", "top", "main", "right angle", "other", "left angle"]
    stored = {
        "identity": upright,
        "left": upright[:, ::-1],
        "half": upright[::-1, ::-1],
        "top": upright[::-1],
        "main": upright.swapaxes(0, 1),
        "right angle": np.rot90(upright),
        "other": np.rot90(upright, 2).swapaxes(0, 1),
        "left angle": np.rot90(upright, -1),
    }[turns[orientation]]
    options = {"lossless": True} if kind == "WEBP" else {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    encoded = save_orientation(stored.copy(), orientation, kind, **options)
    assert abs(show(encoded).astype(int) - upright).max() <= 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", [3, 8])
def test_orientation_is_applied_at_the_training_size_too(kind, orientation, tmp_path):
    side = 72  # above 64 px the training part is kept as JPEG
    upright = np.zeros((side, side, 3), np.uint8)
    upright[: side // 2] = 255
    stored = np.rot90(upright, 2 if orientation == 3 else -1).copy()
    files = [save_orientation(stored, orientation, kind)] * 3
    for part in ("train", "test"):
        write(tmp_path / "photos" / part, kind.lower(), a=files, b=files)
    source = open_quietly(tmp_path / "photos", tmp_path, side)
    for part in (source.train, source.test):
        assert part.images([0])[0, : side // 2 - 8].mean() > 240 > 15 > part.images([0])[0, side // 2 + 8 :].mean()


def test_an_upright_jpeg_of_the_training_size_is_stored_unchanged(tmp_path):
    photo = np.random.default_rng(0).integers(0, 255, (72, 72, 3), np.uint8)
    for name, encoded in (
        ("none", encode(photo, "JPEG", quality=30)),
        ("upright", save_orientation(photo, 1, "JPEG", quality=30)),
    ):
        folder = write(tmp_path / name, "jpg", a=[encoded] * 6, b=[encoded] * 6)
        stored = open_quietly(folder, tmp_path, 72).train.images([0])[0]
        assert np.array_equal(stored, np.asarray(Image.open(io.BytesIO(encoded))))


def test_deep_images_are_turned_too():
    values = np.zeros((SIDE, SIDE), np.uint16)
    values[: SIDE // 2] = 1_023
    encoded = save_orientation(np.rot90(values).copy(), 6, "PNG")
    assert (show(encoded)[: SIDE // 2] == 255).all() and (show(encoded)[SIDE // 2 :] == 0).all()


# Colour.

INK = (0, 200, 100, 30)  # cyan, magenta, yellow, black of 255
SEEN = tuple(round((255 - ink) * (255 - INK[3]) / 255) for ink in INK[:3])


def ycck():
    """A JPEG of Adobe's YCCK: three inks as luminance and chrominance, and black inverted."""
    planes = ImageChops.invert(Image.new("RGB", (SIDE, SIDE), INK[:3]).convert("YCbCr")).split()  # PIL inverts again
    encoded = encode(Image.merge("CMYK", [*planes, Image.new("L", (SIDE, SIDE), INK[3])]), "JPEG", quality=100)
    at = encoded.index(b"Adobe") + 11
    return encoded[:at] + b"\2" + encoded[at + 1 :]


def without_adobe():
    """A CMYK JPEG of another program, which stores inks as they are."""
    encoded = encode(Image.new("CMYK", (SIDE, SIDE), tuple(255 - ink for ink in INK)), "JPEG", quality=100)
    at = encoded.index(b"\xff\xee")
    return encoded[:at] + encoded[at + 2 + int.from_bytes(encoded[at + 2 : at + 4], "big") :]


def test_cmyk_in_every_form_has_the_same_colour():
    flat = Image.new("CMYK", (SIDE, SIDE), INK)
    deep = np.broadcast_to(np.array(INK, np.uint16) * 257, (SIDE, SIDE, 4))
    for encoded in (
        encode(flat, "JPEG", quality=100),
        encode(flat, "TIFF"),
        without_adobe(),
        tiff(deep, 5),
        tiff(deep, 5, ">"),
    ):
        assert abs(show(encoded).astype(int) - SEEN).max() <= 4


def test_ycck_has_the_inks_colour():
    assert Image.open(io.BytesIO(ycck())).mode == "CMYK"
    assert abs(show(ycck()).astype(int) - SEEN).max() <= 6


@pytest.mark.parametrize(
    ("lab", "rgb"), [((255, 0, 0), (255, 255, 255)), ((0, 0, 0), (0, 0, 0)), ((136, 80, 67), (255, 0, 0))]
)
def test_lab_is_converted(lab, rgb):
    values = np.broadcast_to(np.array(lab, np.uint8), (SIDE, SIDE, 3))
    assert abs(show(tiff(values, 8)).astype(int) - rgb).max() <= 12


@pytest.mark.parametrize(("kind", "bits"), [("PNG", 1), ("TIFF", 1), ("PNG", 2), ("PNG", 4), ("BMP", 1)])
def test_few_bits_reach_from_black_to_white(kind, bits):
    if bits == 1:
        encoded = encode(Image.fromarray(RAMP > 0.5), kind)
    else:
        levels = Image.fromarray(np.rint(RAMP * (2**bits - 1)).astype(np.uint8), "P")
        levels.putpalette([255 * (level // 3) // (2**bits - 1) for level in range(3 * 2**bits)])
        encoded = encode(levels, kind, bits=bits)
    pixels = show(encoded)
    assert (pixels[0, 0] == 0).all() and (pixels[-1, -1] == 255).all() and len(np.unique(pixels)) == 2**bits


# Frames.


@pytest.mark.parametrize(
    ("kind", "options"),
    [("GIF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("TIFF", {}), ("TIFF", {"compression": "tiff_lzw"})],
)
def test_the_first_frame_is_used_and_such_images_are_counted(kind, options, tmp_path, caplog):
    first, second = (Image.new("RGB", (SIDE, SIDE), colour) for colour in ((250, 20, 20), (20, 20, 250)))
    moving = encode(first, kind, save_all=True, append_images=[second, first], **options)
    single = encode(second, kind, **options)
    folder = write(tmp_path / "films", kind.lower(), a=[moving] * 7, b=[single] * 13)
    source = open_quietly(folder, tmp_path)
    images = everything(source)
    assert len(images) == 20 and sum(image[0, 0].tolist() == [250, 20, 20] for image in images) == 7
    assert any(" 7 of 20 " in line for line in lines_of(caplog))


@pytest.mark.parametrize("kind", ["GIF", "TIFF"])
def test_a_second_frame_that_is_cut_off_leaves_the_first(kind):
    frames = [Image.fromarray(np.random.default_rng(seed).integers(0, 255, (SIDE, SIDE), np.uint8)) for seed in (1, 2)]
    encoded = encode(frames[0], kind, save_all=True, append_images=frames[1:])
    for share in (0.7, 0.8, 0.95):
        cut = encoded[: round(share * len(encoded))]
        with Image.open(io.BytesIO(cut)) as image:
            assert np.array_equal(show(cut)[..., 0], np.asarray(image.convert("RGB"))[..., 0])


# One decision for every process and way of reading.


def parquet_of(path, files):
    rows = {"image": [{"bytes": file, "path": None} for file in files], "label": [at % 2 for at in range(len(files))]}
    features = Features({"image": datasets.Image(), "label": ClassLabel(names=["a", "b"])})
    Dataset.from_dict(rows, features=features).to_parquet(path)
    return path


def mixed_files(n=150):
    """Ordinary images, then deep ones of rising brightness, with white drawings between them."""
    ordinary = [encode(np.full((8, 8), at, np.uint8), "PNG") for at in range(40)]
    deep = [encode(np.full((8, 8), 20 * at, np.uint16), "PNG") for at in range(n - 80)]
    white = [encode(drawing(255), "PNG")] * 40
    return [*ordinary, *(file for pair in zip(deep, white) for file in pair), *deep[40:]]


def test_streaming_and_preparing_decide_alike(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "_RAW_BYTES", 16 * 8 * 8 * 3)
    monkeypatch.setattr(cache, "_SCAN_ROWS", 24)
    file = parquet_of(tmp_path / "mixed.parquet", mixed_files())
    streamed, prepared = (
        data.open_source(file, 8, cache_dir=tmp_path / str(way), streaming=way, progress=False)
        for way in (True, False)
    )
    assert streamed.fingerprint == prepared.fingerprint
    assert np.array_equal(streamed.train.pixel_hashes(), prepared.train.pixel_hashes())
    assert np.array_equal(streamed.train.labels, prepared.train.labels)
    decisions = [json.loads(path.read_text()) for path in tmp_path.rglob("pixels-v*.json")]
    assert len(decisions) == 2 and decisions[0] == decisions[1]
    assert decisions[0]["integers"] == [0, 2_047] and decisions[0]["n_white"] == 40


def test_processes_that_fill_one_cache_decide_once(monkeypatch, tmp_path):
    monkeypatch.setattr(cache, "_RAW_BYTES", 16 * 8 * 8 * 3)
    file = parquet_of(tmp_path / "mixed.parquet", mixed_files())
    open_quietly(file, tmp_path / "alone", 8).train.pixel_hashes()
    scan = cache._scan

    def logged_scan(reader):
        with (tmp_path / "scans").open("a") as log:
            log.write("scan\n")
        return scan(reader)

    monkeypatch.setattr(cache, "_scan", logged_scan)
    children = []
    for rank in range(3):
        child = os.fork()
        if not child:
            try:
                np.save(tmp_path / f"{rank}.npy", open_quietly(file, tmp_path / "shared", 8).train.pixel_hashes())
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    assert (tmp_path / "scans").read_text().count("scan") == 1
    alone = open_quietly(file, tmp_path / "alone", 8).train.pixel_hashes()
    for rank in range(3):
        assert np.array_equal(np.load(tmp_path / f"{rank}.npy"), alone)


def test_an_ordinary_source_is_read_once(monkeypatch, tmp_path):
    reads = []
    read = readers._read_bytes
    monkeypatch.setattr(readers, "_read_bytes", lambda *given: reads.append(threading.get_ident()) or read(*given))
    photo = np.random.default_rng(0).integers(0, 255, (20, 20, 3), np.uint8)
    folder = write(tmp_path / "photos", "jpg", a=[encode(photo, "JPEG")] * 8, b=[encode(photo[::-1], "JPEG")] * 8)
    _ = open_quietly(folder, tmp_path).train
    assert len(reads) == 16


def test_a_corrupt_image_that_the_scan_meets_is_named_or_skipped(tmp_path):
    files = [encode((RAMP * 4_000).astype(np.uint16), "PNG")] * 8
    folder = write(tmp_path / "scans", "png", a=files, b=[*files[1:], files[0][:60]])
    with pytest.raises(InputError, match=r"b/07\.png"):
        _ = open_quietly(folder, tmp_path).train
    assert len(everything(open_quietly(folder, tmp_path, skip_corrupt=True))) == 15


# Versions.


def test_a_new_cache_version_rebuilds_the_cache_and_keeps_the_fingerprint(monkeypatch, tmp_path):
    files = [encode((RAMP * 4_000).astype(np.uint16), "PNG")] * 8
    folder = write(tmp_path / "scans", "png", a=files, b=files[1:])
    before = open_quietly(folder, tmp_path)
    images = everything(before)
    for module in (cache, sources):
        monkeypatch.setattr(module, "CACHE_VERSION", cache.CACHE_VERSION + 1 if module is cache else 2)
    after = open_quietly(folder, tmp_path)
    assert after.fingerprint == before.fingerprint and not after.is_available
    assert np.array_equal(everything(after), images) and after.is_available


def test_decoding_does_not_enter_the_ids_of_embedded_sources(tmp_path):
    glyphs, digits = (open_quietly(name, tmp_path, 28).fingerprint for name in ("glyphs", "digits"))
    assert (glyphs, digits) == ("deb1ede92e7ddb02", "0d4528d319aa647b")


def test_a_cache_of_an_earlier_version_is_announced(tmp_path, caplog):
    files = [encode((RAMP * 255).astype(np.uint8), "PNG")] * 8
    folder = write(tmp_path / "scans", "png", a=files, b=files[1:])
    (tmp_path / "cache" / f"scans-{SIDE}px-0123456789abcdef" / "train" / "raw-32768").mkdir(parents=True)
    source = open_quietly(folder, tmp_path)
    _ = source.train, source.test
    assert sum("fingerprint" in line for line in lines_of(caplog)) == 1
    caplog.clear()
    _ = open_quietly(folder, tmp_path).train
    assert not any("fingerprint" in line for line in lines_of(caplog))


# A look at the pixels.


def flat(level, corner):
    pixels = np.full((SIDE, SIDE), level, np.uint8)
    pixels[0, 0] = corner
    return encode(pixels, "PNG")


@pytest.mark.parametrize(
    ("level", "words"), [(0, ("all 20 ", "black")), (255, ("all 20 ", "white")), (90, ("all 20 ", "equal"))]
)
def test_images_without_content_are_reported(level, words, tmp_path, caplog):
    files = [flat(level, level)] * 10
    _ = open_quietly(write(tmp_path / "set", "png", a=files, b=files), tmp_path).train
    lines = lines_of(caplog)
    assert len(lines) == 1 and all(word in lines[0] for word in words)


@pytest.mark.parametrize(("n_equal", "is_reported"), [(1, False), (2, True), (30, True)])
def test_equal_images_with_different_labels_are_reported_above_one_per_cent(n_equal, is_reported, tmp_path, caplog):
    classes = {name: [flat(level, at) for at in range(100)] for name, level in (("a", 10), ("b", 20))}
    classes["b"][:n_equal] = classes["a"][:n_equal]
    folder = write(tmp_path / "set", "png", **classes)
    _ = open_quietly(folder, tmp_path).train
    lines = lines_of(caplog)
    assert len(lines) == is_reported
    if is_reported:
        assert f" {2 * n_equal} of 200 " in lines[0]
        caplog.clear()
        cache.log_once.cache_clear()
        _ = open_quietly(folder, tmp_path).train  # a filled cache remembers it
        assert lines_of(caplog) == lines
        _ = open_quietly(folder, tmp_path).train
        assert lines_of(caplog) == lines  # once per source and process


def test_equal_images_of_one_class_are_not_reported(tmp_path, caplog):
    folder = write(tmp_path / "set", "png", a=[flat(10, 1)] * 10, b=[flat(20, 2)] * 10)
    _ = open_quietly(folder, tmp_path).train
    assert lines_of(caplog) == []
