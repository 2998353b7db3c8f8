"""Labels are compared by name in every part and every file; the rows that were read are compared with the files'."""

import datasets
import numpy as np
import pandas as pd
import pytest
from datasets import ClassLabel
from numbered_images import numbers_of, png, write_folder, write_parquet

from hf_scaling import data
from hf_scaling.data import loading
from hf_scaling.data.folders import read_image_folder
from hf_scaling.data.labels import name_classes
from hf_scaling.data.scan import divide_files
from hf_scaling.errors import InputError

WAYS = pytest.mark.parametrize("streaming", [False, True], ids=["prepared", "streamed"])


@pytest.fixture(autouse=True)
def own_hugging_face_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def open_quietly(source, cache, **options):
    return data.open_source(source, image_size=8, cache_dir=cache / "cache", progress=False, **options)


def write_labels(path, labels, first=0, names=None):
    """Write images whose blue is 1 for the label "b" and 0 for "a"; `names` makes a ClassLabel of the labels."""
    rows = {"image": [png(first + at, int(label in ("b", "2", 2))) for at, label in enumerate(labels)]}
    path.parent.mkdir(parents=True, exist_ok=True)
    if names is None:
        pd.DataFrame(rows | {"label": labels}).to_parquet(path)
    else:
        rows["label"] = [names.index(label) for label in labels]
        datasets.Dataset.from_dict(rows).cast_column("label", ClassLabel(names=names)).to_parquet(path)
    return path


def labels_fit_the_images(source) -> bool:
    """Whether every label's name is that of the class which the blue of its image encodes."""
    for part in (source.train, source.test):
        blue = part.images(np.arange(len(part)))[:, 0, 0, 2]
        if [source.class_names[label] in ("b", "2") for label in part.labels] != (blue == 1).tolist():
            return False
    return True


LAYOUTS = {
    "a test part in another order": {"train": [["a", "b"]], "test": [["b", "a"]]},
    "a shard in another order": {"train": [["a", "b"], ["b", "a"], ["a", "b"]], "test": [["a", "b"]]},
    "fewer names in a shard": {"train": [["a", "b"], ["b"]], "test": [["b", "a"]]},
    "names beside strings": {"train": [["b", "a"], None], "test": [None]},
    "strings beside names": {"train": [None, ["b", "a"]], "test": [["a", "b"]]},
}


@WAYS
@pytest.mark.parametrize("layout", LAYOUTS)
def test_classes_in_another_order_are_read_by_name(layout, streaming, tmp_path):
    first = 0
    for part, shards in LAYOUTS[layout].items():
        for number, names in enumerate(shards):
            path = tmp_path / "set" / f"{part}-{number:05d}-of-{len(shards):05d}.parquet"
            write_labels(path, ["b"] * 7 if names == ["b"] else ["a", "b", "b"] * 7, first, names)
            first += 100
    source = open_quietly(tmp_path / "set", tmp_path, streaming=streaming)
    assert sorted(source.class_names) == ["a", "b"] and labels_fit_the_images(source)


@pytest.mark.parametrize("part", ["test", "train-1"])
@pytest.mark.parametrize("names", [["a", "c"], ["a", "b", "B"]])
def test_other_class_names_are_refused(part, names, tmp_path):
    write_labels(tmp_path / "set" / "train-0.parquet", ["a", "b"] * 10, names=["a", "b"])
    write_labels(tmp_path / "set" / f"{part}.parquet", ["a"] * 10, names=names)
    with pytest.raises(InputError, match=rf"set/{part}\.parquet.*label.*set/train-0\.parquet.*{names[-1]}"):
        open_quietly(tmp_path / "set", tmp_path)


