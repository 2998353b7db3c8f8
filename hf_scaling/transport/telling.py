"""What went wrong with the Hub, as one line: offline, absent, gated, not allowed; and never the token."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from hf_scaling.errors import InputError, PushError
from hf_scaling.transport.patience import GaveUpError, is_busy

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
