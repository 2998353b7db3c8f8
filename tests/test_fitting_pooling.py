"""Pooled fits: curves that share a distribution, so that a curve of few points borrows from the others."""

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling import InputError
from hf_scaling.cli import main
from hf_scaling.fitting.curves import CurveCoordinates
from hf_scaling.fitting.prior import SOURCES, published_prior
from hf_scaling.fitting.shared import SharedDistribution
from hf_scaling.laws import LAWS

SIZES = np.geomspace(1e3, 1e7, 12)


def planted(seed=0, curves=8, noise=0.01, kept=None, spread=1.0):
    """Power laws whose exponents and relative floors scatter by 15 %; the last curve keeps its first sizes only."""
    generator = np.random.default_rng(seed)
    rows, truths = [], []
    for curve in range(curves):
        a = 0.3 * np.exp(0.15 * spread * generator.standard_normal())
        level = np.exp(0.4 * generator.standard_normal())
        floor = 0.15 * level * np.exp(0.15 * spread * generator.standard_normal())
        truth = floor + level * (SIZES / 1e4) ** -a
        truths.append(truth)
        measured = truth * np.exp(noise * generator.standard_normal(len(SIZES)))
        sizes = SIZES if kept is None or curve < curves - 1 else SIZES[:kept]
        name = f"m{curve}"
        rows.append(pd.DataFrame({"model": name, "n_pretrain": sizes, "loss": measured[: len(sizes)]}))
    return pd.concat(rows, ignore_index=True), truths


@pytest.fixture(scope="module")
def pooled():
    table, truths = planted(kept=4)
    return hs.fit_law(table, "power_law", pool="model", bootstrap=200), table, truths


def test_a_curve_of_four_points_borrows_from_the_others(pooled):
    fit, table, truths = pooled
    alone = hs.fit_law(table[table.model == "m7"].reset_index(drop=True), "power_law", bootstrap=0)
    together = fit.predict({"model": "m7", "n_pretrain": SIZES[4:]})

    def miss(values):
        return np.sqrt(np.mean(np.log(values / truths[7][4:]) ** 2))

    assert miss(together.value) < 0.5 * miss(alone.predict({"n_pretrain": SIZES[4:]}).value)
    assert ((together.low <= truths[7][4:]) & (truths[7][4:] <= together.high)).all()


def test_intervals_of_cut_curves_hold_and_are_not_idle():
    held, widths, spans = [], [], []
    for seed in range(12):
        table, truths = planted(seed, kept=4)
        fit = hs.fit_law(table, "power_law", pool="model", bootstrap=200)
        band = fit.predict({"model": "m7", "n_pretrain": SIZES[4:]})
        held.append(((band.low <= truths[7][4:]) & (truths[7][4:] <= band.high)).mean())
        widths.append(np.log(band.high / band.low).iloc[-1])
        spans.append(np.log(truths[7][3] / truths[7][-1]))
    assert np.mean(held) >= 0.85
    assert np.median(widths) < np.median(spans)


def test_whole_curves_agree_with_fits_of_their_own():
    table, _ = planted(curves=6)
    fit = hs.fit_law(table, "power_law", pool="model", bootstrap=0)
    for curve in range(6):
        own = hs.fit_law(table[table.model == f"m{curve}"].reset_index(drop=True), "power_law", bootstrap=0)
        far = {"n_pretrain": [1e8]}
        pooled_miss = abs(np.log(fit.predict({"model": f"m{curve}", **far}).value[0] / own.predict(far).value[0]))
        assert pooled_miss < 0.1


def test_curves_has_a_row_for_each_curve_and_its_interval(pooled):
    fit, _, _ = pooled
    assert list(fit.curves["model"]) == [f"m{i}" for i in range(8)]
    assert (fit.curves["a_low"] <= fit.curves["a"]).all() and (fit.curves["a"] <= fit.curves["a_high"]).all()
    assert fit.pool == ["model"]
    assert set(fit.params) == {"E", "A", "a"} and abs(fit.params["a"] - 0.3) < 0.08
    assert {"pooled", "pool_calibration"} <= set(fit.note_codes)


