"""Faults between a client and the test Hub (errors, waits, dropped connections), planned or random; a request log."""

import asyncio
import json
import random
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote

#: The kinds of random faults.
ANY = ("429", "500", "502", "drop_before", "drop_after")


@dataclass(frozen=True)
class Asked:
    """One request, its answer, and when it came; status 0 where the connection was dropped."""

    method: str
    path: str
    query: str
    status: int
    user: str | None
    n_bytes: int
    fault: str | None
    at: float


@dataclass
class Fault:
    """A fault for requests that match.

    Attributes:
        kind: A status ("429", "502"); "drop_before" or "drop_after" the request is handled; "slow" before the answer.
        method, path: Which requests: a method or None for any, and a pattern searched for in the path.
        times: How often; None for always.
        seconds: Retry-After of a 429, or how long "slow" takes.
        message: Text of the refusal.
    """

    kind: str
    method: str | None = None
    path: str = ""
    times: int | None = 1
    seconds: float | None = None
    message: str = "planned by the test"

    def takes(self, method: str, path: str) -> bool:
        """Whether this request gets the fault."""
        if self.times == 0 or self.method not in (None, method) or not re.search(self.path, path):
            return False
        self.times = None if self.times is None else self.times - 1
        return True


class Faults:
    """An ASGI application around another one: logs the requests and injects faults."""

    def __init__(self, application, name_user):
        self._application, self._name_user = application, name_user
        self._lock = threading.Lock()
        self.planned: list[Fault] = []
        self.log: list[Asked] = []
        self._random: tuple[random.Random, float, Sequence[str]] | None = None

    def at_random(self, rate: float, seed: int, kinds: Sequence[str] = ANY) -> None:
        """Let every request fail with probability `rate`."""
        self._random = (random.Random(seed), rate, kinds)

    def calm(self) -> None:
        """Remove all faults."""
        with self._lock:
            self.planned, self._random = [], None

    async def __call__(self, scope, receive, send):
        """Answer one request, or inject a fault."""
        if scope["type"] != "http":
            return
        # Names with a slash in them arrive quoted and must stay so until they are taken apart.
        scope["path"] = scope["raw_path"].decode()
        began, body = time.monotonic(), await _read(receive)
        method, path = scope["method"], unquote(scope["path"])
        fault = self._choose(method, path)
        status = await self._answer(fault, scope, receive, body, send)
        user = self._name_user(dict(scope["headers"]).get(b"authorization", b"").decode())
        query = scope["query_string"].decode()
        with self._lock:
            self.log.append(Asked(method, path, query, status, user, len(body), fault and fault.kind, began))

    def _choose(self, method: str, path: str) -> Fault | None:
        with self._lock:
            for fault in self.planned:
                if fault.takes(method, path):
                    return fault
            if self._random is not None:
                dice, rate, kinds = self._random
                if dice.random() < rate:
                    return Fault(dice.choice(kinds), seconds=0)
        return None

    async def _answer(self, fault: Fault | None, scope, receive, body: bytes, send) -> int:
        kind = fault.kind if fault else None
        if kind == "drop_before":
            return await _drop(receive, send)
        if kind == "drop_after":
            await self._application(scope, _replay(body), _ignore)
            return await _drop(receive, send)
        if kind is not None and kind.isdigit():
            return await _refuse(send, int(kind), fault)
        if kind == "slow":
            await asyncio.sleep(fault.seconds)
        status = 0

        async def remember(message):
            nonlocal status
            status = message.get("status", status)
            await send(message)

        await self._application(scope, _replay(body), remember)
        return status


async def _read(receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


def _replay(body: bytes):
    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    return receive


async def _ignore(message) -> None:
    """Drop an answer."""


async def _drop(receive, send) -> int:
    """Close the connection under the request; uvicorn's own method `send` knows its transport."""
    send.__self__.transport.abort()
    while (await receive())["type"] != "http.disconnect":
        pass
    return 0


async def _refuse(send, status: int, fault: Fault) -> int:
    body = json.dumps({"error": fault.message}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers.append((b"x-error-message", fault.message.encode()))
    if fault.seconds is not None:
        headers.append((b"retry-after", f"{fault.seconds:g}".encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
    return status
