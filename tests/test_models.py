"""Students and teachers: counts, initial weights, saving and loading, heads, processors."""

import json
import math

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    CLIPConfig,
    CLIPForImageClassification,
    EfficientNetImageProcessor,
    MobileViTImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
    pipeline,
)

from hf_scaling import models
from hf_scaling.errors import InputError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.25)


def tiny_vit(n_classes=5, **changes):
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    return ViTForImageClassification(
        ViTConfig(image_size=16, patch_size=4, num_labels=n_classes, **{**shape, **changes})
    )


def same_weights(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("name", "n_classes", "image_size", "patch_size", "count"),
    [
        ("vit-30k", 10, 28, 7, 31_114),
        ("vit-50k", 10, 28, 7, 56_522),
        ("vit-200k", 10, 28, 7, 211_338),
        ("vit-800k", 10, 28, 7, 815_882),
        ("vit-2.5m", 100, 32, 4, 2_407_140),
        ("vit-5m", 100, 32, 4, 5_380_132),
        ("vit-10m", 100, 32, 4, 9_532_772),
        ("vit-10m", 1000, 224, 16, 9_982_184),
        ("vit-21m", 100, 32, 4, 21_376_996),
    ],
)
def test_the_families_have_their_documented_counts(name, n_classes, image_size, patch_size, count):
    model = models.build_student(name, n_classes, image_size)
    assert model.timm_model.patch_embed.patch_size == (patch_size, patch_size)
    assert models.count_params(model) == count


def test_every_member_of_a_family_is_larger_than_the_one_before():
    counts = [models.count_params(models.build_student(name, 10, 28)) for name in list(models.FAMILIES)[:8]]
    assert counts == sorted(set(counts))


@pytest.mark.parametrize(("image_size", "patch_size"), [(16, 4), (28, 7), (32, 4), (64, 8), (25, 5), (224, 16)])
def test_default_patch_size(image_size, patch_size):
    assert models.default_patch_size(image_size) == patch_size


@pytest.mark.parametrize(("name", "image_size"), [("vit-200k", 28), ("resnet18", 32)])
def test_a_model_on_the_meta_device_counts_as_one_with_weights(name, image_size):
    model = models.build_student(name, 10, image_size)
    with torch.device("meta"):
        shapes = models.build_student(name, 10, image_size)
    assert {weight.device.type for weight in shapes.parameters()} == {"meta"}
    assert shapes.config.to_dict() == model.config.to_dict()
    assert models.count_params(shapes) == models.count_params(model)
    assert models.forward_flops(shapes, image_size) == models.forward_flops(model, image_size)


def test_the_seed_alone_determines_the_weights():
    first = models.build_student("vit-30k", 10, 28, seed=3)
    torch.rand(7)
    before = torch.get_rng_state()
    again = models.build_student("vit-30k", 10, 28, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    assert same_weights(first, again)
    assert not same_weights(first, models.build_student("vit-30k", 10, 28, seed=4))


def test_students_start_as_timm_initialises_them():
    timm_model = models.build_student("vit-200k", 10, 32).timm_model
    fan_in = 3 * 4 * 4  # torch draws a convolution uniformly in +-1/sqrt(fan_in), and timm leaves it so
    assert timm_model.patch_embed.proj.weight.std().item() == pytest.approx(1 / math.sqrt(3 * fan_in), rel=0.03)
    assert timm_model.blocks[0].mlp.fc1.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert not timm_model.blocks[0].mlp.fc1.bias.any()


@pytest.mark.parametrize("name", ["vit-30k", "resnet18", "deit_tiny_patch16_224"])
def test_saved_students_reload_exactly(name, tmp_path):
    model = models.build_student(name, 7, 32, seed=1)
    models.name_classes(model, [f"class {label}" for label in range(7)])
    model.save_pretrained(tmp_path)
    for loaded in (models.load_model(tmp_path), AutoModelForImageClassification.from_pretrained(tmp_path)):
        assert same_weights(model, loaded)
        assert not loaded.training
        assert loaded.config.id2label[6] == "class 6"
        assert models.input_size(loaded) == 32


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("vit-300k", 10, 28), "vit-30k"),
        (("resnet81", 10, 28), "resnet18"),
        (("resnet18.a1_in1k", 10, 28), "timm/resnet18.a1_in1k"),
        (("resnet18", 10, 28, 4), "resnet18 .*patch_size"),
        (("vit-30k", 10, 28, 5), r"\[2, 4, 7, 14\]"),
        (("vit-30k", 10, 29), "image_size 29 .*patch_size"),
        (("vit_tiny_patch16_224", 10, 28), "vit_tiny_patch16_224 .* 16 .* 28"),
        (("vit-30k", 1, 28), "n_classes 1"),
        (("vit-30k", 10, 0), "image_size 0"),
    ],
)
def test_impossible_models_are_refused_in_one_line(arguments, named):
    with pytest.raises(InputError, match=named) as caught:
        models.build_student(*arguments)
    assert "\n" not in str(caught.value)


