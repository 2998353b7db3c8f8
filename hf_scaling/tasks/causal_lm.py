"""Causal language modelling: how to load, batch, evaluate and count."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from hf_scaling import models
from hf_scaling.data.text import TextSource, TextSplit, load_tokenizer, tokenizer_name
from hf_scaling.errors import InputError, RunError
from hf_scaling.tasks.base import Chosen, FinetuneFields, Measurement, PretrainFields
from hf_scaling.tasks.streams import Windows, WindowStream

_SHOW_AFTER_SECONDS = 3
_PYTHIA_TOKENS, _PYTHIA_CONTEXT = 50_304, 2_048


@dataclass
class _TextFields:
    text_column: str | None = field(default=None, metadata={"help": "column of the text; found where there is one"})
    skip_empty: bool = field(default=False, metadata={"help": "leave out documents without text"})


@dataclass
class PretrainText(_TextFields, PretrainFields):
    """Pretrain one language model on an upstream text, plain or taught by a teacher."""

    EXAMPLE: ClassVar[str] = (
        "accelerate launch recipes/pretrain.py --task causal_lm --source python_code --n_pretrain 1000000"
    )

    source: str = field(
        default="python_code", metadata={"help": "an embedded text, .txt files, a Hub id, a folder or a Parquet file"}
    )
    model: str = field(default="lm-100k", metadata={"help": "student: a family name"})
    tokenizer: str = field(default="bytes", metadata={"help": "bytes, a folder with tokenizer.json or a Hub id"})
    context: int = field(default=128, metadata={"help": "tokens that the model looks at"})


@dataclass
class FinetuneText(_TextFields, FinetuneFields):
    """Fine-tune a language model on a downstream text."""

    EXAMPLE: ClassVar[str] = (
        "accelerate launch recipes/finetune.py --task causal_lm --checkpoint runs/RUN_ID --source python_docs"
    )

    source: str = field(
        default="python_docs", metadata={"help": "an embedded text, .txt files, a Hub id, a folder or a Parquet file"}
    )
    context: int | None = field(
        default=None, metadata={"help": "tokens that the model looks at; as many as it can when absent"}
    )
    train_part: Literal["all", "lora"] = field(
        default="all", metadata={"help": "weights to train: all, or low-rank additions to all linear layers (peft)"}
    )
    lora_rank: int = field(default=8, metadata={"help": "rank of those additions"})


@dataclass(frozen=True)
class TextInputs:
    """The tokenizer (see `data.text.load_tokenizer`), and how many tokens a model looks at."""

    tokenizer: str
    context: int


class CausalLM:
    """The task of telling the next token."""

    name, data, unit = "causal_lm", "text", "token"
    fields: ClassVar[Mapping[str, type]] = {"pretrain": PretrainText, "finetune": FinetuneText}
    card, tag, sample = "language_model", "text-generation", "import "
    guess: ClassVar[Mapping[str, int]] = {"n_classes": _PYTHIA_TOKENS, "n_train": 1_000_000, "n_test": 100_000}

    def rule(self, fields: Any) -> dict[str, Any]:
        """The context, and the rank of low-rank training."""
        low_rank = getattr(fields, "train_part", None) == "lora"
        return {"context": fields.context} | ({"lora_rank": fields.lora_rank} if low_rank else {})

    def inputs(self, fields: PretrainText, downstream: FinetuneText | None = None) -> TextInputs:
        """Those of a model built from `fields`, as `downstream` goes on with it."""
        return TextInputs(fields.tokenizer, _context(downstream, fields.context))

    def inputs_of(self, folder: Path, model: PreTrainedModel, fields: Any) -> TextInputs:
        """Those of a checkpoint: its own tokenizer, and the context asked for or its longest.

        Raises:
            InputError: A context that it cannot look back on.
        """
        longest = getattr(model.config, "max_position_embeddings", None)
        if longest is None and fields.context is None:
            raise InputError(f"context: checkpoint {folder} does not state its own: give one")
        return TextInputs(tokenizer_name(folder), _context(fields, longest))

    def source_arguments(self, fields: Any, inputs: TextInputs, n: int | None) -> dict[str, Any]:
        """What `data.text.open_text` is told."""
        names = ("text_column", "streaming", "skip_empty")
        given = {name: getattr(fields, name) for name in names}
        return {"name": fields.source, "tokenizer": inputs.tokenizer, **given}

    def choose(
        self, source: TextSource, field: str, n: int | None, seed: int, hold_out: bool, rungs: Sequence[int] = ()
    ) -> Chosen:
        """The first `n` tokens of the training documents in the order of `seed`, the last document cut short.

        Raises:
            InputError: More than there are; `field` is named.
        """
        split, held_out = source.validation_parts if hold_out else (source.train, None)
        n = len(split) if n is None else n
        if n > len(split):
            raise InputError(_too_many(field, n, len(split)))
        ordered = split.order(seed)
        validation = np.zeros(0, np.int64) if held_out is None else held_out.read()
        return Chosen(ordered.read(n), validation, lambda: ordered.first(n).hashes(), (*rungs, n))

    def check_size(self, field: str, n: int, n_available: int, n_classes: int, inputs: TextInputs) -> None:
        """Refuse a size beyond the source, or too short for one example.

        Raises:
            InputError: See `choose` and `n_examples`.
        """
        if n > n_available:
            raise InputError(_too_many(field, n, n_available))
        try:
            self.n_examples(n, inputs)
        except InputError as error:
            raise InputError(f"{field}: {error}") from None

    def is_architecture(self, name: str) -> bool:
        """Whether it is a family name."""
        return name in models.LANGUAGE_FAMILIES

    def families(self) -> Sequence[str]:
        """Ours, and Pythia's shapes."""
        return list(models.LANGUAGE_FAMILIES)

    def build(self, name: str, fields: PretrainText, source: TextSource, seed: int) -> PreTrainedModel:
        """A language model with random weights."""
        tokenizer = source.tokenizer
        return models.build_language_model(name, tokenizer.size, fields.context, seed, tokenizer.end_id)

    def sketch(self, name: str, n_classes: int, fields: PretrainText) -> PreTrainedModel:
        """The same without its weights."""
        return models.sketch_language_model(name, n_classes, fields.context)

    def guess_checkpoint(self, name: str, fields: Any) -> tuple[TextInputs, PreTrainedModel | None]:
        """A Pythia by its name; of others nothing is known."""
        family = name.rpartition("/")[2].partition("@")[0].removesuffix("-deduped")
        inputs = TextInputs(name, fields.context or _PYTHIA_CONTEXT)
        if family not in models.LANGUAGE_FAMILIES:
            return inputs, None
        return inputs, models.sketch_language_model(family, _PYTHIA_TOKENS, _PYTHIA_CONTEXT)

    def configuration(self, model: PreTrainedModel) -> dict[str, Any]:
        """The architecture and its shape."""
        names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size", "max_position_embeddings")
        shape = {name: getattr(model.config, name, None) for name in (*names, "tie_word_embeddings")}
        return {"architecture": model.config.model_type, **shape}

    def load_model(self, folder: Path) -> PreTrainedModel:
        """A trained language model."""
        return models.load_language_model(folder)

    def teaching(self, folder: Path) -> dict[str, Any]:
        """Its vocabulary."""
        return {"vocabulary": load_tokenizer(str(folder)).tokenizer.get_vocab()}

    def adapt(self, model: PreTrainedModel, fields: FinetuneText, source: TextSource, seed: int) -> torch.nn.Module:
        """The model as it is, or with low-rank additions drawn from `seed`.

        Raises:
            InputError: The tokenizer knows more tokens than the model, or peft is not installed.
        """
        if source.tokenizer.size > model.config.vocab_size:
            raise InputError(
                f"checkpoint {fields.checkpoint}: its tokenizer knows {source.tokenizer.size:,} tokens and the model "
                f"{model.config.vocab_size:,}: they do not belong together"
            )
        with models.seeded(seed):
            return self.sketch_adapted(model, fields).train()

    def sketch_adapted(self, model: PreTrainedModel, fields: FinetuneText) -> torch.nn.Module:
        """The model with low-rank additions where they are asked for (LoRA, Hu et al. 2021, arXiv 2106.09685)."""
        if fields.train_part == "all":
            return model
        try:
            from peft import LoraConfig, get_peft_model
        except ImportError:
            raise InputError('train_part lora needs peft: pip install "hf_scaling[lora]"') from None
        rank = fields.lora_rank
        settings = LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", task_type="CAUSAL_LM")
        return get_peft_model(model, settings)

    def finish(self, model: torch.nn.Module) -> PreTrainedModel:
        """With its additions worked into the weights, so that it is a checkpoint like any other."""
        return model if isinstance(model, PreTrainedModel) else model.merge_and_unload()

    def processor(self, model: torch.nn.Module, inputs: TextInputs) -> PreTrainedTokenizerFast:
        """The tokenizer."""
        opened = load_tokenizer(inputs.tokenizer)
        ends = {"bos_token": opened.end, "eos_token": opened.end}
        return PreTrainedTokenizerFast(
            tokenizer_object=opened.tokenizer,
            model_max_length=inputs.context,
            clean_up_tokenization_spaces=False,
            **ends,
        )

    def training_stream(
        self, source: TextSource, chosen: Chosen, inputs: TextInputs, length: int, seed: int, fields: Any
    ) -> WindowStream:
        """The training windows as a stream of `length` positions."""
        rungs = [self.n_examples(each, inputs) for each in chosen.rungs]
        return WindowStream(chosen.train, inputs.context, length, seed, rungs)

    def validation_set(self, source: TextSource, chosen: Chosen, inputs: TextInputs) -> Windows | None:
        """The validation windows; None where none are held out.

        Raises:
            InputError: The validation part is shorter than one window.
        """
        if not len(chosen.validation):
            return None
        self.n_examples(len(chosen.validation), inputs)
        return Windows(chosen.validation, inputs.context)

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
            RunError: The loss is no number.
        """
        inputs, labels = _evaluation_windows(split.read(), processor.model_max_length)
        found = _count_answers(model, inputs, labels, batch_size, teacher)
        n = int(found["n"])
        if not np.isfinite(found["loss"]):
            raise RunError(f"the loss on the evaluation text is {found['loss'] / n}")
        names = {"error": "wrong", "loss": "loss"}
        if teacher is not None:
            names |= {"agreement": "agreed", "teacher_error": "teacher_wrong", "teacher_loss": "teacher_loss"}
        return Measurement(n_eval=n, **{name: float(found[key] / n) for name, key in names.items()})

    def overlap(
        self, chosen: Chosen, source: TextSource, upstream: np.ndarray | None, has_parent: bool
    ) -> dict[str, int | None]:
        """Evaluation documents trained on, here and by the parent (None: not known), and duplicates removed."""
        seen = {"training": chosen.seen()} | ({"upstream": upstream} if has_parent else {})
        hashes = source.test.hashes()
        counts = {name: None if each is None else int(np.isin(hashes, each).sum()) for name, each in seen.items()}
        return counts | {"duplicates": source.n_duplicates}

    def describe_overlap(self, counts: Mapping[str, int | None]) -> str:
        """`overlap`'s counts as words."""
        words = {
            "training": "also in this run's training text",
            "upstream": "also in the upstream training text",
            "duplicates": "duplicates were removed from the source before",
        }
        said = {name: "an unknown number" if count is None else f"{count:,}" for name, count in counts.items()}
        return ", ".join(f"{said[name]} {words[name]}" for name in counts)

    def n_examples(self, n: int, inputs: TextInputs) -> int:
        """Windows that `n` tokens make.

        Raises:
            InputError: Not one.
        """
        if n <= inputs.context:
            raise InputError(
                f"{n:,} tokens are too few for one window of context {inputs.context} and the token after it: "
                f"ask for at least {inputs.context + 1}, or give a smaller context"
            )
        return n // inputs.context

    def example_size(self, inputs: TextInputs) -> int:
        """Tokens predicted in a window."""
        return inputs.context

    def columns(self, inputs: TextInputs) -> dict[str, Any]:
        """None but those that every task fills."""
        return {}

    def forward_flops(self, model: torch.nn.Module, inputs: TextInputs) -> float:
        """Operations of one window's way through the model."""
        device, n = next(model.parameters()).device, inputs.context
        batch = {"input_ids": torch.zeros(1, n, dtype=torch.long, device=device)}
        if device.type == "meta":
            # Given one, transformers does not look into the positions, which are not there, to make a mask.
            batch["attention_mask"] = torch.zeros(1, 1, n, n, device=device)
        return models.flops_of(model, batch)

    def training_flops(self, model: torch.nn.Module, inputs: TextInputs) -> float:
        """Operations that training takes for one window: forward, and backward through the weights that are trained.

        Where only low-rank additions are, the frozen weights pass a gradient on but get none themselves.
        """
        forward, trained = (
            self.forward_flops(model, inputs),
            [each for each in model.parameters() if each.requires_grad],
        )
        if len(trained) == len(list(model.parameters())):
            return models.TRAINING * forward
        return 2 * forward + 2 * inputs.context * sum(each.numel() for each in trained)

    def rehearse(
        self, name: str, n_classes: int, fields: PretrainText, batch: int
    ) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
        """A student and windows of one token."""
        tokens = torch.zeros(batch, fields.context, dtype=torch.long)
        model = models.build_language_model(name, n_classes, fields.context)
        return model, {"input_ids": tokens, "labels": tokens.clone()}


