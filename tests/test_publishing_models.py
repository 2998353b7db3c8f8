"""Checkpoints to the Hub and back, by the commands and by the real client libraries (most with -m hub)."""

import hashlib
import json
import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard
from safetensors.numpy import save_file

from hf_scaling import publishing, results
from hf_scaling.errors import InputError

RECIPES = Path(__file__).parents[1] / "recipes"
PUSH = [sys.executable, "-c", "from hf_scaling.cli import main; main()", "push"]
BRIEF = ["--source=digits", "--max_steps=2", "--per_device_train_batch_size=16", "--disable_tqdm=true"]
VALUES = {"run_id": "0123456789abcdef", "task": "image_classification", "stage": "pretrain", "arm": "plain"}
VALUES |= {
    "model": "vit-30k",
    "upstream": "org/images",
    "eval_split": "test",
    "n_eval": 400,
    "error": 0.25,
    "loss": 1.0,
}


class Mischief:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch mischief",)


# Without a Hub.


@pytest.fixture
def folder(tmp_path) -> Path:
    """The folder of a finished run with the fewest files."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.zeros(3)}, folder / "model.safetensors")
    (folder / "README.md").write_text("---\ntags: [a]\n---\n\n# Card\n")
    results.ResultsTable([results.new_row(VALUES)]).save(folder / "results")
    return folder


def test_the_kind_of_a_folder_is_recognised(folder, tmp_path):
    (tmp_path / "law").mkdir()
    (tmp_path / "law" / "law.json").write_text("{}")
    (tmp_path / "study" / "runs").mkdir(parents=True)
    kinds = {"run": "checkpoint", "law": "law", "study": "study", "run/results": "results"}
    assert {name: publishing.kind_of(tmp_path / name) for name in kinds} == kinds
    assert publishing.kind_of(folder / "results" / "results.parquet") == "results"
    for nothing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=nothing.name):
            publishing.kind_of(nothing)


def remove(name):
    return lambda folder: (folder / name).unlink()


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def only_a_pickle(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (remove("config.json"), "config.json"),
        (only_a_pickle, "pytorch_model.bin"),
        (write("model.safetensors", pickle.dumps(Mischief())), "model.safetensors"),
        (write("config.json", b'{"auto_map": {"AutoConfig": "code.Config"}}'), "auto_map"),
        (write("config.json", b"{"), "config.json"),
        (remove("README.md"), "README.md"),
        (remove("results/results.parquet"), "results/"),
    ],
)
def test_an_unsafe_or_unfinished_checkpoint_is_refused_before_any_request(spoil, name, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spoil(folder)
    with pytest.raises(InputError, match=re.escape(name)):
        publishing.push_checkpoint(folder, "org/name")
    assert not (tmp_path / "mischief").exists()


# The Hub.


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A plain run on 100 digits."""
    from hf_scaling.training import parse_pretrain, resolve, train

    out = tmp_path_factory.mktemp("trained") / "student"
    argv = [*BRIEF, "--n_pretrain=100", "--model=vit-30k", f"--output_dir={out}", "--report_to=none"]
    return train(resolve(*parse_pretrain(argv, None)))[0]


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def pushed(_hub, trained, home):
    """The run on the Hub, pushed by the command, with a tag."""
    done = command(_hub, home, *PUSH, str(trained), "--repo", "org/student")
    assert done.returncode == 0, done.stderr
    repo = _hub.repo("models", "org/student")
    repo.tags["v1"] = repo.head
    return repo


@pytest.fixture(scope="module")
def client(_hub, home):
    """A process with torch in it, used to the Hub."""
    from hub_client import Client

    with Client(_hub, home, HF_HUB_DISABLE_PROGRESS_BARS="1") as process:
        assert process.run("from hf_scaling import models, publishing, training; import hashlib, torch").error is None
        yield process


def command(hub, home: Path, *argv: str, **variables: str) -> subprocess.CompletedProcess:
    from hub_server import TOKEN

    environment = hub.environment(home) | variables
    done = subprocess.run(argv, env=environment, cwd=home, capture_output=True, text=True, timeout=300)
    assert TOKEN not in done.stdout + done.stderr
    return done


