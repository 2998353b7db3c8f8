"""The influence of upstream classes, on planted tables."""

import json

import numpy as np
import pandas as pd
import pytest
import yaml

from hf_scaling import Grid
from hf_scaling.cli import main
from hf_scaling.errors import InputError
from hf_scaling.scores.influence import class_influence


def planted(truth, n_models=60, noise=0.005, seed=0, **columns):
    """Rows of models of random halves of the classes; the error falls by a class's truth where it is there."""
    draw, names = np.random.default_rng(seed), list(truth)
    rows = []
    for _ in range(n_models):
        subset = sorted(draw.permutation(names)[: len(names) // 2].tolist())
        effect = sum(truth[name] for name in subset)
        error = 0.4 - effect + noise * draw.standard_normal()
        fine = json.dumps({"zero": error - effect, "one": error + effect})
        rows.append(
            {"classes": json.dumps(subset), "downstream": "digits", "error": error, "class_errors": fine, **columns}
        )
    return pd.DataFrame(rows)


TRUTH = {"good": 0.05, "bad": -0.05, **{f"c{number}": 0.0 for number in range(10)}}


def test_helpful_and_harmful_classes_are_found():
    found = class_influence(planted(TRUTH), "digits")
    table = found.table.set_index("class")
    assert table.at["good", "verdict"] == "helps" and table.at["bad", "verdict"] == "hurts"
    assert table.at["good", "influence"] == pytest.approx(0.05 * 12 / 11, abs=0.02)
    assert (table.loc[[f"c{number}" for number in range(10)], "verdict"] == "cannot_tell").all()
    assert (table["low"] < table["influence"]).all() and (table["influence"] < table["high"]).all()
    assert found.n_models == 60


def test_nothing_is_found_where_nothing_is():
    wrong = [
        (class_influence(planted(dict.fromkeys(TRUTH, 0.0), seed=seed)).table["verdict"] != "cannot_tell").any()
        for seed in range(20)
    ]
    assert sum(wrong) <= 3


def test_each_downstream_class_has_its_own():
    fine = class_influence(planted(TRUTH)).of_classes.set_index(["downstream_class", "class"])
    assert fine.at[("zero", "good"), "verdict"] == "helps"
    assert fine.at[("zero", "good"), "influence"] > fine.at[("one", "good"), "influence"]
    assert len(class_influence(planted(TRUTH).drop(columns="class_errors")).of_classes) == 0


def test_rows_of_other_sizes_are_compared_with_their_own_kind():
    small, large = planted(TRUTH, n_finetune=50), planted(TRUTH, n_finetune=500)
    large["error"] -= 0.3
    mixed = pd.concat([small.iloc[:40], large.iloc[20:]], ignore_index=True)
    table = class_influence(mixed).table.set_index("class")
    assert table.at["good", "verdict"] == "helps" and table["influence"].abs().max() < 0.1


@pytest.mark.parametrize(
    "change, options, named",
    [
        (lambda rows: rows.drop(columns="classes"), {}, "classes"),
        (lambda rows: rows.assign(classes=None), {}, "classes"),
        (lambda rows: rows, {"downstream": "digit"}, "digits"),
        (lambda rows: rows, {"target": "seconds"}, "target"),
        (lambda rows: rows.iloc[:5], {}, "too few"),
        (lambda rows: pd.concat([rows, rows.assign(downstream="other")]), {}, "downstream"),
    ],
)
def test_tables_that_cannot_answer_are_refused(change, options, named):
    with pytest.raises(InputError, match=named):
        class_influence(change(planted(TRUTH)), **options)


def test_the_check_keeps_classes_of_which_nothing_is_known(tmp_path):
    rows = planted(TRUTH)
    rows["classes"] = [
        json.dumps([*json.loads(text), *["rare"] * (at < 2)]) for at, text in enumerate(rows["classes"])
    ]
    grid = tmp_path / "grid.yaml"
    grid.write_text("models: [vit-30k]\nn_pretrain: [100]\nclass_subsets: {count: 60}\npretrain: {source: glyphs}\n")
    found = class_influence(rows)
    assert "rare" not in set(found.table["class"])
    path = found.to_grid(tmp_path / "without.yaml", 1, "harmful", grid)
    (run,) = Grid.load(path).runs
    with open(run.fields["classes"]) as file:
        assert set(file.read().split()) == {*TRUTH, "rare"} - {"bad"}


@pytest.mark.parametrize("which", ["helpful", "harmful", "random"])
def test_the_check_leaves_classes_out(tmp_path, which):
    (tmp_path / "grid.yaml").write_text("models: [vit-30k]\npretrain: {source: glyphs}\n")
    found = class_influence(planted(TRUTH))
    path = found.to_grid(tmp_path / "without.yaml", 1, which, tmp_path / "grid.yaml")
    content = yaml.safe_load(path.read_text())
    with open(content["pretrain"]["classes"]) as file:
        left = set(file.read().split())
    assert len(left) == 11 and content["pretrain"]["source"] == "glyphs"
    assert (set(TRUTH) - left <= {"good"}) if which == "helpful" else True
    assert (set(TRUTH) - left <= {"bad"}) if which == "harmful" else True
    with pytest.raises(InputError):
        found.to_grid(tmp_path / "x.yaml", 11, which, tmp_path / "grid.yaml")


def test_the_command_prints_the_table(tmp_path, capsys):
    planted(TRUTH).to_csv(tmp_path / "rows.csv", index=False)
    with pytest.raises(SystemExit) as ended:
        main(["influence", str(tmp_path / "rows.csv"), "--downstream", "digits", "--json"])
    assert ended.value.code == 0
    printed = json.loads(capsys.readouterr().out)
    assert {row["class"]: row["verdict"] for row in printed["table"]}["good"] == "helps"


def test_the_expected_change_allows_for_classes_that_were_chosen_for_their_estimates():
    draw, off = np.random.default_rng(0), {"expected": [], "sum": []}
    for seed in range(20):
        truth = dict(zip(TRUTH, 0.01 * draw.standard_normal(len(TRUTH))))
        found = class_influence(planted(truth, noise=0.05, seed=seed))
        best = found.table.sort_values("influence")["class"].tolist()[-4:]
        # `truth` is what a class adds to the accuracy of a model that has it.
        true = sum(truth[name] - np.mean(list(truth.values())) for name in best)
        off["expected"].append(found.expected_change(best) - true)
        off["sum"].append(found.table.set_index("class")["influence"][best].sum() - true)
    assert abs(np.mean(off["expected"])) < 0.5 * abs(np.mean(off["sum"]))
    assert found.expected_change([]) == 0
    with pytest.raises(InputError, match="nothing"):
        found.expected_change(["nothing"])
