"""Sources of text: documents as tokens, deduplicated, cached, selected in nested order."""

from hf_scaling.data.text.sources import TextSource, TextSplit, open_text
from hf_scaling.data.text.tokens import load_tokenizer, tokenizer_name

__all__ = ["TextSource", "TextSplit", "load_tokenizer", "open_text", "tokenizer_name"]
