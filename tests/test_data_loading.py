"""A user's own sources: parts, columns and classes are found, content identifies them, mistakes are named."""

import os
import shutil
import subprocess
import sys

import datasets
import numpy as np
import pytest
from datasets import ClassLabel, Dataset
from numbered_images import numbers_of, pixels, png, write_folder, write_parquet
from PIL import Image

from hf_scaling import data
from hf_scaling.errors import InputError

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
    train, test = (numbers_of(everything(part)) for part in (source.train, source.test))
    assert len(test) == 20 and sorted([*train, *test]) == list(range(200))


def test_validation_replaces_a_test_part_without_labels(tmp_path):
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
    with pytest.raises(InputError, match=r"coarse, fine.*label_column"):
        open_quietly(file, tmp_path)
    sources = [open_quietly(file, tmp_path, label_column=column) for column in ("coarse", "fine")]
    assert [len(source.class_names) for source in sources] == [2, 4]
    assert sources[0].fingerprint != sources[1].fingerprint


@WAYS
def test_selected_classes_leave_the_others_out(streaming, tmp_path):
    names = [f"kind {number}" for number in range(6)]
    write_parquet(tmp_path / "six" / "train.parquet", 60, names)
    write_parquet(tmp_path / "six" / "test.parquet", 12, names)
    (tmp_path / "list.txt").write_text("kind 4\nkind 1\n")
    source = open_quietly(tmp_path / "six", tmp_path, classes=str(tmp_path / "list.txt"), streaming=streaming)
    assert source.class_names == ["kind 1", "kind 4"]
    assert np.bincount(source.train.labels).tolist() == [10, 10]
    assert np.array_equal(numbers_of(everything(source.train)) % 6, np.array([1, 4])[source.train.labels])
    assert np.bincount(source.test.labels).tolist() == [2, 2]


@pytest.mark.parametrize(
    ("write", "classes", "sizes"),
    [
        (lambda folder: write_parquet(folder / "shapes.parquet", 200), None, (180, 20)),
        # 67, 67 and 66 images of the classes a, b and c; which two are drawn does not matter to the tenth held out.
        (lambda folder: write_parquet(folder / "shapes.parquet", 201), 2, (121, 13)),
        (lambda folder: write_parquet(folder / "t.parquet", 60, label=(list("ab" * 30), "string")), None, (54, 6)),
        (lambda folder: write_folder(folder, 60, ("cat", "dog", "fox")), 2, (36, 4)),
    ],
    ids=["parquet", "classes of parquet", "strings", "classes of a folder"],
)
def test_images_are_counted_before_any_is_decoded(write, classes, sizes, tmp_path):
    write(tmp_path / "own")
    source = open_quietly(tmp_path / "own", tmp_path, classes=classes)
    assert source.count() == sizes and not source.is_available
    facts = data.SourceFacts.of(source, fill=False)
    assert (facts.n_train, facts.n_test, facts.n_held_out) == (*sizes, sizes[0] // 10)
    assert facts == data.SourceFacts.of(source, fill=True) and source.is_available


def test_parts_are_counted_apart(tmp_path):
    write_parquet(tmp_path / "own" / "train.parquet", 30)
    write_parquet(tmp_path / "own" / "test.parquet", 12)
    assert open_quietly(tmp_path / "own", tmp_path, classes=2).count() == (20, 8)


def test_what_decoding_alone_would_tell_is_not_counted(tmp_path):
    file = write_parquet(tmp_path / "shapes.parquet", 60)
    assert open_quietly(file, tmp_path, skip_corrupt=True).count() is None
    assert open_quietly("digits", tmp_path).count() is None


def test_a_fingerprint_is_of_the_content_not_of_the_path(tmp_path):
    first = write_folder(tmp_path / "one" / "pets", 20)
    second = tmp_path / "two" / "animals"
    shutil.copytree(first, second)
    os.utime(second / "cat" / "0000.png", (0, 0))
    original, copy = open_quietly(first, tmp_path), open_quietly(second, tmp_path)
    assert original.fingerprint == copy.fingerprint
    assert original.fingerprint != open_quietly(first, tmp_path, image_size=7).fingerprint
    Image.fromarray(pixels(999, 0)).save(second / "cat" / "0000.png")
    assert open_quietly(second, tmp_path).fingerprint != original.fingerprint


def test_a_changed_file_is_read_again(tmp_path):
    folder = write_folder(tmp_path / "pets", 20)
    before = everything(open_quietly(folder, tmp_path).train)
    Image.fromarray(pixels(999, 0)).save(folder / "cat" / "0000.png")
    source = open_quietly(folder, tmp_path)
    after = np.concatenate([numbers_of(everything(part)) for part in (source.train, source.test)])
    assert 999 in after and 999 not in numbers_of(before)


def test_images_of_any_kind_and_size_are_fitted(tmp_path):
    folder = tmp_path / "kinds"
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 90, 3), np.uint8))
    kinds = {"rgb.png": wide, "grey.png": wide.convert("L"), "palette.png": wide.convert("P")}
    kinds |= {"alpha.png": wide.convert("RGBA"), "photo.jpg": wide, "print.jpg": wide.convert("CMYK")}
    for name in ("one", "other"):
        (folder / name).mkdir(parents=True)
        for file, image in kinds.items():
            image.save(folder / name / file)
    source = open_quietly(folder, tmp_path, image_size=20)
    fitted = np.asarray(wide.resize((45, 20), Image.Resampling.BICUBIC).crop((12, 0, 32, 20)))
    images = np.concatenate([everything(source.train), everything(source.test)])
    assert images.shape == (12, 20, 20, 3)
    assert sum(np.array_equal(image, fitted) for image in images) >= 2  # rgb.png, twice; alpha.png as well


