"""This machine: its cores and GPUs, and how fast it trains models of a size."""

import contextlib
import json
import math
import os
import socket
import subprocess
from dataclasses import dataclass

import psutil

from hf_scaling import files
from hf_scaling.data.cache import cache_root
from hf_scaling.grid import PlannedRun

_WORKER_MEMORY = 1.5e9  # bytes: torch and its libraries, a small model and its batches


def visible_gpus() -> list[str]:
    """The GPUs that processes started here may use, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() and gpu.strip() != "-1"]
    try:
        lines = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [str(number) for number, line in enumerate(lines) if line.startswith("GPU ")]


def usable_cores() -> int:
    """Number of cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def default_workers() -> int:
    """One worker per GPU; without a GPU, one per core as far as the free memory allows."""
    memory = int(psutil.virtual_memory().available / _WORKER_MEMORY)
    return len(visible_gpus()) or max(1, min(usable_cores(), memory))


@dataclass(frozen=True)
class Speed:
    """A measured training speed.

    Attributes:
        flops: Floating-point operations of training on one example.
        batch: Examples per step.
        seconds: Seconds of training per example.
    """

    flops: float
    batch: int
    seconds: float


class Speeds:
    """The training speeds measured on this machine, kept in the cache: later estimates need no measurement.

    Finished runs and timed steps are recorded; of the same size and batch the latest is kept.
    """

    def __init__(self) -> None:
        device = "gpu" if visible_gpus() else "cpu"
        # Several machines may share a cache.
        self._path = cache_root(None) / "speeds" / f"{socket.gethostname()}-{device}.jsonl"
        self._speeds: dict[tuple[float, int], Speed] = {}
        # A missing or damaged file is a cache without content.
        with contextlib.suppress(OSError, ValueError, TypeError):
            for line in self._path.read_text(encoding="utf-8").splitlines():
                speed = Speed(**json.loads(line))
                self._speeds[speed.flops, speed.batch] = speed

    def record(self, run: PlannedRun, seconds: float, n_examples: int, batch: int) -> None:
        """Keep a measured speed.

        Args:
            run: A run of the size that was measured.
            seconds: Seconds of training.
            n_examples: Examples that were trained on in that time.
            batch: Examples per step.
        """
        if not (run.train_flops > 0 and seconds > 0):
            return
        self._speeds[run.flops_per_example, batch] = Speed(run.flops_per_example, batch, seconds / n_examples)
        text = "".join(json.dumps(vars(speed)) + "\n" for speed in self._speeds.values())
        with contextlib.suppress(OSError):
            files.write_text(self._path, text)

    def nearest(self, run: PlannedRun, factor: float) -> Speed | None:
        """The speed measured nearest to a run in FLOPs per example and batch.

        Args:
            run: The run.
            factor: Speeds at more than this many times, or less than this fraction of, its FLOPs per example are not
                used; None is returned where there is no other.
        """
        flops, batch = max(run.flops_per_example, 1.0), run.spec.rule["batch"]
        near = [speed for speed in self._speeds.values() if abs(math.log(speed.flops / flops)) <= math.log(factor)]
        return min(
            near,
            key=lambda speed: abs(math.log(speed.flops / flops)) + abs(math.log(speed.batch / batch)),
            default=None,
        )
