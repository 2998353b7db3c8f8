"""Sources of one's own: parts, columns and classes are found, content is what counts, and mistakes are named."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from PIL import Image

from hf_scaling import data
from hf_scaling.errors import InputError

SUPPORT = Path(__file__).parent / "support"
sys.path.insert(0, str(SUPPORT))
from numbered_images import numbers_of, pixels, png, write_folder, write_parquet  # noqa: E402

WAYS = pytest.mark.parametrize("streaming", [False, True], ids=["prepared", "streamed"])
NAMES = ClassLabel(names=["a", "b"])


@pytest.fixture(autouse=True)
def own_hugging_face_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def open_quietly(source, cache, image_size=8, **options):
    return data.open_source(source, image_size=image_size, cache_dir=cache / "cache", progress=False, **options)


def everything(part) -> np.ndarray:
    return part.images(np.arange(len(part)))


@WAYS
def test_a_folder_of_images_with_its_own_test_part(streaming, tmp_path):
    write_folder(tmp_path / "pets" / "train", 12)
    write_folder(tmp_path / "pets" / "test", 6)
    source = open_quietly(tmp_path / "pets", tmp_path, streaming=streaming)
    assert (source.name, source.class_names) == ("pets", ["cat", "dog"])
    assert (len(source.train), len(source.test)) == (12, 6)
    images = everything(source.train)
    for image, number, label in zip(images, numbers_of(images), source.train.labels):
        assert number % 2 == label
        assert np.array_equal(image, pixels(number, label))  # at its own size nothing is changed


@WAYS
def test_without_a_test_part_a_tenth_is_held_out(streaming, tmp_path):
    file = write_parquet(tmp_path / "shapes.parquet", 200)
    source = open_quietly(file, tmp_path, streaming=streaming)
    assert source.name == "shapes"
    kept, held_out = (numbers_of(everything(part)) for part in (source.train, source.test))
    assert len(held_out) == 20 and sorted([*kept, *held_out]) == list(range(200))


def test_validation_stands_in_for_a_test_part_without_labels(tmp_path):
    folder = tmp_path / "unlabelled"
    write_parquet(folder / "train.parquet", 20, label=([0, 1] * 10, NAMES))
    write_parquet(folder / "validation.parquet", 6, first=100, label=([0, 1] * 3, NAMES))
    write_parquet(folder / "test.parquet", 6, first=200, label=([-1] * 6, NAMES))
    assert numbers_of(everything(open_quietly(folder, tmp_path).test)).tolist() == list(range(100, 106))


@WAYS
@pytest.mark.parametrize(
    ("values", "feature", "names"),
    [
        (["red", "blue"] * 10, "string", ["blue", "red"]),
        ([7, 3] * 10, "int64", ["3", "7"]),
        ([True, False] * 10, "bool", ["False", "True"]),
    ],
)
def test_plain_labels_that_repeat_are_classes(values, feature, names, streaming, tmp_path):
    write_parquet(tmp_path / "set" / "train.parquet", 20, target=(values, feature))
    write_parquet(tmp_path / "set" / "test.parquet", 4, target=(values[:4], feature))
    source = open_quietly(tmp_path / "set", tmp_path, streaming=streaming)
    assert source.class_names == names
    assert [names[label] for label in source.train.labels] == [str(value) for value in values]
    assert [names[label] for label in source.test.labels] == [str(value) for value in values[:4]]


def test_columns_can_be_named(tmp_path):
    coarse = ([0, 1] * 10, NAMES)
    fine = ([0, 1, 2, 3] * 5, ClassLabel(names=list("wxyz")))
    file = write_parquet(tmp_path / "two.parquet", 20, coarse=coarse, fine=fine)
    with pytest.raises(InputError, match=r"columns coarse, fine could all hold class labels.*label_column"):
        open_quietly(file, tmp_path)
    sources = [open_quietly(file, tmp_path, label_column=column) for column in ("coarse", "fine")]
    assert [len(source.class_names) for source in sources] == [2, 4]
    assert sources[0].fingerprint != sources[1].fingerprint


@WAYS
def test_chosen_classes_leave_the_others_out(streaming, tmp_path):
    names = [f"kind {number}" for number in range(6)]
    write_parquet(tmp_path / "six" / "train.parquet", 60, names)
    write_parquet(tmp_path / "six" / "test.parquet", 12, names)
    (tmp_path / "list.txt").write_text("kind 4\nkind 1\n")
    source = open_quietly(tmp_path / "six", tmp_path, classes=str(tmp_path / "list.txt"), streaming=streaming)
    assert source.class_names == ["kind 1", "kind 4"]
    assert np.bincount(source.train.labels).tolist() == [10, 10]
    assert np.array_equal(numbers_of(everything(source.train)) % 6, np.array([1, 4])[source.train.labels])
    assert np.bincount(source.test.labels).tolist() == [2, 2]


def test_a_fingerprint_is_of_the_content_not_of_the_place(tmp_path):
    first = write_folder(tmp_path / "one" / "pets", 20)
    second = tmp_path / "two" / "animals"
    shutil.copytree(first, second)
    os.utime(second / "cat" / "0000.png", (0, 0))
    here, there = open_quietly(first, tmp_path), open_quietly(second, tmp_path)
    assert here.fingerprint == there.fingerprint
    assert here.fingerprint != open_quietly(first, tmp_path, image_size=7).fingerprint
    Image.fromarray(pixels(999, 0)).save(second / "cat" / "0000.png")
    assert open_quietly(second, tmp_path).fingerprint != here.fingerprint


def test_a_changed_file_is_read_anew(tmp_path):
    folder = write_folder(tmp_path / "pets", 20)
    before = everything(open_quietly(folder, tmp_path).train)
    Image.fromarray(pixels(999, 0)).save(folder / "cat" / "0000.png")
    source = open_quietly(folder, tmp_path)
    after = np.concatenate([numbers_of(everything(part)) for part in (source.train, source.test)])
    assert 999 in after and 999 not in numbers_of(before)


def test_pictures_of_any_kind_and_size_are_fitted(tmp_path):
    folder = tmp_path / "kinds"
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8))
    kinds = {"rgb.png": wide, "grey.png": wide.convert("L"), "palette.png": wide.convert("P")}
    kinds |= {"alpha.png": wide.convert("RGBA"), "photo.jpg": wide, "print.jpg": wide.convert("CMYK")}
    for name in ("one", "other"):
        (folder / name).mkdir(parents=True)
        for file, picture in kinds.items():
            picture.save(folder / name / file)
    source = open_quietly(folder, tmp_path, image_size=20)
    fitted = np.asarray(wide.resize((45, 20), Image.Resampling.BICUBIC).crop((12, 0, 32, 20)))
    images = np.concatenate([everything(source.train), everything(source.test)])
    assert images.shape == (12, 20, 20, 3)
    assert sum(np.array_equal(image, fitted) for image in images) >= 2  # rgb.png, twice; alpha.png as well


def test_a_turned_photograph_is_turned_back(tmp_path):
    upright = pixels(5, 0, side=16)
    upright[:4] = 0
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held on its side: turn by 90 degrees clockwise to see it upright
    for name in ("one", "other"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            lying = Image.fromarray(np.rot90(upright))
            lying.save(tmp_path / "photos" / name / f"{number}.png", exif=exif)
    source = open_quietly(tmp_path / "photos", tmp_path, image_size=16)
    assert all(np.array_equal(image, upright) for image in everything(source.train))


@WAYS
@pytest.mark.parametrize("harm", ["text", "cut", "empty"])
def test_a_corrupt_image_is_named_or_skipped_and_counted(harm, streaming, tmp_path):
    folder = write_folder(tmp_path / "pets" / "train", 40).parent
    write_folder(tmp_path / "pets" / "test", 6)
    victim = folder / "train" / "dog" / "0017.png"
    victim.write_bytes({"text": b"not an image", "cut": victim.read_bytes()[:60], "empty": b""}[harm])
    source = open_quietly(folder, tmp_path, streaming=streaming)
    with pytest.raises(InputError, match=r"dog/0017.png cannot be decoded as an image.*skip_corrupt") as caught:
        _ = source.train
    assert "\n" not in str(caught.value)
    skipping = open_quietly(folder, tmp_path, streaming=streaming, skip_corrupt=True)
    assert (len(skipping.train), skipping.train.n_skipped, skipping.test.n_skipped) == (39, 1, 0)
    assert 17 not in numbers_of(everything(skipping.train))
    with pytest.raises(InputError, match=r"dog/0017.png"):  # a cache filled by skipping is no leave to skip
        _ = open_quietly(folder, tmp_path, streaming=streaming).train


@pytest.mark.parametrize("kind", ["bytes and path", "bytes"])
def test_images_that_are_plain_bytes_are_found_and_a_corrupt_row_is_named(kind, tmp_path):
    encoded = [png(at, at % 2) for at in range(20)]
    for file, row_13 in (("whole", encoded[13]), ("broken", b"broken")):
        pictures = [*encoded[:13], row_13, *encoded[14:]]
        if kind == "bytes and path":
            pictures = [{"bytes": picture, "path": None} for picture in pictures]
        rows = {"picture": pictures, "label": [0, 1] * 10}
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{file}.parquet")
    whole = open_quietly(tmp_path / "whole.parquet", tmp_path)
    assert len(whole.train) == 18 and np.array_equal(numbers_of(everything(whole.train)) % 2, whole.train.labels)
    with pytest.raises(InputError, match="row 13 of part train of broken cannot be decoded"):
        _ = open_quietly(tmp_path / "broken.parquet", tmp_path).train


BAD_LABELS = {
    "floats": ([0.5, 1.5] * 10, "float32", "holds float32 values, which are not class ids"),
    "numbers that do not repeat": (list(range(20)), "int64", "20 different labels on 20 images are no classes"),
    "one class": ([3] * 20, "int64", "has 1, and it takes at least two classes"),
    "one class of two": ([1] * 20, NAMES, "not of two classes or more"),
    "a missing label": ([0, None] * 10, NAMES, "row 1 has no label"),
    "a missing name": (["x", None] * 10, "string", "row 1 has no label"),
}


@WAYS
@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels_that_are_no_classes_are_refused(case, streaming, tmp_path):
    values, feature, said = BAD_LABELS[case]
    file = write_parquet(tmp_path / "set.parquet", 20, label=(values, feature))
    with pytest.raises(InputError, match=said):
        _ = open_quietly(file, tmp_path, streaming=streaming).train


def test_a_test_label_that_training_lacks_is_refused(tmp_path):
    write_parquet(tmp_path / "set" / "train.parquet", 20, label=(["x", "y"] * 10, "string"))
    write_parquet(tmp_path / "set" / "test.parquet", 2, label=(["x", "z"], "string"))
    with pytest.raises(InputError, match="row 1 has label 'z', which the training part does not have"):
        _ = open_quietly(tmp_path / "set", tmp_path).test


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_column": "imgae"}, "image_column: .* has no column imgae: did you mean image"),
        ({"label_column": "colour"}, "label_column: .* has no column colour: there are image, label"),
        ({"image_column": "label"}, "holds no images"),
        ({"label_column": "image"}, "holds PIL.Image.Image values, which are not class ids"),
        ({"n_images": 5}, "n_images: only glyphs"),
        ({"classes": 4}, "only 3"),
    ],
)
def test_unknown_columns_and_impossible_options_are_refused(options, said, tmp_path):
    file = write_parquet(tmp_path / "set.parquet", 20)
    with pytest.raises(InputError, match=said):
        open_quietly(file, tmp_path, **options)


def test_sources_that_are_none_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("no images")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    for name, said in {
        "empty": "cannot be read as a data set",
        "note.txt": "this file is none of them",
        "broken.parquet": "cannot be read as a data set",
        "absent": "no such source",
    }.items():
        with pytest.raises(InputError, match=said) as caught:
            _ = open_quietly(tmp_path / name, tmp_path).train
        assert "\n" not in str(caught.value) and name in str(caught.value)


@pytest.mark.parametrize(
    "environment",
    [{"HF_HUB_OFFLINE": "1"}, {"HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}],
    ids=["offline", "refused"],
)
def test_a_hub_id_without_a_network_is_offline_not_absent(environment, tmp_path):
    program = """
