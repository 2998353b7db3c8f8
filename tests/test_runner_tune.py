"""The key `tune` of a grid: what is tried, what is chosen, what stops it, and that ids come from its result."""

import json
import math

import pytest
import yaml

from hf_scaling.errors import InputError
from hf_scaling.grid import Grid
from hf_scaling.results import ResultsTable
from hf_scaling.runner import dry_run, run_grid
from hf_scaling.runner.tune import RATES, tuned

SMALL, MIDDLE, LARGE = "vit-30k", "vit-50k", "vit-200k"
CONTENT = {
    "models": [LARGE, SMALL, MIDDLE],
    "n_pretrain": [0, 20, 40, 80, 160],
    "arms": ["plain", {"teacher": SMALL}],
    "pretrain": {"source": "digits", "image_size": 8, "patch_size": 4, "min_steps": 8, "num_train_epochs": 1},
    "downstream": ["digits"],
    "n_finetune": [20],
    "tune": {"learning_rate": True},
}


def grid_of(**keys):
    return Grid.from_dict({**CONTENT, **keys}, "g")


def planted(best, steps_best=None):
    """A loss with its least at a rate of each size, and at a number of steps."""

    def loss_of(fields):
        assert fields["eval_strategy"] == "epoch" and "teacher" not in fields
        off = abs(math.log(fields["learning_rate"] / best[fields["model"]]))
        return 1 + off + (0.0 if steps_best is None else abs(math.log(fields["min_steps"] / steps_best)))

    return loss_of


def test_the_planted_rate_of_each_size_is_found_and_written_into_the_grid(tmp_path):
    grid = tuned(grid_of(), tmp_path, loss_of=planted({SMALL: 4e-3, LARGE: 1e-3}))
    rates = grid.content["pretrain"]["learning_rates"]
    assert (rates[SMALL], rates[LARGE]) == (4e-3, 1e-3) and 1e-3 < rates[MIDDLE] < 4e-3
    assert "tune" not in grid.content and grid.content["pretrain"]["min_steps"] == 8
    record = json.loads((tmp_path / "tuning.json").read_text())
    small = [trial for trial in record["tried"] if trial["model"] == SMALL]
    # Halving: every rate at a quarter of the steps, fewer at more; two n_pretrain each.
    assert [sum(trial["steps"] == share for trial in small) for share in (0.25, 0.5)] == [2 * len(RATES), 4]
    assert record["remarks"] == []


def test_a_second_call_tunes_nothing_and_other_hyperparameters_tune_anew(tmp_path):
    first = tuned(grid_of(), tmp_path, loss_of=planted({SMALL: 4e-3, LARGE: 1e-3}))
    again = tuned(grid_of(seeds=[0, 1]), tmp_path, loss_of=lambda fields: pytest.fail("tuned again"))
    assert again.content["pretrain"] == first.content["pretrain"] and len(again) > len(first)
    changed = grid_of(pretrain={**CONTENT["pretrain"], "weight_decay": 0.1})
    assert tuned(changed, tmp_path, loss_of=planted({SMALL: 1e-3, LARGE: 1e-3})).content["pretrain"][
        "learning_rates"
    ] == dict.fromkeys((SMALL, MIDDLE, LARGE), 1e-3)


@pytest.mark.parametrize("best, chosen", [(40, 40), (8, 8)])
def test_the_number_of_steps_is_compared_at_the_best_rates_in_full(tmp_path, best, chosen):
    grid = grid_of(tune={"learning_rate": [1e-3, 2e-3], "min_steps": [40, 8]})
    result = tuned(grid, tmp_path, loss_of=planted({SMALL: 2e-3, LARGE: 2e-3}, best))
    assert result.content["pretrain"]["min_steps"] == chosen
    in_full = [trial for trial in json.loads((tmp_path / "tuning.json").read_text())["tried"] if "min_steps" in trial]
    assert {trial["rate"] for trial in in_full} == {2e-3} and {trial["steps"] for trial in in_full} == {1.0}
    assert {trial["min_steps"] for trial in in_full} == {8, 40}


def test_fewer_steps_are_taken_where_more_help_by_less_than_a_hundredth(tmp_path):
    grid = grid_of(tune={"min_steps": [8, 40]})
    result = tuned(grid, tmp_path, loss_of=lambda fields: 1.0 - 1e-4 * fields["min_steps"])
    assert result.content["pretrain"]["min_steps"] == 8 and "learning_rates" not in result.content["pretrain"]


def test_both_sizes_are_tried_before_further_rates_and_what_is_not_is_said(tmp_path, monkeypatch):
    tried = []
    now = [0.0]
    monkeypatch.setattr("hf_scaling.runner.tune.time.monotonic", lambda: now[0])

    def loss_of(fields):
        tried.append((fields["model"], fields["learning_rate"]))
        now[0] += 1
        return 1.0

    tuned(grid_of(), tmp_path / "a", seconds=4, loss_of=loss_of)
    assert {model for model, _ in tried} == {SMALL, LARGE} and len({rate for _, rate in tried}) == 1
    assert json.loads((tmp_path / "a" / "tuning.json").read_text())["remarks"] == []
    now[0] = 0.0
    tuned(grid_of(), tmp_path / "b", seconds=2, loss_of=loss_of)
    record = json.loads((tmp_path / "b" / "tuning.json").read_text())
    assert any(LARGE in remark for remark in record["remarks"])
    assert record["rates"][LARGE] == record["rates"][SMALL]


