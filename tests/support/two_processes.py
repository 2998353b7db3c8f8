"""One script for one process and for several: a few steps of each kind of training, then their weights and losses.

python tests/support/two_processes.py OUT_FILE

The libraries are imported once, and the second process is forked.
"""

import os
import socket
import sys
import tempfile

import torch

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from tiny import STUDENTS, Images

from hf_scaling.distillation import DistillationArguments, DistillationTrainer

GLOBAL_BATCH = 8


def train(folder: str, student: str, teacher: str | None, alpha_schedule: str = "constant") -> dict:
    """Two epochs over 43 images in global batches of 8, two to a step: the last one of each epoch holds 3 images."""
    world = int(os.environ.get("WORLD_SIZE", 1))
    arguments = DistillationArguments(
        output_dir=folder,
        use_cpu=True,
        optim="sgd",
        learning_rate=0.1,
        num_train_epochs=2,
        alpha_schedule=alpha_schedule,
        eval_strategy="epoch" if alpha_schedule == "until_passed" else "no",
        per_device_train_batch_size=GLOBAL_BATCH // world,
        per_device_eval_batch_size=GLOBAL_BATCH // world,
        gradient_accumulation_steps=2,
        save_strategy="no",
        logging_steps=6,
        disable_tqdm=True,
    )
    trainer = DistillationTrainer(
        STUDENTS[student](seed=1),
        arguments,
        teacher=None if teacher is None else STUDENTS[teacher](seed=2),
        train_dataset=Images(43),
        eval_dataset=Images(21, seed=5),
    )
    trainer.train()
    logs = next(entry for entry in trainer.state.log_history if "loss" in entry)
    teacher_losses = [
        callback.teacher_loss for callback in trainer.callback_handler.callbacks if hasattr(callback, "teacher_loss")
    ]
    return {
        "teacher_losses": teacher_losses,
        "weights": {name: value.detach().clone() for name, value in trainer.model.state_dict().items()},
        "eval_loss": trainer.evaluate()["eval_loss"],
        "logs": {name: logs[name] for name in ("loss", "task_loss", "distillation_loss") if name in logs},
    }


def train_all() -> dict:
    """Plain and distilled, of both libraries; a larger student under a smaller teacher among them."""
    with tempfile.TemporaryDirectory() as folder:
        return {
            " ".join(map(str, case)): train(folder, *case)
            for case in [
                ("native", None),
                ("native", "timm"),
                ("timm", None),
                ("timm", "native"),
                ("timm", "native", "until_passed"),
            ]
        }


def main() -> None:
    """Train as two processes; the first one writes the results and ends as the second did."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # What torchrun sets for its processes.
    os.environ |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    second = os.fork()
    rank = "0" if second else "1"
    os.environ |= {"RANK": rank, "LOCAL_RANK": rank}
    results = train_all()
    if second:
        torch.save(results, sys.argv[1])
        sys.exit(os.waitstatus_to_exitcode(os.waitpid(second, 0)[1]))


if __name__ == "__main__":
    main()
