"""A teacher of another image size, other image statistics, another class order, other classes."""

import pytest
import torch
from tiny import IMAGE_SIZE, N_CLASSES, Images, native_vit, timm_vit
from torch.nn import functional as F

from hf_scaling import models
from hf_scaling.distillation import DistillationArguments, DistillationTrainer, Teacher
from hf_scaling.errors import InputError
from hf_scaling.models import ImageStatistics

STUDENT_STATISTICS = ImageStatistics((0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
TEACHER_STATISTICS = ImageStatistics((0.1, 0.2, 0.3), (1.0, 0.5, 0.25))


@pytest.fixture
def pixels():
    """Raw images, 0..1."""
    return torch.rand(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=torch.Generator().manual_seed(0))


def normalised(pixels, statistics):
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (statistics.mean, statistics.std))
    return (pixels - mean) / std


def test_other_image_statistics_are_converted(pixels):
    teacher = timm_vit(2)
    adapted = Teacher(teacher, TEACHER_STATISTICS).adapt_to(timm_vit(1), STUDENT_STATISTICS)
    logits = adapted(pixel_values=normalised(pixels, STUDENT_STATISTICS))
    assert torch.allclose(logits, teacher(normalised(pixels, TEACHER_STATISTICS)).logits, atol=1e-5)


def test_statistics_of_the_teacher_alone_are_refused():
    with pytest.raises(InputError, match="processing_class"):
        Teacher(timm_vit(2), TEACHER_STATISTICS).adapt_to(timm_vit(1))


def test_a_teacher_of_another_image_size_sees_resized_images(pixels):
    teacher = native_vit(2, image_size=16).eval()
    logits = Teacher(teacher).adapt_to(timm_vit(1))(pixel_values=pixels)
    resized = F.interpolate(pixels, size=(16, 16), mode="bilinear", antialias=True)
    assert torch.equal(logits, teacher(resized).logits)


def named(model, names):
    models.name_classes(model, names)
    return model


def test_another_class_order_is_matched_by_name(pixels):
    student, teacher = (
        named(timm_vit(1), ["cat", "dog", "ant", "bee"]),
        named(timm_vit(2), ["bee", "cat", "dog", "ant"]),
    )
    logits = Teacher(teacher).adapt_to(student)(pixel_values=pixels)
    assert torch.equal(logits, teacher(pixels).logits[:, [1, 2, 3, 0]])


def test_placeholder_names_and_a_given_order():
    student, teacher = named(timm_vit(1), ["cat", "dog", "ant", "bee"]), timm_vit(2)
    assert Teacher(teacher).adapt_to(student).order is None
    adapted = Teacher(teacher, class_order=[3, 2, 1, 0]).adapt_to(student)
    assert adapted.order.tolist() == [3, 2, 1, 0]


@pytest.mark.parametrize(
    ("student_names", "teacher", "message"),
    [
        ("abcd", lambda: models.build_student("vit-30k", 5, 28), "teacher: .*5.*4"),
        ("abcd", lambda: named(timm_vit(2), "abce"), "teacher: .*'d'"),
        ("aabc", lambda: named(timm_vit(2), "abac"), "teacher: .*class_order"),
        ("abcd", lambda: Teacher(timm_vit(2), class_order=[0, 1, 1, 2]), "class_order"),
        ("abcd", lambda: Teacher(timm_vit(2), class_order=[0, 1]), "class_order"),
    ],
)
def test_other_classes_are_refused_by_name(student_names, teacher, message, tmp_path):
    with pytest.raises(InputError, match=message):
        DistillationTrainer(
            named(timm_vit(1), student_names),
            DistillationArguments(str(tmp_path), use_cpu=True),
            teacher=teacher(),
        )


def test_a_saved_teacher_has_its_statistics(pixels, tmp_path):
    teacher = native_vit(2)
    teacher.save_pretrained(tmp_path)
    models.build_processor(teacher, TEACHER_STATISTICS.mean, TEACHER_STATISTICS.std).save_pretrained(tmp_path)
    student = timm_vit(1)
    trainer = DistillationTrainer(
        student,
        DistillationArguments(str(tmp_path / "out"), use_cpu=True, max_steps=1, save_strategy="no", disable_tqdm=True),
        teacher=Teacher.from_pretrained(tmp_path),
        train_dataset=Images(8),
        processing_class=models.build_processor(student, STUDENT_STATISTICS.mean, STUDENT_STATISTICS.std),
    )
    logits = trainer.teacher(pixel_values=normalised(pixels, STUDENT_STATISTICS))
    assert torch.allclose(logits, teacher.eval()(normalised(pixels, TEACHER_STATISTICS)).logits, atol=1e-5)
    trainer.train()


def test_a_teacher_with_shuffled_outputs_trains_the_same_student(tmp_path):
    names = ["cat", "dog", "ant", "bee"]
    shuffled = [2, 0, 3, 1]
    weights = []
    for order in (None, shuffled):
        teacher = named(timm_vit(2), names)
        if order is not None:
            head = teacher.timm_model.head
            head.weight.data, head.bias.data = head.weight.data[order], head.bias.data[order]
            models.name_classes(teacher, [names[label] for label in order])
        trainer = DistillationTrainer(
            named(timm_vit(1), names),
            DistillationArguments(str(tmp_path), use_cpu=True, max_steps=2, save_strategy="no", disable_tqdm=True),
            teacher=teacher,
            train_dataset=Images(16),
        )
        trainer.train()
        weights.append(trainer.model.state_dict())
    assert len(names) == N_CLASSES
    for name, value in weights[0].items():
        assert torch.allclose(value, weights[1][name], atol=1e-6), name
