"""Sources of text: opened by name; tokenised and cached when their documents are first needed."""

import functools
import hashlib
import itertools
import json
import logging
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import safetensors.numpy
from filelock import FileLock
from tqdm import tqdm

from hf_scaling.data.cache import cache_root, log_once
from hf_scaling.data.loading import (
    TEST_PARTS,
    count_rows,
    dataset_errors,
    find_train_part,
    locate,
    remembered,
)
from hf_scaling.data.sampling import seeded_keys
from hf_scaling.data.scan import PARTS, describe_unused, list_files, part_by_name
from hf_scaling.data.text.embedded import EMBEDDED, FileTexts, embedded_texts
from hf_scaling.data.text.tokens import TextTokenizer, load_tokenizer
from hf_scaling.errors import InputError
from hf_scaling.files import replacing
from hf_scaling.text import listing

if TYPE_CHECKING:
    import datasets

_log = logging.getLogger(__name__)

#: Suffixes of files that are documents.
TEXT_SUFFIXES = (".txt", ".md")
# Files that belong to a data set rather than to its text.
_LOOSE = re.compile(r"(licen[cs]e|copying|notice|readme|changelog|changes|authors|contributing|citation)", re.I)
#: Suffixes of data files with a column of text.
DATA_SUFFIXES = (".parquet", ".jsonl", ".csv")

_HELD_OUT_SHARE = 10  # one part in so many is held out, for the test and for the validation part
_LARGEST_TEST, _LARGEST_VALIDATION = 100_000, 20_000  # tokens
_BATCH = 256  # documents tokenised at once
_LAYOUT = 1  # of the cache's file


def open_text(
    name: str | os.PathLike,
    tokenizer: str = "bytes",
    text_column: str | None = None,
    streaming: bool = False,
    skip_empty: bool = False,
    cache_dir: str | os.PathLike | None = None,
    progress: bool = True,
) -> "TextSource":
    """Open a source of text.

    Args:
        name: An embedded source (docs/text.md lists them), a .txt or .md file or a folder of them (each a document),
            a .parquet, .jsonl or .csv file or a folder of them, or a Hub id (an existing path wins).
        tokenizer: "bytes", a folder with tokenizer.json, or a Hub id.
        text_column: Column of the text; None finds it where there is one.
        streaming: Read a Hub id once, in order, rather than download and convert it completely first.
        skip_empty: Leave out empty documents rather than refuse the source.
        cache_dir: Folder of the cache; None for $HF_SCALING_CACHE or ~/.cache/hf_scaling.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: The source, the tokenizer or the column is unknown.

    Example:
        >>> len(open_text("licences").train.read(1000))
        1000
    """
    root, path = cache_root(cache_dir), Path(name)
    texts = embedded_texts(str(name)) if not path.exists() else None
    if texts is None:
        parts = find_documents(path) if path.exists() else {}
        if parts:
            extract = functools.partial(_read_document, skip_empty=skip_empty)
            source_name = path.resolve().name if path.is_dir() else path.stem
            train, test = parts["train"], parts.get("test", parts.get("validation", ()))
            texts = FileTexts(source_name, train, path, extract, is_available=False, test_paths=test)
        else:
            texts = DatasetTexts(str(name), text_column, streaming, skip_empty, root, progress)
    return TextSource(texts, load_tokenizer(str(tokenizer)), root, progress)


