"""Image classifiers: the ViT families and timm's architectures, built with random weights; class names and heads."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import timm
import torch
from torch import nn
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from hf_scaling.errors import InputError
from hf_scaling.text import did_you_mean

_VIT = "vit_tiny_patch16_224"  # the timm architecture that every family member reshapes
_LARGEST_GRID = 14  # patches per side, as in ViT itself: 224 / 16


@dataclass(frozen=True)
class VitShape:
    """Width, depth and heads of a Vision Transformer; the MLP is four times as wide."""

    width: int
    depth: int
    heads: int


FAMILIES = {
    # Heads of 16.
    "vit-30k": VitShape(32, 2, 2),
    "vit-50k": VitShape(32, 4, 2),
    "vit-100k": VitShape(48, 4, 3),
    "vit-200k": VitShape(64, 4, 4),
    "vit-400k": VitShape(96, 4, 6),
    "vit-800k": VitShape(128, 4, 8),
    # Heads of 64.
    "vit-2.5m": VitShape(128, 12, 2),
    "vit-5m": VitShape(192, 12, 3),
    "vit-10m": VitShape(256, 12, 4),
    "vit-21m": VitShape(384, 12, 6),
    "vit-38m": VitShape(512, 12, 8),
}


def build_student(
    name: str, n_classes: int, image_size: int, patch_size: int | None = None, seed: int = 0
) -> PreTrainedModel:
    """Build an image classifier with random weights, initialised as timm initialises it.

    The weights are a function of the arguments alone: the global random state is neither read nor changed. Under
    `torch.device("meta")` the model has shapes but no weights, which is enough to count its parameters and FLOPs.

    Args:
        name: A name of `FAMILIES` (`vit-200k`), or any architecture of timm (`resnet18`).
        n_classes: Outputs of the head, at least 2.
        image_size: Side of the square RGB images, in pixels.
        patch_size: Side of a patch in pixels; None takes `default_patch_size` for the families, and for timm's
            architectures the one in their name.
        seed: Determines the weights.

    Returns:
        A `TimmWrapperForImageClassification` in training mode, on the CPU or the device of the context, which
        `AutoModelForImageClassification.from_pretrained` reloads exactly once it is saved.

    Raises:
        InputError: Unknown name (the nearest known ones are named), or sizes that do not fit each other.

    Example:
        >>> count_params(build_student("vit-200k", n_classes=10, image_size=28))
        211338
    """
    if n_classes < 2:
        raise InputError(f"n_classes {n_classes}: a classifier needs at least 2 classes")
    if image_size < 1:
        raise InputError(f"image_size {image_size}: must be a positive number of pixels")
    architecture, arguments = _resolve(name, image_size, patch_size)
    config = TimmWrapperConfig(
        architecture=architecture, num_labels=n_classes, model_args=arguments, image_size=image_size
    )
    with seeded(seed):
        model = TimmWrapperForImageClassification(config)
    if model.device.type != "meta":
        with seeded(seed):
            # The wrapper initialises linear and convolution layers with its own standard deviation (.02 for the
            # patch embedding, where timm uses .08), so the weights that timm draws are copied in.
            timm_model = timm.create_model(architecture, num_classes=n_classes, **arguments)
        model.timm_model.load_state_dict(timm_model.state_dict())
    patches = getattr(model.timm_model, "patch_embed", None)
    # Other embeddings overlap, or are convolutions that pad: only this one would silently leave the last pixels out.
    if isinstance(patches, timm.layers.PatchEmbed) and image_size % patches.patch_size[0]:
        raise InputError(
            f"model {name} has patches of {patches.patch_size[0]} pixels, which do not divide image_size {image_size}"
        )
    return model.train()


def default_patch_size(image_size: int) -> int:
    """The patch size where none is given: 4 at 16 and 32 pixels, 7 at 28, 8 at 64, 16 at 224.

    It is the smallest divisor of `image_size`, from 4 up, that leaves at most 14 patches per side and an even number
    of them, or an odd number where no even one exists.

    Raises:
        InputError: No divisor leaves more than one patch (a prime number of pixels, for example).
    """
    sizes = [size for size in range(4, image_size // 2 + 1) if image_size % size == 0]
    sizes = [size for size in sizes if image_size // size <= _LARGEST_GRID]
    if not sizes:
        raise InputError(f"image_size {image_size} has no usual patch size: give patch_size, a divisor of it")
    return next((size for size in sizes if image_size // size % 2 == 0), sizes[0])


def _resolve(name: str, image_size: int, patch_size: int | None) -> tuple[str, dict]:
    """The timm architecture and the arguments that create it."""
    if name in FAMILIES:
        side, shape = default_patch_size(image_size) if patch_size is None else patch_size, FAMILIES[name]
        if side < 1 or image_size % side:
            divisors = [size for size in range(2, image_size // 2 + 1) if image_size % size == 0]
            raise InputError(f"patch_size {side} does not divide image_size {image_size}: give one of {divisors}")
        arguments = {"img_size": image_size, "patch_size": side, "embed_dim": shape.width}
        return _VIT, {**arguments, "depth": shape.depth, "num_heads": shape.heads}
    if not timm.is_model(name):
        hint = did_you_mean(name, [*FAMILIES, *timm.list_models()], n=3) or f"; the families are {', '.join(FAMILIES)}"
        raise InputError(f"unknown model {name}{hint}")
    if "." in name:
        raise InputError(
            f"model {name} names trained weights: give timm/{name} for a checkpoint, "
            f"or {name.split('.')[0]} for random weights"
        )
    # `img_size` where the architecture is built for one size: transformers are, most convolutional networks are not.
    patches = {} if patch_size is None else {"patch_size": patch_size}
    for arguments in ({"img_size": image_size, **patches}, patches):
        try:
            with torch.device("meta"):
                timm.create_model(name, **arguments)
            return name, arguments
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(f"model {name} cannot be built with {arguments}: {error}") from None
        except TypeError:
            continue
    raise InputError(f"model {name} has no patch_size: leave it out")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU, and restore the generator afterwards.

    `torch.manual_seed` is not used: it would reseed the accelerators too.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def name_classes(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Write the class names, in label order, into the config, where `pipeline` and teachers read them.

    Raises:
        InputError: The number of names is not the number of the model's outputs.
    """
    if len(names) != model.config.num_labels:
        raise InputError(f"{len(names)} class names for a model of {model.config.num_labels} classes")
    model.config.id2label = dict(enumerate(map(str, names)))
    model.config.label2id = {name: label for label, name in model.config.id2label.items()}


