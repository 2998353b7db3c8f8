"""The distillation boundary: planted crossings are located, absent ones are not, unusable tables are named."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from planted_rows import fine_tuned_pairs

import hf_scaling as hs
from hf_scaling.cli import main

LAW = hs.LAWS["power_law"]
PLAIN, DISTILLED = (0.35, 12.0, 0.35), (0.48, 7.2, 0.30)
# Where the two planted laws cross, from a fine grid.
TRUTH = 1421.0


def study(plain=PLAIN, distilled=DISTILLED, noise=0.02, number=0, levels=8, seeds=3, **columns):
    """A table of both arms from planted laws."""
    generator = np.random.default_rng(number)
    sizes = np.repeat(np.geomspace(250, 32_000, levels), seeds)
    table = {"arm": np.repeat(["plain", "distilled"], len(sizes)), "n_pretrain": np.tile(sizes, 2)}
    table["seed"] = np.tile(np.tile(np.arange(seeds), levels), 2)
    values = np.concatenate([LAW.predict(theta, {"x": sizes}) for theta in (plain, distilled)])
    table["loss"] = values * np.exp(noise * generator.standard_normal(len(values)))
    return {**table, **{name: np.resize(value, len(values)) for name, value in columns.items()}}


def test_planted_crossing_is_inside_its_interval():
    held = []
    for number in range(12):
        boundary = hs.find_boundary(study(number=number), bootstrap=300)
        assert boundary.status == "crossing"
        held.append(boundary.low <= TRUTH <= boundary.high)
    # A 95 % interval misses at least 4 of 12 with probability 0.002.
    assert sum(held) >= 9


def test_both_answers_agree_without_noise():
    boundary = hs.find_boundary(study(noise=1e-4), bootstrap=200)
    assert boundary.n_pretrain == pytest.approx(TRUTH, rel=0.01)
    # Linear interpolation between sizes a factor of two apart bends a little.
    assert boundary.law_free["n_pretrain"] == pytest.approx(TRUTH, rel=0.1)


def test_identical_arms_are_not_resolved():
    statuses = [hs.find_boundary(study(distilled=PLAIN, number=n), bootstrap=200).status for n in range(10)]
    assert statuses.count("not_resolved") >= 9


@pytest.mark.parametrize("factor, status", [(0.85, "distillation_always"), (1.15, "distillation_never")])
def test_a_constant_factor_is_always_or_never(factor, status):
    distilled = (PLAIN[0] * factor, PLAIN[1] * factor, PLAIN[2])
    boundary = hs.find_boundary(study(distilled=distilled), bootstrap=200)
    assert boundary.status == status
    assert boundary.n_pretrain is None and boundary.low is None and boundary.high is None


def test_a_zero_outside_the_sizes_is_not_a_crossing():
    table = study(noise=0.005)
    keep = table["n_pretrain"] < 600
    sizes = {name: values[keep] for name, values in table.items()}
    boundary = hs.find_boundary({**sizes}, bootstrap=200)
    assert boundary.status != "crossing"
    assert any(n["code"] in ("extrapolated", "evidence") for n in boundary.notes)


def test_difference_is_plain_minus_distilled_at_every_size():
    boundary = hs.find_boundary(study(noise=0.002), bootstrap=200)
    table = boundary.difference
    assert list(table["n_pretrain"]) == sorted(set(study()["n_pretrain"]))
    assert table["difference"].iloc[0] > 0 > table["difference"].iloc[-1]
    assert (table["low"] <= table["difference"]).all() and (table["difference"] <= table["high"]).all()
    assert np.allclose(table["measured"], table["difference"], atol=0.02)
    assert (table["n_pairs"] == 3).all()


def test_boundary_moves_with_model_size():
    # The plain arm gains more from size than the one taught by a small teacher.
    arms = {"plain": (0.2, 10.0, 0.3, 12.0, 0.35), "distilled": (0.45, 3.0, 0.2, 7.2, 0.30)}
    chinchilla, n_params = hs.LAWS["chinchilla"], np.repeat([1e5, 4e5, 1.6e6], 24)
    base = study(noise=0.0)
    table = {name: np.concatenate([np.tile(v[:24], 3), np.tile(v[24:], 3)]) for name, v in base.items()}
    table["n_params"] = np.tile(n_params, 2)
    sizes = {"n_params": n_params, "n_pretrain": table["n_pretrain"][:72]}
    table["loss"] = np.concatenate([chinchilla.predict(theta, sizes) for theta in arms.values()])
    table["loss"] *= np.exp(0.003 * np.random.default_rng(0).standard_normal(144))
    boundary = hs.find_boundary(table, bootstrap=200)
    assert set(boundary.sizes) == {"n_params"}
    assert boundary.at(n_params=1e5).n_pretrain > 1.1 * boundary.at(n_params=1.6e6).n_pretrain
    with pytest.raises(hs.InputError, match="n_finetune"):
        boundary.at(n_finetune=10)


def test_each_model_size_has_its_own_crossing_and_shares_the_shape():
    # The larger the student, the earlier and the harder its teacher's floor holds it back.
    sizes, parts = (1e5, 2e5, 4e5), []
    for number, size in enumerate(sizes):
        taught = (0.42 + 0.06 * number, 7.2, 0.30)
        parts.append(study(distilled=taught, noise=0.01, number=number, n_params=[size]))
    table = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    boundary = hs.find_boundary(table, bootstrap=200)
    widths = []
    for number, size in enumerate(sizes):
        alone = hs.find_boundary({name: v for name, v in parts[number].items() if name != "n_params"}, bootstrap=200)
        there = boundary.at(n_params=size)
        assert alone.low < there.n_pretrain < alone.high
        widths.append(np.log(there.high / there.low) / np.log(alone.high / alone.low))
    assert np.mean(widths) < 1
    assert (
        boundary.at(n_params=4e5).n_pretrain
        < boundary.at(n_params=3e5).n_pretrain
        < boundary.at(n_params=2e5).n_pretrain
    )
    with pytest.raises(hs.InputError, match="n_params 4e\\+07"):
        boundary.at(n_params=4e7)


def bent(number, shape, crossing=1500.0, noise=0.02, seeds=3):
    """A table whose arms' log ratio is not the difference of two laws."""
    table = study(distilled=PLAIN, noise=0.0, number=number, seeds=seeds)
    generator = np.random.default_rng([number, 9])
    distance = np.log(table["n_pretrain"] / crossing)
    ratio = {"dip": -0.2 * distance * np.exp(-np.clip(distance, -1.2, None) / 1.5), "flat": -0.1 * np.tanh(distance)}
    table["loss"] *= np.exp(-ratio[shape] * (table["arm"] == "distilled"))
    table["loss"] *= np.exp(noise * generator.standard_normal(len(table["loss"])))
    return table


