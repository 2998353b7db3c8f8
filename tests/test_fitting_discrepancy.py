"""The law's own error beyond the data: there where the law is wrong, absent where it is right."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.fitting.discrepancy import (
    HeldOut,
    deviations,
    distance_outside,
    estimate_discrepancy,
    expanding_windows,
    hold_out,
    log_ranges,
    log_sizes,
    misfit,
)
from hf_scaling.fitting.estimate import estimate
from hf_scaling.fitting.rows import RowFilter, select_rows
from hf_scaling.fitting.solver import coordinates_of, make_objective

SIZES = 100 * 1.4 ** np.arange(24)


def curve(values, noise=0.01, seed=0):
    noise = noise * np.random.default_rng(seed).standard_normal(len(SIZES))
    return pd.DataFrame({"n_pretrain": SIZES, "error": values * np.exp(noise)})


def power(x):
    return 0.05 + 3 * x**-0.35


def steepening(x):
    return 1.2 * x**-0.15 * (1 + (x / 5e3) ** 2) ** -0.12


def test_where_the_law_is_right_the_band_keeps_its_width():
    growth, held = [], []
    for seed in range(12):
        fit = hs.fit_law(curve(power(SIZES), seed=seed), "power_law", target="error", bootstrap=200, seed=seed)
        at = {"n_pretrain": SIZES[-1:] * 10}
        row = fit.predict(at).iloc[0]
        low, high = np.quantile(fit._refitted_values(at), [0.025, 0.975])
        growth.append((row.high - row.low) / (high - low))
        held.append(row.low <= power(at["n_pretrain"][0]) <= row.high)
    assert np.median(growth) < 1.15
    assert np.mean(held) >= 0.75


def test_where_the_law_is_wrong_the_band_reaches_the_truth():
    far = SIZES[-1] * np.array([1.5, 2, 4])
    held, without = [], []
    for seed in range(6):
        fit = hs.fit_law(curve(steepening(SIZES), seed=seed), "power_law", target="error", bootstrap=200, seed=seed)
        band = fit.predict({"n_pretrain": far})
        truth = steepening(far)
        held.append(((band.low <= truth) & (truth <= band.high)).mean())
        low, high = np.quantile(fit._refitted_values({"n_pretrain": far}), [0.025, 0.975], axis=0)
        without.append(((low <= truth) & (truth <= high)).mean())
    assert np.mean(held) >= 0.9
    assert np.mean(without) < 0.5


def test_the_deviation_grows_with_the_distance_and_is_absent_inside():
    fit = hs.fit_law(curve(steepening(SIZES)), "power_law", target="error", bootstrap=200)
    at = {"n_pretrain": SIZES[-1] * np.array([0.5, 1, 2, 4])}
    with_error, without = fit.draw_values(at), fit._refitted_values(at)
    spread = np.log(with_error / without).std(axis=0)
    assert spread[:2] == pytest.approx(0)
    error = fit.data["discrepancy"]
    expected = np.hypot(error["per_log"] * np.log([2, 4]), error["edge"])
    assert spread[3] / spread[2] == pytest.approx(expected[1] / expected[0])


def test_what_the_law_misses_at_the_largest_sizes_is_still_missed_just_outside_the_data():
    values = power(SIZES) * np.where(SIZES[-4] < SIZES, 0.9, 1.0)
    fit = hs.fit_law(curve(values, noise=0.001), "power_law", target="error", bootstrap=200)
    assert 0.03 < fit.data["discrepancy"]["edge"] < 0.1
    nearer, near = fit.predict({"n_pretrain": SIZES[-1] * np.array([1.05, 1.5])}).itertuples()
    assert near.low < values[-1] * power(SIZES[-1] * 1.5) / power(SIZES[-1]) < near.high
    assert np.log(near.high / near.low) > 1.5 * np.log(nearer.high / nearer.low)
    without = {name: value for name, value in fit.data["discrepancy"].items() if name != "edge"}
    stored = replace(fit, data={**fit.data, "discrepancy": without}).predict({"n_pretrain": SIZES[-1] * 1.5})
    assert stored.low.item() > near.low and stored.high.item() < near.high


def test_the_band_of_a_new_run_contains_that_of_the_mean_and_both_keep_to_the_possible():
    fit = hs.fit_law(curve(steepening(SIZES)), "power_law", target="error", bootstrap=200)
    at = {"n_pretrain": np.logspace(-2, 12, 15)}
    mean, new = fit.predict(at), fit.predict(at, kind="new_run")
    assert (new.low <= mean.low).all() and (new.high >= mean.high).all()
    assert new.low.min() >= 0 and new.high.max() <= 1 and mean.value.max() <= 1


def test_a_law_that_misses_its_own_largest_scales_extrapolates_badly():
    values = np.where(np.arange(24) > 19, 0.4, 3 * SIZES**-0.3)
    fit = hs.fit_law(curve(values, noise=0.002), "power_law", target="error", fixed={"E": 0.0}, bootstrap=0)
    assert "extrapolates_badly" in fit.note_codes
    assert fit.status in ("extrapolates_badly", "poor_fit")
    right = hs.fit_law(curve(3 * SIZES**-0.3, noise=0.002), "power_law", target="error", fixed={"E": 0.0}, bootstrap=0)
    assert "extrapolates_badly" not in right.note_codes


def test_distance_counts_the_product_of_the_sizes_as_well():
    logs = log_sizes({"n_params": np.array([1e6, 1e8]), "n_pretrain": np.array([1e9, 1e7])})
    inside = log_ranges(logs)
    beyond = log_sizes({"n_params": np.array([1e8, 1e9]), "n_pretrain": np.array([1e9, 1e9])})
    assert distance_outside(beyond, *inside) == pytest.approx([np.log(10), np.log(10**1.5)])


def test_windows_hold_out_the_top_of_each_direction():
    table = pd.DataFrame([(m, d, 1.0) for m in 10.0 ** np.arange(4, 8) for d in 10.0 ** np.arange(3, 8)])
    table.columns = ["n_params", "n_pretrain", "loss"]
    rows = select_rows(table, hs.LAWS["chinchilla"], RowFilter())
    windows = expanding_windows(rows, 6)
    assert {window.direction for window in windows} == {0, 1, 2}
    assert all((window.distance[window.train] == 0).all() and window.distance.max() > 0 for window in windows)


def grid(values, pretrain, finetune, noise=0.004, seed=0):
    """A table of `values` at all products of both sizes, with noise."""
    n_pretrain, n_finetune = (sizes.ravel() for sizes in np.meshgrid(pretrain, finetune, indexing="ij"))
    error = values(n_pretrain, n_finetune)
    error = error * np.exp(noise * np.random.default_rng(seed).standard_normal(len(error)))
    return pd.DataFrame({"n_pretrain": n_pretrain, "n_finetune": n_finetune, "error": error})


def transfer(n_pretrain, n_finetune):
    return (2.0 * n_pretrain**-0.3 + 0.8) * (n_finetune + 200) ** -0.2 + 0.05


def test_a_window_of_few_levels_does_not_remember_the_rows_that_it_holds_out():
    law, columns = hs.LAWS["transfer_gap_shifted"], (1e3 * 2.0 ** np.arange(5), 100 * 3.0 ** np.arange(4))

    def predicted(factor):
        table = grid(transfer, *columns)
        table.loc[table.n_finetune == columns[1][-1], "error"] *= factor
        rows = select_rows(table, law, RowFilter("error"))
        estimated = estimate(rows, law, coordinates_of(law), make_objective("log_mse", None))
        held_out = hold_out(estimated, coordinates_of(law))
        return [v for w, v in zip(held_out.windows, held_out.values) if w.direction == 1 and w.levels == 3]

    (as_measured,), (moved,) = predicted(1.0), predicted(0.8)
    # The refit stops within the solver's tolerance.
    assert moved == pytest.approx(as_measured, abs=1e-4)


def test_the_error_is_that_of_the_direction_in_which_a_place_is_outside():
    def wrong_along_n_finetune(n_pretrain, n_finetune):
        return 0.3 * n_pretrain**-0.1 + steepening(n_finetune)

    sizes = 100 * 2.0 ** np.arange(8)
    law = hs.Law("additive", "E + A*n_pretrain**-a + C*n_finetune**-c")
    table = grid(wrong_along_n_finetune, sizes, sizes * 4, noise=0.001)
    fit = hs.fit_law(table, law, target="error", stage=None, bootstrap=60)
    error = fit.data["discrepancy"]
    (along_n_pretrain, _), (along_n_finetune, _), _ = error["directions"]
    assert along_n_finetune > 1.3 * along_n_pretrain > 0
    ends = {name: fit.data["ranges"][name][1] for name in ("n_pretrain", "n_finetune")}
    spread = [
        deviations(
            error, {**{n: np.array([v]) for n, v in ends.items()}, name: np.array([8 * ends[name]])}, 400, 0
        ).std()
        for name in ends
    ]
    assert spread[1] > 1.2 * spread[0]


def test_all_windows_together_weigh_as_much_as_one_of_a_directions_own():
    table = grid(transfer, 1e3 * 2.0 ** np.arange(5), 100 * 3.0 ** np.arange(5))
    rows = select_rows(table, hs.LAWS["transfer_gap"], RowFilter("error"))
    target, windows = np.log(rows.target), expanding_windows(rows, 6)
    misses = {0: 0.01, 1: 0.1, 2: 0.03}
    farther = [np.maximum(window.distance, 0.1 * window.distance.max()) for window in windows]
    values = np.stack([target - misses[w.direction] * far for w, far in zip(windows, farther)])
    # Without degrees of freedom the error counts whole.
    held_out = HeldOut(windows, values, np.eye(25), np.zeros_like(values))
    error = estimate_discrepancy(held_out, rows, target, np.ones(25), target, True)
    slopes = [misses[window.direction] for window in windows]
    every = np.exp(np.mean(np.log([*slopes, 0.02, 0.02])))
    assert error["per_log"] == pytest.approx(every)
    for direction, (slope, freedom) in enumerate(error["directions"]):
        own = [misses[direction] for window in windows if window.direction == direction]
        assert slope == pytest.approx(np.exp(np.mean(np.log([*own, every]))))
        assert freedom == len(own) + 2


def test_the_disagreement_of_a_means_laws_is_taken_off_the_misses_of_a_whole_window():
    rows = select_rows(curve(power(SIZES)), hs.LAWS["power_law"], RowFilter(target="error"))
    target, windows = np.log(rows.target), expanding_windows(rows, 4)
    distances = [np.maximum(window.distance, 0.1 * window.distance.max()) for window in windows]
    # Every other row is missed by twice the disagreement's square, the others are met: none of it is the law's error.
    misses = np.stack([0.1 * np.sqrt(1 + (-1.0) ** np.arange(24)) * far for far in distances])
    spread = np.stack([0.1 * far for far in distances])
    even = [int((~window.train).sum()) % 2 == 0 for window in windows]
    parts = [window for window, kept in zip(windows, even) if kept], (target - misses)[even], np.eye(24), spread[even]
    error = estimate_discrepancy(HeldOut(*parts), rows, target, np.ones(24), target, True)
    assert len(parts[0]) >= 2
    assert error["per_log"] == pytest.approx(np.sqrt(2 * 0.02**2 / (len(parts[0]) + 2)), rel=1e-3)


@pytest.mark.parametrize(("freedom", "of_a_mean"), [(0, 1.0), (4, 0.6), (9, 0.1), (10, 0.0), (20, 0.0)])
def test_with_few_degrees_of_freedom_neighbours_clear_a_mean_of_laws_in_part_and_one_law_not_at_all(
    freedom, of_a_mean
):
    rows = select_rows(curve(power(SIZES)), hs.LAWS["power_law"], RowFilter(target="error"))
    target, windows = np.log(rows.target), expanding_windows(rows, 4)
    values = np.tile(target - 0.1, (len(windows), 1))
    # Residuals that alternate: neighbours disagree with each other more than with the law.
    fitted = target + 0.01 * (-1.0) ** np.arange(24)

    def edge(spread):
        held_out = HeldOut(windows, values, np.eye(24)[:, freedom:], spread)
        return estimate_discrepancy(held_out, rows, target, np.ones(24), fitted, True)["edge"]

    assert edge(np.full_like(values, 0.01)) == pytest.approx(0.01 * of_a_mean)
    assert edge(np.zeros_like(values)) == pytest.approx(0.01 * (freedom < 10))


def test_less_shows_that_a_law_is_wrong_where_the_rows_do_not_determine_it():
    law, shares = hs.LAWS["transfer_gap"], []
    for seed in range(12):
        columns = 1e3 * 2.0 ** np.arange(5), 1e2 * 3.0 ** np.arange(5)
        table = grid(lambda p, f: (2.0 * p**-0.3 + 0.8) * f**-0.2 + 0.05, *columns, seed=seed)
        rows = select_rows(table, law, RowFilter("error"))
        estimated = estimate(rows, law, coordinates_of(law), make_objective("log_huber", None))
        parts = rows, estimated.problem.target, estimated.problem.root_weights, estimated.fitted, True
        held_out = hold_out(estimated, coordinates_of(law))
        shares.append([estimate_discrepancy(held_out, *parts, determined=known)["per_log"] for known in (True, False)])
    determined, is_open = np.array(shares).T
    assert (is_open >= determined).all() and (is_open > determined).sum() >= 2


def test_neighbours_that_agree_better_than_the_law_show_a_misfit():
    rows = select_rows(curve(power(SIZES)), hs.LAWS["power_law"], RowFilter(target="error"))
    basis = np.linalg.qr(np.vander(np.linspace(-1, 1, len(SIZES)), 3))[0]
    noise = np.random.default_rng(0).standard_normal((400, len(SIZES)))
    noise = noise - noise @ basis @ basis.T
    of_noise = [misfit(residual, rows, basis) for residual in noise]
    assert abs(np.mean(of_noise)) < 0.35 and 0.7 < np.std(of_noise) < 1.6
    assert misfit(np.sin(np.linspace(0, 9, len(SIZES))), rows, basis) > 5


def test_a_stored_law_keeps_its_band(tmp_path):
    fit = hs.fit_law(curve(steepening(SIZES)), "power_law", target="error", bootstrap=100)
    fit.save_pretrained(tmp_path)
    at = {"n_pretrain": SIZES[-1] * np.array([2.0, 9.0])}
    pd.testing.assert_frame_equal(hs.LawFit.from_pretrained(tmp_path).predict(at), fit.predict(at))


def test_a_mixture_has_an_error_of_its_own():
    fit = hs.fit_law(curve(steepening(SIZES)), "auto", target="error", bootstrap=60)
    assert fit.law == "mixture"
    assert fit.data["discrepancy"]["windows"] >= 3


def test_misses_that_the_laws_disagreement_covers_are_not_counted_again():
    rows = select_rows(curve(power(SIZES)), hs.LAWS["power_law"], RowFilter(target="error"))
    windows, target = expanding_windows(rows, 4), np.log(rows.target)
    values, basis = (
        np.stack([target + 0.1 * w.distance for w in windows]),
        np.ones((len(SIZES), 1)) / np.sqrt(len(SIZES)),
    )
    wave, ones = 0.1 * np.sin(np.linspace(0, 9, len(SIZES))), np.ones(len(SIZES))

    def per_log(spread):
        held_out = HeldOut(windows, values, basis, spread)
        return estimate_discrepancy(held_out, rows, target, ones, target - wave, True)["per_log"]

    # The windows miss by 0.1 per factor of e, and the prior of 0.02 weighs as much as two of them.
    count = len(windows)
    assert per_log(np.zeros_like(values)) == pytest.approx(
        np.sqrt((count * 0.01 + 2 * 0.0004) / (count + 2)), rel=0.05
    )
    assert per_log(np.full_like(values, 9.0)) < 0.02
