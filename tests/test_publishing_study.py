"""A study as a whole: pushed in parts that finish each other's work, pulled to go on with, and trusted in nothing."""

import json
import shutil

import numpy as np
import pytest
import yaml
from grids import write_grid
from hub_commands import command, last_line, run
from hub_server import TOKEN
from planted_rows import planted_rows

from hf_scaling.results import ResultsTable, new_row, same_values

pytestmark = pytest.mark.hub


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A study folder as a runner leaves it, of eight runs nobody trained, with a law and a report."""
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
    """A run's folder; its weights are one number."""
    from safetensors.numpy import save_file

    ResultsTable([row]).save(folder / "results")
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n\n# Run {row['run_id']}\n")
    (folder / "run.yaml").write_text(yaml.safe_dump({"run_id": row["run_id"]}))
    save_file({"weight": np.array([row["loss"]])}, folder / "model.safetensors")


@pytest.fixture
def study(written, tmp_path):
    """A copy to do anything with."""
    return shutil.copytree(written, tmp_path / "demo")


def ids_of(study):
    return {row["run_id"] for row in ResultsTable.load(study).rows()}


def test_a_study_is_a_table_models_a_law_a_page_and_a_collection(hub, study, tmp_path):
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "whole", "--dry-run")
    assert status == 0, err
    for words in ("data set whole/demo", "model whole/demo-", "whole/demo-loss", "whole/demo-report", "study.json"):
        assert words in out
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
    assert all(hub.repo(*each).private for each in there)
    space = hub.repo("spaces", "whole/demo-report")
    assert (space.sdk, space.files["index.html"]) == ("static", (study / "report.html").read_bytes())
    assert space.card(space.head)["sdk"] == "static"
    law = hub.repo("models", "whole/demo-loss")
    assert law.card(law.head)["datasets"] == ["whole/demo"]
    listed = json.loads(hub.repo("datasets", "whole/demo").files["study.json"])
    assert set(listed["models"].values()) == models
    assert (listed["laws"], listed["report"]) == ({"loss": "whole/demo-loss"}, "whole/demo-report")
    shown = hub.storage.collections[listed["collection"]]
    assert {(each["type"], each["id"]) for each in shown["items"]} == {(kind[:-1], id) for kind, id in there}
    assert any("vit-30k plain, pretrained on 500 of glyphs: error" in each["note"]["text"] for each in shown["items"])
    hub.calm()
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "whole")
    assert (status, out.count("there already")) == (0, 11), err
    assert hub.asked("POST", "/commit/") == []


def test_the_best_of_each_size_or_no_model_at_all(hub, study, tmp_path):
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


def test_what_one_push_could_not_bring_the_next_one_brings(hub, study, tmp_path):
    unlucky = sorted(ids_of(study))[0]
    hub.fail("403", path=f"torn/demo-{unlucky}/commit", times=None)
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "torn")
    assert status == 1
    assert f"1 of 12 parts did not arrive (model torn/demo-{unlucky})" in last_line(err)
    assert "the same command tries again" in last_line(err)
    listed = json.loads(hub.repo("datasets", "torn/demo").files["study.json"])
    assert set(listed["models"]) == ids_of(study) - {unlucky}
    hub.calm()
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "torn")
    assert (status, out.count("there already")) == (0, 10), err
    listed = json.loads(hub.repo("datasets", "torn/demo").files["study.json"])
    assert set(listed["models"]) == ids_of(study)
    assert len(hub.storage.collections[listed["collection"]]["items"]) == 11


def test_a_stormy_hub_gets_the_whole_study_and_the_token_is_nowhere(hub, study, tmp_path):
    hub.fail_at_random(0.2, seed=1)
    status, out, err = command(hub, tmp_path, "push", study, "--namespace", "storm", "--debug")
    hub.calm()
    if status == 1:
        assert "did not arrive" in last_line(err)
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
    assert not [each for each in [*contents, out.encode(), err.encode()] if TOKEN.encode() in each]


