"""A process that uses the test Hub: it runs snippets of Python and returns what they print or raise.

The address of the Hub is read when huggingface_hub is imported, so a process of its own is needed; one for many
snippets, because importing takes longer than they do.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_LOOP = """
import contextlib, io, json, sys, traceback
answers, names = sys.stdout, {}
for line in sys.stdin:
    output, error, trace = io.StringIO(), None, ""
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            exec(json.loads(line), names)
        except BaseException as caught:
            error, trace = f"{type(caught).__name__}: {caught}", traceback.format_exc()
    print(json.dumps([output.getvalue(), error, trace]), file=answers, flush=True)
"""


@dataclass(frozen=True)
class Answer:
    """What a snippet printed (both streams), and what it raised, in a line and with its traceback."""

    output: str
    error: str | None
    trace: str


class Client:
    """The process; variables are kept from snippet to snippet."""

    def __init__(self, hub, home: Path, **variables: str):
        """Start it with `variables` on top of `hub.environment(home)`."""
        self._process = subprocess.Popen(
            [sys.executable, "-c", _LOOP],
            env=hub.environment(home) | variables,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception) -> None:
        self._process.stdin.close()
        self._process.wait()

    def run(self, snippet: str) -> Answer:
        """Run a snippet."""
        self.start(snippet)
        return self.finish()

    def start(self, snippet: str) -> None:
        """Start a snippet; `finish` waits for it."""
        self._process.stdin.write(json.dumps(snippet) + "\n")
        self._process.stdin.flush()

    def finish(self) -> Answer:
        """The result of the snippet that `start` started."""
        return Answer(*json.loads(self._process.stdout.readline()))
