"""Commits by the real huggingface_hub to the local test server (run with -m hub)."""

import time

import pytest
from hub_client import Client
from hub_server import TOKEN, HubServer, User

pytestmark = pytest.mark.hub

SETUP = """
from hf_scaling import hub
from hf_scaling.errors import InputError, PushError
from hf_scaling.hub import errors
from huggingface_hub import CommitOperationAdd, CommitOperationDelete

calls = []

def adding(line):
    def prepare(base):
        calls.append(base.commit)
        old = base.read("lines.txt") if "lines.txt" in base.files else b""
        return [CommitOperationAdd("lines.txt", old if line in old else old + line)]
    return prepare

def add(repo_id, line, **options):
    calls.clear()
    return hub.commit(repo_id, "dataset", adding(line), "add", **options)
"""


@pytest.fixture(scope="module")
def client(_hub, tmp_path_factory):
    with Client(_hub, tmp_path_factory.mktemp("home")) as process:
        assert process.run(SETUP).error is None
        yield process


def history(hub, id: str, kind: str = "datasets") -> list[str]:
    return [commit.title for commit in hub.repo(kind, id).head.history()]


def test_a_commit_creates_the_repository_and_equal_content_is_not_committed_again(hub, client):
    output = client.run("made = add('org/new', b'a\\n'); print(made.oid, made.url, made.changes[0])").output
    repo = hub.repo("datasets", "org/new")
    assert output.split()[:2] == [repo.head.id, f"{hub.url}/datasets/org/new/commit/{repo.head.id}"]
    assert (repo.files["lines.txt"], repo.private) == (b"a\n", False)
    assert client.run("print(add('org/new', b'a\\n').changes)").output == "()\n"
    assert history(hub, "org/new") == ["add", "initial commit"]
    gone = "lambda _: [CommitOperationDelete('b'), CommitOperationDelete('c/')]"
    assert client.run(f"hub.commit('org/new', 'dataset', {gone}, 'x')").error is None
    assert len(history(hub, "org/new")) == 2


def test_a_local_folder_of_the_repositorys_name_does_not_matter(hub, client):
    assert client.run("import os; os.makedirs('org/same'); add('org/same', b'a\\n')").error is None
    assert hub.repo("datasets", "org/same").files["lines.txt"] == b"a\n"


def test_a_dry_run_lists_the_changes_and_writes_nothing(hub, client):
    output = client.run("print(add('org/dry', b'a\\n', private=True, dry_run=True))").output
    head, line = output.splitlines()
    assert "org/dry" in head and "private" in head
    assert line.split() == ["add", "lines.txt", "2", "bytes"]
    hub.add("datasets", "org/dry", {"lines.txt": b"a\n", "old.txt": b"x", "w.bin": bytes(9)})
    snippet = """
def prepare(base):
    files = {"lines.txt": b"b\\n", "w.bin": bytes(9)}
    return [*(CommitOperationAdd(*item) for item in files.items()), CommitOperationDelete("old.txt")]
print(hub.commit("org/dry", "dataset", prepare, "x", dry_run=True))
"""
    lines = client.run(snippet).output.splitlines()
    assert [line.split()[:2] for line in lines[1:]] == [
        ["change", "lines.txt"],
        ["same", "w.bin"],
        ["delete", "old.txt"],
    ]
    assert {each.method for each in hub.asked()} == {"GET"}


def test_private_applies_to_new_repositories_and_is_refused_for_public_ones(hub, client):
    assert client.run("add('org/hidden', b'a\\n', private=True)").error is None
    assert hub.repo("datasets", "org/hidden").private
    assert client.run("add('org/hidden', b'b\\n', private=True)").error is None
    hub.add("datasets", "org/open", {})
    error = client.run("add('org/open', b'a\\n', private=True)").error
    assert error.startswith("InputError: ") and "org/open" in error and "private" in error


@pytest.mark.parametrize("kind", ["drop_before", "drop_after", "500", "502", "503", "408", "409", "412", "429"])
def test_a_failure_that_may_pass_is_retried_and_written_once(kind, hub, client):
    id = f"org/passing-{kind}"
    hub.add("datasets", id, {"lines.txt": b"first\n"})
    hub.fail(kind, method="POST", path="/commit/", times=2)
    assert client.run(f"made = add('{id}', b'a\\n'); print(made.oid, len(made.changes))").output.splitlines()[-1] == (
        f"{hub.repo('datasets', id).head.id} 1"
    )
    assert hub.repo("datasets", id).files["lines.txt"] == b"first\na\n"
    assert history(hub, id)[:2] == ["add", "Add files"]