def find_documents(path: Path) -> dict[str, tuple[Path, ...]]:
    """The text files of a folder by part, each of which is a document.

    Data files win over loose licences and readmes. Top folders are parts as those of images are; so are files that
    are called train.txt, valid.txt and test.txt alone. Files that are not used are counted in a warning.

    Args:
        path: The folder, or a single file.

    Returns:
        "train" and, where they exist, "validation" and "test"; empty where `path` holds data files, or nothing.

    Raises:
        InputError: Documents beside data files, or folders of which some look like parts.
    """
    if path.is_file():
        return {"train": (path,)} if path.suffix.lower() in TEXT_SUFFIXES else {}
    names = list_files(path)
    documents = [name for name in names if Path(name).suffix.lower() in TEXT_SUFFIXES]
    loose = [name for name in documents if "/" not in name and _LOOSE.match(name)]
    documents = [name for name in documents if name not in set(loose)] or loose
    data_files = [name for name in names if Path(name).suffix.lower() in DATA_SUFFIXES]
    if data_files:
        if documents != loose:
            raise InputError(
                f"{path}: holds data files ({data_files[0]}) and {len(documents):,} text files ({documents[0]}): move "
                "one kind out"
            )
        _log_unused(path, set(names) - set(data_files))
        return {}
    if not documents:
        packed = [name for name in names if Path(Path(name).stem).suffix.lower() in TEXT_SUFFIXES]
        if packed:
            raise InputError(f"{path}: {len(packed):,} packed text files ({packed[0]}): unpack them")
        return {}
    parts = _document_parts(path, documents)
    used = {name for files in parts.values() for name in files}
    if "test" in parts and "validation" in parts:
        used -= set(parts.pop("validation"))
    _log_unused(path, set(names) - used)
    return {part: tuple(path / name for name in files) for part, files in parts.items()}


def _document_parts(path: Path, documents: Sequence[str]) -> dict[str, list[str]]:
    """Part to documents: by the top folders, by file names that are names of parts, else all in the training part."""
    wrapped = ""
    tops = {name.partition("/")[0] for name in documents}
    while (
        len(tops) == 1
        and all("/" in name[len(wrapped) :] for name in documents)
        and not any(top.lower() in PARTS for top in tops)
    ):
        wrapped += f"{tops.pop()}/"
        tops = {name[len(wrapped) :].partition("/")[0] for name in documents}
    top_of = {name: name[len(wrapped) :].partition("/")[0] for name in documents}
    folders = sorted({top for name, top in top_of.items() if "/" in name[len(wrapped) :]})
    others = [top for top in folders if top.lower() not in PARTS]
    parts = {top: PARTS[top.lower()] for top in folders if top not in others}
    if len(parts) > 1 and others:
        raise InputError(
            f"{path}: the folders {listing(list(parts))} look like parts and {listing(others)} do not: move the "
            "others into the parts, or the parts out"
        )
    # train.txt and test.txt, wiki.train.txt and wiki.test.txt, or train_1.txt, train_2.txt and test_1.txt.
    stems = {top: PARTS.get(Path(top).stem.lower()) or part_by_name(Path(top).stem) for top in top_of.values()}
    disguised = {top: part for top in others if (part := part_by_name(top))}
    if not folders and len(set(stems.values())) > 1 and all(stems.values()):
        parts = {top: part for top, part in stems.items() if part}
    elif len(disguised) == len(folders) and "train" in disguised.values() and len(set(disguised.values())) > 1:
        raise InputError(
            f"{path}: the folders {listing(disguised)} look like parts: rename "
            f"{listing(f'{top} to {part}' for top, part in disguised.items())}"
        )
    elif others or not parts:
        return {"train": list(documents)}
    if folders and len(set(parts.values())) < len(parts):
        raise InputError(f"{path}: {listing(list(parts))}: two of these are names of one part: merge or rename one")
    if "train" not in parts.values():
        raise InputError(f"{path}: has {listing(list(parts))} but no training part: rename one to train")
    if wrapped:
        log_once(f"{path}: its only folder {wrapped.rstrip('/')} was entered")
    divided: dict[str, list[str]] = {}
    for name in documents:
        if top_of[name] in parts:
            divided.setdefault(parts[top_of[name]], []).append(name)
    return {part: divided[part] for part in ("train", "validation", "test") if part in divided}


def _log_unused(path: Path, names: Iterable[str]) -> None:
    unused = Counter(Path(name).suffix.lower() or "(without a suffix)" for name in names)
    if unused:
        log_once(f"{path}: {describe_unused(unused)}")


class Texts(Protocol):
    """Where the documents of a source come from.

    Attributes:
        name: Name in results; never a path.
        has_test: Whether it has a test part of its own.
        is_available: Whether every machine has it.
    """

    name: str
    has_test: bool
    is_available: bool

    def identity(self, root: Path, progress: bool) -> dict:
        """What determines the documents, as JSON; `root` is the cache's folder."""

    def documents(self, part: str) -> Iterator[str]:
        """The documents of "train" or "test", in order."""


