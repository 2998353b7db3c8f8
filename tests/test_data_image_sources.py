"""Folders of images opened as sources: every image is used or counted, and an unchanged folder is not read again."""

import logging
import shutil
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pytest
from numbered_images import numbers_of, pixels, png, write_folder, write_parquet
from PIL import Image
from pyarrow import parquet

from hf_scaling import data
from hf_scaling.data import hashes, loading, scan
from hf_scaling.errors import InputError


def open_quietly(folder, cache, image_size=8, **options):
    return data.open_source(folder, image_size=image_size, cache_dir=cache / "cache", progress=False, **options)


def write(root: Path, *names: str) -> Path:
    """Write image `number` of its place in `names` at each path relative to `root`."""
    for number, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        kind = {".webp": "WEBP", ".bmp": "BMP", ".tif": "TIFF"}.get(Path(name).suffix.lower(), "PNG")
        options = {"lossless": True} if kind == "WEBP" else {}
        Image.fromarray(pixels(number, 0)).save(root / name, kind, **options)
    return root


def all_numbers(source) -> list[int]:
    return sorted(
        int(n) for part in (source.train, source.test) for n in numbers_of(part.images(np.arange(len(part))))
    )


@pytest.fixture
def warnings_of(caplog):
    """The warnings that were logged by the code that loads sources."""
    loading.log_once.cache_clear()
    return lambda: [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


@pytest.mark.parametrize("suffix", ["webp", "BMP", "tif", "Png"])
def test_images_of_every_suffix_are_used(suffix, tmp_path, warnings_of):
    names = [f"{name}/{number}.{suffix if number > 5 else 'png'}" for name in ("cat", "dog") for number in range(12)]
    assert all_numbers(open_quietly(write(tmp_path / "pets", *names), tmp_path)) == list(range(24))
    assert warnings_of() == []


@pytest.mark.parametrize(("suffix", "hint"), [("heic", "pillow-heif"), ("svg", "convert"), ("zip", "unpack")])
def test_files_that_are_not_images_are_counted_once(suffix, hint, tmp_path, warnings_of, monkeypatch):
    scan.image_suffixes.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "pillow_heif", None)
    folder = write_folder(tmp_path / "pets", 24)
    (folder / "dog" / f"1.{suffix}").write_text("x")
    for _ in range(2):
        assert len(all_numbers(open_quietly(folder, tmp_path))) == 24
    (warning,) = warnings_of()
    assert f".{suffix}" in warning and hint in warning and str(folder) in warning
    scan.image_suffixes.cache_clear()


@pytest.mark.parametrize(("train", "test"), [("TRAIN", "Eval"), ("Training", "VALID"), ("trainset", "Dev")])
def test_parts_in_any_case_are_kept_apart(train, test, tmp_path):
    names = [f"{part}/{name}/{n}.png" for part in (train, test) for name in "ab" for n in range(5)]
    source = open_quietly(write(tmp_path / "set", *names), tmp_path)
    assert numbers_of(source.train.images(np.arange(10))).tolist() == list(range(10))
    assert numbers_of(source.test.images(np.arange(10))).tolist() == list(range(10, 20))


@pytest.mark.parametrize("deeper", ["x/y", "train/1", "2024/may/7"])
def test_deeper_folders_belong_to_their_class(deeper, tmp_path):
    names = [f"{name}/{deeper}/{number}.png" for name in ("cat", "dog") for number in range(10)]
    source = open_quietly(write(tmp_path / "pets", *names), tmp_path)
    assert source.class_names == ["cat", "dog"] and all_numbers(source) == list(range(20))
    assert np.array_equal(numbers_of(source.train.images(np.arange(18))) >= 10, source.train.labels == 1)


@pytest.mark.parametrize("classes", [("dev", "prod"), ("Test", "rest", "zest"), ("train [1]", "tränen", "a b")])
def test_classes_can_have_the_names_of_parts_and_any_letters(classes, tmp_path):
    names = [f"{name}/the test [{number}] of train.png" for name in classes for number in range(10)]
    source = open_quietly(write(tmp_path / "set", *names), tmp_path)
    assert source.class_names == sorted(classes) and all_numbers(source) == list(range(10 * len(classes)))


def test_images_are_in_the_order_of_class_and_path_however_they_are_read(tmp_path):
    names = ["dog/b.png", "dog/a/z.png", "cat/9.png", "cat/10.png"]
    folder = write(tmp_path / "pets", *(f"{part}/{name}" for part in ("train", "test") for name in names))
    prepared, streamed = (open_quietly(folder, tmp_path / str(way), streaming=way) for way in (False, True))
    for source in (prepared, streamed):
        assert source.class_names == ["cat", "dog"] and source.train.labels.tolist() == [0, 0, 1, 1]
        assert numbers_of(source.train.images(np.arange(4))).tolist() == [3, 2, 1, 0]
    assert prepared.fingerprint == streamed.fingerprint


