"""Data sets through `datasets`: a Hub id, a folder (of images or Parquet), a Parquet file."""

import difflib
import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from hf_scaling import transport
from hf_scaling.errors import InputError
from hf_scaling.files import write_text
from hf_scaling.subsets import columns
from hf_scaling.subsets.content import hash_files
from hf_scaling.subsets.filling import Reader, is_full_disk
from hf_scaling.subsets.rows import MapReader, RowPacker, StreamReader

# What evaluation reads: the first that is there and has labels (ImageNet's test part has none).
TEST_PARTS = ("test", "validation", "valid", "val", "dev")
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".zst")


class DatasetOrigin:
    """A data set that `datasets` can load, its parts, columns and classes found. No picture is read for that."""

    def __init__(
        self,
        name: str,
        image_column: str | None,
        label_column: str | None,
        streaming: bool,
        root: Path,
        progress: bool,
    ):
        """Find the data set `name` and what is in it.

        Raises:
            InputError: It is unknown or unreadable, or has no images, no labels or no classes as asked.
        """
        self._streaming, self._root = streaming, root
        with faults_said(name):
            self.name, self._builder, self._content = locate(name, root, progress)
            self._streams = self._builder.as_streaming_dataset()
            self._train_part = train_part(self._streams, name)
            features = self._streams[self._train_part].features
            if features is None:
                raise InputError(f"{name}: its columns are unknown until it is read: convert it to Parquet")
            self._image = columns.image_column(features, image_column, name)
            self._label = columns.label_column(features, label_column, name)
            self._label_feature = features[self._label]
            self._test_part = self._find_test_part()
            self.has_test = self._test_part is not None
            self.class_names = self._class_names()

    def identity(self) -> dict:
        """Say what determines the pictures and their labels."""
        parts = {"train": self._train_part, "test": self._test_part}
        return {**self._content, **parts, "image": self._image, "label": self._label}

    def reader(self, part: str, chosen: np.ndarray, image_size: int, storage: str, skip_corrupt: bool) -> Reader:
        """Open "train" or "test": streamed in order, or downloaded and prepared for random access."""
        part = self._train_part if part == "train" else self._test_part
        what = f"part {part} of {self.name}"
        labels = columns.LabelIds(self._label_feature, self.class_names, chosen, what)
        packer = RowPacker(self._image, self._label, labels, image_size, storage, skip_corrupt, what)
        faults = functools.partial(faults_said, self.name)
        if self._streaming:
            return StreamReader(self._undecoded(self._streams[part]), self._count_rows(part), packer, faults)
        with faults():
            self._builder.download_and_prepare()
            return MapReader(self._undecoded(self._builder.as_dataset(part)), packer, faults)

    def _undecoded(self, dataset):
        from datasets import Image

        return dataset.select_columns([self._image, self._label]).cast_column(self._image, Image(decode=False))

    def _find_test_part(self) -> str | None:
        names = (name for name in TEST_PARTS if name in self._streams and name != self._train_part)
        return next((name for name in names if next(iter(self._labels(name)), None) not in (None, -1)), None)

    def _labels(self, part: str) -> Iterator:
        return (row[self._label] for row in self._streams[part].select_columns([self._label]))

    def _class_names(self) -> Sequence[str]:
        """Name the classes; where every label must be read for that, remember the answer."""
        if hasattr(self._label_feature, "names"):
            return self._label_feature.names
        key = hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]
        memory = self._root / "classes" / f"{key}.json"
        if not memory.exists():
            what = f"column {self._label} of {self.name}"
            write_text(memory, json.dumps(columns.name_classes(list(self._labels(self._train_part)), what)))
        return json.loads(memory.read_text())

    def _count_rows(self, part: str) -> int | None:
        """Count rows without reading them, for the progress bar; None where that cannot be done."""
        if self._builder.info.splits:
            return self._builder.info.splits[part].num_examples
        files = self._builder.config.data_files[part]
        if all(file.endswith(".parquet") and Path(file).exists() for file in files):
            from pyarrow import parquet

            return sum(parquet.read_metadata(file).num_rows for file in files)
        if any(file.endswith((*_ARCHIVES, ".parquet", ".arrow")) for file in files):
            return None
        from PIL import Image

        return sum(Path(file).suffix.lower() in Image.registered_extensions() for file in files)


def locate(name: str, root: Path, progress: bool, ours: Sequence[str] = ("glyphs", "digits")) -> tuple:
    """Find what `name` means: its name for results, its builder, and what identifies its content."""
    from datasets import load_dataset_builder

    path = Path(name)
    if not path.exists():
        return _locate_on_hub(name, ours)
    if path.is_dir():
        builder = load_dataset_builder(str(path))
    elif path.suffix == ".parquet":
        builder = load_dataset_builder("parquet", data_files={"train": str(path)})
    else:
        raise InputError(f"{name}: a source is a folder, a .parquet file or a Hub id, and this file is none of them")
    files = [file for part in builder.config.data_files.values() for file in part]
    resolved = path.resolve()
    return (
        resolved.name if path.is_dir() else resolved.stem,
        builder,
        {"files": hash_files(files, path, root, progress)},
    )


def _locate_on_hub(name: str, ours: Sequence[str]) -> tuple:
    repo_id, _, config = name.partition(":")
    # Sources of one word are ours: a misspelt one is said to be that, not looked for on the Hub.
    if "/" not in repo_id or not transport.is_hub_id(repo_id):
        nearest = difflib.get_close_matches(name, ours, n=1)
        hint = (
            f"did you mean {nearest[0]}?"
            if nearest
            else f"give {', '.join(ours)}, a folder, a .parquet file or a Hub id"
        )
        raise InputError(f"{name}: no such source: {hint}")
    from datasets import load_dataset_builder
    from huggingface_hub import HfApi

    info = HfApi().dataset_info(repo_id)
    builder = load_dataset_builder(info.id, config or None, revision=info.sha)
    return info.id, builder, {"hub": info.id, "config": builder.config.name, "sha": info.sha}


def train_part(parts: dict, name: str) -> str:
    """Which of a data set's `parts` trains.

    Raises:
        InputError: There are several, and none is called train.
    """
    if "train" in parts:
        return "train"
    if len(parts) == 1:
        return next(iter(parts))
    raise InputError(f"{name}: none of its parts {', '.join(parts)} is called train: rename one")


@contextmanager
def faults_said(name: str) -> Iterator[None]:
    """Turn what `datasets` and the Hub raise about `name` into one line.

    Raises:
        InputError: Offline, absent, empty, malformed, or no room to prepare it.
    """
    from datasets.exceptions import DatasetGenerationError, DatasetsError
    from pyarrow import ArrowException

    try:
        with transport.hub_errors(f"the data set {name}"):
            try:
                yield
            except DatasetGenerationError as error:
                raise error.__cause__ or error from None
    except InputError:
        raise
    except (DatasetsError, ArrowException, ValueError, OSError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if is_full_disk(error):
            first_line = "the disk of the Hugging Face cache is full: free some room, set HF_HOME, or use streaming"
        raise InputError(f"{name} cannot be read as a data set: {first_line}") from error
