"""A worker's process: runs as lines of JSON on stdin, how each ended as a line on stdout.

It ends as soon as its runner does, however that was killed: nobody then holds the other end of stdin.
"""

import json
import os
import queue
import signal
import sys
import threading


def main() -> None:
    """Serve until the runner is gone."""
    # An interrupt is the runner's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    requests: queue.SimpleQueue = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    from hf_scaling.runner.performing import Performer, freeze_libraries

    freeze_libraries()
    performer = Performer()
    _say(answers, {"status": "ready"})
    while True:
        request = requests.get()
        _say(answers, performer.perform(request["study"], request["run"]))


def _listen(requests: queue.SimpleQueue) -> None:
    for line in sys.stdin:
        requests.put(json.loads(line))
    os._exit(0)


def _say(answers, message: dict) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