from hf_scaling import data
from hf_scaling.errors import InputError
try:
    data.open_source("someone/something", cache_dir="cache")
except InputError as error:
    print(error)
"""
    environment = os.environ | environment | {"HF_HOME": str(tmp_path / "hf")}
    said = subprocess.run(
        [sys.executable, "-c", program], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert said.stdout.startswith("offline") and "someone/something" in said.stdout, said
    assert "not found" not in said.stdout.lower() and said.stdout.count("\n") == 1


def test_overlap_counts_the_images_of_the_second_part(tmp_path):
    first = open_quietly(write_parquet(tmp_path / "first.parquet", 50), tmp_path)
    write_parquet(tmp_path / "both" / "train.parquet", 40, first=30)
    write_parquet(tmp_path / "both" / "test.parquet", 30, first=0)
    second = open_quietly(tmp_path / "both", tmp_path)
    kept = set(numbers_of(everything(first.train)).tolist())
    # Blue holds number % 3, so equal numbers are equal images only where the first number is a multiple of three.
    assert data.count_overlap(first.train, second.train) == len(kept & set(range(30, 50)))
    assert data.count_overlap(first.train, second.test) == len(kept & set(range(30)))
    with pytest.raises(InputError, match="8 px and of 9 px"):
        data.count_overlap(first.train, open_quietly(tmp_path / "both", tmp_path, image_size=9).train)
