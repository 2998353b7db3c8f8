"""A grid's YAML: the runs it expands to, and what is refused before anything is trained."""

from pathlib import Path

import pytest

from hf_scaling import Grid
from hf_scaling.errors import InputError

GRIDS = Path(__file__).parents[1] / "recipes" / "grids"
FIRST_DEMO = Path(__file__).parent / "data" / "demo_first.yaml"
SNAPSHOT = Path(__file__).parent / "snapshots" / "demo_grid.txt"
SMALL = {
    "models": ["vit-30k", "vit-50k"],
    "n_pretrain": [100, 200],
    "arms": ["plain", {"teacher": "vit-30k", "alpha": 0.3}],
    "downstream": ["digits"],
    "n_finetune": [20, 40],
    "pretrain": {"source": "glyphs", "learning_rate": "1e-3"},
    "finetune": {"learning_rate": "2e-3"},
}


def grid(**changes):
    content = {**SMALL, **changes}
    return Grid.from_dict({name: value for name, value in content.items() if value is not None})


def written(run):
    """A run in one line, as in the snapshot: its key, which covers every field, and its point on the axes."""
    upstream = run.parent or run
    arm = "distilled" if upstream.teacher else "plain"
    sizes = [upstream.fields["n_pretrain"], run.fields.get("n_finetune", 0)]
    return " ".join(map(str, [run.key, run.stage, upstream.fields["model"], arm, *sizes]))


def test_the_first_demo_grid_expands_to_the_stored_list():
    lines = [written(run) for run in Grid.load(FIRST_DEMO).runs]
    assert lines == SNAPSHOT.read_text().splitlines()


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_grid_can_be_read(path):
    runs = Grid.load(path).runs
    assert Grid.load(path).name == path.stem
    given = "checkpoints" in Grid.load(path).content
    assert {run.stage for run in runs} == ({"finetune"} if given else {"pretrain", "finetune"})


def test_every_combination_is_a_run_after_those_it_needs():
    runs = grid().runs
    assert len(runs) == len({run.key for run in runs}) == 2 * 2 * 2 * (1 + 2)
    for position, run in enumerate(runs):
        assert all(needed in runs[:position] for needed in run.needs)


def test_a_family_teacher_is_the_plain_run_of_its_size():
    runs = grid(downstream=None, n_finetune=None, finetune=None).runs
    distilled = [run for run in runs if run.teacher is not None]
    plain = [run for run in runs if run.teacher is None]
    assert len(distilled) == 4
    for run in distilled:
        assert run.teacher in plain
        assert run.teacher.fields["model"] == "vit-30k"
        assert run.teacher.fields["n_pretrain"] == run.fields["n_pretrain"]
        assert (run.fields["alpha"], "alpha" in run.teacher.fields) == (0.3, False)
    alone = grid(models=["vit-50k"], arms=[{"teacher": "vit-30k"}], downstream=None, n_finetune=None, finetune=None)
    assert [run.fields["model"] for run in alone.runs] == ["vit-30k", "vit-50k"] * 2


def test_a_trained_teacher_is_passed_to_the_recipe(tmp_path):
    for teacher in ("org/name", str(tmp_path)):
        runs = grid(arms=[{"teacher": teacher}]).runs
        assert {run.fields["teacher"] for run in runs if run.stage == "pretrain"} == {teacher}
        assert not any(run.teacher for run in runs)


def test_runs_with_equal_content_are_one_run_also_across_grids():
    larger = grid(n_finetune=[20, 40, 60])
    assert {run.key for run in grid().runs} < {run.key for run in larger.runs}
    assert len(larger) - len(grid()) == 8
    # An override that sets what is set already changes nothing.
    same = grid(overrides=[{"where": {"seed": 0}, "pretrain": {"learning_rate": "1e-3"}}])
    assert same.runs == grid().runs


