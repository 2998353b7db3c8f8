"""Costs of a plan: compute as in the table, teachers, reuse, both arms, saved laws, invalid arguments."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.planning.costs import compute_of, cost_model
from hf_scaling.results import SCHEMA
from hf_scaling.text import format_count

sys.path.insert(0, str(Path(__file__).parent / "support"))
from plans import PRETRAIN, TEACHER, planted, samples, table

ROOT = Path(__file__).parents[1]
KEPT = Path(__file__).parent / "data" / "law_v1"
COSTS = {"label": 0.5, "flop": 1e-10}


@pytest.fixture(scope="module")
def plain():
    return hs.fit_law(table(), "transfer_gap", bootstrap=20)


@pytest.fixture(scope="module")
def distilled():
    return hs.fit_law(table("distilled"), "transfer_gap", bootstrap=20)


@pytest.mark.parametrize("n_pretrain", [100, 250, 700, 4000, 11_000, 32_000, 64_000])
def test_samples_seen_follow_the_table(plain, n_pretrain):
    """Between and beyond the measured sizes: the minimum number of steps below, the passes of the largest above."""
    model = cost_model(plain.columns.values(), compute_of(plain), COSTS)
    paid = model.parts({"n_params": np.array([1e5]), "n_pretrain": np.array([float(n_pretrain)])})
    assert paid["pretrain_compute"][0] == pytest.approx(1e-10 * 6e5 * samples(PRETRAIN, n_pretrain), rel=1e-9)


def test_fine_tuning_has_a_cost(plain):
    planned = hs.plan(plain, 1000, COSTS)
    expected = 1e-10 * 6e5 * max(5000.0, 10.0 * planned.allocation["n_finetune"])
    assert planned.cost["finetune_compute"] == pytest.approx(expected, rel=1e-9)
    assert planned.cost["total"] == pytest.approx(sum(v for k, v in planned.cost.items() if k != "total"))


def test_epochs_override_the_table(plain):
    planned = hs.plan(plain, 1000, COSTS, epochs=1)
    assert planned.cost["pretrain_compute"] == pytest.approx(1e-10 * 6e5 * planned.allocation["n_pretrain"], rel=1e-9)
    assert "passes_not_measured" in [n["code"] for n in planned.notes]
    same = hs.plan(plain, 1000, COSTS, epochs=10)
    assert "passes_not_measured" not in [n["code"] for n in same.notes]


def test_an_hour_is_converted_by_the_pace_of_the_table_or_the_one_given(plain):
    by_table = hs.plan(plain, 1000, {"label": 0.5, "hour": 3600.0})
    by_flop = hs.plan(plain, 1000, {"label": 0.5, "flop": 1e-10})
    given = hs.plan(plain, 1000, {"label": 0.5, "hour": 3600.0}, flops_per_second=1e10)
    assert by_table.allocation == by_flop.allocation == given.allocation
    pace = next(n["text"] for n in by_table.notes if n["code"] == "pace")
    assert "cpu" in pace and format_count(3.6e13) in pace
    assert "pace" not in [n["code"] for n in given.notes]


def test_reuse_shares_the_pre_training(plain):
    one, ten = (hs.plan(plain, 1000, COSTS, reuse=reuse) for reuse in (1, 10))
    assert ten.allocation["n_pretrain"] > one.allocation["n_pretrain"]
    whole = 1e-10 * 6e5 * samples(PRETRAIN, ten.allocation["n_pretrain"])
    assert ten.cost["pretrain_compute"] == pytest.approx(whole / 10, rel=1e-9)


def test_a_teacher_is_paid_for_unless_it_is_free(distilled):
    planned = hs.plan(distilled, 1000, COSTS)
    seen = samples(PRETRAIN, planned.allocation["n_pretrain"])
    # A forward pass on every sample (2 per parameter), and training on the same images (three forward passes each).
    assert planned.cost["teacher_compute"] == pytest.approx(1e-10 * (2 + 6) * TEACHER * seen, rel=1e-9)
    free = hs.plan(distilled, 1000, COSTS, teacher_free=True)
    assert free.cost["teacher_compute"] == 0
    assert free.predicted["value"] < planned.predicted["value"]


def test_an_external_teacher_costs_its_own_images_once():
    fit = hs.fit_law(table("distilled", own_images=False), "transfer_gap", bootstrap=0)
    planned = hs.plan(fit, 1000, COSTS)
    seen = samples(PRETRAIN, planned.allocation["n_pretrain"])
    expected = 1e-10 * TEACHER * (2 * seen + 6 * samples(PRETRAIN, 4000))
    assert planned.cost["teacher_compute"] == pytest.approx(expected, rel=1e-9)
    unknown = table("distilled").drop(columns="teacher_n_pretrain")
    planned = hs.plan(hs.fit_law(unknown, "transfer_gap", bootstrap=0), 1000, COSTS)
    assert "teacher_training_unknown" in [n["code"] for n in planned.notes]


def test_a_saved_law_gives_the_same_plan(plain, tmp_path):
    plain.save_pretrained(tmp_path)
    saved = hs.LawFit.from_pretrained(tmp_path)
    assert saved.data["compute"] == plain.data["compute"]
    assert hs.plan(saved, 1000, COSTS).summary() == hs.plan(plain, 1000, COSTS).summary()


def test_the_error_for_a_law_of_an_older_version_names_the_arguments():
    saved = hs.LawFit.from_pretrained(KEPT)
    labels_only = hs.plan(saved, 1000, {"label": 0.5, "pretrain_image": 1e-7})
    assert labels_only.cost["total"] == pytest.approx(1000, rel=1e-3)
    with pytest.raises(hs.InputError, match=r"table=.*flops_per_param="):
        hs.plan(saved, 1000, COSTS)
    with pytest.raises(hs.InputError, match="flops_per_second="):
        hs.plan(saved, 1000, {"hour": 1.0})
    by_table = hs.plan(saved, 1000, COSTS, table=table())
    assert by_table.cost["pretrain_compute"] > 0


def test_cost_columns_that_are_not_numbers_do_not_break_the_fit():
    frame = table().assign(seconds="unknown", train_flops=lambda f: f["train_flops"].astype(object))
    frame.loc[0, "train_flops"] = "n/a"
    fit = hs.fit_law(frame, "transfer_gap", bootstrap=0)
    assert "flops_per_second" not in fit.data["compute"]
    assert hs.plan(fit, 1000, COSTS).cost["pretrain_compute"] > 0


def test_published_rows_without_samples_count_one_pass():
    sizes = np.array([(m, d) for m in (1e7, 1e8, 1e9) for d in (1e8, 1e9, 1e10, 1e11)])
    loss = hs.LAWS["chinchilla"].predict(
        (1.8, 480.0, 0.35, 2085.0, 0.37), {"n_params": sizes[:, 0], "n_pretrain": sizes[:, 1]}
    )
    frame = pd.DataFrame(
        {"n_params": sizes[:, 0], "n_pretrain": sizes[:, 1], "train_flops": 6 * sizes.prod(1), "loss": loss}
    )
    planned = hs.plan(hs.fit_law(frame, "chinchilla", bootstrap=0), 1e19, {"flop": 1})
    assert 6 * planned.allocation["n_params"] * planned.allocation["n_pretrain"] == pytest.approx(1e19, rel=1e-6)
    assert "one_pass" in [n["code"] for n in planned.notes]


def test_the_better_arm_is_chosen_with_its_probability():
    better = {"A": 24.0}
    fits = {"plain": planted("transfer_gap", spread=0.02), "distilled": planted("transfer_gap", better, spread=0.02)}
    planned = hs.plan(fits, 1000, COSTS, n_params=1e5)
    assert planned.allocation["arm"] == "distilled"
    arms = planned.arms.set_index("arm")
    # The two fits share their scatter, as fits of equal configurations and seeds share their draws.
    assert arms["p_better"]["distilled"] == 1.0 and arms["p_better"]["plain"] == 0.0
    assert set(planned.frontier["arm"]) <= {"plain", "distilled"}


def test_the_arm_depends_on_the_budget_where_the_laws_cross():
    fits = {
        "plain": planted("chinchilla", {"B": 120.0, "beta": 0.45, "E": 0.25}, draws=0),
        "distilled": planted("chinchilla", {"B": 8.0, "beta": 0.25, "E": 0.25}, draws=0),
    }
    arms = hs.plan(fits, 100, {"flop": 1e-10}).frontier["arm"].tolist()
    assert arms[0] == "distilled" and arms[-1] == "plain"


def test_equal_arms_are_not_told_apart():
    fits = {"plain": planted("transfer_gap", spread=0.1), "distilled": planted("transfer_gap", spread=0.1, seed=1)}
    planned = hs.plan(fits, 1000, COSTS, n_params=1e5)
    assert 0.3 < planned.arms["p_better"].iloc[0] < 0.7
    assert planned.verdict != "clear"
    assert {"arms_open", "arms_unpaired"} <= {n["code"] for n in planned.notes}


@pytest.mark.parametrize(
    "change, named",
    [
        ({"budget": 0}, "budget"),
        ({"budget": "many"}, "budget"),
        ({"budget": 1e-6}, "budget"),
        ({"costs": {"labels": 1}}, "costs.*'labels'"),
        ({"costs": {"label": -1}}, "costs.*label"),
        ({"costs": {}}, "costs"),
        ({"costs": 5}, "costs"),
        ({"n_params": "all"}, "n_params"),
        ({"epochs": -1}, "epochs"),
        ({"reuse": 0}, "reuse"),
        ({"at_most": {"n_params": 5}}, "at_most.*'n_params'"),
        ({"at_most": {"n_pretrain": "x"}}, "at_most n_pretrain"),
        ({"level": 2}, "level"),
        ({"fit": {}}, "plan"),
        ({"fit": "results"}, "plan"),
    ],
)
def test_errors_name_the_argument(plain, change, named):
    given = {"fit": plain, "budget": 1000, "costs": COSTS, **change}
    with pytest.raises(hs.InputError, match=named):
        hs.plan(**given)


def test_laws_of_other_variables_and_rising_laws_are_refused():
    fit = planted("chinchilla", draws=0)
    other = replace(fit, settings={**fit.settings, "columns": {"n_params": "n_params", "n_pretrain": "teacher_loss"}})
    with pytest.raises(hs.InputError, match="teacher_loss"):
        hs.plan(other, 100, COSTS)
    rising = replace(
        fit, definition=hs.Law("rises", "A*n_params**a*n_pretrain**b", kinds={"a": "shape", "b": "shape"})
    )
    rising = replace(rising, params={"A": 1.0, "a": 0.1, "b": 0.1}, law="rises")
    with pytest.raises(hs.InputError, match=r"rises.*loss"):
        hs.plan(rising, 100, COSTS)


def test_prices_that_buy_nothing_of_the_law_are_refused():
    with pytest.raises(hs.InputError, match=r"chinchilla.*n_params, n_pretrain"):
        hs.plan(planted("chinchilla", draws=0), 100, {"label": 1})


def test_several_model_sizes_that_the_law_ignores_need_n_params():
    with pytest.raises(hs.InputError, match="n_params="):
        hs.plan(planted("transfer_gap", draws=0), 1000, COSTS)
    assert (
        hs.plan(planted("transfer_gap", draws=0), 1000, {"label": 1, "pretrain_image": 0.1}).allocation["n_params"]
        is None
    )


def test_a_real_study_plans():
    """Fashion-MNIST as measured: one of its model sizes, images and compute alone."""
    rows = pd.read_parquet(ROOT / "tests" / "data" / "fashion_mnist" / "results.parquet")
    assert set(rows.columns) <= set(SCHEMA)
    rows = rows[(rows["arm"] == "plain") & (rows["model"] == "vit-200k")]
    fit = hs.fit_law(rows, "power_law", bootstrap=100)
    planned = hs.plan(fit, 0.5, {"hour": 1.0})
    assert planned.allocation["n_params"] == 211_338
    assert planned.predicted["low"] < planned.predicted["value"] < planned.predicted["high"]
    assert 0 < planned.cost["pretrain_compute"] <= 0.5 * (1 + 1e-9)
