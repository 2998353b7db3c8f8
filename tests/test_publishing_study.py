"""Whole studies on the Hub: pushed in parts, resumed after failures, pulled, and hostile content refused."""

import json
import shutil

import numpy as np
import pytest
import yaml
from grids import write_grid
from hub_commands import command, last_line, run
from hub_server import TOKEN
from planted_rows import planted_rows

from hf_scaling.cli import main
from hf_scaling.results import ResultsTable, new_row, same_values


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study folder with eight planted runs, a law and a report."""
    import hf_scaling as hs

    study = tmp_path_factory.mktemp("studies") / "demo"
    rows = [new_row(row) for row in planted_rows(amounts=(500,))]
    ResultsTable(rows).save(study / "results")
    for row in rows:
        write_run(study / "runs" / row["run_id"], row)
    write_grid(study / "grid.yaml")
    whole = ResultsTable(new_row(row) for row in planted_rows(arms=("plain",)))
    hs.fit_law(whole, "chinchilla", bootstrap=20).save_pretrained(study / "laws" / "loss")
    (study / "report.html").write_text("<!doctype html><title>Demo</title><h1>Answers</h1>")
    return study


def write_run(folder, row):
    """The folder of a run, with one number as its weights."""
    from safetensors.numpy import save_file

    ResultsTable([row]).save(folder / "results")
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n\n# Run {row['run_id']}\n")
    (folder / "run.yaml").write_text(yaml.safe_dump({"run_id": row["run_id"]}))
    save_file({"weight": np.array([row["loss"]])}, folder / "model.safetensors")


@pytest.fixture
def study(written, tmp_path):
    """A copy that a test may change."""
    return shutil.copytree(written, tmp_path / "demo")


def ids_of(study):
    return {row["run_id"] for row in ResultsTable.load(study).rows()}


@pytest.mark.hub
def test_a_study_becomes_a_data_set_models_a_law_a_space_and_a_collection(hub, study, tmp_path):
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "whole", "--dry-run")
    assert status == 0, err
    for name in ("whole/demo", "whole/demo-loss", "whole/demo-report", "study.json", *ids_of(study)):
        assert name in out
    assert not [id for _, id in hub.storage.repos if id.startswith("whole/")]
    assert hub.asked("POST") == []
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "whole", "--private")
    assert (status, "[12/12] collection" in out) == (0, True), err
    models = {f"whole/demo-{run_id}" for run_id in ids_of(study)}
    there = {(kind, id) for kind, id in hub.storage.repos if id.startswith("whole/")}
    assert there == {("models", id) for id in models | {"whole/demo-loss"}} | {
        ("datasets", "whole/demo"),
        ("spaces", "whole/demo-report"),
    }
    assert all(hub.repo(*item).private for item in there)
    space = hub.repo("spaces", "whole/demo-report")
    assert (space.sdk, space.files["index.html"]) == ("static", (study / "report.html").read_bytes())
    assert space.card(space.head)["sdk"] == "static"
    law = hub.repo("models", "whole/demo-loss")
    assert law.card(law.head)["datasets"] == ["whole/demo"]
    listed = json.loads(hub.repo("datasets", "whole/demo").files["study.json"])
    assert set(listed["models"].values()) == models
    assert (listed["laws"], listed["report"]) == ({"loss": "whole/demo-loss"}, "whole/demo-report")
    shown = hub.storage.collections[listed["collection"]]
    assert {(item["type"], item["id"]) for item in shown["items"]} == {(kind[:-1], id) for kind, id in there}
    assert all(item["note"]["text"] for item in shown["items"])
    hub.calm()
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "whole")
    assert (status, len(out.splitlines())) == (0, 12), err
    assert hub.asked("POST", "/commit/") == []


@pytest.mark.hub
def test_push_and_pull_print_json_alone(hub, study, tmp_path):
    argv = ["push", study, "--namespace", "spoken", "--json"]
    for extra, states in ((["--dry-run"], {"planned"}), ([], {"pushed"}), ([], {"unchanged", "pushed"})):
        status, out, err = command(hub, tmp_path, *argv, *extra)
        content = json.loads(out)
        assert (status, content["kind"], content["n_lost"]) == (0, "study", 0), err
        assert {part["kind"] for part in content["parts"]} == {"results", "model", "law", "report", "collection"}
        assert {part["status"] for part in content["parts"]} <= states
    status, out, _ = command(hub, tmp_path, "push", study / "laws/loss", "--repo", "spoken/law", "--json")
    (part,) = json.loads(out)["parts"]
    assert (status, part["status"], part["repo_type"]) == (0, "pushed", "model")
    assert {change["kind"] for change in part["changes"]} == {"add"}
    status, out, _ = command(hub, tmp_path, "pull", "spoken/demo", "--out", "pulled", "--json")
    content = json.loads(out)
    assert (status, content["n_rows"], content["laws"]) == (0, len(ids_of(study)), ["loss"])
    assert content["next"].startswith("hf-scaling run")


@pytest.mark.hub
def test_models_best_pushes_one_of_each_size_and_none_pushes_none(hub, study, tmp_path):
    status, _, err = command(hub, tmp_path, "push", study, "--namespace", "few", "--name", "none", "--models", "none")
    assert status == 0, err
    assert not [
        id for kind, id in hub.storage.repos if id.startswith("few/none-") and kind == "models" and "loss" not in id
    ]
    status, _, err = command(hub, tmp_path, "push", study, "--namespace", "few", "--name", "best", "--models", "best")
    assert status == 0, err
    pushed = {
        id.rpartition("-")[2] for kind, id in hub.storage.repos if id.startswith("few/best-") and kind == "models"
    }
    best = {}
    for row in sorted(ResultsTable.load(study).rows(), key=lambda row: -row["error"]):
        best[row["model"]] = row["run_id"]
    assert pushed - {"loss"} == set(best.values())


@pytest.mark.hub
def test_a_part_that_failed_is_pushed_by_the_next_call(hub, study, tmp_path):
    unlucky = sorted(ids_of(study))[0]
    hub.fail("403", path=f"torn/demo-{unlucky}/commit", times=None)
    status, _, err = command(hub, tmp_path, "push", study, "--namespace", "torn")
    assert status == 1
    assert "1 of 12" in last_line(err) and f"torn/demo-{unlucky}" in last_line(err)
    listed = json.loads(hub.repo("datasets", "torn/demo").files["study.json"])
    assert set(listed["models"]) == ids_of(study) - {unlucky}
    hub.calm()
    status, _, err = command(hub, tmp_path, "push", study, "--namespace", "torn")
    assert status == 0, err
    assert {request.path.split("/")[4] for request in hub.asked("POST", "/commit/")} == {"demo", f"demo-{unlucky}"}
    listed = json.loads(hub.repo("datasets", "torn/demo").files["study.json"])
    assert set(listed["models"]) == ids_of(study)
    assert len(hub.storage.collections[listed["collection"]]["items"]) == 11


@pytest.mark.hub
def test_a_stormy_hub_gets_the_whole_study_and_never_the_token(hub, study, tmp_path):
    hub.fail_at_random(0.2, seed=1)
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "storm", "--debug")
    hub.calm()
    if status == 1:
        assert "storm/demo" in last_line(err)
        status, out, err = command(hub, tmp_path, "push", study, "--namespace", "storm", "--debug")
    assert status == 0, err
    listed = json.loads(hub.repo("datasets", "storm/demo").files["study.json"])
    assert set(listed["models"]) == ids_of(study)
    contents = [
        content
        for (_, id), repo in hub.storage.repos.items()
        if id.startswith("storm/")
        for content in repo.files.values()
    ]
    assert len(contents) > 50
    assert not any(TOKEN.encode() in content for content in [*contents, out.encode(), err.encode()])


@pytest.mark.hub
def test_a_pulled_study_has_equal_rows_the_law_and_the_parents(hub, study, tmp_path):
    command(hub, tmp_path, "push", study, "--namespace", "back")
    status, out, err = command(hub, tmp_path, "pull", "back/demo", "--out", "again")
    assert status == 0, err
    assert "hf-scaling run again/grid.yaml --out again" in out
    assert ResultsTable.load(tmp_path / "again").rows() == ResultsTable.load(study).rows()
    assert (tmp_path / "again" / "grid.yaml").read_bytes() == (study / "grid.yaml").read_bytes()
    for name in ("law.json", "draws.safetensors"):
        assert (tmp_path / "again/laws/loss" / name).read_bytes() == (study / "laws/loss" / name).read_bytes()
    for run_id in ids_of(study):
        weights = [folder / "runs" / run_id / "model.safetensors" for folder in (study, tmp_path / "again")]
        assert weights[0].read_bytes() == weights[1].read_bytes()
    (tmp_path / "again/runs" / min(ids_of(study)) / "mark").touch()
    status, _, err = command(hub, tmp_path, "pull", "back/demo", "--out", "again")
    assert (status, (tmp_path / "again/runs" / min(ids_of(study)) / "mark").exists()) == (0, True), err
    status, _, err = command(hub, tmp_path, "pull", "back/demo", "--out", "light", "--models", "none")
    assert (status, (tmp_path / "light/runs").exists()) == (0, False), err


def hostile_manifest(files, run_id):
    listed = json.loads(files["study.json"])
    return {"study.json": json.dumps(listed | {"models": {"../../.ssh": "evil/demo"}}).encode()}


def hostile_id(files, run_id):
    listed = json.loads(files["study.json"])
    return {"study.json": json.dumps(listed | {"models": {run_id: "../../evil"}}).encode()}


def hostile_collection(files, run_id):
    listed = json.loads(files["study.json"])
    return {"study.json": json.dumps(listed | {"collection": "../../whoami-v2"}).encode()}


def hostile_grid(files, run_id):
    return {"grid.yaml": b"models: !!python/object/apply:os.system ['touch gotcha']\n"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (hostile_manifest, ["study.json", "'../../.ssh'"]),
        (hostile_id, ["study.json", "'../../evil'"]),
        (hostile_collection, ["study.json", "'../../whoami-v2'"]),
        (hostile_grid, ["grid.yaml"]),
        (lambda files, run_id: {"study.json": b"[1]"}, ["study.json", "format"]),
        (lambda files, run_id: {"study.json": b'{"format": "hf_scaling.study", "version": 2}'}, ["study.json", "2"]),
    ],
    ids=["path", "id", "collection", "tag", "list", "newer"],
)
@pytest.mark.hub
def test_a_hostile_study_is_refused_and_leaves_nothing(hub, study, tmp_path, change, words, request):
    name = request.node.callspec.id
    command(hub, tmp_path, "push", study, "--namespace", "evil", "--name", name, "--models", "none")
    files = hub.repo("datasets", f"evil/{name}").files
    hub.add("datasets", f"evil/{name}", change(files, sorted(ids_of(study))[0]))
    status, _, err = command(hub, tmp_path, "pull", f"evil/{name}", "--out", "pulled")
    assert (status, all(word in last_line(err) for word in words), "Traceback" in err) == (2, True, False), err
    assert not (tmp_path / "pulled").exists()
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", "model.safetensors"),
        ("run.yaml", b"run_id: !!python/object/apply:os.system ['touch gotcha']\n", "run.yaml"),
        ("run.yaml", b"run_id: 000000000000000a\n", "'000000000000000a'"),
        ("config.json", b'{"auto_map": {"AutoConfig": "code.Evil"}}', "auto_map"),
    ],
    ids=["pickle", "tag", "other", "code"],
)
@pytest.mark.hub
def test_a_hostile_model_of_a_study_is_refused_and_leaves_no_folder(
    hub, study, tmp_path, name, content, words, request
):
    study_name = request.node.callspec.id
    for run_id in sorted(ids_of(study))[1:]:
        shutil.rmtree(study / "runs" / run_id)
    command(hub, tmp_path, "push", study, "--namespace", "rotten", "--name", study_name)
    run_id = min(ids_of(study))
    hub.add("models", f"rotten/{study_name}-{run_id}", {name: content})
    status, _, err = command(hub, tmp_path, "pull", f"rotten/{study_name}", "--out", "pulled")
    assert (status, words in last_line(err), "Traceback" in err) == (2, True, False), err
    assert not list((tmp_path / "pulled").glob("runs/*"))
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.hub
def test_mistakes_and_an_unreachable_hub_end_with_one_line(hub, study, tmp_path):
    for argv, status, words in (
        (["push", study], 2, "--namespace"),
        (["push", study, "--namespace", "a b"], 2, "'a b'"),
        (["push", study, "--namespace", "a", "--name", "x..y"], 2, "'x..y'"),
        (["push", study, "--namespace", "a", "--models", "some"], 2, "'some'"),
        (["push", study, "a/b", "--name", "c"], 2, "--name"),
        (["pull", "absent/study"], 2, "absent/study"),
        (["pull", "a/b", "--models", "some"], 2, "'some'"),
    ):
        done = command(hub, tmp_path, *argv)
        assert (done[0], words in last_line(done[2])) == (status, True), done
    for argv, status in ((["push", study, "--namespace", "far"], 1), (["pull", "far/demo"], 2)):
        done = command(hub, tmp_path, *argv, HF_ENDPOINT="http://127.0.0.1:9")
        assert (done[0], "offline" in last_line(done[2])) == (status, True), done


@pytest.mark.hub
def test_a_study_resumes_on_another_machine_and_trains_only_what_is_missing(hub, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir(), there.mkdir()
    small = write_grid(here / "tiny.yaml", models=["vit-30k"], n_finetune=[20])
    status, _, err = command(hub, here, "run", small, "--out", "tiny", "--workers", "1")
    assert status == 0, err
    status, _, err = command(hub, here, "push", "tiny", "--namespace", "moved")
    assert status == 0, err
    pretrained = {row["run_id"] for row in ResultsTable.load(here / "tiny").rows() if row["stage"] == "pretrain"}
    status, _, err = command(hub, there, "pull", "moved/tiny", "--out", "tiny", HF_SCALING_CACHE=str(there / "cache"))
    assert status == 0, err
    assert {item.name for item in (there / "tiny/runs").iterdir()} == pretrained
    larger = write_grid(there / "larger.yaml", models=["vit-30k"], n_finetune=[20, 30])
    before = {path: path.stat().st_mtime_ns for path in there.glob("tiny/runs/*/model.safetensors")}
    status, _out, err = command(
        hub, there, "run", larger, "--out", "tiny", "--workers", "1", HF_SCALING_CACHE=str(there / "cache")
    )
    assert status == 0, err
    after = {path: path.stat().st_mtime_ns for path in there.glob("tiny/runs/*/model.safetensors")}
    trained = {path.parent.name for path in after if path not in before}
    rows = {row["run_id"]: row for row in ResultsTable.load(there / "tiny").rows()}
    assert {rows[run_id]["n_finetune"] for run_id in trained} == {30}
    assert all(after[path] == before[path] for path in before)
    assert len(trained) == 2
    for row in ResultsTable.load(here / "tiny").rows():
        assert same_values(row, rows[row["run_id"]])
    logits = """
    import sys, torch
    from transformers import AutoModelForImageClassification
    for where in sys.argv[1:]:
        model = AutoModelForImageClassification.from_pretrained(where).eval()
        pixels = torch.linspace(-1, 1, 3 * 8 * 8).reshape(1, 3, 8, 8)
        print(model(pixel_values=pixels).logits.detach().numpy().tobytes().hex())
    """
    one = sorted(pretrained)[0]
    output = run(hub, tmp_path, logits, here / "tiny/runs" / one, there / "tiny/runs" / one, f"moved/tiny-{one}")
    assert len(set(output.split())) == 1


def test_a_dry_run_works_without_the_hub_and_asks_nothing_twice(study, monkeypatch, capsys):
    from huggingface_hub import HfApi

    asked = []
    # The HTTP library differs between versions of huggingface_hub; the name of its error does not.
    error = type("ConnectError", (Exception,), {})

    def no_route(self, repo_id, **options):
        asked.append(repo_id)
        raise error("no route")

    monkeypatch.setattr(HfApi, "repo_info", no_route)
    status, content = dry_run(capsys, study, "far/away", "--json")
    assert (status, asked, content["compared"], content["n_lost"]) == (0, ["far/away"], False, 0)
    parts = {part["repo_id"]: part for part in content["parts"] if part["kind"] != "collection"}
    assert set(parts) == {"far/away", "far/away-loss", "far/away-report", *(f"far/away-{id}" for id in ids_of(study))}
    sizes = {id: {change["path"]: change["n_bytes"] for change in part["changes"]} for id, part in parts.items()}
    assert {change["kind"] for part in parts.values() for change in part["changes"]} == {"write"}
    assert {"results/results.parquet", "README.md", "grid.yaml"} <= set(sizes["far/away"])
    run_id = min(ids_of(study))
    written = (study / "runs" / run_id / "model.safetensors").stat().st_size
    assert sizes[f"far/away-{run_id}"]["model.safetensors"] == written
    assert sizes["far/away-report"]["index.html"] == (study / "report.html").stat().st_size


def test_a_dry_run_names_each_model_in_one_line(study, capsys):
    with pytest.raises(SystemExit):
        main(["push", str(study), "far/away", "--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("model.safetensors" in line for line in lines) == 0
    assert all(sum(f"far/away-{run_id} " in line for line in lines) == 1 for run_id in ids_of(study))


@pytest.mark.parametrize("what", ["laws/loss", "results"])
def test_offline_dry_runs_of_a_law_and_of_rows(study, what, capsys):
    status, content = dry_run(capsys, study / what, "far/away", "--json")
    (part,) = content["parts"]
    assert (status, content["compared"], part["status"]) == (0, False, "planned")
    assert "README.md" in {change["path"] for change in part["changes"] if change["n_bytes"]}


def dry_run(capsys, what, *argv):
    """Status and JSON of a dry run in this process, where HF_HUB_OFFLINE is set."""
    with pytest.raises(SystemExit) as ended:
        main(["push", str(what), *argv, "--dry-run"])
    return ended.value.code, json.loads(capsys.readouterr().out)