def test_a_new_curve_has_a_wider_band_than_any_curve_with_rows(pooled):
    fit, _, _ = pooled
    at = pd.DataFrame({"model": ["m0", "unseen"], "n_pretrain": [1e6, 1e6]}, index=["a", "b"])
    band = fit.predict(at)
    assert list(band.index) == ["a", "b"]
    assert np.log(band.high["b"] / band.low["b"]) > 3 * np.log(band.high["a"] / band.low["a"])


def test_levels_that_other_curves_share_narrow_a_new_curve():
    generator, rows = np.random.default_rng(1), []
    models = {f"m{i}": np.exp(0.8 * generator.standard_normal()) for i in range(6)}
    for task in ("one", "two", "three"):
        for model, level in models.items():
            if (task, model) != ("three", "m5"):
                loss = level * (0.2 + (SIZES / 1e4) ** -0.3) * np.exp(0.01 * generator.standard_normal(len(SIZES)))
                rows.append(pd.DataFrame({"task": task, "model": model, "n_pretrain": SIZES, "loss": loss}))
    fit = hs.fit_law(pd.concat(rows, ignore_index=True), "power_law", pool=["task", "model"], bootstrap=200)
    known = fit.predict({"task": "three", "model": "m5", "n_pretrain": 1e5})
    unknown = fit.predict({"task": "three", "model": "other", "n_pretrain": 1e5})
    truth = models["m5"] * (0.2 + 10**-0.3)
    assert abs(np.log(known.value[0] / truth)) < 0.1
    assert np.log(unknown.high[0] / unknown.low[0]) > 2 * np.log(known.high[0] / known.low[0])


def test_equal_seeds_give_equal_fits_and_a_stored_fit_predicts_the_same(pooled, tmp_path):
    fit, table, _ = pooled
    at = {"model": ["m7", "unseen", "m1"], "n_pretrain": [1e7, 1e5, 1e4]}
    again = hs.fit_law(table, "power_law", pool="model", bootstrap=200)
    assert fit.predict(at).equals(again.predict(at))
    fit.save_pretrained(tmp_path)
    loaded = hs.LawFit.from_pretrained(tmp_path)
    assert loaded.predict(at).equals(fit.predict(at)) and loaded.curves.equals(fit.curves)
    assert loaded.predict(at, kind="new_run").equals(fit.predict(at, kind="new_run"))
    assert loaded.summary() == fit.summary()
    assert "m7" in (tmp_path / "README.md").read_text()


def test_auto_scores_laws_on_cut_curves(tmp_path):
    table, truths = planted(kept=4, curves=5)
    fit = hs.fit_law(table, "auto", pool="model", x="n_pretrain", bootstrap=50)
    single = hs.fit_law(table, "auto", pool="model", x="n_pretrain", bootstrap=50, combine=False)
    assert "chosen" in single.note_codes and single.law in LAWS
    assert {"chosen", "combined"} & set(fit.note_codes)
    at = {"model": "m4", "n_pretrain": SIZES[4:]}
    assert np.abs(np.log(fit.predict(at).value / truths[4][4:])).max() < 0.25
    fit.save_pretrained(tmp_path)
    assert hs.LawFit.from_pretrained(tmp_path).predict(at).equals(fit.predict(at))


def test_a_curve_of_a_pooled_fit_inverts_and_answers_need(pooled):
    fit, _, truths = pooled
    value, low, high = fit.curve(model="m0").invert(float(truths[0][6]), "n_pretrain")
    assert low <= value <= high and abs(np.log(value / SIZES[6])) < 0.15
    answer = hs.need(fit, target="loss", value=float(truths[0][6]), solve_for="n_pretrain", model="m0")
    assert answer.verdict == "reached_inside" and abs(np.log(answer.value / SIZES[6])) < 0.15


def test_columns_of_the_pool_may_differ_and_others_may_not():
    table, _ = planted(curves=3)
    table["downstream"] = table["model"]
    with pytest.raises(InputError, match="pool=downstream"):
        hs.fit_law(table, "power_law", bootstrap=0)
    assert len(hs.fit_law(table, "power_law", pool=["downstream"], bootstrap=0).curves) == 3


