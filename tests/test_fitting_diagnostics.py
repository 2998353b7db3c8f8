"""The statuses and coded notes of a fit, each caused by a small planted study."""

import ast
from pathlib import Path

import numpy as np
import pytest
from designs import grid, study

import hf_scaling as hs
from hf_scaling.fitting.law_fit import VERDICTS

ROOT = Path(__file__).parents[1]
X = np.geomspace(100, 1e6, 13)


def noise(size, count, seed=0):
    return np.exp(size * np.random.default_rng(seed).standard_normal(count))


def curve(loss, x=X):
    return {"n_pretrain": x, "loss": loss}


def fit(table, law="power_law", **settings):
    return hs.fit_law(table, law, **{"bootstrap": 0, **settings})


def keep(table, rows):
    return {name: values[rows] for name, values in table.items()}


def _few(count):
    table = study("chinchilla", 0.01)
    return keep(table, table["n_params"] <= np.unique(table["n_params"])[count - 1])


def _one_row(factor, row, size=0.01):
    table = curve((0.1 + 2 * X**-0.35) * noise(size, 13))
    table["loss"][row] *= factor
    return table


def _idle_variable():
    table = grid("chinchilla")
    return table | {"loss": (1.8 + 482 * table["n_params"] ** -0.35) * noise(0.005, 64)}


def _together():
    sizes = np.geomspace(1e6, 1e9, 12)
    loss = (1.8 + 400 * sizes**-0.34) * noise(0.01, 12)
    return {"n_params": sizes, "n_pretrain": 20 * sizes, "loss": loss}


def _waves():
    x = np.geomspace(100, 1e6, 40)
    return curve((0.1 + 2 * x**-0.35) * np.exp(0.05 * np.sin(np.linspace(0, 9, 40))) * noise(0.003, 40), x)


def _falls_and_rises():
    x = np.geomspace(1e3, 1e6, 12)
    return curve((0.4 + 20 * x**-0.4) * (1 + 0.05 * np.linspace(-1, 1, 12) ** 2) * noise(0.002, 12), x)


def _wrong_shape():
    x = np.repeat(X, 4)
    return curve((0.1 + 2 * (x + 3000) ** -0.5) * noise(0.005, 52), x)


def _loud():
    x = np.repeat(X, 3)
    return curve((0.1 + 5 * x**-0.35) * noise(0.6, 39), x)


def _doublings(step, size, seed=0):
    x = 250.0 * step ** np.arange(7)
    return curve((1.5 + 1.5 * 250**0.35 * x**-0.35) * noise(size, 7, seed), x)


# Code, grade, law, table, what its text must name, the status where the planted study decides it.
PLANTED = [
    ("confounded", "error", "chinchilla", _together(), "n_pretrain", "not_identifiable"),
    ("too_few_levels", "warn", "chinchilla", _few(2), "n_params", None),
    ("too_few_levels", "error", "chinchilla", _few(1), "n_params", "not_identifiable"),
    (
        "too_few_configurations",
        "error",
        "chinchilla",
        study("chinchilla", 0.01, points=2, seeds=3),
        "4",
        "not_identifiable",
    ),
    ("constant_target", "error", "power_law", curve(np.ones(13)), "loss", "not_identifiable"),
    ("not_identifiable", "error", "power_law", _doublings(2, 0.05), "a", "not_identifiable"),
    ("trade_off", "info", "power_law", _doublings(2, 0.05), "A", "not_identifiable"),
    ("floor_zero", "info", "power_law", curve(2 * X**-0.35 * noise(0.03, 13)), "E", "ok"),
    ("floor_reached", "warn", "power_law", _one_row(0.7, 12, 0.02), "E", "at_bound"),
    ("at_bound", "warn", "power_law", curve(0.1 + 1e14 * X**-7.0), "a", None),
    ("coefficient_zero", "warn", "chinchilla", _idle_variable(), "B", None),
    ("large_residuals", "error", "power_law", _loud(), "", None),
    ("structured_residuals", "warn", "power_law", _waves(), "n_pretrain", None),
    ("structured_residuals", "warn", "power_law", _falls_and_rises(), "n_pretrain", None),
    ("lack_of_fit", "error", "power_law", _wrong_shape(), "", "poor_fit"),
    ("outlier", "warn", "power_law", _one_row(2, 5), "row 5 ", "ok"),
    ("influential", "warn", "power_law", _loud(), "row ", None),
    ("objectives", "info", "power_law", study("power_law", 0.01), "log_mse", "ok"),
    ("objectives_differ", "warn", "power_law", _one_row(2, 5), "mse", "ok"),
    ("replicates", "info", "power_law", study("power_law", 0.03, points=13, seeds=3), "", "ok"),
    (
        "ignored_variable",
        "warn",
        "power_law",
        study("power_law", 0.01) | {"n_params": np.arange(64) + 9},
        "n_params",
        "ok",
    ),
]


@pytest.mark.parametrize(("code", "grade", "law", "table", "named", "status"), PLANTED)
def test_a_planted_fault_is_noted(code, grade, law, table, named, status):
    result = fit(table, law)
    notes = [n for n in result.notes if n["code"] == code]
    assert notes, result.note_codes
    assert {n["grade"] for n in notes} == {grade}
    assert any(named in n["text"] for n in notes), notes
    assert result.status in VERDICTS
    assert status in (None, result.status)


def test_a_clean_study_has_no_warning():
    result = fit(study("chinchilla", 0.01), "chinchilla")
    assert result.status == "ok"
    assert not [n for n in result.notes if n["grade"] != "info"]


@pytest.mark.parametrize(
    ("step", "size", "status"), [(2, 0.05, "not_identifiable"), (10, 0.01, "ok"), (10, 0.0, "ok"), (2, 0.0, "ok")]
)
def test_seven_doublings_do_not_fix_an_exponent_and_seven_tens_do(step, size, status):
    draws = 30 if size else 1
    result = [fit(_doublings(step, size, seed), seed=seed) for seed in range(draws)]
    # benchmarks/verdicts.py has 100 draws: 95 and 100 of them. 24 of 30 is three standard errors below 95 %.
    assert sum(f.status == status for f in result) >= 0.8 * draws
    if status == "not_identifiable":
        assert all("not_identifiable" in f.note_codes for f in result if f.status == status)


def test_the_bad_run_is_named_as_the_table_names_it():
    import pandas as pd

    frame = pd.DataFrame(_one_row(3, 5), index=[f"run-{i}" for i in range(13)])
    assert "row run-5 " in next(n["text"] for n in fit(frame).notes if n["code"] == "outlier")


def test_an_ok_fit_has_no_error():
    for _, _, law, table, _, _ in PLANTED:
        result = fit(table, law)
        if result.status == "ok":
            assert not [n for n in result.notes if n["grade"] == "error"]


def codes_in_the_source():
    calls = [
        node
        for path in (ROOT / "hf_scaling" / "fitting").glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "note"
    ]
    return {call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant)}


def test_every_note_is_documented():
    page = (ROOT / "docs" / "fitting.md").read_text()
    codes = codes_in_the_source()
    assert {"outlier", "objectives", "objectives_differ", "hardly_matters"} <= codes
    assert [code for code in sorted(codes) if f"| `{code}` |" not in page] == []