def test_few_seconds_try_fewer_rates_and_too_few_none(tmp_path):
    full = 2 * 2 * 10  # two sizes, two n_pretrain, ten seconds a run
    for n, seconds in [(5, 10 * full), (3, full * 1.5), (0, 1)]:
        grid = grid_of(tune={"learning_rate": True, "min_steps": [8, 40]})
        folder = tmp_path / str(n)
        result = tuned(grid, folder, 1, "local", seconds, lambda run: 10.0, planted({SMALL: 2e-3, LARGE: 2e-3}))
        record = json.loads((folder / "tuning.json").read_text())
        assert len({trial["rate"] for trial in record["tried"] if "min_steps" not in trial}) == n
        assert ("learning_rates" in result.content["pretrain"]) == (n > 0)
        assert bool(record["remarks"]) == (n < 5)


def test_a_killed_tuning_tries_nothing_twice(tmp_path):
    tried, again = [], []

    def loss_of(fields):
        if len(tried) == 7:
            raise KeyboardInterrupt
        tried.append(json.dumps(fields, sort_keys=True))
        return fields["learning_rate"]

    with pytest.raises(KeyboardInterrupt):
        tuned(grid_of(), tmp_path, loss_of=loss_of)
    tuned(grid_of(), tmp_path, loss_of=lambda fields: again.append(json.dumps(fields, sort_keys=True)) or 1.0)
    assert again and not set(tried) & set(again)
    assert not list(tmp_path.glob(".tuning*"))


@pytest.mark.parametrize(
    "keys, named",
    [
        ({"tune": {}}, "tune"),
        ({"tune": {"rate": [1e-3]}}, "rate"),
        ({"tune": {"learning_rate": [1e-3]}}, "alone"),
        ({"tune": {"learning_rate": [0, 1e-3]}}, "learning_rate"),
        ({"tune": {"learning_rate": False}}, "learning_rate"),
        ({"tune": {"min_steps": [0, 5]}}, "min_steps"),
        ({"n_pretrain": [0]}, "n_pretrain"),
        ({"schedule": "ladder", "arms": ["plain"], "n_pretrain": [20, 40]}, "ladder"),
        ({"pretrain": {**CONTENT["pretrain"], "learning_rates": {SMALL: 1e-3}}}, "learning_rates"),
        ({"overrides": [{"where": {"model": SMALL}, "pretrain": {"learning_rate": 1e-3}}]}, "overrides"),
        ({"tune": {"min_steps": [4, 8]}, "pretrain": {**CONTENT["pretrain"], "max_steps": 4}}, "max_steps"),
    ],
)
def test_a_tuning_without_effect_is_refused(keys, named):
    with pytest.raises(InputError, match=named):
        grid_of(**keys)


def test_ids_are_known_only_once_rates_are():
    with pytest.raises(InputError, match="tune"):
        ResultsTable([]).missing(grid_of())


def test_a_dry_run_says_what_the_tuning_takes(tmp_path):
    content = dry_run.estimate(grid_of(), tmp_path / "study", 2)
    # Five rates at a quarter, two at a half, of two sizes and two n_pretrain.
    assert content["tuning_runs"] == 28 and content["tuning_seconds"] > 0
    assert not (tmp_path / "study").exists()


@pytest.mark.slow
def test_a_grid_is_tuned_by_its_workers_before_its_first_run(tmp_path):
    keys = {"models": [SMALL], "n_pretrain": [400], "arms": ["plain"], "downstream": [], "seeds": [0]}
    content = {**{name: value for name, value in CONTENT.items() if name not in ("n_finetune", "downstream")}, **keys}
    del keys["downstream"], content["downstream"]
    # Rates are tried at a quarter of the steps as written: enough of them for the larger rate to learn something.
    content["pretrain"] = {**content["pretrain"], "min_steps": 240}
    content["tune"] = {"learning_rate": [1e-6, 3e-3], "min_steps": [120, 240]}
    table = run_grid(Grid.from_dict(content, "g"), tmp_path, workers=2, progress=False)
    written = yaml.safe_load((tmp_path / "grid.yaml").read_text())
    assert written["pretrain"]["learning_rates"] == {SMALL: 0.003} and "tune" not in written
    assert {spec.run_id for spec in Grid.from_dict(written).specs()} == set(table.run_ids())
    assert not list((tmp_path / "logs").glob("trial-*"))
    n_rows = len(table)
    assert len(run_grid(Grid.from_dict(content, "g"), tmp_path, progress=False)) == n_rows