def test_rows_of_several_models_are_refused_with_the_flag_that_pools_them():
    table, _ = planted(curves=3)
    with pytest.raises(InputError, match="--pool model"):
        hs.fit_law(table, "power_law", bootstrap=0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"pool": ["nothing"]}, "nothing"),
        ({"pool": ["model", "model"]}, "once"),
        ({"pool": "model", "objective": "mse"}, "mse"),
        ({"pool": "model", "method": "pairs"}, "pairs"),
        ({"pool": "model", "prior": {"a": (0.3, 0.1)}}, "prior"),
    ],
)
def test_what_does_not_go_with_pool_is_refused(change, named):
    table, _ = planted(curves=3)
    with pytest.raises(InputError, match=named):
        hs.fit_law(table, "power_law", bootstrap=10, **change)


def test_one_curve_cannot_be_pooled_and_a_missing_name_is_a_row_to_mend(pooled):
    fit, table, _ = pooled
    with pytest.raises(InputError, match="m0"):
        hs.fit_law(table[table.model == "m0"].reset_index(drop=True), "power_law", pool="model")
    broken = table.copy()
    broken.loc[5, "model"] = None
    with pytest.raises(InputError, match="row 5"):
        hs.fit_law(broken, "power_law", pool="model")
    with pytest.raises(InputError, match="model"):
        fit.predict({"n_pretrain": 1e5})
    with pytest.raises(InputError, match="sort"):
        fit.curve(model="m0", sort="x")


def status(*argv):
    with pytest.raises(SystemExit) as stopped:
        main(list(map(str, argv)))
    return stopped.value.code


def test_commands_pool_and_predict_by_curve(tmp_path, capsys):
    table, truths = planted(curves=4, kept=4)
    path, law = tmp_path / "t.csv", tmp_path / "law"
    table.to_csv(path, index=False)
    fitting = ["--law", "power_law", "--bootstrap", "40"]
    at = ["--at", "model=m3", "--at", "n_pretrain=1e6"]
    assert status("fit", path, *fitting, "--pool", "model", "--out", law, "--json") == 0
    assert '"curves"' in capsys.readouterr().out
    assert status("predict", law, *at, "--csv") == 0
    stored = capsys.readouterr().out
    assert status("predict", path, *fitting, "--pool", "model", *at, "--csv") == 0
    assert capsys.readouterr().out == stored and "m3" in stored
    target = f"loss={truths[3][6]:.4f}"
    assert status("need", law, "--target", target, "--solve-for", "n_pretrain", "--at", "model=m3") == 0
    assert status("need", law, "--target", target, "--solve-for", "n_pretrain") == 2
    assert "model" in capsys.readouterr().err


def test_shared_coordinates_are_the_laws_parameters_in_another_form():
    for name, theta in {
        "power_law": [0.2, 3.0, 0.4],
        "m4": [0.1, 1.0, 0.5, 40.0, 0.4],
        "bnsl": [0.1, 20.0, 0.2, 0.3, 1e4, 0.4],
        "chinchilla": [0.5, 60.0, 0.3, 10.0, 0.3],
    }.items():
        law = LAWS[name]
        coordinates = CurveCoordinates.of(law, dict.fromkeys(law.variables, 1e5), {}, ())
        u = coordinates.free.from_theta(np.array([theta]))
        shared, slopes = coordinates.to_shared(u)
        np.testing.assert_allclose(coordinates.to_theta(shared)[0], theta, rtol=1e-6)
        moved = u + 1e-6 * np.eye(len(theta))
        numeric = (coordinates.to_shared(moved)[0] - shared) / 1e-6
        np.testing.assert_allclose(slopes[0].T, numeric, atol=1e-4)


