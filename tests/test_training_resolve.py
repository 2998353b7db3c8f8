"""A run is resolved once: its id and costs are those of its row, and as JSON it trains the same run."""

import json
import shutil

import pytest
from numbered_images import write_parquet

from hf_scaling import models
from hf_scaling.errors import InputError, RunError
from hf_scaling.results import ResultsTable, same_values
from hf_scaling.training import (
    PretrainFields,
    ProcessCache,
    ResolvedRun,
    build_fields,
    parse_fields,
    parse_pretrain,
    resolve,
    resolve_runs,
    train,
)
from hf_scaling.training.config import rate_of

PRETRAIN = {
    "model": "vit-30k",
    "source": "digits",
    "n_pretrain": 40,
    "image_size": 8,
    "patch_size": 4,
    "max_steps": 2,
    "per_device_train_batch_size": 16,
    "save_strategy": "no",
    "report_to": "none",
}
FINETUNE = {"source": "digits", "n_finetune": 20} | {name: PRETRAIN[name] for name in list(PRETRAIN)[5:]}


def fields_of(stage="pretrain", **values):
    return parse_fields(stage, {**(PRETRAIN if stage == "pretrain" else FINETUNE), **values})


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """A resolved run, and its folder and row once it is trained."""
    run = resolve(*fields_of())
    return run, *train(run, tmp_path_factory.mktemp("runs") / "plain")


def test_the_row_is_the_one_that_was_planned(plain):
    run, _, row = plain
    assert (row["run_id"], row["recipe"], row["arm"]) == (run.run_id, run.spec.recipe, run.plan.arm)
    assert (row["n_params"], row["train_flops"]) == (run.plan.n_params, run.plan.train_flops)
    assert run.plan.eval_flops == 500 * models.forward_flops(run.model, 8)


def test_a_counted_model_has_no_weights(plain):
    run, folder, _ = plain
    assert run.model.device.type == "meta"
    assert run.task.configuration(run.model) == run.task.configuration(models.load_model(folder))


def test_a_distilled_run_and_its_teacher_are_resolved_together(tmp_path):
    run = resolve(*fields_of(model="vit-50k", teacher="vit-30k"))
    assert run.teacher.run_id == run.spec.teacher == resolve(*fields_of()).run_id
    folder, row = train(run, tmp_path)
    assert row["train_flops"] + row["teacher_flops"] == run.plan.train_flops
    assert ResultsTable.load(folder / "teacher").rows()[0]["run_id"] == run.teacher.run_id


def test_a_fine_tuning_of_an_untrained_run_trains_it_first(plain, tmp_path):
    parent, _, parent_row = plain
    run = resolve(*fields_of("finetune"), parent=parent)
    _, row = train(run, tmp_path)
    assert (row["run_id"], row["parent"]) == (run.run_id, parent.run_id)
    assert (row["n_params"], row["train_flops"]) == (run.plan.n_params, run.plan.train_flops)
    trained = ResultsTable.load(tmp_path / "parent").rows()[0]
    assert same_values(trained, parent_row)


def test_a_new_model_is_fine_tuned_from_random_weights(plain, tmp_path):
    new = {"model": "vit-30k", "image_size": 8, "patch_size": 4}
    run = resolve(*fields_of("finetune", **new))
    _, row = train(run, tmp_path / "new")
    names = ("run_id", "stage", "arm", "model", "n_params", "n_pretrain", "n_finetune", "train_flops")
    assert [row[name] for name in names] == [
        *(run.run_id, "finetune", "plain", "vit-30k"),
        *(plain[2]["n_params"], 0, 20, run.plan.train_flops),
    ]
    assert row["parent"] is None and row["upstream"] is None and row["downstream"] == "digits"
    assert run.spec.model["name"] == "vit-30k" and run.plan.needs == ()
    # The weights start as those of pretraining do: only the patch size tells these two apart.
    assert resolve(*fields_of("finetune", **{**new, "patch_size": 2})).run_id != run.run_id
    again = ResolvedRun.from_dict(json.loads(json.dumps(run.to_dict())), None, output_dir=str(tmp_path / "again"))
    assert same_values(train(again)[1], row)


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"image_size": 8}, "image_size"),
        ({"model": "vit-30k", "n_pretrain": 5}, "n_pretrain"),
        ({"model": "vit-30k", "checkpoint": "x/y"}, "checkpoint"),
        ({"model": "vit-31k"}, "vit-31k"),
        ({}, "checkpoint"),
    ],
    ids=str,
)
def test_a_fine_tuning_starts_from_a_checkpoint_or_a_new_model_never_both(values, word):
    with pytest.raises(InputError, match=word):
        resolve(*fields_of("finetune", **values))


