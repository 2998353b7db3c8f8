"""Downloads from the Hub (with -m hub), bounded waits, Hub ids, and errors without the token."""

import pytest
from hub_client import Client
from hub_server import TOKEN, HubServer

from hf_scaling import hub
from hf_scaling.errors import InputError
from hf_scaling.hub import errors


class Answer:
    """The parts of an HTTP response that `Patience` reads."""

    def __init__(self, status: int, **headers: str):
        self.status_code, self.headers = status, headers


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "12"}, 12),
        ({"Retry-After": "soon"}, None),
        ({"RateLimit": '"api";r=0;t=55'}, 55),
        ({"RateLimit": '"api";r=7;t=55'}, None),
        ({}, None),
    ],
)
def test_the_requested_wait_is_read_from_both_headers(headers, seconds):
    assert errors.requested_wait(Answer(429, **headers)) == seconds


def test_patience_ends_without_a_good_answer_and_restarts_after_one(monkeypatch):
    now = 0.0
    monkeypatch.setattr(errors.time, "monotonic", lambda: now)
    patience = errors.Patience()
    now = 299.0
    patience.after_response(Answer(500))
    patience.before_request(None)
    patience.after_response(Answer(412))
    now = 598.0
    patience.before_request(None)
    with pytest.raises(errors.GaveUpError):
        patience.after_response(Answer(503, **{"Retry-After": "2"}))
    now = 600.0
    with pytest.raises(errors.GaveUpError):
        patience.before_request(None)


def test_tokens_are_removed_from_messages(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a secret of another form")
    text = f"no {TOKEN} here, nor 'Bearer abc.def', nor a secret of another form"
    assert errors.redacted(text) == "no <token> here, nor 'Bearer <token>', nor <token>"
    with pytest.raises(InputError) as caught, hub.hub_errors("the model org/name"):
        raise ConnectionResetError(f"Illegal header value b'Bearer {TOKEN}'")
    assert TOKEN not in str(caught.value) and caught.value.__cause__ is None


def test_hub_ids_are_told_from_paths_and_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "here").mkdir()
    names = {"org/name": True, "name": True, "org/here": False, "results.csv": False, "a/b/c": False, "../x": False}
    assert {name: hub.is_hub_id(name) for name in names} == names


@pytest.fixture(scope="module")
def client(_hub, tmp_path_factory):
    with Client(_hub, tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_PROGRESS_BARS="1") as process:
        process.run("from hf_scaling import hub")
        yield process


def download(client, repo_id: str, **options):
    return client.run(f"print(sorted(path.name for path in hub.download({repo_id!r}, **{options}).iterdir()))")


@pytest.mark.hub
def test_a_revision_is_downloaded_by_branch_tag_commit_or_pull_request(hub, client):
    repo = hub.add("models", "org/old", {"a.json": b"1"})
    first = repo.tags["v1"] = repo.requests["refs/pr/1"] = repo.branches["dev"] = repo.head
    hub.add("models", "org/old", {"b.json": b"2"})
    for revision in ("v1", "dev", "refs/pr/1", first.id):
        assert download(client, "org/old", revision=revision).output == "['.gitattributes', 'a.json']\n"
    assert download(client, "org/old", allow_patterns=["*.json"]).output == "['a.json', 'b.json']\n"
    error = download(client, "org/old", revision="v2").error
    assert error.startswith("InputError: ") and "org/old" in error


@pytest.mark.hub
@pytest.mark.parametrize("kind", ["500", "429", "drop_before", "drop_after"])
def test_a_download_is_retried(kind, hub, client):
    id = f"org/again-{kind}"
    hub.add("models", id, {"a.json": b"1", "w.safetensors": b"2"})
    for path in ("/api/models/org/again", "/resolve/"):
        hub.fail(kind, path=path)
    assert download(client, id, allow_patterns=["*.json", "*.safetensors"]).output == "['a.json', 'w.safetensors']\n"


@pytest.mark.hub
@pytest.mark.parametrize(("fault", "kind"), [(None, "NotOnHubError"), ("401", "InputError"), ("403", "InputError")])
def test_a_refused_download_is_one_line(fault, kind, hub, client):
    id = f"org/refused-{fault}"
    if fault:
        hub.add("models", id, {})
        hub.fail(fault, times=None)
    error = download(client, id).error
    assert error.startswith(f"{kind}: ") and id in error and "\n" not in error
    assert fault is None or fault in error


@pytest.mark.hub
@pytest.mark.parametrize("path", ["../up.json", "a/../../../up.json", "/tmp/absolute.json"])
def test_a_path_that_leads_out_of_the_folder_is_refused(path, hub, client):
    id = f"hostile/{abs(hash(path))}"
    hub.add("models", id, {"a.json": b"1", path: b"2"})
    error = download(client, id, allow_patterns=["*.json"]).error
    assert error.startswith("InputError: ") and id in error and repr(path) in error


@pytest.mark.hub
def test_without_a_connection_the_cache_is_used(hub, tmp_path):
    with HubServer() as gone:
        gone.add("models", "org/kept", {"a.json": b"1"})
        with Client(gone, tmp_path) as client:
            client.run("from hf_scaling import hub")
            assert download(client, "org/kept").error is None
    with Client(gone, tmp_path) as client:
        client.run("from hf_scaling import hub")
        assert download(client, "org/kept").output.endswith("['.gitattributes', 'a.json']\n")
        error = download(client, "org/other").error
        assert error.startswith("InputError: offline") and "org/other" in error
