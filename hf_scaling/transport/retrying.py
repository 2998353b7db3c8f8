"""Trying again what may do better in a while: a busy Hub, a broken connection, another commit that came first."""

import random
import sys
import time
from collections.abc import Callable
from typing import TypeVar

from hf_scaling.transport import telling
from hf_scaling.transport.patience import limit_waiting, patience, wait_asked_for

#: How often one thing is tried; where the Hub names no wait, the waits between add up to about two minutes.
TRIES = 40
# Seconds: the first wait is up to, every other one, and one after being overtaken; a wait worth telling of.
_FIRST, _LONGEST, _OVERTAKEN, _TOLD = 0.25, 8.0, 2.0, 5.0

T = TypeVar("T")


def retried(action: Callable[[], T]) -> T:
    """What `action` gives, trying it again while it fails in a way that may pass.

    Raises:
        Exception: What the last try raised; no connection at all is not tried again.
    """
    with patience() as watch:
        for number in range(TRIES):
            limit_waiting(watch)
            try:
                return action()
            except Exception as error:
                cut_off = telling.is_offline(error) and not watch.answered
                if cut_off or not telling.may_pass(error) or number == TRIES - 1:
                    raise
                _wait(error, number)
    raise AssertionError("the last try returns or raises")


def _wait(error: BaseException, number: int) -> None:
    """Wait before the next try: as long as the Hub asks to, and a random time that grows with the tries."""
    response = telling.response_of(error)
    asked = wait_asked_for(response) if response is not None else None
    longest = _OVERTAKEN if telling.was_overtaken(error) else _LONGEST
    seconds = (asked or 0.0) + random.uniform(0, min(longest, _FIRST * 2**number))
    if seconds >= _TOLD:
        print(f"{telling.first_line(error)}: trying again in {seconds:.0f} s", file=sys.stderr, flush=True)
    time.sleep(seconds)
