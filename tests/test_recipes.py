"""The recipes as commands: exit status, output, and the shipped configurations."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from hf_scaling.errors import InputError
from hf_scaling.training import parse_finetune, parse_pretrain, resolve, train
from hf_scaling.training.config import check_processes

ROOT = Path(__file__).parents[1]
RECIPES = ROOT / "recipes"
CONFIGS = sorted((RECIPES / "configs").glob("*.yaml"))
BRIEF = ["--max_steps=4", "--per_device_train_batch_size=16", "--n_pretrain=200"]


def command(*argv, **environment):
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | environment
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, env=environment)


def test_the_printed_next_command_works(tmp_path):
    # Of the two ways to start a recipe, one for each: the launcher takes seconds to import.
    first = command(sys.executable, str(RECIPES / "pretrain.py"), *BRIEF, f"--output_dir={tmp_path / 'out'}")
    assert first.returncode == 0, first.stderr
    lines = dict(line.split(maxsplit=1) for line in first.stdout.splitlines()[-5:])
    assert set(lines) == {"error", "loss", "teacher", "folder", "next"}
    assert lines["folder"].startswith(str(tmp_path / "out"))
    # Time left is shown as `[elapsed<left, rate]`.
    assert "<" in first.stderr
    following = shlex.split(lines["next"])
    assert following[:2] == ["accelerate", "launch"]
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    second = command(*launch, *following[2:], "--max_steps=4", f"--output_dir={tmp_path / 'tuned'}")
    assert second.returncode == 0, second.stderr
    assert "digits" in second.stdout


def test_two_processes_train_the_run_of_one(tmp_path):
    argv = ["--source=digits", "--n_pretrain=200", "--max_steps=6", "--model=vit-30k", "--teacher=none"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    two = command(
        *launch,
        str(RECIPES / "pretrain.py"),
        *argv,
        "--per_device_train_batch_size=16",
        f"--output_dir={tmp_path / 'two'}",
    )
    assert two.returncode == 0, two.stderr
    argv += ["--per_device_train_batch_size=32", f"--output_dir={tmp_path / 'one'}"]
    train(resolve(*parse_pretrain(argv, RECIPES / "configs" / "demo.yaml")))
    from hf_scaling import ResultsTable

    rows = [ResultsTable.load(tmp_path / name).rows()[0] for name in ("one", "two")]
    assert rows[0]["run_id"] == rows[1]["run_id"]
    assert (rows[0]["device"], rows[1]["device"]) == ("cpu", "2 x cpu")
    # Six steps of float32 sums in another order; AdamW's first steps magnify what is near zero.
    assert rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-3)


def test_wrong_input_is_one_line_and_status_2(tmp_path):
    argv = ["--n_pretrain=99999", "--source=digits", f"--output_dir={tmp_path / 'out'}"]
    result = command(sys.executable, str(RECIPES / "pretrain.py"), *argv)
    lines = [line for line in result.stderr.splitlines() if line.startswith("error:")]
    assert result.returncode == 2
    assert len(lines) == 1
    assert "1,297" in lines[0]
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_more_processes_than_the_machine_supports_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4096")
    with pytest.raises(InputError, match="--num_processes 4096"):
        check_processes()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"--num_processes 2.* 1 GPU"):
        check_processes()


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_configuration_parses_and_states_what_to_expect(path):
    parse = parse_finetune if path.stem.startswith("finetune") else parse_pretrain
    text = path.read_text()
    # Mixed precision is asked of accelerate, and needs no GPU to be parsed.
    parse([], path)
    head = "".join(line for line in text.splitlines(keepends=True) if line.startswith("#"))
    for word in ("accelerate launch", "Hardware:", "Time:", "Expected:"):
        assert word in head
    assert all(value is not None for value in yaml.safe_load(text).values())


def test_the_demo_is_what_the_first_command_runs():
    assert {path.stem for path in CONFIGS} >= {
        "demo",
        "fashion_mnist",
        "cifar100",
        "imagenet100",
        "imagenet",
        "finetune",
    }
    fields, _ = parse_pretrain([], RECIPES / "configs" / "demo.yaml")
    assert (fields.source, fields.teacher) == ("glyphs", "vit-30k")


@pytest.mark.parametrize("name", ["cpu", "single_gpu", "ddp_bf16"])
def test_an_accelerate_configuration_loads(name):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(RECIPES / "accelerate" / f"{name}.yaml"))
    assert config.use_cpu == (name == "cpu")
    assert config.mixed_precision == ("bf16" if name == "ddp_bf16" else "no")


def test_recipes_open_with_their_launch_command():
    for name in ("pretrain", "finetune"):
        assert f"accelerate launch recipes/{name}.py" in (RECIPES / f"{name}.py").read_text().split('"""')[1]