def _context(fields: FinetuneText | None, longest: int | None) -> int:
    asked = None if fields is None else fields.context
    if asked is not None and longest is not None and asked > longest:
        raise InputError(f"context {asked}: the checkpoint looks back on {longest} tokens at most")
    return longest if asked is None else asked


def _too_many(field: str, n: int, n_available: int) -> str:
    return f"{field}: {n:,} tokens were asked for, but there are only {n_available:,}: ask for at most that many"


def _evaluation_windows(tokens: np.ndarray, context: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs and labels, int64 (n, context), of every token but the first; -1 labels what fills up."""
    rest = -(len(tokens) - 1) % context
    inputs = np.concatenate([tokens[:-1], np.zeros(rest, np.int64)])
    labels = np.concatenate([tokens[1:], np.full(rest, -1)])
    return tuple(torch.from_numpy(each).view(-1, context) for each in (inputs, labels))


@torch.no_grad()
def _count_answers(model, inputs, labels, batch_size: int, teacher: Callable | None) -> dict[str, float]:
    """Sums over the tokens, in float64, the batches shared by the processes and added in their order."""
    state = PartialState()
    model.eval()
    found = []
    starts = range(0, len(inputs), batch_size)[state.process_index :: state.num_processes]
    for start in tqdm(starts, "evaluating", delay=_SHOW_AFTER_SECONDS, disable=not state.is_local_main_process):
        batch = inputs[start : start + batch_size].to(model.device)
        wanted = labels[start : start + batch_size].to(model.device)
        counted = wanted >= 0
        answers = model(input_ids=batch).logits.float()[counted]
        of_teacher = None if teacher is None else teacher(input_ids=batch).float()[counted]
        found.append((start, _sums(answers, wanted[counted], of_teacher)))
    found = [sums for _, sums in sorted(gather_object(found), key=lambda each: each[0])]
    return {name: sum(each[name] for each in found) for name in found[0]}


def _sums(answers: torch.Tensor, labels: torch.Tensor, of_teacher: torch.Tensor | None) -> dict[str, float]:
    cross_entropy, guesses = torch.nn.functional.cross_entropy, answers.argmax(-1)
    sums = {
        "n": len(labels),
        "loss": cross_entropy(answers, labels, reduction="none").double().sum().item(),
        "wrong": (guesses != labels).sum().item(),
    }
    if of_teacher is not None:
        choices = of_teacher.argmax(-1)
        sums["agreed"] = (guesses == choices).sum().item()
        sums["teacher_wrong"] = (choices != labels).sum().item()
        sums["teacher_loss"] = cross_entropy(of_teacher, labels, reduction="none").double().sum().item()
    return sums
