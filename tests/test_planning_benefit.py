"""`compare_benefits`: planted differences are found, equal sets seldom differ, unlike ones are not compared."""

import numpy as np
import pandas as pd
import pytest

import hf_scaling as hs
from hf_scaling.planning.benefit import COLUMNS, compare_benefits, compare_stages
from hf_scaling.report import collect_findings
from hf_scaling.report.headlines import headlines
from hf_scaling.report.sections import sections_of

LEVELS, LABELS = (1e5, 1e6, 1e7), (1e3, 1e4, 1e5)


def fine_tuned(benefits, seeds=3, noise=0.02, seed=0):
    """A set a benefit: its loss falls by it, as a logarithm, over the levels; checkpoints have luck of their own."""
    draw = np.random.default_rng(seed)
    luck = draw.normal(0, 0.05, (seeds, len(LEVELS)))
    return {
        name: pd.DataFrame(
            {
                "seed": at,
                "n_pretrain": n_pretrain,
                "n_finetune": n_finetune,
                "value": np.exp(1 - benefit * step / 2 - 0.1 * place + luck[at, step] + draw.normal(0, noise)),
            }
            for at in range(seeds)
            for step, n_pretrain in enumerate(LEVELS)
            for place, n_finetune in enumerate(LABELS)
        )
        for name, benefit in benefits.items()
    }


def test_planted_benefits_are_found_and_ordered():
    found = compare_benefits(fine_tuned({"mid": 0.3, "far": 0.05, "near": 0.5}))
    assert list(found.columns) == list(COLUMNS)
    assert [(row.more, row.less) for row in found.itertuples()] == [("near", "far"), ("mid", "far"), ("near", "mid")]
    assert (found["verdict"] == "differ").all() and (found["n_pretrain"] == 1e7).all()
    assert (found["against"] == 1e5).all()
    first = found.iloc[0]
    # The luck of the checkpoints, which all sets share, is in the benefits but not in their difference.
    assert first["low"] < 0.45 < first["high"] and first["high"] - first["low"] < 0.2
    assert first["benefit_more"] == pytest.approx(1 - np.exp(-0.5), abs=0.08)


def test_intervals_hold_the_truth_and_equal_sets_seldom_differ():
    held = [compare_benefits(fine_tuned({"one": 0.3, "two": 0.2}, seed=n)).iloc[0] for n in range(300)]
    truth = [0.1 if row["more"] == "one" else -0.1 for row in held]
    assert 0.92 <= np.mean([row["low"] < true < row["high"] for row, true in zip(held, truth)]) <= 0.98
    alike = [compare_benefits(fine_tuned(dict.fromkeys("abc", 0.2), seed=n)) for n in range(300)]
    assert np.mean([(table["verdict"] == "differ").any() for table in alike]) < 0.07


def test_labels_that_a_seed_lacks_are_left_out_for_all():
    sets = fine_tuned({"near": 0.5, "far": 0.1})
    whole = compare_benefits(sets).iloc[0]
    lacking = sets | {"far": sets["far"].iloc[:-1]}
    cut = {name: rows[rows["n_finetune"] < LABELS[-1]] for name, rows in sets.items()}
    assert compare_benefits(lacking).iloc[0].to_dict() == compare_benefits(cut).iloc[0].to_dict() != whole.to_dict()


def test_the_largest_model_and_the_widest_span_that_two_seeds_have_are_compared():
    sets = fine_tuned({"near": 0.5, "far": 0.1})
    wanted = compare_benefits(sets)

    def with_more(rows, n_params):
        """A larger model and a smaller n_pretrain of one seed each; heads of the sets differ in size."""
        one_seed = rows[rows["seed"] == 0]
        larger = one_seed.assign(model="vit-800k", n_params=8e5 + n_params)
        smaller = one_seed[one_seed["n_pretrain"] == LEVELS[0]].assign(n_pretrain=1e4, value=9.0)
        own = pd.concat([rows, smaller]).assign(model="vit-200k", n_params=2e5 + n_params)
        return pd.concat([larger, own], ignore_index=True)

    found = compare_benefits({"near": with_more(sets["near"], 0), "far": with_more(sets["far"], 500)})
    pd.testing.assert_frame_equal(found, wanted)
    # Without names models are the same where their n_params are.
    nameless = {name: with_more(rows, 0).drop(columns="model") for name, rows in sets.items()}
    pd.testing.assert_frame_equal(compare_benefits(nameless), wanted)


