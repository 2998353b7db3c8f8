"""Folders of images: which files are images, which part and class they are of, and what is said of the rest."""

import json
import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from hf_scaling.data import hashes, scan
from hf_scaling.data.folders import read_image_folder
from hf_scaling.data.hashes import hash_contents
from hf_scaling.errors import InputError


def write(root, *paths):
    """Write small distinct images (or, for other suffixes, a text) at `paths`; "name*3" writes three."""
    for pattern in paths:
        path, _, count = pattern.partition("*")
        for number in range(int(count or 1)):
            file = root / (path.format(number) if count else path)
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix.lower() in scan.image_suffixes():
                grey = sum(map(ord, str(file.relative_to(root)))) % 256
                kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".avif": "AVIF"}.get(file.suffix.lower(), "PNG")
                Image.new("RGB", (8, 8), (grey, number, 0)).save(file, kind)
            else:
                file.write_text("x")
    return root


def counts(folder, part="train"):
    """Class name to number of images of a part."""
    labels = folder.parts[part].labels
    return {name: int((labels == number).sum()) for number, name in enumerate(folder.class_names)}


def refusal(root, **options):
    with pytest.raises(InputError) as caught:
        read_image_folder(root, **options)
    assert "\n" not in str(caught.value) and str(root) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("train", ["train", "Train", "TRAINING", "trainset"])
@pytest.mark.parametrize("test", ["test", "Test", "testing", "eval", "val", "Validation", "dev"])
def test_parts_are_known_by_their_names_in_any_case(tmp_path, train, test):
    write(
        tmp_path, f"{train}/cat/{{}}.png*4", f"{train}/dog/{{}}.png*3", f"{test}/cat/{{}}.png*2", f"{test}/dog/a.png"
    )
    folder = read_image_folder(tmp_path)
    assert counts(folder) == {"cat": 4, "dog": 3}
    assert counts(folder, folder.evaluation_part()) == {"cat": 2, "dog": 1}
    assert folder.remarks == ()


def test_a_third_part_is_named_as_unused(tmp_path):
    write(tmp_path, *(f"{part}/{name}/{{}}.png*2" for part in ("train", "val", "test") for name in "ab"))
    folder = read_image_folder(tmp_path)
    assert folder.evaluation_part() == "test"
    assert len(folder.remarks) == 1 and "validation" in folder.remarks[0] and "4" in folder.remarks[0]


@pytest.mark.parametrize(
    "classes", [("bus", "train"), ("test", "tube"), ("dev", "prod", "staging"), ("validation", "x")]
)
def test_one_part_name_beside_other_folders_is_a_class(tmp_path, classes):
    write(tmp_path, *(f"{name}/{{}}.png*2" for name in classes))
    folder = read_image_folder(tmp_path)
    assert counts(folder) == dict.fromkeys(sorted(classes), 2)
    assert list(folder.parts) == ["train"]


def test_two_part_names_beside_classes_are_refused(tmp_path):
    write(tmp_path, "train/cat/a.png", "test/cat/a.png", "dog/a.png")
    line = refusal(tmp_path)
    assert "train" in line and "test" in line and "dog" in line


def test_folders_without_images_beside_parts_are_named(tmp_path):
    write(tmp_path, *(f"{part}/{name}/{{}}.png*2" for part in ("train", "test") for name in "ab"), "docs/readme.txt")
    folder = read_image_folder(tmp_path)
    assert set(folder.parts) == {"train", "test"}
    assert any("docs" in line for line in folder.remarks) and any(".txt" in line for line in folder.remarks)


@pytest.mark.parametrize("deep", ["cat/monday/{}.png*3", "cat/2021/05/{}.png*3", "cat/train/{}.png*3"])
def test_what_lies_deeper_belongs_to_the_first_folder(tmp_path, deep):
    write(tmp_path, deep, "cat/a.png", "dog/x/y/z/{}.png*2")
    assert counts(read_image_folder(tmp_path)) == {"cat": 4, "dog": 2}


def test_what_lies_deeper_in_a_part_belongs_to_the_class(tmp_path):
    write(tmp_path, "train/n01/images/{}.JPEG*3", "train/n02/images/{}.JPEG*2", "test/n01/a/b/{}.JPEG*2")
    folder = read_image_folder(tmp_path)
    assert counts(folder) == {"n01": 3, "n02": 2} and counts(folder, "test") == {"n01": 2, "n02": 0}


