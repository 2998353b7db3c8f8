"""Machines: the cores and GPUs of this one and how fast it trains models of a size; what GPUs can reach at most."""

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
from hf_scaling.errors import InputError
from hf_scaling.grid import PlannedRun
from hf_scaling.text import did_you_mean, listing

_WORKER_MEMORY = 1.5e9  # bytes: torch and its libraries, a small model and its batches


#: Peak rates of GPUs in FLOP/s by the precision of the matrix products, without sparsity (half of what the data sheets
#: state "with sparsity"), of the largest form of each that is sold: SXM of V100, A100, H100, H200; OAM of MI300X.
#: Sources: the makers' data sheets (NVIDIA T4, V100, A10, A100 80GB, L4, L40S, H100, H200 Tensor Core GPU; AMD
#: Instinct MI300X) and, for the RTX 4090 with FP32 accumulation, appendix A of NVIDIA's whitepaper on Ada. A
#: precision that a GPU does not have is missing.
GPU_PEAKS: dict[str, dict[str, float]] = {
    "t4": {"fp16": 65e12, "fp32": 8.1e12},
    "v100": {"fp16": 125e12, "fp32": 15.7e12},
    "a10": {"bf16": 125e12, "fp16": 125e12, "tf32": 62.5e12, "fp32": 31.2e12},
    "a100": {"bf16": 312e12, "fp16": 312e12, "tf32": 156e12, "fp32": 19.5e12},
    "l4": {"bf16": 121e12, "fp16": 121e12, "tf32": 60e12, "fp32": 30.3e12},
    "l40s": {"bf16": 362e12, "fp16": 362e12, "tf32": 183e12, "fp32": 91.6e12},
    "rtx4090": {"bf16": 165.2e12, "fp16": 165.2e12, "tf32": 82.6e12, "fp32": 82.6e12},
    "h100": {"bf16": 989.4e12, "fp16": 989.4e12, "tf32": 494.7e12, "fp32": 67e12},
    "h200": {"bf16": 989.4e12, "fp16": 989.4e12, "tf32": 494.7e12, "fp32": 67e12},
    "mi300x": {"bf16": 1307.4e12, "fp16": 1307.4e12, "tf32": 653.7e12, "fp32": 163.4e12},
}


@dataclass(frozen=True)
class GpuRate:
    """A kind of GPU, and the share of its peak that training reaches.

    Attributes:
        name: A key of `GPU_PEAKS`.
        utilisation: Share of the peak, above 0 and at most 1.

    Raises:
        InputError: An unknown GPU, or a share outside its range.
    """

    name: str
    utilisation: float

    def __post_init__(self) -> None:
        if self.name not in GPU_PEAKS:
            hint = did_you_mean(self.name, GPU_PEAKS) or f": use {listing(GPU_PEAKS)}"
            raise InputError(f"--gpu {self.name}: not a known GPU{hint}")
        if not 0 < self.utilisation <= 1:
            raise InputError(f"--utilisation {self.utilisation:g}: a share of the peak, above 0 and at most 1")

    def seconds(self, run: PlannedRun) -> float:
        """GPU seconds of a run's counted operations.

        Raises:
            InputError: The GPU does not have the run's precision.
        """
        peaks, precision = GPU_PEAKS[self.name], run.spec.rule["precision"]
        if precision not in peaks:
            raise InputError(
                f"--gpu {self.name}: has no {precision}, in which run {run.run_id} trains; use {listing(peaks)}"
            )
        return run.flops / (peaks[precision] * self.utilisation)


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