def test_unusable_checkpoints_are_refused_in_one_line(tmp_path):
    with pytest.raises(InputError, match="vit-30k"):
        models.load_model("vit-30k")
    with pytest.raises(InputError, match=r"config\.json"):
        models.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(InputError, match=r"model\.safetensors"):
        models.load_model(tmp_path)
    tiny_vit().vit.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"classifier\.(bias|weight)"):
        models.load_model(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(InputError, match=str(tmp_path)) as caught:
        models.load_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_checkpoint_of_timm_is_loaded_and_saved_with_our_processor(tmp_path):
    timm_model = timm.create_model("test_vit", num_classes=1000)
    timm.models.save_for_hf(timm_model, tmp_path / "hub", safe_serialization=True)
    model = models.load_model(tmp_path / "hub")
    image = torch.rand(2, 3, 160, 160)
    assert torch.equal(model(image).logits, timm_model.eval()(image))
    assert models.input_size(model) == 160
    assert model.config.id2label[3].startswith("tiger shark")
    assert models.load_statistics(tmp_path / "hub").mean == pytest.approx(timm_model.pretrained_cfg["mean"])
    models.replace_head(model, 3, seed=0)
    model.save_pretrained(tmp_path / "tuned")
    models.build_processor(model, MEAN, STD).save_pretrained(tmp_path / "tuned")
    classify = pipeline("image-classification", model=str(tmp_path / "tuned"))
    assert list(classify.image_processor.image_mean) == list(MEAN)
    assert {answer["label"] for answer in classify(Image.new("RGB", (99, 70)))} == {"LABEL_0", "LABEL_1", "LABEL_2"}


def tiny_resnet(n_classes):
    return ResNetForImageClassification(
        ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=n_classes)
    )


def timm_deit(n_classes):
    return models.build_student("deit_tiny_distilled_patch16_224", n_classes, 16 * 2)


