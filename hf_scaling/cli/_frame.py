"""What every command and recipe does with an error: one line, and the exit status that says whose it is."""

import errno
import os
import sys
import traceback
from collections.abc import Callable

from hf_scaling.errors import InputError, RunError

_FULL = (errno.ENOSPC, errno.EDQUOT)


def exit_status(command: Callable[[], int | None], debug: bool = False) -> int:
    """Run `command` and turn its end into an exit status, printing one line to stderr where it failed.

    Args:
        command: What to run; its own status (None = 0) is returned when it ends well.
        debug: Print the traceback of an error as well.

    Returns:
        0 done, 1 failed, 2 a user's mistake, 130 interrupted.
    """
    try:
        return command() or 0
    except InputError as error:
        return _report(error, str(error), 2, debug)
    except RunError as error:
        return _report(error, str(error), 1, debug)
    except KeyboardInterrupt as error:
        return _report(
            error, "interrupted; what was finished is kept, and the same command goes on from there", 130, debug
        )
    except BrokenPipeError:
        # The reader (head, less) has left: there is nobody to write to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        line = _full_disk(error) or f"{type(error).__name__}: {error} (--debug shows where)"
        return _report(error, line, 1, debug)


def _report(error: BaseException, line: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return status


def _full_disk(error: BaseException) -> str | None:
    """The line for a full disk, also where a library has wrapped the operating system's error into its own."""
    while error is not None:
        if getattr(error, "errno", None) in _FULL or os.strerror(errno.ENOSPC) in str(error):
            where = getattr(error, "filename", None)
            return f"the disk is full{f': {where}' if where else ''}; free some space and run the same command again"
        error = error.__cause__ or error.__context__
    return None
