"""What this machine has, found without torch."""

import os
import subprocess

import psutil

_WORKER_MEMORY = 1.5e9  # bytes: torch and its libraries, a small model and its batches


def visible_gpus() -> list[str]:
    """The GPUs that processes started here may use, as CUDA_VISIBLE_DEVICES names them."""
    told = os.environ.get("CUDA_VISIBLE_DEVICES")
    if told is not None:
        return [each for each in told.split(",") if each.strip() and each.strip() != "-1"]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(at) for at, line in enumerate(listed.splitlines()) if line.startswith("GPU ")]


def usable_cores() -> int:
    """Cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One a GPU; without one, one a core as far as the memory goes."""
    memory = int(psutil.virtual_memory().available / _WORKER_MEMORY)
    return len(visible_gpus()) or max(1, min(usable_cores(), memory))
