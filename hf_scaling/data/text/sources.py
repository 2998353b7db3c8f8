"""A source of text, opened: its documents are tokenised and cached when they are first asked for."""

import functools
import hashlib
import itertools
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import safetensors.numpy
from filelock import FileLock
from tqdm import tqdm

from hf_scaling import files
from hf_scaling.data.cache import cache_root
from hf_scaling.data.loading import TEST_PARTS, faults_said, locate, train_part
from hf_scaling.data.sampling import seeded_keys
from hf_scaling.data.text.embedded import EMBEDDED, FileTexts, embedded
from hf_scaling.data.text.tokens import TextTokenizer, load_tokenizer
from hf_scaling.errors import InputError


def find_texts(name: str, column: str | None, streaming: bool, skip_empty: bool, root: Path, progress: bool):
    """What `name` means: an embedded source, .txt files, or a data set.

    Raises:
        InputError: It is unknown or unreadable, or has no column of text as asked.
    """
    path = Path(name)
    plain = (
        [path] if path.suffix == ".txt" and path.is_file() else sorted(path.rglob("*.txt")) if path.is_dir() else []
    )
    if not path.exists() and embedded(name) is not None:
        return embedded(name)
    if plain:
        called = path.resolve().name if path.is_dir() else path.stem
        return FileTexts(called, tuple(plain), path, functools.partial(_text, skip_empty=skip_empty), at_hand=False)
    return DatasetTexts(name, column, streaming, skip_empty, root, progress)


class DatasetTexts:
    """A data set that `datasets` can load; no text is read before it is wanted."""

    at_hand = False

    def __init__(self, name: str, column: str | None, streaming: bool, skip_empty: bool, root: Path, progress: bool):
        """Find the data set `name` and its column of text.

        Raises:
            InputError: It is unknown or unreadable, or has no such column.
        """
        self._streaming, self._skip_empty = streaming, skip_empty
        with faults_said(name):
            self.name, self._builder, self._content = locate(name, root, progress, tuple(EMBEDDED))
            self._streams = self._builder.as_streaming_dataset()
            train = train_part(self._streams, name)
            test = next((part for part in TEST_PARTS if part in self._streams and part != train), None)
            self._parts, self.has_test = {"train": train, "test": test}, test is not None
            features = self._streams[train].features or next(iter(self._streams[train]))
            self._column = _text_column(features, column, name)

    def identity(self, root: Path, progress: bool) -> dict:
        """What determines the documents."""
        return {**self._content, **self._parts, "column": self._column}

    def documents(self, part: str) -> Iterator[str]:
        """The documents of "train" or "test", in order.

        Raises:
            InputError: One of them is empty, unless such are to be skipped.
        """
        part = self._parts[part]
        with faults_said(self.name):
            if self._streaming:
                rows = self._streams[part]
            else:
                self._builder.download_and_prepare()
                rows = self._builder.as_dataset(part)
            for number, row in enumerate(rows.select_columns([self._column])):
                text = row[self._column]
                if text and text.strip():
                    yield text
                elif not self._skip_empty:
                    raise InputError(_empty(f"row {number} of part {part} of {self.name}"))


def _text(path: Path, skip_empty: bool) -> Iterator[str]:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is no UTF-8 text: {error}") from None
    if text:
        yield text
    elif not skip_empty:
        raise InputError(_empty(path.name))


def _empty(what: str) -> str:
    return f"{what} holds no text: mend or remove it, or leave out such documents with skip_empty"


def _text_column(features: dict, column: str | None, name: str) -> str:
    texts = [each for each, feature in features.items() if str(getattr(feature, "dtype", "")) in _TEXT_TYPES]
    if column is not None:
        if column not in features:
            raise InputError(f"text_column {column}: {name} has the columns {', '.join(features)}")
        return column
    if "text" in texts or len(texts) == 1:
        return "text" if "text" in texts else texts[0]
    raise InputError(f"text_column: which column of {name} is the text? It has {', '.join(features)}")


_TEXT_TYPES = ("string", "large_string")


_SHARE = 10  # one part in so many is held out, for the test and for the validation
_LARGEST_TEST, _LARGEST_VALIDATION = 100_000, 20_000  # tokens
_BATCH = 256  # documents
_LAYOUT = 1  # of the cache's file


