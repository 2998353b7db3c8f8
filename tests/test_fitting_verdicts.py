"""A fit is called ok only where its intervals can be trusted."""

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.fitting.diagnostics import Refits, judge
from hf_scaling.fitting.estimate import estimate
from hf_scaling.fitting.rows import RowFilter, select_rows
from hf_scaling.fitting.solver import Objective, coordinates_of

X = np.geomspace(1e3, 1e7, 14)


def noisy(values, noise=0.01, seed=0):
    return values * np.exp(noise * np.random.default_rng(seed).standard_normal(len(values)))


def repeated_data(passes, seed=0):
    truth = {"E": 1.87, "A": 521.0, "alpha": 0.353, "B": 1488.0, "beta": 0.353, "R_D": 15.4, "R_N": 5.3}
    table = pd.DataFrame(
        [
            {"n_params": m, "n_pretrain": u, "samples_seen": u * k}
            for m in np.logspace(7, 9.5, 4)
            for u in np.logspace(9, 11, 4)
            for k in passes
        ]
    )
    loss = hs.LAWS["data_constrained"].predict(truth, {name: table[name].to_numpy(float) for name in table})
    return table.assign(loss=noisy(loss, 0.01, seed)), {k: v for k, v in truth.items() if k not in ("R_D", "R_N")}


@pytest.mark.parametrize(("passes", "is_open"), [((1, 1.4), True), ((1, 2.5), True), ((1, 4, 16, 64), False)])
def test_a_shape_that_the_rows_do_not_show_is_open(passes, is_open):
    table, known = repeated_data(passes)
    fit = hs.fit_law(table, "data_constrained", fixed={**known, "R_N": 5.3}, bootstrap=100)
    assert (fit.status == "ok") == (not is_open)
    assert any("R_D" in n["text"] for n in fit.notes) == is_open


def test_a_scale_beyond_the_data_is_open():
    # Without a bend anywhere, the shift may be anything below the smallest size: no lower end, which is no error.
    table = {"n_pretrain": X, "loss": noisy(0.5 + 20 * X**-0.3)}
    fit = hs.fit_law(table, "shifted_power_law", bootstrap=100)
    assert fit.status != "not_identifiable" or "open_parameter" in fit.note_codes


@pytest.mark.parametrize("law", ["power_law", "chinchilla"])
def test_a_table_that_the_law_meets_exactly_is_ok(law):
    if law == "power_law":
        table = {"n_pretrain": X, "loss": 0.5 + 20 * X**-0.3}
    else:
        grid = np.meshgrid(np.geomspace(1e6, 1e9, 5), np.geomspace(1e7, 1e10, 5))
        table = {"n_params": grid[0].ravel(), "n_pretrain": grid[1].ravel()}
        table["loss"] = 1 + 60 * table["n_params"] ** -0.3 + 200 * table["n_pretrain"] ** -0.35
    fit = hs.fit_law(table, law, bootstrap=100)
    assert fit.status == "ok" and "exact" in fit.note_codes


@pytest.mark.parametrize("fixed", [{"E": 0.5}, {"a": 0.3}])
def test_a_fixed_parameter_needs_no_interval(fixed):
    fit = hs.fit_law({"n_pretrain": X, "loss": noisy(0.5 + 20 * X**-0.3)}, "power_law", fixed=fixed, bootstrap=100)
    assert fit.status == "ok" and "no_interval" not in fit.note_codes


@pytest.mark.parametrize(("still", "code"), [("E", "interval_at_bound"), ("a", "no_interval"), ("nan", "no_interval")])
def test_an_interval_without_width_is_not_ok(still, code):
    # Steeper at the end than at the start: the floor is 0.
    logs = np.log(X / X[0])
    rows = select_rows(
        {"n_pretrain": X, "loss": noisy(3 * np.exp(-0.2 * logs - 0.02 * logs**2), 0.001)},
        hs.LAWS["power_law"],
        RowFilter(),
    )
    fitted = estimate(rows, hs.LAWS["power_law"], coordinates_of(hs.LAWS["power_law"]), Objective("log_mse"))
    draws = fitted.theta * np.exp(0.1 * np.random.default_rng(0).standard_normal((100, 3)))
    draws[:, {"E": 0, "a": 2, "nan": 1}[still]] = np.nan if still == "nan" else fitted.theta[{"E": 0, "a": 2}[still]]
    if still != "E":
        draws[:, 0] = np.linspace(0, 1, 100)
    status, notes = judge(fitted, refits=Refits(draws, 0.0, 0.95))
    assert code in [n["code"] for n in notes] and status == ("at_bound" if still == "E" else "not_identifiable")


@pytest.mark.parametrize("share", [0.02, 0.3])
def test_failed_refits_are_counted(share, monkeypatch):
    from hf_scaling.fitting import bootstrap

    real = bootstrap.draw

    def failing(*arguments):
        drawn = real(*arguments)
        return bootstrap.Draws(drawn.u, drawn.converged * (1 - share))

    monkeypatch.setattr("hf_scaling.fitting.fit.draw", failing)
    fit = hs.fit_law({"n_pretrain": X, "loss": noisy(0.5 + 20 * X**-0.3)}, "power_law", bootstrap=100)
    grade = next(n["grade"] for n in fit.notes if n["code"] == "draws_not_converged")
    assert (grade, fit.status) == (("error", "not_identifiable") if share > 0.1 else ("info", "ok"))


@pytest.mark.parametrize("size", [-1, 0])
def test_a_run_that_moves_the_prediction_out_of_its_interval_takes_ok_away(size):
    # Most refits cannot follow one run far from the others that only the Huber loss keeps at bay.
    x = np.append(np.geomspace(1e3, 1e4, 12), 1e6)
    loss = noisy(0.5 + 20 * x**-0.3, 0.002)
    loss[size] *= 1.25
    fit = hs.fit_law({"n_pretrain": x, "loss": loss}, "power_law", bootstrap=200)
    assert fit.status != "ok"


@pytest.mark.parametrize(
    ("bootstrap", "level", "is_few"), [(1, 0.95, True), (30, 0.95, True), (40, 0.95, False), (40, 0.99, True)]
)
def test_an_interval_of_a_few_refits_is_reported(bootstrap, level, is_few):
    table = {"n_pretrain": X, "loss": noisy(0.5 + 20 * X**-0.4)}
    fit = hs.fit_law(table, "power_law", bootstrap=bootstrap, level=level)
    assert ("few_draws" in [n["code"] for n in fit.notes]) == is_few


@pytest.mark.parametrize(("factor", "is_jump"), [(1e-6, True), (1e-3, True), (1, False)])
def test_two_units_in_one_column_are_reported(factor, is_jump):
    sizes = np.concatenate([factor * np.geomspace(1e6, 8e6, 4), np.geomspace(1.6e7, 1.28e8, 4)])
    true = np.geomspace(1e6, 1.28e8, 8)
    fit = hs.fit_law({"n_params": sizes, "loss": noisy(1 + 300 * true**-0.4)}, "power_law", x="n_params", bootstrap=50)
    assert ("unit_jump" in [n["code"] for n in fit.notes]) == is_jump


@pytest.mark.parametrize("far", [1e8, 1e9])
def test_one_far_run_is_of_the_same_unit(far):
    sizes = np.append(np.geomspace(1e3, 1e5, 6), far)
    fit = hs.fit_law({"n_pretrain": sizes, "loss": noisy(1 + 30 * sizes**-0.4)}, "power_law", bootstrap=50)
    assert "unit_jump" not in [n["code"] for n in fit.notes]