@pytest.mark.parametrize("wrap", ["pets/", "a/b/", "data set (1)/"])
def test_a_wrapping_folder_is_entered_and_named(tmp_path, wrap):
    write(tmp_path, f"{wrap}cat/{{}}.png*2", f"{wrap}dog/{{}}.png*2", "readme.md")
    folder = read_image_folder(tmp_path)
    assert folder.class_names == ("cat", "dog") and folder.root == tmp_path / wrap
    assert any(wrap.rstrip("/").split("/")[-1] in line for line in folder.remarks)
    assert any("1 .md" in line for line in folder.remarks)


def test_a_wrapping_folder_may_hold_parts(tmp_path):
    write(tmp_path, *(f"set/{part}/{name}/{{}}.png*2" for part in ("Train", "Test") for name in "ab"))
    assert set(read_image_folder(tmp_path).parts) == {"train", "test"}


def test_one_class_is_refused(tmp_path):
    assert "cat" in refusal(write(tmp_path / "flat", "cat/{}.png*3"))
    assert "cat" in refusal(write(tmp_path / "parts", "train/cat/{}.png*3", "test/cat/{}.png*3"))


def test_a_class_only_in_the_test_part_is_refused(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/a.png", "test/cat/a.png", "test/Dog/a.png")
    assert "Dog" in refusal(tmp_path)


def test_a_class_that_the_test_part_lacks_is_no_fault(tmp_path):
    write(tmp_path, "train/cat/a.png", "train/dog/a.png", "test/cat/a.png")
    assert counts(read_image_folder(tmp_path), "test") == {"cat": 1, "dog": 0}


@pytest.mark.parametrize(
    "paths", [["train/{}.png*3", "test/{}.png*3"], ["train/cat/a.png", "train/dog/a.png", "test/{}.png*2"]]
)
def test_a_part_without_class_folders_is_refused(tmp_path, paths):
    assert "metadata.csv" in refusal(write(tmp_path, *paths))


def test_a_folder_of_loose_images_is_refused(tmp_path):
    assert "metadata.csv" in refusal(write(tmp_path, "{}.png*5"))


def test_a_folder_without_images_is_refused(tmp_path):
    assert "2 .txt" in refusal(write(tmp_path, "cat/a.txt", "dog/b.txt"))


def test_a_missing_training_part_is_refused(tmp_path):
    assert "test" in refusal(write(tmp_path, *(f"{part}/{name}/a.png" for part in ("val", "test") for name in "ab")))


def test_two_folders_of_one_part_are_refused(tmp_path):
    line = refusal(write(tmp_path, *(f"{part}/{name}/a.png" for part in ("train", "Training") for name in "ab")))
    assert "train" in line and "Training" in line


def test_every_file_that_is_not_used_is_counted(tmp_path):
    write(tmp_path, "cat/{}.png*3", "dog/{}.png*3", "cat/{}.txt*12", "dog/{}.heicx*2", "cat/a.npy", "labels", "b.png")
    write(
        tmp_path, "images.zip", "cat/.hidden.png", ".git/x/a.png", "__MACOSX/cat/a.png", "cat/Thumbs.db", "empty/a.csv"
    )
    folder = read_image_folder(tmp_path)
    text = " ".join(folder.remarks)
    assert counts(folder) == {"cat": 3, "dog": 3}
    for said in (
        "12 .txt",
        "2 .heicx",
        "1 .npy",
        "1 (without a suffix)",
        "1 .zip (unpack it)",
        "beside the class folders",
    ):
        assert said in text
    assert "empty" in text and "19 files" in text
    assert "Thumbs" not in text and ".hidden" not in text and "MACOSX" not in text


def test_suffixes_count_in_any_case_and_as_pillow_reads_them(tmp_path):
    write(tmp_path, "cat/a.PNG", "cat/b.Jpeg", "cat/c.JPG", "dog/a.avif", "dog/b.webp.png")
    assert counts(read_image_folder(tmp_path)) == {"cat": 3, "dog": 2}
    assert {".webp", ".tif", ".bmp", ".gif", ".avif", ".ppm"} <= scan.image_suffixes()
    assert not {".pdf", ".mpg", ".h5"} & scan.image_suffixes()


@pytest.mark.parametrize("name", ["a [1]", "b(2)", "c d", "été", "日本", "100%", "x*y", "{0}", "#1"])
def test_unusual_names_are_names(tmp_path, name):
    for number in range(3):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name / f"{name} {number}.png")
    write(tmp_path, "zz/{}.png*2")
    assert counts(read_image_folder(tmp_path))[name] == 3


