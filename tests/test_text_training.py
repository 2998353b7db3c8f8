"""A run on text from its configuration to its checkpoint, its folder and its row."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from texts import write_texts
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    pipeline,
)

from hf_scaling import models
from hf_scaling.data.text import open_text
from hf_scaling.distillation import DistillationArguments, DistillationTrainer
from hf_scaling.errors import InputError
from hf_scaling.results import SCHEMA, ResultsTable, same_values
from hf_scaling.tasks import collate, find
from hf_scaling.tasks.causal_lm import TextInputs
from hf_scaling.tasks.streams import Windows, WindowStream
from hf_scaling.training import parse_finetune, parse_pretrain, resolve, train

SUPPORT = Path(__file__).parent / "support"
RECIPES = Path(__file__).parents[1] / "recipes"
RULE = ["--task=causal_lm", "--per_device_train_batch_size=8", "--learning_rate=3e-3", "--max_steps=12"]
QUIET = ["--report_to=none", "--disable_tqdm=true", "--logging_strategy=no", "--per_device_eval_batch_size=16"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("text") / "upstream")


@pytest.fixture(scope="module")
def others(tmp_path_factory):
    return write_texts(tmp_path_factory.mktemp("text") / "downstream", seed=1)


def run_pretrain(folder, source, *argv):
    given = [*RULE, *QUIET, f"--source={source}", "--context=32", f"--output_dir={folder}"]
    return train(resolve(*parse_pretrain([*given, *argv], None)))


def run_finetune(folder, source, parent, *argv):
    given = [*RULE, *QUIET, f"--source={source}", f"--checkpoint={parent}", f"--output_dir={folder}"]
    return train(resolve(*parse_finetune([*given, *argv], None)))


@pytest.fixture(scope="module")
def plain(texts, tmp_path_factory):
    """A model pretrained on 4,000 tokens."""
    return run_pretrain(tmp_path_factory.mktemp("runs") / "plain", texts, "--n_pretrain=4000", "--save_strategy=no")


def test_the_row_counts_tokens(plain):
    _, row = plain
    assert list(row) == list(SCHEMA)
    expected = {
        "task": "causal_lm",
        "stage": "pretrain",
        "arm": "plain",
        "model": "lm-100k",
        "n_params": 116_544,
        "n_pretrain": 4_000,
        "n_finetune": 0,
        "image_size": None,
        "upstream": "upstream",
        "eval_split": "test",
        "samples_seen": 12 * 8 * 32,
        "precision": "fp32",
    }
    assert {name: row[name] for name in expected} == expected
    assert row["train_flops"] == pytest.approx(12 * 8 * 32 * 6 * 116_544, rel=0.25)
    # Better than chance, not perfect.
    assert 0 < row["loss"] < np.log(257)
    assert 0 < row["error"] < 1


def test_the_folder_has_a_model_that_generates_text(plain):
    folder, row = plain
    assert ResultsTable.load(folder).rows() == [row]
    assert (AutoTokenizer.from_pretrained(folder).model_max_length, row["task"]) == (32, "causal_lm")
    written = pipeline("text-generation", model=str(folder))("the old", max_new_tokens=4, do_sample=False)
    assert written[0]["generated_text"].startswith("the old")
    _, head, body = (folder / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(head)["pipeline_tag"] == "text-generation"
    assert f"{row['n_params']:,}" in body
    assert "$" not in body


def test_the_loss_is_that_of_transformers_on_the_same_tokens(plain, texts):
    folder, row = plain
    source, model = open_text(texts, progress=False), AutoModelForCausalLM.from_pretrained(folder)
    tokens = torch.from_numpy(source.test.read())
    total, context = 0.0, 32
    with torch.no_grad():
        for start in range(0, len(tokens) - 1, context):
            window = tokens[start : start + context + 1][None]
            total += model(input_ids=window, labels=window).loss.double().item() * (window.shape[1] - 1)
    assert row["n_eval"] == len(tokens) - 1
    assert row["loss"] == pytest.approx(total / row["n_eval"], rel=1e-5)


def test_training_takes_every_token_at_other_cuts_in_each_pass():
    tokens = np.arange(1_000)
    stream = WindowStream(tokens, 100, 30, 5, [10])
    batch = stream.__getitems__(list(range(10)))
    assert sorted(batch["input_ids"].flatten().tolist()) == list(range(1_000))
    assert torch.equal(batch["labels"][:, :-1], batch["input_ids"][:, 1:])
    starts = [sorted(stream.starts(np.arange(at, at + 10)) % 100) for at in (0, 10, 20)]
    assert len({tuple(cut) for cut in starts}) == 3
    assert len(Windows(tokens, 100)) == 9


def test_fine_tuning_starts_from_a_checkpoint(plain, others, tmp_path):
    folder, row = plain
    _, tuned = run_finetune(tmp_path / "tuned", others, folder, "--n_finetune=2000", "--save_strategy=no")
    inherited = ("model", "n_pretrain", "upstream", "arm", "n_params")
    assert {name: tuned[name] for name in inherited} == {name: row[name] for name in inherited}
    assert (tuned["n_finetune"], tuned["downstream"], tuned["parent"]) == (2_000, "downstream", row["run_id"])
    resolved = yaml.safe_load((tmp_path / "tuned" / "run.yaml").read_text())
    assert resolved["overlap"] == {"training": 0, "upstream": 0, "duplicates": 0}


def test_low_rank_training_gives_a_plain_checkpoint(plain, others, tmp_path):
    pytest.importorskip("peft")
    folder, row = plain
    argv = ["--n_finetune=2000", "--train_part=lora", "--lora_rank=4", "--save_steps=5"]
    tuned, low_rank = run_finetune(tmp_path / "lora", others, folder, *argv)
    assert low_rank["n_params"] == row["n_params"]
    assert low_rank["train_flops"] < 0.8 * row["train_flops"]
    before, after = (models.load_language_model(path).state_dict() for path in (folder, tuned))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("norm" in name or "embed" in name for name in changed)


def test_patience_stops_where_the_held_out_text_gets_no_better(plain, others, tmp_path):
    folder, _ = plain
    looking = ["--eval_strategy=steps", "--eval_steps=2", "--save_strategy=steps", "--save_steps=2"]
    argv = ["--n_finetune=400", "--max_steps=200", "--learning_rate=3e-2", "--patience=2"]
    _, row = run_finetune(tmp_path / "t", others, folder, *argv, *looking, "--load_best_model_at_end=true")
    assert row["samples_seen"] < 200 * 8 * 32
    assert row["loss"] < np.log(257)
    with pytest.raises(InputError, match="patience"):
        run_finetune(tmp_path / "u", others, folder, "--patience=2")


def test_a_teacher_of_the_same_vocabulary_distils(plain, texts, tmp_path):
    folder, row = plain
    _, distilled = run_pretrain(
        tmp_path / "distilled", texts, "--n_pretrain=1000", f"--teacher={folder}", "--alpha=0.9"
    )
    assert (distilled["arm"], distilled["teacher"], distilled["teacher_n_pretrain"]) == (
        "distilled",
        row["run_id"],
        4_000,
    )
    assert distilled["teacher_loss"] == pytest.approx(row["loss"], rel=1e-6)
    assert 0 < distilled["agreement"] <= 1
    assert distilled["teacher_flops"] == pytest.approx(distilled["train_flops"] / 3)


def test_a_teacher_of_another_vocabulary_is_refused(plain):
    student = models.build_language_model("lm-100k", 100, 32)
    arguments = DistillationArguments(output_dir="unused", use_cpu=True, report_to="none")
    with pytest.raises(InputError, match=r"257.* 100"):
        DistillationTrainer(student, arguments, teacher=models.load_language_model(plain[0]))


def test_accumulated_batches_are_one_gradient(plain, tmp_path):
    """Accumulated batches and one batch of all are the same step; the labels are not shifted a second time."""
    tokens = np.arange(600) % 250
    weights = []
    for batch, parts in ((8, 1), (2, 4)):
        model = models.load_language_model(plain[0])
        arguments = DistillationArguments(
            output_dir=str(tmp_path), use_cpu=True, report_to="none", optim="sgd", learning_rate=0.1, max_steps=1,
            remove_unused_columns=False,
            per_device_train_batch_size=batch, gradient_accumulation_steps=parts, save_strategy="no",
            disable_tqdm=True,
        )  # fmt: skip
        before = model.state_dict()["gpt_neox.layers.0.attention.dense.weight"].clone()
        DistillationTrainer(model, arguments, train_dataset=Windows(tokens, 32), data_collator=collate).train()
        weights.append(model.state_dict()["gpt_neox.layers.0.attention.dense.weight"] - before)
    assert torch.allclose(*weights, rtol=1e-4, atol=1e-8)


def test_wrong_input_is_one_line(plain, texts, tmp_path):
    folder, _ = plain
    cases = [
        (lambda: run_pretrain(tmp_path / "a", texts, "--n_pretrain=99999999"), "99,999,999"),
        (lambda: run_pretrain(tmp_path / "b", texts, "--n_pretrain=20"), "33"),
        (lambda: run_pretrain(tmp_path / "c", texts, "--model=lm-1m"), "lm-1m"),
        (lambda: run_finetune(tmp_path / "d", texts, folder, "--context=64"), "context 64"),
        (lambda: run_pretrain(tmp_path / "e", texts, "--teacher=lm-10k"), "lm-100k"),
        (lambda: parse_pretrain(["--task=causal_lm", "--image_size=8"], None), "--image_size"),
        (lambda: parse_pretrain(["--task=causal"], None), "image_classification, causal_lm"),
        (lambda: train(resolve(*parse_finetune([f"--checkpoint={folder}"], None))), "causal_lm"),
    ]
    for act, words in cases:
        with pytest.raises(InputError) as caught:
            act()
        assert words in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_larger_than_its_model_is_refused(plain, texts, tmp_path):
    folder = tmp_path / "wrong"
    models.build_language_model("lm-100k", 200, 32).save_pretrained(folder)
    find("causal_lm").processor(None, TextInputs("bytes", 32)).save_pretrained(folder)
    with pytest.raises(InputError, match=r"257.* 200"):
        run_finetune(tmp_path / "tuned", texts, folder, "--n_finetune=100", "--n_pretrain=7")


@pytest.mark.slow
def test_two_processes_train_the_run_of_one(texts, tmp_path):
    argv = [*RULE, *QUIET, f"--source={texts}", "--context=32", "--n_pretrain=4000", "--save_strategy=no"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    halves = ["--per_device_train_batch_size=4", f"--output_dir={tmp_path / 'two'}"]
    done = subprocess.run(
        [*launch, RECIPES / "pretrain.py", *argv, *halves], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    fields, args = parse_pretrain([*argv, f"--output_dir={tmp_path / 'one'}"], RECIPES / "configs" / "demo.yaml")
    one, two = train(resolve(fields, args))[1], ResultsTable.load(tmp_path / "two").rows()[0]
    # The configuration of this task, in the file beside that of images.
    assert (fields.model, args.lr_scheduler_type) == ("lm-100k", "cosine")
    assert (one["run_id"], one["n_eval"], two["device"]) == (two["run_id"], two["n_eval"], "2 x cpu")
    assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)


@pytest.mark.slow
def test_a_killed_run_ends_as_an_undisturbed_one(texts, tmp_path):
    argv = [*RULE, *QUIET, f"--source={texts}", "--context=32", "--n_pretrain=4000", "--save_steps=3"]
    (tmp_path / "runs.json").write_text(json.dumps([["pretrain", str(tmp_path), ["save"], argv]]))
    command = [sys.executable, SUPPORT / "kills.py", tmp_path / "runs.json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == [1]
    one, other = tmp_path / "undisturbed", tmp_path / "killed"
    assert (one / "model.safetensors").read_bytes() == (other / "model.safetensors").read_bytes()
    assert same_values(*(ResultsTable.load(path).rows()[0] for path in (one, other)))


def test_the_rule_has_what_changes_the_weights(plain, texts):
    from hf_scaling.training.config import rule_of

    fields, args = parse_pretrain([*RULE, f"--source={texts}", "--context=32"], None)
    rule = rule_of(args, fields)
    assert rule_of(args, dataclasses.replace(fields, source="other", n_pretrain=3)) == rule
    assert rule_of(args, dataclasses.replace(fields, context=64)) != rule
    fields, args = parse_finetune([*RULE, "--checkpoint=x"], None)
    rule = rule_of(args, fields)
    assert rule_of(args, dataclasses.replace(fields, lora_rank=4)) == rule
    low_rank = dataclasses.replace(fields, train_part="lora")
    assert rule_of(args, low_rank) != rule_of(args, dataclasses.replace(low_rank, lora_rank=4))


# Of its own, because the Hub's address is read when huggingface_hub is imported.
TUNE = """
import json, sys
from hf_scaling.training import parse_finetune, resolve, train
_, row = train(resolve(*parse_finetune(json.loads(sys.argv[1]), None)))
print(json.dumps(row, default=str))
"""


@pytest.mark.hub
def test_a_step_of_a_ladder_on_the_hub_is_fine_tuned_by_its_revision(hub, others, tmp_path):
    losses = {}
    for step in (1, 2):
        model = models.build_language_model("lm-100k", 257, 32, seed=step)
        model.save_pretrained(tmp_path / f"step{step}")
        find("causal_lm").processor(model, TextInputs("bytes", 32)).save_pretrained(tmp_path / f"step{step}")
        files = {path.name: path.read_bytes() for path in (tmp_path / f"step{step}").iterdir()}
        repo = hub.add("models", "someone/pythia-tiny", files)
        repo.tags[f"step{step}"] = repo.head
    for step in (1, 2):
        argv = [*RULE, *QUIET, f"--source={others}", f"--checkpoint=someone/pythia-tiny@step{step}"]
        argv += ["--n_pretrain=2097152", "--n_finetune=1000", "--max_steps=1", "--learning_rate=1e-9"]
        argv += [f"--output_dir={tmp_path / f'tuned{step}'}", "--save_strategy=no"]
        done = subprocess.run(
            [sys.executable, "-c", TUNE, json.dumps(argv)],
            env=hub.environment(tmp_path / "hf"), capture_output=True, text=True, timeout=200,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        row = json.loads(done.stdout.splitlines()[-1])
        assert (row["model"], row["n_pretrain"]) == ("someone/pythia-tiny", 2_097_152)
        losses[step] = row["loss"]
        assert row["parent"] == f"someone/pythia-tiny@step{step}"
        # After a step of no size it scores what transformers says of the checkpoint as it was saved.
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"step{step}")
        tokens, total = torch.from_numpy(open_text(others, progress=False).test.read()), 0.0
        with torch.no_grad():
            for start in range(0, len(tokens) - 1, 32):
                window = tokens[start : start + 33][None]
                total += model(input_ids=window, labels=window).loss.item() * (window.shape[1] - 1)
        assert losses[step] == pytest.approx(total / (len(tokens) - 1), rel=1e-5)
    assert losses[1] != losses[2]


@pytest.mark.parametrize(
    "special",
    [
        {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"},
        {"eos_token": "</s>", "mask_token": "<mask>"},
        {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>"},
    ],
)
def test_a_checkpoint_keeps_its_special_tokens_and_generation_settings(tmp_path, special):
    added = sorted({*special.values(), "</s>"})
    names = [*added, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    given = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    given.save_pretrained(tmp_path / "parent")
    ids = {name: given.convert_tokens_to_ids(token) for name, token in special.items()}
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(names),
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=1,
            max_position_embeddings=32,
            bos_token_id=ids.get("bos_token"),
            eos_token_id=ids["eos_token"],
            pad_token_id=ids.get("pad_token"),
        )
    )
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(tmp_path / "parent")
    texts = write_texts(tmp_path / "texts")
    folder, _ = run_finetune(tmp_path / "out", texts, tmp_path / "parent", "--n_finetune=500")
    kept = AutoTokenizer.from_pretrained(folder)
    assert {name: getattr(kept, name) for name in special} == special
    config = AutoConfig.from_pretrained(folder)
    assert (config.bos_token_id, config.eos_token_id) == (ids.get("bos_token"), ids["eos_token"])
    assert GenerationConfig.from_pretrained(folder).max_new_tokens == 7
