"""The stored study on Tiny-ImageNet: its rows load, its answer is reproduced, its sets can be made."""

import json
import math
import sys
from pathlib import Path

import pytest

from hf_scaling import Grid, LawFit, ResultsTable, find_boundary

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
import tiny_imagenet_folders
from tiny_imagenet import N_CLASSES

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "tests" / "data" / "tiny_imagenet"
EXPECTED = json.loads((TABLE / "expected.json").read_text())


@pytest.fixture(scope="module")
def table():
    return ResultsTable.load(TABLE)


def test_every_planned_run_has_a_row_and_none_is_worse_than_guessing(table):
    frame = table.to_pandas()
    grid = Grid.load(ROOT / "recipes" / "grids" / "tiny_imagenet.yaml")
    assert frame["run_id"].is_unique and len(frame) == len(grid.runs)
    assert set(frame["model"]) <= {*grid.content["models"], "vit-30k"}
    assert frame.groupby(["stage", "downstream"], dropna=False)["recipe"].nunique().max() == 1
    classes = frame["downstream"].fillna(frame["upstream"]).map(N_CLASSES)
    assert (frame["loss"] < classes.map(math.log)).all()
    assert frame["n_eval"].max() <= 5_000
    scratch = frame[frame["n_pretrain"] == 0]
    assert scratch["parent"].isna().all() and (scratch["stage"] == "finetune").all()


@pytest.mark.parametrize("target", EXPECTED)
def test_the_boundary_of_the_page_follows_from_the_stored_rows(table, target):
    line, expected = find_boundary(table, target=target), EXPECTED[target]
    assert line.status == expected["status"]
    for name in ("n_pretrain", "low", "high"):
        assert getattr(line, name) == (expected[name] and pytest.approx(expected[name], rel=0.02))
    for row, wanted in zip(line.difference.to_dict("records"), expected["difference"], strict=True):
        assert row == pytest.approx(wanted, rel=0.02, abs=2e-3)


def test_the_stored_laws_predict_the_rows_they_were_fitted_to(table):
    frame = table.to_pandas().query("stage == 'pretrain'")
    folders = sorted((TABLE / "laws").iterdir())
    assert folders
    for folder in folders:
        rows = frame[frame["arm"] == folder.name.rpartition("_")[2]]
        predicted = LawFit.from_pretrained(folder).predict(rows)["value"]
        assert predicted.to_numpy() == pytest.approx(rows["loss"].to_numpy(), rel=0.1)
        assert "hf_scaling" in (folder / "README.md").read_text()


def test_the_sets_are_made_from_the_original_folders(tmp_path):
    original, classes = tmp_path / "tiny-imagenet-200", {}
    for number, name in enumerate(", ".join(tiny_imagenet_folders.CLASSES.values()).split(", ")):
        classes[f"n{number:08d}"] = name
    lines = []
    for wordnet_id in [*classes, "n99999999"]:
        folder = original / "train" / wordnet_id / "images"
        folder.mkdir(parents=True)
        for image in range(2):
            (folder / f"{wordnet_id}_{image}.JPEG").write_bytes(b"image")
        lines.append(f"val_{wordnet_id}.JPEG\t{wordnet_id}\t0\t0\t62\t62")
    (original / "val" / "images").mkdir(parents=True)
    for line in lines:
        (original / "val" / "images" / line.split("\t")[0]).write_bytes(b"image")
    (original / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (original / "wnids.txt").write_text("\n".join([*classes, "n99999999"]))
    words = [f"{wordnet_id}\t{name}, another name" for wordnet_id, name in classes.items()]
    (original / "words.txt").write_text("\n".join([*words, "n99999999\tgoldfinch"]))
    for _ in range(2):
        counts = tiny_imagenet_folders.write(original, tmp_path / "data")
        assert counts == {"tiny_imagenet_32a": 75, "tiny_imagenet_32b": 75}
    for name in counts:
        for part, n in (("train", 2), ("test", 1)):
            folders = sorted((tmp_path / "data" / name / part).iterdir())
            assert len(folders) == 25 and all(len(list(folder.iterdir())) == n for folder in folders)
    (original / "wnids.txt").write_text("n99999999")
    with pytest.raises(SystemExit, match="no class"):
        tiny_imagenet_folders.write(original, tmp_path / "other")