class TextSource:
    """Documents as tokens.

    Attributes:
        name: Name in results; never a path.
        fingerprint: 16 hex digits of the content and the tokenizer; never of a path.
        class_names: The token ids.
        tokenizer: Turns text into tokens.
    """

    def __init__(self, texts: Texts, tokenizer: TextTokenizer, root: Path, progress: bool):
        self.name, self.tokenizer, self.class_names = texts.name, tokenizer, range(tokenizer.size)
        basis = {"identity": texts.identity(root, progress), "tokenizer": tokenizer.digest, "layout": _LAYOUT}
        self.fingerprint = hashlib.sha256(json.dumps(basis, sort_keys=True).encode()).hexdigest()[:16]
        self._path = root / f"{re.sub(r'[^A-Za-z0-9._-]+', '_', self.name)}-text-{self.fingerprint}.safetensors"
        self._texts, self._progress = texts, progress

    @property
    def end_id(self) -> int:
        """The id of the token that ends a document."""
        return self.tokenizer.end_id

    @property
    def is_available(self) -> bool:
        """Whether its documents are cached, or on every machine, so that reading them downloads nothing."""
        return self._texts.is_available or self._path.is_file()

    @property
    def n_duplicates(self) -> int:
        """Number of documents left out because their normalised text is in the source already."""
        return int(self._content["n_duplicates"][0])

    @property
    def train(self) -> "TextSplit":
        """The documents for training.

        Raises:
            InputError: A document is empty (unless skipped), or the cache's disk is full.
        """
        return self._parts[0]

    @property
    def test(self) -> "TextSplit":
        """The documents for evaluation: the source's own, else a tenth by key; none is a training document.

        Raises:
            InputError: As `train` does.
        """
        return self._parts[1]

    @functools.cached_property
    def validation_parts(self) -> tuple["TextSplit", "TextSplit"]:
        """The training documents without the validation part, and the validation part."""
        return self.train.hold_out(_LARGEST_VALIDATION, "validation")

    @property
    def n_held_out(self) -> int:
        """Number of tokens that a run which selects by a validation part holds out."""
        return len(self.validation_parts[1]) if len(self.train.documents) > 1 else 0

    @functools.cached_property
    def _parts(self) -> tuple["TextSplit", "TextSplit"]:
        content = self._content
        documents = np.arange(len(content["ends"]))
        n_test = int(content["n_test"][0])
        whole = TextSplit(content["tokens"], content["ends"], content["hashes"], documents)
        if self._texts.has_test:
            return replace(whole, documents=documents[n_test:]), replace(whole, documents=documents[:n_test])
        return whole.hold_out(_LARGEST_TEST, "test")

    @functools.cached_property
    def _content(self) -> dict[str, np.ndarray]:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{self._path}.lock"):
            if self._path.is_file():
                try:
                    return safetensors.numpy.load_file(self._path)
                except Exception as error:  # safetensors raises nothing more specific
                    _log.warning("%s is damaged (%s) and is rebuilt", self._path, error)
            content = self._tokenize()
            with replacing(self._path) as temporary:
                safetensors.numpy.save_file(content, temporary)
            return content

    def _tokenize(self) -> dict[str, np.ndarray]:
        """Tokenise every document once; those of the test part come first, so duplicates stay in it."""
        dtype = np.uint16 if self.tokenizer.size <= np.iinfo(np.uint16).max + 1 else np.uint32
        tokens, lengths, hashes, n_duplicates, n_test = [], [], {}, 0, 0
        for part in ("test", "train") if self._texts.has_test else ("train",):
            texts = tqdm(self._texts.documents(part), f"reading {self.name}", delay=2, disable=not self._progress)
            documents = iter(texts)
            while batch := list(itertools.islice(documents, _BATCH)):
                unique = {}
                for text in batch:
                    # Documents are equal regardless of case, spacing and Unicode's ways to write one character.
                    plain = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
                    digest = hashlib.blake2b(plain.encode(errors="replace"), digest_size=8).digest()
                    unique.setdefault(int.from_bytes(digest, "little"), text)
                unique = {text_hash: text for text_hash, text in unique.items() if text_hash not in hashes}
                n_duplicates += len(batch) - len(unique)
                hashes |= dict.fromkeys(unique)
                encoded = self.tokenizer.encode(list(unique.values()))
                tokens += [np.array(ids, dtype) for ids in encoded]
                lengths += map(len, encoded)
            n_test = len(hashes) if part == "test" else n_test
        if not tokens:
            raise InputError(f"{self.name} holds no documents")
        return {
            "tokens": np.concatenate(tokens),
            "ends": np.cumsum(lengths, dtype=np.int64),
            "hashes": np.array(list(hashes), np.uint64),
            "n_test": np.array([n_test], np.int64),
            "n_duplicates": np.array([n_duplicates], np.int64),
        }


