"""`hf-scaling fit`, `compare` and `laws`: output, JSON, flags, exit statuses."""

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.cli import main
from hf_scaling.results import new_row

sys.path.insert(0, str(Path(__file__).parent / "support"))
from designs import fit, study

X = np.geomspace(100, 1e6, 13)


@pytest.fixture
def run(capsys):
    def command(*argv):
        with pytest.raises(SystemExit) as ended:
            main([str(item) for item in argv])
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return command


@pytest.fixture
def chinchilla(tmp_path):
    path = tmp_path / "losses.csv"
    pd.DataFrame(study("chinchilla", 0.02)).to_csv(path, index=False)
    return path


@pytest.fixture
def foreign(tmp_path):
    path = tmp_path / "foreign.csv"
    loss = 0.1 + 2 * X**-0.35
    pd.DataFrame({"images": X, "val_loss": loss, "trust": 1.0, "n_pretrain": 7}).to_csv(path, index=False)
    return path


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_the_summary_holds_every_value_of_a_fit(run, chinchilla):
    status, out, err = run("fit", chinchilla, "--law", "chinchilla", "--bootstrap", 50)
    assert (status, err) == (0, "")
    for value in (
        "E + A*n_params^(-alpha) + B*n_pretrain^(-beta)",
        "ok",
        "alpha 0.3",
        "95 %",
        "64 rows",
        "3M",
        "4B",
        "log_huber",
        "AICc",
        "50 ",
        hs.__version__,
        "objectives",
    ):
        assert value in " ".join(out.split()), value


def test_json_is_strict_and_has_the_names_of_the_api(run, chinchilla):
    status, out, _ = run("fit", chinchilla, "--law", "chinchilla", "--bootstrap", 50, "--json")
    content = strict(out)
    same = hs.fit_law(str(chinchilla), "chinchilla", bootstrap=50)
    assert status == 0
    assert {"law", "status", "params", "intervals", "scores", "notes"} <= set(content)
    assert content["params"] == same.params
    assert content["intervals"]["E"] == list(same.intervals["E"])
    assert content["scores"] == same.scores
    assert {"code", "grade", "text"} == set(content["notes"][0])


def test_json_has_null_for_numbers_that_are_not_finite(run, tmp_path):
    path = tmp_path / "few.csv"
    pd.DataFrame(study("power_law", 0.05, points=3)).to_csv(path, index=False)
    status, out, _ = run("fit", path, "--law", "power_law", "--bootstrap", 20, "--json")
    content = strict(out)
    # A verdict is an answer: status 0.
    assert (status, content["status"]) == (0, "not_identifiable")
    assert content["scores"]["aicc"] is None
    assert content["intervals"]["E"] == [None, None]


def test_foreign_columns_are_mapped(run, foreign):
    status, out, _ = run(
        *("fit", foreign, "--law", "power_law", "--bootstrap", 0, "--json", "--target", "loss"),
        *("--map", "n_pretrain=images", "--map", "loss=val_loss", "--weights", "trust"),
    )
    content = strict(out)
    assert status == 0
    assert content["params"] == pytest.approx({"E": 0.1, "A": 2, "a": 0.35}, rel=1e-6)
    assert content["settings"]["weights"] == "given"
    assert content["data"]["ranges"]["n_pretrain"] == [100, 1e6]


def test_every_flag_reaches_the_fit(run, foreign):
    settings = strict(
        run(
            *("fit", foreign, "--law", "power_law", "--target", "val_loss", "--x", "images", "--json"),
            *("--bootstrap", 30, "--method", "pairs", "--level", 0.9, "--seed", 7, "--fix", "E=0.1"),
            *("--objective", "log_huber", "--delta", 0.01),
        )[1]
    )["settings"]
    expected = {"bootstrap": 30, "method": "pairs", "level": 0.9, "seed": 7, "fixed": {"E": 0.1}, "tied": []}
    expected |= {"objective": "log_huber", "delta": 0.01, "target": "val_loss", "columns": {"x": "images"}}
    assert {name: settings[name] for name in expected} == expected


def test_parameters_are_tied(run, chinchilla):
    found = strict(run("fit", chinchilla, "--law", "chinchilla", "--bootstrap", 0, "--json", "--tie", "alpha,beta")[1])
    assert found["params"]["alpha"] == found["params"]["beta"]
    assert found["settings"]["tied"] == [["alpha", "beta"]]


def test_out_saves_the_fit(run, chinchilla, tmp_path):
    status, out, err = run(
        "fit", chinchilla, "--law", "chinchilla", "--bootstrap", 20, "--out", tmp_path / "law", "--json"
    )
    kept = hs.LawFit.from_pretrained(tmp_path / "law")
    assert status == 0
    assert kept.params == strict(out)["params"]
    assert str(tmp_path / "law") in err


def test_supervised_is_a_saved_fit_or_its_parameters(run, tmp_path):
    coupled = fit("chinchilla_coupled", study("chinchilla_coupled"))
    coupled.save_pretrained(tmp_path / "coupled")
    pd.DataFrame(study("distillation")).to_csv(tmp_path / "distilled.csv", index=False)
    written = ",".join(f"{name}={value!r}" for name, value in coupled.params.items())
    command = ("fit", tmp_path / "distilled.csv", "--law", "distillation", "--bootstrap", 0, "--json", "--supervised")
    first, second = (strict(run(*command, given)[1]) for given in (tmp_path / "coupled", written))
    assert first["params"] == second["params"]