def test_the_shared_distribution_recovers_planted_covariances():
    generator = np.random.default_rng(0)
    models, tasks = np.repeat(np.arange(40), 2), np.tile(np.arange(2), 40)
    effect = generator.standard_normal((40, 2)) * [0.3, 1.0]
    values = effect[models] + 0.1 * generator.standard_normal((80, 2)) + [1.0, 2.0]
    names = [(f"m{m}", f"t{t}") for m, t in zip(models, tasks)]
    shared = SharedDistribution.start(names, values).observe(
        values, np.zeros((80, 2)), np.tile(1e6 * np.eye(2), (80, 1, 1))
    )
    shared = shared.maximise(60)
    deviations = np.sqrt(np.einsum("kff->kf", shared.covariances))
    np.testing.assert_allclose(deviations[0], [0.3, 1.0], rtol=0.3)
    np.testing.assert_allclose(deviations[-1], [0.1, 0.1], rtol=0.4)
    means, covariances = shared.leave_one_out()
    score = np.einsum("cf,cfg,cg->c", values - means, np.linalg.inv(covariances), values - means)
    assert 1.2 < score.mean() < 3.2


def short_curve(noise=0.03):
    sizes = np.geomspace(1e4, 6e4, 6)
    generator = np.random.default_rng(3)
    return {"n_pretrain": sizes, "loss": (0.3 + 4 * sizes**-0.25) * np.exp(noise * generator.standard_normal(6))}


def test_the_published_prior_counts_only_where_the_rows_leave_an_exponent_open():
    open_, without = (hs.fit_law(short_curve(), "power_law", prior=p, bootstrap=100) for p in ("published", None))
    assert open_.status == without.status == "not_identifiable"
    assert "prior" in open_.note_codes and "prior" not in without.note_codes
    assert open_.params == without.params and open_.intervals != without.intervals
    table, _ = planted(curves=1)
    determined, same = (hs.fit_law(table, "power_law", prior=p, bootstrap=100) for p in ("published", None))
    assert determined.status == "ok" and "prior" not in determined.note_codes
    assert determined.intervals == same.intervals


def test_a_prior_of_ones_own_moves_an_open_exponent_towards_it():
    free = hs.fit_law(short_curve(), "power_law", prior=None, bootstrap=0).params["a"]
    for median in (0.1, 1.0):
        held = hs.fit_law(short_curve(), "power_law", prior={"a": (median, 0.05)}, bootstrap=100)
        assert abs(np.log(held.params["a"] / median)) < min(abs(np.log(free / median)), 0.2)
        low, high = held.intervals["a"]
        assert high / low < 1.6


def test_priors_that_cannot_be_used_are_refused():
    for prior, named in (("mine", "mine"), ({"a": (0.3, -1)}, "a"), ({"b": (0.3, 0.1)}, "'b'"), ({"a": 0.3}, "a")):
        with pytest.raises(InputError, match=named):
            hs.fit_law(short_curve(), "power_law", prior=prior, bootstrap=0)


def test_a_published_prior_can_leave_sources_out():
    whole, part = published_prior("power_law"), published_prior("power_law", without=["few_shot"])
    assert part["a"][0] < whole["a"][0] and published_prior("power_law", without=SOURCES) == {}


def test_numbers_name_curves_whatever_their_type():
    table, _ = planted(curves=3)
    table["n_params"] = table["model"].str[1:].astype(int) * 1000 + 1000
    fit = hs.fit_law(table, "power_law", pool=["n_params"], bootstrap=0)
    assert "ignored_variable" not in fit.note_codes
    own = [fit.predict({"n_params": size, "n_pretrain": 1e5}).value[0] for size in (2000, 2000.0, np.float64(2000))]
    assert len(set(own)) == 1 and own[0] != fit.predict({"n_params": 4000, "n_pretrain": 1e5}).value[0]


@pytest.mark.parametrize("name", ["m0", "unseen"])
def test_one_curve_of_a_pooled_fit_is_planned_with(pooled, name):
    plan = hs.plan(pooled[0].curve(model=name), budget=1e5, costs={"pretrain_image": 1.0})
    assert plan.allocation["n_pretrain"] == pytest.approx(1e5, rel=0.01)
    assert plan.predicted["low"] < plan.predicted["value"] < plan.predicted["high"]