@pytest.mark.parametrize(
    "path", ["/api/repos/create", "/preupload/", "/api/datasets/org/[^/]+$", "/objects/batch", "/large/"]
)
def test_the_answer_to_every_request_of_a_commit_may_be_lost(path, hub, client):
    number = abs(hash(path))
    hub.fail("drop_after", path=path)
    operation = f"CommitOperationAdd('a.parquet', b'{number}' * 9)"
    assert client.run(f"hub.commit('org/all-{number}', 'dataset', lambda _: [{operation}], 'add')").error is None
    assert hub.repo("datasets", f"org/all-{number}").files["a.parquet"] == str(number).encode() * 9
    assert "drop_after" in [each.fault for each in hub.asked(path=path)]


def test_a_commit_that_was_overtaken_starts_from_the_new_head(hub, client):
    hub.add("datasets", "org/moving", {"lines.txt": b"first\n"})
    hub.fail("slow", path="/preupload/", seconds=1)
    client.start("add('org/moving', b'ours\\n'); print(len(set(calls)))")
    wait_for(lambda: hub.asked(path="^/api/datasets/org/moving/tree"))
    hub.add("datasets", "org/moving", {"lines.txt": b"first\ntheirs\n"})
    assert client.finish().output == "2\n"
    assert hub.repo("datasets", "org/moving").files["lines.txt"] == b"first\ntheirs\nours\n"


def test_a_commit_whose_answer_was_lost_is_not_made_again_over_a_later_one(hub, client):
    hub.add("datasets", "org/unheard", {"lines.txt": b"first\n"})
    hub.fail("drop_after", path="/commit/")
    hub.fail("slow", path="/commits/", seconds=1)
    client.start(
        "hub.commit('org/unheard', 'dataset', lambda base: [CommitOperationAdd('lines.txt', b'ours')], 'add')"
    )
    wait_for(lambda: hub.asked(path="/commit/"))
    hub.add("datasets", "org/unheard", {"lines.txt": b"theirs, later"})
    assert client.finish().error is None
    assert history(hub, "org/unheard")[:2] == ["Add files", "add"]
    assert hub.repo("datasets", "org/unheard").files["lines.txt"] == b"theirs, later"


def test_the_requested_wait_is_kept_and_one_that_is_too_long_is_given_up(hub, client):
    hub.add("datasets", "org/busy", {})
    hub.fail("429", path="/commit/", seconds=2)
    assert client.run("add('org/busy', b'a\\n')").error is None
    first, second = hub.asked(path="/commit/")
    assert second.at - first.at >= 2
    for path in ("/commit/", "/preupload/"):
        hub.fail("429", path=path, seconds=3600)
        error = client.run("add('org/busy', b'b\\n')").error
        assert error.startswith("PushError: ") and "429" in error and "3600 s" in error and "org/busy" in error


def test_a_hub_that_keeps_failing_is_given_up_in_one_line(hub, client):
    hub.add("datasets", "org/failing", {})
    hub.fail("503", path="/commit/", times=None)
    client.run("kept, errors.TRIES = errors.TRIES, 3")
    error = client.run("add('org/failing', b'a\\n')").error
    client.run("errors.TRIES = kept")
    assert error.startswith("PushError: ") and "\n" not in error
    assert "503" in error and "planned by the test" in error and "org/failing" in error
    assert len(hub.asked(path="/commit/")) == 3


def test_a_hub_that_hangs_is_given_up(hub, client):
    hub.add("datasets", "org/hanging", {})
    hub.fail("slow", times=None, seconds=2)
    limits = "errors.READ_SECONDS, errors.PATIENCE_SECONDS = {}\n"
    error = client.run(limits.format("0.3, 1.0") + "add('org/hanging', b'a\\n')").error
    assert client.run(limits.format("60.0, 300.0")).error is None
    assert error.startswith("PushError: ") and "org/hanging" in error


@pytest.mark.parametrize("kind", ["401", "403", "400"])
def test_a_refusal_is_one_line_and_not_retried(kind, hub, client):
    hub.add("datasets", "org/refusing", {})
    hub.fail(kind, path="/commit/", times=None)
    error = client.run("add('org/refusing', b'a\\n')").error
    assert error.startswith("InputError: ") and "org/refusing" in error and kind in error and "\n" not in error
    assert len(hub.asked(path="/commit/")) == 1


