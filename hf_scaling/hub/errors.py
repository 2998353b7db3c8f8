"""Retries with bounded waits, and one line for each error of the Hub or the network; never the token."""

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from hf_scaling.errors import InputError, PushError
from hf_scaling.text import one_line

if TYPE_CHECKING:
    import httpx
    from tenacity import RetryCallState

logger = logging.getLogger(__name__)
T = TypeVar("T")

#: Seconds until a connection that is not established counts as failed.
CONNECT_SECONDS = 10.0
#: Seconds without a byte until a request counts as failed.
READ_SECONDS = 60.0
#: Seconds without a good answer until everything is given up.
PATIENCE_SECONDS = 300.0
#: The most attempts of one operation; where the Hub asks for no wait, the waits add up to about two minutes.
TRIES = 40
# Seconds: the first wait, the longest, the longest after another commit came first, and the shortest that is logged.
_FIRST, _LONGEST, _LONGEST_IF_OVERTAKEN, _LOGGED = 0.25, 8.0, 2.0, 5.0

_BUSY = (408, 425, 429, 500, 502, 503, 504)
# Another commit came first (412), or two requests met (409).
_OVERTAKEN = (409, 412)
# Errors that mean no connection at all, by name: huggingface_hub's HTTP library differs between its versions.
_NO_CONNECTION = {"OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectTimeout", "ProxyError"}
_TOKEN = re.compile(r"hf_[A-Za-z0-9_]{8,}|(?<=Bearer )[^\s'\"]+")
_LOG_IN = "`hf auth login`, or set HF_TOKEN"
# Class of an error of huggingface_hub, or status of the answer -> message; the first that fits counts.
_REFUSALS = {
    "GatedRepoError": "{what} is gated: ask for access on its page, then {log_in}",
    "RevisionNotFoundError": "{what} has no such revision on the Hub",
    "RemoteEntryNotFoundError": "{what}: the Hub has no such file ({reason})",
    "RepositoryNotFoundError": "{what} is not on the Hub (or private: then {log_in} first)",
    "HFValidationError": "{what} is neither a local path nor a Hub id: {reason}",
    "LocalTokenNotFoundError": "{what}: you are not logged in: {log_in}",
    "401": "{what}: the Hub does not accept your token (401); {log_in} with a valid one",
    "403": "{what}: your token may not {verb} it (403); {log_in} with one that may",
}


class GaveUpError(Exception):
    """The Hub gave no good answer for too long, or asks for a longer wait than is left."""


class NotOnHubError(InputError):
    """The Hub has no such repository, or it is private and the token may not read it."""


class Patience:
    """Limits the waits of one operation: it sees every request, also the retries inside huggingface_hub.

    Attributes:
        answered: Whether the Hub gave a good answer yet.
    """

    def __init__(self) -> None:
        self._since = time.monotonic()
        self.answered = False

    @property
    def left(self) -> float:
        """Seconds until everything is given up if the Hub gives no good answer."""
        return self._since + PATIENCE_SECONDS - time.monotonic()

    def before_request(self, request: "httpx.Request | None") -> None:
        """Refuse to start a request when no time is left.

        Raises:
            GaveUpError: No time is left.
        """
        if self.left <= 0:
            raise GaveUpError(f"no good answer for {PATIENCE_SECONDS:.0f} s")

    def after_response(self, response: "httpx.Response") -> None:
        """Start the time again after a good answer.

        Raises:
            GaveUpError: The Hub asks for a longer wait than is left.
        """
        if response.status_code not in _BUSY:
            self._since, self.answered = time.monotonic(), True
            return
        wait = requested_wait(response)
        if wait is not None and wait > self.left:
            raise GaveUpError(f"it answers {response.status_code} and asks to come back in {wait:.0f} s")

    def attach(self) -> None:
        """Set the time-outs of huggingface_hub's client and watch its requests.

        The client is rebuilt after some errors, so this is called before each attempt.
        """
        from huggingface_hub import get_session

        self.detach()
        client = get_session()
        client.timeout = (CONNECT_SECONDS, READ_SECONDS, READ_SECONDS, READ_SECONDS)
        hooks = client.event_hooks
        client.event_hooks = {
            "request": [*hooks["request"], self.before_request],
            "response": [*hooks["response"], self.after_response],
        }

    def detach(self) -> None:
        """Watch the client's requests no longer."""
        from huggingface_hub import get_session

        ours = (self.before_request, self.after_response)
        client = get_session()
        client.event_hooks = {
            event: [hook for hook in hooks if hook not in ours] for event, hooks in client.event_hooks.items()
        }


