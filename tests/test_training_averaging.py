"""The average of a run's last weights: what it holds, where it is used, and that it survives a resume."""

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from hf_scaling.errors import InputError
from hf_scaling.training import parse_finetune, parse_pretrain, resolve, train
from hf_scaling.training.averaging import Averaging, WeightAverage

TINY = ["--model=vit-30k", "--max_steps=12", "--per_device_train_batch_size=32", "--learning_rate=1e-2"]
QUIET = ["--report_to=none", "--disable_tqdm=true", "--logging_strategy=no", "--source=digits", "--n_pretrain=100"]


def run_pretrain(folder, *argv):
    return train(resolve(*parse_pretrain([*TINY, *QUIET, f"--output_dir={folder}", *argv], None)))


def weights_of(folder):
    return load_file(folder / "model.safetensors")


@pytest.fixture
def steps_seen(monkeypatch):
    """The weights after each step of the runs of a test."""
    seen, update = [], WeightAverage.update

    def record(self, step, max_steps):
        seen.append({name: weight.detach().clone() for name, weight in self._weights.items()})
        update(self, step, max_steps)

    monkeypatch.setattr(WeightAverage, "update", record)
    return seen


def assert_close(weights, expected):
    for name, weight in expected.items():
        torch.testing.assert_close(weights[name], weight, rtol=1e-5, atol=1e-6)


def test_a_tail_is_the_mean_of_the_last_weights(tmp_path, steps_seen):
    run_pretrain(tmp_path, "--averaging=tail:0.25")
    assert len(steps_seen) == 12
    last = steps_seen[9:]
    assert_close(weights_of(tmp_path), {name: sum(step[name] for step in last) / 3 for name in last[0]})
    assert "tail:0.25" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_an_ema_forgets_at_its_decay(tmp_path, steps_seen):
    run_pretrain(tmp_path, "--averaging=ema:0.8")
    expected, n = steps_seen[0], 1
    for step in steps_seen[1:]:
        share = max(1 - 0.8, 1 / (n + 1))
        expected = {name: (1 - share) * expected[name] + share * weight for name, weight in step.items()}
        n += 1
    assert_close(weights_of(tmp_path), expected)


def test_training_itself_is_the_same(tmp_path, steps_seen):
    run_pretrain(tmp_path / "ema", "--averaging=ema:0.5")
    run_pretrain(tmp_path / "tail", "--averaging=tail:0.1")
    run_pretrain(tmp_path / "plain")
    for name, weight in weights_of(tmp_path / "plain").items():
        if name in steps_seen[11]:
            assert torch.equal(weight, steps_seen[11][name]) and torch.equal(weight, steps_seen[23][name])
    # A tenth of twelve steps is the last one.
    assert torch.equal(
        weights_of(tmp_path / "tail")["timm_model.head.weight"], steps_seen[23]["timm_model.head.weight"]
    )


def test_selection_evaluates_and_keeps_the_average(tmp_path, monkeypatch):
    from hf_scaling.training.trainer import RunTrainer

    losses, evaluate = {}, RunTrainer.evaluate

    def record(self, *args, **kwargs):
        metrics = evaluate(self, *args, **kwargs)
        losses[self.state.global_step] = metrics["eval_loss"]
        best.append((self.state.global_step, {k: v.clone() for k, v in self._average._average.items()}))
        return metrics

    best = []
    monkeypatch.setattr(RunTrainer, "evaluate", record)
    selection = ["--eval_strategy=steps", "--eval_steps=3", "--save_steps=3", "--load_best_model_at_end=true"]
    _, averaged = run_pretrain(tmp_path / "averaged", "--averaging=ema:0.9", *selection)
    step = min(losses, key=losses.get)
    assert_close(weights_of(tmp_path / "averaged"), dict(best)[step])
    monkeypatch.undo()
    _, plain = run_pretrain(tmp_path / "plain", *selection)
    assert averaged["loss"] != plain["loss"] and averaged["recipe"] != plain["recipe"]


def test_it_is_part_of_the_id_and_absent_it_changes_none():
    def resolved(*argv):
        return resolve(*parse_pretrain([*TINY, *QUIET, *argv], None))

    plain, tail = resolved(), resolved("--averaging=tail:0.2")
    assert "averaging" not in plain.spec.rule
    assert tail.run_id != plain.run_id
    assert tail.run_id == resolved("--averaging=tail:0.20").run_id
    assert resolved("--averaging=ema:0.2").run_id != tail.run_id
    teacher = resolved("--averaging=tail:0.2", "--teacher=vit-30k").teacher
    assert teacher.spec.rule["averaging"] == "tail:0.2"


