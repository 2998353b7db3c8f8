"""Images whose labels are listed in CSV files beside them."""

import pandas as pd
import pytest
from PIL import Image

from hf_scaling.data import open_source
from hf_scaling.data.lists import read_images
from hf_scaling.data.scan import FolderScan
from hf_scaling.errors import InputError


@pytest.fixture
def images(tmp_path):
    (tmp_path / "photos" / "more").mkdir(parents=True)
    for number in range(8):
        folder = tmp_path / "photos" / ("more" if number > 5 else "")
        Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")
    return tmp_path


def write_list(path, rows, heads="path,label"):
    path.write_text("\n".join([heads, *rows]) + "\n")


def parts(folder):
    return {
        part: {path: folder.class_names[label] for path, label in zip(files.paths, files.labels)}
        for part, files in folder.parts.items()
    }


def test_lists_named_as_parts_give_parts_and_labels(images):
    write_list(images / "Train.csv", [f"./photos/{n}.png,{'cat' if n % 2 else 'dog'}" for n in range(5)])
    write_list(images / "test.csv", ["photos/more/6.png,cat", "./photos/more/7.png,dog"])
    folder = read_images(FolderScan(images))
    assert parts(folder) == {
        "train": {f"photos/{n}.png": "cat" if n % 2 else "dog" for n in range(5)},
        "test": {"photos/more/6.png": "cat", "photos/more/7.png": "dog"},
    }
    assert any("1 (images that no list names)" in remark for remark in folder.remarks)
    source = open_source(str(images), image_size=8, cache_dir=images / "cache")
    assert source.class_names == ["cat", "dog"] and len(source.train.labels) == 5 and len(source.test.labels) == 2


@pytest.mark.parametrize("form", ["{}.png", "{}"])
@pytest.mark.parametrize("heads, separator, label_column", [("id,breed", ",", "breed"), ("class\tfile", "\t", None)])
def test_names_alone_are_found_in_any_folder(images, form, heads, separator, label_column):
    rows = []
    for number in range(8):
        cells = [form.format(number), "ab"[number % 2]]
        rows.append(separator.join(cells if heads.startswith("id") else reversed(cells)))
    write_list(images / "labels.csv", rows, heads)
    assert sorted(parts(read_images(FolderScan(images), label_column))["train"].values()) == ["a"] * 4 + ["b"] * 4


@pytest.mark.parametrize(
    "row, named",
    [
        ("9.png,cat", "9.png"),
        ("./9.png,cat", "9.png"),
        ("photos/1.png,", "row 3"),
        ("photos/0.png,cat", "photos/0.png"),
    ],
)
def test_rows_that_fit_no_image_are_refused(images, row, named):
    write_list(images / "train.csv", ["photos/0.png,cat", "photos/2.png,dog", row])
    with pytest.raises(InputError) as caught:
        read_images(FolderScan(images))
    assert named in str(caught.value) and "train.csv" in str(caught.value) and "row 3" in str(caught.value)


def test_a_name_of_two_images_is_not_guessed(images):
    Image.new("RGB", (8, 8)).save(images / "photos" / "more" / "1.png")
    write_list(images / "train.csv", ["0.png,cat", "1.png,dog"])
    with pytest.raises(InputError, match="row 2"):
        read_images(FolderScan(images))


def test_an_image_of_two_parts_is_refused(images):
    write_list(images / "train.csv", ["0.png,cat", "1.png,dog"])
    write_list(images / "val.csv", ["1.png,dog"])
    with pytest.raises(InputError, match="row 1"):
        read_images(FolderScan(images))


def test_two_lists_of_one_part_are_refused(images):
    for name in ("train.csv", "all.csv"):
        write_list(images / name, ["0.png,cat", "1.png,dog"])
    with pytest.raises(InputError, match=r"all.csv and train.csv"):
        read_images(FolderScan(images))