@dataclass(frozen=True)
class TextSplit:
    """Some documents of a source, as tokens; `len` is the number of tokens of all of them.

    Attributes:
        tokens: Tokens of the whole source, document after document, each with its end.
        ends: Position at which each document of the source ends, int64.
        document_hashes: Hash of each document's normalised text, uint64.
        documents: Numbers of the selected documents, int64.
    """

    tokens: np.ndarray
    ends: np.ndarray
    document_hashes: np.ndarray
    documents: np.ndarray

    def __len__(self) -> int:
        return int(self.lengths.sum())

    @property
    def lengths(self) -> np.ndarray:
        """Number of tokens of each document, int64."""
        return np.diff(self.ends, prepend=0)[self.documents]

    def order(self, seed: int, stream: str = "subset") -> "TextSplit":
        """The same documents in the order of `seed`; the subset for any number of tokens is its beginning."""
        keys = seeded_keys(seed, stream, self.documents)
        return replace(self, documents=self.documents[np.argsort(keys, kind="stable")])

    def first(self, n: int) -> "TextSplit":
        """The documents, in this order, that hold the first `n` tokens."""
        return replace(self, documents=self.documents[: int(np.searchsorted(np.cumsum(self.lengths), n)) + 1])

    def read(self, n: int | None = None) -> np.ndarray:
        """The tokens of the documents in this order, int64, cut after `n`."""
        starts = self.ends - np.diff(self.ends, prepend=0)
        parts = [self.tokens[starts[number] : self.ends[number]] for number in self.documents]
        return np.concatenate([*parts, np.zeros(0, np.int64)])[:n].astype(np.int64)

    def hashes(self) -> np.ndarray:
        """Hash of each document's normalised text, uint64."""
        return self.document_hashes[self.documents]

    def hold_out(self, largest: int, stream: str) -> tuple["TextSplit", "TextSplit"]:
        """Split off whole documents of at most a tenth of the tokens, drawn by key.

        The split does not depend on a run's seed, so that runs of several seeds are compared on one set.

        Args:
            largest: Most tokens to hold out.
            stream: Purpose of the part, "test" or "validation".

        Returns:
            The rest, and what is held out.

        Raises:
            InputError: No document is small enough.
        """
        drawn = self.order(0, stream)
        room, held_out = min(largest, len(self) // _HELD_OUT_SHARE), np.zeros(len(drawn.documents), bool)
        for index, length in enumerate(drawn.lengths):
            held_out[index] = length <= room
            room -= length if held_out[index] else 0
        if not held_out.any():
            raise InputError(
                f"{len(self.documents)} documents: none is small enough to be held out for the {stream} part"
            )
        rest, part = (replace(self, documents=np.sort(drawn.documents[mask])) for mask in (~held_out, held_out))
        return rest, part


class DatasetTexts:
    """A data set that `datasets` can load, as `Texts`; opening it reads no document.

    Args:
        name: A folder, a Parquet file or a Hub id.
        column: Name of the text's column; None finds it.
        streaming: Whether rows are read in order, without preparing the data set first.
        skip_empty: Whether empty documents are left out.
        root: Folder of the cache.
        progress: Whether to show progress on stderr.

    Raises:
        InputError: It is unknown or unreadable, or has no such column.
    """

    is_available = False

    def __init__(self, name: str, column: str | None, streaming: bool, skip_empty: bool, root: Path, progress: bool):
        self._streaming, self._skip_empty = streaming, skip_empty
        with dataset_errors(name):
            self._located = locate(name, root, progress, EMBEDDED, DATA_SUFFIXES)
            self.name = self._located.name
            basis = {**self._located.content, "text": column}
            facts = remembered(root, basis, lambda: self._describe(self._located.builder(), name, column))
        self._parts, self._column, self._config = facts["parts"], facts["column"], facts["config"]
        self.has_test = self._parts["test"] is not None

    def identity(self, root: Path, progress: bool) -> dict:
        """What determines the documents."""
        return {**self._located.content, **self._parts, "column": self._column, "config": self._config}

    def _describe(self, builder: "datasets.DatasetBuilder", name: str, column: str | None) -> dict[str, Any]:
        """Parts and column of a data set, as JSON values."""
        streams = builder.as_streaming_dataset()
        train = find_train_part(streams, name)
        test = next((part for part in TEST_PARTS if part in streams and part != train), None)
        features = streams[train].features
        if not features:
            # `datasets` does not say what CSV files hold: of each column its first value that is given.
            features = {}
            for row in itertools.islice(streams[train], 100):
                features |= {name: value for name, value in row.items() if features.get(name) is None}
                if None not in features.values():
                    break
        return {
            "parts": {"train": train, "test": test},
            "column": find_text_column(features, column, name),
            "config": builder.config.name if "hub" in self._located.content else None,
        }

    def documents(self, part: str) -> Iterator[str]:
        """The documents of "train" or "test", in order.

        Raises:
            InputError: One of them is empty, unless such are to be skipped.
        """
        part = self._parts[part]
        with dataset_errors(self.name):
            builder = self._located.builder()
            if self._streaming:
                rows = builder.as_streaming_dataset()[part]
            else:
                builder.download_and_prepare()
                rows = builder.as_dataset(part)
            number = -1
            for number, row in enumerate(rows.select_columns([self._column])):
                text = row[self._column]
                if text and text.strip():
                    yield text
                elif not self._skip_empty:
                    raise _empty(f"row {number} of part {part} of {self.name}")
            n_rows = count_rows([str(file) for file in (builder.config.data_files or {}).get(part, ())])
            if n_rows not in (None, number + 1):
                raise InputError(
                    f"part {part} of {self.name}: {number + 1:,} rows were read, but its files hold {n_rows:,}"
                )


def find_text_column(features: Mapping, requested: str | None, source: str) -> str:
    """The text column of a data set: `requested`, else "text", else the only column of strings.

    Args:
        features: Column to what it holds, a feature of `datasets` or a value.
        requested: The column; None finds it.
        source: What messages call the data set.

    Raises:
        InputError: `requested` is unknown or holds no text, or none or several columns could be it.
    """
    strings = ("string", "large_string")
    texts = [
        name
        for name, feature in features.items()
        if isinstance(feature, str) or str(getattr(feature, "dtype", "")) in strings
    ]
    if any(mark in str(name) for name in features for mark in ";\t|"):
        raise InputError(f"{source}: the columns of its CSV files are not separated by commas: write commas")
    if requested in features and requested not in texts and features[requested] is not None:
        raise InputError(f"text_column: {source}: its column {requested} does not hold text")
    if not texts and requested is None:
        raise InputError(f"text_column: {source}: none of its columns ({listing(features)}) holds text")
    column = requested or ("text" if "text" in texts or len(texts) != 1 else texts[0])
    if column not in (features if requested else texts):
        problem = f"it has no column {requested}" if requested else "it is not clear which column holds the text"
        raise InputError(f"text_column: {source}: {problem}: give one of {', '.join(features)}")
    return column


def _read_document(path: Path, skip_empty: bool) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig").strip()  # without the mark that some editors put first
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8 text: {error}") from None
    if not text and not skip_empty:
        raise _empty(path.name)
    return [text] if text else []


def _empty(document: str) -> InputError:
    return InputError(f"{document} holds no text: fill or remove it, or leave out such documents with skip_empty")
