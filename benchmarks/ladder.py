"""A ladder against separate runs: the loss of every rung, and what the runs cost.

    python benchmarks/ladder.py [--seeds 2] [--out FOLDER]

Language models of 116,544 weights on 60,000 to 600,000 tokens of Python's own code, three ways: the rungs of one run;
runs of their own by the same rule (one pass, constant rate, decay); runs of their own that pass over small subsets
often, as separate runs usually do. All use the same subsets and are evaluated on the same documents.
"""

import argparse
import tempfile
from pathlib import Path

from hf_scaling.training import parse_pretrain, resolve, train

SIZES = [60_000, 200_000, 600_000]
RULE = {
    "task": "causal_lm",
    "source": "python_code",
    "learning_rate": "3e-3",
    "weight_decay": 0.05,
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 64,
    "warmup_steps": 6,
    "save_strategy": "no",
    "logging_strategy": "no",
    "report_to": "none",
    "disable_tqdm": "true",
}
# The passes give every run at least the steps of the largest subset's one pass.
WAYS = {
    "ladder": {"decay": 0.2},
    "separate, one pass": {"decay": 0.2},
    "separate, passes": {"lr_scheduler_type": "cosine", "num_train_epochs": 1, "min_steps": 293},
}


def main() -> None:
    """Print one line per way and size: means over the seeds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=None)
    options = parser.parse_args()
    out = options.out or Path(tempfile.mkdtemp())
    print(f"{'way':20} {'n_pretrain':>10} {'loss':>8} {'error':>8}   loss of each seed")
    for way, rule in WAYS.items():
        rows = {n: [] for n in SIZES}
        for seed in range(options.seeds):
            previous = None
            for at, n in enumerate(SIZES):
                argv = {**RULE, **rule, "n_pretrain": n, "seed": seed}
                folder = out / way.replace(", ", "-").replace(" ", "-") / f"{n}-{seed}"
                line = [f"--{name}={value}" for name, value in argv.items()] + [f"--output_dir={folder}"]
                if way == "ladder" and at:
                    line += [f"--previous_rung={previous}", "--rungs", *map(str, SIZES[:at])]
                previous, row = train(resolve(*parse_pretrain(line, None)))
                rows[n].append(row)
        for n, of_seeds in rows.items():
            losses, errors = ([row[name] for row in of_seeds] for name in ("loss", "error"))
            by_seed = " ".join(f"{loss:.4f}" for loss in losses)
            print(
                f"{way:20} {n:10,} {sum(losses) / len(losses):8.4f} {sum(errors) / len(errors):8.4f}   {by_seed}",
                flush=True,
            )


if __name__ == "__main__":
    main()
