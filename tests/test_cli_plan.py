"""`hf-scaling plan`: arguments, output, JSON, errors."""

import dataclasses
import json
import re
import sys
from pathlib import Path

import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.planning import Plan

sys.path.insert(0, str(Path(__file__).parent / "support"))
from plans import table

ROOT = Path(__file__).parents[1]
ASK = ("--budget", 1000, "--cost", "label=0.5", "--cost", "hour=3600", "--bootstrap", 50)


@pytest.fixture
def run(capsys):
    def command(*argv):
        with pytest.raises(SystemExit) as ended:
            main(["plan", *map(str, argv)])
        captured = capsys.readouterr()
        return ended.value.code, captured.out, captured.err

    return command


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    path = tmp_path_factory.mktemp("study") / "runs.csv"
    arms = [table("plain"), table("distilled").assign(loss=lambda frame: 0.9 * frame["loss"])]
    pd.concat(arms, ignore_index=True).to_csv(path, index=False)
    return path


def test_both_arms_are_compared_and_the_allocation_comes_first(run, study):
    status, out, err = run(study, *ASK)
    assert (status, err) == (0, "")
    first = out.splitlines()[0]
    assert "1,000" in first and "distilled" in first
    for name in ("n_finetune", "pretrain_compute", "plain", "pace"):
        assert name in out
    assert "nan" not in out


def test_json_has_the_names_of_the_api(run, study):
    status, out, _ = run(study, *ASK, "--arm", "plain", "--json")
    content = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert status == 0
    assert set(content["allocation"]) == {"n_params", "n_pretrain", "n_finetune", "arm"}
    assert set(content["predicted"]) == {"value", "low", "high"}
    assert content["allocation"]["arm"] == "plain"
    assert content["frontier"][0]["budget"] < 1000 < content["frontier"][-1]["budget"]
    assert set(content) == {field.name for field in dataclasses.fields(Plan)}


def test_a_saved_law_gives_the_output_of_its_table(run, study, tmp_path):
    fit = hs.fit_law(study, "transfer_gap", arm="plain", bootstrap=50)
    fit.save_pretrained(tmp_path / "law")
    _, by_law, _ = run(tmp_path / "law", *ASK)
    _, by_table, _ = run(study, *ASK, "--arm", "plain")
    assert by_law == by_table
    status, _, err = run(tmp_path / "law", *ASK, "--arm", "plain")
    assert status == 2 and "--arm" in err


def test_a_law_of_an_older_version_needs_the_table_of_its_runs(run, study):
    law = ROOT / "tests" / "data" / "law_v1"
    status, _, err = run(law, *ASK)
    assert status == 2 and "flops_per_second" in err
    status, out, _ = run(law, *ASK, "--runs", study, "--n-params", "1e5")
    assert status == 0 and "pretrain_compute" in out


def test_limits_and_choices_reach_the_plan(run, study):
    flags = ("--at-most", "n_pretrain=8000", "--reuse", 5, "--n-params", "1e5", "--teacher-free", "--epochs", 10)
    _, out, _ = run(study, *ASK, "--json", *flags)
    content = json.loads(out)
    assert content["allocation"]["n_pretrain"] == 8000
    assert content["cost"]["teacher_compute"] == 0
    assert content["cost"]["pretrain_compute"] == pytest.approx(1e-10 * 6e5 * 80_000 / 5, rel=1e-6)


@pytest.mark.parametrize(
    "argv, named",
    [
        (("--cost", "label=0.5"), "--budget"),
        (("--budget", 5, "--cost", "label"), "--cost label"),
        (("--budget", 5, "--cost", "lable=1"), "'lable'; did you mean label"),
        (("--budget", 5), "costs"),
        (("--budget", 5, "--cost", "label=1", "--n-params", "big"), "big"),
        (("--budget", 5, "--cost", "label=1", "--law", "chinchila"), "did you mean chinchilla"),
    ],
)
def test_errors_are_one_line(run, study, argv, named):
    status, out, err = run(study, *argv)
    assert (status, out) == (2, "") and named in err
    assert len(err.splitlines()) == 1


def test_a_path_that_does_not_exist_is_named(run, tmp_path):
    status, _, err = run(tmp_path / "nothing", *ASK)
    assert status == 2 and "nothing" in err


def test_the_example_of_the_help_is_valid():
    from hf_scaling.cli import plan as command

    assert re.match(r"hf-scaling plan \S+ --budget \d+ --cost label=0.5 --cost hour=2$", command.EXAMPLE)


def test_every_note_is_documented():
    sources = [*(ROOT / "hf_scaling" / "planning").glob("*.py")]
    codes = {code for path in sources for code in re.findall(r'note\(\s*"(\w+)"', path.read_text())}
    page = (ROOT / "docs" / "planning.md").read_text()
    assert {"out_of_range", "allocation_open", "no_scratch_rows"} <= codes
    assert [code for code in sorted(codes) if f"| `{code}` |" not in page] == []