def test_n_eval_limits_the_test_images_and_changes_the_id_only_where_it_acts(plain, tmp_path):
    run, _, row = plain
    fewer = resolve(*fields_of(n_eval=100))
    _, of_fewer = train(fewer, tmp_path / "fewer")
    assert (row["n_eval"], of_fewer["n_eval"], fewer.spec.source["n_eval"]) == (500, 100, 100)
    assert of_fewer["recipe"] == row["recipe"] and of_fewer["run_id"] != row["run_id"]
    assert of_fewer["error"] != row["error"]
    assert fewer.plan.eval_flops == run.plan.eval_flops / 5
    assert resolve(*fields_of(n_eval=500)).run_id == run.run_id
    # The images are the same for every run, and those of a smaller limit are among those of a larger one.
    drawn = [set(resolve(*fields_of(n_eval=n, seed=seed)).test.indices) for n, seed in ((100, 0), (100, 1), (200, 0))]
    assert drawn[0] == drawn[1] < drawn[2]
    with pytest.raises(InputError, match="n_eval"):
        fields_of(n_eval=0)


def test_models_with_rates_of_their_own_share_a_recipe_and_train_by_them(tmp_path):
    rates = {"vit-30k": "4e-3", "vit-50k": 1e-3}
    small, large = (resolve(*fields_of(model=name, learning_rates=rates)) for name in ("vit-30k", "vit-100k"))
    assert small.spec.recipe == large.spec.recipe
    assert [rate_of(run.args, run.fields, run.plan.model) for run in (small, large)] == [
        4e-3,
        large.args.learning_rate,
    ]
    # The same weights as with that rate for all, but another recipe.
    one_rate = resolve(*fields_of(learning_rate=4e-3))
    rows = [train(run, tmp_path / run.run_id)[1] for run in (small, one_rate)]
    assert rows[0]["loss"] == rows[1]["loss"] and rows[0]["recipe"] != rows[1]["recipe"]
    for wrong in ({"vit-30k": "fast"}, {"vit-30k": 0}, "4e-3", {"vit-31k": 1e-3}):
        with pytest.raises(InputError, match="learning_rates"):
            resolve(*fields_of(learning_rates=wrong))


def test_fine_tuned_models_with_rates_of_their_own_share_a_recipe_and_train_by_them(plain, tmp_path):
    run, folder, _ = plain
    rates = {"learning_rates": {"vit-30k": 4e-3}}
    starts = {"checkpoint": {"checkpoint": str(folder)}, "new": {"model": "vit-30k", "image_size": 8, "patch_size": 4}}
    recipes = {}
    for name, start in starts.items():
        own, all_alike = (
            resolve(*fields_of("finetune", **(start | given))) for given in (rates, {"learning_rate": 4e-3})
        )
        rows = [train(item, tmp_path / item.run_id)[1] for item in (own, all_alike)]
        assert rows[0]["loss"] == rows[1]["loss"] and rows[0]["recipe"] != rows[1]["recipe"]
        recipes[name] = rows[0]["recipe"]
    other = resolve(*fields_of("finetune", **(starts["new"] | rates | {"model": "vit-100k"})))
    assert set(recipes.values()) == {other.spec.recipe} and rate_of(other.args, other.fields, "vit-100k") != 4e-3
    # In a grid the model is that of the run that is fine-tuned.
    assert resolve(*fields_of("finetune", **rates), parent=run).spec.recipe == other.spec.recipe
    with pytest.raises(InputError, match="learning_rates"):
        resolve(*fields_of("finetune", **(starts["new"] | {"learning_rates": {"vit-31k": 1e-3}})))


def test_a_run_read_from_json_trains_the_same_row(plain, tmp_path):
    run, folder, row = plain
    again = ResolvedRun.from_dict(json.loads(json.dumps(run.to_dict())), output_dir=str(tmp_path))
    assert again.run_id == run.run_id
    assert same_values(train(again)[1], row)
    tuning = resolve(*fields_of("finetune"), parent=run)
    tuned = ResolvedRun.from_dict(json.loads(json.dumps(tuning.to_dict())), {run.run_id: folder}.get)
    assert tuned.parent.row["run_id"] == run.run_id
    assert train(tuned, tmp_path / "tuned")[1]["run_id"] == tuning.run_id