def test_exif_orientation_is_applied(tmp_path):
    upright = pixels(5, 0, side=16)
    upright[:4] = 0
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was rotated: turn by 90 degrees clockwise to see it upright
    for name in ("one", "other"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for number in range(6):
            rotated = Image.fromarray(np.rot90(upright))
            rotated.save(tmp_path / "photos" / name / f"{number}.png", exif=exif)
    source = open_quietly(tmp_path / "photos", tmp_path, image_size=16)
    assert all(np.array_equal(image, upright) for image in everything(source.train))


@WAYS
@pytest.mark.parametrize("damage", ["text", "cut", "empty"])
def test_a_corrupt_image_is_named_or_skipped_and_counted(damage, streaming, tmp_path):
    folder = write_folder(tmp_path / "pets" / "train", 40).parent
    write_folder(tmp_path / "pets" / "test", 6)
    victim = folder / "train" / "dog" / "0017.png"
    victim.write_bytes({"text": b"not an image", "cut": victim.read_bytes()[:60], "empty": b""}[damage])
    source = open_quietly(folder, tmp_path, streaming=streaming)
    with pytest.raises(InputError, match=r"dog/0017\.png.*skip_corrupt") as caught:
        _ = source.train
    assert "\n" not in str(caught.value)
    skipping = open_quietly(folder, tmp_path, streaming=streaming, skip_corrupt=True)
    assert (len(skipping.train), skipping.train.n_skipped, skipping.test.n_skipped) == (39, 1, 0)
    assert 17 not in numbers_of(everything(skipping.train))
    with pytest.raises(InputError, match=r"dog/0017\.png"):  # a cache filled with skip_corrupt is refused without it
        _ = open_quietly(folder, tmp_path, streaming=streaming).train


@pytest.mark.parametrize("kind", ["bytes and path", "bytes"])
def test_images_that_are_plain_bytes_are_found_and_a_corrupt_row_is_named(kind, tmp_path):
    encoded = [png(at, at % 2) for at in range(20)]
    for file, row_13 in (("whole", encoded[13]), ("broken", b"broken")):
        images = [*encoded[:13], row_13, *encoded[14:]]
        if kind == "bytes and path":
            images = [{"bytes": image, "path": None} for image in images]
        rows = {"picture": images, "label": [0, 1] * 10}
        Dataset.from_dict(rows).to_parquet(tmp_path / f"{file}.parquet")
    whole = open_quietly(tmp_path / "whole.parquet", tmp_path)
    assert len(whole.train) == 18 and np.array_equal(numbers_of(everything(whole.train)) % 2, whole.train.labels)
    with pytest.raises(InputError, match="row 13 of part train of broken"):
        _ = open_quietly(tmp_path / "broken.parquet", tmp_path).train


BAD_LABELS = {
    "floats": ([0.5, 1.5] * 10, "float32", "label_column: label .*float32"),
    "numbers that do not repeat": (list(range(20)), "int64", "column label of set: 20 .* 20 "),
    "one class": ([3] * 20, "int64", "^set .*1"),
    "one class of two": ([1] * 20, NAMES, "^set"),
    "a missing label": ([0, None] * 10, NAMES, "set: row 1 "),
    "a missing name": (["x", None] * 10, "string", "column label of set: row 1 "),
}


@WAYS
@pytest.mark.parametrize("case", BAD_LABELS)
def test_labels_that_are_not_classes_are_refused(case, streaming, tmp_path):
    values, feature, named = BAD_LABELS[case]
    file = write_parquet(tmp_path / "set.parquet", 20, label=(values, feature))
    with pytest.raises(InputError, match=named):
        _ = open_quietly(file, tmp_path, streaming=streaming).train


def test_a_test_label_that_training_lacks_is_refused(tmp_path):
    write_parquet(tmp_path / "set" / "train.parquet", 20, label=(["x", "y"] * 10, "string"))
    write_parquet(tmp_path / "set" / "test.parquet", 2, label=(["x", "z"], "string"))
    with pytest.raises(InputError, match=r"part test of set: row 1 .*'z'"):
        _ = open_quietly(tmp_path / "set", tmp_path).test


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"image_column": "imgae"}, r"image_column: .*imgae.*\bimage\b"),
        ({"label_column": "colour"}, "label_column: .*colour.*image, label"),
        ({"image_column": "label"}, "image_column: label"),
        ({"label_column": "image"}, "label_column: image .*PIL.Image.Image"),
        ({"n_images": 5}, "n_images: "),
        ({"classes": 4}, "classes: 4 .*3"),
    ],
)
def test_unknown_columns_and_impossible_options_are_refused(options, named, tmp_path):
    file = write_parquet(tmp_path / "set.parquet", 20)
    with pytest.raises(InputError, match=named):
        open_quietly(file, tmp_path, **options)