def test_overrides_reach_the_runs_they_match_and_teachers_too():
    runs = grid(
        overrides=[
            {"where": {"model": "vit-30k"}, "pretrain": {"learning_rate": 5}},
            {"where": {"n_finetune": [40], "arm": "distilled"}, "finetune": {"train_part": "head"}, "processes": 2},
        ]
    ).runs
    for run in runs:
        if run.stage == "pretrain":
            assert run.fields["learning_rate"] == (5 if run.fields["model"] == "vit-30k" else "1e-3")
        else:
            matched = run.fields["n_finetune"] == 40 and run.parent.teacher is not None
            assert (run.fields.get("train_part"), run.processes) == (("head", 2) if matched else (None, 1))
    assert {run.teacher.fields["learning_rate"] for run in runs if run.teacher} == {5}


def test_an_empty_list_removes_the_overrides_of_a_file():
    path = GRIDS / "tiny_imagenet.yaml"
    with pytest.raises(InputError, match="overrides"):
        Grid.load(path, ["models=[vit-5m]"])
    everything = Grid.load(path, ["models=[vit-5m]", "overrides=[]"])
    # A seed: seven amounts with a teacher and two arms, each on four sets with four amounts of labels; and none.
    assert len(everything) == 3 * (7 * (1 + 2 * (1 + 16)) + 16)


def test_skip_removes_runs_but_not_the_teachers_of_others():
    runs = grid(overrides=[{"where": {"arm": "plain"}, "skip": True}]).runs
    pretrained = [run for run in runs if run.stage == "pretrain"]
    assert sum(run.teacher is None for run in pretrained) == 2
    assert all(run.parent.teacher is not None for run in runs if run.stage == "finetune")


def test_n_pretrain_0_adds_runs_without_pretraining_and_leaves_the_others_as_they_are():
    pretrain = {**SMALL["pretrain"], "image_size": 16, "patch_size": 4}
    overrides = [{"where": {"model": "vit-50k"}, "pretrain": {"patch_size": 8}}]
    without = grid(pretrain=pretrain, overrides=overrides)
    runs = grid(n_pretrain=[0, 100, 200], pretrain=pretrain, overrides=overrides).runs
    added = [run for run in runs if run not in without.runs]
    assert [run for run in runs if run in without.runs] == list(without.runs)
    assert [(run.fields["model"], run.fields["n_finetune"]) for run in added] == [
        ("vit-30k", 20),
        ("vit-30k", 40),
        ("vit-50k", 20),
        ("vit-50k", 40),
    ]
    assert all(run.stage == "finetune" and not run.needs for run in added)
    assert {run.fields["patch_size"] for run in added[:2]} == {4} and added[2].fields["patch_size"] == 8
    assert added[0].fields["learning_rate"] == SMALL["finetune"]["learning_rate"]
    assert "source" in added[0].fields and "n_pretrain" not in added[0].fields


def test_class_subsets_multiply_the_pretraining_runs_and_leave_the_others_as_they_are():
    runs = grid(class_subsets={"count": 3, "seed": 7}, seeds=[0, 1], n_pretrain=[100]).runs
    upstream = [run for run in runs if run.stage == "pretrain"]
    subsets = [f"subset:0.5:7:{number}" for number in range(3)]
    assert len(upstream) == 2 * 2 * 2 * 3 and len(runs) == len(upstream) * 3
    assert {run.fields["classes"] for run in upstream} == set(subsets)
    # A teacher is trained on the classes of its student, and a set to fine-tune on has all of its own.
    assert all(run.teacher.fields["classes"] == run.fields["classes"] for run in upstream if run.teacher)
    assert all("classes" not in run.fields for run in runs if run.stage == "finetune")
    # More subsets are added to those that there are.
    assert {run.key for run in runs} < {
        run.key for run in grid(class_subsets={"count": 5, "seed": 7}, seeds=[0, 1], n_pretrain=[100]).runs
    }


