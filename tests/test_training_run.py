"""A run from its configuration to its checkpoint, its folder and its row."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from hf_scaling import data, models
from hf_scaling.errors import InputError, RunError
from hf_scaling.results import SCHEMA, ResultsTable
from hf_scaling.training import parse_finetune, parse_pretrain, print_result, resolve, train

TINY = ["--model=vit-50k", "--max_steps=12", "--per_device_train_batch_size=32", "--learning_rate=1e-3"]
QUIET = ["--report_to=none", "--disable_tqdm=true", "--logging_strategy=no", "--per_device_eval_batch_size=100"]


def run_pretrain(folder, *argv):
    return train(resolve(*parse_pretrain([*TINY, *QUIET, "--source=digits", f"--output_dir={folder}", *argv], None)))


def run_finetune(folder, *argv):
    command = [*TINY[1:], *QUIET, "--source=digits", f"--output_dir={folder}", *argv]
    return train(resolve(*parse_finetune(command, None)))


@pytest.fixture(scope="module")
def distilled(tmp_path_factory):
    """A distilled run on 300 digits, with its teacher."""
    return run_pretrain(tmp_path_factory.mktemp("runs") / "distilled", "--n_pretrain=300", "--teacher=vit-30k")


@pytest.fixture(scope="module")
def tuned(distilled, tmp_path_factory):
    """The distilled run fine-tuned on 100 digits."""
    return run_finetune(tmp_path_factory.mktemp("runs") / "tuned", f"--checkpoint={distilled[0]}", "--n_finetune=100")


def test_the_row_describes_the_run(distilled):
    _, row = distilled
    assert list(row) == list(SCHEMA)
    expected = {
        "task": "image_classification",
        "stage": "pretrain",
        "arm": "distilled",
        "distillation": "kind=soft alpha=0.5 temperature=2.0 alpha_schedule=constant",
        "model": "vit-50k",
        "n_params": 56_522,
        "n_pretrain": 300,
        "n_finetune": 0,
        "image_size": 28,
        "teacher_n_params": 31_114,
        "teacher_n_pretrain": 300,
        "parent": None,
        "upstream": "digits",
        "downstream": None,
        "eval_split": "test",
        "n_eval": 500,
        "samples_seen": 12 * 32,
        "device": "cpu",
        "precision": "fp32",
        "schema_version": 2,
    }
    assert {name: row[name] for name in expected} == expected
    assert 0 <= row["error"] <= 1
    assert row["loss"] > 0
    assert 0 <= row["agreement"] <= 1
    assert torch.__version__.startswith(json.loads(row["versions"])["torch"])


def test_flops_are_the_students_steps_and_the_teachers_predictions(distilled):
    folder, row = distilled
    student, teacher = (models.load_model(path) for path in (folder, folder / "teacher"))
    assert row["train_flops"] == 3 * 384 * models.forward_flops(student, 28)
    assert row["teacher_flops"] == 384 * models.forward_flops(teacher, 28)


def test_the_teacher_is_a_plain_run_of_the_same_recipe_on_the_same_images(distilled):
    folder, row = distilled
    teacher = ResultsTable.load(folder / "teacher").rows()[0]
    assert (teacher["run_id"], teacher["recipe"]) == (row["teacher"], row["recipe"])
    assert (teacher["arm"], teacher["model"], teacher["teacher"]) == ("plain", "vit-30k", None)
    assert (teacher["error"], teacher["loss"]) == (row["teacher_error"], row["teacher_loss"])
    seen = [load_file(path / "seen.safetensors")["pixel_hashes"] for path in (folder, folder / "teacher")]
    assert torch.equal(*seen)


def test_the_folder_has_every_file(distilled):
    folder, row = distilled
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
        "run.yaml",
        "results",
        "seen.safetensors",
        "teacher",
    }
    assert ResultsTable.load(folder).rows() == [row]
    resolved = yaml.safe_load((folder / "run.yaml").read_text())
    assert (resolved["run_id"], resolved["spec"]["steps"]) == (row["run_id"], 12)
    assert resolved["overlap"] == {"training": 0}


def test_the_card_has_the_scores_and_the_head_of_the_hub(distilled):
    folder, row = distilled
    text = (folder / "README.md").read_text()
    _, head, body = text.split("---\n", 2)
    head = yaml.safe_load(head)
    assert head["pipeline_tag"] == "image-classification"
    metrics = {metric["type"]: metric["value"] for metric in head["model-index"][0]["results"][0]["metrics"]}
    assert metrics == {"accuracy": round(1 - row["error"], 6), "loss": round(row["loss"], 6)}
    assert f"**{row['error']:.4f}**" in body
    assert "$" not in body
    assert str(folder.parent) not in text


@pytest.mark.parametrize("name", ["distilled", "tuned"])
def test_pipeline_on_png_files_gives_exactly_the_error_of_the_row(name, request, tmp_path):
    from PIL import Image
    from transformers import pipeline

    folder, row = request.getfixturevalue(name)
    source = data.open_source("digits", image_size=28)
    paths = []
    for index, image in enumerate(source.test.images(range(500))):
        paths.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(image).save(paths[-1])
    classify = pipeline("image-classification", model=str(folder), top_k=1, device="cpu")
    guesses = [answer[0]["label"] for answer in classify(paths, batch_size=50)]
    wrong = sum(guess != source.class_names[label] for guess, label in zip(guesses, source.test.labels))
    assert wrong / 500 == row["error"]


def test_a_fine_tuned_row_carries_its_parent(distilled, tuned):
    parent, (_, row) = distilled[1], tuned
    inherited = ("arm", "distillation", "model", "teacher", "teacher_n_params", "upstream", "n_pretrain")
    assert {name: row[name] for name in inherited} == {name: parent[name] for name in inherited}
    assert (row["stage"], row["parent"], row["downstream"]) == ("finetune", parent["run_id"], "digits")
    assert (row["n_finetune"], row["agreement"], row["teacher_flops"]) == (100, None, None)


def test_overlap_with_the_upstream_images_is_counted(distilled, tmp_path):
    # As if the parent had been trained on the test images that fine-tuning will be evaluated on.
    from hf_scaling.training.run_folder import RunFolder

    leaky = tmp_path / "leaky"
    shutil.copytree(distilled[0], leaky)
    RunFolder(leaky).write_seen(data.open_source("digits", image_size=28).test.pixel_hashes()[:40])
    folder, _ = run_finetune(tmp_path / "tuned", f"--checkpoint={leaky}", "--n_finetune=50", "--max_steps=1")
    assert yaml.safe_load((folder / "run.yaml").read_text())["overlap"] == {"training": 0, "upstream": 40}
    assert " 40 " in (folder / "README.md").read_text()


def test_training_the_head_alone_leaves_the_rest(distilled, tmp_path):
    argv = [f"--checkpoint={distilled[0]}", "--n_finetune=50", "--train_part=head"]
    folder, row = run_finetune(tmp_path / "head", *argv)
    before, after = (load_file(path / "model.safetensors") for path in (distilled[0], folder))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"timm_model.head.weight", "timm_model.head.bias"}
    assert row["train_flops"] < 384 * 1.1 * models.forward_flops(models.load_model(folder), 28)


def test_a_finished_run_is_not_trained_again(distilled, capsys):
    folder, row = distilled
    before = (folder / "model.safetensors").stat().st_mtime_ns
    again = run_pretrain(folder, "--n_pretrain=300", "--teacher=vit-30k", "--logging_steps=3")
    assert again == (folder, row)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    print_result(folder, row, "next step")
    printed = capsys.readouterr()
    assert str(folder) in printed.err
    for word in (f"{row['error']:.4f}", f"{row['loss']:.4f}", str(folder), row["run_id"], "next step"):
        assert word in printed.out


def test_a_folder_of_another_run_is_refused_with_both_ids(distilled):
    folder, row = distilled
    with pytest.raises(InputError) as caught:
        run_pretrain(folder, "--n_pretrain=301", "--teacher=vit-30k")
    assert row["run_id"] in str(caught.value)
    assert len([word for word in str(caught.value).replace(",", "").replace(":", "").split() if len(word) == 16]) == 2


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(InputError, match=r"README\.md"):
        run_pretrain(tmp_path, "--n_pretrain=100")
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_without_output_dir_the_folder_is_named_by_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = [*TINY, *QUIET, "--source=digits", "--n_pretrain=100", "--max_steps=1"]
    folder, row = train(resolve(*parse_pretrain(argv, None)))
    assert folder == Path("runs") / row["run_id"]


def test_a_trained_checkpoint_is_a_teacher_of_a_smaller_student(distilled, tmp_path):
    argv = ["--n_pretrain=100", f"--teacher={distilled[0]}", "--max_steps=2", "--model=vit-30k"]
    _, row = run_pretrain(tmp_path / "out", *argv)
    assert (row["teacher"], row["teacher_n_params"]) == (distilled[1]["run_id"], 56_522)
    assert row["teacher_loss"] == pytest.approx(distilled[1]["loss"], rel=1e-6)


def test_distillation_that_ends_is_counted(distilled, tmp_path):
    until = ["--alpha_schedule=until_passed", "--eval_strategy=steps", "--eval_steps=2"]
    argv = [
        "--n_pretrain=100",
        f"--teacher={distilled[0] / 'teacher'}",
        "--learning_rate=3e-3",
        "--max_steps=40",
        *until,
    ]
    _, row = run_pretrain(tmp_path / "out", *argv, *until)
    teacher = models.load_model(distilled[0] / "teacher")
    asked = row["teacher_flops"] / models.forward_flops(teacher, 28)
    assert asked % 32 == 0
    assert 0 < asked < row["samples_seen"]


def test_a_validation_part_is_held_out_of_the_largest_subset(tmp_path):
    watched = ["--eval_strategy=steps", "--eval_steps=1", "--max_steps=1"]
    _, row = run_pretrain(tmp_path / "all", *watched)
    assert row["n_pretrain"] == 1297 - 129
    with pytest.raises(InputError, match="1,168"):
        run_pretrain(tmp_path / "more", *watched, "--n_pretrain=1297")


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(RunError, match=r"step \d+.*checkpoint-1"):
        run_pretrain(tmp_path, "--n_pretrain=100", "--learning_rate=1e30", "--max_grad_norm=0", "--save_steps=1")
    assert not (tmp_path / "results").exists()
    assert not (tmp_path / "model.safetensors").exists()
    kept = load_file(tmp_path / "checkpoints" / "checkpoint-1" / "model.safetensors")
    assert all(torch.isfinite(weight).all() for weight in kept.values())


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def no_room(*args, **kwargs):
        raise RuntimeError("unexpected pos 1217216 vs 1217104")

    monkeypatch.setattr(torch, "save", no_room)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    argv = ["--n_pretrain=100", "--save_steps=1"]
    with pytest.raises(OSError, match="No space left on device"):
        run_pretrain(tmp_path, *argv)
    monkeypatch.undo()
    assert run_pretrain(tmp_path, *argv)[1]["n_pretrain"] == 100


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--model=vit-200"], ["vit-200", "vit-200k"]),
        (["--source=/no/such/folder"], ["/no/such/folder"]),
        (["--source=someone/something"], ["someone/something"]),
        (["--n_pretrain=9999999"], ["n_pretrain", "1,297"]),
        (["--n_pretrain=3"], ["n_pretrain", "10"]),
        (["--teacher=vit-31k"], ["vit-31k", "vit-30k"]),
        (["--teacher=someone/something"], ["someone/something"]),
        (["--teacher=."], ["model.safetensors"]),
        (["--augmentation=spin"], ["spin", "flip"]),
        (["--patch_size=5"], ["patch_size 5"]),
        (["--classes=1"], ["classes"]),
        (["--image_size=0"], ["image_size"]),
        (["--teacher=vit-30k", "--alpha_schedule=until_passed"], ["until_passed", "eval_strategy"]),
    ],
)
def test_wrong_input_is_one_line_and_nothing_is_written(tmp_path, argv, named):
    with pytest.raises(InputError) as caught:
        run_pretrain(tmp_path / "out", *argv)
    for word in named:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_teacher_of_other_classes_is_refused(distilled, tmp_path):
    (tmp_path / "five").write_text("0\n1\n2\n3\n4\n")
    with pytest.raises(InputError, match=r"10.* 5"):
        run_pretrain(
            tmp_path / "out", f"--teacher={distilled[0]}", f"--classes={tmp_path / 'five'}", "--n_pretrain=100"
        )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], ["checkpoint"]),
        (["--checkpoint=/no/such"], ["/no/such"]),
        (["--checkpoint=someone/something"], ["someone/something"]),
        (["--checkpoint={distilled}", "--n_finetune=9999"], ["n_finetune", "1,297"]),
    ],
)
def test_wrong_input_of_finetuning_is_one_line(distilled, tmp_path, argv, named):
    with pytest.raises(InputError) as caught:
        run_finetune(tmp_path / "out", *(argument.format(distilled=distilled[0]) for argument in argv))
    for word in named:
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_rows_have_the_upstream_classes_and_the_error_of_each_downstream_class(tmp_path):
    (tmp_path / "five").write_text("1\n3\n4\n7\n8\n")
    parent, upstream = run_pretrain(
        tmp_path / "parent", f"--classes={tmp_path / 'five'}", "--n_pretrain=60", "--max_steps=2"
    )
    assert json.loads(upstream["classes"]) == ["1", "3", "4", "7", "8"]
    assert upstream["class_errors"] is None
    arguments = (f"--checkpoint={parent}", "--n_finetune=60", "--max_steps=4")
    _, bare = run_finetune(tmp_path / "bare", *arguments)
    _, asked = run_finetune(tmp_path / "asked", *arguments, "--class_errors=true")
    assert (asked["run_id"], asked["classes"]) == (bare["run_id"], upstream["classes"])
    assert bare["class_errors"] is None
    errors = json.loads(asked["class_errors"])
    assert list(errors) == [str(digit) for digit in range(10)]
    counts = np.bincount(data.open_source("digits", image_size=28).test.labels)
    assert np.average(list(errors.values()), weights=counts) == pytest.approx(asked["error"])
    assert len(set(errors.values())) > 1
