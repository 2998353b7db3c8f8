"""A read-only server with as much of the Hub's protocol as loading a data set takes (test_subsets_hub.py).

It listens on this machine alone and holds one data set in memory.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit


class HubServer:
    """Serves the files of one data set at one commit."""

    def __init__(self, repo_id: str, files: dict[str, bytes]):
        """Serve `files` (path to content) as the data set `repo_id`."""
        self.repo_id, self.files = repo_id, files
        content = b"".join(name.encode() + files[name] for name in sorted(files))
        self.sha = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "HubServer":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *exception) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                self._answer(*hub.answer(unquote(urlsplit(self.path).path)))

            do_HEAD = do_GET

            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(*hub.answer_post(unquote(urlsplit(self.path).path), body))

            def _answer(self, status: int, headers: dict, body: bytes):
                wanted = self.headers.get("Range")
                if wanted and status == 200:
                    first, last = wanted.removeprefix("bytes=").split("-")
                    first, last = int(first), min(int(last or len(body) - 1), len(body) - 1)
                    headers = headers | {"Content-Range": f"bytes {first}-{last}/{len(body)}"}
                    status, body = 206, body[first : last + 1]
                self.send_response(status)
                for name, value in (headers | {"Content-Length": str(len(body))}).items():
                    self.send_header(name, value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            def log_message(self, *arguments):
                pass

        return Handler

    def answer(self, path: str) -> tuple[int, dict, bytes]:
        """Answer GET and HEAD."""
        api, files = f"/api/datasets/{self.repo_id}", f"/datasets/{self.repo_id}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in self.files]
            return _json({"id": self.repo_id, "sha": self.sha, "private": False, "tags": [], "siblings": siblings})
        if path.startswith(f"{api}/tree/"):
            folder = path.removeprefix(f"{api}/tree/").partition("/")[2]
            return _json([self._entry(name) for name in self._below(folder)])
        if path.startswith(files):
            name = path.removeprefix(files).partition("/")[2]
            if name in self.files:
                etag = hashlib.sha256(self.files[name]).hexdigest()
                return (
                    200,
                    {"X-Repo-Commit": self.sha, "ETag": f'"{etag}"', "Accept-Ranges": "bytes"},
                    self.files[name],
                )
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        return 404, {"X-Error-Code": "RepoNotFound"}, b""

    def answer_post(self, path: str, body: bytes) -> tuple[int, dict, bytes]:
        """Answer paths-info, the only POST of a reader."""
        if not path.startswith(f"/api/datasets/{self.repo_id}/paths-info/"):
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        text = body.decode()
        names = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text)["paths"]
        known = set(self.files) | {name.rpartition("/")[0] for name in self.files} - {""}
        return _json([self._entry(name) for name in names if name in known])

    def _below(self, folder: str) -> list[str]:
        """Give the files and folders right below `folder`, "" for the top (files lie one folder deep at most)."""
        if folder:
            return [name for name in self.files if name.startswith(f"{folder}/")]
        return sorted({name.partition("/")[0] for name in self.files})

    def _entry(self, name: str) -> dict:
        if name not in self.files:
            return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
        content = self.files[name]
        oid = hashlib.sha1(content, usedforsecurity=False).hexdigest()
        return {"type": "file", "path": name, "size": len(content), "oid": oid}


def _json(value) -> tuple[int, dict, bytes]:
    return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()
