"""Grids whose runs take a tenth of a second, for tests of the runner."""

import os
import subprocess
import sys

import yaml

_SHORT = {"max_steps": 4, "per_device_train_batch_size": 16, "learning_rate": "1e-3", "save_strategy": "no"}
CONTENT = {
    "models": ["vit-30k", "vit-50k"],
    "n_pretrain": [40],
    "arms": ["plain", {"teacher": "vit-30k", "alpha": 0.3}],
    "downstream": ["digits"],
    "n_finetune": [20, 30],
    "pretrain": {"source": "digits", "image_size": 8, "patch_size": 4, **_SHORT},
    "finetune": _SHORT,
}


def write_grid(path, **changes):
    """Write the grid with some of its keys changed; returns the path."""
    path.write_text(yaml.safe_dump({**CONTENT, **changes}, sort_keys=False))
    return path


def command(*argv, **options):
    """`hf-scaling` as a process."""
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": os.environ} | options
    return subprocess.Popen([sys.executable, "-m", "hf_scaling", *map(str, argv)], **options)
