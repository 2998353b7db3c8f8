"""Causal language models: a GPT-NeoX family, Pythia's shapes, and checkpoints of any architecture."""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoModelForCausalLM, GPTNeoXConfig, GPTNeoXForCausalLM, PreTrainedModel

from hf_scaling.errors import InputError
from hf_scaling.models.loading import check_complete, checkpoint_folder, loading_errors
from hf_scaling.models.vision import seeded
from hf_scaling.text import did_you_mean


@dataclass(frozen=True)
class LanguageShape:
    """Width, depth and heads of a GPT-NeoX model; the MLP is four times as wide.

    `tied`: whether the embedding is also the output layer, usual for small models.
    """

    width: int
    depth: int
    heads: int
    tied: bool = False


#: Names of `lm-...` are parameters counted with 257 tokens (bytes); Pythia: Biderman et al. 2023, arXiv 2304.01373.
LANGUAGE_FAMILIES = {
    "lm-100k": LanguageShape(64, 2, 2, tied=True),
    "lm-500k": LanguageShape(96, 4, 3, tied=True),
    "lm-2m": LanguageShape(160, 6, 5, tied=True),
    "pythia-14m": LanguageShape(128, 6, 4),
    "pythia-70m": LanguageShape(512, 6, 8),
    "pythia-160m": LanguageShape(768, 12, 12),
    "pythia-410m": LanguageShape(1024, 24, 16),
    "pythia-1b": LanguageShape(2048, 16, 8),
    "pythia-1.4b": LanguageShape(2048, 24, 16),
    "pythia-2.8b": LanguageShape(2560, 32, 32),
    "pythia-6.9b": LanguageShape(4096, 32, 32),
    "pythia-12b": LanguageShape(5120, 36, 40),
}


def build_language_model(name: str, n_tokens: int, context: int, seed: int = 0, end: int = 0) -> PreTrainedModel:
    """Build a causal language model with random weights, which are a function of the arguments alone.

    Under `torch.device("meta")` the model has shapes but no weights, enough to count its parameters and FLOPs.

    Args:
        name: A name of `LANGUAGE_FAMILIES`.
        n_tokens: Size of the vocabulary.
        context: Number of tokens that it attends to.
        seed: Determines the weights.
        end: Id of the token that ends a text.

    Returns:
        The model in training mode, on the CPU or the device of the context.

    Raises:
        InputError: Unknown name (the nearest known ones are named).

    Example:
        >>> count_params(build_language_model("lm-100k", n_tokens=257, context=128))
        116544
    """
    if name not in LANGUAGE_FAMILIES:
        hint = did_you_mean(name, LANGUAGE_FAMILIES, n=3) or f"; known are {', '.join(LANGUAGE_FAMILIES)}"
        raise InputError(f"unknown model {name}{hint}")
    shape = LANGUAGE_FAMILIES[name]
    config = GPTNeoXConfig(
        vocab_size=n_tokens,
        max_position_embeddings=context,
        hidden_size=shape.width,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        intermediate_size=4 * shape.width,
        tie_word_embeddings=shape.tied,
        bos_token_id=end,
        eos_token_id=end,
        use_cache=False,
    )
    with seeded(seed):
        return GPTNeoXForCausalLM(config).train()


def load_language_model(folder_or_hub_id: str | Path, revision: str | None = None) -> PreTrainedModel:
    """Load a causal language model of any architecture of transformers.

    Args:
        folder_or_hub_id: A folder that `save_pretrained` wrote, or a Hub id; an existing folder wins.
        revision: Branch, tag or commit on the Hub.

    Returns:
        The model in evaluation mode on the CPU, in float32.

    Raises:
        InputError: No such folder or repository, offline, no usable weights, code of its own, or not a language model.
    """
    name = str(folder_or_hub_id)
    folder = checkpoint_folder(name, revision)
    with loading_errors(name, "a causal language model"):
        config = AutoConfig.from_pretrained(folder)
        # Keys and values of earlier tokens are needed for generation only.
        config.use_cache = False
        model, report = AutoModelForCausalLM.from_pretrained(
            folder, config=config, dtype="float32", output_loading_info=True
        )
    check_complete(name, report, "language model")
    return model
