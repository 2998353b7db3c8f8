"""One training of five epochs by hf_scaling, by timm and by a plain transformers Trainer: whole command and epoch.

    python benchmarks/rivals.py FOLDER_WITH_train.parquet [--images 10000] [--epochs 5] [--rounds 2]

The same images (columns image, label), the same model (ViT, 32 px, patch 8, 64 wide, 4 deep, heads of 16), batch 128,
AdamW, flip and normalise, float32, one thread, no evaluation of the rivals. Each contender is a process of its own;
"command" is its whole time by the clock, "epoch" the median processor time of an epoch after the first, that of its
loading processes included. The bare loop has the images as tensors in memory: forward, backward and step alone.

Followed of timm's train.py: create_dataset and create_loader (ImageFolder, use_prefetcher, color_jitter 0, no
aa), create_optimizer_v2 and the loop of train_one_epoch (loss, backward, step, zero_grad). Followed of transformers'
run_image_classification.py: set_transform with torchvision transforms on PIL images, a collator that stacks, and
Trainer. Loading processes 0 and 1 are tried, and the better counts.
"""

import argparse
import itertools
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RATE, DECAY, BATCH, N_TEST = 3e-3, 0.05, 128, 1_000


def processor_seconds() -> float:
    """Of this process and its children that have ended or are running."""
    import psutil

    process = psutil.Process()
    own = sum(process.cpu_times()[:2])
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    running = sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))
    return own + running + ended.ru_utime + ended.ru_stime


def model():
    """The model of all contenders."""
    import timm

    return timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, embed_dim=64, depth=4, num_heads=4, num_classes=10
    )


def report(marks: list[float]) -> None:
    """Print the median processor time of an epoch after the first."""
    steps = [after - before for before, after in itertools.pairwise(marks)]
    print(f"EPOCH {statistics.median(steps[1:] or steps):.3f}", flush=True)


def bare(images: Path, epochs: int, workers: int) -> None:
    """Tensors in memory: forward, backward, step."""
    import numpy as np
    import torch
    from PIL import Image

    files = sorted(images.rglob("*.jpg"))
    pixels = torch.from_numpy(np.stack([np.asarray(Image.open(file).convert("RGB")) for file in files]))
    pixels = pixels.permute(0, 3, 1, 2).float().div_(127.5).sub_(1).contiguous()
    labels = torch.tensor([int(file.parent.name) for file in files])
    net, marks = model(), [processor_seconds()]
    optimiser = torch.optim.AdamW(net.parameters(), RATE, weight_decay=DECAY)
    for _ in range(epochs):
        for chosen in torch.randperm(len(pixels)).split(BATCH):
            loss = torch.nn.functional.cross_entropy(net(pixels[chosen]), labels[chosen])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        marks.append(processor_seconds())
    report(marks)


def by_timm(images: Path, epochs: int, workers: int) -> None:
    """timm's data set, loader and optimiser in the loop of its training script."""
    import torch
    from timm.data import create_dataset, create_loader
    from timm.optim import create_optimizer_v2

    loader = create_loader(
        create_dataset("", root=str(images), split="train", is_training=True),
        input_size=(3, 32, 32),
        batch_size=BATCH,
        is_training=True,
        no_aug=False,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        hflip=0.5,
        color_jitter=0.0,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        num_workers=workers,
        use_prefetcher=False,
        device=torch.device("cpu"),
    )
    net, marks = model(), [processor_seconds()]
    optimiser = create_optimizer_v2(net, opt="adamw", lr=RATE, weight_decay=DECAY)
    loss_function = torch.nn.CrossEntropyLoss()
    for _ in range(epochs):
        for pixels, labels in loader:
            loss = loss_function(net(pixels), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        marks.append(processor_seconds())
    report(marks)


def by_transformers(images: Path, epochs: int, workers: int) -> None:
    """A Trainer with transforms of single items."""
    import torch
    from datasets import load_dataset
    from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor
    from transformers import Trainer, TrainerCallback, TrainingArguments, ViTConfig, ViTForImageClassification

    transform = Compose([RandomHorizontalFlip(), ToTensor(), Normalize((0.5,) * 3, (0.5,) * 3)])
    data = load_dataset("parquet", data_files=str(images / "train.parquet"), split="train")

    def prepare(batch):
        return {
            "pixel_values": [transform(image.convert("RGB")) for image in batch["image"]],
            "labels": batch["label"],
        }

    data.set_transform(prepare)
    config = ViTConfig(
        image_size=32,
        patch_size=8,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        num_labels=10,
    )
    marks = [processor_seconds()]

    class Marks(TrainerCallback):
        def on_train_begin(self, *args, **options):
            marks[:] = [processor_seconds()]

        def on_epoch_end(self, *args, **options):
            marks.append(processor_seconds())

    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out,
            per_device_train_batch_size=BATCH,
            num_train_epochs=epochs,
            learning_rate=RATE,
            weight_decay=DECAY,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            dataloader_num_workers=workers,
            disable_tqdm=True,
        )
        Trainer(
            ViTForImageClassification(config),
            arguments,
            train_dataset=data,
            data_collator=lambda rows: {
                "pixel_values": torch.stack([row["pixel_values"] for row in rows]),
                "labels": torch.tensor([row["labels"] for row in rows]),
            },
            callbacks=[Marks()],
        ).train()
    report(marks)


