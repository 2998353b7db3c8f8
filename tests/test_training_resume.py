"""A killed run, started again, ends as an undisturbed one, bit by bit."""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hf_scaling.results import ResultsTable, same_values
from hf_scaling.training import run_folder as folders

SUPPORT = Path(__file__).parent / "support"
RECIPES = Path(__file__).parents[1] / "recipes"
SHORT = ["--max_steps=30", "--per_device_train_batch_size=32", "--save_steps=5", "--learning_rate=1e-3"]
SMALL = ["--source=digits", "--report_to=none", "--logging_steps=10", "--augmentation=shift", *SHORT]
PRETRAIN = ["--model=vit-50k", "--teacher=vit-30k", "--n_pretrain=300", *SMALL]


def assert_same(folder):
    one, other = folder / "undisturbed", folder / "killed"
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert same_values(ResultsTable.load(one).rows()[0], ResultsTable.load(other).rows()[0])
    assert {path.name for path in one.iterdir()} == {path.name for path in other.iterdir()}


def test_a_killed_run_ends_as_an_undisturbed_one(tmp_path):
    first, tuned = tmp_path / "first", tmp_path / "tuned"
    finetune = [f"--checkpoint={first / 'killed'}", "--n_finetune=100", "--averaging=ema:0.9", *SMALL]
    # While the teacher's first checkpoint is being written, and while the student trains.
    runs = [["pretrain", str(first), ["save", 0.6], PRETRAIN], ["finetune", str(tuned), ["save"], finetune]]
    (tmp_path / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, str(SUPPORT / "kills.py"), str(tmp_path / "runs.json")]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    of_pretraining, of_tuning = json.loads(process.stdout.splitlines()[-1])
    assert of_pretraining >= 1 and of_tuning == 1
    assert_same(first)
    assert_same(tuned)


def test_an_incomplete_checkpoint_is_not_resumed(tmp_path):
    for step in (9, 10, 100):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "model.safetensors").write_bytes(b"x" * step)
        folders.mark_complete(checkpoint, {"seconds": step})
    assert folders.newest_complete(tmp_path).name == "checkpoint-100"
    (tmp_path / "checkpoint-100" / "model.safetensors").write_bytes(b"x")
    (tmp_path / "checkpoint-200").mkdir()
    assert folders.newest_complete(tmp_path).name == "checkpoint-10"
    assert folders.read_notes(tmp_path / "checkpoint-10") == {"seconds": 10}
    folders.remove_incomplete(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-9"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pretrain", "finetune"])
def test_five_random_kills_of_the_command(tmp_path, kind):
    argv = ["--model=vit-200k", "--teacher=vit-30k", "--n_pretrain=1000", *SMALL, "--max_steps=200"]
    if kind == "finetune":
        run_command("pretrain", tmp_path / "parent", [*argv, "--max_steps=20"])
        argv = [f"--checkpoint={tmp_path / 'parent'}", "--n_finetune=500", *SMALL, "--max_steps=200"]
    started = time.monotonic()
    run_command(kind, tmp_path / "undisturbed", argv)
    duration = time.monotonic() - started
    draw = random.Random(0)
    for moment in sorted(draw.uniform(0, duration) for _ in range(5)):
        process = start_command(kind, tmp_path / "killed", argv)
        time.sleep(moment)
        process.kill()
        process.wait()
    run_command(kind, tmp_path / "killed", argv)
    assert_same(tmp_path)


def start_command(kind, folder, argv):
    command = [sys.executable, str(RECIPES / f"{kind}.py"), *argv, f"--output_dir={folder}"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run_command(kind, folder, argv):
    assert start_command(kind, folder, argv).wait() == 0