@pytest.mark.parametrize("shape", ["dip", "flat"])
def test_crossings_of_bent_ratios_are_inside_their_intervals(shape):
    held = []
    for number in range(12):
        boundary = hs.find_boundary(bent(number, shape), bootstrap=300)
        assert boundary.status == "crossing" and boundary.high < 2.5 * boundary.low
        held.append(boundary.low <= 1500 <= boundary.high)
    assert sum(held) >= 9


def test_compute_matched_view_counts_the_teacher():
    table = study(noise=0.005)
    table["train_flops"] = table["n_pretrain"] * 1e6
    table["teacher_flops"] = np.where(table["arm"] == "distilled", table["n_pretrain"] * 5e5, np.nan)
    boundary = hs.find_boundary(table, x="train_flops", bootstrap=200)
    assert boundary.teacher_not_counted.n_pretrain == pytest.approx(TRUTH * 1e6, rel=0.05)
    # Half as dear again, the distilled arm is overtaken earlier.
    assert boundary.n_pretrain < boundary.teacher_not_counted.n_pretrain


def test_sizes_trained_with_the_same_flops_are_noted():
    table = study(noise=0.005)
    table["train_flops"] = np.maximum(table["n_pretrain"], 1_500) * 1e6
    boundary = hs.find_boundary(table, x="train_flops", bootstrap=200)
    (text,) = [n["text"] for n in boundary.notes if n["code"] == "equal_flops"]
    assert str((np.unique(table["n_pretrain"]) < 1_500).sum()) in text


