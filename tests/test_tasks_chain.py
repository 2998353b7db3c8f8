"""A planted law goes through grid, runner, results, fit and plan, and comes out."""

import os
from pathlib import Path

import numpy as np
import pytest
import simulated_task
import yaml
from in_process import plan_here
from texts import write_texts

import hf_scaling as hs

N_PRETRAIN = [100, 400, 1_600, 6_400, 25_600]
N_FINETUNE = [50, 200, 800, 3_200, 12_800]
BUDGET, COSTS = 20_000.0, {"label": 1.0, "pretrain_image": 0.25}


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """The study of 5 x 5 simulated runs."""
    folder = tmp_path_factory.mktemp("chain")
    texts = str(write_texts(folder / "texts", n=80, words=100))
    one_step = {"max_steps": 1, "per_device_train_batch_size": 2, "save_strategy": "no"}
    content = {
        "task": simulated_task.Simulated.name,
        "models": "nothing",
        "n_pretrain": N_PRETRAIN,
        "downstream": texts,
        "n_finetune": N_FINETUNE,
        "pretrain": {"source": texts, "context": 16, **one_step},
        "finetune": one_step,
    }
    (folder / "grid.yaml").write_text(yaml.safe_dump(content))
    with pytest.MonkeyPatch.context() as patch:
        # Where the processes of the runner find the task.
        patch.setenv("PYTHONPATH", str(Path(simulated_task.__file__).parent), prepend=os.pathsep)
        plan_here(patch)
        return hs.run_grid(folder / "grid.yaml", out=folder / "study", workers=1, progress=False)


def test_a_task_of_your_own_is_found_by_its_name(study):
    rows = study.rows()
    assert {row["task"] for row in rows} == {"simulated_task:Simulated"}
    assert len(rows) == len(N_PRETRAIN) * (1 + len(N_FINETUNE))
    tuned = [row for row in rows if row["stage"] == "finetune"]
    residuals = [np.log(row["loss"] / simulated_task.law(row["n_pretrain"], row["n_finetune"])) for row in tuned]
    assert np.std(residuals) == pytest.approx(simulated_task.NOISE, rel=0.5)


def test_the_planted_gap_is_inside_its_interval(study):
    fit = hs.fit_law(study, law="transfer_gap", target="loss", bootstrap=300)
    assert fit.status == "ok", fit.notes
    for name in ("G", "E", "beta"):
        low, high = fit.intervals[name]
        assert low <= simulated_task.TRUTH[name] <= high


def test_the_planted_optimum_is_inside_the_plans_interval(study):
    fit = hs.fit_law(study, law="transfer_gap", target="loss", bootstrap=300)
    plan = hs.plan(fit, budget=BUDGET, costs=COSTS)
    shares = np.linspace(0.001, 0.999, 9_999)
    losses = simulated_task.law((1 - shares) * BUDGET / COSTS["pretrain_image"], shares * BUDGET / COSTS["label"])
    best = shares[np.argmin(losses)] * BUDGET / COSTS["label"]
    low, high = plan.intervals["n_finetune"]
    assert low <= best <= high
    assert plan.predicted["low"] <= losses.min() <= plan.predicted["high"]
