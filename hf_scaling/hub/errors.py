"""What went wrong with the Hub, as one line: offline, absent, gated, not allowed; and never the token."""

import os
import random
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from hf_scaling.errors import InputError, PushError

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


#: How often one thing is tried; where the Hub names no wait, the waits between add up to about two minutes.
TRIES = 40
# Seconds: the first wait is up to, every other one, and one after being overtaken; a wait worth telling of.
_FIRST, _LONGEST, _LONGEST_IF_OVERTAKEN, _TOLD = 0.25, 8.0, 2.0, 5.0

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
                cut_off = is_offline(error) and not watch.answered
                if cut_off or not may_pass(error) or number == TRIES - 1:
                    raise
                _wait(error, number)
    raise AssertionError("the last try returns or raises")


def _wait(error: BaseException, number: int) -> None:
    """Wait before the next try: as long as the Hub asks to, and a random time that grows with the tries."""
    response = response_of(error)
    asked = wait_asked_for(response) if response is not None else None
    longest = _LONGEST_IF_OVERTAKEN if was_overtaken(error) else _LONGEST
    seconds = (asked or 0.0) + random.uniform(0, min(longest, _FIRST * 2**number))
    if seconds >= _TOLD:
        print(f"{first_line(error)}: trying again in {seconds:.0f} s", file=sys.stderr, flush=True)
    time.sleep(seconds)


_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{8,}|(?<=Bearer )[^\s'\"]+")
_LOG_IN = "`hf auth login`, or set HF_TOKEN"
#: Errors that mean no connection at all, by name: those of httpx are of another package from huggingface_hub 2 on.
_NO_CONNECTION = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ProxyError"}
#: Another commit came first (412), or two requests met (409).
_OVERTAKEN = (409, 412)


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn the Hub's and the network's errors into one line about `what`, which was to be read.

    Args:
        what: What was asked for, as the line should name it: "the model org/name".

    Raises:
        InputError: In place of any error of huggingface_hub, httpx, or a refused connection.
    """
    try:
        yield
    except Exception as error:
        if is_offline(error):
            raise InputError(f"{_offline()}, and {what} is not in the local cache") from _shown(error)
        line = _refusal(error, what, "read") or _failure(error)
        if line is None:
            raise
        raise InputError(line if line.startswith(what) else f"{what}: {line}") from _shown(error)


@contextmanager
def push_errors(what: str) -> Iterator[None]:
    """Turn the Hub's and the network's errors into one line about `what`, which was to be written.

    Raises:
        InputError: The Hub refuses: no such repository, no right to write, a card it does not take.
        PushError: Offline, or the Hub kept failing.
    """
    try:
        yield
    except (InputError, PushError):
        raise
    except Exception as error:
        line = _refusal(error, what, "write")
        if line is not None:
            raise InputError(line) from _shown(error)
        line = _offline() if is_offline(error) else _failure(error)
        if line is None:
            raise
        raise PushError(f"{line}; {what} was not written: the same command tries again") from _shown(error)


def is_offline(error: BaseException) -> bool:
    """Whether there was no connection at all: offline on purpose, no route, nobody listening, no name."""
    if response_of(error) is not None:
        return False
    return bool(_NO_CONNECTION & {cls.__name__ for each in _chain(error) for cls in type(each).__mro__})


def may_pass(error: BaseException) -> bool:
    """Whether the same request may do better in a while: a busy Hub, a dropped connection, another commit first."""
    if any(isinstance(each, GaveUpError) for each in _chain(error)):
        return False
    status = _status(error)
    if status is not None:
        return is_busy(status) or status in _OVERTAKEN
    return any(_is_of_network(each) for each in _chain(error))


def was_overtaken(error: BaseException) -> bool:
    """Whether another commit came first."""
    return _status(error) in _OVERTAKEN


def response_of(error: BaseException):
    """The Hub's answer that an error stands for; None where it gave none."""
    found = (getattr(each, "response", None) for each in _chain(error))
    return next((each for each in found if each is not None), None)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without the token."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return redacted((lines or [type(error).__name__])[0].strip())


def redacted(text: str) -> str:
    """`text` without anything that looks like a token of the Hub, or is ours."""
    from huggingface_hub import get_token

    text = _TOKEN.sub("<token>", text)
    ours = get_token()
    return text.replace(ours, "<token>") if ours else text


def _refusal(error: BaseException, what: str, verb: str) -> str | None:
    """The line for an answer that will not change by itself; None for other errors."""
    from huggingface_hub import errors

    if isinstance(error, errors.GatedRepoError):
        return f"{what} is gated: ask for access on its page, then {_LOG_IN}"
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{what} has no such revision on the Hub"
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return f"{what}: the Hub has no such file ({first_line(error)})"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"{what} is not on the Hub (or private: then {_LOG_IN} first)"
    if isinstance(error, errors.HFValidationError):
        return f"{what} is no path here and no Hub id: {first_line(error)}"
    if isinstance(error, errors.LocalTokenNotFoundError):
        return f"{what}: nobody is logged in: {_LOG_IN}"
    if _status(error) == 401:
        return f"{what}: the Hub does not know you; {_LOG_IN} to a token that is still valid"
    if _status(error) == 403:
        return f"{what}: your token may not {verb} it; {_LOG_IN} to one that may"
    if isinstance(error, ValueError) and str(error).startswith("Invalid metadata"):
        return f"{what}: the Hub does not take the head of README.md: {redacted(' '.join(str(error).split()))}"
    if isinstance(error, ValueError) and str(error).startswith(("Invalid filename", "Invalid pointer path")):
        return f"{what} is refused: {redacted(str(error))}"
    status = _status(error)
    if status is not None and 400 <= status < 500 and not may_pass(error):
        return f"{what}: {_answer(error)}"
    return None


def _failure(error: BaseException) -> str | None:
    """The line for an error of the Hub or of the network; None for one of neither."""
    given_up = next((each for each in _chain(error) if isinstance(each, GaveUpError)), None)
    if given_up is not None:
        return f"the Hub keeps us waiting: {given_up}"
    if response_of(error) is not None:
        return _answer(error)
    if any(_is_of_network(each) for each in _chain(error)):
        return f"the connection to the Hub broke ({first_line(error)})"
    return None


def _answer(error: BaseException) -> str:
    said = getattr(error, "server_message", None) or first_line(error)
    return f"the Hub answered {_status(error)}: {redacted(' '.join(said.split()))}"


def _shown(error: BaseException) -> BaseException | None:
    """What may stand in a traceback as the cause: the error, but not where its text holds the token."""
    return error if all(redacted(str(each)) == str(each) for each in _chain(error)) else None


def _status(error: BaseException) -> int | None:
    response = response_of(error)
    return None if response is None else response.status_code


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those that it came from."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_of_network(error: BaseException) -> bool:
    """A connection refused, dropped or timed out: of the sockets, or of whichever httpx the Hub client uses."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return any(cls.__name__ == "TransportError" and "httpx" in cls.__module__ for cls in type(error).__mro__)


def _offline() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "offline (HF_HUB_OFFLINE is set)"
    return "offline: the Hub cannot be reached"