@pytest.mark.parametrize("build", [tiny_vit, tiny_resnet, timm_deit])
def test_replace_head_changes_the_head_alone(build, tmp_path):
    model = build(5)
    body = {name: value.clone() for name, value in model.state_dict().items()}
    before = torch.get_rng_state()
    models.replace_head(model, 3, seed=0)
    assert torch.equal(torch.get_rng_state(), before)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, body[name])}
    head = {id(parameter) for parameter in models.head_parameters(model)}
    assert changed == {name for name, parameter in model.named_parameters() if id(parameter) in head}
    assert model.config.id2label == {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    model.eval().save_pretrained(tmp_path)
    image = torch.rand(2, 3, models.input_size(model) or 16, models.input_size(model) or 16)
    assert torch.equal(models.load_model(tmp_path)(image).logits, model(image).logits)


def test_replace_head_drops_class_names_and_depends_on_its_seed():
    heads = []
    for seed in (0, 0, 1):
        model = models.build_student("vit-30k", 4, 28)
        models.name_classes(model, "abcd")
        models.replace_head(model, 4, seed)
        heads.append(models.head_parameters(model)[0])
    assert model.config.id2label[0] == "LABEL_0"
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_a_frozen_backbone_stays_in_evaluation_mode():
    model = tiny_resnet(4)
    models.freeze_backbone(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    image = torch.rand(8, 3, 16, 16)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model.train()
    trained = model(image, labels=torch.arange(8) % 4)
    trained.loss.backward()
    assert model.training
    assert torch.equal(trained.logits, model.eval()(image).logits)  # batch norm used its running statistics
    optimizer.step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"classifier.1.weight", "classifier.1.bias"}


def test_forward_flops_are_the_counted_products():
    model = models.build_student("vit-200k", 10, 28).train()
    tokens, width, depth = 17, 64, 4
    blocks = depth * (2 * tokens * 12 * width**2 + 2 * 2 * tokens**2 * width)
    assert models.forward_flops(model, 28) == 2 * 16 * (3 * 7 * 7) * width + blocks + 2 * width * 10
    assert all(module.training for module in model.modules())


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pipeline_on_png_files_gives_the_same_logits(mode, tmp_path):
    model = models.build_student("vit-30k", 10, 28, seed=2).eval()
    model.save_pretrained(tmp_path)
    models.build_processor(model, MEAN, STD).save_pretrained(tmp_path)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 28, 28, 3), dtype=np.uint8)
    if mode == "L":
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    for number, image in enumerate(pixels):
        Image.fromarray(image).convert(mode).save(tmp_path / f"{number}.png")
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    ours = model((torch.from_numpy(pixels).permute(0, 3, 1, 2).float() - mean) / std).logits
    classify = pipeline("image-classification", model=str(tmp_path), top_k=10, function_to_apply="none")
    for number, expected in enumerate(ours):
        scores = {answer["label"]: answer["score"] for answer in classify(str(tmp_path / f"{number}.png"))}
        assert [scores[f"LABEL_{label}"] for label in range(10)] == pytest.approx(expected.tolist(), abs=1e-6)


def test_the_processor_only_normalises_an_image_of_the_model_size():
    processor = models.build_processor(models.build_student("vit-30k", 10, 28), MEAN, STD)
    pixels = np.random.default_rng(1).integers(0, 256, (28, 28, 3), dtype=np.uint8)
    mean, std = (255 * torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    expected = (torch.from_numpy(pixels).permute(2, 0, 1).float() - mean) / std
    assert torch.equal(processor(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0], expected)
    wide = Image.fromarray(np.zeros((60, 90, 3), dtype=np.uint8))
    assert processor(wide, return_tensors="pt")["pixel_values"].shape == (1, 3, 28, 28)


def test_the_statistics_of_a_checkpoint_are_read_back(tmp_path):
    model = models.build_student("vit-30k", 10, 28)
    model.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=str(tmp_path)):
        models.load_statistics(tmp_path)
    models.build_processor(model, MEAN, STD).save_pretrained(tmp_path)
    assert models.load_statistics(tmp_path) == models.ImageStatistics(MEAN, STD)
    with pytest.raises(InputError, match="std"):
        models.build_processor(model, MEAN, (0.0, 1.0, 1.0))


