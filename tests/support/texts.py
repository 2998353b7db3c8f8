"""Texts of a few thousand words, for tests of language models."""

import random
from pathlib import Path

_WORDS = "the old river takes a slow turn below town where boats wait for rain".split()  # noqa: SIM905


def write_texts(folder: Path, n: int = 60, words: int = 120, seed: int = 0) -> Path:
    """Write `n` documents as .txt files; return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    for number in range(n):
        text = " ".join(draw.choice(_WORDS) for _ in range(words))
        (folder / f"{number:03}.txt").write_text(f"{number} {text}\n")
    return folder
