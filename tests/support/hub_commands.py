"""Programs and commands that speak to the tests' Hub, each in a process of its own, as a user starts them."""

import subprocess
import sys
import textwrap


def start(hub, folder, code, *argv, **environment):
    """A Python program in `folder`, its caches in `folder`/hf."""
    settings = hub.environment(folder / "hf") | environment
    program = [sys.executable, "-c", textwrap.dedent(code), *map(str, argv)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(program, env=settings, cwd=folder, **pipes)


def run(hub, folder, code, *argv, **environment):
    """What a program printed; it must end well."""
    process = start(hub, folder, code, *argv, **environment)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return out


def command(hub, folder, *argv, **environment):
    """`hf-scaling`: its status, what it printed, what it said."""
    code = "import sys; from hf_scaling.cli import main; main(sys.argv[1:])"
    process = start(hub, folder, code, *argv, **environment)
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def last_line(err):
    """What a command said at its end: one line, after the library's progress bars."""
    line = err.splitlines()[-1]
    assert line.startswith("error: ")
    return line