@pytest.mark.parametrize(
    "sets",
    [
        {},
        fine_tuned({"near": 0.5}),
        fine_tuned({"near": 0.5, "far": 0.1}, seeds=1),
        {name: rows.drop(columns="seed") for name, rows in fine_tuned({"near": 0.5, "far": 0.1}).items()},
        {
            name: rows.assign(n_finetune=rows.n_finetune + len(name))
            for name, rows in fine_tuned({"a": 0, "bb": 0}).items()
        },
        {name: rows.assign(n_params=len(name)) for name, rows in fine_tuned({"a": 0, "bb": 0}).items()},
        {name: rows[rows.n_pretrain == LEVELS[0]] for name, rows in fine_tuned({"near": 0.5, "far": 0.1}).items()},
    ],
    ids=["none", "one set", "one seed", "no seeds", "other labels", "other models", "one n_pretrain"],
)
def test_what_was_not_measured_alike_is_not_compared(sets):
    assert compare_benefits(sets).empty


@pytest.fixture(scope="module")
def table():
    sets = fine_tuned({"near": 0.6, "far": 0.1})
    rows = pd.concat([rows.assign(downstream=name) for name, rows in sets.items()], ignore_index=True)
    return rows.rename(columns={"value": "loss"}).assign(
        stage="finetune", arm="plain", upstream="photos", n_params=1e5
    )


def test_gaps_have_the_contrasts_of_their_sets(table):
    gaps = hs.transfer_gaps(table, "loss", bootstrap=100)
    assert gaps.contrasts[["more", "less", "verdict"]].values.tolist() == [["near", "far", "differ"]]
    # The heads of the sets differ in size, their model does not.
    named = table.assign(model="vit-200k", n_params=table["n_params"] + 65 * (table["downstream"] == "far"))
    pd.testing.assert_frame_equal(hs.transfer_gaps(named, "loss", bootstrap=50).contrasts, gaps.contrasts)
    assert "near more than far" in gaps.summary()
    assert hs.transfer_gaps(gaps.fits, "loss").contrasts.empty


def test_the_report_says_it_first_and_shows_the_pairs(table):
    findings = collect_findings(table, target="loss", bootstrap=100)
    assert any("near more than far" in line.key for line in headlines(findings) if line.code == "transfer")
    section = next(section for section in sections_of(findings) if section.code == "benefit")
    assert section.tables[0].rows[0][0] == "near" and section.tables[0].rows[0][-1] == "differ"


def checkpoints(draw, b=0.4, luck=0.02, noise=0.01, models=(1e5, 2e5), seeds=(0,)):
    """Cells of checkpoints with luck of their own; the value falls as n_finetune^-b."""
    rows = []
    for n_params in models:
        for seed in seeds:
            for n_pretrain in (250, 500, 1000, 2000, 4000, 8000, 16_000):
                own = luck * draw.standard_normal()
                for n_finetune in (250, 630, 1600, 4000, 10_000):
                    value = n_pretrain**-0.1 * n_finetune**-b * np.exp(own + noise * draw.standard_normal())
                    sizes = {"n_params": n_params, "seed": seed, "n_pretrain": n_pretrain, "n_finetune": n_finetune}
                    rows.append({**sizes, "value": value})
    return pd.DataFrame(rows)


def test_intervals_of_twice_the_images_hold_with_luck_of_checkpoints():
    draw = np.random.default_rng(0)
    # A third of the cells is missing, as in a study that chose its runs one by one.
    tables = [checkpoints(draw).sample(frac=2 / 3, random_state=n) for n in range(300)]
    compared = pd.DataFrame(map(compare_stages, tables))
    for name, truth in (("images_doubled", 2**-0.1 - 1), ("labels_doubled", 2**-0.4 - 1)):
        held = (compared[f"{name}_low"] <= truth) & (truth <= compared[f"{name}_high"])
        assert 0.92 <= held.mean() <= 0.98
    assert (compared["helps_more"] == "labels").mean() > 0.95 and "images" not in set(compared["helps_more"])
    equal = [compare_stages(checkpoints(draw, b=0.1))["helps_more"] for _ in range(120)]
    assert np.mean([more != "cannot_tell" for more in equal]) <= 0.08
    fewer = [compare_stages(checkpoints(draw, b=0.02, luck=0.001))["helps_more"] for _ in range(10)]
    assert set(fewer) == {"images"}


def test_too_few_checkpoints_or_labels_show_nothing_of_twice_the_images():
    rows = checkpoints(np.random.default_rng(0), models=(1e5,))
    assert compare_stages(rows)["helps_more"] == "labels"
    assert compare_stages(rows.drop(columns=["seed", "n_params"])) == compare_stages(rows)
    assert compare_stages(rows[rows["n_pretrain"] <= 4000])["over"] == "upper_half"
    assert compare_stages(rows[rows["n_pretrain"].isin([250, 1000, 4000])])["over"] == "all"
    for few in (rows[rows["n_pretrain"].isin([250, 16_000])], rows[rows["n_finetune"] == 250], rows.iloc[:0]):
        stages = compare_stages(few)
        assert stages["helps_more"] == "cannot_tell" and np.isnan(stages["images_doubled"])