@dataclass(frozen=True)
class TextSplit:
    """Some documents of a source, as tokens; `len` is the tokens of all of them.

    Attributes:
        tokens: Those of the whole source, one document after the other, each with its end.
        ends: Where each document of the source ends, int64.
        document_hashes: One of each document's normalised text, uint64.
        documents: Which documents, int64.
    """

    tokens: np.ndarray
    ends: np.ndarray
    document_hashes: np.ndarray
    documents: np.ndarray

    def __len__(self) -> int:
        return int(self.lengths.sum())

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each document, int64."""
        return np.diff(self.ends, prepend=0)[self.documents]

    def order(self, seed: int) -> "TextSplit":
        """The same documents in the order of `seed`: what is chosen for any number of tokens begins with them."""
        return self._with(self.documents[np.argsort(seeded_keys(seed, "subset", self.documents), kind="stable")])

    def first(self, n: int) -> "TextSplit":
        """The documents, in this order, that hold the first `n` tokens."""
        return self._with(self.documents[: int(np.searchsorted(np.cumsum(self.lengths), n)) + 1])

    def read(self, n: int | None = None) -> np.ndarray:
        """The tokens of the documents in this order, int64, cut after `n`."""
        starts = self.ends - np.diff(self.ends, prepend=0)
        parts = [self.tokens[starts[each] : self.ends[each]] for each in self.documents]
        return np.concatenate([*parts, np.zeros(0, np.int64)])[:n].astype(np.int64)

    def hashes(self) -> np.ndarray:
        """A hash of each document's normalised text, uint64."""
        return self.document_hashes[self.documents]

    def hold_out(self, largest: int, stream: str) -> tuple["TextSplit", "TextSplit"]:
        """Whole documents, drawn by key, of at most a tenth of the tokens and `largest`; the rest first.

        One choice for all seeds: runs of several seeds are then compared on one set.

        Raises:
            InputError: No document is small enough.
        """
        drawn = self._with(self.documents[np.argsort(seeded_keys(0, stream, self.documents), kind="stable")])
        room, chosen = min(largest, len(self) // _SHARE), np.zeros(len(drawn.documents), bool)
        for at, length in enumerate(drawn.lengths):
            chosen[at] = length <= room
            room -= length if chosen[at] else 0
        if not chosen.any():
            raise InputError(f"{len(self.documents)} documents: none is small enough to be held out for the {stream}")
        kept, held = (np.sort(drawn.documents[each]) for each in (~chosen, chosen))
        return self._with(kept), self._with(held)

    def _with(self, documents: np.ndarray) -> "TextSplit":
        return TextSplit(self.tokens, self.ends, self.document_hashes, documents)


class TextSource:
    """Documents as tokens.

    Attributes:
        name: What results call it; never a path.
        fingerprint: 16 hex digits of the content and the tokenizer; never of a path.
        class_names: The token ids.
        tokenizer: How text becomes tokens.
    """

    def __init__(self, origin, tokenizer: TextTokenizer, root: Path, progress: bool):
        """Open `origin` (see `embedded.FileTexts`), caching under `root`."""
        self.name, self.tokenizer, self.class_names = origin.name, tokenizer, range(tokenizer.size)
        basis = {"identity": origin.identity(root, progress), "tokenizer": tokenizer.digest, "layout": _LAYOUT}
        self.fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]
        self._path = root / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', self.name)}-text-{self.fingerprint}.safetensors"
        self._origin, self._progress = origin, progress

    @property
    def is_at_hand(self) -> bool:
        """Whether its documents are cached, or on every machine, so that reading them downloads nothing."""
        return self._origin.at_hand or self._path.is_file()

    @property
    def n_duplicates(self) -> int:
        """Documents left out because their normalised text stands in the source already."""
        return int(self._content["n_duplicates"][0])

    @property
    def train(self) -> TextSplit:
        """The documents for training.

        Raises:
            InputError: A document is empty (unless skipped), or the cache's disk is full.
        """
        return self._parts[0]

    @property
    def test(self) -> TextSplit:
        """The documents that evaluation reads: the source's own, else a tenth by key; none is a training document.

        Raises:
            InputError: As `train` does.
        """
        return self._parts[1]

    @functools.cached_property
    def validation_parts(self) -> tuple[TextSplit, TextSplit]:
        """The training documents without and of the validation part."""
        return self.train.hold_out(_LARGEST_VALIDATION, "validation")

    @property
    def n_held_out(self) -> int:
        """Tokens that a run that selects by a validation part holds out."""
        return len(self.validation_parts[1]) if len(self.train.documents) > 1 else 0

    @functools.cached_property
    def _parts(self) -> tuple[TextSplit, TextSplit]:
        content = self._content
        places = np.arange(len(content["ends"]))
        whole = TextSplit(content["tokens"], content["ends"], content["hashes"], places)
        n_test = int(content["n_test"][0])
        if self._origin.has_test:
            return whole._with(places[n_test:]), whole._with(places[:n_test])
        return whole.hold_out(_LARGEST_TEST, "test")

    @functools.cached_property
    def _content(self) -> dict[str, np.ndarray]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            if self._path.is_file():
                try:
                    return safetensors.numpy.load_file(self._path)
                except Exception as error:  # safetensors raises nothing more special
                    tqdm.write(f"{self._path} is damaged ({error}): it is made anew")
            content = self._read()
            with files.replacing(self._path) as temporary:
                safetensors.numpy.save_file(content, temporary)
            return content

    def _read(self) -> dict[str, np.ndarray]:
        """Tokenise every document once; those of the test part come first and so stay in it."""
        smallest = np.uint16 if self.tokenizer.size <= np.iinfo(np.uint16).max + 1 else np.uint32
        tokens, lengths, hashes, n_duplicates, n_test = [], [], {}, 0, 0
        for part in ("test", "train") if self._origin.has_test else ("train",):
            texts = tqdm(self._origin.documents(part), f"reading {self.name}", delay=2, disable=not self._progress)
            for batch in _batches(texts):
                fresh = {}
                for text in batch:
                    fresh.setdefault(_hash(text), text)
                fresh = {each: text for each, text in fresh.items() if each not in hashes}
                n_duplicates += len(batch) - len(fresh)
                hashes |= dict.fromkeys(fresh)
                encoded = self.tokenizer.encode(list(fresh.values()))
                tokens += [np.array(each, smallest) for each in encoded]
                lengths += map(len, encoded)
            n_test = len(hashes) if part == "test" else n_test
        if not tokens:
            raise InputError(f"{self.name} holds no document")
        return {
            "tokens": np.concatenate(tokens),
            "ends": np.cumsum(lengths, dtype=np.int64),
            "hashes": np.array(list(hashes), np.uint64),
            "n_test": np.array([n_test], np.int64),
            "n_duplicates": np.array([n_duplicates], np.int64),
        }