@pytest.mark.parametrize(
    "text", ["tail", "tail:0", "tail:1.5", "ema:1", "ema:0", "mean:0.5", "tail:x", "tail:nan", ""]
)
def test_what_is_no_average_is_refused(text):
    with pytest.raises(InputError, match="averaging"):
        resolve(*parse_pretrain([*TINY, *QUIET, f"--averaging={text}"], None))


def test_a_tail_is_not_selected_from():
    selection = ["--eval_strategy=steps", "--eval_steps=3", "--save_steps=3"]
    best = [*selection, "--load_best_model_at_end=true"]
    for argv in (best, [*best, "--patience=2"]):
        with pytest.raises(InputError, match=r"averaging tail:0\.25"):
            resolve(*parse_pretrain([*TINY, *QUIET, *argv, "--averaging=tail:0.25"], None))
    for argv in ([*best, "--averaging=ema:0.9"], [*selection, "--averaging=tail:0.25"]):
        assert "averaging" in resolve(*parse_pretrain([*TINY, *QUIET, *argv], None)).spec.rule


def test_the_whole_run_can_be_averaged():
    assert Averaging.parse("tail:1") == Averaging("tail", 1.0)


def test_fine_tuning_averages_what_it_trains(tmp_path, steps_seen):
    run_pretrain(tmp_path / "parent")
    argv = [*TINY[1:], *QUIET[:-1], "--n_finetune=50", "--train_part=head", "--averaging=tail:0.5"]
    train(
        resolve(
            *parse_finetune([*argv, f"--checkpoint={tmp_path / 'parent'}", f"--output_dir={tmp_path / 'r'}"], None)
        )
    )
    tuned, parent = weights_of(tmp_path / "r"), weights_of(tmp_path / "parent")
    assert set(steps_seen[0]) == {"timm_model.head.weight", "timm_model.head.bias"}
    assert_close(tuned, {name: sum(step[name] for step in steps_seen[6:]) / 6 for name in steps_seen[0]})
    assert torch.equal(tuned["timm_model.patch_embed.proj.weight"], parent["timm_model.patch_embed.proj.weight"])


class Normed(nn.Module):
    """A linear layer after a batch norm."""

    def __init__(self):
        super().__init__()
        self.norm, self.linear = nn.BatchNorm1d(2), nn.Linear(2, 1)

    def forward(self, x):
        return self.linear(self.norm(x))


def test_batch_norm_takes_its_statistics_from_training_batches():
    torch.manual_seed(0)
    model, x = Normed(), torch.randn(40, 2) * 3 + 5
    average = WeightAverage(model, Averaging("tail", 1.0), lambda: [{"x": part} for part in x.split(10)])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    average.update(1, 2)
    with torch.no_grad():
        model.linear.weight += 2
    average.update(2, 2)
    trained = {name: value.clone() for name, value in model.state_dict().items()}
    with average.applied():
        torch.testing.assert_close(model.norm.running_mean, x.mean(0))
        torch.testing.assert_close(model.linear.weight, before["linear.weight"] + 1)
    assert all(torch.equal(value, trained[name]) for name, value in model.state_dict().items())
    assert model.training and model.norm.momentum == 0.1
    average.apply()
    torch.testing.assert_close(model.norm.running_mean, x.mean(0))


def test_an_average_is_saved_and_loaded_exactly(tmp_path):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    one, other = (WeightAverage(model, Averaging("ema", 0.9), list) for _ in range(2))
    other_empty = WeightAverage(model, Averaging("tail", 0.1), list)
    other_empty.update(1, 100)
    other_empty.save(tmp_path)
    other.load(tmp_path)
    assert other.n_steps == 0
    for step in range(1, 4):
        with torch.no_grad():
            model.weight += torch.randn(2, 3)
        one.update(step, 10)
    one.save(tmp_path)
    other.load(tmp_path)
    assert other.n_steps == 3
    for average in (one, other):
        average.update(4, 10)
    one.apply()
    first = model.weight.detach().clone()
    other.apply()
    assert torch.equal(first, model.weight)