def replace_head(model: PreTrainedModel, n_classes: int, seed: int) -> None:
    """Give `model` a new head for `n_classes`: weights normal with standard deviation .02, biases zero.

    Class names become placeholders; the rest of the model is unchanged.

    Args:
        model: A classifier of transformers or a wrapped one of timm; changed in place.
        n_classes: Outputs of the new head, at least 2.
        seed: Determines its weights; the global random state is neither read nor changed.

    Raises:
        InputError: Fewer than 2 classes, or the model has no head.
    """
    if n_classes < 2:
        raise InputError(f"n_classes {n_classes}: a classifier needs at least 2 classes")
    generator = torch.Generator().manual_seed(seed)
    for name, layer in _head_layers(model):
        has_bias = layer.bias is not None
        with torch.device("meta"):
            if isinstance(layer, nn.Linear):
                new = nn.Linear(layer.in_features, n_classes, bias=has_bias)
            else:
                new = nn.Conv2d(layer.in_channels, n_classes, layer.kernel_size, bias=has_bias)
        # Drawn on the CPU, whose generator gives the same weights whatever the device.
        new = new.to_empty(device="cpu")
        with torch.no_grad():
            new.weight.normal_(std=0.02, generator=generator)
            if has_bias:
                new.bias.zero_()
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, new.to(layer.weight.device, layer.weight.dtype))
    model.config.num_labels = n_classes
    model.num_labels = n_classes
    name_classes(model, [f"LABEL_{label}" for label in range(n_classes)])
    if hasattr(model, "timm_model"):
        model.timm_model.num_classes = n_classes


def head_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """The parameters of the classifying layer (or layers: a distilled DeiT has two).

    Raises:
        InputError: The model has no head.
    """
    return [parameter for _, layer in _head_layers(model) for parameter in layer.parameters()]


@contextmanager
def recording_features(model: PreTrainedModel) -> Iterator[list[torch.Tensor]]:
    """Record what the classifying layer gets in each forward pass: the pooled features, float32 (n, d) on the CPU.

    Raises:
        InputError: The model has no head.
    """
    features: list[torch.Tensor] = []

    def record(layer: nn.Module, inputs: tuple) -> None:
        features.append(inputs[0].detach().flatten(1).float().cpu())

    handle = _head_layers(model)[0][1].register_forward_pre_hook(record)
    try:
        yield features
    finally:
        handle.remove()


def freeze_backbone(model: PreTrainedModel) -> None:
    """Leave only the head trainable, and hold the rest in evaluation mode whatever `train()` is called.

    Batch norms use their running statistics and keep them, dropout and stochastic depth are off, so the head learns
    on exactly the features that evaluation sees.
    """
    head = {layer for _, layer in _head_layers(model)}
    model.requires_grad_(False)
    for layer in head:
        layer.requires_grad_(True)
    # The model's own flag is left alone: a Trainer reads off it whether it trains or evaluates.
    model.register_forward_pre_hook(_HoldInEvaluation(set(model.modules()) - head - {model}))


class _HoldInEvaluation:
    """Puts the given modules back into evaluation mode before each forward pass."""

    def __init__(self, modules: set[nn.Module]):
        self.modules = modules

    def __call__(self, model: nn.Module, args: tuple) -> None:
        for module in self.modules:
            module.training = False


def _head_layers(model: PreTrainedModel) -> list[tuple[str, nn.Linear | nn.Conv2d]]:
    """Name and layer of what gives the logits: linear layers or 1x1 convolutions with one output per class.

    timm lists the layers that classify; in transformers they are those outside the base model.
    """
    if hasattr(model, "timm_model"):
        classifier = model.timm_model.get_classifier()
        parts = classifier if isinstance(classifier, tuple) else (classifier,)
        modules = {layer for part in parts for layer in part.modules()}
        candidates = [(name, layer) for name, layer in model.named_modules() if layer in modules]
    else:
        base = f"{model.base_model_prefix}."
        candidates = [(name, layer) for name, layer in model.named_modules() if not name.startswith(base)]
    layers = []
    for name, layer in candidates:
        if isinstance(layer, nn.Linear | nn.Conv2d):
            width = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
            if width == model.config.num_labels:
                layers.append((name, layer))
    if not layers:
        raise InputError(f"{type(model).__name__} has no classification head")
    return layers
