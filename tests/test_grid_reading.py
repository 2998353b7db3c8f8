"""A grid's YAML: what it expands to, and what is refused before anything runs."""

from pathlib import Path

import pytest

from hf_scaling import Grid
from hf_scaling.errors import InputError

GRIDS = Path(__file__).parents[1] / "recipes" / "grids"
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
    """A run in one line, as the snapshot holds it: its key, which covers every field, and its place in the grid."""
    upstream = run.parent or run
    arm = "distilled" if upstream.teacher else "plain"
    sizes = [upstream.fields["n_pretrain"], run.fields.get("n_finetune", 0)]
    return " ".join(map(str, [run.key, run.stage, upstream.fields["model"], arm, *sizes]))


def test_the_demo_grid_is_the_list_that_it_was():
    lines = [written(run) for run in Grid.load(GRIDS / "demo.yaml").runs]
    assert lines == SNAPSHOT.read_text().splitlines()


@pytest.mark.parametrize("path", sorted(GRIDS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_grid_that_is_shipped_can_be_read(path):
    runs = Grid.load(path).runs
    assert Grid.load(path).name == path.stem
    given = "checkpoints" in Grid.load(path).content
    assert {run.stage for run in runs} == ({"finetune"} if given else {"pretrain", "finetune"})


def test_every_combination_is_a_run_and_those_needed_come_before():
    runs = grid().runs
    assert len(runs) == len({run.key for run in runs}) == 2 * 2 * 2 * (1 + 2)
    for place, run in enumerate(runs):
        assert all(needed in runs[:place] for needed in run.needs)


def test_a_family_teacher_is_the_plain_run_of_its_size():
    runs = grid(downstream=None, n_finetune=None, finetune=None).runs
    taught = [run for run in runs if run.teacher is not None]
    plain = [run for run in runs if run.teacher is None]
    assert len(taught) == 4
    for run in taught:
        assert run.teacher in plain
        assert run.teacher.fields["model"] == "vit-30k"
        assert run.teacher.fields["n_pretrain"] == run.fields["n_pretrain"]
        assert (run.fields["alpha"], "alpha" in run.teacher.fields) == (0.3, False)
    alone = grid(models=["vit-50k"], arms=[{"teacher": "vit-30k"}], downstream=None, n_finetune=None, finetune=None)
    assert [run.fields["model"] for run in alone.runs] == ["vit-30k", "vit-50k"] * 2


def test_a_teacher_that_is_trained_already_is_told_to_the_recipe(tmp_path):
    for teacher in ("org/name", str(tmp_path)):
        runs = grid(arms=[{"teacher": teacher}]).runs
        assert {run.fields["teacher"] for run in runs if run.stage == "pretrain"} == {teacher}
        assert not any(run.teacher for run in runs)


def test_equal_writings_are_one_run_also_across_grids():
    larger = grid(n_finetune=[20, 40, 60])
    assert {run.key for run in grid().runs} < {run.key for run in larger.runs}
    assert len(larger) - len(grid()) == 8
    # An override that says what holds anyway changes nothing.
    same = grid(overrides=[{"where": {"seed": 0}, "pretrain": {"learning_rate": "1e-3"}}])
    assert same.runs == grid().runs


def test_overrides_reach_the_runs_they_choose_and_teachers_too():
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
            chosen = run.fields["n_finetune"] == 40 and run.parent.teacher is not None
            assert (run.fields.get("train_part"), run.processes) == (("head", 2) if chosen else (None, 1))
    assert {run.teacher.fields["learning_rate"] for run in runs if run.teacher} == {5}


def test_skipping_leaves_runs_out_but_not_the_teachers_that_others_need():
    runs = grid(overrides=[{"where": {"arm": "plain"}, "skip": True}]).runs
    pretrained = [run for run in runs if run.stage == "pretrain"]
    assert sum(run.teacher is None for run in pretrained) == 2
    assert all(run.parent.teacher is not None for run in runs if run.stage == "finetune")


def test_checkpoints_take_the_place_of_pretraining():
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
        ({"model": ["vit-30k"]}, ["'model'", "did you mean models?"]),
        ({"models": []}, ["models", "empty"]),
        ({"models": None}, ["models", "missing"]),
        ({"models": ["vit-30k", "vit-30k"]}, ["models", "twice"]),
        ({"n_pretrain": [0]}, ["n_pretrain", "0"]),
        ({"n_pretrain": ["many"]}, ["n_pretrain", "many"]),
        ({"n_finetune": [0]}, ["n_finetune", "its own row"]),
        ({"n_finetune": None}, ["n_finetune", "missing", "digits"]),
        ({"downstream": None}, ["downstream", "missing"]),
        ({"arms": ["distilled"]}, ["arms", "teacher"]),
        ({"arms": [{"teacher": "vit-30k", "seed": 1}]}, ["seed", "seeds"]),
        ({"seeds": [-1]}, ["seeds", "-1"]),
        ({"pretrain": {"push_to_hub": True}}, ["pretrain", "push_to_hub", "hf-scaling push"]),
        ({"pretrain": {"model": "vit-30k"}}, ["model", "models"]),
        ({"finetune": {"output_dir": "x"}}, ["output_dir", "no place"]),
        ({"finetune": ["x"]}, ["finetune", "field: value"]),
        ({"checkpoints": [{"checkpoint": "org/name"}]}, ["models", "checkpoints"]),
        ({"overrides": [{"where": {"model": "vit-99k"}, "skip": True}]}, ["overrides", "vit-99k"]),
        ({"overrides": [{"where": {"modle": "x"}, "skip": True}]}, ["'modle'", "did you mean model?"]),
        ({"overrides": [{"where": {"model": "vit-30k"}, "pretrain": {"seed": 1}}]}, ["seed", "seeds"]),
        ({"overrides": [{"where": {"n_finetune": 20}, "pretrain": {"optim": "sgd"}}]}, ["finetune, not pretrain"]),
        ({"overrides": [{"where": {}, "skip": True}]}, ["skip leaves no run"]),
        ({"overrides": [{"where": {"seed": 0}, "processes": 0}]}, ["processes", "0"]),
    ],
    ids=str,
)
def test_a_faulty_grid_is_refused_in_a_line_that_names_the_key(changes, words):
    with pytest.raises(InputError) as caught:
        grid(**changes)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(("text", "word"), [("models: [", "not YAML"), ("- a", "key: value"), (None, "no such")])
def test_a_file_that_is_no_grid_is_named(tmp_path, text, word):
    path = tmp_path / "grid.yaml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=word) as caught:
        Grid.load(path)
    assert str(caught.value).startswith(str(path))
