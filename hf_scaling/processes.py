"""Python processes of this package that answer requests: one JSON line for each request, one for each answer.

The asking side:

    with Process("hf_scaling.runner.worker") as process:
        planned = process.ask("plan", runs=[...], fill=False, guess=False)

The module that is started calls `serve({"plan": function, ...})`. A process ends when its starter does, also when that
is killed: the starter holds the other end of its stdin.
"""

import contextlib
import gc
import json
import os
import queue
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_scaling.errors import InputError, RunError

_ERRORS = {"InputError": InputError, "RunError": RunError}
#: Begins an answer: other lines of a process's stdout were printed by libraries as they were imported.
_MARK = "hf_scaling answer: "


class ProcessEnded(RunError):
    """A process ended without answering."""


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Import what a program needs without garbage collection, which takes a quarter of the time of torch's imports.

    What is loaded is left out of later collections too: each would look at a million objects that stay. For the main
    module of a program only, since whatever the process holds by then is never collected.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def environment(**variables: str) -> dict[str, str]:
    """The environment of a process that imports this package, also where it is not installed.

    Args:
        variables: Added to the environment of this process.
    """
    home = str(Path(__file__).resolve().parents[1])
    path = os.environ.get("PYTHONPATH")
    return {**os.environ, **variables, "PYTHONPATH": f"{home}{os.pathsep}{path}" if path else home}


class Process:
    """A Python process that serves requests until it is closed.

    Args:
        module: The module that it runs; it calls `serve`.
        variables: Environment variables to set for it.
        log: File that takes its stderr, and what libraries print; None = stderr of this process.
        launcher: Module and arguments that start `module`, such as those of `accelerate launch`.
        request: With a launcher, which starts several processes: the one request that they answer together.
    """

    def __init__(
        self,
        module: str,
        variables: Mapping[str, str] | None = None,
        log: Path | None = None,
        launcher: Sequence[str] = (),
        request: Mapping[str, Any] | None = None,
    ) -> None:
        self.module = module
        run = ["-m", module] if not launcher else ["-m", *launcher, "--module", module]
        with contextlib.ExitStack() as stack:
            self._process = subprocess.Popen(
                [sys.executable, *run, *([] if request is None else [json.dumps(request)])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(log.open("wb")) if log else None,
                encoding="utf-8",
                env=environment(**(variables or {})),
                # An interrupt from the terminal is for the starter alone, which then closes its processes.
                start_new_session=True,
            )

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(self, name: str, /, **arguments: Any) -> Any:
        """Send a request and wait for its answer.

        Raises:
            InputError, RunError: What the process raised.
            ProcessEnded: It ended without answering.
        """
        self.send(name, **arguments)
        return self.receive()

    def send(self, name: str, /, **arguments: Any) -> None:
        """Send a request; `receive` reads its answer, and raises where the process has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps({"name": name, "arguments": arguments}) + "\n")
            self._process.stdin.flush()

    def receive(self) -> Any:
        """Wait for the next answer.

        Raises:
            InputError, RunError: What the process raised.
            ProcessEnded: It ended without answering.
        """
        assert self._process.stdout is not None
        while line := self._process.stdout.readline():
            # A kill may cut the last line short.
            if line.startswith(_MARK) and line.endswith("\n"):
                answer = json.loads(line.removeprefix(_MARK))
                if "error" in answer:
                    raise _ERRORS[answer["kind"]](answer["error"])
                return answer["value"]
        status = self._process.wait()
        raise ProcessEnded(f"the process {self.module} ended with status {status} and without an answer")

    def wait(self) -> int:
        """Wait until it ends by itself; gives its exit status."""
        return self._process.wait()

    def close(self) -> None:
        """End the process, whatever it is doing."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        # Processes that it has started see the end of their stdin. Its stdout may still be read by a thread.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()


def serve(handlers: Mapping[str, Callable[..., Any]]) -> None:
    """Answer requests from stdin, in order, until the starter of this process is gone.

    With a request as argument of the command line, as several processes of one launcher get it: answer that alone; the
    process of rank 0 writes the answer, any of them an error, with exit status 1.

    Args:
        handlers: Name of a request -> function of its arguments; the result is sent as JSON. An InputError or RunError
            is sent as such; any other exception ends the process, with its traceback on stderr.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What libraries print must not reach the answers.
    os.dup2(2, 1)
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read_lines, args=(lines,), daemon=True).start()
    if len(sys.argv) > 1:
        answer = _answer(handlers, sys.argv[1])
        if "error" in answer or os.environ.get("RANK", "0") == "0":
            print(_MARK + json.dumps(answer), file=answers, flush=True)
        sys.exit(int("error" in answer))
    while True:
        print(_MARK + json.dumps(_answer(handlers, lines.get())), file=answers, flush=True)


def _answer(handlers: Mapping[str, Callable[..., Any]], line: str | bytes) -> dict[str, Any]:
    request = json.loads(line)
    try:
        return {"value": handlers[request["name"]](**request["arguments"])}
    except (InputError, RunError) as error:
        return {"error": str(error), "kind": "InputError" if isinstance(error, InputError) else "RunError"}
    except BaseException:
        traceback.print_exc()
        # Not by raising: the interpreter cannot end in order while the thread waits for stdin.
        sys.stderr.flush()
        os._exit(1)


def _read_lines(lines: "queue.SimpleQueue[bytes]") -> None:
    """Collect the lines of stdin, and end this process with it."""
    with open(0, "rb", buffering=0, closefd=False) as stdin:
        rest = b""
        while chunk := stdin.read(1 << 16):
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                lines.put(line)
    os._exit(0)
