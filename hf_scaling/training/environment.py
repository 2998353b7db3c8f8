"""The machine and the processes a run has."""

import json
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version

import torch
from transformers.utils import logging

from hf_scaling import __version__
from hf_scaling.errors import InputError

_PACKAGES = ("torch", "transformers", "datasets", "accelerate", "timm", "numpy")


def check_processes() -> None:
    """Refuse more processes than the machine has accelerators, or cores where it has none.

    Raises:
        InputError: Says how many there are. Without it each process would fail on its own, or they would wait for
            each other.
    """
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    gpus, cores = torch.cuda.device_count(), os.cpu_count() or 1
    there = gpus or cores
    if here > 1 and here > there:
        kind = f"GPU{'s' * (gpus != 1)}" if gpus else "cores and no GPU"
        raise InputError(f"--num_processes {here}: this machine has {there} {kind}; give at most {there}")


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep transformers' bars and remarks about each file it saves from breaking up the one bar that matters."""
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def is_main() -> bool:
    """Whether this process is the one that prints and writes, also before any of them have met."""
    return os.environ.get("RANK", "0") == "0"


def device_name(device: torch.device, processes: int) -> str:
    """What the row says of the device: a GPU's name or `cpu`, and how many processes shared the run."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return f"{processes} x {name}" if processes > 1 else name


def versions() -> str:
    """Versions of what the numbers depend on, as JSON."""
    found = {"hf_scaling": __version__, "python": platform.python_version()}
    return json.dumps(found | {name: version(name) for name in _PACKAGES})
