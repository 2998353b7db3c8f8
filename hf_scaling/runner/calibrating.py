"""A short calibration: seconds an image of training takes here, for models of several sizes.

A process of its own, as it needs torch: model configurations as JSON on stdin, their times as JSON on stdout.
"""

import json
import signal
import sys
import time
from collections.abc import Mapping
from typing import Any

import timm
import torch

_BATCH = 32
_STEPS = 3
_LONGEST = 8.0  # seconds that one model may take; what is larger is extrapolated


def main() -> None:
    """Answer one question."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    print(json.dumps(measure(json.load(sys.stdin))))


def measure(configurations: list[Mapping[str, Any]]) -> list[float]:
    """Seconds an image of training takes, for each of the models given from the smallest to the largest.

    The list ends early where a model takes too long.
    """
    here = torch.accelerator.is_available()
    device = torch.accelerator.current_accelerator() if here else torch.device("cpu")
    found = []
    for configuration in configurations:
        started = time.monotonic()
        found.append(_seconds_an_image(dict(configuration), device))
        if time.monotonic() - started > _LONGEST:
            break
    return found


def _seconds_an_image(configuration: dict[str, Any], device: torch.device) -> float:
    size, classes = configuration.pop("image_size"), configuration.pop("n_classes")
    model = timm.create_model(configuration.pop("architecture"), num_classes=classes, **configuration).to(device)
    optimizer = torch.optim.AdamW(model.parameters())
    images = torch.zeros(_BATCH, 3, size, size, device=device)
    labels = torch.zeros(_BATCH, dtype=torch.long, device=device)
    times = []
    for _ in range(_STEPS):
        started = time.monotonic()
        loss = torch.nn.functional.cross_entropy(model(images), labels)
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
