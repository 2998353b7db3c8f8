"""The Trainer of a run: reads the stream in order, records complete checkpoints, stops where a loss is not finite."""

import contextlib
import errno
import math
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import DistributedType
from torch.utils.data import SequentialSampler
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

from hf_scaling.distillation import DistillationTrainer
from hf_scaling.errors import InputError, RunError
from hf_scaling.training import run_folder
from hf_scaling.training.averaging import Averaging, WeightAverage

# Training batches from which batch norm takes its statistics for averaged weights.
_STATISTICS_BATCHES = 50
_NO_ROOM = 1 << 20  # bytes; less than any training state


class RunTrainer(DistillationTrainer):
    """A `DistillationTrainer` whose checkpoints are complete or removed, and that resumes from the newest.

    Args:
        *args, **kwargs: As for `DistillationTrainer`.
        patience: Evaluations of the validation part without a better one after which it stops; None: it does not.
        keep: A step, and where the training state after it is kept; None: all states are removed in the end.
        flops_per_example: Of training on one example; None: they are counted.
        averaging: The average of the last weights that is evaluated, and left in the model at the end; None: the last
            weights are.

    Raises:
        InputError: averaging with weights that are spread over processes (FSDP, DeepSpeed).
    """

    def __init__(
        self,
        *args,
        patience: int | None = None,
        keep: tuple[int, Path] | None = None,
        flops_per_example: float | None = None,
        averaging: Averaging | None = None,
        **kwargs,
    ):
        super().__init__(*args, **kwargs)
        self._flops_per_example = flops_per_example
        self._keep = keep
        if patience is not None:
            self.add_callback(EarlyStoppingCallback(patience))
        if keep is not None:
            self.add_callback(_SaveAt(keep[0]))
        self._average = None
        if averaging is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise InputError("averaging: needs whole weights in every process: leave out FSDP and DeepSpeed")
            self._average = WeightAverage(self.model, averaging, self._statistics_batches)
            self.add_callback(_UpdateAverage(self._average))
        self._seconds_before, self._started = 0.0, time.monotonic()
        self._batches_distilled = 0
        self._weights: list[torch.nn.Parameter] | None = None

    @property
    def samples_distilled(self) -> int:
        """Training examples for which the teacher gave predictions."""
        return self._batches_distilled * self.args.per_device_train_batch_size * self.args.world_size

    @property
    def seconds(self) -> float:
        """Seconds of training, those before a kill included up to the checkpoint that was resumed."""
        return self._seconds_before + time.monotonic() - self._started

    def train_to_end(self, previous: Path | None = None) -> None:
        """Train to the last step, from the newest complete checkpoint, else from `previous` if that is given.

        Raises:
            InputError: `previous` is not a complete training state.
            RunError: A loss or a weight is not finite; the checkpoints before it are kept.
        """
        checkpoints = Path(self.args.output_dir)
        resume_state = run_folder.newest_complete(checkpoints)
        if self.is_world_process_zero():
            run_folder.remove_incomplete(checkpoints)
        self.accelerator.wait_for_everyone()
        if resume_state is None and previous is not None:
            if not run_folder.is_complete(previous):
                raise InputError(
                    f"{previous} is not a complete training state: remove its run's folder and train it again"
                )
            resume_state = previous
        if resume_state is not None:
            notes = run_folder.read_notes(resume_state)
            self._seconds_before, self._batches_distilled = notes["seconds"], notes["batches_taught"]
            if self._average is not None:
                self._average.load(resume_state)
        self._started = time.monotonic()
        self.train(resume_from_checkpoint=str(resume_state) if resume_state else None)
        if self._average is not None:
            best = self.state.best_model_checkpoint if self.args.load_best_model_at_end else None
            if best is not None:
                self._average.load(Path(best))
            self._average.apply()
        self._check_weights()

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As the `DistillationTrainer`'s, of the average where there is one."""
        with contextlib.nullcontext() if self._average is None else self._average.applied():
            return super().evaluate(*args, **kwargs)

    def training_step(self, *args, **kwargs) -> torch.Tensor:
        """As the Trainer's, but a loss that is not finite ends the run before it reaches the weights."""
        self._batches_distilled += self.alpha > 0
        loss = super().training_step(*args, **kwargs)
        if not math.isfinite(loss.item()):
            raise RunError(f"the loss became {loss.item()} at step {self.state.global_step + 1}{self._advice()}")
        return loss

    def _clip_grad_norm(self, model: torch.nn.Module) -> torch.Tensor:
        """As the Trainer's, which visits all modules in every step and searches for gradients that are spread."""
        if self.accelerator.distributed_type != DistributedType.NO:
            return super()._clip_grad_norm(model)
        if self._weights is None:
            self._weights = list(model.parameters())
        self.accelerator.unscale_gradients()
        return torch.nn.utils.clip_grad_norm_(self._weights, self.args.max_grad_norm)

    def _get_train_sampler(self, *args, **kwargs) -> SequentialSampler:
        return SequentialSampler(self.train_dataset)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        self._check_weights()
        folder = self.args.output_dir
        try:
            super()._save_checkpoint(*args, **kwargs)
        except Exception as error:
            # torch reports a full disk as an unexpected position in a file.
            if shutil.disk_usage(folder).free > _NO_ROOM:
                raise
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder) from error
        # The other processes write their random states into the same folder.
        self.accelerator.wait_for_everyone()
        if self.is_world_process_zero():
            checkpoint = Path(self.args.output_dir) / f"checkpoint-{self.state.global_step}"
            if self._average is not None:
                self._average.save(checkpoint)
            notes = {"seconds": self.seconds, "batches_taught": self._batches_distilled}
            run_folder.mark_complete(checkpoint, notes)
            if self._keep is not None and self._keep[0] == self.state.global_step:
                run_folder.save_resume_state(checkpoint, self._keep[1])

    def _statistics_batches(self) -> Iterator[dict[str, torch.Tensor]]:
        size = self.args.per_device_train_batch_size
        for start in range(0, min(len(self.train_dataset), _STATISTICS_BATCHES * size), size):
            positions = list(range(start, min(start + size, len(self.train_dataset))))
            batch = self._prepare_inputs(self.train_dataset.__getitems__(positions))
            yield {name: value for name, value in batch.items() if name != "labels"}

    def _check_weights(self) -> None:
        if not all(torch.isfinite(weight).all() for weight in self.model.parameters()):
            raise RunError(f"a weight is not finite after step {self.state.global_step}{self._advice()}")

    def _advice(self) -> str:
        newest = run_folder.newest_complete(Path(self.args.output_dir))
        kept = f"the last good checkpoint is {newest}" if newest else "there is no checkpoint before it"
        return f"; a smaller learning_rate may help; {kept}"


class _UpdateAverage(TrainerCallback):
    """Takes the weights after each step into the average."""

    def __init__(self, average: WeightAverage):
        self._average = average

    def on_step_end(self, args, state, control, **kwargs):
        self._average.update(state.global_step, state.max_steps)


class _SaveAt(TrainerCallback):
    """Saves a checkpoint after one step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_end(self, args, state, control, **kwargs):
        control.should_save |= state.global_step == self.step


def fixed_arguments(args: TrainingArguments, steps: int, checkpoints: Path) -> dict[str, Any]:
    """The TrainingArguments that a run sets itself: lengths in steps, and what streams and `RunTrainer` rely on."""
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
