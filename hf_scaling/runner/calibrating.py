"""A short calibration: seconds an example of training takes here, for models of several sizes.

A process of its own, as it needs torch: models and the fields of their runs as JSON on stdin, times as JSON on stdout.
"""

import json
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import torch

from hf_scaling import tasks, training
from hf_scaling.distillation import distillation_loss

_BATCH = 32
_STEPS = 3
_LONGEST = 8.0  # seconds that one model may take; what is larger is extrapolated


def main() -> None:
    """Answer one question."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(json.dumps(measure(json.load(sys.stdin))))


def measure(questions: list[Mapping[str, Any]]) -> list[float]:
    """Seconds an example of training takes, for each of the models given from the smallest to the largest.

    Each question holds the model's name, its n_classes, and the fields of a pretraining run of it. The list ends early
    where a model takes too long.
    """
    here = torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if here else torch.device("cpu")
    found = []
    for question in questions:
        started = time.monotonic()
        found.append(_seconds_an_example(question, device))
        if time.monotonic() - started > _LONGEST:
            break
    return found


def _seconds_an_example(question: Mapping[str, Any], device: torch.device) -> float:
    fields, _ = training.parse_fields("pretrain", question["fields"])
    task = tasks.find(fields.task)
    model, batch = task.rehearse(question["model"], question["n_classes"], fields, _BATCH)
    model = model.to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    batch = {name: each.to(device) for name, each in batch.items()}
    labels = batch.pop("labels")
    times = []
    for _ in range(_STEPS):
        started = time.monotonic()
        loss = distillation_loss(model(**batch).logits, None, labels, alpha=0).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        # On an accelerator the step has ended when its loss is known.
        loss.item()
        times.append(time.monotonic() - started)
        if times[-1] > _LONGEST:
            break
    return min(times) / _BATCH


if __name__ == "__main__":
    main()
