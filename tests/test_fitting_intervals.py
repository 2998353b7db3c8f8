"""Intervals cover what they claim: coverage on planted studies, both bootstraps, predictions, functions, inverses."""

import numpy as np
import pandas as pd
import pytest
from designs import far, fit, study, truth
from law_truths import TRUTHS

import hf_scaling as hs
from hf_scaling import InputError


@pytest.fixture(scope="module")
def noisy():
    return fit("chinchilla", study("chinchilla", 0.02), bootstrap=400)


@pytest.mark.parametrize(("name", "points"), [("power_law", 64), ("chinchilla", 8), ("transfer_gap", 8)])
def test_intervals_cover_the_planted_values(name, points):
    held, studies = [], 30
    for seed in range(studies):
        result = fit(name, study(name, 0.01, seed, points=points), bootstrap=200, seed=seed)
        held += [low <= TRUTHS[name][p] <= high for p, (low, high) in result.intervals.items()]
        band = result.predict(far(name)).iloc[0]
        held.append(band.low <= truth(name, far(name))[0] <= band.high)
    # 30 studies, quantities of one study all correlated: the standard error of the share is at most
    # sqrt(.95 * .05 / 30) = 4 %, so 85 % is two and a half of them below. Naive residual resampling reaches 74 %.
    assert np.mean(held) >= 0.85


def test_intervals_are_not_too_wide():
    estimates = np.array([list(fit("chinchilla", study("chinchilla", 0.02, s)).params.values()) for s in range(40)])
    result = fit("chinchilla", study("chinchilla", 0.02), bootstrap=400)
    widths = np.array([(high - low) / 2 / 1.96 for low, high in result.intervals.values()])
    # A spread over 40 studies is known to 11 %, a bootstrap's of one study varies by about as much again.
    assert widths[0] / estimates[:, 0].std() == pytest.approx(1, abs=0.5)
    assert widths[2] / estimates[:, 2].std() == pytest.approx(1, abs=0.5)


def test_pairs_agree_with_wild_where_noise_is_homogeneous():
    table = study("power_law", 0.02)
    wild, pairs = (fit("power_law", table, bootstrap=400, method=method) for method in ("wild", "pairs"))
    for name in TRUTHS["power_law"]:
        widths = [result.intervals[name][1] - result.intervals[name][0] for result in (wild, pairs)]
        # Two consistent estimates of one spread from 64 points: each is known to about 15 %.
        assert widths[1] / widths[0] == pytest.approx(1, abs=0.4)
    assert pairs.settings["method"] == "pairs"


def test_a_row_drawn_twice_counts_twice():
    table = study("power_law", 0.02)
    result = fit("power_law", table, bootstrap=1000, method="pairs", delta=1e-3)
    again = []
    for seed in range(150):
        rows = np.random.default_rng(seed).integers(64, size=64)
        # A column of their own keeps equal rows apart.
        drawn = {k: v[rows] for k, v in table.items()} | {"place": np.arange(64)}
        again.append(list(fit("power_law", drawn, delta=1e-3).params.values()))
    # 150 draws know a spread to 6 %. Were a row drawn twice to scale its residual in place of its share of the loss,
    # fits near the median, as this delta's, would spread .82 times as much.
    assert np.mean(result.draws.std(axis=0) / np.std(again, axis=0)) == pytest.approx(1, abs=0.1)


def test_replicates_move_together():
    # Four rows a size that share one error: the interval must be that of 16 sizes, not of 64 rows.
    table = study("power_law", 0.0, points=16, seeds=4)
    shared = np.repeat(np.random.default_rng(5).standard_normal(16), 4)
    table["loss"] = table["loss"] * np.exp(0.02 * shared)
    single = {k: v[::4] for k, v in table.items()}
    repeated, once = (fit("power_law", t, bootstrap=400, objective="log_mse") for t in (table, single))
    for name, (low, high) in once.intervals.items():
        ends = repeated.intervals[name]
        # The same 16 errors either way; the two differ by their random multipliers.
        assert (ends[1] - ends[0]) / (high - low) == pytest.approx(1, abs=0.25)