@pytest.mark.hub
def test_a_dry_run_lists_the_files_that_the_push_writes(hub, trained, home):
    argv = [*PUSH, str(trained), "--repo", "org/dry", "--private"]
    output = command(hub, home, *argv, "--dry-run").stdout
    assert "org/dry" in output.splitlines()[0] and "private" in output.splitlines()[0]
    assert ("models", "org/dry") not in hub.storage.repos
    assert command(hub, home, *argv).returncode == 0
    repo = hub.repo("models", "org/dry")
    assert set(repo.files) - {".gitattributes"} == {line.split()[1] for line in output.splitlines()[1:]}
    assert repo.private and len(list(repo.head.history())) == 2
    assert command(hub, home, *argv).returncode == 0
    assert len(list(repo.head.history())) == 2


@pytest.mark.hub
def test_the_files_of_the_run_are_pushed_and_nothing_else(pushed, trained):
    names = {"README.md", "config.json", "model.safetensors", "preprocessor_config.json", "run.yaml"}
    assert set(pushed.files) == names | {"results/results.parquet", "seen.safetensors", ".gitattributes"}
    for name in names - {"README.md"}:
        assert pushed.files[name] == (trained / name).read_bytes()
    assert pushed.head.tree["model.safetensors"].lfs


@pytest.mark.hub
def test_the_hub_reads_the_card(hub, pushed, client):
    card = ModelCard(pushed.files["README.md"].decode())
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "transformers")
    assert [item.metric_type for item in card.data.eval_results] == ["accuracy", "loss"]
    assert "PATH_OR_HUB_ID" not in card.text and 'model="org/student"' in card.text
    output = client.run(
        "from huggingface_hub import model_info; info = model_info('org/student')\n"
        "print(info.pipeline_tag, info.library_name, info.card_data.metrics, info.model_index[0]['name'])"
    ).output
    assert output == "image-classification transformers ['accuracy'] vit-30k, plain, on digits\n"


@pytest.mark.hub
def test_a_model_from_the_hub_gives_the_same_logits_to_the_bit(hub, pushed, trained, client):
    import torch
    from transformers import AutoModelForImageClassification

    torch.manual_seed(0)
    pixels = torch.randn(4, 3, 28, 28)
    model = AutoModelForImageClassification.from_pretrained(trained)
    expected = hashlib.sha256(model(pixel_values=pixels).logits.detach().numpy().tobytes()).hexdigest()
    snippet = """
from transformers import AutoModelForImageClassification, pipeline
from hf_scaling.distillation import Teacher
torch.manual_seed(0)
pixels = torch.randn(4, 3, 28, 28)
found = [
    AutoModelForImageClassification.from_pretrained("org/student"),
    AutoModelForImageClassification.from_pretrained("org/student", revision="v1"),
    pipeline("image-classification", model="org/student").model,
    models.load_model("org/student", "v1"),
    Teacher.from_pretrained("org/student", "v1").model,
]
print({hashlib.sha256(item(pixel_values=pixels).logits.detach().numpy().tobytes()).hexdigest() for item in found})
"""
    answer = client.run(snippet)
    assert answer.error is None, answer.trace
    assert answer.output.splitlines()[-1] == str({expected})


@pytest.mark.hub
def test_scores_on_data_of_the_hub_are_listed_beside_it(hub, folder, client):
    tuned = {"stage": "finetune", "downstream": "org/images", "upstream": "glyphs", "parent": "a" * 16}
    results.ResultsTable([results.new_row(VALUES | tuned)]).save(folder / "results")
    push = f"publishing.push_checkpoint({str(folder)!r}, 'org/scored', places={{'{'a' * 16}': 'org/parent'}})"
    assert client.run(push).error is None
    output = client.run(
        "from huggingface_hub import model_info; info = model_info('org/scored')\n"
        "print(info.card_data.base_model, [(each.dataset_id, each.value, each.notes) for each in info.eval_results])"
    ).output
    assert output.startswith("org/parent [('org/images', 0.75, ")


@pytest.mark.hub
def test_text_of_people_in_the_card_stays(hub, trained, client):
    push = f"from hf_scaling.publishing import push_checkpoint; push_checkpoint({str(trained)!r}, 'org/edited')"
    assert client.run(push).error is None
    before = hub.repo("models", "org/edited").files["README.md"].decode()
    theirs = before.replace("apache-2.0", "cc-by-4.0") + "\nOur own words: {{ cycler.__init__.__globals__ }} ${HOME}\n"
    hub.add("models", "org/edited", {"README.md": theirs.encode()})
    assert client.run(push).error is None
    after = hub.repo("models", "org/edited").files["README.md"].decode()
    assert "license: cc-by-4.0" in after
    assert after.endswith("Our own words: {{ cycler.__init__.__globals__ }} ${HOME}\n")
    assert after.count("## Intended use") == 1


