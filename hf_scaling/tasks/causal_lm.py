"""Causal language modelling: how to load, batch, evaluate and count."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch.nn.functional import cross_entropy
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_scaling import models
from hf_scaling.data.text import TextSource, TextSplit, load_tokenizer, tokenizer_name
from hf_scaling.errors import InputError, RunError
from hf_scaling.tasks.base import FinetuneFields, Measurement, PretrainFields, Subset
from hf_scaling.tasks.streams import Windows, WindowStream

_SHOW_AFTER_SECONDS = 3
_PYTHIA_TOKENS, _PYTHIA_CONTEXT = 50_304, 2_048


@dataclass
class _TextFields:
    text_column: str | None = field(
        default=None, metadata={"help": "column of the text; needed only where there are several"}
    )
    skip_empty: bool = field(default=False, metadata={"help": "leave out documents without text"})


@dataclass
class PretrainText(_TextFields, PretrainFields):
    """Pretrain one language model on an upstream text, with or without distillation."""

    EXAMPLE: ClassVar[str] = (
        "accelerate launch recipes/pretrain.py --task causal_lm --source python_code --n_pretrain 1000000"
    )

    source: str = field(
        default="python_code", metadata={"help": "an embedded text, .txt files, a Hub id, a folder or a Parquet file"}
    )
    model: str = field(default="lm-100k", metadata={"help": "student: a family name"})
    tokenizer: str = field(default="bytes", metadata={"help": "bytes, a folder with tokenizer.json or a Hub id"})
    context: int = field(default=128, metadata={"help": "tokens in a window of the model"})


@dataclass
class FinetuneText(_TextFields, FinetuneFields):
    """Fine-tune a language model on a downstream text."""

    EXAMPLE: ClassVar[str] = (
        "accelerate launch recipes/finetune.py --task causal_lm --checkpoint runs/RUN_ID --source python_docs"
    )
    OF_A_NEW_MODEL: ClassVar[tuple[str, ...]] = ("tokenizer",)

    source: str = field(
        default="python_docs", metadata={"help": "an embedded text, .txt files, a Hub id, a folder or a Parquet file"}
    )
    context: int | None = field(
        default=None, metadata={"help": "tokens in a window of the model; by default the checkpoint's longest"}
    )
    train_part: Literal["all", "lora"] = field(
        default="all", metadata={"help": "weights to train: all, or low-rank additions to all linear layers (peft)"}
    )
    lora_rank: int = field(default=8, metadata={"help": "rank of those additions"})
    tokenizer: str | None = field(
        default=None, metadata={"help": "with model: bytes, a folder or a Hub id, as in pretraining"}
    )


@dataclass(frozen=True)
class TextInputs:
    """Windows of tokens.

    Attributes:
        tokenizer: Its name, as `data.text.load_tokenizer` takes it.
        context: Tokens in a window; None where a checkpoint does not state how many it supports.
    """

    tokenizer: str
    context: int | None

    columns: ClassVar[Mapping[str, Any]] = {}

    @property
    def example_size(self) -> int:
        """Tokens predicted in one window."""
        return self.context

    def n_examples(self, n: int, n_classes: int = 0) -> int:
        """The number of windows in `n` tokens.

        Raises:
            InputError: Not one.
        """
        if n <= self.context:
            raise InputError(
                f"{n:,} tokens are too few for one window of context {self.context} and the token after it: "
                f"ask for at least {self.context + 1}, or give a smaller context"
            )
        return n // self.context

    def blank(self, n: int, device: torch.device) -> dict[str, torch.Tensor]:
        """`n` windows of one token repeated."""
        batch = {"input_ids": torch.zeros(n, self.context, dtype=torch.long, device=device)}
        if device.type == "meta":
            # With a mask given, transformers does not read the positions, which have no values there, to build one.
            batch["attention_mask"] = torch.zeros(n, 1, self.context, self.context, device=device)
        return batch


class CausalLM:
    """The task of predicting the next token."""

    name, data, unit = "causal_lm", "text", "token"
    fields: ClassVar[Mapping[str, type]] = {"pretrain": PretrainText, "finetune": FinetuneText}
    families: ClassVar[Sequence[str]] = tuple(models.LANGUAGE_FAMILIES)
    card, tag, sample = "language_model", "text-generation", "import "
    guess: ClassVar[Mapping[str, int]] = {"n_classes": _PYTHIA_TOKENS, "n_train": 1_000_000, "n_test": 100_000}

    def rule(self, fields: Any) -> dict[str, Any]:
        """The context, and the rank of low-rank training."""
        low_rank = getattr(fields, "train_part", None) == "lora"
        return {"context": fields.context} | ({"lora_rank": fields.lora_rank} if low_rank else {})

    def inputs(self, fields: Any, parent: TextInputs | None = None) -> TextInputs:
        """Windows of a new model by the fields of pretraining; or the parent's tokenizer and the context asked for.

        Raises:
            InputError: A context longer than the parent's, or none where the parent does not state one.
        """
        if parent is None:
            return TextInputs(fields.tokenizer, fields.context)
        if fields.context is None and parent.context is None:
            raise InputError(f"context: checkpoint {fields.checkpoint} does not state its own: give one")
        if fields.context is not None and parent.context is not None and fields.context > parent.context:
            raise InputError(
                f"context {fields.context}: the checkpoint supports windows of at most {parent.context} tokens"
            )
        return TextInputs(parent.tokenizer, parent.context if fields.context is None else fields.context)

    def checkpoint_inputs(self, folder: Path, model: PreTrainedModel) -> TextInputs:
        """The tokenizer of a trained checkpoint and its longest context."""
        return TextInputs(tokenizer_name(folder), getattr(model.config, "max_position_embeddings", None))

    def guess_checkpoint(self, name: str, fields: Any) -> tuple[TextInputs, PreTrainedModel | None]:
        """A Pythia model by its name; no other model is known."""
        family = name.rpartition("/")[2].partition("@")[0].removesuffix("-deduped")
        inputs = TextInputs(name, fields.context or _PYTHIA_CONTEXT)
        if family not in models.LANGUAGE_FAMILIES:
            return inputs, None
        with torch.device("meta"):
            return inputs, models.build_language_model(family, _PYTHIA_TOKENS, _PYTHIA_CONTEXT)

    def source_arguments(self, fields: Any, inputs: TextInputs, n: int | None) -> dict[str, Any]:
        """The arguments of `data.text.open_text`."""
        given = {name: getattr(fields, name) for name in ("text_column", "streaming", "skip_empty")}
        return {"name": fields.source, "tokenizer": inputs.tokenizer, **given}

    def choose(
        self, source: TextSource, field: str, n: int | None, seed: int, hold_out: bool, rungs: Sequence[int] = ()
    ) -> Subset:
        """The first `n` tokens of the training documents in the order of `seed`, the last document cut short.

        Raises:
            InputError: There are fewer; `field` is named.
        """
        split, held_out = source.validation_parts if hold_out else (source.train, None)
        n = len(split) if n is None else n
        if n > len(split):
            raise InputError(f"{field}: there are only {len(split):,} tokens, fewer than {n:,}")
        ordered = split.order(seed)
        validation = np.zeros(0, np.int64) if held_out is None else held_out.read()
        return Subset(ordered.read(n), validation, lambda: ordered.first(n).hashes(), (*rungs, n))

    def hashes(self, split: TextSplit) -> np.ndarray:
        """Hashes of the normalised documents."""
        return split.hashes()

    def is_architecture(self, name: str) -> bool:
        """Whether it is a family name."""
        return name in models.LANGUAGE_FAMILIES

    def build(self, name: str, fields: PretrainText, source: TextSource, seed: int) -> PreTrainedModel:
        """A language model with random weights and the source's vocabulary."""
        return models.build_language_model(name, len(source.class_names), fields.context, seed, source.end_id)

    def configuration(self, model: PreTrainedModel) -> dict[str, Any]:
        """The architecture and its shape."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
        shape = {name: getattr(model.config, name, None) for name in (*names, "tie_word_embeddings")}
        return {"architecture": model.config.model_type, **shape}

    def load_model(self, folder: Path) -> PreTrainedModel:
        """A trained language model."""
        return models.load_language_model(folder)

    def teacher_terms(self, folder: Path) -> dict[str, Any]:
        """The checkpoint's vocabulary."""
        return {"vocabulary": load_tokenizer(str(folder)).tokenizer.get_vocab()}

    def adapt(self, model: PreTrainedModel, fields: FinetuneText, source: TextSource, seed: int) -> PreTrainedModel:
        """The model as it is.

        Raises:
            InputError: Its vocabulary is smaller than the tokenizer's.
        """
        if len(source.class_names) > model.config.vocab_size:
            raise InputError(
                f"checkpoint {fields.checkpoint}: its tokenizer has {len(source.class_names):,} tokens and the model "
                f"{model.config.vocab_size:,}: they do not belong together"
            )
        return model

    def limit_training(self, model: PreTrainedModel, fields: FinetuneText, seed: int) -> torch.nn.Module:
        """Add low-rank weights, drawn from `seed`, where `train_part` says so (LoRA, Hu et al. 2021, 2106.09685).

        Raises:
            InputError: peft is not installed.
        """
        if fields.train_part == "all":
            return model.train()
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise InputError('train_part lora needs peft: pip install "hf_scaling[lora]"') from None
        rank = fields.lora_rank
        settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        with models.seeded(seed):
            return get_peft_model(model, settings).train()

    def processor(self, model: torch.nn.Module, inputs: TextInputs) -> PreTrainedTokenizerFast:
        """The tokenizer."""
        opened = load_tokenizer(inputs.tokenizer)
        return PreTrainedTokenizerFast(
            tokenizer_object=opened.tokenizer,
            model_max_length=inputs.context,
            clean_up_tokenization_spaces=False,
            **opened.special,
            eos_token=opened.end,
        )

    def training_sets(
        self, source: TextSource, subset: Subset, inputs: TextInputs, length: int, seed: int, fields: Any
    ) -> tuple[WindowStream, Windows | None]:
        """The training windows as a stream of `length` positions, and the validation windows.

        Raises:
            InputError: The validation part is shorter than one window.
        """
        rungs = [inputs.n_examples(rung) for rung in subset.rungs]
        stream = WindowStream(subset.train, inputs.context, length, seed, rungs)
        if not len(subset.validation):
            return stream, None
        inputs.n_examples(len(subset.validation))
        return stream, Windows(subset.validation, inputs.context)

    def evaluate(
        self,
        model: PreTrainedModel,
        processor: PreTrainedTokenizerFast,
        split: TextSplit,
        batch_size: int,
        teacher: Callable | None = None,
    ) -> Measurement:
        """Read a split's documents once, in float32, and score the model, and its teacher on the same tokens.

        Every token but the very first is predicted once, from those before it in its window. The processes share the
        batches; every process gets the whole result.

        Raises:
            RunError: The loss is not a finite number.
        """
        tokens, context = split.read(), processor.model_max_length
        # Windows of every token but the first; padding has the label -1.
        n_padding = -(len(tokens) - 1) % context
        inputs = np.concatenate([tokens[:-1], np.zeros(n_padding, np.int64)])
        labels = np.concatenate([tokens[1:], np.full(n_padding, -1)])
        windows = (torch.from_numpy(values).view(-1, context) for values in (inputs, labels))
        sums = _sum_scores(model, *windows, batch_size, teacher)
        n = int(sums.pop("n"))
        if not np.isfinite(sums["loss"]):
            raise RunError(f"the loss on the evaluation text is {sums['loss'] / n}")
        return Measurement(n_eval=n, **{name: float(total / n) for name, total in sums.items()})

    def training_flops(self, model: torch.nn.Module, inputs: TextInputs, forward: float | None = None) -> float:
        """FLOPs of training on one window: forward, and backward through the weights that are trained.

        Where only low-rank additions are trained, the frozen weights pass a gradient on but get none themselves.
        """
        if forward is None:
            forward = models.flops_of(model, inputs.blank(1, next(model.parameters()).device))
        trained = [weight for weight in model.parameters() if weight.requires_grad]
        if len(trained) == len(list(model.parameters())):
            return models.TRAINING * forward
        return 2 * forward + 2 * inputs.context * sum(weight.numel() for weight in trained)