def test_a_new_run_is_less_certain_than_the_mean(noisy):
    at = {"n_params": [1e7, 1e9], "n_pretrain": [1e8, 1e10]}
    mean, new = noisy.predict(at), noisy.predict(at, kind="new_run")
    assert (new.value == mean.value).all()
    assert ((new.high - new.low) > (mean.high - mean.low)).all()
    # One run's 95 % band at 2 % noise is at least 2 * 1.96 * 2 % wide, and not twice that.
    width = np.log(new.high / new.low)
    assert ((width > 0.06) & (width < 0.16)).all()


def test_a_level_narrows_the_band(noisy):
    at = {"n_params": 1e9, "n_pretrain": 1e10}
    wide, narrow = noisy.predict(at), noisy.predict(at, level=0.5)
    assert wide.low[0] < narrow.low[0] < narrow.value[0] < narrow.high[0] < wide.high[0]
    half = fit("chinchilla", study("chinchilla", 0.02), bootstrap=400, level=0.5)
    assert half.intervals["E"][1] - half.intervals["E"][0] < noisy.intervals["E"][1] - noisy.intervals["E"][0]


def test_predictions_have_the_frames_index(noisy):
    frame = pd.DataFrame({"n_params": [1e6, 1e8], "n_pretrain": 1e9, "other": "x"}, index=["small", "large"])
    result = noisy.predict(frame)
    assert list(result.index) == ["small", "large"]
    assert list(result.columns) == ["value", "low", "high", "extrapolation"]
    # Fitted from 3e6 to 4e9 parameters and from 1e6 to 2e10 images.
    assert result.extrapolation.tolist() == pytest.approx([np.log(3), 0.0])


def test_a_prediction_needs_its_columns(noisy):
    for given, words in (
        ({"n_params": 1e6}, "'n_pretrain'"),
        ({"n_params": ["many"], "n_pretrain": 1e6}, "n_params"),
        ({"n_params": [1, 2, 3], "n_pretrain": [1, 2]}, "n_params, n_pretrain"),
    ):
        with pytest.raises(InputError, match=words):
            noisy.predict(given)
    for settings, words in (({"kind": "median"}, "median"), ({"level": 95}, "level")):
        with pytest.raises(InputError, match=words):
            noisy.predict({"n_params": 1e6, "n_pretrain": 1e6}, **settings)


def test_where_the_law_is_undefined_the_prediction_is_nan(noisy):
    result = noisy.predict({"n_params": 1e6, "n_pretrain": [0, 1e6]})
    assert result[["value", "low", "high"]].isna().all(axis=1).tolist() == [True, False]


def test_the_interval_of_a_function_follows_parameters_and_predictions(noisy):
    value, low, high = noisy.interval(lambda params, predict: params["alpha"] / params["beta"])
    assert value == pytest.approx(noisy.params["alpha"] / noisy.params["beta"])
    assert low < value < high
    at = {"n_params": 1e9, "n_pretrain": [1e9, 1e10]}
    gain = noisy.interval(lambda params, predict: predict(at)[:, 1] / predict(at)[:, 0])
    both = noisy.predict(at)
    assert gain[0] == pytest.approx(both.value[1] / both.value[0])
    # Errors of the two predictions are shared: their ratio is surer than either end alone would make it.
    assert gain[2] - gain[1] < both.high[1] / both.low[0] - both.low[1] / both.high[0]
    with pytest.raises(InputError, match="bootstrap"):
        fit("chinchilla", study("chinchilla", 0.02)).interval(lambda params, predict: params["E"])


def test_the_inverse_comes_with_an_interval(noisy):
    reached = truth("chinchilla", {"n_params": np.array([1e9]), "n_pretrain": np.array([5e9])})[0]
    value, low, high = noisy.invert(reached, "n_pretrain", n_params=1e9)
    assert low < 5e9 < high
    assert noisy.predict({"n_params": 1e9, "n_pretrain": value}).value[0] == pytest.approx(reached, rel=1e-9)
    assert noisy.invert(noisy.params["E"] * 0.5, "n_pretrain", n_params=1e9) == (np.inf, np.inf, np.inf)
    for arguments, words in (((2.2, "n_finetune"), "n_finetune"), ((-1, "n_pretrain"), "-1")):
        with pytest.raises(InputError, match=words):
            noisy.invert(*arguments, n_params=1e9)