def by_hf_scaling(images: Path, epochs: int, workers: int) -> None:
    """What recipes/pretrain.py does, evaluation on the test part included; the cache is empty at the first call."""
    from hf_scaling.processes import importing

    with importing():
        from transformers import TrainerCallback

        from hf_scaling.training import parse_pretrain, resolve, train
        from hf_scaling.training import trainer as trainers

    marks: list[float] = []

    class Marks(TrainerCallback):
        def on_train_begin(self, *args, **options):
            marks[:] = [processor_seconds()]

        def on_step_end(self, args, state, control, **options):
            if state.global_step % -(-state.max_steps // epochs) == 0 or state.global_step == state.max_steps:
                marks.append(processor_seconds())

    made = trainers.RunTrainer.__init__

    def with_marks(self, *args, **options):
        made(self, *args, **options)
        self.add_callback(Marks())

    trainers.RunTrainer.__init__ = with_marks
    with tempfile.TemporaryDirectory() as out:
        values = {
            "source": images,
            "model": "vit-200k",
            "image_size": 32,
            "patch_size": 8,
            "teacher": "none",
            "num_train_epochs": epochs,
            "min_steps": 1,
            "per_device_train_batch_size": BATCH,
            "per_device_eval_batch_size": 250,
            "learning_rate": RATE,
            "weight_decay": DECAY,
            "augmentation": "flip",
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": "true",
            "output_dir": Path(out) / "run",
        }
        train(resolve(*parse_pretrain([f"--{name}={value}" for name, value in values.items()], None)))
    report(marks)


CONTENDERS = {"bare": bare, "hf_scaling": by_hf_scaling, "timm": by_timm, "transformers": by_transformers}


def write_images(source: Path, out: Path, n: int) -> None:
    """The first n images as JPEG files in class folders and as Parquet; the same files for every contender."""
    import io

    import pyarrow.parquet as pq
    from PIL import Image

    table = pq.read_table(source / "train.parquet").slice(0, n + N_TEST)
    pq.write_table(table.slice(0, n), out / "train.parquet")
    for number, row in enumerate(table.select(["image", "label"]).to_pylist()):
        content = row["image"]["bytes"] if isinstance(row["image"], dict) else row["image"]
        # hf_scaling evaluates at the end, on a test part of its own: all of them train on the same n images.
        for root in ("files/train", "ours/train") if number < n else ("ours/test",):
            folder = out / root / str(row["label"])
            folder.mkdir(parents=True, exist_ok=True)
            Image.open(io.BytesIO(content)).convert("RGB").save(folder / f"{number:06d}.jpg", quality=95)


def main() -> None:
    """Run the contenders in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--contender", choices=CONTENDERS, help="run this one, in this process")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--only", choices=CONTENDERS, nargs="+", default=list(CONTENDERS))
    options = parser.parse_args()
    if options.contender:
        CONTENDERS[options.contender](options.folder, options.epochs, options.workers)
        return
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_images(options.folder, root, options.images)
        plans = [("bare", 0), ("hf_scaling", 0), ("timm", 0), ("timm", 1), ("transformers", 0), ("transformers", 1)]
        places = {"bare": root / "files/train", "timm": root / "files/train", "transformers": root}
        plans = [plan for plan in plans if plan[0] in options.only]
        results: dict[tuple[str, int], list[tuple[float, float]]] = {plan: [] for plan in plans}
        for at in range(options.rounds):
            for name, workers in plans:
                environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_SCALING_CACHE": str(root / f"cache{at}")}
                command = [sys.executable, __file__, str(places.get(name, root / "ours"))]
                command += ["--contender", name, "--workers", str(workers), "--epochs", str(options.epochs)]
                begin = time.perf_counter()
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                seconds = time.perf_counter() - begin
                if done.returncode:
                    raise SystemExit(done.stderr[-2000:])
                epoch = next(float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("EPOCH"))
                results[name, workers].append((seconds, epoch))
    least = min((epoch for _, epoch in results.get(("bare", 0), ())), default=float("nan"))
    print("contender     loading processes  command, s  epoch, processor s  (over bare)")
    for (name, workers), runs in results.items():
        seconds, epoch = (min(values) for values in zip(*runs))
        print(f"{name:12}  {workers:17}  {seconds:10.1f}  {epoch:18.2f}  {epoch / least:.2f}")


if __name__ == "__main__":
    main()
