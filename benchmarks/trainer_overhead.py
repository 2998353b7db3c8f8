"""What the Trainer adds to a plain PyTorch loop: milliseconds per step, on a model that does almost nothing.

    python benchmarks/trainer_overhead.py [--rounds 15] [--steps 400]

Both loops read the same data set (whole batches from memory), and do the same work: forward, cross-entropy, backward,
clipping, AdamW, a learning-rate schedule. They alternate, and medians are printed. The clock counts the time of this
process alone: run it with OMP_NUM_THREADS=1.
"""

import argparse
import statistics
import tempfile
import time

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset
from transformers import TrainerCallback

from hf_scaling.distillation import DistillationArguments, DistillationTrainer

BATCH, CLASSES = 128, 10


class Batches(Dataset):
    """A data set that returns whole batches, as those of hf_scaling do."""

    def __init__(self, n: int):
        self.pixels, self.labels = torch.randn(n, 3, 8, 8), torch.randint(CLASSES, (n,))

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        return {"pixel_values": self.pixels[indices], "labels": self.labels[indices]}


class NearZero(nn.Module):
    """One small linear layer."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3 * 8 * 8, CLASSES)

    def forward(self, pixel_values, labels=None):
        """Logits (batch, CLASSES)."""
        return {"logits": self.head(pixel_values.flatten(1))}


class Clock(TrainerCallback):
    """Times the steps alone, without the start and the end of training."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Start."""
        self.started = time.process_time()

    def on_train_end(self, args, state, control, **kwargs):
        """Stop."""
        self.milliseconds = 1e3 * (time.process_time() - self.started) / state.global_step


def identity(batch):
    return batch


def plain_loop(dataset: Dataset, steps: int) -> float:
    """Milliseconds of a step written out by hand."""
    model = NearZero()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / steps)
    loader = DataLoader(dataset, batch_size=BATCH, shuffle=True, collate_fn=identity)
    started, done, total = time.process_time(), 0, torch.tensor(0.0)
    while done < steps:
        for batch in loader:
            model.train()
            loss = nn.functional.cross_entropy(model(batch["pixel_values"])["logits"], batch["labels"])
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            total += loss.detach()
            done += 1
    return 1e3 * (time.process_time() - started) / done


def trainer_loop(dataset: Dataset, steps: int) -> float:
    """Milliseconds of a step of the Trainer."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(
            output_dir=folder,
            use_cpu=True,
            per_device_train_batch_size=BATCH,
            max_steps=steps,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        timer = Clock()
        DistillationTrainer(
            NearZero(), arguments, train_dataset=dataset, data_collator=identity, callbacks=[timer]
        ).train()
    return timer.milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=400)
    options = parser.parse_args()
    dataset = Batches(BATCH * 100)
    plain, trained = [], []
    for _ in range(options.rounds + 1):
        plain.append(plain_loop(dataset, options.steps))
        trained.append(trainer_loop(dataset, options.steps))
    plain, trained = plain[1:], trained[1:]  # the first round warms up
    extra = [b - a for a, b in zip(plain, trained)]
    print(f"            median  quietest of {options.rounds} rounds, ms per step")
    for name, median, least in (
        ("plain loop", statistics.median(plain), min(plain)),
        ("Trainer", statistics.median(trained), min(trained)),
        ("above it", statistics.median(extra), min(trained) - min(plain)),
    ):
        print(f"{name:10}  {median:6.3f}  {least:6.3f}")


if __name__ == "__main__":
    main()
