"""Which rows a fit takes, how repeats and weights count, and what an error about an unusable row names."""

import numpy as np
import pandas as pd
import pytest
from designs import fit, study

import hf_scaling as hs
from hf_scaling import InputError
from hf_scaling.fitting import FitOptions, RowFilter
from hf_scaling.fitting.diagnostics import replication
from hf_scaling.fitting.estimate import estimate
from hf_scaling.fitting.rows import select_rows
from hf_scaling.fitting.solver import coordinates_of
from hf_scaling.results import new_row

X = np.geomspace(100, 1e6, 13)


def table(**columns):
    return {"n_pretrain": X.copy(), "loss": 0.1 + 2 * X**-0.35} | columns


def fit_power_law(given, **settings):
    return hs.fit_law(given, "power_law", **{"bootstrap": 0, **settings})


def with_value(column, row, value):
    changed = table()
    changed[column][row] = value
    return changed


def results(rows):
    return hs.ResultsTable(new_row({"run_id": f"{i:016x}", **row}) for i, row in enumerate(rows))


def curve(**same):
    return [{"n_pretrain": int(x), "loss": 0.1 + 2 * int(x) ** -0.35, "stage": "pretrain", **same} for x in X]


@pytest.mark.parametrize(
    ("given", "settings", "words"),
    [
        (with_value("loss", 3, np.nan), {}, ["'loss'", "row 3", "nan"]),
        (with_value("loss", 4, np.inf), {}, ["'loss'", "row 4", "inf"]),
        (with_value("loss", 5, 0.0), {}, ["'loss'", "row 5"]),
        (with_value("loss", 5, -1.0), {"objective": "log_mse"}, ["'loss'", "row 5"]),
        (with_value("n_pretrain", 2, 0.0), {}, ["'n_pretrain'", "row 2", "power_law"]),
        (with_value("n_pretrain", 2, -7.0), {}, ["'n_pretrain'", "row 2", "-7"]),
        (with_value("n_pretrain", 2, np.nan), {}, ["'n_pretrain'", "row 2", "nan"]),
        (table(loss=["0.5"] * 6 + ["half"] + ["0.4"] * 6), {}, ["'loss'", "row 6", "'half'"]),
        ({"n_pretrain": X}, {}, ["'loss'", "n_pretrain"]),
        (table(), {"x": "images"}, ["'images'", "n_pretrain, loss"]),
        (table(), {"target": "error"}, ["'error'"]),
        (table(loss=X[:5]), {}, ["columns"]),
        ({k: v[:2] for k, v in table().items()}, {}, ["power_law"]),
        (table(), {"weights": "certainty"}, ["'certainty'"]),
        (table(), {"weights": np.ones(4)}, ["weights", "4", "13"]),
        (table(), {"weights": np.r_[1.0, -1.0, np.ones(11)]}, ["weights", "row 1", "-1"]),
        (table(), {"arm": "plain"}, ["'arm'"]),
        (table(arm=["plain"] * 13), {"arm": "distilled"}, ["arm='distilled'"]),
        (table(), {"stage": "pretrain"}, ["'stage'"]),
        ([1, 2, 3], {}, ["list"]),
    ],
)
def test_what_cannot_be_used_is_named(given, settings, words):
    with pytest.raises(InputError) as caught:
        fit_power_law(given, **settings)
    assert isinstance(caught.value, ValueError)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_data_frames_own_labels_name_the_row():
    frame = pd.DataFrame(table(), index=[f"run {i}" for i in range(13)])
    frame.loc["run 4", "loss"] = np.nan
    with pytest.raises(InputError, match="row run 4"):
        fit_power_law(frame)


@pytest.mark.parametrize(
    ("column", "argument"),
    [
        ("arm", "arm="),
        ("upstream", "upstream="),
        ("downstream", "downstream="),
        ("task", "task"),
        ("recipe", "recipe"),
        ("eval_split", "eval_split"),
    ],
)
def test_a_mixture_of_what_must_be_one_thing_is_refused(column, argument):
    mixed = table(**{column: ["one"] * 6 + ["two"] * 7})
    with pytest.raises(InputError) as caught:
        fit_power_law(mixed)
    for word in (column, "one, two", argument):
        assert word in str(caught.value)
    if argument.endswith("="):
        assert fit_power_law(mixed, **{column: "two"}).scores["n_rows"] == 7


def test_a_zero_is_left_out_of_a_results_table_with_a_note():
    rows = [*curve(), {"n_pretrain": 0, "loss": 2.3, "stage": "pretrain"}]
    result = fit_power_law(results(rows))
    assert result.scores["n_rows"] == 13
    assert [n["grade"] for n in result.notes if n["code"] == "rows_left_out"] == ["info"]


def test_zeros_says_what_happens_to_a_size_at_which_the_law_is_undefined():
    rows = [*curve(), {"n_pretrain": 0, "loss": 2.3, "stage": "pretrain"}]
    for given in (results(rows), results(rows).to_pandas()):
        assert fit_power_law(given, zeros="leave_out").scores["n_rows"] == 13
        with pytest.raises(InputError, match="'n_pretrain', row 13"):
            fit_power_law(given, zeros="refuse")
    with pytest.raises(InputError, match="'drop'"):
        fit_power_law(results(rows), zeros="drop")


