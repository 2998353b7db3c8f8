"""`transfer_gaps`: verdicts on planted gaps, and the planted worth of pre-training in labels."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.planning.verdicts import GAP_VERDICTS

sys.path.insert(0, str(Path(__file__).parent / "support"))
from plans import planted

SHARED = Path(__file__).parents[2] / "shared" / "data"
TRUTH = {"A": 30.0, "alpha": 0.5, "G": 1.0, "beta": 0.3, "E": 0.1}
SCRATCH = {"E": 0.1, "A": 5.0, "a": 0.25}
N_PRETRAIN = np.array([500.0, 2000, 8000, 32_000, 128_000])
N_FINETUNE = np.array([50.0, 200, 800, 3200, 12_800])


def table(noise=0.01, seed=0, scratch=True, **changes):
    """A study of one downstream set; rows without pre-training follow their own power law."""
    truth, generator = TRUTH | changes, np.random.default_rng(seed)
    sizes = np.array([(p, f) for p in N_PRETRAIN for f in N_FINETUNE])
    columns = {"n_pretrain": sizes[:, 0], "n_finetune": sizes[:, 1]}
    frame = pd.DataFrame({**columns, "loss": hs.LAWS["transfer_gap"].predict(truth, columns)})
    if scratch:
        alone = hs.LAWS["power_law"].predict(SCRATCH, {"x": N_FINETUNE})
        frame = pd.concat([frame, pd.DataFrame({"n_pretrain": 0.0, "n_finetune": N_FINETUNE, "loss": alone})])
    return frame.assign(loss=frame["loss"] * np.exp(noise * generator.standard_normal(len(frame))), downstream="one")


# Above the floor at 128,000 images are A 128000^-alpha = 0.084, which images may close, and G.
@pytest.mark.parametrize("gap, verdict", [(0.005, "low"), (1.0, "high"), (0.084, "cannot_tell")])
def test_planted_gaps_get_their_verdict(gap, verdict):
    gaps = hs.transfer_gaps(table(G=gap), bootstrap=200)
    row = gaps.table.iloc[0]
    assert row["verdict"] == verdict
    assert row["low"] <= gap <= row["high"]
    share = gap / (gap + TRUTH["A"] * N_PRETRAIN[-1] ** -TRUTH["alpha"])
    assert row["share_low"] <= share <= row["share_high"]
    above = gaps.fits["one"].values({"n_pretrain": N_PRETRAIN[-1:], "n_finetune": N_FINETUNE[-1:]})[0]
    floor = gaps.fits["one"].params["E"]
    assert row["never_closed"] + row["closable"] == pytest.approx(above - floor, rel=1e-9)
    assert verdict in gaps.summary()


@pytest.mark.parametrize("name", ["transfer_gap", "transfer_gap_shifted", "transfer_gap_joint"])
def test_worth_is_what_the_law_at_fewer_images_needs(name):
    fit = planted(name, spread=0.02)
    gaps = hs.transfer_gaps(fit)
    p, shift = fit.params, fit.params.get("D0", 0.0)
    never = p["G"] + p.get("H", 0.0) * 1.6e6 ** -p.get("delta", 0.0)
    ratio = (p["A"] * 250 ** -p["alpha"] + never) / (p["A"] * 32_000 ** -p["alpha"] + never)
    for row in gaps.worth.to_dict("records"):
        labelled = row["n_finetune"]
        exact = (labelled + shift) * ratio ** (1 / p["beta"]) - shift - labelled
        assert row["worth"] == pytest.approx(exact, rel=1e-9)
        assert row["worth_low"] < exact < row["worth_high"]
        assert np.isnan(row["from_scratch"])
    assert list(gaps.worth["n_finetune"]) == [20.0, 500.0, 5000.0]


def test_worth_against_no_pre_training_comes_from_its_own_rows():
    gaps = hs.transfer_gaps(table(), bootstrap=200)
    row = gaps.worth.iloc[0]
    target = (TRUTH["A"] * N_PRETRAIN[-1] ** -TRUTH["alpha"] + TRUTH["G"]) * N_FINETUNE[0] ** -TRUTH["beta"] + TRUTH[
        "E"
    ]
    exact = (SCRATCH["A"] / (target - SCRATCH["E"])) ** (1 / SCRATCH["a"]) - N_FINETUNE[0]
    assert row["from_scratch"] == pytest.approx(exact, rel=0.2)
    assert row["from_scratch_low"] < exact < row["from_scratch_high"]
    assert "against 0" in gaps.summary()  # the column of the table


def test_rows_from_scratch_belong_to_no_arm():
    """They hold no pre-training, so the arm and the upstream set that choose the others leave them in."""
    frame = table().assign(arm="distilled", upstream="glyphs")
    frame.loc[frame["n_pretrain"] == 0, ["arm", "upstream"]] = ["plain", None]
    gaps = hs.transfer_gaps(frame.reset_index(drop=True), arm="distilled", upstream="glyphs", bootstrap=50)
    assert gaps.worth["from_scratch"].notna().all()


def test_no_amount_of_labels_may_be_enough():
    """From scratch a floor of 0.1 stays; pre-trained it is far lower, and at 12,800 images well below that."""
    gaps = hs.transfer_gaps(table(E=0.01, G=0.01, noise=0.002), bootstrap=100)
    row = gaps.worth.iloc[-1]
    assert np.isinf(row["from_scratch"])


def test_without_rows_from_scratch_their_worth_is_nan():
    gaps = hs.transfer_gaps(table(scratch=False), bootstrap=50)
    assert gaps.worth["from_scratch"].isna().all()
    assert "no_scratch_rows" in [n["code"] for n in gaps.notes]
    assert "against 0" not in gaps.summary()


def test_each_downstream_set_is_judged_by_itself():
    both = pd.concat([table(G=0.005), table(seed=1).assign(downstream="two")], ignore_index=True)
    gaps = hs.transfer_gaps(both, bootstrap=200)
    assert dict(zip(gaps.table["downstream"], gaps.table["verdict"])) == {"one": "low", "two": "high"}
    alone = hs.transfer_gaps(both, downstream="two", bootstrap=200)
    assert list(alone.table["downstream"]) == ["two"]
    by_fits = hs.transfer_gaps(gaps.fits)
    # A fit has no rows to compare without a law.
    assert (by_fits.table["over"] == "").all() and (gaps.table["over"] != "").all()
    of_laws = gaps.table.columns[: gaps.table.columns.get_loc("images_doubled")]
    pd.testing.assert_frame_equal(by_fits.table[of_laws], gaps.table[of_laws])


def test_a_set_that_cannot_be_fitted_leaves_the_others():
    few = table(seed=1).iloc[:3].assign(downstream="few")
    gaps = hs.transfer_gaps(pd.concat([table(), few], ignore_index=True), bootstrap=50)
    assert list(gaps.table["downstream"]) == ["one"]
    assert any(n["code"] == "not_fitted" and n["text"].startswith("few: ") for n in gaps.notes)
    with pytest.raises(hs.InputError, match=r"transfer_gap.*3"):
        hs.transfer_gaps(few)


@pytest.mark.parametrize(
    "given, named",
    [
        ({"table": planted("chinchilla")}, "chinchilla"),
        ({"table": planted("transfer_gap", draws=0)}, "bootstrap"),
        ({"table": table(), "law": "chinchilla"}, "chinchilla.*transfer_gap"),
        ({"table": table().drop(columns="n_pretrain")}, "'n_pretrain'"),
        ({"table": table(), "downstream": "three"}, "downstream='three'"),
    ],
)
def test_errors_name_what_is_wrong(given, named):
    with pytest.raises(hs.InputError, match=named):
        hs.transfer_gaps(**given)


def test_a_plan_has_the_gap_of_its_law():
    gaps = hs.plan(planted("transfer_gap", {"G": 3.0}, spread=0.02), 1000, {"label": 0.5, "pretrain_image": 0.01})
    assert gaps.gap["verdict"] == "high"
    assert GAP_VERDICTS["high"] in gaps.summary()


@pytest.mark.skipif(not SHARED.exists(), reason="needs ../shared/data")
def test_a_published_study_is_judged():
    """Mikami et al. 2021, synthetic images to real ones: five models, rows from scratch for each."""
    gaps = hs.transfer_gaps(SHARED / "syn2real_transfer.csv", target="error", law="transfer_gap_joint", bootstrap=100)
    row = gaps.table.iloc[0]
    assert row["verdict"] in ("low", "high", "cannot_tell")
    assert 0 <= row["share_low"] <= row["share"] <= row["share_high"] <= 1
    assert (gaps.worth["worth"] > 0).all()
    # The more labelled images, the more of them the same pre-training is worth.
    assert gaps.worth["worth"].is_monotonic_increasing
