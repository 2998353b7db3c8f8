"""A study from known laws: three sizes, both arms, pretraining and fine-tuning, as results rows."""

import numpy as np

import hf_scaling as hs
from hf_scaling.results import ResultsTable, new_row

SIZES = {"vit-100k": 100_000, "vit-200k": 200_000, "vit-400k": 400_000}
N_PRETRAIN = (250, 1_000, 4_000, 16_000, 64_000)
N_FINETUNE = (20, 100, 500, 2_500)
#: E, A, alpha, B, beta of chinchilla; the arms cross where their terms of n_pretrain and floors balance.
PLAIN, DISTILLED = (0.30, 20.0, 0.40, 12.0, 0.35), (0.43, 20.0, 0.40, 7.2, 0.30)
#: A, alpha, G, H, delta, beta, E of transfer_gap_joint, with a small irreducible gap.
TRANSFER = (30.0, 0.35, 0.05, 0.5, 0.30, 0.45, 0.10)


def crossing(low=250, high=64_000) -> float:
    """The n_pretrain at which the true laws of the arms cross; the same at every size."""
    grid = np.geomspace(low, high, 100_000)
    gap = (PLAIN[0] - DISTILLED[0]) + PLAIN[3] * grid ** -PLAIN[4] - DISTILLED[3] * grid ** -DISTILLED[4]
    return float(grid[np.flatnonzero(gap < 0)[0]])


def rows(noise=0.01, seeds=2, stages=("pretrain", "finetune"), **columns):
    """Rows of the study; `columns` replace those of every row."""
    generator = np.random.default_rng(0)
    family_rows = []
    for model, n_params in SIZES.items():
        for n_pretrain in N_PRETRAIN:
            for arm in ("plain", "distilled"):
                for seed in range(seeds):
                    family_rows += _family(generator, noise, model, n_params, n_pretrain, arm, seed, stages)
    return [new_row({**row, "run_id": f"{i:016x}", **columns}) for i, row in enumerate(family_rows)]


def study(**settings) -> ResultsTable:
    """The rows as a table."""
    return ResultsTable(rows(**settings))


def _family(generator, noise, model, n_params, n_pretrain, arm, seed, stages):
    """A pretraining run and the fine-tuning runs that start from it."""
    sizes = {"n_params": n_params, "n_pretrain": n_pretrain}
    theta = PLAIN if arm == "plain" else DISTILLED
    names = {"model": model, "arm": arm, "seed": seed, "upstream": "glyphs", **sizes, **_setting(n_pretrain, arm)}
    family = []
    if "pretrain" in stages:
        loss = float(hs.LAWS["chinchilla"].predict(theta, {k: np.array([float(v)]) for k, v in sizes.items()})[0])
        family.append({**names, "stage": "pretrain", "n_finetune": 0, **_cost(n_params, n_pretrain), "loss": loss})
    # Fine-tuning has the same law from either arm.
    for n_finetune in N_FINETUNE if "finetune" in stages and seed == 0 else ():
        at = {**sizes, "n_finetune": n_finetune}
        value = hs.LAWS["transfer_gap_joint"].predict(TRANSFER, {k: np.array([float(v)]) for k, v in at.items()})
        stage = {"stage": "finetune", "downstream": "digits", "n_finetune": n_finetune}
        family.append({**names, **stage, **_cost(n_params, n_finetune), "loss": float(value[0])})
    for row in family:
        row["loss"] *= float(np.exp(noise * generator.standard_normal()))
        row["error"] = 0.3 * row["loss"] ** 0.8
    return family


def _setting(n_pretrain, arm):
    shared = {"task": "image_classification", "recipe": "rule0001", "eval_split": "test", "n_eval": 10_000}
    shared |= {"device": "cpu", "precision": "fp32", "versions": '{"torch": "2.0"}'}
    if arm == "plain":
        return shared
    teacher = {"teacher": f"teacher{n_pretrain}", "teacher_n_params": 30_000, "teacher_n_pretrain": n_pretrain}
    return shared | teacher | {"distillation": "kind=soft alpha=0.5", "teacher_flops": 6e4 * 20 * n_pretrain}


def _cost(n_params, n_data):
    return {"samples_seen": 20 * n_data, "train_flops": 120.0 * n_params * n_data, "seconds": 1e-4 * n_data}