def test_words_in_file_names_mean_nothing(tmp_path):
    write(tmp_path, "cat/{}.png*3", "cat/on the train.png", "dog/eye test.png", "dog/dev-1.png", "dog/validation.png")
    folder = read_image_folder(tmp_path)
    assert counts(folder) == {"cat": 4, "dog": 3} and list(folder.parts) == ["train"]


def test_one_class_in_two_spellings_of_unicode_is_one(tmp_path):
    write(tmp_path, "train/e\u0301te\u0301/a.png", "train/b/a.png", "test/\u00e9t\u00e9/a.png")
    assert counts(read_image_folder(tmp_path), "test") == {"b": 0, "\u00e9t\u00e9": 1}


def test_links_are_followed(tmp_path):
    elsewhere = write(tmp_path / "elsewhere", "dogs/{}.png*2", "a.png", "deep/er/{}.png*2")
    root = write(tmp_path / "pets", "cat/{}.png*2")
    (root / "dog").symlink_to(elsewhere / "dogs")
    (root / "cat" / "linked.png").symlink_to(elsewhere / "a.png")
    (root / "cat" / "more").symlink_to(elsewhere / "deep")
    (root / "cat" / "gone.png").symlink_to(elsewhere / "nothing.png")
    folder = read_image_folder(root)
    assert counts(folder) == {"cat": 5, "dog": 2}
    assert any("1 (broken links)" in line for line in folder.remarks)


@pytest.mark.parametrize("target", ["pets", "pets/cat", "."])
def test_a_cycle_of_links_is_refused(tmp_path, target):
    root = write(tmp_path / "pets", "cat/{}.png*2", "dog/{}.png*2")
    (root / "cat" / "loop").symlink_to(tmp_path / target)
    assert "loop" in refusal(root)


def test_a_cycle_through_two_links_is_refused(tmp_path):
    root = write(tmp_path / "pets", "cat/{}.png*2", "dog/{}.png*2")
    (root / "cat" / "other").symlink_to(root / "dog")
    (root / "dog" / "other").symlink_to(root / "cat")
    assert "other" in refusal(root)


