"""An average of a run's last weights, which is what is evaluated and saved: less noise from seed to seed, at no cost.

    averaging: tail:0.2     # the mean over the last fifth of the steps
    averaging: ema:0.99     # an exponential moving average, which forgets 1 % of itself in each step

Source: Izmailov et al. 2018 (arXiv 1803.05407) for the tail; Polyak and Juditsky 1992 for averaging at all.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import nn

from hf_scaling.errors import InputError

_FILE = "average.safetensors"
_N_STEPS = "n_steps"


@dataclass(frozen=True)
class Averaging:
    """What is averaged.

    Attributes:
        kind: "tail" or "ema".
        value: The share of the steps in the tail, above 0 and up to 1; or the decay of a step, above 0 and below 1.
    """

    kind: str
    value: float

    @classmethod
    def parse(cls, text: str) -> "Averaging":
        """Read `tail:SHARE` or `ema:DECAY`.

        Raises:
            InputError: It is neither, or the number is out of range.
        """
        kind, _, number = text.partition(":")
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if kind not in ("tail", "ema") or not (0 < value < 1 or (kind, value) == ("tail", 1)):
            raise InputError(
                f"averaging {text}: must be tail:SHARE, a share of the steps up to 1, or ema:DECAY, between 0 and 1; "
                "leave it out for the last weights"
            )
        return cls(kind, value)

    def __str__(self) -> str:
        return f"{self.kind}:{self.value:g}"

    def share_of_new(self, step: int, max_steps: int, n_steps: int) -> float:
        """The weight of the weights after a step in the average; 0 before it begins.

        Args:
            step: Steps done, counted from 1.
            max_steps: Steps of the run.
            n_steps: Steps in the average already.
        """
        if self.kind == "tail":
            return 1 / (n_steps + 1) if step > round((1 - self.value) * max_steps) or step == max_steps else 0.0
        # The first weights are random: until there are enough steps the average is over all of them alike.
        return max(1 - self.value, 1 / (n_steps + 1))


class WeightAverage:
    """The running average of a model's trained weights.

    Args:
        model: The model in training; its frozen weights are left out.
        averaging: What is averaged.
        batches: Gives training batches of the model's inputs, from which batch norm takes its statistics.
    """

    def __init__(
        self, model: nn.Module, averaging: Averaging, batches: Callable[[], Iterable[dict[str, torch.Tensor]]]
    ):
        self._model, self._averaging, self._batches, self.n_steps = model, averaging, batches, 0
        self._weights = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
        self._average: dict[str, torch.Tensor] = {}

    @torch.no_grad()
    def update(self, step: int, max_steps: int) -> None:
        """Take in the weights after a step."""
        share = self._averaging.share_of_new(step, max_steps, self.n_steps)
        if share == 0:
            return
        if self.n_steps == 0:
            self._average = {name: weight.detach().clone() for name, weight in self._weights.items()}
        else:
            torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), share)
        self.n_steps += 1

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Put the average in the model's place; afterwards weights and statistics are as before."""
        if self.n_steps == 0:
            yield
            return
        tensors = [*self._weights.values(), *self._model.buffers()]
        kept = [tensor.detach().clone() for tensor in tensors]
        self.apply()
        try:
            yield
        finally:
            with torch.no_grad():
                for tensor, before in zip(tensors, kept):
                    tensor.copy_(before)

    @torch.no_grad()
    def apply(self) -> None:
        """Put the average in the model's place, and compute its statistics of batch norm; not where it is empty."""
        if self.n_steps == 0:
            return
        for name, weight in self._average.items():
            self._weights[name].copy_(weight)
        layers = [layer for layer in self._model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
        layers = [layer for layer in layers if layer.track_running_stats]
        if not layers:
            return
        was_training, momenta = self._model.training, [layer.momentum for layer in layers]
        self._model.eval()
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the mean over all batches
            layer.train()
        for batch in self._batches():
            self._model(**batch)
        for layer, momentum in zip(layers, momenta):
            layer.momentum = momentum
        self._model.train(was_training)

    def save(self, checkpoint: Path) -> None:
        """Write the average into the folder of a training state."""
        metadata = {_N_STEPS: str(self.n_steps)}
        safetensors.torch.save_file(self._average, checkpoint / _FILE, metadata)

    def load(self, checkpoint: Path) -> None:
        """Read what `save` wrote."""
        device = next(iter(self._weights.values())).device
        with safetensors.safe_open(checkpoint / _FILE, "pt", device=str(device)) as file:
            self.n_steps = int(file.metadata()[_N_STEPS])
            self._average = {name: file.get_tensor(name) for name in self._weights} if self.n_steps else {}