@pytest.mark.hub
def test_a_checkpoint_that_was_pulled_and_pushed_again_is_unchanged(hub, folder, client):
    push = "publishing.push_checkpoint({!r}, {!r})".format
    assert client.run(push(str(folder), "org/first")).error is None
    repo = hub.repo("models", "org/first")
    edited = repo.files["README.md"].decode().replace("<!--", "Our own words.\n\n<!--", 1)
    hub.add("models", "org/first", {"README.md": edited.encode()})
    (folder / "README.md").write_bytes(repo.files["README.md"])
    assert client.run(f"print({push(str(folder), 'org/first')}.changes)").output == "()\n"
    assert client.run(push(str(folder), "org/second")).error is None
    assert hub.repo("models", "org/second").files["README.md"] == edited.encode()


@pytest.mark.hub
def test_a_recipe_whose_push_fails_keeps_the_run_and_prints_the_push_command(hub, pushed, home):
    argv = [sys.executable, str(RECIPES / "finetune.py"), *BRIEF, "--n_finetune=50", "--output_dir=tuned"]
    argv += ["--checkpoint=org/student@v1", "--push_to_hub", "--hub_model_id=org/tuned", "--hub_private_repo=true"]
    hub.fail("403", path="/api/repos/create", times=None)
    done = command(hub, home, *argv)
    line = [each for each in done.stderr.splitlines() if each.startswith("error:")]
    assert done.returncode == 1 and len(line) == 1, done.stderr
    assert "tuned" in line[0] and "403" in line[0], line
    assert results.ResultsTable.load(home / "tuned").rows()[0]["n_finetune"] == 50
    later = shlex.split(line[0][line[0].index("hf-scaling push") :])
    assert later == ["hf-scaling", "push", "tuned", "--repo", "org/tuned", "--private"]
    hub.calm()
    assert command(hub, home, *PUSH[:-1], *later[1:]).returncode == 0
    assert hub.repo("models", "org/tuned").private
    assert not hub.asked(path="org/tuned/(branch|discussions)")


@pytest.mark.hub
@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--hub_model_id=a/b/c"], "hub_model_id"),
        (["--hub_model_id=org/x", "--hub_strategy=end"], "hub_strategy"),
        (["--hub_model_id=org/x", "--hub_token=hf_abcdefgh"], "hub_token"),
    ],
)
def test_a_push_that_would_fail_is_refused_before_training(flags, field, hub, client):
    argv = ["--push_to_hub", *flags]
    error = client.run(f"publishing.take_push(training.parse_pretrain({argv}, None)[1])").error
    assert error.startswith(f"InputError: {field}") and not hub.asked()


@pytest.mark.hub
def test_the_trainer_gets_no_hub_arguments(client):
    argv = ["--push_to_hub", "--hub_model_id=org/x", "--hub_private_repo=true"]
    snippet = f"args, end = publishing.take_push(training.parse_pretrain({argv}, None)[1])\n"
    output = client.run(snippet + "print(args.push_to_hub, args.hub_model_id, end)").output
    assert output == "False None PushAtEnd(asked=True, name='org/x', private=True)\n"


@pytest.mark.hub
def test_a_recipe_pushes_once_and_a_model_from_the_hub_is_the_teacher(hub, pushed, home):
    argv = [sys.executable, str(RECIPES / "pretrain.py"), *BRIEF, "--n_pretrain=50", "--model=vit-30k"]
    argv += ["--teacher=org/student", "--output_dir=distilled", "--save_steps=1", "--save_strategy=steps"]
    done = command(hub, home, *argv, "--push_to_hub")
    assert done.returncode == 0, done.stderr
    repo = hub.repo("models", "someone/distilled")
    assert done.stdout.splitlines()[-1] == f"hub     {hub.url}/someone/distilled/commit/{repo.head.id}"
    row = results.ResultsTable.load(home / "distilled").rows()[0]
    titles = [commit.title for commit in repo.head.history()]
    assert len(titles) == 2 and row["run_id"] in titles[0]
    assert (row["arm"], row["teacher"]) == ("distilled", yaml.safe_load(pushed.files["run.yaml"])["run_id"])


