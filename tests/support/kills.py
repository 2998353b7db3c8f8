"""Run recipes once undisturbed, and once killed (SIGKILL) at given moments and started again after each.

python tests/support/kills.py RUNS.json

holds a list of [kind, folder, moments, arguments], run one after the other: kind is pretrain or finetune, moments are
shares of the undisturbed run's time, or `save`: when the folder of a checkpoint appears. Prints a JSON list: how many
kills of each met a run that had not ended by itself. The libraries are imported once, and each run is forked, which is
what makes this quick.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from hf_scaling import training

PARSERS = {"pretrain": training.parse_pretrain, "finetune": training.parse_finetune}


def main() -> None:
    """Run every recipe."""
    print(json.dumps([survive(*run) for run in json.loads(Path(sys.argv[1]).read_text())]))


def survive(kind: str, folder: str, moments: list[float | str], argv: list[str]) -> int:
    """Run a recipe undisturbed and killed, in FOLDER/undisturbed and FOLDER/killed; return how many kills met it."""
    folder, kills = Path(folder), 0
    started = time.monotonic()
    assert _wait(_start(kind, [*argv, f"--output_dir={folder / 'undisturbed'}"])) == 0
    duration = time.monotonic() - started
    killed = [*argv, f"--output_dir={folder / 'killed'}"]
    for moment in moments:
        child = _start(kind, killed)
        _wait_for_checkpoint(folder / "killed") if moment == "save" else time.sleep(moment * duration)
        os.kill(child, signal.SIGKILL)
        # A run that was faster than the moment has ended by itself.
        kills += _wait(child) == -signal.SIGKILL
    assert _wait(_start(kind, killed)) == 0
    return kills


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
