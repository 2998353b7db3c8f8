"""Every command and Python block of README and docs: parsed by the real parser, and run where it does not train.

A block or command that is not run is listed below with the reason; one that is neither run nor listed fails.
"""

import ast
import contextlib
import io
import itertools
import json
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import _build_parser, main

sys.path.insert(0, str(Path(__file__).parent / "support"))
from studies import rows

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Pages whose Python blocks, in order, share one namespace and run in the folder that `workplace` makes.
RUN = ("README.md", "boundary.md", "index.md", "tables.md")
RUN_SLOWLY = ("fitting.md", "planning.md", "report.md", "suggest.md")
# Blocks that are compiled only, by page and number of the Python block in it.
NOT_RUN = {
    ("data.md", 1): "folders of one's own",
    ("distillation.md", 0): "trains; test_distillation_docs.py runs it",
    ("distillation.md", 1): "loads a teacher of one's own",
    ("fitting.md", 1): "curves of several models, which the table of the workplace does not have",
    ("fitting.md", 2): "writes to the Hub",
    ("index.md", 1): "loads a checkpoint of one's own",
    ("hub.md", 0): "writes to the Hub",
    ("hub.md", 1): "writes to the Hub",
    ("hub.md", 2): "writes to the Hub",
    ("models.md", 0): "downloads a model",
    ("runner.md", 0): "trains the demo",
    ("scores.md", 0): "loads checkpoints of one's own",
    ("scores.md", 1): "needs a study of many subsets of classes",
    ("study.md", 0): "trains on images of one's own",
    ("training.md", 0): "trains",
}
#: Commands that are run in the workplace; all others of hf-scaling are parsed only, since they train or need the Hub.
RUNNING = ("boundary", "compare", "fit", "laws")
RUNNING_SLOWLY = ("need", "plan", "predict", "report", "suggest")
# Names in the docs that are not in the workplace: repositories of the Hub, or files that only a study has.
_ELSEWHERE = ("ORG/", "org/", "demo_text")
# These map other people's columns, or name curves, that the tables of the workplace do not have.
_OTHER_TABLES = ("n_pretrain=tokens", "model,downstream", "my-curves", ">")


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a page."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands() -> list[tuple[str, list[str]]]:
    """(page, words) of every command in the bash blocks."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                for part in " ".join(map(shlex.quote, words)).replace("'&&'", "\n").splitlines():
                    if part.strip():
                        found.append((page.name, shlex.split(part)))
    return found


def starting_with(*words: str) -> list:
    """The commands that start with some words, named by their page and text."""
    return [
        pytest.param(given[len(words) :], id=f"{page} {shlex.join(given)}")
        for page, given in commands()
        if given[: len(words)] == list(words)
    ]


def is_here(words: list[str], names: tuple[str, ...]) -> bool:
    """Whether a command can run in the workplace."""
    return words[0] in names and not any(name in word for word in words for name in _ELSEWHERE)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    """A folder with the studies, tables and laws that the docs name."""
    folder = tmp_path_factory.mktemp("docs")
    pretrain = hs.ResultsTable(rows(stages=("pretrain",)))
    both = hs.ResultsTable(row for row in rows() if row["arm"] == "plain" or row["stage"] == "pretrain")
    for name in ("demo", "NAME", "tiny_imagenet"):
        both.save(folder / "studies" / name)
        shutil.copy(ROOT / "recipes" / "grids" / "demo.yaml", folder / "studies" / name / "grid.yaml")
    pretrain.save(folder / "results")
    plain = pretrain.to_pandas().query("arm == 'plain'")
    frame = plain[["n_params", "n_pretrain", "loss", "error"]]
    frame.to_csv(folder / "results.csv", index=False)
    frame.rename(columns={"n_params": "params", "n_pretrain": "tokens", "loss": "val_loss"}).to_csv(
        folder / "runs.csv", index=False
    )
    sizes = np.array([100.0, 300, 1000, 3000, 10_000])
    curve = pd.DataFrame({"images": sizes, "loss": 0.3 + 12 * sizes**-0.4, "error": 0.1 + 2 * sizes**-0.4})
    curve.to_csv(folder / "mine.csv", index=False)
    frame[["n_params", "n_pretrain"]].drop_duplicates().to_csv(folder / "sizes.csv", index=False)
    hs.fit_law(frame, law="chinchilla", target="loss", bootstrap=100).save_pretrained(folder / "my-law")
    return folder


def test_no_command_is_unknown():
    known = {"hf-scaling", "accelerate", "pip", "pytest", "python", "apt"}
    assert {given[0] for _, given in commands()} <= known
    for _, given in commands():
        if given[0] == "python" and given[1].endswith(".py"):
            text = (ROOT / given[1]).read_text(encoding="utf-8")
            assert all(word in text for word in given[2:] if word.startswith("--"))


@pytest.mark.parametrize("words", starting_with("hf-scaling"))
def test_a_command_is_one_that_the_parser_takes(words):
    words = [word for word in words if word != ">"]
    redirected = [word for word in words if not word.endswith("predicted.csv")]
    assert _build_parser().parse_args(redirected).run is not None


@pytest.mark.slow
@pytest.mark.parametrize("words", starting_with("accelerate", "launch"))
def test_a_recipe_takes_its_fields(words):
    from hf_scaling import training

    stage = re.search(r"recipes/(pretrain|finetune)\.py", " ".join(words))[1]
    given = words[words.index(f"recipes/{stage}.py") + 1 :]
    parse = training.parse_pretrain if stage == "pretrain" else training.parse_finetune
    fields, _ = parse(given, None)
    for name, value in itertools.pairwise(given):
        field = name.removeprefix("--").replace("-", "_")
        if hasattr(fields, field):
            assert str(getattr(fields, field)) == value or (value == "none" and getattr(fields, field) is None)


def run_command(words: list[str], workplace: Path, monkeypatch) -> None:
    if "n_pretrain=images" in words:
        words = ["mine.csv" if word == "results.csv" else word for word in words]
    monkeypatch.chdir(workplace)
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 0


def running(names: tuple[str, ...]) -> list:
    own = [param for param in starting_with("hf-scaling") if not set(param.values[0]) & set(_OTHER_TABLES)]
    return [param for param in own if is_here(param.values[0], names)]


@pytest.mark.parametrize("words", running(RUNNING))
def test_a_command_that_decides_runs(words, workplace, monkeypatch):
    run_command(words, workplace, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("words", running(RUNNING_SLOWLY))
def test_a_longer_command_that_decides_runs(words, workplace, monkeypatch):
    run_command(words, workplace, monkeypatch)


def run_page(name: str, workplace: Path, monkeypatch) -> None:
    """Run the blocks of a page in order, in one namespace."""
    monkeypatch.chdir(workplace)
    plain = pd.read_csv(workplace / "results.csv")
    wide = hs.ResultsTable.load("studies/NAME")
    # Names that a block uses from the sentence above it.
    namespace = {"pd": pd, "frame": plain.rename(columns={"n_params": "params"})}
    if name == "planning.md":
        namespace["other"] = hs.fit_law(wide, law="transfer_gap_joint", target="loss", arm="plain", bootstrap=100)
    if name == "suggest.md":
        plain.assign(cost=plain["n_params"] * plain["n_pretrain"] / 1e8).to_csv("pool.csv", index=False)
    for number, block in enumerate(blocks(page_named(name), "python")):
        if (name, number) not in NOT_RUN:
            with contextlib.redirect_stdout(io.StringIO()):
                exec(compile(block, f"{name}, block {number}", "exec"), namespace)


def page_named(name: str) -> Path:
    return next(page for page in PAGES if page.name == name)


@pytest.mark.parametrize("name", RUN)
def test_the_blocks_of_a_page_run(name, workplace, monkeypatch):
    run_page(name, workplace, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN_SLOWLY)
def test_the_blocks_of_a_longer_page_run(name, workplace, monkeypatch):
    if name == "fitting.md":
        pytest.importorskip("matplotlib")
    run_page(name, workplace, monkeypatch)


@pytest.mark.slow
def test_the_blocks_about_sources_run(workplace, monkeypatch):
    run_page("data.md", workplace, monkeypatch)


def test_every_block_compiles_and_is_run_or_listed():
    for page in PAGES:
        for number, block in enumerate(blocks(page, "python")):
            ast.parse(block, f"{page.name}, block {number}")
            run = page.name in (*RUN, *RUN_SLOWLY, "data.md")
            assert run or (page.name, number) in NOT_RUN, (
                f"{page.name}, Python block {number} is neither run nor listed"
            )


def notebook_cells(trains: bool) -> list[str]:
    """The code of the notebook's first half, or of both."""
    notebook = json.loads((ROOT / "examples" / "from_a_table_to_a_decision.ipynb").read_text(encoding="utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return ["".join(cell["source"]) for cell in cells if trains or "trains" not in cell["metadata"].get("tags", ())]


def run_cells(cells: list[str]) -> dict:
    namespace: dict = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in cells:
            exec(compile(cell, "notebook", "exec"), namespace)
    return namespace


def test_the_notebook_decides_from_a_table(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_cells(notebook_cells(trains=False))
    truth = {"E": 0.3, "A": 20.0, "alpha": 0.4, "B": 12.0, "beta": 0.35}
    intervals = namespace["fit"].intervals
    assert all(intervals[name][0] < value < intervals[name][1] for name, value in truth.items())
    assert namespace["need"].low < namespace["need"].value < namespace["need"].high
    assert (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_the_notebook_trains_its_study(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    namespace = run_cells(notebook_cells(trains=True))
    assert len(namespace["results"].rows()) == 36
    assert (tmp_path / "study.html").is_file()


def test_every_public_name_is_in_the_reference():
    text = "".join(page.read_text(encoding="utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    listed = {line.split(".")[-1] for line in re.findall(r"^::: (\S+)", text, re.MULTILINE)} | {"LAWS", "RunSpec"}
    errors = {name for name in hs._HOMES if hs._HOMES[name] == "errors"}
    assert "::: hf_scaling.errors" in text
    assert set(hs._HOMES) - errors <= listed


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")]
    assert [page for page in pages if f": {page}" not in navigation] == []


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+\.md|[^)#\s]+\.cff)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).is_file(), f"{page.name}: {target}"