@pytest.mark.hub
def test_a_ladder_of_revisions_is_a_grid(hub, home, tmp_path):
    from tiny import native_vit
    from transformers import ViTImageProcessor

    for step in (1, 2):
        native_vit(seed=step).save_pretrained(tmp_path / "model")
        ViTImageProcessor(size={"height": 8, "width": 8}).save_pretrained(tmp_path / "model")
        files = {each.name: each.read_bytes() for each in (tmp_path / "model").iterdir()}
        repo = hub.add("models", "else/ladder", files)
        repo.tags[f"step{step}"] = repo.head
    checkpoints = [{"checkpoint": f"else/ladder@step{step}", "n_pretrain": 100 * step} for step in (1, 2)]
    grid = {"checkpoints": checkpoints, "downstream": ["digits"], "n_finetune": [50]}
    grid["finetune"] = {"max_steps": 2, "per_device_train_batch_size": 16, "report_to": "none"}
    (tmp_path / "grid.yaml").write_text(yaml.safe_dump(grid))
    run = [*PUSH[:-1], "run", str(tmp_path / "grid.yaml"), "--out", str(tmp_path / "study"), "--workers", "1"]
    done = command(hub, home, *run)
    assert done.returncode == 0, done.stderr
    rows = {row["parent"]: row for row in results.ResultsTable.load(tmp_path / "study").rows()}
    assert {name: row["n_pretrain"] for name, row in rows.items()} == {
        "else/ladder@step1": 100,
        "else/ladder@step2": 200,
    }
    assert {row["model"] for row in rows.values()} == {"else/ladder"}
    push = [*PUSH, str(tmp_path / "study" / "runs" / rows["else/ladder@step2"]["run_id"]), "--repo", "org/rung"]
    assert command(hub, home, *push).returncode == 0
    assert ModelCard(hub.repo("models", "org/rung").files["README.md"].decode()).data.base_model == "else/ladder"


@pytest.mark.hub
def test_hostile_checkpoints_are_refused_and_nothing_of_them_runs(hub, trained, client, home):
    good = {each.name: each.read_bytes() for each in trained.iterdir() if each.is_file()}
    config = json.loads(good["config.json"])
    code = {"AutoConfig": "code.Config", "AutoModelForImageClassification": "code.Model"}
    pickled = pickle.dumps(Mischief())

    def configured(**values) -> dict[str, bytes]:
        return good | {"config.json": json.dumps(config | values).encode(), "code.py": b"open('mischief', 'w')"}

    hostile = {
        "pickle": (
            {k: v for k, v in good.items() if k != "model.safetensors"} | {"pytorch_model.bin": pickled},
            "hostile/pickle",
        ),
        "disguised": (good | {"model.safetensors": pickled}, "hostile/disguised"),
        "known": (configured(auto_map=code), "auto_map"),
        "unknown": (configured(auto_map=code, model_type="mischief"), "auto_map"),
        "processor": (
            good | {"preprocessor_config.json": b'{"auto_map": {"AutoImageProcessor": "code.P"}}'},
            "auto_map",
        ),
        "architecture": (configured(architecture="hf-hub:else/where"), "hostile/architecture"),
        "weights": (configured(model_args=config["model_args"] | {"checkpoint_path": "x.pth"}), "hostile/weights"),
        "path": (good | {"../../../../mischief.json": b"{}"}, "mischief.json"),
        "deep": (good | {"config.json": b"[" * 100_000}, "config.json"),
    }
    for name, (files, value) in hostile.items():
        hub.add("models", f"hostile/{name}", files)
        error = client.run(f"models.load_model('hostile/{name}'); models.load_statistics('hostile/{name}')").error
        assert error.startswith("InputError") and value in error and "\n" not in error, (name, error)
    assert not hub.asked(path=r"\.(bin|py)$")
    assert not list(home.parent.rglob("mischief*"))


@pytest.mark.hub
def test_offline_a_cached_model_loads_and_another_one_is_an_error(hub, pushed, client, home):
    from hub_client import Client

    assert client.run("models.load_model('org/student', 'v1')").error is None
    with Client(hub, home, HF_HUB_OFFLINE="1") as offline:
        offline.run("from hf_scaling import hub")
        cached = "hub.download('org/student', revision='v1', allow_patterns=['*.json', '*.safetensors'])"
        assert offline.run(cached).error is None
        error = offline.run("hub.download('org/student-2')").error
        assert error.startswith("InputError: offline") and "org/student-2" in error


@pytest.mark.hub
def test_the_token_is_in_no_file_that_was_pushed(hub, pushed):
    from hub_server import TOKEN

    everything = [(id, *each) for (_, id), repo in hub.storage.repos.items() for each in repo.files.items()]
    assert len(everything) > 6
    assert not [name for *name, content in everything if TOKEN.encode() in content]
