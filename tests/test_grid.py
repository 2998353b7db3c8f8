"""Run ids change with what changes the weights, and with nothing else."""

import dataclasses

import pytest

from hf_scaling.errors import InputError
from hf_scaling.grid import RunSpec

SPEC = RunSpec(
    stage="pretrain",
    model={"name": "vit-200k", "image_size": 28, "patch_size": 7, "n_classes": 36},
    source={"name": "glyphs", "fingerprint": "abc"},
    n_pretrain=1000,
    n_finetune=0,
    n_classes=36,
    rule={"learning_rate": 3e-3, "augmentation": ["flip"], "batch": 128},
    steps=400,
    seed=0,
)
DISTILLED = dataclasses.replace(SPEC, teacher="0123456789abcdef", distillation={"alpha": 0.5, "kind": "soft"})


def test_the_id_of_a_known_run_never_changes():
    # Ids are in published tables, which a change here would no longer match.
    assert SPEC.run_id == "f3212a600df5547f"


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "finetune"},
        {"task": "other"},
        {"model": {**SPEC.model, "patch_size": 4}},
        {"source": {**SPEC.source, "fingerprint": "abd"}},
        {"n_pretrain": 1001},
        {"n_finetune": 5},
        {"n_classes": 10},
        {"rule": {**SPEC.rule, "learning_rate": 1e-3}},
        {"steps": 401},
        {"seed": 1},
        {"parent": "x"},
        {"teacher": "x", "distillation": {"alpha": 0.5}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_changes_the_weights_changes_the_id(change):
    assert dataclasses.replace(SPEC, **change).run_id != SPEC.run_id


def test_every_field_is_covered_by_the_test_above():
    fields = {item.name for item in dataclasses.fields(RunSpec) if item.init}
    assert fields == set(SPEC.to_dict())
    assert len(fields) == 13


def test_the_order_of_keys_and_the_kind_of_sequence_do_not_matter():
    reordered = dataclasses.replace(SPEC, rule={"batch": 128, "augmentation": ("flip",), "learning_rate": 0.003})
    assert reordered.run_id == SPEC.run_id


def test_plain_and_distilled_runs_of_all_sizes_share_the_recipe():
    larger = dataclasses.replace(SPEC, n_pretrain=2000, steps=800, model={**SPEC.model, "name": "vit-800k"})
    assert SPEC.recipe == DISTILLED.recipe == larger.recipe
    assert dataclasses.replace(SPEC, rule={**SPEC.rule, "batch": 64}).recipe != SPEC.recipe
    assert dataclasses.replace(SPEC, stage="finetune").recipe != SPEC.recipe


def test_a_spec_reads_back_as_written():
    for spec in (SPEC, DISTILLED):
        again = RunSpec.from_dict(spec.to_dict())
        assert again == spec
        assert (again.run_id, again.arm) == (spec.run_id, spec.arm)
    assert (SPEC.arm, DISTILLED.arm) == ("plain", "distilled")
    assert len({SPEC, DISTILLED, RunSpec.from_dict(SPEC.to_dict())}) == 2


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        SPEC.seed = 3


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({**SPEC.to_dict(), "stage": "train"}, "stage"),
        ({**SPEC.to_dict(), "teacher": "x"}, "distillation"),
        ({**SPEC.to_dict(), "colour": 1}, "colour"),
        ({"stage": "pretrain"}, "model"),
    ],
)
def test_a_faulty_spec_is_refused_by_the_name_of_the_field(values, word):
    with pytest.raises(InputError, match=word):
        RunSpec.from_dict(values)