def write_metadata(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        path.write_text("\n".join([",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]) + "\n")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_gives_the_labels(tmp_path, name):
    write(tmp_path, "{}.png*6", "notes.txt")
    rows = [{"file_name": f"{number}.png", "label": ("red", "blue")[number % 2]} for number in range(5)]
    write_metadata(tmp_path / name, rows)
    folder = read_image_folder(tmp_path)
    assert counts(folder) == {"blue": 2, "red": 3}
    assert any("1 (images without a row of metadata)" in line for line in folder.remarks)


def test_metadata_of_each_part_and_a_named_column(tmp_path):
    for part, n in (("train", 4), ("test", 2)):
        write(tmp_path, f"{part}/{{}}.png*{n}")
        rows = [{"file_name": f"{i}.png", "species": i % 2, "text": "a"} for i in range(n)]
        write_metadata(tmp_path / part / "metadata.csv", rows)
    folder = read_image_folder(tmp_path, label_column="species")
    assert counts(folder) == {"0": 2, "1": 2} and counts(folder, "test") == {"0": 1, "1": 1}
    assert "specie" in refusal(tmp_path, label_column="specie")


def test_metadata_without_labels_leaves_the_class_folders(tmp_path):
    write(tmp_path, "cat/{}.png*2", "dog/{}.png*2")
    write_metadata(tmp_path / "metadata.csv", [{"file_name": "cat/0.png", "caption": "a"}])
    folder = read_image_folder(tmp_path)
    assert counts(folder) == {"cat": 2, "dog": 2} and any("metadata.csv" in line for line in folder.remarks)


@pytest.mark.parametrize(
    ("rows", "named"),
    [
        ([{"file_name": "9.png", "label": "a"}], "9.png"),
        ([{"file_name": "0.png", "label": "a"}, {"file_name": "0.png", "label": "b"}], "row 2"),
        ([{"file_name": "0.png", "label": "a"}, {"file_name": "1.png", "label": ""}], "row 2"),
        ([{"name": "0.png", "label": "a"}], "file_name"),
    ],
)
def test_metadata_that_does_not_fit_its_images_is_refused(tmp_path, rows, named):
    write(tmp_path, "{}.png*3")
    write_metadata(tmp_path / "metadata.csv", rows)
    assert named in refusal(tmp_path)


def test_the_order_is_by_class_and_path_whatever_the_disk_says(tmp_path):
    write(tmp_path, "b/2.png", "a/z.png", "b/1.png", "a/y/1.png", "a/b.png")
    folder = read_image_folder(tmp_path)
    assert folder.parts["train"].paths == ("a/b.png", "a/y/1.png", "a/z.png", "b/1.png", "b/2.png")
    assert folder.parts["train"].labels.tolist() == [0, 0, 0, 1, 1]


def test_the_hash_is_of_contents_classes_and_order_not_of_paths(tmp_path):
    first = write(tmp_path / "first", "cat/{}.png*3", "dog/{}.png*3")
    os.rename(first, tmp_path / "second")
    second, memory = tmp_path / "second", tmp_path / "memory"
    before = hash_contents(read_image_folder(second), memory)
    assert hash_contents(read_image_folder(second), tmp_path / "other") == before
    os.rename(second / "cat" / "2.png", second / "cat" / "3.png")
    assert hash_contents(read_image_folder(second), memory) == before
    Image.new("RGB", (8, 8), (9, 9, 9)).save(second / "cat" / "3.png")
    changed = hash_contents(read_image_folder(second), memory)
    assert changed != before
    os.rename(second / "cat", second / "cow")
    assert hash_contents(read_image_folder(second), memory) not in (before, changed)


def test_unchanged_files_are_not_read_again(tmp_path, monkeypatch):
    write(tmp_path / "pets", "cat/{}.png*3", "dog/{}.png*3")
    read, memory = [], tmp_path / "memory"
    honest = hashes._read
    monkeypatch.setattr(hashes, "_read", lambda path, *rest: read.append(path) or honest(path, *rest))
    first = hash_contents(read_image_folder(tmp_path / "pets"), memory)
    assert len(read) == 6 and hash_contents(read_image_folder(tmp_path / "pets"), memory) == first and len(read) == 6
    write(tmp_path / "pets", "dog/new.png")
    hash_contents(read_image_folder(tmp_path / "pets"), memory)
    assert read[6:] == ["dog/new.png"]
    next(memory.glob("*.npz")).write_bytes(b"damaged")
    write(tmp_path / "pets", "dog/newer.png")
    hash_contents(read_image_folder(tmp_path / "pets"), memory)
    assert len(read) == 7 + 8


def test_a_file_that_grows_is_read_whole(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"x" * 100)
    base = os.open(tmp_path, os.O_RDONLY)
    assert [len(hashes._read("a", size, base)) for size in (100, 10, 99, 1000, 0)] == [100] * 5
    os.close(base)


def test_labels_and_stamps_have_the_documented_types(tmp_path):
    files = read_image_folder(write(tmp_path, "cat/{}.png*2", "dog/{}.png*2")).parts["train"]
    assert files.labels.dtype == np.int64 and files.stamps.shape == (4, 3) and files.stamps.dtype == np.int64


@pytest.mark.parametrize(
    ("train", "test"),
    [("training_set", "test_set"), ("TrainImages", "ValImages2"), ("seg_train/seg_train", "seg_test/x")],
)
def test_folders_that_look_like_parts_are_no_classes(tmp_path, train, test):
    write(tmp_path, *(f"{part}/{name}/{{}}.png*3" for part in (train, test) for name in ("cat", "dog")))
    line = refusal(tmp_path)
    assert train.partition("/")[0] in line and test.partition("/")[0] in line and "rename" in line


def test_a_third_folder_does_not_hide_parts(tmp_path):
    write(
        tmp_path, *(f"seg_{part}/{name}/{{}}.png*2" for part in ("train", "test") for name in "ab"), "seg_pred/0.png"
    )
    assert "seg_train to train" in refusal(tmp_path)


@pytest.mark.parametrize(
    "classes", [("test_tube", "train_station", "bus"), ("trainer", "tester"), ("contest", "strain")]
)
def test_classes_can_have_names_that_hold_the_names_of_parts(tmp_path, classes):
    write(tmp_path, *(f"{name}/{{}}.png*2" for name in classes))
    assert counts(read_image_folder(tmp_path)) == dict.fromkeys(sorted(classes), 2)


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "VAL")])
def test_parts_below_the_classes_are_refused(tmp_path, train, test):
    write(tmp_path, *(f"{name}/{part}/{{}}.png*2" for name in ("cat", "dog") for part in (train, test)))
    assert all(name in refusal(tmp_path) for name in ("cat", "dog", train, test))


@pytest.mark.parametrize("tops", [("fold1", "fold2"), ("monday", "tuesday", "friday")])
def test_classes_that_hold_the_same_folders_are_reported(tmp_path, tops):
    write(tmp_path, *(f"{top}/{name}/{{}}.png*2" for top in tops for name in ("cat", "dog")))
    folder = read_image_folder(tmp_path)
    assert folder.class_names == tuple(sorted(tops))
    assert len(folder.remarks) == 1 and "cat, dog" in folder.remarks[0]


@pytest.mark.parametrize("name", ["café", "Ångström"])
def test_one_name_in_two_unicode_forms_is_one_class(tmp_path, name):
    forms = [unicodedata.normalize(form, name) for form in ("NFC", "NFD")]
    write(tmp_path, *(f"{form}/{number}{{}}.png*2" for number, form in enumerate(forms)), "dog/{}.png*3")
    assert counts(read_image_folder(tmp_path)) == {forms[0]: 4, "dog": 3}


@pytest.mark.parametrize("names", [("Cat", "cat"), ("sea lion", "sealion")])
def test_classes_that_differ_in_case_or_spaces_alone_are_reported(tmp_path, names):
    write(tmp_path, *(f"{name}/{{}}.png*2" for name in (*names, "dog")))
    folder = read_image_folder(tmp_path)
    assert len(folder.class_names) == 3
    assert len(folder.remarks) == 1 and all(repr(name) in folder.remarks[0] for name in names)


@pytest.mark.parametrize("file", ["Icon\r", "notes.txt"])
def test_files_below_a_folder_that_is_entered_are_counted_once(tmp_path, file):
    write(tmp_path, "zip/pets/cat/0.png", "zip/pets/dog/1.png", f"zip/pets/{file}", "zip/read.pdf")
    assert any(": 2 files not read" in remark for remark in read_image_folder(tmp_path / "zip").remarks)


@pytest.mark.parametrize("label", [True, 1.5, [1, 2], {"id": 1}, "", "  ", None])
def test_a_label_that_is_no_name_is_refused_with_its_row(tmp_path, label):
    write(tmp_path, "{}.png*4")
    rows = [{"file_name": f"{n}.png", "label": label if n == 2 else "ab"[n % 2]} for n in range(4)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert "metadata.jsonl: row 3" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_spaces_around_a_label_do_not_count(tmp_path, suffix):
    write(tmp_path, "{}.png*4")
    labels = ["cat", " cat", "dog ", "dog"]
    rows = [{"file_name": f"{n}.png", "label": label} for n, label in enumerate(labels)]
    lines = ["file_name,label", *(f"{row['file_name']},{row['label']}" for row in rows)]
    (tmp_path / f"metadata.{suffix}").write_text("\n".join(lines if suffix == "csv" else map(json.dumps, rows)))
    assert counts(read_image_folder(tmp_path)) == {"cat": 2, "dog": 2}


@pytest.mark.parametrize(("column", "names"), [("split", ("train", "test")), ("Partition", ("TRAIN", "Valid"))])
def test_a_column_of_the_metadata_gives_the_parts(tmp_path, column, names):
    write(tmp_path, "{}.png*6")
    rows = [{"file_name": f"{n}.png", "label": "ab"[n % 2], column: names[n > 3]} for n in range(6)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = read_image_folder(tmp_path)
    assert counts(folder) == {"a": 2, "b": 2} and counts(folder, folder.evaluation_part()) == {"a": 1, "b": 1}


@pytest.mark.parametrize("part", ["test", "val"])
def test_metadata_of_the_training_part_alone_is_refused(tmp_path, part):
    write(tmp_path, *(f"{top}/{name}/{{}}.png*2" for top in ("train", part) for name in "ab"))
    rows = ["file_name,label", *(f"{name}/{n}.png,{n}" for name in "ab" for n in range(2))]
    (tmp_path / "train" / "metadata.csv").write_text("\n".join(rows))
    assert scan.PARTS[part] in refusal(tmp_path) and "metadata" in refusal(tmp_path)


@pytest.mark.parametrize("suffix", ["mpo", "MPO"])
def test_photographs_of_stereo_cameras_are_images(tmp_path, suffix):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        images = [Image.new("RGB", (8, 8), (grey, 0, 0)) for grey in (10, 200)]
        images[0].save(tmp_path / name / f"0.{suffix}", "MPO", save_all=True, append_images=images[1:])
    assert counts(read_image_folder(tmp_path)) == {"cat": 1, "dog": 1}
