"""`hf-scaling`: one command per module of this folder.

The module of a command has `HELP` (one line), `EXAMPLE` (one command line), `add_arguments(parser)` and
`run(arguments)`, which returns the exit status (None = 0), and imports nothing heavy before `run`. A command is found
by the name of its file; names that begin with `_` are not commands. Flags are written with hyphens, and accepted with
underscores too.
"""

import argparse
import importlib
import logging
import os
import pkgutil
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import NoReturn

from hf_scaling import __version__, files
from hf_scaling.errors import ColumnsError, InputError, PushError, RunError
from hf_scaling.text import did_you_mean, one_line


def main(argv: Sequence[str] | None = None) -> None:
    """Run `hf-scaling` and exit: 0 done, 1 failed, 2 bad arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    sys.exit(exit_status(lambda: _run_command(argv), debug="--debug" in argv))


def command_names() -> list[str]:
    """The names of the commands, in alphabetical order."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


def exit_status(command: Callable[[], int | None], debug: bool = False) -> int:
    """Run a command or a recipe, and print one line to stderr where it fails.

    While it runs, what the package logs is printed to stderr.

    Args:
        command: What to run; returns its exit status (None = 0).
        debug: Print the traceback of an error too.

    Returns:
        0 done; 1 failed, or not arrived on the Hub; 2 for what the user can correct (bad arguments, a learning rate
        that diverged, a full disk); 130 interrupted.
    """
    handler = logging.StreamHandler(sys.stderr)
    logger = logging.getLogger("hf_scaling")
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO if level == logging.NOTSET else level)
    try:
        return command() or 0
    except (InputError, RunError) as error:
        return _report(error, str(error), 2, debug)
    except PushError as error:
        return _report(error, str(error), 1, debug)
    except KeyboardInterrupt as error:
        line = "interrupted; what was finished is kept, and the same command resumes from there"
        return _report(error, line, 130, debug)
    except BrokenPipeError:
        # The reader (head, less) has ended: nobody reads the output any more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        disk = files.disk_trouble(error)
        line = disk or f"{type(error).__name__}: {error} (--debug shows where)"
        return _report(error, line, 2 if disk else 1, debug)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _report(error: BaseException, line: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if "tqdm" in sys.modules:
        # Open progress bars would be drawn once more below the error.
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {one_line(line)}", file=sys.stderr, flush=True)
    return status


class _HelpFormatter(argparse.HelpFormatter):
    """Leaves the example, a command to copy, in one line."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return text if text.startswith(_EXAMPLE) else super()._fill_text(text, width, indent)


_EXAMPLE = "example: "


class _Parser(argparse.ArgumentParser):
    """Reports a mistake in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def _run_command(argv: Sequence[str]) -> int | None:
    parser = _build_parser()
    known = command_names()
    if argv and not argv[0].startswith("-") and argv[0] not in known:
        raise InputError(f"no command {argv[0]!r}{did_you_mean(argv[0], known)} (see hf-scaling --help)")
    # --at_most is --at-most.
    hyphened = [re.sub(r"^--\w[\w-]*", lambda flag: flag[0].replace("_", "-"), word) for word in argv]
    arguments = parser.parse_args(hyphened)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return 2
    try:
        return arguments.run(arguments)
    except ColumnsError as error:
        raise InputError(f"{error.problem}{_advice(error, hyphened, arguments)}") from error


def _advice(error: ColumnsError, argv: Sequence[str], arguments: argparse.Namespace) -> str:
    """The command to try where a table lacks columns: this one with the missing arguments, or an import before it."""
    where = getattr(arguments, "results", "FILE")
    if error.wide:
        return f"; try: {shlex.join(['hf-scaling', 'import', where])}"
    # A target that is given with a value, loss=2.4, is not another column's.
    flags = {
        name: values
        for name, values in error.remedy.items()
        if hasattr(arguments, name) and not (name == "target" and "=" in str(arguments.target))
    }
    if not flags:
        return ""
    # A flag that is replaced, and one that is repeated.
    replaced = [f"--{name.replace('_', '-')}" for name in flags if not isinstance(getattr(arguments, name), list)]
    kept = [
        word
        for word, before in zip(argv, ["", *argv])
        if word.partition("=")[0] not in replaced and before not in replaced
    ]
    return f"; try: {shlex.join(['hf-scaling', *kept, *ColumnsError('', flags).flags()])}"


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-scaling",
        description="Scaling laws of visual transfer learning and distillation: measure, fit, decide.",
        epilog=f"{_EXAMPLE}hf-scaling fit results.csv --law chinchilla --target loss",
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
    )
    parser.set_defaults(run=None)
    parser.add_argument("--version", action="version", version=f"hf-scaling {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in command_names():
        module = importlib.import_module(f"{__name__}.{name}")
        command = commands.add_parser(
            name,
            help=module.HELP,
            description=module.HELP,
            epilog=f"{_EXAMPLE}{module.EXAMPLE}",
            formatter_class=_HelpFormatter,
            allow_abbrev=False,
        )
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return parser
