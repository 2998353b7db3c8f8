"""Units and directions of targets: percent, counts, scores that rise, targets below zero, ranges."""

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.errors import InputError
from hf_scaling.fitting.target import TargetScale, target_scale

X = np.geomspace(1e3, 1e6, 12)
FALLING = 0.08 + 3 * X**-0.4


def noisy(seed=0):
    return FALLING * np.exp(0.01 * np.random.default_rng(seed).standard_normal(len(X)))


def scale_of(name, values, **given):
    return target_scale(name, np.asarray(values, dtype=float), range(len(values)), {"n_pretrain": X}, **given)


@pytest.mark.parametrize("name", ["error", "err", "top1_error", "val_error", "error_rate"])
def test_an_error_rate_in_percent_is_refused_with_its_factor(name):
    with pytest.raises(InputError, match=f"'{name}', row 0.* 100$"):
        scale_of(name, 100 * FALLING)


def test_an_error_as_a_count_is_divided_by_n_eval():
    with pytest.raises(InputError, match="n_eval"):
        scale_of("error", np.round(1000 * FALLING), n_eval=np.full(len(X), 1000.0))


def test_percent_is_refused_by_every_question(tmp_path):
    table = pd.DataFrame({"n_pretrain": X, "error": 100 * noisy()})
    for ask in (hs.fit_law, hs.compare_laws):
        with pytest.raises(InputError, match="100"):
            ask(table, **({"law": "power_law"} if ask is hs.fit_law else {}), target="error")
    with pytest.raises(InputError, match="100"):
        hs.find_boundary(pd.concat([table.assign(arm="plain"), table.assign(arm="distilled")]), target="error")
    law = hs.write_report(table, tmp_path / "r.html", target="error", bootstrap=100).parts[0].laws[0]
    assert law.fit is None and "100" in law.problem


@pytest.mark.parametrize(
    ("name", "unit", "fitted_as"),
    [
        ("accuracy", 1, TargetScale("up", 1, -1, 0, 1)),
        ("imagenet-top1", 1, TargetScale("up", 1, -1, 0, 1)),
        ("valAUC", 1, TargetScale("up", 1, -1, 0, 1)),
        ("acc5", 100, TargetScale("up", 1, -1 / 100, 0, 100)),
        ("BLEU", 60, TargetScale("up", 0, -1)),
        ("anything", 1, TargetScale("up", 1, -1, 0, 1)),
        ("reward", 700, TargetScale("up", 0, -1)),
    ],
)
def test_a_score_that_rises_is_recognised_by_name_or_trend(name, unit, fitted_as):
    assert scale_of(name, unit * (1 - noisy())) == fitted_as


@pytest.mark.parametrize("name", ["loss", "val_loss", "perplexity", "accuracy_error", "1 - acc"])
def test_a_name_that_falls_is_never_turned(name):
    assert not scale_of(name, 1 - noisy()).rises


def test_direction_and_bounds_override():
    values = 40 - 20 * FALLING
    assert scale_of("x", values, direction="down") == TargetScale()
    assert scale_of("loss", values, direction="up").factor == -1
    assert scale_of("x", values, bounds=(0, 100)) == TargetScale("up", 1, -1 / 100, 0, 100)
    for wrong in ({"direction": "sideways"}, {"bounds": (1, 0)}, {"bounds": (0, 30)}):
        with pytest.raises(InputError):
            scale_of("x", values, **wrong)


@pytest.mark.parametrize(
    ("name", "unit", "offset"), [("acc", 1, 0), ("acc", 100, 0), ("bleu", 50, 0), ("reward", 9, -20)]
)
def test_predictions_intervals_and_inverses_are_in_the_targets_units(name, unit, offset):
    score = unit * (1 - noisy()) + offset
    fit = hs.fit_law({"n_pretrain": X, name: score}, "power_law", target=name, bootstrap=200)
    far = fit.predict({"n_pretrain": [1e7]}).iloc[0]
    truth = unit * (1 - (0.08 + 3 * 1e7**-0.4)) + offset
    assert far.low < truth < far.high and far.value == pytest.approx(truth, rel=0.01)
    back, _, _ = fit.invert(fit.predict({"n_pretrain": [3e5]})["value"].iloc[0], "n_pretrain")
    assert back == pytest.approx(3e5, rel=1e-6)
    assert fit.scores["rmse"] < 0.02 * unit and "rising_score" in fit.note_codes
    assert fit.data["target_range"] == pytest.approx((score.min(), score.max()))


def test_an_accuracy_gives_the_law_and_the_plan_of_its_error(tmp_path):
    error = noisy()
    table = {"n_pretrain": X, "error": error, "acc": 1 - error}
    fits = {name: hs.fit_law(table, "power_law", target=name, bootstrap=100) for name in ("error", "acc")}
    assert fits["acc"].params == pytest.approx(fits["error"].params, rel=1e-6)
    plans = {name: hs.plan(fit, 5e5, {"pretrain_image": 1}) for name, fit in fits.items()}
    assert plans["acc"].allocation == plans["error"].allocation
    assert plans["acc"].predicted["low"] == pytest.approx(1 - plans["error"].predicted["high"], rel=1e-6)
    assert (plans["acc"].frontier["value"].diff().dropna() >= 0).all()
    fits["acc"].save_pretrained(tmp_path / "law")
    again = hs.LawFit.from_pretrained(tmp_path / "law")
    assert again.predict({"n_pretrain": [1e7]}).equals(fits["acc"].predict({"n_pretrain": [1e7]}))


