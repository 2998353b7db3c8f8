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
_END = "<|endoftext|>"
#: Where a tokenizer does not say which token ends a text.
_USUAL_ENDS = (_END, "</s>", "<|end_of_text|>", "<eos>")


@dataclass(frozen=True)
class TextTokenizer:
    """A tokenizer, the token that ends a document, and a hash of all that decides which ids a text becomes."""

    tokenizer: tokenizers.Tokenizer
    end: str
    digest: str

    @property
    def size(self) -> int:
        """How many tokens it knows."""
        return self.tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def end_id(self) -> int:
        """The id of the token that ends a document."""
        return self.tokenizer.token_to_id(self.end)

    def encode(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text, its end included."""
        found = self.tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [[*each.ids, self.end_id] for each in found]


@functools.lru_cache(maxsize=4)
def load_tokenizer(name: str) -> TextTokenizer:
    """Open a tokenizer.

    Args:
        name: "bytes" (each byte is a token, 257 in all), a folder with tokenizer.json, or a Hub id[@revision].

    Raises:
        InputError: No tokenizer.json there, unreadable, offline, or it has no token that ends a text.
    """
    if name == BYTES:
        return _with_digest(_bytes(), _END)
    repository, _, revision = (name, "", "") if Path(name).exists() else name.partition("@")
    patterns = ["tokenizer*.json"]
    folder = hub.local_folder(repository, revision=revision or None, allow_patterns=patterns)
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # tokenizers raises nothing more special
        raise InputError(f"{name} holds no tokenizer.json that can be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return _with_digest(tokenizer, _find_end(folder, tokenizer, name))


def tokenizer_name(folder: Path) -> str:
    """What to call the tokenizer of a checkpoint: "bytes" if it is that one, so that its sources are shared."""
    same = load_tokenizer(str(folder)).digest == load_tokenizer(BYTES).digest
    return BYTES if same else str(folder)


def _bytes() -> tokenizers.Tokenizer:
    symbols = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {symbol: number for number, symbol in enumerate([*symbols, _END])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    tokenizer.add_special_tokens([_END])
    return tokenizer


def _find_end(folder: Path, tokenizer: tokenizers.Tokenizer, name: str) -> str:
    path = folder / "tokenizer_config.json"
    said = json.loads(path.read_text(encoding="utf-8")).get("eos_token") if path.is_file() else None
    said = said.get("content") if isinstance(said, dict) else said
    for end in (said, *_USUAL_ENDS):
        if end is not None and tokenizer.token_to_id(end) is not None:
            return end
    raise InputError(f"{name}: its tokenizer names no token that ends a text (eos_token in tokenizer_config.json)")


def _with_digest(tokenizer: tokenizers.Tokenizer, end: str) -> TextTokenizer:
    content = json.loads(tokenizer.to_str())
    basis = {name: content[name] for name in ("normalizer", "pre_tokenizer")}
    basis["merges"] = content["model"].get("merges")
    basis |= {"vocabulary": tokenizer.get_vocab(with_added_tokens=True), "end": end}
    digest = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]
    return TextTokenizer(tokenizer, end, digest)
