"""The distillation loss as a function, its schedules and its settings."""

import math

import pytest
import torch
from torch.nn import functional as F
from transformers import HfArgumentParser, TrainingArguments

from hf_scaling.distillation import DistillationArguments, alpha_at, distillation_loss
from hf_scaling.errors import InputError


@pytest.fixture
def batch():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 5, requires_grad=True), 3 * torch.randn(6, 5)
    return student, teacher, torch.tensor([0, 1, 2, 3, 4, 0])


def test_identical_logits_have_distance_zero(batch):
    student, _, labels = batch
    parts = distillation_loss(student, student.detach(), labels, alpha=1.0, temperature=3.0)
    assert parts.distillation_loss.item() == 0
    parts.loss.backward()
    assert student.grad.abs().max() < 1e-7


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_alpha_zero_is_exactly_the_cross_entropy(batch, kind):
    student, teacher, labels = batch
    parts = distillation_loss(student, teacher, labels, alpha=0.0, kind=kind)
    assert torch.equal(parts.loss, F.cross_entropy(student, labels))
    assert torch.equal(distillation_loss(student, None, labels, alpha=0.7).loss, parts.loss)


def test_soft_is_the_mean_divergence_times_the_squared_temperature(batch):
    student, teacher, labels = batch
    parts = distillation_loss(student, teacher, labels, alpha=0.3, temperature=2.5)
    p, q = (teacher / 2.5).softmax(-1).double(), (student / 2.5).softmax(-1).double()
    divergence = 2.5**2 * (p * (p / q).log()).sum(-1).mean()
    assert parts.distillation_loss.item() == pytest.approx(divergence.item(), rel=1e-6)
    expected = 0.7 * parts.task_loss + 0.3 * parts.distillation_loss
    assert parts.loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_the_gradient_keeps_its_size_when_the_temperature_grows(batch):
    _, _, labels = batch
    norms = []
    for temperature in (10.0, 100.0):
        student = torch.zeros(6, 5, requires_grad=True)
        teacher = 0.1 * torch.arange(30.0).reshape(6, 5)
        distillation_loss(student, teacher, labels, alpha=1.0, temperature=temperature).loss.backward()
        norms.append(student.grad.norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.02)


def test_hard_is_the_cross_entropy_to_the_most_likely_class(batch):
    student, teacher, labels = batch
    parts = distillation_loss(student, teacher, labels, alpha=1.0, kind="hard")
    assert torch.equal(parts.loss, F.cross_entropy(student, teacher.argmax(-1)))


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_examples_labelled_minus_100_are_left_out(batch, kind):
    student, teacher, labels = batch
    masked = torch.where(torch.arange(6) < 4, labels, -100)
    some = distillation_loss(student, teacher, masked, alpha=0.5, kind=kind)
    first = distillation_loss(student[:4], teacher[:4], labels[:4], alpha=0.5, kind=kind)
    for part, expected in zip(some, first):
        assert part.item() == pytest.approx(expected.item(), rel=1e-6)
    empty = distillation_loss(student, teacher, torch.full((6,), -100), alpha=0.5, kind=kind)
    assert [part.item() for part in empty] == [0, 0, 0]


def test_micro_batches_add_up_to_the_batch(batch):
    student, teacher, labels = batch
    whole = distillation_loss(student, teacher, labels, alpha=0.5)
    pieces = [
        distillation_loss(student[rows], teacher[rows], labels[rows], alpha=0.5, num_items=6)
        for rows in (slice(0, 4), slice(4, 6))
    ]
    assert sum(part.loss.item() for part in pieces) == pytest.approx(whole.loss.item(), rel=1e-6)


def test_no_gradient_reaches_the_teacher(batch):
    student, teacher, labels = batch
    teacher.requires_grad_(True)
    distillation_loss(student, teacher, labels, alpha=0.5).loss.backward()
    assert teacher.grad is None


def test_shapes_that_do_not_fit_are_refused(batch):
    student, teacher, labels = batch
    with pytest.raises(InputError, match=r"teacher_logits.*\(6, 4\).*\(6, 5\)"):
        distillation_loss(student, teacher[:, :4], labels, alpha=0.5)
    with pytest.raises(InputError, match=r"labels.*float32"):
        distillation_loss(student, teacher, labels.float(), alpha=0.5)
    with pytest.raises(InputError, match=r"labels.*\(3,\)"):
        distillation_loss(student, teacher, labels[:3], alpha=0.5)


def test_schedules():
    assert [alpha_at("constant", 0.8, progress) for progress in (0, 0.5, 1)] == [0.8, 0.8, 0.8]
    assert [alpha_at("until_passed", 0.8, progress) for progress in (0, 1)] == [0.8, 0.8]
    assert [alpha_at("linear", 0.8, progress) for progress in (0, 0.25, 1)] == pytest.approx([0.8, 0.6, 0])
    quarter = 0.8 * (1 + math.cos(math.pi / 4)) / 2
    assert [alpha_at("cosine", 0.8, progress) for progress in (0, 0.25, 1)] == pytest.approx([0.8, quarter, 0])


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 1.5}, {"alpha": -0.1}, {"temperature": 0.0}, {"kind": "warm"}, {"alpha_schedule": "step"}],
)
def test_settings_out_of_range_are_refused_by_name(wrong, tmp_path):
    with pytest.raises(InputError, match=next(iter(wrong))):
        DistillationArguments(output_dir=str(tmp_path), **wrong)


def test_settings_are_parsed_from_a_command_line(tmp_path):
    line = ["--output_dir", str(tmp_path), "--alpha", "0.9", "--kind", "hard", "--alpha_schedule", "cosine"]
    (arguments,) = HfArgumentParser(DistillationArguments).parse_args_into_dataclasses(line)
    assert (arguments.alpha, arguments.kind, arguments.alpha_schedule) == (0.9, "hard", "cosine")
    own = set(vars(arguments)) - set(vars(TrainingArguments(output_dir=str(tmp_path))))
    assert own == {"alpha", "temperature", "kind", "alpha_schedule"}
