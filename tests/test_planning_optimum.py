"""`plan`: the optimum equals brute force and closed forms, and uncertainty is reported."""

import sys
from pathlib import Path

import numpy as np
import pytest

import hf_scaling as hs
from hf_scaling.text import format_count

sys.path.insert(0, str(Path(__file__).parent / "support"))
from plans import MODELS, SMALL, brute_force, planted, price

COSTS = {"label": 0.5, "flop": 1e-10}


def sizes_of(planned):
    return {name: np.array([float(v or 0)]) for name, v in planned.allocation.items() if name != "arm"}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("budget", [60, 3000])
def test_the_optimum_is_that_of_brute_force(name, budget):
    fit = planted(name, draws=0, x="n_finetune" if name == "bnsl" else "n_pretrain")
    given = {} if "n_params" in fit.columns.values() else {"n_params": MODELS[0]}
    planned = hs.plan(fit, budget, COSTS, **given)
    difference = planned.predicted["value"] / brute_force(fit, budget, COSTS) - 1
    # Never above the grid, and below it by no more than the grid is coarse.
    assert -0.005 < difference < 1e-6
    assert planned.cost["total"] <= budget * (1 + 1e-6)
    sizes = sizes_of(planned)
    assert planned.cost["total"] == pytest.approx(float(price(COSTS, *sizes.values())[0]), rel=1e-6)


@pytest.mark.parametrize("budget", [1e13, 1e15, 1e17])
def test_chinchilla_at_equal_compute_has_the_closed_form(budget):
    fit, p = planted("chinchilla", draws=0), SMALL["chinchilla"]
    planned = hs.plan(fit, budget, {"flop": 1}, n_params="any", flops_per_param=6, epochs=1)
    # Hoffmann et al. 2022, equation 4: M* = G (C/6)^(beta/(alpha+beta)), D* = (C/6)/M*.
    both = p["alpha"] + p["beta"]
    g = (p["alpha"] * p["A"] / (p["beta"] * p["B"])) ** (1 / both)
    model = g * (budget / 6) ** (p["beta"] / both)
    assert planned.allocation["n_params"] == pytest.approx(model, rel=2e-3)
    assert planned.allocation["n_pretrain"] == pytest.approx(budget / 6 / model, rel=2e-3)


@pytest.mark.parametrize("name", ["transfer_gap", "transfer_gap_shifted", "effective_data", "rectified_joint"])
def test_linear_costs_end_at_equal_marginal_gain_per_cost(name):
    costs = {"label": 0.5, "pretrain_image": 0.002}
    planned = hs.plan(planted(name, draws=0), 20_000, costs, n_params=1e5)
    gains = planned.marginal.set_index("size")["per_cost"]
    # Barnett 2024: (dL/dDp)/c_p = (dL/dDf)/c_f; differences of one per cent stand for derivatives.
    assert gains["n_pretrain"] == pytest.approx(gains["n_finetune"], rel=0.01)
    assert planned.cost["total"] == pytest.approx(20_000, rel=1e-3)


def test_equal_marginal_gain_holds_for_the_model_size_too():
    planned = hs.plan(planted("transfer_gap_joint", draws=0), 3e5, COSTS, n_params="any")
    assert planned.allocation["n_pretrain"] > 4000  # beyond the least steps, where compute grows with images
    gains = planned.marginal["per_cost"].to_numpy()
    assert gains == pytest.approx(np.full(3, gains.mean()), rel=0.02)


def test_a_low_gap_buys_images_and_a_high_one_labels():
    costs = {"label": 0.5, "pretrain_image": 0.05}
    shares = []
    for gap in (0.0, 0.3, 10.0):
        planned = hs.plan(planted("transfer_gap", {"G": gap}, draws=0), 10_000, costs, n_params=1e5)
        shares.append(planned.cost["pretrain_image"] / planned.cost["total"])
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.5 > 0.1 > shares[2]


def test_the_frontier_falls_and_contains_the_plan():
    planned = hs.plan(planted("transfer_gap_joint", spread=0.01), 1000, COSTS)
    table = planned.frontier
    assert table["budget"].max() / table["budget"].min() >= 1000
    assert (np.diff(table["value"]) <= 1e-12).all()
    here = table[np.isclose(table["budget"], 1000)].iloc[0]
    assert {name: int(here[name]) for name in ("n_params", "n_pretrain", "n_finetune")} == {
        name: planned.allocation[name] for name in ("n_params", "n_pretrain", "n_finetune")
    }
    assert here["value"] == planned.predicted["value"]
    assert planned.predicted["low"] < here["value"] < planned.predicted["high"]


def test_measured_sizes_are_chosen_unless_any_is_given():
    fit = planted("joint_additive", draws=0)
    measured = hs.plan(fit, 2000, COSTS)
    free = hs.plan(fit, 2000, COSTS, n_params="any")
    given = hs.plan(fit, 2000, COSTS, n_params=[2e5, 3e5])
    assert measured.allocation["n_params"] in MODELS
    assert free.allocation["n_params"] not in MODELS
    assert given.allocation["n_params"] in (200_000, 300_000)
    assert free.predicted["value"] <= min(measured.predicted["value"], given.predicted["value"])