def requested_wait(response: "httpx.Response") -> float | None:
    """The wait in seconds that the Hub asks for by Retry-After or by its rate limit; None where it asks for none."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    # RateLimit: "api";r=0;t=55 (remaining requests, seconds to the reset)
    parts = dict(part.strip().partition("=")[::2] for part in response.headers.get("RateLimit", "").split(";"))
    return float(parts["t"]) if parts.get("r") == "0" and parts.get("t", "").isdigit() else None


def retried(action: Callable[[], T]) -> T:
    """Call `action` again while it fails in a way that may pass, with random waits that grow.

    Raises:
        Exception: The error of the last attempt. Without any connection there is one attempt.
    """
    from tenacity import Retrying, retry_if_exception, stop_after_attempt

    patience = Patience()
    attempts = Retrying(
        retry=retry_if_exception(lambda error: may_pass(error) and (patience.answered or not is_offline(error))),
        stop=stop_after_attempt(TRIES),
        wait=_wait,
        before=lambda state: patience.attach(),
        reraise=True,
    )
    try:
        return attempts(action)
    finally:
        patience.detach()


def _wait(state: "RetryCallState") -> float:
    """Seconds until the next attempt: what the Hub asks for, and a random time that grows with the attempts."""
    from tenacity import wait_random_exponential

    error = state.outcome.exception() if state.outcome else None
    assert error is not None, "a wait follows an error"
    response = response_of(error)
    requested = (0.0 if response is None else requested_wait(response)) or 0.0
    longest = _LONGEST_IF_OVERTAKEN if was_overtaken(error) else _LONGEST
    seconds = requested + wait_random_exponential(multiplier=_FIRST, max=longest)(state)
    if seconds >= _LOGGED:
        logger.warning("%s: trying again in %.0f s", first_line(error), seconds)
    return seconds


@contextmanager
def hub_errors(what: str) -> Iterator[None]:
    """Turn errors of the Hub and the network while reading into one line.

    Args:
        what: What is read, as the message names it: "the model org/name".

    Raises:
        InputError: In place of any error of huggingface_hub or of the network.
    """
    try:
        yield
    except Exception as error:
        if is_offline(error):
            raise InputError(f"{_offline()}, and {what} is not in the local cache") from _shown(error)
        refusal = _refusal(error, what, "read")
        if refusal is not None:
            raise refusal from _shown(error)
        if line := _failure(error):
            raise InputError(f"{what}: {line}") from _shown(error)
        raise


@contextmanager
def push_errors(what: str) -> Iterator[None]:
    """Turn errors of the Hub and the network while writing into one line.

    Args:
        what: What is written, as the message names it: "the data set org/name".

    Raises:
        InputError: The Hub refuses: no such repository, no right to write, an invalid card.
        PushError: Offline, or the Hub kept failing.
    """
    try:
        yield
    except (InputError, PushError):
        raise
    except Exception as error:
        refusal = _refusal(error, what, "write")
        if refusal is not None:
            raise refusal from _shown(error)
        line = _offline() if is_offline(error) else _failure(error)
        if line is None:
            raise
        raise PushError(f"{line}; {what} was not written: run the same command again") from _shown(error)


def is_offline(error: BaseException) -> bool:
    """Whether there was no connection at all: offline mode, no route, no server, no such host."""
    if response_of(error) is not None:
        return False
    return bool(_NO_CONNECTION & {cls.__name__ for link in _chain(error) for cls in type(link).__mro__})


def may_pass(error: BaseException) -> bool:
    """Whether another attempt may succeed: a busy Hub, a dropped connection, another commit that came first."""
    if any(isinstance(link, GaveUpError) for link in _chain(error)):
        return False
    status = _status(error)
    if status is not None:
        return status in _BUSY or status in _OVERTAKEN
    return any(_is_of_network(link) for link in _chain(error))


def was_overtaken(error: BaseException) -> bool:
    """Whether another commit came first."""
    return _status(error) in _OVERTAKEN


def response_of(error: BaseException) -> "httpx.Response | None":
    """The answer of the Hub that an error was raised for; None where there is none."""
    responses = (getattr(link, "response", None) for link in _chain(error))
    return next((response for response in responses if response is not None), None)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without the token."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return redacted((lines or [type(error).__name__])[0].strip())


def redacted(text: str) -> str:
    """`text` with the user's token, and whatever looks like a token of the Hub, replaced."""
    from huggingface_hub import get_token

    text = _TOKEN.sub("<token>", text)
    token = get_token()
    return text.replace(token, "<token>") if token else text


def _refusal(error: BaseException, what: str, verb: str) -> InputError | None:
    """The message for an answer that no further attempt changes; None for other errors."""
    status, text = _status(error), one_line(error)
    names = {cls.__name__ for cls in type(error).__mro__} | {str(status)}
    if name := next((name for name in _REFUSALS if name in names), None):
        kind = NotOnHubError if name == "RepositoryNotFoundError" else InputError
        return kind(_REFUSALS[name].format(what=what, verb=verb, reason=first_line(error), log_in=_LOG_IN))
    if isinstance(error, ValueError) and text.startswith("Invalid metadata"):
        return InputError(f"{what}: the Hub refuses the head of README.md: {redacted(text)}")
    if isinstance(error, ValueError) and text.startswith(("Invalid filename", "Invalid pointer path")):
        return InputError(f"{what} is refused: {redacted(text)}")
    if status is not None and 400 <= status < 500 and not may_pass(error):
        return InputError(f"{what}: {_answer(error)}")
    return None


def _failure(error: BaseException) -> str | None:
    """The message for an error of the Hub or the network; None for other errors."""
    gave_up = next((link for link in _chain(error) if isinstance(link, GaveUpError)), None)
    if gave_up is not None:
        return f"gave up waiting for the Hub: {gave_up}"
    if response_of(error) is not None:
        return _answer(error)
    if any(_is_of_network(link) for link in _chain(error)):
        return f"the connection to the Hub broke ({first_line(error)})"
    return None


def _answer(error: BaseException) -> str:
    message = getattr(error, "server_message", None) or first_line(error)
    return f"the Hub answered {_status(error)}: {redacted(one_line(message))}"


def _offline() -> str:
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        return "offline (HF_HUB_OFFLINE is set)"
    return "offline: the Hub cannot be reached"


def _shown(error: BaseException) -> BaseException | None:
    """The error as the cause in a traceback; None where its text holds the token."""
    return error if all(redacted(str(link)) == str(link) for link in _chain(error)) else None


def _status(error: BaseException) -> int | None:
    response = response_of(error)
    return None if response is None else response.status_code


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and its causes."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _is_of_network(error: BaseException) -> bool:
    """Whether a connection was refused, dropped or timed out."""
    if isinstance(error, ConnectionError | TimeoutError):
        return True
    return any(cls.__name__ == "TransportError" and "httpx" in cls.__module__ for cls in type(error).__mro__)
