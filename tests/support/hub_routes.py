"""The routes of the test Hub, as huggingface_hub calls them; `hub_storage` holds the data."""

import base64
import json
import re
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from hub_storage import KINDS, Blob, Commit, Refused, Repo, Storage, evaluations, folders_of, read_head
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

_REPO = "/api/{kind:str}/{owner:str}/{name:str}"


@dataclass(frozen=True)
class User:
    """The account of a token."""

    name: str
    may_write: bool = True


class Routes:
    """Answers requests from a storage.

    Attributes:
        storage: Repositories, files and collections.
        users: Token -> account; requests with no token are anonymous.
        url: Address of the Hub.
        page_size: Entries of a folder per page.
    """

    def __init__(self, storage: Storage, users: dict[str, User], url: str, page_size: int):
        self.storage, self.users, self.url, self.page_size = storage, users, url, page_size

    def application(self) -> Starlette:
        """The ASGI application."""
        return Starlette(routes=self._routes(), exception_handlers={Refused: _refuse, 404: _absent})

    def user(self, authorization: str) -> User | None:
        """The account of an Authorization header."""
        return self.users.get(authorization.removeprefix("Bearer "))

    def _routes(self) -> list[Route]:
        table = {
            "GET /api/whoami-v2": self._who,
            "POST /api/repos/create": self._create,
            "DELETE /api/repos/delete": self._delete,
            "POST /api/validate-yaml": self._validate,
            "GET /api/collections": self._list_collections,
            "POST /api/collections": self._create_collection,
            "GET /api/collections/{owner}/{name}": self._collection,
            "POST /api/collections/{owner}/{name}/items": self._add_item,
            "DELETE /api/collections/{owner}/{name}/items/{item}": self._delete_item,
            f"GET {_REPO}": self._info,
            f"GET {_REPO}/revision/{{revision}}": self._info,
            f"GET {_REPO}/tree/{{revision}}": self._tree,
            f"GET {_REPO}/tree/{{revision}}/{{path:path}}": self._tree,
            f"POST {_REPO}/paths-info/{{revision}}": self._paths_info,
            f"GET {_REPO}/refs": self._refs,
            f"GET {_REPO}/commits/{{revision}}": self._commits,
            f"GET {_REPO}/discussions": self._discussions,
            f"PUT {_REPO}/settings": self._settings,
            f"POST {_REPO}/branch/{{branch}}": self._create_branch,
            f"DELETE {_REPO}/branch/{{branch}}": self._delete_branch,
            f"POST {_REPO}/tag/{{revision}}": self._create_tag,
            f"DELETE {_REPO}/tag/{{revision}}": self._delete_tag,
            f"POST {_REPO}/preupload/{{revision}}": self._preupload,
            f"POST {_REPO}/commit/{{revision}}": self._commit,
            "PUT /large/{oid}": self._upload,
        }
        table |= {f"GET /api/{kind}": self._list_repos for kind in KINDS}
        for prefix in ("", "/datasets", "/spaces"):
            table[f"POST {prefix}/{{owner}}/{{name}}.git/info/lfs/objects/batch"] = self._batch
            table[f"GET {prefix}/{{owner}}/{{name}}/resolve/{{revision}}/{{path:path}}"] = self._resolve
        return [Route(line.split()[1], handler, methods=[line.split()[0]]) for line, handler in table.items()]

    # Authorization.

    def _asker(self, request: Request, writes: bool = False) -> User | None:
        header = request.headers.get("authorization", "")
        user = self.user(header)
        if header and user is None:
            raise Refused(401, "Invalid credentials in Authorization header")
        if writes and user is None:
            raise Refused(401, "Invalid username or password.")
        if writes and not user.may_write:
            raise Refused(403, "Forbidden: you do not have the rights to write with this token")
        return user

    def _repo(self, request: Request, writes: bool = False) -> Repo:
        """The repository in the address, if the account may see it."""
        user = self._asker(request)
        path = request.url.path.removeprefix("/api")
        kind = next((kind for kind in KINDS if path.startswith(f"/{kind}/")), "models")
        id = "/".join(unquote(request.path_params[part]) for part in ("owner", "name"))
        repo = self.storage.repos.get((kind, id))
        if repo is None or (repo.private and user is None):
            raise Refused(404 if user else 401, "Repository not found", "RepoNotFound")
        if writes:
            self._asker(request, writes=True)
        return repo

    async def _who(self, request: Request) -> Response:
        user = self._asker(request)
        if user is None:
            raise Refused(401, "Invalid username or password.")
        role = "write" if user.may_write else "read"
        token = {"type": "access_token", "accessToken": {"displayName": "test", "role": role}}
        return JSONResponse({"type": "user", "name": user.name, "fullname": user.name, "orgs": [], "auth": token})

    # Repositories.

    async def _create(self, request: Request) -> Response:
        user, asked = self._asker(request, writes=True), await request.json()
        kind, id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or user.name}/{asked['name']}"
        private = asked.get("visibility") == "private" or bool(asked.get("private"))
        url = f"{self.url}/{'' if kind == 'models' else f'{kind}/'}{id}"
        try:
            repo = self.storage.create(kind, id, private, asked.get("sdk"), user.name)
        except Refused as refused:
            refused.more["url"] = url
            raise
        return JSONResponse({"url": url, "name": id, "private": repo.private})

    async def _delete(self, request: Request) -> Response:
        user, asked = self._asker(request, writes=True), await request.json()
        kind, id = f"{asked.get('type') or 'model'}s", f"{asked.get('organization') or user.name}/{asked['name']}"
        self.storage.get(kind, id)
        del self.storage.repos[kind, id]
        return Response()

    async def _settings(self, request: Request) -> Response:
        repo, asked = self._repo(request, writes=True), await request.json()
        repo.private = asked.get("visibility", "private" if repo.private else "public") == "private"
        return JSONResponse({"private": repo.private})

    async def _list_repos(self, request: Request) -> Response:
        user, author = self._asker(request), request.query_params.get("author")
        seen = [repo for repo in self.storage.repos.values() if request.url.path == f"/api/{repo.kind}"]
        seen = [repo for repo in seen if (user or not repo.private) and author in (None, repo.id.partition("/")[0])]
        return JSONResponse([self._describe(repo, repo.head) for repo in seen])

    async def _info(self, request: Request) -> Response:
        repo = self._repo(request)
        commit = repo.at(_revision(request))
        return JSONResponse(self._describe(repo, commit, blobs="blobs" in request.query_params))

    def _describe(self, repo: Repo, commit: Commit, blobs: bool = False) -> dict:
        card = repo.card(commit)
        siblings = [_sibling(path, blob, blobs) for path, blob in sorted(commit.tree.items())]
        found = {"_id": commit.id[:24], "id": repo.id, "author": repo.id.partition("/")[0], "sha": commit.id}
        found |= {"private": repo.private, "gated": False, "disabled": False, "downloads": 0, "likes": 0}
        found |= {"lastModified": commit.date, "createdAt": commit.date, "siblings": siblings}
        found |= {"tags": card.get("tags", []), "cardData": card} if card else {"tags": []}
        found |= {"sdk": repo.sdk} if repo.kind == "spaces" else {}
        if repo.kind == "models":
            kept = {name: card[name] for name in ("pipeline_tag", "library_name", "model-index") if name in card}
            found |= kept | {"evalResults": evaluations(commit)}
        return found

    async def _refs(self, request: Request) -> Response:
        repo = self._repo(request)
        named = {"branches": ("heads/", repo.branches), "tags": ("tags/", repo.tags)}
        if "include_prs" in request.query_params:
            named["pullRequests"] = ("", repo.requests)
        listed = {
            group: [_ref(name, prefix, commit) for name, commit in known.items()]
            for group, (prefix, known) in named.items()
        }
        return JSONResponse({"converts": []} | listed)

    async def _commits(self, request: Request) -> Response:
        history = self._repo(request).at(_revision(request)).history()
        return self._page(
            request,
            [
                {
                    "id": item.id,
                    "title": item.title,
                    "message": item.message,
                    "date": item.date,
                    "authors": [{"user": item.author}],
                }
                for item in history
            ],
        )

    async def _discussions(self, request: Request) -> Response:
        self._repo(request)
        return JSONResponse({"discussions": [], "count": 0, "start": 0})

    async def _create_branch(self, request: Request) -> Response:
        repo, name = self._repo(request, writes=True), unquote(request.path_params["branch"])
        if name in repo.branches:
            raise Refused(409, "Reference already exists")
        body = await request.body()
        repo.branches[name] = repo.at((json.loads(body) if body else {}).get("startingPoint", "main"))
        return Response()

    async def _delete_branch(self, request: Request) -> Response:
        repo = self._repo(request, writes=True)
        if repo.branches.pop(unquote(request.path_params["branch"]), None) is None:
            raise Refused(404, "No such branch", "RevisionNotFound")
        return Response()

    async def _create_tag(self, request: Request) -> Response:
        repo, asked = self._repo(request, writes=True), await request.json()
        if asked["tag"] in repo.tags:
            raise Refused(409, "Tag reference exists already")
        repo.tags[asked["tag"]] = repo.at(_revision(request))
        return Response()

    async def _delete_tag(self, request: Request) -> Response:
        if self._repo(request, writes=True).tags.pop(_revision(request), None) is None:
            raise Refused(404, "No such tag", "RevisionNotFound")
        return Response()

    # Files.

    async def _tree(self, request: Request) -> Response:
        commit = self._repo(request).at(_revision(request))
        folder = unquote(request.path_params.get("path", ""))
        start = f"{folder}/" if folder else ""
        below = {path: blob for path, blob in commit.tree.items() if path.startswith(start)}
        if folder and not below:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        everything = [_folder(path) for path in folders_of(below)] + [blob.entry(path) for path, blob in below.items()]
        if request.query_params.get("recursive", "").lower() != "true":
            everything = [item for item in everything if "/" not in item["path"].removeprefix(start)]
        wanted = [item for item in everything if item["path"].startswith(start)]
        return self._page(request, sorted(wanted, key=lambda item: item["path"]))

    def _page(self, request: Request, entries: list[dict]) -> Response:
        """The entries from the cursor on, with the address of the next page in Link."""
        first = int(request.query_params.get("cursor", 0))
        last, headers = first + self.page_size, {}
        if last < len(entries):
            here = request.url.include_query_params(cursor=last)
            headers["Link"] = f'<{self.url}{here.path}?{here.query}>; rel="next"'
        return JSONResponse(entries[first:last], headers=headers)

    async def _paths_info(self, request: Request) -> Response:
        commit, body = self._repo(request).at(_revision(request)), (await request.body()).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body).get("paths", [])
        folders = set(folders_of(commit.tree))
        found = [
            commit.tree[path].entry(path) if path in commit.tree else _folder(path)
            for path in paths
            if path in commit.tree or path in folders
        ]
        return JSONResponse(found)

    async def _resolve(self, request: Request) -> Response:
        commit = self._repo(request).at(_revision(request))
        blob = commit.tree.get(unquote(request.path_params["path"]))
        if blob is None:
            raise Refused(404, "Entry not found", "EntryNotFound", headers={"X-Repo-Commit": commit.id})
        headers = {"X-Repo-Commit": commit.id, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        content, status, wanted = (
            blob.content,
            200,
            re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", "")),
        )
        if wanted and request.method == "GET":
            first, last = int(wanted[1]), min(int(wanted[2] or len(content)), len(content) - 1)
            if first >= len(content):
                raise Refused(416, "Range not satisfiable", headers={"Content-Range": f"bytes */{len(content)}"})
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            content, status = content[first : last + 1], 206
        return Response(content, status, headers, media_type="application/octet-stream")

    async def _preupload(self, request: Request) -> Response:
        repo, asked = self._repo(request, writes=True), await request.json()
        tree, answers = repo.at(_revision(request)).tree, []
        for file in asked["files"]:
            sample = file.get("sample", "").encode()
            large = repo.takes_as_lfs(file["path"], file["size"], base64.b64decode(sample))
            there = tree[file["path"]].etag if file["path"] in tree else None
            answers.append(
                {
                    "path": file["path"],
                    "uploadMode": "lfs" if large else "regular",
                    "shouldIgnore": False,
                    "oid": there,
                }
            )
        return JSONResponse({"files": answers})

    async def _batch(self, request: Request) -> Response:
        self._repo(request, writes=True)
        objects = []
        for asked in (await request.json())["objects"]:
            href = f"{self.url}/large/{asked['oid']}"
            known = {} if asked["oid"] in self.storage.large else {"actions": {"upload": {"href": href}}}
            objects.append({"oid": asked["oid"], "size": asked["size"]} | known)
        return JSONResponse({"transfer": "basic", "objects": objects})

    async def _upload(self, request: Request) -> Response:
        content = await request.body()
        if Blob(content).sha256 != request.path_params["oid"]:
            raise Refused(400, "The content does not have this hash")
        self.storage.large[request.path_params["oid"]] = content
        return Response()

    async def _commit(self, request: Request) -> Response:
        repo, user = self._repo(request, writes=True), self._asker(request)
        lines = [json.loads(line) for line in (await request.body()).splitlines() if line]
        as_request = request.query_params.get("create_pr") == "1"
        commit, name = self.storage.commit(repo, _revision(request), lines, user.name, as_request)
        page = f"{self.url}/{'' if repo.kind == 'models' else f'{repo.kind}/'}{repo.id}"
        answer = {"success": True, "commitOid": commit.id, "commitUrl": f"{page}/commit/{commit.id}"}
        number = name.removeprefix("refs/pr/")
        return JSONResponse(answer | ({"pullRequestUrl": f"{page}/discussions/{number}"} if as_request else {}))

    async def _validate(self, request: Request) -> Response:
        read_head((await request.json())["content"])
        return JSONResponse({"errors": [], "warnings": []})

    # Collections.

    async def _list_collections(self, request: Request) -> Response:
        owner = request.query_params.get("owner")
        found = [item for item in self.storage.collections.values() if owner in (None, item["owner"]["name"])]
        # The client numbers what it lists itself.
        return self._page(request, [{name: item[name] for name in item if name != "position"} for item in found])

    async def _create_collection(self, request: Request) -> Response:
        self._asker(request, writes=True)
        asked = await request.json()
        made = self.storage.create_collection(
            asked["namespace"], asked["title"], asked.get("description"), bool(asked.get("private"))
        )
        return JSONResponse(made)

    async def _collection(self, request: Request) -> Response:
        found = self.storage.collection(_slug(request))
        if found["private"] and self._asker(request) is None:
            raise Refused(404, "Collection not found")
        return JSONResponse(found)

    async def _add_item(self, request: Request) -> Response:
        self._asker(request, writes=True)
        asked = await request.json()
        return JSONResponse(self.storage.add_to_collection(_slug(request), asked["item"], asked.get("note")))

    async def _delete_item(self, request: Request) -> Response:
        self._asker(request, writes=True)
        found = self.storage.collection(_slug(request))
        found["items"] = [item for item in found["items"] if item["_id"] != request.path_params["item"]]
        return Response()


def _revision(request: Request) -> str:
    return unquote(request.path_params.get("revision", "main"))


def _slug(request: Request) -> str:
    return "/".join(unquote(request.path_params[part]) for part in ("owner", "name"))


def _ref(name: str, prefix: str, commit: Commit) -> dict:
    ref = f"refs/{prefix}{name}" if prefix else name
    return {"name": name, "ref": ref, "targetCommit": commit.id}


def _folder(path: str) -> dict:
    return {"type": "directory", "path": path, "size": 0, "oid": Blob(path.encode()).oid}


def _sibling(path: str, blob: Blob, sized: bool) -> dict:
    if not sized:
        return {"rfilename": path}
    large = {"size": len(blob.content), "sha256": blob.sha256, "pointerSize": 130}
    return {"rfilename": path, "size": len(blob.content), "blobId": blob.oid} | ({"lfs": large} if blob.lfs else {})


async def _refuse(request: Request, refused: Refused) -> Response:
    headers = {"X-Error-Message": " ".join(refused.message.split())} | refused.more.pop("headers", {})
    if refused.code:
        headers["X-Error-Code"] = refused.code
    return JSONResponse({"error": refused.message} | refused.more, refused.status, headers)


async def _absent(request: Request, error: Exception) -> Response:
    return await _refuse(request, Refused(404, "Repository not found", "RepoNotFound"))
