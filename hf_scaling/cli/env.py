"""`hf-scaling env`: versions, devices, cache and Hub of this machine, for a bug report."""

import argparse
import contextlib
import importlib.metadata
import os
import platform
import shutil
from typing import Any

from hf_scaling import __version__
from hf_scaling.cli._arguments import add_json_argument, to_json
from hf_scaling.text import format_bytes

HELP = "Show versions, devices, the cache and the Hub log-in of this machine, for a bug report."
EXAMPLE = "hf-scaling env --json"
_PACKAGES = (
    "torch",
    "torchvision",
    "transformers",
    "timm",
    "datasets",
    "accelerate",
    "huggingface_hub",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "scikit-learn",
    "pillow",
    "sympy",
    "peft",
    "ray",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    add_json_argument(parser, "versions, platform, cores, memory_bytes, devices, cache, hub")


def run(arguments: argparse.Namespace) -> None:
    """Print the environment; a token is never printed."""
    content = _environment()
    if arguments.json:
        print(to_json(content))
        return
    cache, hub = content["cache"], content["hub"]
    user = f" as {hub['user']}" if hub["user"] else ""
    source = f", token from {hub['token']}" if hub["token"] else ""
    cores = f"{content['cores']} core{'s' * (content['cores'] != 1)}"
    gpus = [f"{device['name']}, {format_bytes(device['memory_bytes'])}" for device in content["devices"]]
    lines = {name: version or "not installed" for name, version in content["versions"].items()}
    lines |= {
        "platform": content["platform"],
        "processor": f"{cores}, {format_bytes(content['memory_bytes'])} memory",
        "GPUs": "; ".join(gpus) or "none",
        "cache": f"{cache['folder']}, {format_bytes(cache['bytes'])}, {format_bytes(cache['free_bytes'])} free",
        "Hub": f"{hub['endpoint']}{' (offline)' if hub['offline'] else ''}: {hub['login']}{user}{source}",
    }
    width = max(map(len, lines))
    print("\n".join(f"{name:<{width}}  {text}" for name, text in lines.items()))


def _environment() -> dict[str, Any]:
    import psutil

    from hf_scaling import hub
    from hf_scaling.data.cache import cache_root
    from hf_scaling.runner.machine import usable_cores

    try:
        import torch

        cards = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    except (ImportError, OSError):
        cards = []
    versions: dict[str, str | None] = {"hf_scaling": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    folder = cache_root(None)
    n_bytes = 0
    for root, _, names in os.walk(folder):
        for name in names:
            # Another process may have removed it.
            with contextlib.suppress(OSError):
                n_bytes += os.lstat(os.path.join(root, name)).st_size
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return {
        "versions": versions,
        "platform": platform.platform(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "devices": [{"name": card.name, "memory_bytes": card.total_memory} for card in cards],
        "cache": {
            "folder": str(folder),
            "bytes": n_bytes,
            "free_bytes": shutil.disk_usage(existing).free,
        },
        "hub": hub.login_state(),
    }
