"""Cost of a teacher: a distilled step over a step without a teacher plus the teacher's forward pass.

    python benchmarks/distillation_step.py [--student vit-200k] [--teacher vit-30k] [--rounds 15] [--steps 40]

Three alternate: the Trainer without a teacher, the same with a forward pass of the teacher before each step (logits
discarded), and the distilling Trainer. Medians are printed; a ratio of 1 means that distillation costs the teacher's
forward pass and nothing else. On a CPU the process's own clock is used, which other programs do not advance.
"""

import argparse
import statistics
import tempfile
import time

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback

from hf_scaling.distillation import DistillationArguments, DistillationTrainer, Teacher
from hf_scaling.models import build_student

CLASSES = 10
clock = time.perf_counter if torch.cuda.is_available() else time.process_time


class Clock(TrainerCallback):
    """Times the steps alone."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self.started = clock()

    def on_train_end(self, args, state, control, **kwargs):
        """Stop the clock."""
        self.milliseconds = 1e3 * (clock() - self.started) / state.global_step


class Batches(Dataset):
    """Random images, read as whole batches."""

    def __init__(self, n: int, image_size: int):
        self.pixels, self.labels = torch.randn(n, 3, image_size, image_size), torch.randint(CLASSES, (n,))

    def __len__(self):
        return len(self.labels)

    def __getitems__(self, indices):
        return {"pixel_values": self.pixels[indices], "labels": self.labels[indices]}


class ForwardOnly(TrainerCallback):
    """Runs the teacher on a batch before each step and discards its logits."""

    def __init__(self, teacher, batch: torch.Tensor):
        self.teacher, self.batch = teacher, batch

    def on_step_begin(self, args, state, control, **kwargs):
        """Run the teacher."""
        with torch.no_grad():
            self.teacher(pixel_values=self.batch.to(args.device))


def train(options, dataset: Dataset, teacher=None, callbacks=()) -> float:
    """Milliseconds per step of the Trainer."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = DistillationArguments(
            output_dir=folder,
            use_cpu=not torch.cuda.is_available(),
            per_device_train_batch_size=options.batch,
            max_steps=options.steps,
            remove_unused_columns=False,
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        timer = Clock()
        DistillationTrainer(
            build_student(options.student, CLASSES, options.image_size),
            arguments,
            teacher=teacher,
            train_dataset=dataset,
            data_collator=lambda batch: batch,
            callbacks=[timer, *callbacks],
        ).train()
        return timer.milliseconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", default="vit-200k")
    parser.add_argument("--teacher", default="vit-30k")
    parser.add_argument("--image-size", type=int, default=28)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    dataset = Batches(options.batch * options.steps, options.image_size)
    teacher = build_student(options.teacher, CLASSES, options.image_size, seed=1).eval()
    Teacher(teacher).adapt_to(teacher)  # freezes it, as the Trainer will
    forward_only = ForwardOnly(teacher, dataset.pixels[: options.batch])
    rounds = []
    for _ in range(options.rounds + 1):
        plain = train(options, dataset)
        rounds.append((plain, train(options, dataset, callbacks=[forward_only]), train(options, dataset, teacher)))
    plain, both, distilled = (statistics.median(column) for column in zip(*rounds[1:]))  # the first warms up
    ratio = statistics.median(distilled / both for _, both, distilled in rounds[1:])
    print(f"step without a teacher     {plain:8.2f} ms  ({options.student}, batch {options.batch})")
    print(f"plus the teacher's forward {both:8.2f} ms  ({options.teacher})")
    print(f"distilled step             {distilled:8.2f} ms")
    print(f"ratio                      {ratio:8.3f}  median of {options.rounds} rounds")


if __name__ == "__main__":
    main()
