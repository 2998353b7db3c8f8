"""The Trainer: equal gradients for any micro-batches and processes, checkpoints, resuming, the teacher's state."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tiny import N_CLASSES, STUDENTS, Images, native_vit, timm_vit
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_scaling import models
from hf_scaling.distillation import DistillationArguments, DistillationTrainer
from hf_scaling.errors import InputError

SUPPORT = Path(__file__).parent / "support"


def arguments(folder, **changes):
    quiet = {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "logging_steps": 1}
    return DistillationArguments(output_dir=str(folder), **{**quiet, **changes})


class KeepGradients(TrainerCallback):
    def on_pre_optimizer_step(self, args, state, control, model=None, **kwargs):
        self.gradients = {name: value.grad.clone() for name, value in model.named_parameters()}


def one_step(folder, student, teacher, batch, accumulation, **changes):
    keep = KeepGradients()
    settings = {"optim": "sgd", "learning_rate": 0.1, "max_grad_norm": 0.0, "max_steps": 1, **changes}
    trainer = DistillationTrainer(
        STUDENTS[student](seed=1),
        arguments(folder, per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, **settings),
        teacher=None if teacher is None else STUDENTS[teacher](seed=2),
        train_dataset=Images(29),
        callbacks=[keep],
    )
    trainer.train()
    return keep.gradients, trainer.model.state_dict(), trainer.state.log_history[0]


@pytest.mark.parametrize(
    ("teacher", "kind"), [(None, "soft"), ("native", "soft"), ("native", "hard"), ("timm", "soft"), ("timm", "hard")]
)
@pytest.mark.parametrize("student", ["native", "timm"])
def test_accumulated_uneven_batches_equal_the_full_batch(student, teacher, kind, tmp_path):
    whole = one_step(tmp_path, student, teacher, 29, 1, kind=kind)
    cut = one_step(tmp_path, student, teacher, 8, 4, kind=kind)  # 8, 8, 8 and 5 images
    largest = max(gradient.abs().max() for gradient in whole[0].values())
    for name, gradient in whole[0].items():
        assert (cut[0][name] - gradient).abs().max() <= 1e-6 * largest, name
        assert (cut[1][name] - whole[1][name]).abs().max() <= 1e-6, name
    for part in {"loss", "task_loss", "distillation_loss", "alpha"} & whole[2].keys():
        assert cut[2][part] == pytest.approx(whole[2][part], abs=1e-5)


def test_training_without_a_teacher_is_that_of_transformers(tmp_path):
    weights = []
    for trainer_class, settings in ((DistillationTrainer, arguments), (Trainer, None)):
        make = settings or (
            lambda folder, **kw: TrainingArguments(
                str(folder), use_cpu=True, save_strategy="no", disable_tqdm=True, **kw
            )
        )
        trainer = trainer_class(
            native_vit(1),
            make(tmp_path, optim="sgd", learning_rate=0.1, num_train_epochs=2),
            train_dataset=Images(24),
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-6), name


def test_two_processes_equal_one(tmp_path):
    out = tmp_path / "two.pt"
    path = os.pathsep.join([str(SUPPORT.parents[1]), *sys.path])
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}
    command = [sys.executable, str(SUPPORT / "two_processes.py"), str(out)]
    subprocess.run(command, check=True, env=environment, capture_output=True, timeout=300)
    from two_processes import train_all

    one, two = train_all(), torch.load(out)
    assert len(one["timm native until_passed"]["teacher_losses"]) == 1
    for name, expected in one.items():
        for weight, value in expected["weights"].items():
            assert (two[name]["weights"][weight] - value).abs().max() <= 1e-6, (name, weight)
        assert two[name]["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-6)
        assert two[name]["teacher_losses"] == pytest.approx(expected["teacher_losses"], abs=1e-6)
        assert two[name]["logs"] == pytest.approx(expected["logs"], abs=1e-5)


def test_the_evaluation_loss_is_the_cross_entropy_whatever_the_batches(tmp_path):
    student, images = timm_vit(1), Images(21, seed=5)
    expected = nn.functional.cross_entropy(student.eval()(images.pixels).logits, images.labels).item()
    for size in (1, 8, 21):
        trainer = DistillationTrainer(
            student,
            arguments(tmp_path, per_device_eval_batch_size=size, label_smoothing_factor=0.1),
            teacher=native_vit(2),
            eval_dataset=images,
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(expected, abs=1e-6)
    predictions = trainer.predict(images).predictions
    assert predictions.shape == (21, N_CLASSES)  # the student's logits alone


def test_label_smoothing_is_that_of_transformers(tmp_path):
    losses = []
    for trainer_class, argument_class in ((DistillationTrainer, DistillationArguments), (Trainer, TrainingArguments)):
        settings = argument_class(
            str(tmp_path), use_cpu=True, disable_tqdm=True, save_strategy="no", label_smoothing_factor=0.2, max_steps=1
        )
        trainer = trainer_class(timm_vit(1), settings, train_dataset=Images(8))
        losses.append(trainer.train().training_loss)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_the_operations_of_a_run_are_counted(tmp_path):
    student = timm_vit(1)
    trainer = DistillationTrainer(
        student, arguments(tmp_path, num_train_epochs=2), teacher=native_vit(2), train_dataset=Images(21)
    )
    trainer.train()
    assert trainer.state.total_flos == 2 * 21 * 3 * models.forward_flops(student, 8)


class Dropping(nn.Module):
    """A teacher whose logits would differ in training mode, and whose buffers would drift."""

    def __init__(self):
        super().__init__()
        self.norm, self.drop = nn.BatchNorm2d(3), nn.Dropout(0.5)
        self.head = nn.Linear(3, N_CLASSES)
        self.calls = []

    def forward(self, pixel_values):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return {"logits": self.head(self.drop(self.norm(pixel_values)).mean((2, 3)))}


def test_the_teacher_is_frozen_in_evaluation_mode_and_in_no_checkpoint(tmp_path):
    teacher = Dropping()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student = timm_vit(1)
    trainer = DistillationTrainer(
        student, arguments(tmp_path, save_strategy="epoch"), teacher=teacher, train_dataset=Images(24)
    )
    trainer.train()
    assert set(teacher.calls) == {(False, False)}
    assert len(teacher.calls) == 9
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    optimised = {id(weight) for group in trainer.optimizer.param_groups for weight in group["params"]}
    assert optimised == {id(weight) for weight in student.parameters()}
    saved = load_file(tmp_path / "checkpoint-9" / "model.safetensors")
    assert sum(value.numel() for value in saved.values()) == models.count_params(student)


@pytest.mark.parametrize("schedule", ["constant", "linear"])
def test_the_parts_are_logged_and_add_up(schedule, tmp_path):
    trainer = DistillationTrainer(
        timm_vit(1),
        arguments(tmp_path, alpha=0.6, alpha_schedule=schedule, max_steps=4),
        teacher=native_vit(2),
        train_dataset=Images(64),
    )
    trainer.train()
    logs = [entry for entry in trainer.state.log_history if "task_loss" in entry]
    alphas = [0.6, 0.6, 0.6, 0.6] if schedule == "constant" else [0.6, 0.45, 0.3, 0.15]
    assert len(logs) == 4
    assert [entry["alpha"] for entry in logs] == pytest.approx(alphas)
    for entry in logs:
        mixed = (1 - entry["alpha"]) * entry["task_loss"] + entry["alpha"] * entry["distillation_loss"]
        assert entry["loss"] == pytest.approx(mixed, abs=1e-5)


def test_a_student_larger_than_its_teacher_learns_from_it(tmp_path):
    teacher = native_vit(2, width=8)
    plain = DistillationTrainer(
        teacher, arguments(tmp_path, num_train_epochs=15, learning_rate=3e-3), train_dataset=Images(128)
    )
    plain.train()
    student = timm_vit(1)
    assert models.count_params(student) > 10 * models.count_params(teacher)
    images = Images(64, seed=7)
    trainer = DistillationTrainer(
        student,
        arguments(tmp_path, num_train_epochs=15, learning_rate=3e-3, alpha=1.0),
        teacher=teacher,
        train_dataset=Images(128),
    )

    def agreement():
        with torch.no_grad():
            classes = [model.eval()(images.pixels).logits.argmax(-1) for model in (student, teacher)]
        return (classes[0] == classes[1]).float().mean().item()

    before = agreement()
    trainer.train()
    assert agreement() > max(0.9, before)


def test_bf16_applies_to_student_and_teacher(tmp_path):
    seen = []
    teacher = timm_vit(2)
    teacher.timm_model.blocks[0].mlp.fc1.register_forward_hook(lambda layer, args, out: seen.append(out.dtype))
    trainer = DistillationTrainer(
        native_vit(1), arguments(tmp_path, bf16=True, max_steps=3), teacher=teacher, train_dataset=Images(24)
    )
    loss = trainer.train().training_loss
    assert 0.5 < loss < 3
    assert set(seen) == {torch.bfloat16}
    assert all(weight.dtype == torch.float32 for weight in trainer.model.parameters())


@pytest.mark.parametrize("student", ["native", "timm"])
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(student, tmp_path):
    def run(resume):
        trainer = DistillationTrainer(
            STUDENTS[student](seed=1 if not resume else 7),
            arguments(tmp_path, save_strategy="steps", save_steps=4, num_train_epochs=3, alpha_schedule="cosine"),
            teacher=timm_vit(2),
            train_dataset=Images(22),
        )
        trainer.train(resume_from_checkpoint=resume)
        return trainer.model.state_dict()

    uninterrupted = run(None)
    resumed = run(str(tmp_path / "checkpoint-4"))
    assert all(torch.equal(value, uninterrupted[name]) for name, value in resumed.items())


def test_the_best_model_is_loaded_completely(tmp_path):
    trainer = DistillationTrainer(
        native_vit(1),
        arguments(
            tmp_path,
            save_strategy="epoch",
            eval_strategy="epoch",
            load_best_model_at_end=True,
            num_train_epochs=6,
            learning_rate=3e-2,
        ),
        train_dataset=Images(16, noise=4.0),
        eval_dataset=Images(32, seed=5, noise=4.0),
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert min(losses) < losses[-1]  # the last is not the best, so there is something to load
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), abs=1e-6)


class TestUntilPassed:
    def trainer(self, folder, teacher, seed=1, epochs=12):
        settings = arguments(
            folder,
            alpha_schedule="until_passed",
            eval_strategy="epoch",
            save_strategy="epoch",
            num_train_epochs=epochs,
            learning_rate=3e-3,
        )
        return DistillationTrainer(
            timm_vit(seed), settings, teacher=teacher, train_dataset=Images(32), eval_dataset=Images(32, seed=5)
        )

    def test_distillation_ends_when_the_student_is_ahead(self, tmp_path):
        teacher = Dropping()  # untrained: a loss near log(4)
        trainer = self.trainer(tmp_path, teacher)
        trainer.train()
        evaluations = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
        images = Images(32, seed=5)
        teacher_loss = nn.functional.cross_entropy(teacher(images.pixels)["logits"], images.labels).item()
        passed = next(entry["step"] for entry in evaluations if entry["eval_loss"] < teacher_loss)
        logs = [entry for entry in trainer.state.log_history if "task_loss" in entry]
        assert 4 <= passed < 44
        for entry in logs:
            distilled = entry["step"] <= passed
            assert (entry["distillation_loss"] > 0) == distilled
            if not distilled:
                assert entry["alpha"] == 0
                assert entry["loss"] == pytest.approx(entry["task_loss"])

    def test_a_resumed_run_does_not_distil_again(self, tmp_path):
        first = self.trainer(tmp_path, Dropping())
        first.train()
        last = sorted(tmp_path.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))[-2]
        teacher = Dropping()
        resumed = self.trainer(tmp_path, teacher, seed=7)
        resumed.train(resume_from_checkpoint=str(last))
        assert teacher.calls == []
        pairs = zip(resumed.model.state_dict().values(), first.model.state_dict().values())
        assert all(torch.equal(a, b) for a, b in pairs)

    def test_it_needs_one_validation_part(self, tmp_path):
        settings = {"alpha_schedule": "until_passed"}
        with pytest.raises(InputError, match=r"until_passed.*eval_dataset.*eval_strategy"):
            DistillationTrainer(
                timm_vit(), arguments(tmp_path, **settings), teacher=timm_vit(2), eval_dataset=Images(8)
            )
        with pytest.raises(InputError, match=r"until_passed.*eval_dataset"):
            DistillationTrainer(
                timm_vit(),
                arguments(tmp_path, eval_strategy="epoch", **settings),
                teacher=timm_vit(2),
                eval_dataset={"a": Images(8)},
            )


def test_settings_that_would_be_ignored_are_refused(tmp_path):
    student = timm_vit()
    with pytest.raises(InputError, match="DistillationArguments"):
        DistillationTrainer(student, TrainingArguments(str(tmp_path), use_cpu=True))
    with pytest.raises(InputError, match="compute_loss_func"):
        DistillationTrainer(student, arguments(tmp_path), compute_loss_func=lambda *args, **kw: 0)
    with pytest.raises(InputError, match=r"^teacher"):
        DistillationTrainer(student, arguments(tmp_path), teacher=student)
