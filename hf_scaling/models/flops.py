"""Parameters and floating-point operations, counted rather than read off a name."""

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

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
    training = {module for module in model.modules() if module.training}
    model.eval()
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            model(**inputs)
    finally:
        for module in training:
            module.training = True
    return float(counter.get_total_flops())
