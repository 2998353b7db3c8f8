"""Tokenizers: plain bytes, or the tokenizer.json of a folder or of a repository on the Hub."""

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from hf_scaling import hub
from hf_scaling.errors import InputError

BYTES = "bytes"
_BYTES_END = "<|endoftext|>"
#: Tokens that usually end a text, for a tokenizer that names none.
_USUAL_ENDS = (_BYTES_END, "</s>", "<|end_of_text|>", "<eos>")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, the token that ends a document, and a hash of everything that determines the ids of a text."""

    tokenizer: tokenizers.Tokenizer
    end: str

    @functools.cached_property
    def digest(self) -> str:
        """16 hex digits of the normalisation, the splitting, the merges, the vocabulary and the end."""
        content = json.loads(self.tokenizer.to_str())
        basis = {name: content[name] for name in ("normalizer", "pre_tokenizer")}
        basis["merges"] = content["model"].get("merges")
        basis |= {"vocabulary": self.tokenizer.get_vocab(with_added_tokens=True), "end": self.end}
        return hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def size(self) -> int:
        """Number of tokens in its vocabulary."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def end_id(self) -> int:
        """Id of the token that ends a document."""
        return self.tokenizer.token_to_id(self.end)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, its end included."""
        encodings = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [[*encoding.ids, self.end_id] for encoding in encodings]


@functools.lru_cache(maxsize=4)
def load_tokenizer(name: str) -> TextTokenizer:
    """Load a tokenizer.

    Args:
        name: "bytes" (every byte is a token, 257 in all), a folder with tokenizer.json, or a Hub id[@revision].

    Raises:
        InputError: There is no readable tokenizer.json, the Hub is offline, or no token ends a text.

    Example:
        >>> load_tokenizer("bytes").size
        257
    """
    if name == BYTES:
        return TextTokenizer(_byte_tokenizer(), _BYTES_END)
    repository, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    folder = hub.local_folder(repository, revision=revision or None, allow_patterns=["tokenizer*.json"])
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more specific
        raise InputError(f"{name} holds no readable tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return TextTokenizer(tokenizer, _find_end(folder, tokenizer, name))


def tokenizer_name(folder: Path) -> str:
    """Name of a checkpoint's tokenizer: "bytes" if it is that one, so that its sources are shared; else its path."""
    is_bytes = load_tokenizer(str(folder)).digest == load_tokenizer(BYTES).digest
    return BYTES if is_bytes else str(folder)


def _byte_tokenizer() -> tokenizers.Tokenizer:
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*symbols, _BYTES_END])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([_BYTES_END])
    return tokenizer


def _find_end(folder: Path, tokenizer: tokenizers.Tokenizer, name: str) -> str:
    path = folder / "tokenizer_config.json"
    named = json.loads(path.read_text(encoding="utf-8")).get("eos_token") if path.is_file() else None
    if isinstance(named, dict):
        named = named.get("content")
    for end in (named, *_USUAL_ENDS):
        if end is not None and tokenizer.token_to_id(end) is not None:
            return end
    raise InputError(f"{name}: no token of its tokenizer ends a text: set eos_token in tokenizer_config.json")