@pytest.mark.parametrize(
    "processor",
    [
        lambda size: ViTImageProcessor(size=size, do_normalize=False),
        lambda size: ViTImageProcessor(
            size=size, do_rescale=False, image_mean=[127.5, 120, 110], image_std=[60, 61, 62]
        ),
        lambda size: ViTImageProcessor(size=size, rescale_factor=1 / 127.5, image_mean=[1.0] * 3, image_std=[1.0] * 3),
        lambda size: EfficientNetImageProcessor(size=size, image_mean=[0.4, 0.5, 0.6], image_std=[0.2, 0.3, 0.4]),
        lambda size: EfficientNetImageProcessor(
            size=size, rescale_factor=1 / 127.5, rescale_offset=True, include_top=False, do_normalize=False
        ),
    ],
)
def test_the_statistics_are_what_the_image_processor_does(processor, tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    processor({"height": 16, "width": 16}).save_pretrained(tmp_path)
    image = Image.new("RGB", (16, 16), (200, 100, 50))
    expected = AutoImageProcessor.from_pretrained(tmp_path)(image, return_tensors="pt")["pixel_values"][0, :, 8, 8]
    statistics = models.load_statistics(tmp_path)
    normalised = (np.array([200, 100, 50]) / 255 - statistics.mean) / statistics.std
    assert normalised == pytest.approx(expected.numpy(), abs=1e-5)


def test_an_image_processor_of_another_order_of_channels_is_refused(tmp_path):
    tiny_vit().save_pretrained(tmp_path)
    MobileViTImageProcessor().save_pretrained(tmp_path)
    with pytest.raises(InputError, match="BGR"):
        models.load_statistics(tmp_path)


@pytest.mark.parametrize(
    ("name", "side"), [("xcit_nano_12_p8_224", 32), ("efficientvit_m1", 64), ("pvt_v2_b1", 40), ("pvt_v2_b0", 33)]
)
def test_embeddings_of_other_kinds_are_built(name, side):
    model = models.build_student(name, 3, side).eval()
    assert model(pixel_values=torch.zeros(1, 3, side, side)).logits.shape == (1, 3)


def test_patches_that_leave_pixels_out_are_refused():
    with pytest.raises(InputError, match="image_size 36"):
        models.build_student("vit_tiny_patch16_224", 3, 36)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"size": {"shortest_edge": 48}}, 48),
        ({"size": {"height": 40, "width": 40}}, 40),
        ({"size": {"shortest_edge": 64}, "crop_size": {"height": 56, "width": 56}, "do_center_crop": True}, 56),
        ({"size": {"shortest_edge": 64}, "crop_size": 56, "do_center_crop": False}, 64),
        ({"size": 32}, 32),
        ({}, None),
    ],
)
def test_the_image_size_of_a_config_without_one_is_its_processors(tmp_path, settings, expected):
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=2, num_channels=3
    )
    ResNetForImageClassification(config).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings))
    assert models.input_size(models.load_model(tmp_path)) == expected


def test_the_image_size_of_a_vision_config_is_found(tmp_path):
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    vision = dict(image_size=48, patch_size=8, **small)
    text = dict(vocab_size=20, max_position_embeddings=8, **small)
    config = CLIPConfig(vision_config=vision, text_config=text, num_labels=2, projection_dim=8)
    CLIPForImageClassification(config).save_pretrained(tmp_path)
    assert models.input_size(models.load_model(tmp_path)) == 48


def test_a_model_that_cannot_take_the_inputs_is_one_line():
    model = models.build_student("vit-30k", 3, 16, 4)
    with pytest.raises(InputError, match="vit-30k on pixel_values of 3 x 24 x 24") as caught:
        models.try_forward(model, {"pixel_values": torch.zeros(1, 3, 24, 24)}, 3, "vit-30k")
    assert "\n" not in str(caught.value)
    for channels in (1, 4):
        with pytest.raises(InputError, match=f"{channels} x 16 x 16"):
            models.try_forward(model, {"pixel_values": torch.zeros(1, channels, 16, 16)}, 3, "vit-30k")
    with pytest.raises(InputError, match="3 logits"):
        models.try_forward(model, {"pixel_values": torch.zeros(1, 3, 16, 16)}, 2, "vit-30k")
    assert models.try_forward(model, {"pixel_values": torch.zeros(1, 3, 16, 16)}, 3, "vit-30k") > 0
    with torch.no_grad():
        models.head_parameters(model)[0].fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        models.try_forward(model, {"pixel_values": torch.zeros(1, 3, 16, 16)}, 3, "vit-30k")
    assert model.training