def test_rows_are_selected_by_arm_and_stage(run, tmp_path):
    rows = []
    for arm, drop in (("plain", 1.0), ("distilled", 0.9)):
        for i, x in enumerate(X):
            row = {"run_id": f"{arm}{i}", "arm": arm, "stage": "pretrain", "n_pretrain": int(x)}
            rows.append(new_row(row | {"loss": drop * (0.1 + 2 * x**-0.35)}))
    hs.ResultsTable(rows).save(tmp_path / "results")
    command = ("fit", tmp_path, "--law", "power_law", "--bootstrap", 0)
    status, _, err = run(*command)
    assert status == 2
    assert all(word in err for word in ("arm", "distilled", "plain"))
    status, out, _ = run(*command, "--arm", "distilled", "--stage", "pretrain", "--json")
    assert strict(out)["params"]["E"] == pytest.approx(0.09, rel=1e-3)
    assert run(*command, "--arm", "plain", "--stage", "finetune")[0] == 2


@pytest.mark.parametrize(
    ("row", "value", "words"),
    [
        (3, "-1", ["'loss'", "row 3", "line 5 of losses.csv"]),
        (3, "", ["'loss'", "row 3", "line 5 of losses.csv", "nan"]),
        (0, "half", ["'loss'", "row 0", "line 2 of losses.csv", "'half'"]),
    ],
)
def test_an_unusable_value_is_named_by_column_row_and_line(run, chinchilla, row, value, words):
    frame = pd.read_csv(chinchilla).astype(object)
    frame.loc[row, "loss"] = value
    frame.to_csv(chinchilla, index=False)
    status, out, err = run("fit", chinchilla, "--law", "chinchilla")
    assert (status, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


@pytest.mark.parametrize(
    ("flags", "names"),
    [
        (["--law", "chinchila"], ["chinchila", "chinchilla"]),
        (["--target", "error"], ["'error'"]),
        (["--map", "loss"], ["--map loss"]),
        (["--map", "loss=cost"], ["'cost'"]),
        (["--map", "loss=n_params", "--map", "loss=n_params"], ["--map", "loss"]),
        (["--fix", "E=low"], ["--fix", "E", "low"]),
        (["--fix", "F=1"], ["'F'"]),
        (["--tie", "alpha"], ["alpha"]),
        (["--bootstrap", "many"], ["--bootstrap", "many"]),
        (["--weights", "trust"], ["'trust'"]),
        (["--arm", "plain"], ["'arm'"]),
        (["--supervised", "E=1"], ["supervised"]),
        (["--lev", "0.9"], ["--lev"]),
    ],
)
def test_a_mistake_is_one_line_and_status_2(run, chinchilla, flags, names):
    status, out, err = run("fit", chinchilla, "--law", "chinchilla", *flags)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert all(name in err for name in names), err


def test_tables_without_rows_are_refused(run, tmp_path):
    (tmp_path / "head.csv").write_text("n_pretrain,loss\n")
    (tmp_path / "none.csv").write_text("")
    for name in ("head.csv", "none.csv", "text.txt"):
        status, _, err = run("fit", tmp_path / name)
        assert (status, err.count("\n")) == (2, 1)
        assert name in err


def test_compare_prints_the_ranking(run, tmp_path):
    path = tmp_path / "curve.csv"
    pd.DataFrame({"images": X, "loss": 0.3 + 20 * (X + 2000) ** -0.5}).to_csv(path, index=False)
    command = ("compare", path, "--map", "n_pretrain=images", "--laws", "power_law, shifted_power_law")
    status, out, _ = run(*command)
    lines = out.splitlines()
    assert status == 0
    assert next(line.split()[0] for line in lines if line.endswith(("baseline", "ok"))) == "shifted_power_law"
    assert any(line.split()[:1] == ["last_value"] for line in lines)
    content = strict(run(*command, "--json")[1])
    assert set(content) == {"table", "best", "p_better", "notes"}
    assert content["best"] == "shifted_power_law"
    assert set(content["table"][0]) == {"law", "holdout_log_rmse", "aicc", "status", "factor_out"}
    assert {row["law"]: row["aicc"] for row in content["table"]}["last_value"] is None


def test_laws_lists_all_or_those_named(run):
    status, out, _ = run("laws")
    assert status == 0
    for name, law in hs.LAWS.items():
        assert f"{name}\n" in out
        assert law.paper.split(",")[0] in out
    status, out, _ = run("laws", "m4")
    assert "(L - E)/(L0 - L)^a = b*x^(-c)" in out
    assert "chinchilla" not in out
    status, _, err = run("laws", "m5")
    assert (status, err.count("\n")) == (2, 1)
    assert "m5" in err and "m4" in err


def test_flags_take_hyphens_or_underscores(run, tmp_path):
    from planted_rows import planted_rows

    hs.ResultsTable([new_row(row) for row in planted_rows()]).save(tmp_path)
    command = ("boundary", tmp_path, "--bootstrap", 100, "--json")
    answers = [run(*command, flag, 30_000) for flag in ("--n-params", "--n_params")]
    assert answers[0] == answers[1]
    assert answers[0][0] == 0
    assert run(*command, "--n_params=30000") == answers[0]


def test_log_lines_are_printed_on_stderr_while_a_command_runs(capsys):
    import logging

    from hf_scaling.cli import exit_status

    logger = logging.getLogger("hf_scaling.test")
    assert exit_status(lambda: logger.info("a line of progress")) == 0
    logger.info("a line after the command")
    assert capsys.readouterr() == ("", "a line of progress\n")