def test_equal_seeds_give_equal_boundaries():
    one, two = (hs.find_boundary(study(), bootstrap=200, seed=3) for _ in range(2))
    assert (one.low, one.high) == (two.low, two.high)


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda t: t.pop("arm"), "arm"),
        (lambda t: t.update(arm=np.repeat("plain", len(t["loss"]))), "'distilled'"),
        (lambda t: t.update(seed=np.arange(len(t["loss"]))), "n_pretrain, seed"),
        (lambda t: t.update(distillation=np.resize(["a", "b"], len(t["loss"]))), "distillation: a, b"),
        (lambda t: t.update(recipe=np.tile(["a", "b"], len(t["loss"]) // 2)), "recipe: a, b"),
        (lambda t: t["loss"].__setitem__(3, np.nan), "row 3"),
    ],
)
def test_unusable_tables_are_named(change, words):
    table = study()
    change(table)
    with pytest.raises(hs.InputError, match=words):
        hs.find_boundary(table, bootstrap=200)


def test_command_prints_the_keys_of_the_api(tmp_path, capsys):

    path = tmp_path / "results.csv"
    pd.DataFrame(study()).to_csv(path, index=False)
    with pytest.raises(SystemExit) as end:
        main(["boundary", str(path), "--bootstrap", "200", "--json"])
    assert end.value.code == 0
    content = json.loads(capsys.readouterr().out)
    assert content["status"] == "crossing" and content["low"] < content["n_pretrain"] < content["high"]
    with pytest.raises(SystemExit) as end:
        main(["boundary", str(path), "--bootstrap", "200"])
    assert "crossing" in capsys.readouterr().out


MEASURED = Path(__file__).parent / "data" / "fashion_mnist"


def test_measured_loss_boundary_lies_between_the_sizes_for_every_model():
    boundary = hs.find_boundary(MEASURED, target="loss", bootstrap=300)
    assert boundary.status == "crossing"
    assert 500 < boundary.low < boundary.n_pretrain < boundary.high < 4_000
    for n_params in (121_642, 211_338, 464_458):
        there = boundary.at(n_params=n_params)
        assert there.status == "crossing"
        # The paired differences alone agree: the two intervals overlap.
        assert there.low < there.law_free["high"] and there.law_free["low"] < there.high


def test_measured_error_has_no_boundary_inside():
    boundary = hs.find_boundary(MEASURED, target="error", bootstrap=300)
    assert boundary.status in ("distillation_never", "not_resolved")


def test_a_lead_that_fades_is_described_level_by_level():
    draw, rows, sizes = np.random.default_rng(0), [], [250, 500, 1000, 2000, 4000, 8000]
    for n in sizes:
        for seed in range(6):
            plain = 0.3 + 30 * n**-0.35
            # The lead of the distilled students goes from a tenth towards half a percent.
            for arm, loss in (("plain", plain), ("distilled", plain * np.exp(-0.005 - 0.1 * (250 / n) ** 2))):
                loss *= np.exp(0.008 * draw.standard_normal())
                rows.append({"arm": arm, "n_pretrain": n, "seed": seed, "loss": loss, "n_params": 1e5})
    boundary = hs.find_boundary(pd.DataFrame(rows), bootstrap=400)
    (first, last), *_ = boundary.leads["distilled"]
    assert boundary.status == "not_resolved" and first == 250 and last < 8000 and "plain" not in boundary.leads
    assert boundary.alike and boundary.alike[0][0] > 500
    # A size is in one of the two.
    described = [n for n in sizes for low, high in [*boundary.leads["distilled"], *boundary.alike] if low <= n <= high]
    assert len(described) == len(set(described))


def test_the_first_study_answers_for_ten_of_ten_seeds():
    rows = pd.read_parquet(MEASURED.parent / "demo_seeds" / "results.parquet")
    statuses = [hs.find_boundary(own, target="loss", bootstrap=200).status for _, own in rows.groupby("seed")]
    assert statuses == ["distillation_never"] * 10
    # No run is worse than guessing, and the plain students' losses fall from 3,200 characters on.
    assert rows["loss"].max() < np.log(10)
    plain = rows[(rows["arm"] == "plain") & (rows["n_pretrain"] >= 3_200)]
    means = plain.groupby(["model", "n_pretrain"])["loss"].mean().unstack()
    assert (means.diff(axis=1).iloc[:, 1:] < 0).all(axis=None)


def test_pairs_of_one_parent_share_their_luck():
    truth, held, wider = 4 ** (1 / 0.18), [], []
    for seed in range(6):
        table = fine_tuned_pairs(np.random.default_rng(seed))
        clustered = hs.find_boundary(table, target="loss", downstream="d", bootstrap=100)
        alone = hs.find_boundary(table.drop(columns="parent"), target="loss", downstream="d", bootstrap=100)
        assert "clusters" in [n["code"] for n in clustered.notes] and clustered.status == "crossing"
        assert "clusters" not in [n["code"] for n in alone.notes]
        assert clustered.low < alone.n_pretrain < clustered.high
        held.append(clustered.low <= truth <= clustered.high)
        wider.append(np.log(clustered.high / clustered.low) / np.log(alone.high / alone.low))
    assert sum(held) >= 5 and np.mean(wider) > 1.3


@pytest.mark.parametrize("arm", ["hint", None])
def test_rows_of_neither_arm_are_counted(arm):
    table = pd.DataFrame(study())
    extra = table[table["arm"] == "plain"].assign(arm=arm)
    boundary = hs.find_boundary(pd.concat([table, extra], ignore_index=True), bootstrap=100)
    (other,) = [n for n in boundary.notes if n["code"] == "other_arms"]
    assert (
        str(len(extra)) in other["text"] and boundary.n_pretrain == hs.find_boundary(table, bootstrap=100).n_pretrain
    )