def test_without_a_bootstrap_there_is_no_interval():
    result = fit("power_law", study("power_law", 0.02))
    assert result.intervals == {}
    row = result.predict({"n_pretrain": 1e7}).iloc[0]
    assert np.isnan(row.low)
    assert np.isnan(row.high)
    assert row.value > 0


def test_as_many_sizes_as_parameters_leave_no_interval():
    table = study("power_law", 0.05, points=3)
    result = fit("power_law", table, bootstrap=50)
    assert result.status == "not_identifiable"
    assert "too_few_configurations" in result.note_codes
    assert np.isnan(list(result.intervals.values())).all()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"bootstrap": -1}, "bootstrap"),
        ({"bootstrap": 0.5}, "bootstrap"),
        ({"method": "jackknife"}, "wild, pairs"),
        ({"level": 1.0}, "level"),
        ({"seed": -1}, "seed"),
        ({"objective": "l1"}, "log_huber, log_mse, mse"),
        ({"objective": "mse", "delta": 0.1}, "delta"),
        ({"delta": 0.0}, "delta"),
        ({"fixed": {"Q": 1}}, "'Q'"),
        ({"fixed": {"E": float("nan")}}, "E = nan"),
        ({"fixed": {"E": 0, "A": 1, "a": 1}}, "power_law"),
        ({"tied": [("E", "Q")]}, "'Q'"),
        ({"tied": [("E",)]}, "'E'"),
        ({"tied": [("E", "A")], "fixed": {"E": 1}}, "'E'"),
        ({"supervised": {"E": 1}}, "supervised"),
        ({"law": "powerlaw"}, "power_law"),
        ({"law": "distillation"}, "n_params"),
    ],
)
def test_settings_that_cannot_be_used_are_named(settings, words):
    with pytest.raises(InputError, match=words):
        hs.fit_law(study("power_law"), **{"law": "power_law", "bootstrap": 0, **settings})


def many_rows(kind, count):
    generator = np.random.default_rng(0)
    if kind == "own sizes":
        sizes = {
            "n_params": np.exp(generator.uniform(14, 21, count)),
            "n_pretrain": np.exp(generator.uniform(7, 16, count)),
        }
        law, truth = "chinchilla", {"E": 0.5, "A": 60.0, "alpha": 0.3, "B": 10.0, "beta": 0.3}
    else:
        sizes = {"n_pretrain": np.repeat(np.geomspace(1e3, 1e7, 10), count // 10)}
        law, truth = "power_law", {"E": 0.5, "A": 10.0, "a": 0.3}
    variables = {"x" if law == "power_law" else name: values for name, values in sizes.items()}
    loss = hs.LAWS[law].predict(truth, variables) * np.exp(0.02 * generator.standard_normal(count))
    return {**sizes, "loss": loss}, law, truth


@pytest.mark.parametrize("method", ["wild", "pairs"])
@pytest.mark.parametrize("kind", ["own sizes", "equal sizes"])
def test_many_rows_are_condensed_without_a_change_of_the_intervals(kind, method, monkeypatch):
    table, law, _ = many_rows(kind, 1500)
    whole = hs.fit_law(table, law, bootstrap=400, method=method)
    monkeypatch.setattr("hf_scaling.fitting.bootstrap.MANY_ROWS", 1000)
    condensed = hs.fit_law(table, law, bootstrap=400, method=method)
    assert condensed.params == whole.params
    for name, (low, high) in whole.intervals.items():
        ends = condensed.intervals[name]
        # Resampled pairs are other draws; residuals are perturbed by the same ones.
        tolerance = (0.35 if method == "pairs" else 0.1) * (high - low)
        np.testing.assert_allclose(ends, (low, high), atol=tolerance)


@pytest.mark.parametrize("kind", ["own sizes", "equal sizes"])
def test_memory_does_not_grow_with_the_square_of_the_rows(kind):
    import tracemalloc

    table, law, truth = many_rows(kind, 12_000)
    tracemalloc.start()
    fit = hs.fit_law(table, law, bootstrap=100)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # One matrix of rows by rows would be 1.2 GB.
    assert peak < 400e6
    assert all(
        low <= truth[name] * 1.001 and high >= truth[name] * 0.999 for name, (low, high) in fit.intervals.items()
    )
