"""`hf-scaling`: one command a module of this folder.

A command's module has `HELP` (one line), `EXAMPLE` (one command line), `add_arguments(parser)` and `run(arguments)`,
and imports nothing heavy before `run`. It is found by its file name; names that begin with `_` are no commands.
"""

import argparse
import importlib
import pkgutil
import sys
from collections.abc import Sequence

from hf_scaling import __version__
from hf_scaling.cli._frame import exit_status
from hf_scaling.errors import InputError

__all__ = ["command_names", "exit_status", "main"]


def main(argv: Sequence[str] | None = None) -> None:
    """Run `hf-scaling` and exit: 0 done, 1 failed, 2 bad arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    sys.exit(exit_status(lambda: _dispatch(argv), debug="--debug" in argv))


def command_names() -> list[str]:
    """The commands there are, in alphabetical order."""
    return sorted(each.name for each in pkgutil.iter_modules(__path__) if not each.name.startswith("_"))


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str):
        raise InputError(f"{message} (see {self.prog} --help)")


def _dispatch(argv: list[str]) -> int | None:
    parser = _build_parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help(sys.stderr)
        return 2
    return arguments.run(arguments)


def _build_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="hf-scaling",
        description="Scaling laws of visual transfer learning and distillation: measure, fit, decide.",
        epilog="example: hf-scaling fit results.csv --law chinchilla --target loss",
        allow_abbrev=False,
    )
    parser.set_defaults(run=None)
    parser.add_argument("--version", action="version", version=f"hf-scaling {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for name in command_names():
        module = importlib.import_module(f"{__name__}.{name}")
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, epilog=f"example: {module.EXAMPLE}", allow_abbrev=False
        )
        module.add_arguments(command)
        command.add_argument("--debug", action="store_true", help="show the traceback of an error")
        command.set_defaults(run=module.run)
    return parser
