"""Run a recipe once undisturbed, and once killed (SIGKILL) at given moments and started again after each.

python tests/support/kills.py pretrain|finetune FOLDER MOMENTS ARGUMENT...

MOMENTS are shares of the undisturbed run's time, separated by commas, or `save`: when the folder of a checkpoint
appears. To save time the libraries are imported once, and each run is forked.
"""

import os
import signal
import sys
import time
from pathlib import Path

from hf_scaling import training

PARSERS = {"pretrain": training.parse_pretrain, "finetune": training.parse_finetune}


def main() -> None:
    kind, folder, moments, *argv = sys.argv[1:]
    folder = Path(folder)
    started = time.monotonic()
    assert _wait(_start(kind, [*argv, f"--output_dir={folder / 'undisturbed'}"])) == 0
    duration = time.monotonic() - started
    killed = [*argv, f"--output_dir={folder / 'killed'}"]
    for moment in moments.split(","):
        child = _start(kind, killed)
        _wait_for_checkpoint(folder / "killed") if moment == "save" else time.sleep(float(moment) * duration)
        os.kill(child, signal.SIGKILL)
        # A run that was faster than the moment has ended by itself.
        print(f"killed at {moment}: {_wait(child) == -signal.SIGKILL}", flush=True)
    assert _wait(_start(kind, killed)) == 0


def _start(kind: str, argv: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    training.train(training.resolve(*PARSERS[kind](argv, None)))
    os._exit(0)


def _wait(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _wait_for_checkpoint(folder: Path) -> None:
    while not list(folder.rglob("checkpoint-*")):
        time.sleep(0.001)


if __name__ == "__main__":
    main()
