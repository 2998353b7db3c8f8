"""How long anything waits for the Hub: a connection, the next bytes, and in all.

huggingface_hub itself waits for ever in most of its calls, and for as long as a busy Hub asks it to.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: Seconds until a connection that is not made counts as failed.
CONNECT_SECONDS = 10.0
#: Seconds without a byte until a request counts as failed.
READ_SECONDS = 60.0
#: Seconds without one good answer until everything is given up.
PATIENCE_SECONDS = 300.0

_BUSY = (408, 425, 429, 500, 502, 503, 504)


class GaveUpError(Exception):
    """The Hub has kept us waiting for too long, or asks for a longer wait than we have."""


class Patience:
    """Watches the requests of one piece of work, retries of huggingface_hub's own among them."""

    def __init__(self):
        self._since = time.monotonic()
        self.answered = False

    @property
    def left(self) -> float:
        """Seconds until everything is given up if the Hub answers nothing more."""
        return self._since + PATIENCE_SECONDS - time.monotonic()

    def asks(self, request: Any) -> None:
        """Let no request start when patience has run out.

        Raises:
            GaveUpError: It has.
        """
        if self.left <= 0:
            raise GaveUpError(f"no good answer for {PATIENCE_SECONDS:.0f} s")

    def hears(self, response: Any) -> None:
        """Take note of an answer.

        Raises:
            GaveUpError: It asks for a longer wait than we have.
        """
        if response.status_code not in _BUSY:
            self._since, self.answered = time.monotonic(), True
            return
        wait = wait_asked_for(response)
        if wait is not None and wait > self.left:
            raise GaveUpError(f"it answers {response.status_code} and asks to come back in {wait:.0f} s")


@contextmanager
def patience() -> Iterator[Patience]:
    """Bound every wait of the block."""
    watch = Patience()
    limit_waiting(watch)
    try:
        yield watch
    finally:
        _hook(watch, False)


def limit_waiting(watch: Patience | None = None) -> None:
    """Give huggingface_hub's client time-outs, where a call states none of its own, and let `watch` see its requests.

    The client is made anew after some errors: ask for this before each try.
    """
    from huggingface_hub import get_session

    client = get_session()
    client.timeout = (CONNECT_SECONDS, READ_SECONDS, READ_SECONDS, READ_SECONDS)
    if watch is not None:
        _hook(watch, True)


def wait_asked_for(response: Any) -> float | None:
    """Seconds after which the Hub asks to come back: its Retry-After or its rate limit's reset; None if not."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    # RateLimit: "api";r=0;t=55 (remaining requests, seconds to the reset)
    parts = dict(part.strip().partition("=")[::2] for part in response.headers.get("RateLimit", "").split(";"))
    return float(parts["t"]) if parts.get("r") == "0" and parts.get("t", "").isdigit() else None


def is_busy(status: int) -> bool:
    """Whether an answer of this status may be another one in a while."""
    return status in _BUSY


def _hook(watch: Patience, wanted: bool) -> None:
    """Add `watch` to the client's event hooks, or take it out."""
    from huggingface_hub import get_session

    hooks = get_session().event_hooks
    for event, method in (("request", watch.asks), ("response", watch.hears)):
        others = [each for each in hooks[event] if each != method]
        hooks[event] = [*others, method] if wanted else others
    get_session().event_hooks = hooks
