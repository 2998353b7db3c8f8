"""What every command and recipe does with an error: one line, and the exit status that says whose it is."""

import os
import sys
import traceback
from collections.abc import Callable

from hf_scaling import files
from hf_scaling.errors import InputError, PushError, RunError


def exit_status(command: Callable[[], int | None], debug: bool = False) -> int:
    """Run `command` and turn its end into an exit status, printing one line to stderr where it failed.

    Args:
        command: What to run; its own status (None = 0) is returned when it ends well.
        debug: Print the traceback of an error as well.

    Returns:
        0 done, 1 failed (also to arrive on the Hub), 2 for what the user can mend (a mistake, a rate that diverged, a
        full disk), 130 interrupted.
    """
    try:
        return command() or 0
    except (InputError, RunError) as error:
        return _report(error, str(error), 2, debug)
    except PushError as error:
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
        trouble = files.disk_trouble(error)
        line = trouble or f"{type(error).__name__}: {error} (--debug shows where)"
        return _report(error, line, 2 if trouble else 1, debug)


def _report(error: BaseException, line: str, status: int, debug: bool) -> int:
    if debug:
        traceback.print_exception(error)
    _close_bars()
    if os.environ.get("RANK", "0") == "0":
        print(f"error: {' '.join(line.split())}", file=sys.stderr, flush=True)
    return status


def _close_bars() -> None:
    """End the progress bars that are still open: they would be drawn once more below the line that matters."""
    if "tqdm" in sys.modules:
        for bar in list(getattr(sys.modules["tqdm"].tqdm, "_instances", ())):
            bar.close()
