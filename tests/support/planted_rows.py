"""Rows of a results table whose losses follow a planted law, for tests of what is done with tables."""

import hashlib
import itertools
import json

import numpy as np
import pandas as pd

SIZES = (30_000, 100_000, 300_000, 1_000_000)
AMOUNTS = (500, 2_000, 8_000, 32_000)


def planted_rows(seeds=(0,), arms=("plain", "distilled"), amounts=AMOUNTS, **columns):
    """Pretraining rows of every size, amount, arm and seed; distillation pays up to about 4,000 images."""
    return [
        _row(size, amount, arm, seed, columns)
        for size in SIZES
        for amount in amounts
        for arm in arms
        for seed in seeds
    ]


def fine_tuned_pairs(generator):
    """Both arms on six n_pretrain, two checkpoints each with 2 % of luck, fine-tuned on three n_finetune (0.5 %)."""
    rows = []
    for n_pretrain, run in itertools.product((500, 1000, 2000, 4000, 8000, 16_000), (0, 1)):
        luck = {arm: 0.02 * generator.standard_normal() for arm in ("plain", "distilled")}
        for n_finetune, (arm, shared) in itertools.product((50, 200, 800), luck.items()):
            start = 60 * n_pretrain**-0.5 if arm == "plain" else 15 * n_pretrain**-0.32
            loss = ((start + 0.3) * n_finetune**-0.2 + 0.1) * np.exp(shared + 0.005 * generator.standard_normal())
            sizes = {"n_pretrain": n_pretrain, "n_finetune": n_finetune, "seed": run, "loss": loss}
            parent = f"{arm} {n_pretrain} {run}"
            rows.append({"stage": "finetune", "arm": arm, "downstream": "d", "parent": parent, **sizes})
    return pd.DataFrame(rows)


def _row(size, amount, arm, seed, columns):
    loss = 0.2 + 40 * size**-0.4 + 30 * amount**-0.5
    if arm == "distilled":
        loss *= (amount / 4000) ** 0.05
    # A little that looks like noise and is the same everywhere.
    digest = hashlib.sha256(f"{size} {amount} {arm} {seed}".encode()).hexdigest()
    loss *= 1 + (int(digest[:4], 16) / 65535 - 0.5) * 0.02
    row = {
        "run_id": digest[:16],
        "task": "image_classification",
        "stage": "pretrain",
        "arm": arm,
        "distillation": "kind=soft alpha=0.5 temperature=2.0 alpha_schedule=constant" if arm == "distilled" else None,
        "recipe": "0123abcd",
        "model": f"vit-{size // 1000}k",
        "n_params": size,
        "n_pretrain": amount,
        "n_finetune": 0,
        "teacher": "f" * 16 if arm == "distilled" else None,
        "seed": seed,
        "upstream": "glyphs",
        "eval_split": "test",
        "n_eval": 2000,
        "error": min(0.9, loss / 3),
        "loss": loss,
        "samples_seen": 4 * amount,
        "train_flops": 24.0 * size * amount,
        "device": "cpu",
        "versions": json.dumps({"hf_scaling": "0.1.0"}),
    }
    return row | columns
