"""Several processes that open one source at once, and may be killed while they fill (test_data_cache.py).

    python filling_processes.py WORKLOADS.json

holds a list of workloads, run one after the other. Each has source, cache, streaming, folder, shard_bytes,
n_processes, and kill_after: how many blocks of rows may be packed before all are killed (null: none is). Process r
appends the rows it packs to folder/r.rows and writes the first pixels of the images that it reads as rank r to
folder/r.json. The libraries are imported once, then forked, which is what makes this quick.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

import datasets  # noqa: F401 before the fork, with torch, which it would import in every process
import numpy as np
import torch  # noqa: F401

from hf_scaling import data
from hf_scaling.data import cache, readers


def main() -> None:
    """Run every workload."""
    for workload in json.loads(Path(sys.argv[1]).read_text()):
        run(workload)


def run(workload: dict) -> None:
    """Start the processes; kill them or wait for them."""
    folder = Path(workload["folder"])
    children = [_start(workload, folder, rank) for rank in range(workload["n_processes"])]
    if workload["kill_after"] is not None:
        while sum(path.read_text().count("\n") for path in folder.glob("*.rows")) <= workload["kill_after"]:
            time.sleep(0.002)
        for child in children:
            os.kill(child, signal.SIGKILL)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    expected = 0 if workload["kill_after"] is None else signal.SIGKILL
    assert statuses == [expected] * len(children), statuses


def _start(workload: dict, folder: Path, rank: int) -> int:
    child = os.fork()
    if child:
        return child
    try:
        _fill_and_read(workload, folder, rank)
        os._exit(0)
    finally:
        os._exit(1)


def _fill_and_read(workload: dict, folder: Path, rank: int) -> None:
    cache._RAW_BYTES = workload["shard_bytes"]  # so that a small source has many shards
    pack = readers.RowPacker.pack

    def logged_pack(self, raw, start):
        with (folder / f"{rank}.rows").open("a") as file:
            file.write(f"{start} {len(raw)}\n")
        time.sleep(0.02)  # long enough for the other processes to need the same rows
        return pack(self, raw, start)

    readers.RowPacker.pack = logged_pack
    source = data.open_source(
        workload["source"], image_size=8, cache_dir=workload["cache"], streaming=workload["streaming"], progress=False
    )
    indices = np.arange(len(source.train))[rank :: workload["n_processes"]]
    first_pixels = source.train.images(indices)[:, 0, 0].tolist()
    (folder / f"{rank}.json").write_text(json.dumps(first_pixels))


if __name__ == "__main__":
    main()
