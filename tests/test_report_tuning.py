"""What a study tried for its learning rates is stated in its report."""

import json

import pytest

from hf_scaling.report.tuning import NAME, describe_tuning

TRIED = [
    {"model": "vit-50k", "n_pretrain": n, "rate": rate, "steps": 0.25, "loss": loss}
    for n, rate, loss in [(100, 1e-3, 2.0), (400, 1e-3, 1.0), (100, 4e-3, 1.9), (400, 4e-3, 0.5)]
]


def test_rates_and_the_mean_loss_of_each_that_was_tried_are_facts(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"rates": {"vit-50k": 4e-3}, "tried": TRIED}))
    facts = describe_tuning(tmp_path)
    assert "vit-50k 0.004" in facts["learning rates"]
    assert "0.001 1.500, 0.004 1.200" in facts["rates tried"]


def test_a_rate_whose_loss_was_infinite_has_diverged(tmp_path):
    tried = [*TRIED, {**TRIED[0], "rate": 1e-1, "loss": float("inf")}, {**TRIED[0], "rate": 1e-1, "loss": 3.0}]
    (tmp_path / NAME).write_text(json.dumps({"rates": {"vit-50k": 4e-3}, "tried": tried}))
    assert "0.1 diverged" in describe_tuning(tmp_path)["rates tried"]


@pytest.mark.parametrize("content", [None, '{"rates": {}}'])
def test_nothing_is_stated_where_nothing_was_tuned(tmp_path, content):
    if content is not None:
        (tmp_path / NAME).write_text(content)
    assert describe_tuning(tmp_path) == {}
    assert describe_tuning(None) == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"rates": {"a": 1}, "tried": [{}]}'])
def test_a_damaged_record_is_named(tmp_path, content):
    (tmp_path / NAME).write_text(content)
    facts = describe_tuning(tmp_path)
    assert list(facts) == ["learning rates"] and str(tmp_path / NAME) in facts["learning rates"]