def test_the_rungs_of_a_ladder_are_of_one_class_subset():
    runs = grid(
        class_subsets={"count": 2}, arms=None, schedule="ladder", downstream=None, n_finetune=None, finetune=None
    ).runs
    larger = [run for run in runs if run.parent is not None]
    assert len(larger) == 4 and all(run.parent.fields["classes"] == run.fields["classes"] for run in larger)


def test_a_ladder_has_no_rung_without_pretraining():
    content = {"arms": ["plain"], "schedule": "ladder", "n_pretrain": [0, 100, 200]}
    rungs = {run.fields["n_pretrain"]: run.fields["rungs"] for run in grid(**content).runs if run.stage == "pretrain"}
    assert rungs == {100: [], 200: [100]}


def test_downstream_folders_are_found_beside_the_upstream_source(tmp_path):
    for name in ("up", "near"):
        (tmp_path / name).mkdir()
    source = str(tmp_path / "up")
    overrides = [{"where": {"downstream": "near", "n_finetune": 40}, "skip": True}]
    content = {"pretrain": {}, "downstream": ["near", "digits", "org/set"], "overrides": overrides, "source": source}
    runs = grid(**content).runs
    assert {run.fields["source"] for run in runs if run.stage == "pretrain"} == {source}
    tuned = {(run.fields["source"], run.fields["n_finetune"]) for run in runs if run.stage == "finetune"}
    near = str(tmp_path / "near")
    assert tuned == {(near, 20), ("digits", 20), ("digits", 40), ("org/set", 20), ("org/set", 40)}


def test_checkpoints_replace_pretraining():
    content = {
        "checkpoints": [{"checkpoint": "org/name@step1", "n_pretrain": 100}, {"checkpoint": "org/name"}],
        "downstream": ["digits"],
        "n_finetune": [20, "all"],
        "seeds": [0, 1],
    }
    runs = Grid.from_dict(content).runs
    assert [run.stage for run in runs] == ["finetune"] * 8
    assert runs[0].fields == {
        "checkpoint": "org/name@step1",
        "n_pretrain": 100,
        "source": "digits",
        "n_finetune": 20,
        "seed": 0,
    }
    assert "n_pretrain" not in runs[-1].fields
    assert {run.fields["n_finetune"] for run in runs} == {20, None}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": ["vit-30k"]}, ["'model'", "models"]),
        ({"models": []}, ["models"]),
        ({"models": None}, ["models"]),
        ({"models": ["vit-30k", "vit-30k"]}, ["models", "vit-30k"]),
        ({"n_pretrain": [-1]}, ["n_pretrain", "-1"]),
        (
            {"n_pretrain": [0, 100], "downstream": None, "n_finetune": None, "finetune": {}},
            ["n_pretrain", "downstream"],
        ),
        ({"finetune": {"model": "vit-30k"}}, ["model", "models"]),
        ({"source": "glyphs"}, ["source", "pretrain"]),
        ({"n_pretrain": ["many"]}, ["n_pretrain", "many"]),
        ({"n_finetune": [0]}, ["n_finetune", "0"]),
        ({"n_finetune": None}, ["n_finetune", "digits"]),
        ({"downstream": None}, ["downstream"]),
        ({"arms": ["distilled"]}, ["arms", "distilled"]),
        ({"arms": [{"teacher": "vit-30k", "seed": 1}]}, ["seed", "seeds"]),
        ({"seeds": [-1]}, ["seeds", "-1"]),
        ({"pretrain": {"push_to_hub": True}}, ["pretrain", "push_to_hub", "hf-scaling push"]),
        ({"pretrain": {"model": "vit-30k"}}, ["model", "models"]),
        ({"finetune": {"output_dir": "x"}}, ["finetune", "output_dir"]),
        ({"finetune": ["x"]}, ["finetune"]),
        ({"checkpoints": [{"checkpoint": "org/name"}]}, ["models", "checkpoints"]),
        (
            {
                "checkpoints": [{"checkpoint": "org/name"}],
                "class_subsets": {"count": 6},
                **dict.fromkeys(("models", "n_pretrain", "arms", "pretrain")),
            },
            ["class_subsets", "checkpoints"],
        ),
        (
            {
                "checkpoints": [{"checkpoint": "org/name"}],
                "tune": {"learning_rate": True},
                **dict.fromkeys(("models", "n_pretrain", "arms", "pretrain")),
            },
            ["tune", "checkpoints"],
        ),
        ({"overrides": [{"where": {"model": "vit-99k"}, "skip": True}]}, ["overrides", "vit-99k"]),
        ({"overrides": [{"where": {"modle": "x"}, "skip": True}]}, ["'modle'", "model"]),
        ({"overrides": [{"where": {"model": "vit-30k"}, "pretrain": {"seed": 1}}]}, ["seed", "seeds"]),
        ({"overrides": [{"where": {"n_finetune": 20}, "pretrain": {"optim": "sgd"}}]}, ["n_finetune", "pretrain"]),
        ({"overrides": [{"where": {}, "skip": True}]}, ["skip"]),
        ({"overrides": [{"where": {"seed": 0}, "skip": "yes"}]}, ["skip", "yes"]),
        ({"overrides": [{"where": {"seed": 0}, "processes": 0}]}, ["processes", "0"]),
        ({"schedule": "steps"}, ["schedule", "steps", "ladder"]),
        ({"class_subsets": 60}, ["class_subsets", "count"]),
        ({"class_subsets": {"count": 0}}, ["count", "0"]),
        ({"class_subsets": {"count": 6, "share": 1}}, ["share", "1"]),
        ({"class_subsets": {"count": 6, "shore": 0.3}}, ["shore", "share"]),
        ({"class_subsets": {"count": 6}, "n_pretrain": ["all"]}, ["class_subsets", "n_pretrain", "all"]),
        ({"class_subsets": {"count": 6}, "n_pretrain": [0, 100]}, ["class_subsets", "n_pretrain", "0"]),
        ({"class_subsets": {"count": 6}, "pretrain": {"classes": 10}}, ["class_subsets", "classes"]),
        (
            {"class_subsets": {"count": 6}, "overrides": [{"where": {"seed": 0}, "pretrain": {"classes": 10}}]},
            ["class_subsets", "classes"],
        ),
    ],
    ids=str,
)
def test_a_faulty_grid_is_refused_in_a_line_that_names_the_key(changes, words):
    with pytest.raises(InputError) as caught:
        grid(**changes)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("text", ["models: [", "- a", None])
