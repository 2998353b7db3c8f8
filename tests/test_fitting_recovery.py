"""Planted parameters are recovered: predictions, outliers, fixed and tied parameters, one result for one seed."""

import numpy as np
import pytest
from designs import far, fit, grid, study, truth
from law_truths import TRUTHS

import hf_scaling as hs

# A break, a minimum or many parameters leave directions that data hardly fix: there predictions are checked.
BY_PREDICTION = ("m4", "bnsl", "distillation", "data_constrained", "sparse")


@pytest.mark.parametrize("name", [name for name in hs.LAWS if name not in BY_PREDICTION])
def test_planted_parameters_are_recovered(name):
    result = fit(name, study(name))
    # Without noise the loss falls to rounding error, near 1e-30; parameters follow to about its root times the
    # condition number of the design (1e9 at worst here), so 1e-6 leaves a solver that stops early no room.
    assert result.params == pytest.approx(TRUTHS[name], rel=1e-6)
    assert list(result.params) == list(hs.LAWS[name].names)
    assert result.status == "ok"


@pytest.mark.parametrize("name", BY_PREDICTION)
def test_a_planted_law_predicts_as_its_truth(name):
    result = fit(name, study(name))
    np.testing.assert_allclose(result.values(grid(name)), truth(name, grid(name)), rtol=1e-6)
    np.testing.assert_allclose(result.values(far(name)), truth(name, far(name)), rtol=1e-4)


@pytest.mark.parametrize("objective", ["log_huber", "log_mse", "mse"])
@pytest.mark.parametrize("name", ["power_law", "transfer_gap"])
def test_every_objective_recovers_the_planted_parameters(name, objective):
    # As above; squared errors on the linear scale weigh small losses less, hence one digit fewer.
    assert fit(name, study(name), objective=objective).params == pytest.approx(TRUTHS[name], rel=1e-5)


@pytest.mark.parametrize("name", ["chinchilla", "transfer_gap", "joint_additive", "rectified"])
def test_noise_of_one_per_cent_leaves_ten_times_the_scale_within_three(name):
    expected = truth(name, far(name))[0]
    errors = [fit(name, study(name, 0.01, seed)).values(far(name))[0] / expected - 1 for seed in range(9)]
    assert np.median(np.abs(errors)) < 0.03


def test_one_bad_run_among_64_hardly_moves_the_fit():
    table = study("chinchilla", noise=0.01)
    table["loss"][17] *= 5
    result = fit("chinchilla", table)
    assert result.params["E"] >= 0
    assert result.values(far("chinchilla"))[0] == pytest.approx(truth("chinchilla", far("chinchilla"))[0], rel=0.05)
    worst = next(n["text"] for n in result.notes if n["code"] == "outlier")
    assert "row 17 " in worst


def test_a_fixed_parameter_stays_and_the_others_follow():
    table = study("chinchilla")
    exact = fit("chinchilla", table, fixed={"alpha": TRUTHS["chinchilla"]["alpha"]})
    assert exact.params == pytest.approx(TRUTHS["chinchilla"], rel=1e-6)
    floorless = fit("chinchilla", table, fixed={"E": 0}, bootstrap=20)
    assert floorless.params["E"] == 0
    assert floorless.intervals["E"] == (0, 0)
    assert floorless.scores["log_rmse"] > 1e-3
    assert floorless.settings["fixed"] == {"E": 0.0}


def test_tied_parameters_share_one_value():
    table = grid("chinchilla")
    table["loss"] = 1.5 + 300 * table["n_params"] ** -0.3 + 500 * table["n_pretrain"] ** -0.3
    result = fit("chinchilla", table, tied=[("alpha", "beta")], bootstrap=20)
    assert result.params == pytest.approx({"E": 1.5, "A": 300, "alpha": 0.3, "B": 500, "beta": 0.3}, rel=1e-6)
    assert result.params["alpha"] == result.params["beta"]
    assert (result.draws[:, 2] == result.draws[:, 4]).all()


def test_equal_seeds_give_equal_fits():
    table = study("bnsl", 0.02)
    first, again, other = (fit("bnsl", table, bootstrap=30, seed=seed) for seed in (3, 3, 4))
    assert first.params == again.params
    assert first.intervals == again.intervals
    assert (first.draws == again.draws).all()
    assert not (first.draws == other.draws).all()


def test_a_user_defined_law_is_fitted_like_any_other():
    law = hs.Law("mine", "E + A*n_pretrain**-alpha*exp(-n_finetune/scale)", bounds={"alpha": (0, 2)})
    table = grid("transfer_gap")
    table["loss"] = 0.3 + 40 * table["n_pretrain"] ** -0.2 * np.exp(-table["n_finetune"] / 3e4)
    result = hs.fit_law(table, law, bootstrap=0)
    assert result.params == pytest.approx({"E": 0.3, "A": 40, "alpha": 0.2, "scale": 3e4}, rel=1e-6)
    assert result.law == "mine"


def test_the_unit_of_a_size_changes_nothing_but_its_own_parameters():
    table = study("power_law", 0.02)
    counted = fit("power_law", table)
    in_thousands = fit("power_law", {**table, "n_pretrain": table["n_pretrain"] / 1000})
    # Two solvers' paths to the same minimum, each stopped at a gain below 1e-13 of the loss.
    assert in_thousands.params["a"] == pytest.approx(counted.params["a"], rel=1e-5)
    assert in_thousands.params["A"] == pytest.approx(counted.params["A"] * 1000 ** -counted.params["a"], rel=1e-4)


def test_published_values_of_the_distillation_law():
    coupled = {"A": 3355.0, "B": 18186.0, "E": 1.220, "alpha": 0.408, "beta": 0.431, "gamma": 0.452}
    at = {"n_params": 1e9, "n_pretrain": 2e10}
    # Busbridge et al. 2025, printed to four digits after the point.
    assert hs.LAWS["chinchilla_coupled"].predict(coupled, at) == pytest.approx(2.3747, abs=5e-5)
    losses = (
        hs.LAWS["distillation"]
        .with_supervised(coupled)
        .predict(TRUTHS["distillation"], {**at, "teacher_loss": [2.0, 2.2, 2.4, 2.6]})
    )
    assert losses == pytest.approx([2.2768, 2.3170, 2.4207, 2.6006], abs=5e-5)


def test_supervised_takes_a_fit_or_its_parameters():
    supervised = fit("chinchilla_coupled", study("chinchilla_coupled"))
    table = study("distillation")
    by_fit = hs.fit_law(table, "distillation", supervised=supervised, bootstrap=0)
    by_values = hs.fit_law(table, "distillation", supervised=dict(supervised.params), bootstrap=0)
    assert by_fit.params == by_values.params
