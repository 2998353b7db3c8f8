"""Parameters and floating-point operations, counted rather than read off a name."""

from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedModel

from hf_scaling.errors import InputError
from hf_scaling.text import one_line

#: Operations of a training step per operation of a forward pass: the gradients of a product are two more of its size.
TRAINING = 3


def count_params(model: nn.Module) -> int:
    """Number of weights of `model`, trainable or not; a weight shared by two layers counts once."""
    return sum(parameter.numel() for parameter in model.parameters())


def forward_flops(model: nn.Module, image_size: int) -> float:
    """Floating-point operations of one image's forward pass.

    Matrix products and convolutions are counted, a multiplication and an addition being two operations (2 x MACs).
    Norms, activations and softmaxes are left out, as in the papers' 6ND. Attention counts as its two products
    whichever kernel the device would use. A training step takes about `TRAINING` times as much.

    Args:
        model: An image classifier, unchanged afterwards; it may be on the meta device.
        image_size: Side of the square RGB image, in pixels.
    """
    weight = next(model.parameters())
    image = torch.zeros(1, 3, image_size, image_size, device=weight.device, dtype=weight.dtype)
    return flops_of(model, {"pixel_values": image})


def flops_of(model: nn.Module, inputs: dict[str, torch.Tensor]) -> float:
    """Floating-point operations of `model(**inputs)`, counted as `forward_flops` does, for inputs of any kind."""
    return _forward(model, inputs)[0]


def try_forward(model: PreTrainedModel, inputs: dict[str, torch.Tensor], n_outputs: int | None, name: str) -> float:
    """Try the forward pass of one example, and count its floating-point operations.

    Args:
        model: A classifier or a language model, unchanged afterwards; it may be on the meta device.
        inputs: One example, on the model's device.
        n_outputs: The classes that a classifier must have, or the tokens that a language model must at least have;
            None: any number.
        name: The model, for the message.

    Raises:
        InputError: The model does not take such inputs (channels, size, patches), or gives other logits, or logits
            that are not finite.
        NotImplementedError: An operation of the model does not run on the meta device.
    """
    key, example = next(iter(inputs.items()))
    what = f"model {name} on {key} of {' x '.join(map(str, example.shape[1:]))}"
    try:
        flops, outputs = _forward(model, inputs)
        logits = outputs.logits
    except NotImplementedError:
        raise
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError, KeyError) as error:
        raise InputError(f"{what}: {one_line(error)[:200] or type(error).__name__}") from error
    given = logits.shape[-1]
    if n_outputs is not None and (given < n_outputs or (logits.ndim == 2 and given != n_outputs)):
        raise InputError(f"{what}: it gives {given} logits, and {n_outputs} are needed")
    if not logits.is_meta and not logits.isfinite().all():
        raise InputError(f"{what}: its logits are not finite: weights are NaN or infinite, or too large for float32")
    return flops


def _forward(model: nn.Module, inputs: dict[str, torch.Tensor]) -> tuple[float, Any]:
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            outputs = model(**inputs)
    finally:
        for module in training:
            module.training = True
    return float(counter.get_total_flops()), outputs
