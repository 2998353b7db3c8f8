"""Folders of text: which files are documents, which part they are of, and what is not used."""

import json

import datasets
import pytest
from texts import write_texts

from hf_scaling.data import cache as data_cache
from hf_scaling.data.text import open_text
from hf_scaling.data.text.sources import find_documents
from hf_scaling.errors import InputError


@pytest.fixture(autouse=True)
def own_hugging_face_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    data_cache.log_once.cache_clear()


def write(root, *names):
    """Write a document at each path; it holds the path."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"This is {name}. " * 20)
    return root


def counts(root):
    return {part: len(files) for part, files in find_documents(root).items()}


def texts_of(source, part):
    return source.tokenizer.tokenizer.decode(getattr(source, part).read().tolist())


def open_quietly(folder, tmp_path, **options):
    return open_text(folder, cache_dir=tmp_path / "cache", progress=False, **options)


def numbered(pattern, n=30):
    return [pattern.format(number) for number in range(n)]


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "VAL"), ("trainset", "eval")])
def test_part_folders_are_the_parts(train, test, tmp_path):
    folder = write(tmp_path / "books", *numbered(train + "/deep/{}.txt"), *numbered(test + "/{}.md", 5))
    source = open_quietly(folder, tmp_path)
    assert (len(source.train.documents), len(source.test.documents)) == (30, 5)
    assert f"{test}/" not in texts_of(source, "train") and f"{train}/" not in texts_of(source, "test")


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["train/0.txt", "poems/0.txt", "b.txt"], {"train": 3}),
        (["train.txt", "valid.txt", "test.txt"], {"train": 1, "test": 1}),
        (["test.txt", "a.txt", "b.txt"], {"train": 3}),
        (["all/train/0.txt", "all/dev/0.txt"], {"train": 1, "validation": 1}),
        (["a.TXT", "b.Md", "c/d.txt"], {"train": 3}),
        (["a.txt", ".hidden.txt", ".git/b.txt", "__MACOSX/c.txt"], {"train": 1}),
        (["a.txt", "LICENSE.txt", "README.md", "sub/README.md"], {"train": 2}),
        (["LICENSE.txt", "README.md"], {"train": 2}),
        (["train/0.txt", "test/0.txt", "README.md"], {"train": 1, "test": 1}),
    ],
)
def test_documents_and_their_parts(names, parts, tmp_path):
    assert counts(write(tmp_path / "texts", *names)) == parts


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["train/0.txt", "test/0.txt", "poems/0.txt"], "poems"),
        (["test/0.txt", "val/0.txt"], "val"),
        (["train/0.txt", "Training/0.txt"], "Training"),
        (["stories.csv", "a.txt", "LICENSE.txt"], r"stories\.csv.*a\.txt"),
    ],
)
def test_unclear_folders_are_refused(names, named, tmp_path):
    with pytest.raises(InputError, match=named):
        find_documents(write(tmp_path / "texts", *names))


def test_files_that_are_not_used_are_counted(tmp_path, caplog):
    folder = write(tmp_path / "texts", *numbered("{}.txt"), "a.pdf", "b.pdf", "LICENSE", "README.md")
    for _ in range(2):
        assert len(open_quietly(folder, tmp_path).train.documents) == 27
    (message,) = [record.getMessage() for record in caplog.records]
    assert all(part in message for part in (str(folder), "2 .pdf", "1 .md"))


WRITERS = {
    ".jsonl": lambda path, rows: path.write_text("\n".join(json.dumps(row) for row in rows)),
    ".CSV": lambda path, rows: path.write_text("\n".join(["id,text", *(f'{r["id"]},"{r["text"]}"' for r in rows)])),
    ".parquet": lambda path, rows: datasets.Dataset.from_list(rows).to_parquet(path),
}


def write_rows(path, first, n):
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [{"id": at, "text": f"Story {at},\nonce upon a time. " * 5} for at in range(first, first + n)]
    WRITERS[next(suffix for suffix in WRITERS if suffix == path.suffix or suffix.lower() == path.suffix)](path, rows)


@pytest.mark.parametrize("suffix", WRITERS)
@pytest.mark.parametrize("layout", [("train{}", "test{}"), ("Train/0{}", "dev/0{}"), ("a{}", "eye test{}")])
def test_data_files_win_over_licences_and_are_divided_by_name(suffix, layout, tmp_path):
    folder = write(tmp_path / "stories", "LICENSE.txt", "README.md", "COPYING")
    write_rows(folder / layout[0].format(suffix), 0, 40)
    write_rows(folder / layout[1].format(suffix), 40, 10)
    source = open_quietly(folder, tmp_path, text_column="text")
    sizes = (45, 5) if layout[0] == "a{}" else (40, 10)
    assert sum(sizes) == len(source.train.documents) + len(source.test.documents)
    assert layout[0] == "a{}" or (len(source.train.documents), len(source.test.documents)) == sizes
    assert texts_of(source, "train").startswith("Story") and "You may" not in texts_of(source, "train")


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_single_data_file_is_a_source(suffix, tmp_path):
    write_rows(tmp_path / f"stories{suffix}", 0, 40)
    source = open_quietly(tmp_path / f"stories{suffix}", tmp_path, text_column="text")
    assert source.name == "stories" and len(source.train.documents) + len(source.test.documents) == 40


def test_data_files_of_two_kinds_are_refused(tmp_path):
    write_rows(tmp_path / "set" / "a.jsonl", 0, 10)
    write_rows(tmp_path / "set" / "b.parquet", 0, 10)
    with pytest.raises(InputError, match=r"set.*1 \.jsonl.*1 \.parquet"):
        open_quietly(tmp_path / "set", tmp_path)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_rows_that_were_not_read_are_refused(suffix, tmp_path, monkeypatch):
    write_rows(tmp_path / "set" / f"train{suffix}", 0, 40)
    source = open_quietly(tmp_path / "set", tmp_path)
    whole = datasets.Dataset.__iter__
    monkeypatch.setattr(datasets.Dataset, "__iter__", lambda self: (row for row, _ in zip(whole(self), range(39))))
    with pytest.raises(InputError, match=r"part train of set: 39 .* 40"):
        _ = source.train


def test_a_data_set_of_text_is_opened_once(tmp_path, monkeypatch):
    from hf_scaling.data import loading

    write_rows(tmp_path / "set" / "train.jsonl", 0, 40)
    before = open_quietly(tmp_path / "set", tmp_path)
    assert len(before.train.documents) == 36
    monkeypatch.setattr(loading, "_builder", lambda *arguments, **options: None)
    again = open_quietly(tmp_path / "set", tmp_path)
    assert again.fingerprint == before.fingerprint and len(again.train.documents) == 36


def test_the_same_documents_have_the_same_fingerprint_as_before_parts_were_read(tmp_path):
    folder = write_texts(tmp_path / "texts")
    parts = write(tmp_path / "other", "train/0.txt", "train/1.txt", "test/0.txt")
    swapped = write(tmp_path / "swapped" / "other", "train/0.txt", "test/0.txt", "test/1.txt")
    assert open_quietly(folder, tmp_path).fingerprint == "cbcdab3959218625"
    assert open_quietly(parts, tmp_path).fingerprint != open_quietly(swapped, tmp_path).fingerprint


@pytest.mark.parametrize(
    ("names", "parts"),
    [
        (["wiki.train.txt", "wiki.valid.txt", "wiki.test.txt"], {"train": 1, "test": 1}),
        ([*numbered("train_{}.txt", 4), *numbered("test_{}.txt", 2)], {"train": 4, "test": 2}),
        (["on the train.txt", "eye test.txt", "home.txt"], {"train": 3}),
    ],
)
def test_files_that_all_name_their_part_are_divided(names, parts, tmp_path):
    assert counts(write(tmp_path / "books", *names)) == parts


@pytest.mark.parametrize(("train", "test"), [("Train_set", "Test_set"), ("training_data", "eval_data")])
def test_folders_of_text_that_look_like_parts_are_refused(train, test, tmp_path):
    folder = write(tmp_path / "books", *numbered(train + "/{}.txt", 3), *numbered(test + "/{}.txt", 3))
    with pytest.raises(InputError, match=f"{train} to train"):
        find_documents(folder)


@pytest.mark.parametrize("name", ["{}.txt.gz", "deep/{}.md.xz"])
def test_packed_text_files_are_refused(name, tmp_path):
    with pytest.raises(InputError, match="unpack"):
        find_documents(write(tmp_path / "books", *numbered(name, 3)))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_mark_at_the_start_of_a_file_is_no_text(encoding, tmp_path):
    (tmp_path / "books").mkdir()
    for number in range(20):
        (tmp_path / "books" / f"{number}.txt").write_text(f"Story {number}. " * 9, encoding=encoding)
    assert texts_of(open_quietly(tmp_path / "books", tmp_path), "train").startswith("Story")


@pytest.mark.parametrize(
    ("heads", "row"), [("text", "Story {}"), ("n,text", "{0},Story {0}"), ("n,story", '{0},"Story {0}\nor, rather')]
)
def test_csv_files_are_text(heads, row, tmp_path):
    (tmp_path / "books").mkdir()
    end = "x" * 50 + '"' * (row.count('"') % 2)
    (tmp_path / "books" / "train.csv").write_text("\n".join([heads, *numbered(row + end)]))
    source = open_quietly(tmp_path / "books", tmp_path)
    assert len(source.train.documents) + len(source.test.documents) == 30


@pytest.mark.parametrize(
    ("text", "column", "named"),
    [
        ("text;n\n" + "\n".join(numbered("Story {0};{0}")), None, "commas"),
        ("text,n\n" + "\n".join(numbered("Story {0},{0}")), "n", "does not hold text"),
        ("a,n\n" + "\n".join(numbered("{0},{0}")), None, "none of its columns"),
        ("a,b\n" + "\n".join(numbered("x{0},y{0}")), None, "give one of a, b"),
    ],
)
def test_csv_files_without_a_column_of_text_are_refused(text, column, named, tmp_path):
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "train.csv").write_text(text)
    with pytest.raises(InputError, match=named):
        open_quietly(tmp_path / "books", tmp_path, text_column=column)
