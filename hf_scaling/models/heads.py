"""The classification head: its classes, a fresh one for other classes, and training it alone."""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from hf_scaling.errors import InputError


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