def test_a_file_that_is_not_a_grid_is_named(tmp_path, text):
    path = tmp_path / "grid.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError) as caught:
        Grid.load(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_settings_replace_keys_of_the_file():
    settings = ["seeds=[3, 4]", "pretrain.learning_rate=5.0e-3", "finetune.augmentation=[flip]", "n_finetune=20"]
    changed, demo = Grid.load(FIRST_DEMO, settings), Grid.load(FIRST_DEMO)
    assert changed.content["seeds"] == [3, 4]
    assert changed.content["pretrain"] == {**demo.content["pretrain"], "learning_rate": 0.005}
    assert changed.content["finetune"] == {**demo.content["finetune"], "augmentation": ["flip"]}
    assert {run.fields["seed"] for run in changed.runs} == {3, 4}
    assert len(changed) == 2 * 30 * (1 + 1)


@pytest.mark.parametrize(
    "setting", ["seeds", "=3", "pretrain.=3", "seeds=[", "seeds.x=1", "models.0=vit-30k", "seed=[1]"]
)
def test_a_faulty_setting_is_refused_with_its_text(setting):
    with pytest.raises(InputError) as caught:
        Grid.load("demo", [setting])
    assert setting.partition("=")[0] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_of_an_architectures_name_changes_nothing(tmp_path, monkeypatch):
    content = {**SMALL, "models": ["vit-50k"]}
    before = Grid.from_dict(content).runs
    (tmp_path / "vit-30k").mkdir()
    monkeypatch.chdir(tmp_path)
    assert Grid.from_dict(content).runs == before
