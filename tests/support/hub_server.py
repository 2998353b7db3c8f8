"""A Hub on this machine for the tests: as much of its protocol as the real client libraries speak.

It answers as the Hub does (`hub_routes`). Nothing leaves the machine, everything is kept in memory (`hub_storage`),
requests are logged and can be made to fail (`hub_faults`):

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

#: The token of the commands that the tests start, unless they say otherwise.
TOKEN = "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"


class HubServer:
    """A Hub on a free port of this machine, from `with HubServer() as hub` to the end of the block."""

    def __init__(self, page_size: int = 1000):
        """An empty Hub; `page_size` entries of a folder are listed at once."""
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
        self._thread.join()
        self._socket.close()

    def add(self, kind: str, id: str, files: Mapping[str, bytes], private: bool = False) -> Repo:
        """Put files into a repository, made if it is not there; nothing is checked, so it may be hostile."""
        return self.storage.add(kind, id, dict(files), private)

    def repo(self, kind: str, id: str) -> Repo:
        """A repository, to look into."""
        return self.storage.get(kind, id)

    def environment(self, home: Path, token: str | None = TOKEN) -> dict[str, str]:
        """The variables of a process that speaks to this Hub as `token`; its caches lie in `home`."""
        ours = {"HF_ENDPOINT": self.url, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "NO_PROXY": "127.0.0.1"}
        ours |= {"HF_HUB_OFFLINE": "0", "HF_DATASETS_OFFLINE": "0", "HF_HUB_DISABLE_TELEMETRY": "1"}
        ours |= {"HF_TOKEN": token} if token else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        return {name: value for name, value in os.environ.items() if name != "HF_TOKEN"} | ours

    def asked(self, method: str | None = None, path: str = "") -> list[Asked]:
        """The requests so far, by method and by a pattern searched for in their paths."""
        return [each for each in self._faults.log if method in (None, each.method) and re.search(path, each.path)]

    def fail(self, kind: str, **which) -> None:
        """Plan a fault; see `hub_faults.Fault`."""
        self._faults.planned.append(Fault(kind, **which))

    def fail_at_random(self, rate: float, seed: int, **which) -> None:
        """Let each request fail with probability `rate`; see `hub_faults.Faults.at_random`."""
        self._faults.at_random(rate, seed, **which)

    def calm(self) -> None:
        """Let nothing go wrong any more, and forget what was asked."""
        self._faults.calm()
        self._faults.log.clear()