def open_text(
    name: str | os.PathLike,
    tokenizer: str = "bytes",
    text_column: str | None = None,
    streaming: bool = False,
    skip_empty: bool = False,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> TextSource:
    """Open a source of text.

    Args:
        name: An embedded source (docs/text.md lists them), a .txt file or a folder of them (each a document), a
            Parquet file, or a Hub id (a path that exists wins).
        tokenizer: "bytes", a folder with tokenizer.json, or a Hub id.
        text_column: The column with the text; found where there is one.
        streaming: Read a Hub id once, in order, instead of downloading and converting it whole first.
        skip_empty: Leave out empty documents instead of refusing the source.
        cache_dir: Of the cache; $HF_SCALING_CACHE or ~/.cache/hf_scaling when None.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: The source, the tokenizer or the column is unknown; one line says which.
    """
    root = cache_root(cache_dir)
    origin = find_texts(str(name), text_column, streaming, skip_empty, root, progress)
    return TextSource(origin, load_tokenizer(str(tokenizer)), root, progress)


def _batches(texts: Iterable[str]) -> Iterable[list[str]]:
    texts = iter(texts)
    return iter(lambda: list(itertools.islice(texts, _BATCH)), [])


def _hash(text: str) -> int:
    """64 bits of the text without regard to case, spacing and the ways to write one character."""
    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return int.from_bytes(hashlib.blake2b(plain.encode(errors="replace"), digest_size=8).digest(), "little")
