"""What a recipe says when its run is finished."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_scaling import tasks
from hf_scaling.training.environment import is_main


def announce(folder: Path, row: Mapping[str, Any], next_command: str) -> None:
    """Print, from one process, the scores, the folder, and what to do next."""
    if not is_main():
        return
    source, unit = row["downstream"] or row["upstream"], tasks.find(row["task"]).unit
    print(f"error   {row['error']:.4f}  (top-1, on the {row['n_eval']:,} {row['eval_split']} {unit}s of {source})")
    print(f"loss    {row['loss']:.4f}  (cross-entropy, nats {'an' if unit[0] in 'aeiou' else 'a'} {unit})")
    if row["agreement"] is not None:
        scores = f"{row['teacher_error']:.4f} error, {row['teacher_loss']:.4f} loss"
        print(f"teacher {scores}; agreement {row['agreement']:.4f}")
    print(f"folder  {folder}  (run {row['run_id']})")
    print(f"next    {next_command}", flush=True)
