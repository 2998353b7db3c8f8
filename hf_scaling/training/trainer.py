"""The Trainer of a run: takes the stream in order, marks whole checkpoints, and stops at a loss that is no number."""

import errno
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, TrainerCallback

from hf_scaling.distillation import DistillationTrainer
from hf_scaling.errors import RunError
from hf_scaling.training import run_folder

_NO_ROOM = 1 << 20  # bytes; what no training state fits into


class RunTrainer(DistillationTrainer):
    """A `DistillationTrainer` whose checkpoints are whole or not there, and that can go on from the newest.

    Args:
        *args, **kwargs: As for `DistillationTrainer`.
        patience: Evaluations of the validation part without a better one after which it stops; None: it does not.
        keep: A step, and where the training state after it is kept for good; None: all states go in the end.
    """

    def __init__(self, *args, patience: int | None = None, keep: tuple[int, Path] | None = None, **kwargs):
        super().__init__(*args, **kwargs)
        self._keep = keep
        if patience is not None:
            self.add_callback(EarlyStoppingCallback(patience))
        if keep is not None:
            self.add_callback(_SaveAt(keep[0]))
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._batches_taught = 0

    @property
    def samples_taught(self) -> int:
        """Examples about which the teacher was asked in training."""
        return self._batches_taught * self.args.per_device_train_batch_size * self.args.world_size

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a kill included up to the checkpoint resumed from."""
        return self._seconds_before + time.monotonic() - self._started

    def go_on(self, trunk: Path | None = None) -> None:
        """Train to the end, from the newest whole checkpoint where there is one, else from `trunk` if that is given.

        Raises:
            InputError: No whole checkpoint is at `trunk`.
            RunError: A loss or a weight is no number; the checkpoints before it are kept.
        """
        checkpoints = Path(self.args.output_dir)
        newest = run_folder.newest_whole(checkpoints)
        if self.is_world_process_zero():
            run_folder.remove_torn(checkpoints)
        self.accelerator.wait_for_everyone()
        if newest is None and trunk is not None:
            newest = run_folder.check_whole(trunk)
        if newest is not None:
            notes = run_folder.read_notes(newest)
            self._seconds_before, self._batches_taught = notes["seconds"], notes["batches_taught"]
        self._started = time.monotonic()
        self.train(resume_from_checkpoint=str(newest) if newest else None)
        self._refuse_broken_weights()

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """As the Trainer's, but a loss that is no number ends the run before it reaches the weights."""
        self._batches_taught += self.alpha > 0
        loss = super().training_step(*args, **kwargs)
        if not math.isfinite(loss.item()):
            raise RunError(f"the loss became {loss.item()} at step {self.state.global_step + 1}{self._kept()}")
        return loss

    def _get_train_sampler(self, *args, **kwargs) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        self._refuse_broken_weights()
        with _full_disk_named(self.args.output_dir):
            super()._save_checkpoint(*args, **kwargs)
        # The other processes write their random states into the same folder.
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            run_folder.mark_whole(checkpoint, {"seconds": self.seconds, "batches_taught": self._batches_taught})
            if self._keep is not None and self._keep[0] == self.state.global_step:
                run_folder.keep_state(checkpoint, self._keep[1])

    def _refuse_broken_weights(self) -> None:
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise RunError(f"a weight is no number after step {self.state.global_step}{self._kept()}")

    def _kept(self) -> str:
        newest = run_folder.newest_whole(Path(self.args.output_dir))
        advice = "a smaller learning_rate may help"
        return (
            f"; {advice}; the last good checkpoint is {newest}" if newest else f"; {advice}; no checkpoint before it"
        )


class _SaveAt(TrainerCallback):
    """Asks for a checkpoint after one step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step == self.step


@contextmanager
def _full_disk_named(folder: str) -> Iterator[None]:
    """Name a full disk, which torch reports as a position in a file that it did not expect.

    Raises:
        OSError: In place of any error that leaves no room on the disk.
    """
    try:
        yield
    except Exception as error:
        if shutil.disk_usage(run_folder).free > _NO_ROOM:
            raise
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), run_folder) from error


def own_arguments(args: Any, steps: int, checkpoints: Path) -> dict[str, Any]:
    """What a run fixes in its TrainingArguments: lengths in steps, and what streams and `RunTrainer` rely on."""
    return {
        "output_dir": str(checkpoints),
        "max_steps": steps,
        "num_train_epochs": 1,
        "remove_unused_columns": False,
        "prediction_loss_only": True,
        "dataloader_pin_memory": args.dataloader_pin_memory and torch.cuda.is_available(),
        "logging_nan_inf_filter": False,
        "save_total_limit": max(2, args.save_total_limit or 2),
        # A finished run is pushed with its own card (`publishing`), not a running one with the Trainer's.
        "push_to_hub": False,
    }
