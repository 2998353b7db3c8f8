"""Tokenizers: plain bytes, or the tokenizer.json of a folder or of a repository on the Hub."""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tokenizers

from hf_scaling import hub
from hf_scaling.errors import InputError

BYTES = "bytes"
_BYTES_END = "<|endoftext|>"
_SPECIAL = ("bos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
#: Tokens that usually end a text, for a tokenizer that names none.
_USUAL_ENDS = (_BYTES_END, "</s>", "<|end_of_text|>", "<eos>")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, and a hash of everything that determines the ids of a text.

    Attributes:
        tokenizer: Of the library tokenizers.
        end: The token that ends a document.
        special: The other special tokens that its files name (bos_token, pad_token, ...), kept in every checkpoint
            that is trained with it; ids of a text do not depend on them.
    """

    tokenizer: tokenizers.Tokenizer
    end: str
    special: Mapping[str, str] = field(default_factory=dict)

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
        return TextTokenizer(_byte_tokenizer(), _BYTES_END, {"bos_token": _BYTES_END})
    repository, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    folder = hub.local_folder(repository, revision=revision or None, allow_patterns=["*token*.json"])
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more specific
        raise InputError(f"{name} holds no readable tokenizer.json: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    # The special tokens that the tokenizer's files name, of those that it has.
    named: dict[str, str] = {}
    for file in ("special_tokens_map.json", "tokenizer_config.json"):
        path = folder / file
        content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        for special in ("eos_token", *_SPECIAL):
            token = content.get(special)
            token = token.get("content") if isinstance(token, dict) else token
            if _is_token(tokenizer, token):
                named[special] = token
    end = next((end for end in (named.pop("eos_token", None), *_USUAL_ENDS) if _is_token(tokenizer, end)), None)
    if end is None:
        raise InputError(f"{name}: no token of its tokenizer ends a text: set eos_token in tokenizer_config.json")
    return TextTokenizer(tokenizer, end, named)


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


def _is_token(tokenizer: tokenizers.Tokenizer, token: str | None) -> bool:
    return token is not None and tokenizer.token_to_id(token) is not None