def test_money_saved_by_a_limit_is_spent_elsewhere():
    fit = planted("transfer_gap", draws=0)
    free = hs.plan(fit, 2000, COSTS, n_params=4e5)
    limited = hs.plan(fit, 2000, COSTS, n_params=4e5, at_most={"n_pretrain": 8000})
    assert limited.allocation["n_pretrain"] == 8000 < free.allocation["n_pretrain"]
    assert limited.allocation["n_finetune"] > free.allocation["n_finetune"]
    reached = [n["text"] for n in limited.notes if n["code"] == "limit_reached"]
    assert len(reached) == 1 and "n_pretrain" in reached[0]
    assert "limit_reached" not in [n["code"] for n in free.notes]
    # More of the limited size would gain more per unit of cost than what is bought instead.
    gains = limited.marginal.set_index("size")["per_cost"]
    assert gains["n_pretrain"] > gains["n_finetune"]


def test_a_free_size_is_fixed_at_the_largest_measured():
    planned = hs.plan(planted("transfer_gap", draws=0), 500, {"label": 0.5}, n_params=4e5)
    assert (planned.allocation["n_pretrain"], planned.allocation["n_finetune"]) == (32_000, 1000)
    assert "free_size" in [n["code"] for n in planned.notes]
    assert np.isnan(planned.marginal.set_index("size")["per_cost"]["n_pretrain"])
    more = hs.plan(planted("transfer_gap", draws=0), 500, {"label": 0.5}, n_params=4e5, at_most={"n_pretrain": 64_000})
    assert more.allocation["n_pretrain"] == 64_000


def test_laws_defined_without_pre_training_may_spend_nothing_on_it():
    planned = hs.plan(planted("effective_data", {"k": 1e-6}, draws=0), 60, COSTS, n_params=1.6e6)
    assert planned.allocation["n_pretrain"] == 0
    assert planned.cost["pretrain_compute"] == 0


def test_equal_arguments_give_equal_plans():
    one, two = (hs.plan(planted("transfer_gap_joint", spread=0.05), 800, COSTS) for _ in range(2))
    assert one.summary() == two.summary()


@pytest.mark.parametrize(
    "spread, costs, verdict",
    [
        (0.001, {"label": 0.5, "pretrain_image": 0.05}, "clear"),
        (1.0, {"label": 0.5, "pretrain_image": 0.05}, "cannot_tell"),
        (0.3, {"label": 0.5, "pretrain_image": 1e-9}, "hardly_matters"),
    ],
)
def test_verdicts(spread, costs, verdict):
    planned = hs.plan(planted("transfer_gap", {"G": 0.5, "alpha": 0.3}, spread=spread), 10_000, costs, n_params=1e5)
    assert planned.verdict == verdict, (planned.intervals, planned.regret)
    codes = {"clear": None, "cannot_tell": "allocation_open", "hardly_matters": "flat_optimum"}
    assert (codes[verdict] in [n["code"] for n in planned.notes]) == (verdict != "clear")
    for name, (low, high) in planned.intervals.items():
        assert low <= planned.allocation[name] * (1 + 1e-9) and planned.allocation[name] <= high * (1 + 1e-9)


def test_the_allocation_interval_covers_the_truth():
    """Draws around a wrong estimate: the interval of the best allocation still covers the planted one."""
    truth = hs.plan(planted("transfer_gap", draws=0), 10_000, {"label": 0.5, "pretrain_image": 0.01}, n_params=1e5)
    covered = 0
    for seed in range(20):
        off = 0.1 * np.random.default_rng(seed).standard_normal(5)
        params = {name: value * np.exp(o) for (name, value), o in zip(SMALL["transfer_gap"].items(), off)}
        fit = planted("transfer_gap", params, spread=0.1, seed=seed)
        planned = hs.plan(fit, 10_000, {"label": 0.5, "pretrain_image": 0.01}, n_params=1e5)
        low, high = planned.intervals["n_pretrain"]
        covered += low <= truth.allocation["n_pretrain"] <= high
    # Of 20 intervals at 95 % five misses have a probability of 0.003.
    assert covered >= 16


def test_the_note_on_extrapolation_has_its_factor():
    planned = hs.plan(planted("transfer_gap", draws=0), 1e6, COSTS, n_params=1e5)
    notes = [n for n in planned.notes if n["code"] == "out_of_range"]
    assert len(notes) == 2
    for name, largest in (("n_pretrain", 32_000), ("n_finetune", 5000)):
        factor = planned.allocation[name] / largest
        note = next(n for n in notes if name in n["text"])
        assert format_count(factor) in note["text"] and f"{largest:,}" in note["text"]
        assert note["grade"] == ("error" if factor > 10 else "warn")
    inside = hs.plan(planted("transfer_gap", draws=0), 100, COSTS, n_params=1e5, at_most={"n_pretrain": 32_000})
    assert "out_of_range" not in [n["code"] for n in inside.notes]
