"""transformers' Trainer with a teacher: the arguments, the loss of a step, logging, checkpoints."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, Trainer, TrainingArguments

from hf_scaling.distillation.loss import IGNORED, KINDS, SCHEDULES, LossParts, UntilPassed, alpha_at, distillation_loss
from hf_scaling.distillation.teacher import AdaptedTeacher, Teacher, input_settings, logits_of
from hf_scaling.errors import InputError, RunError
from hf_scaling.models import TRAINING, flops_of


@dataclass
class DistillationArguments(TrainingArguments):
    """`TrainingArguments` with the settings of distillation, which have no effect without a teacher.

    `ddp_find_unused_parameters` defaults to False: every weight of a classifier contributes to its logits, and
    searching for those that do not would walk the graph in each step.

    Raises:
        InputError: A setting is out of range; the message names it.
    """

    alpha: float = field(default=0.5, metadata={"help": "Weight of the teacher in the loss, 0 to 1."})
    temperature: float = field(
        default=2.0, metadata={"help": "Temperature that softens the logits of teacher and student (kind soft)."}
    )
    kind: str = field(
        default="soft",
        metadata={
            "help": "soft: KL divergence to the teacher's probabilities; hard: cross-entropy to its likeliest class.",
            "choices": list(KINDS),
        },
    )
    alpha_schedule: str = field(
        default="constant",
        metadata={
            "help": "alpha during training: constant; linear or cosine down to 0; until_passed: constant until an "
            "evaluation has the student's loss below its teacher's, then 0.",
            "choices": list(SCHEDULES),
        },
    )

    def __post_init__(self):
        if self.ddp_find_unused_parameters is None:
            self.ddp_find_unused_parameters = False
        super().__post_init__()
        if not 0 <= self.alpha <= 1:
            raise InputError(f"alpha {self.alpha}: must be between 0 (labels alone) and 1 (teacher alone)")
        if not self.temperature > 0:
            raise InputError(f"temperature {self.temperature}: must be above 0")
        for name, known in (("kind", KINDS), ("alpha_schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} {getattr(self, name)}: must be one of {', '.join(known)}")


class DistillationTrainer(Trainer):
    """transformers' Trainer that trains on the labels of images or tokens and, where there is one, on a teacher.

    Batches are dicts of `labels` (class ids, one per image; for text one per token, that of the next token) and the
    model's inputs (pixel_values, input_ids). The step is the same code with and without a teacher. It divides by the
    number of examples of the whole optimiser step, over accumulated batches and processes, so these do not change the
    gradient; nor do the examples that accelerate repeats to fill the last batch of several processes.

    Training logs `loss` and, with a teacher, `task_loss`, `distillation_loss` and `alpha`. `eval_loss` is the
    cross-entropy to the labels alone (no teacher, no label smoothing), so that both arms are compared by one number;
    it does not depend on the number of processes.

    Args:
        model: The student: any image classifier or causal language model of transformers, or a module that returns
            `logits` at the positions of its labels.
        args: `DistillationArguments`.
        teacher: A trained model of the same kind, or a `Teacher` where its images are normalised differently or its
            classes are in another order; None trains without distillation. It is frozen, in evaluation mode, and in
            no checkpoint.
        processing_class: The student's image processor or tokenizer; required where the teacher has image statistics.
        **others: As for `Trainer`.

    Raises:
        InputError: Settings that cannot be combined, or a teacher that does not fit the student.

    Example:
        >>> trainer = DistillationTrainer(student, args, teacher=teacher, train_dataset=data)  # doctest: +SKIP
        >>> trainer.train()  # doctest: +SKIP
    """

    # For transformers from 5.20 on: compute_loss has divided by the examples of the whole accumulated step.
    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: PreTrainedModel | nn.Module | None = None,
        args: DistillationArguments | None = None,
        teacher: PreTrainedModel | Teacher | None = None,
        **others,
    ):
        args = DistillationArguments(output_dir="tmp_trainer") if args is None else args
        _check_settings(args, teacher, others)
        super().__init__(model=model, args=args, **others)
        # Makes every version of Trainer count the examples of a step and hand the count to compute_loss.
        self.model_accepts_loss_kwargs = True
        # Labels are at the positions of their logits, those of text too.
        self._loss_shifts_labels = False
        self.teacher: AdaptedTeacher | None = None
        if teacher is not None:
            teacher = teacher if isinstance(teacher, Teacher) else Teacher(teacher)
            if teacher.model is self.model:
                raise InputError("teacher: it is the student itself; load the model a second time")
            # Not accelerator.prepare_model: that would neither freeze it nor move it under FSDP, and the accelerator
            # would treat it as a model in training.
            adapted = teacher.adapt_to(self.model, **input_settings(self.processing_class))
            self.teacher = adapted.to(self.args.device)
            if args.torch_compile:
                self.teacher.compile(backend=args.torch_compile_backend, mode=args.torch_compile_mode)
        self._parts = _RunningParts()
        self._flops_per_example: float | None = None
        if args.label_names is None:
            self.label_names = ["labels"]
        if teacher is not None and args.alpha_schedule == "until_passed":
            self.add_callback(UntilPassed())

    @property
    def alpha(self) -> float:
        """The teacher's weight in the next step; 0 without a teacher, and once the student has passed it."""
        until_passed = self._until_passed
        if self.teacher is None or (until_passed is not None and until_passed.passed):
            return 0.0
        progress = self.state.global_step / max(self.state.max_steps, 1)
        return alpha_at(self.args.alpha_schedule, self.args.alpha, progress)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor | tuple[Tensor, Any]:
        """The loss of one batch, as the mean over the `num_items_in_batch` examples of the optimiser step."""
        labels = inputs["labels"]
        features = {name: value for name, value in inputs.items() if name != "labels"}
        alpha = self.alpha if model.training else 0.0
        # The teacher runs first: the memory of its layers is free again when the student's activations are stored.
        teacher_logits = self._run_teacher(features) if alpha > 0 else None
        outputs = model(**features)
        if model.training:
            parts = distillation_loss(
                logits_of(outputs),
                teacher_logits,
                labels,
                alpha=alpha,
                temperature=self.args.temperature,
                kind=self.args.kind,
                num_items=num_items_in_batch,
                label_smoothing=self.args.label_smoothing_factor,
            )
            # DDP averages over the processes, but num_items_in_batch counts the examples of all of them.
            if num_items_in_batch is not None and self.args.average_tokens_across_devices and self.args.world_size > 1:
                parts = LossParts(*(part * self.accelerator.num_processes for part in parts))
            if self.teacher is not None:
                self._parts.add(parts, alpha, self.state.global_step)
            loss = parts.loss
        elif self.args.world_size == 1:
            loss = distillation_loss(logits_of(outputs), None, labels, alpha=0).loss
        else:
            # The mean over this batch on all processes, the same number on each of them.
            self._ignore_repeated(inputs)
            count = (inputs["labels"] != IGNORED).sum()
            total = distillation_loss(logits_of(outputs), None, inputs["labels"], alpha=0, num_items=1).loss
            total, count = self.accelerator.reduce(torch.stack([total, count.to(total)]), reduction="sum")
            loss = total / count
        # The teacher's logits are not added to the outputs: evaluation gathers every key of them.
        return (loss, outputs) if return_outputs else loss

    def get_batch_samples(self, epoch_iterator, num_batches: int, device: torch.device) -> tuple[list, Any]:
        """The batches of the next step and their number of examples, without repeated ones."""
        batches, num_items = super().get_batch_samples(epoch_iterator, num_batches, device)
        if batches and self._ignore_repeated(batches[-1]):
            num_items = self._get_num_items_in_batch(batches, device)
        return batches, num_items

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """Evaluate, and under until_passed record whether the student has passed its teacher."""
        metrics = super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        until_passed = self._until_passed
        if self.is_in_train and until_passed is not None and eval_dataset is None:
            if until_passed.teacher_loss is None:
                losses = []
                for inputs in self.get_eval_dataloader():
                    inputs = self._prepare_inputs(inputs)
                    labels = inputs.pop("labels")
                    logits = self._run_teacher(inputs).flatten(end_dim=-2)
                    loss = nn.functional.cross_entropy(logits, labels.flatten(), reduction="none").view_as(labels)
                    losses.append(self.accelerator.gather_for_metrics(loss))
                until_passed.teacher_loss = torch.cat(losses).double().mean().item()
            until_passed.compare(metrics[f"{metric_key_prefix}_loss"])
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, and add the parts of the loss to the training loss."""
        if self.teacher is not None and "loss" in logs:
            logs |= self._parts.drain(self.accelerator, self.state.global_step)
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: dict[str, Any]) -> float:
        """Floating-point operations of the student on a batch, forward and backward.

        One example is counted once per run. (Trainer's own estimate counts every pixel as a token, and visits all
        modules of the model in each step.)
        """
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            return super().floating_point_ops(inputs)
        if self._flops_per_example is None:
            one = {name: value[:1] for name, value in inputs.items() if name != "labels"}
            self._flops_per_example = TRAINING * flops_of(self.model, one)
        return self._flops_per_example * len(inputs["labels"])

    @property
    def _until_passed(self) -> UntilPassed | None:
        # Looked up each time: on resuming the Trainer may replace the callback by a restored copy.
        callbacks = self.callback_handler.callbacks
        return next((callback for callback in callbacks if isinstance(callback, UntilPassed)), None)

    def _run_teacher(self, features: dict[str, Any]) -> Tensor:
        with self.accelerator.autocast():
            return self.teacher(**features)

    def _ignore_repeated(self, inputs: dict[str, Any]) -> bool:
        """Ignore the examples that accelerate repeats in the last batch so that all processes have equally many."""
        progress = self.accelerator.gradient_state
        if self.args.world_size == 1 or not progress.end_of_dataloader or progress.remainder <= 0:
            return False
        own = progress.remainder - self.accelerator.process_index * len(inputs["labels"])
        inputs["labels"] = inputs["labels"].clone()
        inputs["labels"][max(own, 0) :] = IGNORED
        return True

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        if self._is_pretrained_folder(resume_from_checkpoint):
            self._load_weights(resume_from_checkpoint)
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self._is_pretrained_folder(self.state.best_model_checkpoint):
            self._load_weights(self.state.best_model_checkpoint)
        else:
            super()._load_best_model()

    def _is_pretrained_folder(self, folder: str) -> bool:
        """Whether `folder` is one that save_pretrained writes, rather than the shards of FSDP or DeepSpeed."""
        is_sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        return isinstance(self.model, PreTrainedModel) and not is_sharded and (Path(folder) / "config.json").is_file()

    def _load_weights(self, folder: str) -> None:
        """Load weights as from_pretrained does.

        The Trainer skips the names in the file that it does not know, but checkpoints of some models (the native ViT)
        are written with older names: it would continue with a randomly initialised encoder.
        """
        with torch.random.fork_rng(devices=[]):
            loaded, report = type(self.model).from_pretrained(folder, dtype=self.model.dtype, output_loading_info=True)
        if report["missing_keys"]:
            raise RunError(f"the checkpoint {folder} lacks {', '.join(sorted(report['missing_keys'])[:3])}")
        self.model.load_state_dict(loaded.state_dict())


class _RunningParts:
    """Sums of the loss's parts since they were last logged, on the device, which reading would wait for."""

    def __init__(self):
        self._sums: Tensor | None = None
        self._since = 0
        self._alpha = 0.0

    def add(self, parts: LossParts, alpha: float, step: int) -> None:
        self._alpha = alpha
        values = torch.stack([parts.task_loss.detach(), parts.distillation_loss.detach()])
        if self._sums is None:
            self._sums, self._since = values, step
        else:
            self._sums += values

    def drain(self, accelerator, step: int) -> dict[str, float]:
        """Means per step over all processes and the last step's alpha; resets the sums."""
        if self._sums is None:
            return {}
        sums = accelerator.reduce(self._sums, reduction="mean") / max(step - self._since, 1)
        self._sums = None
        return {"task_loss": sums[0].item(), "distillation_loss": sums[1].item(), "alpha": self._alpha}


def _check_settings(args: DistillationArguments, teacher: PreTrainedModel | Teacher | None, others: dict) -> None:
    if not isinstance(args, DistillationArguments):
        raise InputError(f"args: expected DistillationArguments, got {type(args).__name__}")
    if others.get("compute_loss_func") is not None:
        raise InputError("compute_loss_func: DistillationTrainer computes its own loss; leave it out")
    if args.n_gpu > 1:
        raise InputError(
            f"{args.n_gpu} GPUs in one process are not supported: start one process per GPU (`accelerate launch`, "
            "`torchrun`)"
        )
    if teacher is None or args.alpha_schedule != "until_passed":
        return
    if args.eval_strategy == "no" or others.get("eval_dataset") is None:
        raise InputError("alpha_schedule until_passed needs a validation part: give eval_dataset and eval_strategy")
    if isinstance(others["eval_dataset"], dict):
        raise InputError("alpha_schedule until_passed needs one validation part: give one eval_dataset, not a dict")
