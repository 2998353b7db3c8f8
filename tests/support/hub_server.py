"""A Hub on this machine for the tests: the part of its protocol that the client libraries use.

It answers as the Hub does (`hub_routes`), keeps everything in memory (`hub_storage`), and logs requests, which can be
made to fail (`hub_faults`):

    with HubServer() as hub:
        hub.add("datasets", "someone/numbers", {"train.csv": b"..."})
        hub.fail("429", path="/commit/", seconds=1)
        subprocess.run(command, env=hub.environment(folder))
        assert hub.asked(method="POST", path="/commit/")
"""

import os
import re
import socket
import threading
from collections.abc import Mapping
from pathlib import Path

import uvicorn
from hub_faults import Asked, Fault, Faults
from hub_routes import Routes, User
from hub_storage import Repo, Storage

#: The default token of the commands that the tests start.
TOKEN = "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"


class HubServer:
    """A Hub on a free local port, which runs in a `with` block."""

    def __init__(self, page_size: int = 1000):
        """Create an empty Hub that lists `page_size` entries of a folder per page."""
        self.storage = Storage()
        self.users: dict[str, User] = {TOKEN: User("someone")}
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        routes = Routes(self.storage, self.users, self.url, page_size)
        self._faults = Faults(routes.application(), lambda header: (user := routes.user(header)) and user.name)
        settings = uvicorn.Config(self._faults, log_level="critical", lifespan="off", http="h11", ws="none")
        settings.timeout_graceful_shutdown = 1
        self._server = uvicorn.Server(settings)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],), daemon=True)

    def __enter__(self) -> "HubServer":
        self._thread.start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.should_exit = True
        # A connection that breaks while the server stops can leave asyncio waiting for it; the thread is a daemon.
        self._thread.join(timeout=10)
        self._socket.close()

    def add(self, kind: str, id: str, files: Mapping[str, bytes], private: bool = False) -> Repo:
        """Add files to a repository, which is created if needed; nothing is checked, so they may be hostile."""
        return self.storage.add(kind, id, dict(files), private)

    def repo(self, kind: str, id: str) -> Repo:
        """A repository, for assertions."""
        return self.storage.get(kind, id)

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """Environment variables of a process that uses this Hub with `token` and has its caches in `home`."""
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        ours |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        ours |= {"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        return {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | ours

    def asked(self, method: str | None = None, path: str = "") -> list[Asked]:
        """The requests so far with this method and a path that contains this pattern."""
        return [entry for entry in self._faults.log if method in (None, entry.method) and re.search(path, entry.path)]

    def fail(self, kind: str, **which) -> None:
        """Plan a fault, with the attributes of `hub_faults.Fault`."""
        self._faults.planned.append(Fault(kind, **which))

    def fail_at_random(self, rate: float, seed: int, **which) -> None:
        """Let each request fail with probability `rate`."""
        self._faults.at_random(rate, seed, **which)

    def calm(self) -> None:
        """Remove all faults and clear the request log."""
        self._faults.calm()
        self._faults.log.clear()
