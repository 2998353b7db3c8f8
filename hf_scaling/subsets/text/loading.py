"""Text through `datasets`: a Hub id, a folder, a Parquet file; and plain .txt files, each a document."""

import functools
from collections.abc import Iterator
from pathlib import Path

from hf_scaling.errors import InputError
from hf_scaling.subsets.loading import TEST_PARTS, faults_said, locate, train_part
from hf_scaling.subsets.text.embedded import EMBEDDED, FileTexts, embedded


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