@WAYS
@pytest.mark.parametrize(
    ("train", "test"),
    [(["1", "2"], [1, 2]), ([1, 2], ["1", "2"]), ([1, 2], [1.0, 2.0]), (["1", "2"], [2.0, 1.0])],
)
def test_numbers_and_strings_have_one_name(train, test, streaming, tmp_path):
    write_labels(tmp_path / "set" / "train.parquet", train * 10)
    write_labels(tmp_path / "set" / "test.parquet", test * 5, first=100)
    source = open_quietly(tmp_path / "set", tmp_path, streaming=streaming)
    assert source.class_names == ["1", "2"] and labels_fit_the_images(source)
    assert np.bincount(source.test.labels).tolist() == [5, 5]


@pytest.mark.parametrize(
    ("first", "other", "named"),
    [
        ([1, 2], ["1", "two"], r"train-1\.parquet.*two"),
        ([1, 2], [True, False], r"train-1\.parquet.*bool"),
        (["a", "b"], [True, False], r"train-1\.parquet.*bool"),
    ],
)
def test_kinds_of_labels_that_do_not_compare_are_refused(first, other, named, tmp_path):
    write_labels(tmp_path / "set" / "train-0.parquet", first * 10)
    write_labels(tmp_path / "set" / "train-1.parquet", other * 10)
    with pytest.raises(InputError, match=named):
        open_quietly(tmp_path / "set", tmp_path)


@pytest.mark.parametrize(("names", "other"), [(["a", "b"], [0, 1]), (["a", "b"], ["0", "1"])])
def test_positions_without_names_are_refused_beside_names(names, other, tmp_path):
    write_labels(tmp_path / "set" / "train.parquet", names * 10, names=names)
    write_labels(tmp_path / "set" / "test.parquet", other * 10)
    with pytest.raises(InputError, match=r"set/test\.parquet.*label"):
        open_quietly(tmp_path / "set", tmp_path)


def test_one_number_in_two_spellings_is_refused(tmp_path):
    for labels in (["1", "1.0", "2"], ["01", "1", "3"]):
        with pytest.raises(InputError, match=f"column label: .*{labels[0]}.*{labels[1]}"):
            name_classes(labels * 10, "column label", are_numbers=False)
    folder = write_folder(tmp_path / "set", 4)
    rows = [f"{name},{label}" for name, label in zip(("cat/0000.png", "dog/0001.png"), ("x", "1"))]
    (folder / "metadata.csv").write_text("\n".join(["file_name,label", *rows, "cat/0002.png,1.0"]))
    with pytest.raises(InputError, match=r"'1'.*'1\.0'"):
        read_image_folder(folder)