def test_an_unchanged_folder_is_not_read_again(tmp_path, monkeypatch):
    folder = write_folder(tmp_path / "pets", 40)
    before = open_quietly(folder, tmp_path)
    images = before.train.images(np.arange(len(before.train)))
    read = []
    monkeypatch.setattr(hashes, "_read", lambda path, *_: read.append(path) or (folder / path).read_bytes())
    again = open_quietly(folder, tmp_path)
    monkeypatch.setattr(loading.FolderOrigin, "reader", None)
    assert np.array_equal(again.train.images(np.arange(len(images))), images)
    assert again.fingerprint == before.fingerprint and read == []
    (folder / "cat" / "0002.png").write_bytes(png(777, 0))
    assert open_quietly(folder, tmp_path).fingerprint != before.fingerprint
    assert read == ["cat/0002.png"]


def test_metadata_gives_the_labels(tmp_path):
    folder = write(tmp_path / "set", *(f"{number}.png" for number in range(20)))
    rows = [f"{number}.png,{'even' if number % 2 == 0 else 'odd'}" for number in range(20)]
    (folder / "metadata.csv").write_text("\n".join(["file_name,parity", *rows]))
    source = open_quietly(folder, tmp_path, label_column="parity")
    images = source.train.images(np.arange(len(source.train)))
    assert source.class_names == ["even", "odd"] and np.array_equal(numbers_of(images) % 2, source.train.labels)
    with pytest.raises(InputError, match=r"label_column: .*metadata\.csv.*party.*parity"):
        open_quietly(folder, tmp_path, label_column="party")


def test_columns_of_a_folder_of_images(tmp_path):
    folder = write_folder(tmp_path / "pets", 20)
    assert len(open_quietly(folder, tmp_path, image_column="image", label_column="label").train) == 18
    with pytest.raises(InputError, match="image_column: "):
        open_quietly(folder, tmp_path, image_column="picture")


def test_parquet_files_with_images_are_read_rather_than_images_beside_them(tmp_path, warnings_of):
    folder = write_parquet(tmp_path / "set" / "train.parquet", 40).parent
    write(folder, "preview/a.png", "b.png")
    assert all_numbers(open_quietly(folder, tmp_path)) == list(range(40))
    (warning,) = warnings_of()
    assert "2 .png" in warning and str(folder) in warning


def test_parquet_files_without_images_are_counted(tmp_path, warnings_of):
    import pandas as pd

    folder = write_folder(tmp_path / "pets", 40)
    pd.DataFrame({"x": [1.0, 2.0]}).to_parquet(folder / "features.parquet")
    assert len(all_numbers(open_quietly(folder, tmp_path))) == 40
    (warning,) = warnings_of()
    assert "1 .parquet" in warning


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_a_folder_with_an_archive_alone_is_refused(suffix, tmp_path):
    folder = write_folder(tmp_path / "pets", 4)
    shutil.make_archive(str(tmp_path / "packed" / "pets"), {"zip": "zip", "tar.gz": "gztar"}[suffix], folder)
    with pytest.raises(InputError, match="unpack"):
        open_quietly(tmp_path / "packed", tmp_path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    folder = write_folder(tmp_path / "pets", 20)
    source = open_quietly(folder, tmp_path)
    (folder / "dog" / "0003.png").unlink()
    with pytest.raises(InputError, match=r"dog/0003\.png"):
        _ = source.train


@pytest.mark.parametrize("marker", [None, -1])
def test_a_test_part_without_labels_is_reported(marker, tmp_path, warnings_of):
    images = [{"bytes": png(number, 0), "path": None} for number in range(20)]
    features = datasets.Features(image=datasets.Image(), label=datasets.ClassLabel(names=["cat", "dog"]))
    (tmp_path / "set").mkdir()
    for part, labels in (("train", [number % 2 for number in range(20)]), ("test", [marker] * 20)):
        rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
        rows.to_parquet(tmp_path / "set" / f"{part}.parquet")
    source = open_quietly(tmp_path / "set", tmp_path)
    assert len(source.train) + len(source.test) == 20
    assert sum("test" in warning and "no label" in warning for warning in warnings_of()) == 1


@pytest.mark.parametrize("deeper", ["images", "a/b"])
def test_paths_in_a_parquet_file_are_below_its_folder(deeper, tmp_path, monkeypatch):
    folder = write(tmp_path / "set", *(f"{deeper}/{number}.png" for number in range(20)))
    monkeypatch.chdir(write(tmp_path / "elsewhere", *(f"{deeper}/{number}.png" for number in reversed(range(20)))))
    images = [{"bytes": None, "path": f"{deeper}/{number}.png"} for number in range(20)]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    labels = ["cat" if number < 10 else "dog" for number in range(20)]
    parquet.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), folder / "train.parquet")
    source = open_quietly(folder, tmp_path)
    for part in (source.train, source.test):
        labels = [source.class_names[label] for label in part.labels]
        numbers = numbers_of(part.images(np.arange(len(part))))
        assert labels == ["cat" if number < 10 else "dog" for number in numbers]