def test_files_that_are_not_sources_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "note.txt").write_text("no images")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and nothing more")
    for name in ("empty", "note.txt", "broken.parquet", "absent"):
        with pytest.raises(InputError, match=f"^{tmp_path / name}") as caught:
            _ = open_quietly(tmp_path / name, tmp_path).train
        assert "\n" not in str(caught.value)


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
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert "offline" in done.stdout and "someone/something" in done.stdout, done
    assert "not found" not in done.stdout.lower() and done.stdout.count("\n") == 1


def test_overlap_counts_the_images_of_the_second_part(tmp_path):
    first = open_quietly(write_parquet(tmp_path / "first.parquet", 50), tmp_path)
    write_parquet(tmp_path / "both" / "train.parquet", 40, first=30)
    write_parquet(tmp_path / "both" / "test.parquet", 30, first=0)
    second = open_quietly(tmp_path / "both", tmp_path)
    numbers = set(numbers_of(everything(first.train)).tolist())
    # Blue holds number % 3, so equal numbers are equal images only where the first number is a multiple of three.
    assert data.count_overlap(first.train, second.train) == len(numbers & set(range(30, 50)))
    assert data.count_overlap(first.train, second.test) == len(numbers & set(range(30)))
    with pytest.raises(InputError, match=r"image_size: 8 .* 9 "):
        data.count_overlap(first.train, open_quietly(tmp_path / "both", tmp_path, image_size=9).train)