def test_a_token_without_the_right_to_write_is_refused(hub, tmp_path):
    hub.users["hf_tokenThatOnlyReads"] = User("reader", may_write=False)
    hub.add("datasets", "org/theirs", {})
    for token, status in ((None, "401"), ("hf_unknownToken1", "401"), ("hf_tokenThatOnlyReads", "403")):
        with Client(hub, tmp_path, HF_TOKEN=token or "") as client:
            client.run(SETUP)
            for repo_id in ("org/theirs", "org/not-there"):
                error = client.run(f"add('{repo_id}', b'a')").error
                assert error.startswith("InputError: ") and status in error and repo_id in error, (token, error)


def test_an_invalid_id_and_an_absent_repository_are_refused(hub, client):
    assert client.run("add('alone', b'a')").error.startswith("InputError: alone")
    assert client.run("add('org/absent', b'a', create=False)").error.startswith("NotOnHubError: ")
    assert not hub.asked(method="POST")


def test_a_bare_name_belongs_to_the_logged_in_account(hub, client, tmp_path):
    hub.fail("500", path="/whoami")
    assert client.run("print(hub.full_id('mine'), hub.full_id('org/mine'))").output == "someone/mine org/mine\n"
    with Client(hub, tmp_path, HF_TOKEN="") as stranger:
        stranger.run(SETUP)
        error = stranger.run("hub.full_id('mine')").error
        assert error.startswith("InputError: ") and "mine" in error and "HF_TOKEN" in error


def test_a_card_that_the_hub_refuses_is_named(hub, client):
    card = "lambda base: [CommitOperationAdd('README.md', b'---\\nlicense: [\\n---\\n')]"
    error = client.run(f"hub.commit('org/card', 'model', {card}, 'x')").error
    assert error.startswith("InputError: ") and "org/card" in error and "README.md" in error


def test_offline_is_a_push_error_after_one_attempt(hub, tmp_path):
    with Client(hub, tmp_path, HF_HUB_OFFLINE="1") as client:
        client.run(SETUP)
        error = client.run("add('org/new', b'a')").error
        assert error.startswith("PushError: offline") and "HF_HUB_OFFLINE" in error and "org/new" in error
    with HubServer() as gone:
        pass
    with Client(gone, tmp_path) as client:
        client.run(SETUP)
        assert client.run("add('org/new', b'a')").error.startswith("PushError: offline")


def test_the_token_is_never_shown(hub, client):
    hub.add("datasets", "org/secret", {})
    assert client.run("add('org/secret', b'a\\n')").error is None
    shown = []
    for kind in ("400", "401", "403", "404", "429", "500", "412"):
        hub.fail(kind, path="/commit/", seconds=9999 if kind == "429" else None, message=f"no, {TOKEN} may not")
        answer = client.run(f"add('org/secret', b'{kind}\\n')")
        shown += [answer.output, answer.error or "", answer.trace]
    assert sum(bool(text) for text in shown) > 6
    repo = hub.repo("datasets", "org/secret")
    shown += [commit.title + commit.message for commit in repo.head.history()]
    shown += [content.decode() for content in repo.files.values()]
    assert not [text for text in shown if TOKEN in text]


def test_processes_that_commit_at_once_all_arrive(hub, tmp_path):
    clients = [Client(hub, tmp_path) for _ in range(4)]
    for number, client in enumerate(clients):
        client.start(SETUP + f"\nfor n in range(3): add('org/together', b'line {number} %d\\n' % n)")
    assert [client.finish().error for client in clients] == [None] * 4
    for client in clients:
        client.__exit__()
    lines = hub.repo("datasets", "org/together").files["lines.txt"].decode().splitlines()
    assert sorted(lines) == sorted(f"line {number} {n}" for number in range(4) for n in range(3))
    assert len(history(hub, "org/together")) == 13


def test_commits_arrive_through_faults_at_random(hub, client):
    hub.add("datasets", "org/stormy", {})
    hub.fail_at_random(0.2, seed=3)
    client.run("for n in range(6): add('org/stormy', b'line %d\\n' % n)")
    assert len([each for each in hub.asked() if each.fault]) > 5
    hub.calm()
    assert client.run("for n in range(6): add('org/stormy', b'line %d\\n' % n)").error is None
    assert len(hub.repo("datasets", "org/stormy").files["lines.txt"].splitlines()) == 6
    assert len(history(hub, "org/stormy")) == 8


def wait_for(happened) -> None:
    for _ in range(1000):
        if happened():
            return
        time.sleep(0.01)
    raise AssertionError("timed out after 10 s")
