"""Programs and commands that use the test Hub, each in a process of its own, as a user starts them."""

import subprocess
import sys
import textwrap


def start(hub, folder, code, *argv, **environment):
    """Start a Python program in `folder`, with its caches in `folder`/hf."""
    settings = hub.environment(folder / "hf") | environment
    program = [sys.executable, "-c", textwrap.dedent(code), *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(program, env=settings, cwd=folder, **pipes)


def run(hub, folder, code, *argv, **environment):
    """Run a program that must succeed, and return what it prints."""
    process = start(hub, folder, code, *argv, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def command(hub, folder, *argv, **environment):
    """Run `hf-scaling`, and return its exit status, stdout and stderr."""
    code = "import sys; from hf_scaling.cli import main; main(sys.argv[1:])"
    process = start(hub, folder, code, *argv, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def last_line(err):
    """The error line of a command, which follows the progress bars of libraries."""
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    return line