def test_a_law_that_takes_zero_keeps_it():
    columns = study("effective_data")
    columns["n_pretrain"] = np.where(columns["n_pretrain"] == columns["n_pretrain"].min(), 0, columns["n_pretrain"])
    columns["loss"] = hs.LAWS["effective_data"].predict(
        {"k": 3.0, "a": 0.3, "b": 0.4, "B": 8.0, "beta": 0.3, "E": 0.2}, columns
    )
    result = fit("effective_data", columns)
    assert result.scores["n_rows"] == 64
    assert result.params["k"] == pytest.approx(3, rel=1e-4)


def test_the_stage_follows_from_the_law():
    finetune = [{"n_pretrain": 1000, "n_finetune": int(x), "loss": 1.0, "stage": "finetune"} for x in X]
    both = results([*curve(), *finetune])
    assert fit_power_law(both).data["study"]["stage"] == ["pretrain"]
    assert fit_power_law(both, stage="finetune", x="n_finetune").data["study"]["stage"] == ["finetune"]
    rectified = hs.fit_law(both, "rectified", bootstrap=0)
    assert rectified.data["study"]["stage"] == ["finetune"]
    assert rectified.columns == {"n_finetune": "n_finetune"}


def test_x_may_be_any_column_of_a_one_variable_law_alone():
    result = fit_power_law({"flops": X * 1e12, "loss": 0.1 + 2 * X**-0.35}, x="flops")
    assert result.columns == {"x": "flops"}
    assert list(result.predict({"flops": [1e18]}).value) == pytest.approx([0.1 + 2 * 1e6**-0.35], rel=1e-6)
    with pytest.raises(InputError, match="chinchilla"):
        hs.fit_law(study("chinchilla"), "chinchilla", x="n_pretrain")


def test_one_run_counts_once_and_may_not_contradict_itself():
    twice = table(run_id=[f"run{i}" for i in range(13)])
    doubled = {name: np.concatenate([values, values[:2]]) for name, values in twice.items()}
    assert fit_power_law(doubled).scores["n_rows"] == 13
    doubled["loss"][-1] += 0.01
    with pytest.raises(InputError, match=r"run_id run1 .*loss"):
        fit_power_law(doubled)


def test_repeats_of_one_size_are_replicates():
    noisy = study("power_law", 0.03, seeds=4, points=16)
    result = fit("power_law", noisy)
    assert (result.scores["n_rows"], result.scores["n_configurations"]) == (64, 16)
    assert "replicates" in result.note_codes
    law = hs.LAWS["power_law"]
    rows = select_rows(noisy, law, RowFilter())
    deviation, seeds, needed = replication(estimate(rows, law, coordinates_of(law), FitOptions().make_objective()))
    # 48 degrees of freedom: the standard deviation is known to about 10 %; three of its own errors.
    assert deviation == pytest.approx(0.03, rel=0.3)
    # Without lack of fit an interval halves with four times the seeds.
    assert (seeds, needed) == (4, 16)


def test_weights_count_by_name_or_value():
    spoiled = study("power_law", 0.005)
    spoiled["loss"][:8] *= 1.5
    weights = np.where(np.arange(64) < 8, 1e-6, 1.0)
    by_value = fit("power_law", spoiled, weights=weights, objective="log_mse")
    by_name = fit("power_law", {**spoiled, "trust": weights}, weights="trust", objective="log_mse")
    assert by_value.params == by_name.params
    assert by_value.settings["weights"] == "given"
    # 56 points at 0.5 % noise: E is known to about 1 % here, and unweighted it is off by far more.
    assert by_value.params["E"] == pytest.approx(0.1, rel=0.05)
    assert abs(fit("power_law", spoiled, objective="log_mse").params["E"] - 0.1) > 0.01


def error_rates(seed):
    sizes = np.repeat(X, 8)
    n_eval = np.where(np.arange(len(sizes)) % 2 == 0, 100, 1_000_000)
    hits = np.random.default_rng(seed).binomial(n_eval, 0.05 + 2 * sizes**-0.4)
    return {"n_pretrain": sizes, "error": np.maximum(hits, 1) / n_eval, "n_eval": n_eval}


def test_error_rates_are_weighted_by_how_many_images_they_count():
    def missed(columns):
        result = hs.fit_law(columns, "power_law", target="error", bootstrap=0)
        return abs(result.params["E"] / 0.05 - 1), result.settings["weights"]

    weighted = [missed(error_rates(seed)) for seed in range(8)]
    equal = [missed({k: v for k, v in error_rates(seed).items() if k != "n_eval"}) for seed in range(8)]
    assert {way for _, way in weighted} == {"binomial from n_eval"}
    assert {way for _, way in equal} == {"equal"}
    # Half the rows count a million images and alone fix the floor to about 0.5 %; the others are off by 10 to 40 %.
    assert np.mean([error for error, _ in weighted]) < 0.01
    assert np.mean([error for error, _ in equal]) > 2 * np.mean([error for error, _ in weighted])


