"""The configuration of a run: file, command line, types and refusals."""

import dataclasses

import pytest

from hf_scaling.errors import InputError
from hf_scaling.tasks.image_classification import ImageClassification, ImageInputs
from hf_scaling.training import parse_finetune, parse_pretrain
from hf_scaling.training.config import count_steps, describe, global_batch, holds_out, precision, rule_of


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "recipe.yaml"
        path.write_text(text)
        return path

    return write


def test_the_command_line_wins_over_the_file(write):
    path = write("model: vit-50k\nlearning_rate: 1e-3\nn_pretrain: 500\n")
    fields, args = parse_pretrain(["--n_pretrain", "700", "--weight_decay=.1"], path)
    assert (fields.model, fields.n_pretrain) == ("vit-50k", 700)
    assert (args.learning_rate, args.weight_decay) == (1e-3, 0.1)


def test_config_names_another_file(write, tmp_path):
    (tmp_path / "other.yaml").write_text("model: vit-100k")
    fields, _ = parse_pretrain(["--config", str(tmp_path / "other.yaml")], write("model: vit-50k"))
    assert fields.model == "vit-100k"


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-3", 1e-3), ("1.0e-3", 1e-3), ("0.001", 1e-3), ("3", 3.0), ("'1e-3'", 1e-3)],
)
def test_a_rate_is_a_float_however_it_is_written(write, text, value):
    _, args = parse_pretrain([], write(f"learning_rate: {text}"))
    assert isinstance(args.learning_rate, float)
    assert args.learning_rate == value


def test_null_lists_and_dicts_are_values(write):
    text = "teacher: null\naugmentation: [flip, shift]\nlr_scheduler_kwargs: {num_cycles: 0.5}\nskip_corrupt: true"
    fields, args = parse_pretrain([], write(text))
    assert (fields.teacher, fields.augmentation, fields.skip_corrupt) == (None, ["flip", "shift"], True)
    assert args.lr_scheduler_kwargs == {"num_cycles": 0.5}
    fields, _ = parse_pretrain(["--teacher", "none", "--augmentation", "none"], write("augmentation: [flip]"))
    assert (fields.teacher, fields.augmentation) == (None, [])


@pytest.mark.parametrize(
    ("text", "argv", "background"),
    [("seed: 0", [], None), ("background: '#808080'", [], "#808080"), ("seed: 0", ["--background", "#0f0"], "#0f0")],
)
def test_a_background_reaches_the_source(write, text, argv, background):
    fields, _ = parse_pretrain(argv, write(text))
    task = ImageClassification()
    inputs = ImageInputs(28)
    assert task.source_arguments(fields, inputs, None)["background"] == background


@pytest.mark.parametrize(
    ("text", "argv", "named"),
    [
        ("learning_rat: 1e-3", [], ["recipe.yaml", "learning_rat", "learning_rate"]),
        ("n_pretrain: many", [], ["recipe.yaml", "n_pretrain", "many"]),
        ("kind: warm", [], ["recipe.yaml", "kind", "soft", "hard"]),
        ("[model", [], ["recipe.yaml", "line 1"]),
        ("- model", [], ["recipe.yaml"]),
        ("model: vit-50k", ["--modle", "x"], ["--modle", "model"]),
        ("model: vit-50k", ["stray"], ["stray"]),
        ("model: vit-50k", ["--seed", "1.5"], ["seed", "1.5"]),
        ("model: vit-50k", ["--alpha", "2"], ["alpha 2.0"]),
        ("model: vit-50k", ["--load_best_model_at_end", "--save_steps=5", "--eval_steps=5"], ["strategy"]),
        ("model: vit-50k", ["--config", "absent.yaml"], ["absent.yaml"]),
    ],
)
def test_unknown_names_and_wrong_values_are_refused(write, text, argv, named):
    with pytest.raises(InputError) as caught:
        parse_pretrain(argv, write(text))
    for word in named:
        assert word in str(caught.value)


def test_finetuning_has_no_distillation_fields_and_takes_the_shape_of_a_new_model_alone():
    for flag in ("--alpha", "--teacher"):
        with pytest.raises(InputError, match=flag):
            parse_finetune([flag, "1"], None)
    with pytest.raises(InputError, match="patch_size"):
        parse_finetune(["--patch_size", "8"], None)
    fields, _ = parse_finetune(["--patch_size", "8", "--model", "vit-30k"], None)
    assert (fields.patch_size, fields.is_new_model) == (8, True)


def test_help_shows_an_example(capsys):
    for parse, name in ((parse_pretrain, "pretrain.py"), (parse_finetune, "finetune.py")):
        with pytest.raises(SystemExit) as caught:
            parse(["--help"], None)
        assert caught.value.code == 0
        assert f"example: accelerate launch recipes/{name}" in " ".join(capsys.readouterr().out.split())


def test_steps_follow_the_images_but_are_at_least_min_steps():
    _, args = parse_pretrain(["--num_train_epochs", "8", "--per_device_train_batch_size", "128"], None)
    assert [count_steps(args, n, 400) for n in (250, 4000, 8000, 64_000)] == [400, 400, 500, 4000]
    _, args = parse_pretrain(["--max_steps", "7"], None)
    assert count_steps(args, 64_000, 400) == 7
    _, args = parse_pretrain(["--num_train_epochs", "0"], None)
    with pytest.raises(InputError, match="num_train_epochs"):
        count_steps(args, 1000, 0)


def test_the_rule_has_what_changes_the_weights_and_only_that():
    fields, args = parse_pretrain(["--gradient_accumulation_steps", "2"], None)
    rule = rule_of(args, fields)
    assert rule["batch"] == global_batch(args) == 16
    for same in ({"output_dir": "x"}, {"logging_steps": 3}, {"seed": 9}, {"dataloader_num_workers": 2}):
        assert rule_of(dataclasses.replace(args, **same), fields) == rule
    split = {"per_device_train_batch_size": 16, "gradient_accumulation_steps": 1}
    assert rule_of(dataclasses.replace(args, **split), fields) == rule
    for other in ({"learning_rate": 1.0}, {"weight_decay": 1.0}, {"lr_scheduler_type": "cosine"}, {"bf16": True}):
        assert rule_of(dataclasses.replace(args, **other), fields) != rule
    assert rule_of(args, dataclasses.replace(fields, augmentation=["flip"])) != rule
    assert rule_of(args, dataclasses.replace(fields, model="vit-30k", n_pretrain=3, teacher="vit-30k")) == rule


def test_a_run_that_is_evaluated_during_training_holds_out_a_validation_part():
    assert not holds_out(parse_pretrain([], None)[1])
    assert holds_out(parse_pretrain(["--eval_strategy", "steps", "--eval_steps", "10"], None)[1])


def test_precision_is_the_type_of_the_computation(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert precision(parse_pretrain([], None)[1]) == "fp32"
    assert precision(parse_pretrain(["--bf16"], None)[1]) == "bf16"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert precision(parse_pretrain([], None)[1]) == "bf16"


def test_the_recorded_configuration_reads_back_as_the_same(write):
    import yaml

    fields, args = parse_pretrain(["--learning_rate=2e-3", "--lr_scheduler_type=cosine", "--model=vit-50k"], None)
    described = describe(fields, args)
    assert "hub_token" not in described["training_arguments"]
    path = write(yaml.safe_dump(described["fields"] | described["training_arguments"]))
    again = parse_pretrain([], path)
    assert (describe(*again), rule_of(again[1], again[0])) == (described, rule_of(args, fields))