def test_the_report_names_the_highest_score(tmp_path):
    table = pd.DataFrame({"n_pretrain": X, "auc": 1 - noisy()})
    law = hs.write_report(table, tmp_path / "r.html", target="auc", bootstrap=100).parts[0].laws[0]
    assert law.best["auc"] == table["auc"].max()
    assert max(forecast["high"] for forecast in law.forecasts) <= 1


def test_a_boundary_of_accuracies_is_that_of_errors():
    gain = np.where(X < 3e4, 0.9, 1.1)
    rows = [
        {"arm": arm, "n_pretrain": x, "seed": seed, "error": error}
        for seed in range(2)
        for arm, factor in (("plain", np.ones(12)), ("distilled", gain))
        for x, error in zip(X, noisy(seed) * factor)
    ]
    table = pd.DataFrame(rows).assign(accuracy=lambda t: 1 - t["error"])
    error, accuracy = (hs.find_boundary(table, target=name, bootstrap=100) for name in ("error", "accuracy"))
    assert accuracy.status == error.status
    np.testing.assert_allclose(accuracy.difference["difference"], error.difference["difference"], rtol=1e-3)


@pytest.mark.parametrize("law", ["power_law", "auto"])
@pytest.mark.parametrize("shift", [3.0, 1.5])
def test_a_target_below_zero_is_fitted_with_mse(law, shift):
    target = 40 * X**-0.3 - shift
    fit = hs.fit_law({"n_pretrain": X, "normalised": target}, law, target="normalised", bootstrap=100)
    assert fit.settings["objective"] == "mse" and "not_positive" in fit.note_codes
    assert fit.predict({"n_pretrain": [1e7]})["value"].iloc[0] == pytest.approx(40 * 1e7**-0.3 - shift, abs=0.01)


def test_a_law_that_rises_itself_takes_the_score_as_it_is():
    truth = {"A": 0.05, "alpha": 0.5, "beta": 0.8}
    score = hs.LAWS["downstream_log"].predict(truth, {"n_pretrain": X})
    fit = hs.fit_law({"n_pretrain": X, "bleu": score}, "downstream_log", target="bleu", bootstrap=0)
    assert fit.scale.factor == 1 and fit.params == pytest.approx(truth, rel=1e-4)
    with pytest.raises(InputError, match="bleu"):
        hs.plan(fit, 1e6, {"pretrain_image": 1})


def test_an_error_is_never_predicted_above_one():
    fit = hs.fit_law({"n_pretrain": X, "error": noisy()}, "power_law", target="error", bootstrap=100)
    band = fit.predict({"n_pretrain": [1.0, 10.0]}, kind="new_run")
    assert (band[["value", "low", "high"]].to_numpy() <= 1).all()


@pytest.mark.parametrize("name", ["err (%)", "Top-1 error [%]", "test_error_pct", "ErrorRate (in percent)"])
@pytest.mark.parametrize("factor", [100, 0.9])
def test_an_error_whose_name_says_percent_is_refused(name, factor):
    with pytest.raises(InputError, match=r"\*0\.01"):
        scale_of(name, factor * FALLING)
    assert scale_of(name, 100 * FALLING, bounds=(0, 100)).high == 100


@pytest.mark.parametrize(("rows", "named"), [([3], "1 of 12"), ([0, 5, 7], "3 of 12")])
def test_some_rows_in_percent_are_counted(rows, named):
    values = FALLING.copy()
    values[rows] *= 100
    with pytest.raises(InputError, match=named):
        scale_of("error", values)


@pytest.mark.parametrize("name", ["R2", "val_pearson", "kappa"])
def test_scores_of_at_most_one_stay_there(name):
    values = 0.95 - 400 * X**-0.8
    assert values.min() < 0
    assert scale_of(name, values) == TargetScale("up", 1, -1, -np.inf, 1)
    fit = hs.fit_law({"n_pretrain": X, name: values}, "power_law", target=name, bootstrap=100)
    assert fit.predict({"n_pretrain": [1e12]})["high"].iloc[0] <= 1


@pytest.mark.parametrize(("name", "value"), [("error", 0.0), ("accuracy", 1.0), ("error", 1.0), ("loss", 0.0)])
def test_a_target_at_its_end_in_every_row_is_not_identifiable(name, value):
    fit = hs.fit_law({"n_pretrain": X, name: np.full(len(X), value)}, "power_law", target=name, bootstrap=50)
    assert fit.status == "not_identifiable" and "constant_target" in [n["code"] for n in fit.notes]


@pytest.mark.parametrize("zeros", [2, 5])
def test_errors_of_zero_at_the_largest_sizes_can_be_fitted(zeros):
    values = np.append(FALLING[:-zeros], np.zeros(zeros))
    fit = hs.fit_law({"n_pretrain": X, "error": values}, "power_law", target="error", bootstrap=50)
    assert "not_positive" in [n["code"] for n in fit.notes]


@pytest.mark.parametrize("target", ["n_pretrain", "error"])
def test_a_target_that_is_the_size_is_refused(target):
    with pytest.raises(InputError, match=f"^{target} is both"):
        hs.fit_law({"n_pretrain": X, "error": FALLING}, "power_law", target=target, x=target, bootstrap=0)
