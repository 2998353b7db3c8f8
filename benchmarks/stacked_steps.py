"""Would several runs of one architecture, trained as one model with stacked weights, take less time?

    OMP_NUM_THREADS=1 python benchmarks/stacked_steps.py [--models 8] [--steps 60]

For each student of the grid `demo` at its image size, patch size and batch: seconds of processor time of a step
(forward, backward, fused AdamW) of each of --models models one after the other, and of all of them stacked with
torch.func, in turn; the ratio of the medians, and the ratio of the grid as a whole, its students weighted by their
time.
"""

import argparse
import statistics
import time
from pathlib import Path

import timm.layers
import torch
import yaml
from torch.func import functional_call, grad, stack_module_state, vmap

from hf_scaling.models.vision import build_student

DEMO = Path(__file__).parents[1] / "recipes" / "grids" / "demo.yaml"


def seconds(step, count: int) -> list[float]:
    """Processor seconds of each of `count` calls."""
    times = []
    for _ in range(count):
        start = time.process_time()
        step()
        times.append(time.process_time() - start)
    return times


def time_student(name: str, fields: dict, n: int, steps: int) -> tuple[float, float]:
    """Processor seconds of a step of one of `n` students: alone, and stacked (medians)."""
    side, batch, n_classes = fields["image_size"], fields["per_device_train_batch_size"], fields["classes"]
    images, labels = torch.randn(n, batch, 3, side, side), torch.randint(n_classes, (n, batch))
    students = []
    # A stack has no batching rule for the fused attention kernel, which separate models use.
    for is_fused in (True, False):
        timm.layers.set_fused_attn(is_fused)
        students.append([build_student(name, n_classes, side, fields["patch_size"], seed=seed) for seed in range(n)])
    models, (single, *_) = students
    weights, buffers = stack_module_state(students[1])
    optimizers = [torch.optim.AdamW(model.parameters(), fused=True) for model in models]
    optimizer = torch.optim.AdamW(weights.values(), fused=True)

    def loss_of(weights, buffers, images, labels):
        logits = functional_call(single, (weights, buffers), kwargs={"pixel_values": images}).logits
        return torch.nn.functional.cross_entropy(logits, labels)

    gradient = vmap(grad(loss_of))

    def separate():
        for model, own, x, y in zip(models, optimizers, images, labels):
            torch.nn.functional.cross_entropy(model(pixel_values=x).logits, y).backward()
            own.step()
            own.zero_grad()

    def stacked():
        gradients = gradient({key: value.detach() for key, value in weights.items()}, buffers, images, labels)
        for key, value in weights.items():
            value.grad = gradients[key]
        optimizer.step()

    seconds(separate, 5)
    seconds(stacked, 5)
    times = [(*seconds(separate, 1), *seconds(stacked, 1)) for _ in range(steps)]
    alone, together = (statistics.median(column) / n for column in zip(*times))
    return alone, together


def main() -> None:
    """Time and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=8, help="models in a stack")
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    grid = yaml.safe_load(DEMO.read_text())
    times = []
    for name in grid["models"]:
        alone, together = time_student(name, grid["pretrain"], options.models, options.steps)
        times.append((alone, together))
        milliseconds = f"{1e3 * alone:.2f} ms a step of a model alone, {1e3 * together:.2f} stacked"
        print(f"{name}: {milliseconds}: {alone / together:.2f} times", flush=True)
    alone, together = map(sum, zip(*times))
    print(f"all students of demo, equal steps: {alone / together:.2f} times")


if __name__ == "__main__":
    main()