def test_class_folders_win_over_a_list(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for number in range(2):
            Image.new("RGB", (8, 8), (number, len(name), 0)).save(tmp_path / name / f"{number}.png")
    write_list(tmp_path / "train.csv", ["cat/0.png,x", "dog/0.png,y"])
    folder = read_images(FolderScan(tmp_path))
    assert folder.class_names == ("cat", "dog")
    assert any("1 .csv" in remark for remark in folder.remarks)


def test_a_table_that_names_no_image_leaves_the_first_error(images):
    write_list(images / "train.csv", ["elsewhere.png,cat"])
    with pytest.raises(InputError, match="one class"):
        read_images(FolderScan(images))


def test_a_list_that_begins_with_a_missing_image_is_said(images):
    write_list(images / "train.csv", ["photos/90.png,cat", "photos/0.png,cat", "photos/1.png,dog"])
    with pytest.raises(InputError, match=r"row 1.*photos/90\.png"):
        read_images(FolderScan(images))


def labelled(form="photos/{}.png"):
    """Rows of the images of `photos`, of two classes by turns."""
    return [f"{form.format(n) if n < 6 else f'photos/more/{n}.png'},{'cat' if n % 2 else 'dog'}" for n in range(8)]


def as_windows(row):
    return row.replace("/", "\\")


@pytest.mark.parametrize(
    ("heads", "change", "encoding"),
    [
        ("path, label", lambda row: row.replace(",", ", "), "utf-8"),
        ("Path,LABEL", str, "utf-8-sig"),
        ("path,label", as_windows, "utf-16"),
        ("path,label", lambda row: row.replace("cat", "bébé"), "cp1252"),
    ],
)
def test_lists_of_other_programs_are_read(images, heads, change, encoding):
    text = "\n".join([heads, *map(change, labelled())])
    (images / "list.csv").write_bytes(text.encode(encoding))
    named = set(parts(read_images(FolderScan(images)))["train"].values())
    assert named == {"dog", "bébé" if encoding == "cp1252" else "cat"}


@pytest.mark.parametrize("column", ["split", "Set"])
def test_a_column_of_a_list_gives_the_parts(images, column):
    rows = [f"{row},{'Test' if n > 5 else 'train'}" for n, row in enumerate(labelled())]
    write_list(images / "labels.csv", rows, f"path,label,{column}")
    folder = read_images(FolderScan(images))
    assert {part: len(files) for part, files in parts(folder).items()} == {"train": 6, "test": 2}


@pytest.mark.parametrize(("column", "values"), [("split", ["fast", "slow"]), ("fold", ["1", "2"])])
def test_other_columns_give_no_parts(images, column, values):
    write_list(
        images / "labels.csv", [f"{row},{values[n % 2]}" for n, row in enumerate(labelled())], f"path,label,{column}"
    )
    assert list(parts(read_images(FolderScan(images)))) == ["train"]


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_list_with_whole_numbers_gives_classes(images, suffix):
    rows = [(f"{n}.png", n % 2) for n in range(8)]
    if suffix == "parquet":
        pd.DataFrame(rows, columns=["image", "label"]).to_parquet(images / "train.parquet")
    else:
        write_list(images / "train.csv", [f"{file},{label}" for file, label in rows])
    assert read_images(FolderScan(images)).class_names == ("0", "1")


@pytest.mark.parametrize(
    ("heads", "rows", "named"),
    [
        ("photos/0.png,dog", labelled()[1:], "first line"),
        ("image,cat,dog", [f"{n}.png,{n % 2}.0,{1 - n % 2}.0" for n in range(8)], "one column"),
        ("image,breed", [f"{n}.png,{'ab'[n % 2]}" for n in range(8)], "label_column, one of breed"),
    ],
)
def test_a_list_without_a_label_column_is_refused(images, heads, rows, named):
    write_list(images / "labels.csv", rows, heads)
    with pytest.raises(InputError, match=named):
        read_images(FolderScan(images))


@pytest.fixture
def halves(tmp_path):
    """Images of two folders that are no classes."""
    for number in range(8):
        (tmp_path / f"part_{number // 4}").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / f"part_{number // 4}" / f"{number}.png")
    return tmp_path


@pytest.mark.parametrize("form", ["{}", "{}.png"])
def test_a_list_whose_labels_are_not_the_folders_is_refused(halves, form):
    write_list(halves / "labels.csv", [f"{form.format(n)},{'ab'[n % 2]}" for n in range(8)])
    with pytest.raises(InputError, match=r"labels\.csv.*part_0"):
        read_images(FolderScan(halves))
    assert read_images(FolderScan(halves), "label").class_names == ("a", "b")


@pytest.mark.parametrize("labels", [("part_0", "part_1"), ("benign", "malignant")])
def test_a_list_that_agrees_with_the_folders_is_unused(halves, labels):
    write_list(halves / "labels.csv", [f"{n}.png,{labels[n // 4]}" for n in range(8)])
    assert read_images(FolderScan(halves)).class_names == ("part_0", "part_1")


@pytest.mark.parametrize("column", ["dx", "breed"])
def test_a_list_without_a_label_column_beside_classes_is_reported(halves, column):
    write_list(halves / "facts.csv", [f"{n}.png,{'ab'[n % 2]}" for n in range(8)], f"image,{column}")
    folder = read_images(FolderScan(halves))
    assert sum("facts.csv" in remark and column in remark for remark in folder.remarks) == 1
    assert read_images(FolderScan(halves), column).class_names == ("a", "b")
