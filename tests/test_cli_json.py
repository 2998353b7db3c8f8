"""Every command speaks JSON: laws, merge, env here; run and status with the runner's tests, push and pull on a Hub."""

import importlib
import json

import pytest

import hf_scaling as hs
from hf_scaling.cli import _build_parser, command_names, main
from hf_scaling.results import new_row

TOKEN = "hf_secretSecretSecret"


@pytest.fixture
def run(capsys):
    def command(*argv):
        with pytest.raises(SystemExit) as ended:
            main([str(item) for item in argv])
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return command


def test_every_command_has_json_and_an_example(capsys):
    for name in command_names():
        with pytest.raises(SystemExit):
            _build_parser().parse_args([name, "--help"])
        text = capsys.readouterr().out
        assert "--json" in text, name
        assert importlib.import_module(f"hf_scaling.cli.{name}").EXAMPLE.startswith(f"hf-scaling {name}")


def test_laws_as_json_are_all_or_those_named(run):
    status, out, _ = run("laws", "--json")
    laws = json.loads(out)["laws"]
    assert status == 0
    assert [law["name"] for law in laws] == list(hs.LAWS)
    assert set(laws[0]) == {"name", "summary", "formula", "latex", "variables", "paper", "parameters"}
    (chinchilla,) = json.loads(run("laws", "chinchilla", "--json")[1])["laws"]
    assert chinchilla["variables"] == ["n_params", "n_pretrain"]
    assert chinchilla["parameters"] == ["E", "A", "alpha", "B", "beta"]
    assert run("laws", "chinchila", "--json")[0] == 2


def test_merge_as_json_counts_the_rows(run, tmp_path):
    for folder, names in (("a", "xy"), ("b", "yz")):
        hs.ResultsTable([new_row({"run_id": name, "loss": 0.5}) for name in names]).save(tmp_path / folder)
    status, out, _ = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "both", "--json")
    content = json.loads(out)
    assert (status, content["n_rows"], content["n_read"]) == (0, 3, 4)
    assert len(hs.ResultsTable.load(content["path"])) == 3


def test_env_names_versions_cache_and_hub_and_never_the_token(run, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    (cache / "part").mkdir(parents=True)
    (cache / "part" / "shard.arrow").write_bytes(b"x" * 1000)
    monkeypatch.setenv("HF_SCALING_CACHE", str(cache))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    status, out, _ = run("env", "--json")
    content = json.loads(out)
    assert status == 0
    assert set(content) == {"versions", "platform", "cores", "memory_bytes", "devices", "cache", "hub"}
    assert content["versions"]["hf_scaling"] == hs.__version__
    assert content["versions"]["torch"]
    assert content["cache"] | {"free_bytes": 0} == {"folder": str(cache), "bytes": 1000, "free_bytes": 0}
    assert set(content["hub"]) == {"endpoint", "offline", "token", "user", "login"}
    assert content["hub"]["token"] == "environment"
    status, text, err = run("env")
    assert (status, err) == (0, "")
    assert {"hf_scaling", "torch", "platform", "cache", "Hub"} <= {line.split()[0] for line in text.splitlines()}
    assert TOKEN not in out + text


def test_env_without_a_cache_and_a_token(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_SCALING_CACHE", str(tmp_path / "absent"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    content = json.loads(run("env", "--json")[1])
    assert content["cache"]["bytes"] == 0
    assert (content["hub"]["token"], content["hub"]["login"]) == (None, "not logged in")
