"""The classification head: its classes, a fresh one for other classes, and training it alone."""

import difflib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import timm
import torch
from torch import nn
from transformers import PreTrainedModel, TimmWrapperConfig, TimmWrapperForImageClassification

from hf_scaling.errors import InputError

_VIT = "vit_tiny_patch16_224"  # the timm architecture that every family member is a reshaped copy of
_LARGEST_GRID = 14  # patches a side; ViT's own 224 / 16


@dataclass(frozen=True)
class VitShape:
    """Width, depth and heads of one member of a family; the MLP is four times as wide."""

    width: int
    depth: int
    heads: int


def _small(width: int, depth: int) -> VitShape:
    return VitShape(width, depth, heads=width // 16)


def _standard(width: int) -> VitShape:
    return VitShape(width, depth=12, heads=width // 64)


FAMILIES = {
    "vit-30k": _small(32, 2),
    "vit-50k": _small(32, 4),
    "vit-100k": _small(48, 4),
    "vit-200k": _small(64, 4),
    "vit-400k": _small(96, 4),
    "vit-800k": _small(128, 4),
    "vit-2.5m": _standard(128),
    "vit-5m": _standard(192),
    "vit-10m": _standard(256),
    "vit-21m": _standard(384),
    "vit-38m": _standard(512),
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
    """
    config = _configure(name, n_classes, image_size, patch_size)
    with seeded(seed):
        model = TimmWrapperForImageClassification(config)
    if model.device.type != "meta":
        with seeded(seed):
            # The wrapper initialises linear and convolution layers with its own standard deviation (.02 for the
            # patch embedding, where timm uses .08), so the weights that timm draws are copied in.
            timm_model = timm.create_model(config.architecture, num_classes=n_classes, **config.model_args)
        model.timm_model.load_state_dict(timm_model.state_dict())
    _check_patches(name, model.timm_model, image_size)
    return model.train()


def sketch_student(name: str, n_classes: int, image_size: int, patch_size: int | None = None) -> PreTrainedModel:
    """`build_student` under `torch.device("meta")`; kept until its callers use that."""
    with torch.device("meta"):
        return build_student(name, n_classes, image_size, patch_size).eval()


def default_patch_size(image_size: int) -> int:
    """The patch size where none is given: 4 at 16 and 32 pixels, 7 at 28, 8 at 64, 16 at 224.

    It is the smallest divisor of `image_size`, from 4 up, that leaves at most 14 patches a side and an even number of
    them, or an odd number where no even one exists.

    Raises:
        InputError: No divisor leaves more than one patch (a prime number of pixels, say).
    """
    grids = {patch: image_size // patch for patch in range(4, image_size // 2 + 1) if image_size % patch == 0}
    fitting = [patch for patch, grid in grids.items() if grid <= _LARGEST_GRID]
    even = [patch for patch in fitting if grids[patch] % 2 == 0]
    if not fitting:
        raise InputError(f"image_size {image_size} has no usual patch size: give patch_size, a divisor of it")
    return (even or fitting)[0]


def _configure(name: str, n_classes: int, image_size: int, patch_size: int | None) -> TimmWrapperConfig:
    if n_classes < 2:
        raise InputError(f"n_classes {n_classes}: a classifier needs at least 2 classes")
    if image_size < 1:
        raise InputError(f"image_size {image_size}: must be a positive number of pixels")
    architecture, arguments = _resolve(name, image_size, patch_size)
    return TimmWrapperConfig(
        architecture=architecture, num_labels=n_classes, model_args=arguments, image_size=image_size
    )


def _resolve(name: str, image_size: int, patch_size: int | None) -> tuple[str, dict]:
    """The timm architecture and the arguments that create it."""
    if name in FAMILIES:
        return _VIT, _family_arguments(FAMILIES[name], image_size, patch_size)
    if not timm.is_model(name):
        raise InputError(_unknown(name))
    if "." in name:
        raise InputError(
            f"model {name} names trained weights: give timm/{name} where a checkpoint is wanted, "
            f"or {name.split('.')[0]} for random weights"
        )
    return name, _timm_arguments(name, image_size, patch_size)


def _family_arguments(shape: VitShape, image_size: int, patch_size: int | None) -> dict:
    patch_size = default_patch_size(image_size) if patch_size is None else patch_size
    if patch_size < 1 or image_size % patch_size:
        divisors = [patch for patch in range(2, image_size // 2 + 1) if image_size % patch == 0]
        raise InputError(f"patch_size {patch_size} does not divide image_size {image_size}: take one of {divisors}")
    return {
        "img_size": image_size,
        "patch_size": patch_size,
        "embed_dim": shape.width,
        "depth": shape.depth,
        "num_heads": shape.heads,
    }


def _timm_arguments(name: str, image_size: int, patch_size: int | None) -> dict:
    """`img_size` where the architecture is built for one size (transformers are, most convolutions are not)."""
    asked = {} if patch_size is None else {"patch_size": patch_size}
    try:
        return _accepted(name, {"img_size": image_size, **asked})
    except TypeError:
        pass
    try:
        return _accepted(name, asked)
    except TypeError:
        raise InputError(f"model {name} has no patch size: leave patch_size out") from None


def _accepted(name: str, arguments: dict) -> dict:
    with torch.device("meta"):
        try:
            timm.create_model(name, **arguments)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise InputError(f"model {name} cannot be built with {arguments}: {error}") from None
    return arguments


def _check_patches(name: str, model: torch.nn.Module, image_size: int) -> None:
    patches = getattr(getattr(model, "patch_embed", None), "patch_size", None)
    if patches and image_size % patches[0]:
        # timm would silently leave the last pixels out.
        raise InputError(f"model {name} cuts patches of {patches[0]} pixels, which do not divide {image_size}")


def _unknown(name: str) -> str:
    known = [*FAMILIES, *timm.list_models()]
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5) or list(FAMILIES)
    return f"unknown model {name}: nearest known names are {', '.join(near)}"


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw from `seed` on the CPU and put the generator back where it was.

    `torch.manual_seed` is not used: it would reseed the accelerators too.
    """
    before = torch.default_generator.get_state()
    torch.default_generator.manual_seed(seed)
    try:
        yield
    finally:
        torch.default_generator.set_state(before)


def name_classes(model: PreTrainedModel, names: Sequence[str]) -> None:
    """Write the class names, in label order, into the config, where `pipeline` and teachers find them.

    Raises:
        InputError: Another number of names than of the model's outputs.
    """
    if len(names) != model.config.num_labels:
        raise InputError(f"{len(names)} class names for a model of {model.config.num_labels} classes")
    model.config.id2label = dict(enumerate(map(str, names)))
    model.config.label2id = {name: label for label, name in model.config.id2label.items()}


def replace_head(model: PreTrainedModel, n_classes: int, seed: int) -> None:
    """Give `model` a fresh head for `n_classes`: weights normal with standard deviation .02, biases zero.

    The class names are forgotten; the rest of the model is left as it is.

    Args:
        model: A classifier of transformers or a wrapped one of timm; changed in place.
        n_classes: Outputs of the new head, at least 2.
        seed: Determines its weights; the global random state is neither read nor changed.

    Raises:
        InputError: Fewer than 2 classes, or no head can be found.
    """
    if n_classes < 2:
        raise InputError(f"n_classes {n_classes}: a classifier needs at least 2 classes")
    generator = torch.Generator().manual_seed(seed)
    for name, layer in _head_layers(model):
        fresh = _fresh_layer(layer, n_classes, generator)
        parent, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(parent), attribute, fresh)
    model.config.num_labels = n_classes
    model.num_labels = n_classes
    name_classes(model, [f"LABEL_{label}" for label in range(n_classes)])
    if hasattr(model, "timm_model"):
        model.timm_model.num_classes = n_classes


def head_parameters(model: PreTrainedModel) -> list[nn.Parameter]:
    """The weights of the last, classifying layer (or layers: a distilled DeiT has two).

    Raises:
        InputError: No head can be found.
    """
    return [parameter for _, layer in _head_layers(model) for parameter in layer.parameters()]


def freeze_backbone(model: PreTrainedModel) -> None:
    """Leave only the head trainable, and hold the rest in evaluation mode.

    In evaluation mode whatever train() is called: batch norms keep their running statistics and use them, dropout and
    stochastic depth are off, so the head learns on the very features that evaluation will see.
    """
    head = {layer for _, layer in _head_layers(model)}
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for layer in head:
        layer.requires_grad_(True)
    # The model's own flag stays: a Trainer reads off it whether it trains or evaluates.
    model.register_forward_pre_hook(_HoldInEvaluation(set(model.modules()) - head - {model}))


class _HoldInEvaluation:
    """Before each forward puts the given modules back into evaluation mode, which train() took them out of."""

    def __init__(self, modules: set[nn.Module]):
        self.modules = modules

    def __call__(self, model: nn.Module, args: tuple) -> None:
        for module in self.modules:
            module.training = False


def _head_layers(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """Name and layer of what gives the logits: linear layers (or 1x1 convolutions) as wide as there are classes."""
    found = [
        (name, layer)
        for name, layer in _head_candidates(model)
        if isinstance(layer, nn.Linear | nn.Conv2d) and _width(layer) == model.config.num_labels
    ]
    if not found:
        raise InputError(f"no classification head found in {type(model).__name__}")
    return found


def _head_candidates(model: PreTrainedModel) -> list[tuple[str, nn.Module]]:
    """timm says which layers classify; in transformers they are what lies outside the base model."""
    if not hasattr(model, "timm_model"):
        inside_base = f"{model.base_model_prefix}."
        return [(name, layer) for name, layer in model.named_modules() if not name.startswith(inside_base)]
    classifier = model.timm_model.get_classifier()
    parts = classifier if isinstance(classifier, tuple) else (classifier,)
    inside = {layer for part in parts for layer in part.modules()}
    return [(name, layer) for name, layer in model.named_modules() if layer in inside]


def _width(layer: nn.Module) -> int:
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _fresh_layer(layer: nn.Module, n_classes: int, generator: torch.Generator) -> nn.Module:
    """A layer as `layer`, `n_classes` wide, on its device and in its type; drawn on the CPU."""
    has_bias = layer.bias is not None
    with torch.device("meta"):
        if isinstance(layer, nn.Linear):
            fresh = nn.Linear(layer.in_features, n_classes, bias=has_bias)
        else:
            fresh = nn.Conv2d(layer.in_channels, n_classes, layer.kernel_size, bias=has_bias)
    fresh = fresh.to_empty(device="cpu")
    with torch.no_grad():
        fresh.weight.normal_(std=0.02, generator=generator)
        if has_bias:
            fresh.bias.zero_()
    return fresh.to(layer.weight.device, layer.weight.dtype)