@torch.no_grad()
def _sum_scores(
    model: PreTrainedModel, inputs: torch.Tensor, labels: torch.Tensor, batch_size: int, teacher: Callable | None
) -> dict[str, float]:
    """Sums of the columns of `Measurement` over the tokens, in float64; batches are added in their order."""
    state = PartialState()
    model.eval()
    answers = []
    starts = range(0, len(inputs), batch_size)[state.process_index :: state.num_processes]
    for start in tqdm(starts, "evaluating", delay=_SHOW_AFTER_SECONDS, disable=not state.is_local_main_process):
        batch = inputs[start : start + batch_size].to(model.device)
        batch_labels = labels[start : start + batch_size].to(model.device)
        counted = batch_labels >= 0
        targets = batch_labels[counted]
        logits = model(input_ids=batch).logits.float()[counted]
        guesses = logits.argmax(-1)
        batch_sums = {
            "n": len(targets),
            "error": (guesses != targets).sum().item(),
            "loss": cross_entropy(logits, targets, reduction="none").double().sum().item(),
        }
        if teacher is not None:
            teacher_logits = teacher(input_ids=batch).float()[counted]
            teacher_guesses = teacher_logits.argmax(-1)
            batch_sums["agreement"] = (guesses == teacher_guesses).sum().item()
            batch_sums["teacher_error"] = (teacher_guesses != targets).sum().item()
            batch_sums["teacher_loss"] = cross_entropy(teacher_logits, targets, reduction="none").double().sum().item()
        answers.append((start, batch_sums))
    sums = [of_batch for _, of_batch in sorted(gather_object(answers), key=lambda answer: answer[0])]
    return {name: sum(of_batch[name] for of_batch in sums) for name in sums[0]}