def test_a_size_that_the_law_ignores_is_noted():
    table = study("power_law", 0.01)
    result = fit_power_law({**table, "n_params": np.arange(len(table["loss"])) + 1e6})
    assert "n_params" in next(n["text"] for n in result.notes if n["code"] == "ignored_variable")


def test_a_table_may_be_a_path(tmp_path):
    results(curve()).save(tmp_path)
    by_path = fit_power_law(str(tmp_path))
    assert by_path.params == fit_power_law(hs.ResultsTable.load(tmp_path)).params
    with pytest.raises(InputError, match="nowhere"):
        fit_power_law(tmp_path / "nowhere.csv")


@pytest.mark.parametrize("law", ["power_law", "shifted_power_law"])
def test_equal_rows_count_once_and_are_counted(law):
    once = pd.DataFrame(table()).assign(host="a", loss=lambda t: t["loss"] * np.exp(0.01 * np.cos(np.arange(len(t)))))
    twice = pd.concat([once, once.iloc[::2]], ignore_index=True)
    one, two = (hs.fit_law(rows, law, bootstrap=50) for rows in (once, twice))
    assert two.params == one.params and two.intervals == one.intervals and two.status == one.status
    assert "doubled_rows" in two.note_codes and "doubled_rows" not in one.note_codes
    other = pd.concat([once, once.assign(host="b")], ignore_index=True)
    assert hs.fit_law(other, law, bootstrap=0).scores["n_rows"] == 2 * len(once)


def test_equal_rows_with_lists_and_missing_values_count_once():
    once = pd.DataFrame(table()).assign(tags=[["a"]] * 13, lr=np.nan)
    fit = hs.fit_law(pd.concat([once, once]), "power_law", bootstrap=0)
    assert fit.scores["n_rows"] == 13


def guessing_note(notes):
    found = [each for each in notes if each["code"] == "worse_than_guessing"]
    assert len(found) <= 1
    return found[0] if found else None


def with_losses(**same):
    rows = curve(classes='["0", "1", "2"]', **same)
    rows[0]["loss"], rows[1]["loss"] = 1.5, 1.2  # guessing among three classes costs 1.1
    return rows


def test_rows_that_are_worse_than_guessing_are_named():
    found = guessing_note(fit_power_law(results(with_losses())).notes)
    assert found["grade"] == "warn"
    for part in ("2 of 13 rows", "0000000000000000", "0000000000000001", "n_pretrain 100"):
        assert part in found["text"]
    assert "0000000000000002" not in found["text"]
    rows = with_losses()
    rows[0]["loss"], rows[1]["loss"] = 1.09, 1.0
    assert guessing_note(fit_power_law(results(rows)).notes) is None


def test_an_error_above_that_of_guessing_is_named():
    rows = [row | {"error": 0.6 * row["n_pretrain"] ** -0.1} for row in curve(classes='["0", "1"]')]
    rows[0]["error"] = 0.51
    assert "1 of 13 rows" in guessing_note(fit_power_law(results(rows), target="error").notes)["text"]


def test_classes_come_from_the_sources_of_the_study(tmp_path):
    rows = [row | {"classes": None, "upstream": "many"} for row in with_losses()]
    for i, row in enumerate(rows):
        (tmp_path / "results").mkdir(exist_ok=True)
        hs.ResultsTable.open(tmp_path).append(new_row({"run_id": f"{i:016x}", **row}))
    assert guessing_note(fit_power_law(str(tmp_path)).notes) is None
    sources = tmp_path / "sources.json"
    sources.write_text('{"many": {"train": 10, "test": 10, "classes": 3}}')
    assert "2 of 13 rows" in guessing_note(fit_power_law(str(tmp_path)).notes)["text"]
    # A fine-tuned row is judged by its downstream set, not by the upstream classes of its checkpoint.
    sources.write_text(
        '{"few": {"train": 10, "test": 10, "classes": 3}, "many": {"train": 9, "test": 9, "classes": 99}}'
    )
    tuned = [row | {"downstream": "few", "stage": "finetune", "n_finetune": 5, "classes": '["a"]'} for row in rows]
    for i, row in enumerate(tuned):
        hs.ResultsTable.open(tmp_path).append(new_row({"run_id": f"{i + 50:016x}", **row}))
    assert "2 of 13 rows" in guessing_note(fit_power_law(str(tmp_path), stage="finetune").notes)["text"]
    assert guessing_note(fit_power_law(str(tmp_path)).notes) is None


def test_a_boundary_names_them_too():
    rows = [row | {"arm": arm, "model": "a", "seed": 0} for arm in ("plain", "distilled") for row in with_losses()]
    rows = [row | {"loss": row["loss"] * (0.9 if row["arm"] == "distilled" else 1)} for row in rows]
    assert "3 of 26 rows" in guessing_note(hs.find_boundary(results(rows), bootstrap=100).notes)["text"]
