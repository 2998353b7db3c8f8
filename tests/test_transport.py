"""What is said of the Hub's answers, how long it is waited for, and downloads (these with -m hub)."""

import pytest
from hub_client import Client
from hub_server import TOKEN, HubServer

from hf_scaling import hub
from hf_scaling.errors import InputError
from hf_scaling.hub import errors


class Answer:
    """An answer of the Hub, as far as waiting looks at it."""

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
def test_the_wait_that_the_hub_asks_for(headers, seconds):
    assert errors.wait_asked_for(Answer(429, **headers)) == seconds


def test_patience_ends_without_a_good_answer_and_begins_anew_with_each(monkeypatch):
    now = 0.0
    monkeypatch.setattr(errors.time, "monotonic", lambda: now)
    watch = errors.Patience()
    now = 299.0
    watch.hears(Answer(500))
    watch.asks(None)
    watch.hears(Answer(412))
    now = 598.0
    watch.asks(None)
    with pytest.raises(errors.GaveUpError, match="asks to come back in 2 s"):
        watch.hears(Answer(503, **{"Retry-After": "2"}))
    now = 600.0
    with pytest.raises(errors.GaveUpError, match="no good answer for 300 s"):
        watch.asks(None)


def test_nothing_that_looks_like_a_token_is_said(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "a secret of another form")
    text = f"no {TOKEN} here, nor 'Bearer abc.def', nor a secret of another form"
    assert errors.redacted(text) == "no <token> here, nor 'Bearer <token>', nor <token>"
    with pytest.raises(InputError) as caught, hub.hub_errors("the model org/name"):
        raise ConnectionResetError(f"Illegal header value b'Bearer {TOKEN}'")
    assert TOKEN not in str(caught.value) and caught.value.__cause__ is None


def test_names_that_can_be_hub_ids(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "here").mkdir()
    known = {"org/name": True, "name": True, "org/here": False, "results.csv": False, "a/b/c": False, "../x": False}
    assert {name: hub.is_hub_id(name) for name in known} == known


@pytest.fixture(scope="module")
def client(_hub, tmp_path_factory):
    with Client(_hub, tmp_path_factory.mktemp("home"), HF_HUB_DISABLE_PROGRESS_BARS="1") as process:
        process.run("from hf_scaling import hub")
        yield process


def download(client, repo_id: str, **options):
    return client.run(f"print(sorted(each.name for each in hub.download({repo_id!r}, **{options}).iterdir()))")


@pytest.mark.hub
def test_a_revision_is_downloaded_by_branch_tag_commit_or_pull_request(hub, client):
    repo = hub.add("models", "org/old", {"a.json": b"1"})
    first = repo.tags["v1"] = repo.requests["refs/pr/1"] = repo.branches["dev"] = repo.head
    hub.add("models", "org/old", {"b.json": b"2"})
    for revision in ("v1", "dev", "refs/pr/1", first.id):
        assert download(client, "org/old", revision=revision).said == "['.gitattributes', 'a.json']\n"
    assert download(client, "org/old", allow_patterns=["*.json"]).said == "['a.json', 'b.json']\n"
    assert download(client, "org/old", revision="v2").error == (
        "InputError: the model org/old has no such revision on the Hub"
    )


@pytest.mark.hub
@pytest.mark.parametrize("kind", ["500", "429", "drop_before", "drop_after"])
def test_a_download_is_tried_again(kind, hub, client):
    id = f"org/again-{kind}"
    hub.add("models", id, {"a.json": b"1", "w.safetensors": b"2"})
    for path in ("/api/models/org/again", "/resolve/"):
        hub.fail(kind, path=path)
    assert download(client, id, allow_patterns=["*.json", "*.safetensors"]).said == "['a.json', 'w.safetensors']\n"


@pytest.mark.hub
@pytest.mark.parametrize(
    ("fault", "line"),
    [
        (None, "is not on the Hub (or private: then `hf auth login`, or set HF_TOKEN first)"),
        ("403", ": your token may not read it"),
    ],
)
def test_why_nothing_can_be_downloaded_is_one_line(fault, line, hub, client):
    if fault:
        hub.add("models", "org/nothing", {})
        hub.fail(fault, times=None)
    error = download(client, "org/nothing").error
    assert error.startswith("InputError: the model org/nothing") and line in error and "\n" not in error


@pytest.mark.hub
@pytest.mark.parametrize("path", ["../up.json", "a/../../../up.json", "/tmp/absolute.json"])
def test_a_path_that_leads_out_of_the_folder_is_refused(path, hub, client):
    id = f"hostile/{abs(hash(path))}"
    hub.add("models", id, {"a.json": b"1", path: b"2"})
    error = download(client, id, allow_patterns=["*.json"]).error
    assert error.startswith(f"InputError: the model {id} is refused: Invalid filename {path!r}")


@pytest.mark.hub
def test_without_a_connection_what_was_downloaded_is_there(hub, tmp_path):
    with HubServer() as gone:
        gone.add("models", "org/kept", {"a.json": b"1"})
        with Client(gone, tmp_path) as client:
            client.run("from hf_scaling import hub")
            assert download(client, "org/kept").error is None
    with Client(gone, tmp_path) as client:
        client.run("from hf_scaling import hub")
        assert download(client, "org/kept").said.endswith("['.gitattributes', 'a.json']\n")
        assert download(client, "org/other").error == (
            "InputError: offline: the Hub cannot be reached, and the model org/other is not in the local cache"
        )