def test_metadata_of_parts_is_compared_by_name(tmp_path):
    for part in ("train", "test"):
        write_folder(tmp_path / "set" / part, 4, names=("x",))
    files = [f"x/{number:04d}.png" for number in range(4)]
    rows = [f"{file},{label}" for file, label in zip(files, ("1.0", "2.0", "1.0", "2.0"))]
    (tmp_path / "set" / "train" / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    lines = [f'{{"file_name": "{file}", "label": {label}}}' for file, label in zip(files, ("2", '"1"', "2.0", "1"))]
    (tmp_path / "set" / "test" / "metadata.jsonl").write_text("\n".join(lines))
    folder = read_image_folder(tmp_path / "set")
    assert folder.class_names == ("1", "2")
    assert [folder.parts[part].paths[-1][-8:] for part in ("train", "test")] == ["0003.png", "0002.png"]


def test_labels_of_metadata_keep_their_zeros_and_may_be_called_na(tmp_path):
    write_folder(tmp_path / "set", 4, names=("x",))
    rows = [f"x/{number:04d}.png,{label}" for number, label in enumerate(("01", "NA", "01", "None"))]
    (tmp_path / "set" / "metadata.csv").write_text("\n".join(["file_name,label", *rows]))
    assert read_image_folder(tmp_path / "set").class_names == ("01", "NA", "None")


@WAYS
@pytest.mark.parametrize("values", [[0, 1] * 10, [0, 2] * 10])
def test_a_class_without_training_images_is_refused(values, streaming, tmp_path):
    names = ["x", "y", "z"]
    write_parquet(tmp_path / "set" / "train.parquet", 20, label=(values, ClassLabel(names=names)))
    write_parquet(tmp_path / "set" / "test.parquet", 3, label=([0, 1, 2], ClassLabel(names=names)))
    missing = ({0, 1, 2} - set(values)).pop()
    with pytest.raises(InputError, match=f"^set: 1 .* 3 .*{names[missing]}.*classes"):
        _ = open_quietly(tmp_path / "set", tmp_path, streaming=streaming).train


def test_a_class_whose_images_are_all_corrupt_is_refused(tmp_path):
    folder = write_folder(tmp_path / "pets", 40, names=("cat", "dog", "eel"))
    for path in (folder / "eel").iterdir():
        path.write_bytes(b"broken")
    with pytest.raises(InputError, match=r"^pets: .*eel"):
        _ = open_quietly(folder, tmp_path, skip_corrupt=True).train


@WAYS
def test_rows_that_are_missing_are_refused(streaming, tmp_path, monkeypatch):
    file = write_parquet(tmp_path / "set" / "train.parquet", 50)
    source = open_quietly(file.parent, tmp_path, streaming=streaming)
    write_parquet(file, 40)  # after the source was opened
    with pytest.raises(InputError, match=r"part train of set: 40 .* 50"):
        _ = source.train


def test_a_data_set_that_was_opened_is_not_opened_with_datasets_again(tmp_path, monkeypatch):
    write_parquet(tmp_path / "set" / "train.parquet", 40, label=(["x", "y"] * 20, "string"))
    before = open_quietly(tmp_path / "set", tmp_path)
    assert len(before.train) == 36
    monkeypatch.setattr(loading, "_builder", lambda *arguments, **options: None)
    again = open_quietly(tmp_path / "set", tmp_path)
    assert (again.fingerprint, again.class_names, len(again.train)) == (before.fingerprint, ["x", "y"], 36)
    write_parquet(tmp_path / "set" / "train.parquet", 20, label=(["x", "z"] * 10, "string"))
    with pytest.raises(TypeError):
        open_quietly(tmp_path / "set", tmp_path)


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["a.parquet", "b.parquet"], {"train": 2}),
        (["train-00000-of-00002.parquet", "train-00001-of-00002.parquet", "test.parquet"], {"train": 2, "test": 1}),
        (["Train.parquet", "VALID_0.parquet"], {"train": 1, "validation": 1}),
        (["data/train/0.parquet", "data/dev/0.parquet"], {"train": 1, "validation": 1}),
        (["cifar_train.parquet", "cifar_test.parquet"], {"train": 1, "test": 1}),
        (["1.parquet", "2.parquet", "eye test.parquet"], {"train": 3}),
        (["trainings.parquet", "contest.parquet"], {"train": 2}),
    ],
)
def test_data_files_are_divided_by_their_names(names, parts, tmp_path):
    assert {part: len(files) for part, files in divide_files(names, tmp_path).items()} == parts


@pytest.mark.parametrize("names", [["train.parquet", "other.parquet"], ["x/0.parquet", "test/0.parquet"]])
def test_files_with_and_without_the_name_of_a_part_are_refused(names, tmp_path):
    with pytest.raises(InputError, match=f"{names[0]}|{names[1]}"):
        divide_files(names, tmp_path)


@WAYS
def test_every_parquet_file_is_read_whatever_its_name(streaming, tmp_path):
    for number, name in enumerate(("1 [a]", "on the train", "eye test")):
        write_parquet(tmp_path / "my [set]" / f"{name}.PARQUET", 20, first=20 * number)
    source = open_quietly(tmp_path / "my [set]", tmp_path, streaming=streaming)
    numbers = [numbers_of(part.images(np.arange(len(part)))) for part in (source.train, source.test)]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(60))