def test_a_pulled_study_holds_equal_rows_the_law_and_what_runs_start_from(hub, study, tmp_path):
    command(hub, tmp_path, "push", study, "--namespace", "back")
    status, out, err = command(hub, tmp_path, "pull", "back/demo", "--out", "again")
    assert status == 0, err
    assert "next    hf-scaling run again/grid.yaml --out again" in out
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
        (hostile_manifest, "no run id"),
        (hostile_id, "no Hub id"),
        (hostile_collection, "no collection of the Hub"),
        (hostile_grid, "not YAML"),
        (lambda files, run_id: {"study.json": b"[1]"}, "no study of hf_scaling"),
        (lambda files, run_id: {"study.json": b'{"format": "hf_scaling.study", "version": 2}'}, "install a newer"),
    ],
    ids=["path", "id", "collection", "tag", "list", "newer"],
)
def test_a_hostile_study_is_refused_and_leaves_nothing(hub, study, tmp_path, change, words, request):
    name = request.node.callspec.id
    command(hub, tmp_path, "push", study, "--namespace", "evil", "--name", name, "--models", "none")
    files = hub.repo("datasets", f"evil/{name}").files
    hub.add("datasets", f"evil/{name}", change(files, sorted(ids_of(study))[0]))
    status, _, err = command(hub, tmp_path, "pull", f"evil/{name}", "--out", "pulled")
    assert (status, words in last_line(err), "Traceback" in err) == (2, True, False), err
    assert not (tmp_path / "pulled").exists()
    assert not (tmp_path / "gotcha").exists()


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("model.safetensors", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix", "no safetensors file"),
        ("run.yaml", b"run_id: !!python/object/apply:os.system ['touch gotcha']\n", "not YAML"),
        ("run.yaml", b"run_id: 000000000000000a\n", "of run '000000000000000a'"),
        ("config.json", b'{"auto_map": {"AutoConfig": "code.Evil"}}', "auto_map"),
    ],
    ids=["pickle", "tag", "other", "code"],
)
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


def test_mistakes_and_an_unreachable_hub_are_one_line(hub, study, tmp_path):
    for argv, status, words in (
        (["push", study], 2, "--namespace ORG"),
        (["push", study, "--namespace", "a b"], 2, "namespace 'a b'"),
        (["push", study, "--namespace", "a", "--name", "x..y"], 2, "name 'x..y'"),
        (["push", study, "--namespace", "a", "--models", "some"], 2, "choose all, best, none"),
        (["push", study, "--repo", "a/b"], 2, "--repo is for a"),
        (["pull", "absent/study"], 2, "absent/study is not on the Hub"),
        (["pull", "a/b", "--models", "some"], 2, "choose parents, all, none"),
    ):
        done = command(hub, tmp_path, *argv)
        assert (done[0], words in last_line(done[2])) == (status, True), done
    for argv, status in ((["push", study, "--namespace", "far"], 1), (["pull", "far/demo"], 2)):
        done = command(hub, tmp_path, *argv, HF_ENDPOINT="http://127.0.0.1:9")
        assert (done[0], "offline" in last_line(done[2])) == (status, True), done


def test_a_study_goes_on_on_another_machine_and_makes_only_what_is_missing(hub, tmp_path):
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
    assert {each.name for each in (there / "tiny/runs").iterdir()} == pretrained
    larger = write_grid(there / "larger.yaml", models=["vit-30k"], n_finetune=[20, 30])
    before = {each: each.stat().st_mtime_ns for each in there.glob("tiny/runs/*/model.safetensors")}
    status, _out, err = command(
        hub, there, "run", larger, "--out", "tiny", "--workers", "1", HF_SCALING_CACHE=str(there / "cache")
    )
    assert status == 0, err
    after = {each: each.stat().st_mtime_ns for each in there.glob("tiny/runs/*/model.safetensors")}
    made = {each.parent.name for each in after if each not in before}
    rows = {row["run_id"]: row for row in ResultsTable.load(there / "tiny").rows()}
    assert {rows[run_id]["n_finetune"] for run_id in made} == {30}
    assert all(after[each] == before[each] for each in before)
    assert len(made) == 2
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
    said = run(hub, tmp_path, logits, here / "tiny/runs" / one, there / "tiny/runs" / one, f"moved/tiny-{one}")
    assert len(set(said.split())) == 1
