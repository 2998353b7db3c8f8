"""The package as a whole: light to import, layered, installable, and the README true."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import hf_scaling
from hf_scaling.cli import command_names
from hf_scaling.errors import InputError

ROOT = Path(__file__).parents[1]
HEAVY = [
    "torch",
    "transformers",
    "datasets",
    "pandas",
    "scipy",
    "huggingface_hub",
    "pyarrow",
    "timm",
    "sympy",
    "jinja2",
]


def python(code, **environment):
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, timeout=120)


def cli(*argv):
    code = f"import sys; from hf_scaling.cli import main; main({list(argv)!r})"
    return python(code)


@pytest.mark.parametrize("name", ["fit_law", "ResultsTable", "RunSpec", "LAWS"])
def test_the_deciding_half_imports_nothing_heavy(name):
    result = python(
        f"import sys, hf_scaling; hf_scaling.{name}; print([module for module in {HEAVY} if module in sys.modules])"
    )
    assert result.stdout.strip() == "[]", result.stderr


def test_training_imports_no_metrics_library():
    # Some versions of transformers import scikit-learn themselves.
    check = "{'evaluate', 'sklearn', 'matplotlib', 'ray'} & (sys.modules.keys() - before)"
    result = python(
        "import sys, transformers.trainer; before = set(sys.modules); "
        f"import hf_scaling.training, hf_scaling.publishing; print({check})"
    )
    assert result.stdout.strip() == "set()", result.stderr


def test_every_public_name_exists():
    for name in hf_scaling.__all__:
        assert getattr(hf_scaling, name) is not None
    with pytest.raises(AttributeError, match="colour"):
        _ = hf_scaling.colour


def test_the_layers_hold():
    result = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--config", "setup.cfg", "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert result.returncode == 0, result.stdout


def test_the_readme_has_its_first_commands():
    blocks = re.findall(r"```(?:bash|sh)\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert "pip install -e . && hf-scaling run recipes/grids/demo.yaml\n" in blocks
    assert "accelerate launch recipes/pretrain.py\n" in blocks
    assert 'pip install -e ".[test]" && pytest\n' in blocks


def test_every_link_of_the_readme_and_the_docs_leads_to_a_file():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} links {target}"


def test_a_wheel_carries_the_templates(tmp_path):
    build = f"from setuptools import build_meta; print(build_meta.build_wheel({str(tmp_path)!r}))"
    copy = tmp_path / "source"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE", "hf_scaling", "model_cards", "recipes"):
        (copy / name).symlink_to(ROOT / name)
    result = subprocess.run([sys.executable, "-c", build], cwd=copy, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(tmp_path / "site")
    shipped = tmp_path / "site" / "hf_scaling"
    for path in [*(ROOT / "model_cards").iterdir(), *(ROOT / "hf_scaling" / "report" / "templates").iterdir()]:
        copy = shipped / path.relative_to(ROOT / "hf_scaling" if "report" in path.parts else ROOT)
        assert copy.read_text(encoding="utf-8") == path.read_text(encoding="utf-8")


def test_help_of_every_command_shows_an_example():
    assert "merge" in command_names()
    general = cli("--help")
    assert general.returncode == 0
    for name in command_names():
        assert name in general.stdout
        result = cli(name, "--help")
        assert result.returncode == 0
        assert f"example: hf-scaling {name}" in " ".join(result.stdout.split())


def test_a_wrong_argument_is_one_line_and_status_2():
    for argv in (["merg"], ["merge"], ["merge", "x", "--out", "y", "--colour"]):
        result = cli(*argv)
        assert result.returncode == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
    assert cli().returncode == 2


def test_merge_writes_the_union_of_tables(tmp_path):
    from hf_scaling.results import ResultsTable, new_row

    for name, ids in (("a", "12"), ("b", "23")):
        ResultsTable([new_row({"run_id": item, "error": 0.5}) for item in ids]).save(tmp_path / name)
    result = cli("merge", str(tmp_path / "a"), str(tmp_path / "b"), "--out", str(tmp_path / "c"))
    assert result.returncode == 0, result.stderr
    assert [item["run_id"] for item in ResultsTable.load(tmp_path / "c").rows()] == ["1", "2", "3"]
    absent = cli("merge", str(tmp_path / "nothing"), "--out", str(tmp_path / "d"))
    assert (absent.returncode, absent.stderr.count("\n")) == (2, 1)
    assert "Traceback" not in absent.stderr
    assert "Traceback" in cli("merge", str(tmp_path / "nothing"), "--out", str(tmp_path / "d"), "--debug").stderr


def test_an_error_is_one_line_with_its_exit_status(capsys):
    import errno

    from hf_scaling.cli import exit_status
    from hf_scaling.errors import RunError

    def fail(error):
        raise error

    wrapped = RuntimeError("PytorchStreamWriter failed writing file")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device", "out/model.safetensors")
    cases = [
        (RunError("the loss became nan at step 7"), 2, "step 7"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), 2, "out/x"),
        (wrapped, 2, "out/model.safetensors"),
        (KeyboardInterrupt(), 130, ""),
        (KeyError("x"), 1, "KeyError"),
        (InputError("two\nlines"), 2, "two lines"),
    ]
    for error, status, words in cases:
        assert exit_status(lambda error=error: fail(error)) == status
        output = capsys.readouterr().err
        assert output.startswith("error: ") and words in output
        assert output.count("\n") == 1
    assert exit_status(lambda: None) == 0