@pytest.mark.parametrize("name", ["source", "rule", "n_classes"])
def test_a_run_that_has_changed_since_it_was_planned_is_refused(plain, name):
    values = plain[0].to_dict()
    changed = {"source": {**values["spec"]["source"], "fingerprint": "0"}, "rule": {"batch": 1}, "n_classes": 3}
    with pytest.raises(RunError, match=f"its {name} "):
        ResolvedRun.from_dict({**values, "spec": {**values["spec"], name: changed[name]}})


def test_a_grid_resolves_to_the_ids_of_the_recipes(plain):
    runs = [
        {"stage": "pretrain", "fields": PRETRAIN, "teacher": None, "parent": None, "processes": 1},
        {"stage": "finetune", "fields": FINETUNE, "teacher": None, "parent": 0, "processes": 1},
        {"stage": "pretrain", "fields": PRETRAIN, "teacher": None, "parent": None, "processes": 1},
    ]
    plans = resolve_runs(runs, ProcessCache())
    assert [plan.run_id for plan in plans] == [
        plain[0].run_id,
        resolve(*fields_of("finetune"), parent=plain[0]).run_id,
    ]
    for plan in plans:
        # The fields have their own types and need no parser.
        fields, args = build_fields(plan.spec.stage, json.loads(json.dumps(dict(plan.fields))))
        assert (fields, args.learning_rate) == (parse_fields(plan.spec.stage, plan.fields)[0], args.learning_rate)


def test_a_source_out_of_reach_is_guessed_only_where_that_is_allowed():
    fields, args = fields_of(source="org/name")
    with pytest.raises(InputError, match="org/name"):
        resolve(fields, args)
    guessed = resolve(fields, args, cache=ProcessCache(guess=True)).plan
    assert "org/name" in guessed.provisional
    assert guessed.train_flops > 0


def test_a_plan_that_may_guess_counts_images_that_were_never_opened(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_SCALING_CACHE", str(tmp_path / "cache"))
    write_parquet(tmp_path / "shapes.parquet", 201)
    values = {"source": str(tmp_path / "shapes.parquet"), "n_pretrain": None, "classes": 2}
    run = {"stage": "pretrain", "fields": {**PRETRAIN, **values}, "teacher": None, "parent": None, "processes": 1}
    (guessed,) = resolve_runs([run], ProcessCache(fill=False, guess=True))
    (known,) = resolve_runs([run], ProcessCache())
    assert (guessed.spec.n_pretrain, guessed.provisional) == (121, None)
    assert guessed.to_dict() == known.to_dict()


def test_the_name_of_an_architecture_is_never_a_folder(plain, tmp_path, monkeypatch):
    run, folder, _ = plain
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "vit-30k")
    shutil.copytree(folder, "resnet18")
    # The model and a teacher of that name are built; the folder is read where it is written as one.
    assert resolve(*fields_of()).run_id == run.run_id
    distilled = resolve(*fields_of(model="vit-50k", teacher="vit-30k"))
    assert isinstance(distilled.teacher, ResolvedRun)
    given = resolve(*fields_of(model="vit-50k", teacher="./vit-30k"))
    assert (given.teacher.id, given.teacher.folder.is_dir()) == (run.run_id, True)
    for name in ("vit-30k", "resnet18"):
        with pytest.raises(InputError, match=f"checkpoint {name}.* ./{name}"):
            resolve(*fields_of("finetune", checkpoint=name))
    for path in ("./vit-30k", str(tmp_path / "vit-30k")):
        assert resolve(*fields_of("finetune", checkpoint=path)).spec.parent == run.run_id
    assert models.load_model("./vit-30k").num_labels == 10
    with pytest.raises(InputError, match="vit-30k"):
        models.load_model("vit-30k")
    _, row = train(given, tmp_path / "given")
    assert (row["teacher"], row["teacher_n_pretrain"]) == (run.run_id, 40)


def test_a_folder_that_is_no_architecture_is_named_as_one(plain, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(plain[1], "mine")
    with pytest.raises(InputError, match=r"model mine.* \./mine"):
        resolve(*fields_of(model="mine"))
    assert resolve(*fields_of(model="vit-50k", teacher="mine")).spec.teacher == plain[0].run_id


def test_fields_alone_are_enough():
    fields, args = parse_pretrain(["--source=digits", "--model=vit-30k"], None)
    assert isinstance(fields, PretrainFields)
    assert resolve(fields).run_id == resolve(fields, args).run_id


def test_a_model_that_cannot_take_the_images_is_refused_before_any_is_read(monkeypatch):
    monkeypatch.setattr("hf_scaling.data.sources.open_store", lambda *args: pytest.fail("an image was read"))
    with pytest.raises(InputError, match="vgg11 on pixel_values of 3 x 8 x 8"):
        resolve(*fields_of(model="vgg11", patch_size=None))
