"""Rows of a results table whose losses follow a planted law, for tests of what is done with tables."""

import hashlib
import json

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
