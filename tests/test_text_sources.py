"""Sources of text: embedded texts, tokens, held-out parts, duplicates, refused input."""

import itertools

import numpy as np
import pytest
from texts import write_texts

from hf_scaling.data.text import load_tokenizer, open_text, tokenizer_name
from hf_scaling.errors import InputError
from hf_scaling.tasks.causal_lm import CausalLM, TextInputs


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_three_embedded_texts_are_large_enough_and_differ():
    counts = {}
    for name in ("python_manual", "licences", "readmes"):
        source = open_text(name, progress=False)
        tokens = source.train.read()
        assert len(tokens) + len(source.test) >= 300_000
        counts[name] = np.bincount(tokens, minlength=257) / len(tokens)
    # Shares of the bytes: half the sum of the differences is 0 for one text, 1 for texts without a common byte.
    for one, other in itertools.combinations(counts.values(), 2):
        assert np.abs(one - other).sum() / 2 > 0.1


def test_documents_are_bytes_with_an_end(tmp_path, cache):
    (tmp_path / "texts").mkdir()
    for name, text in {"a": "héé\n", "b": "second", "c": "x" * 99}.items():
        (tmp_path / "texts" / f"{name}.txt").write_text(text)
    source = open_text(tmp_path / "texts", cache_dir=cache, progress=False)
    tokenizer = load_tokenizer("bytes").tokenizer
    tokens = np.concatenate([source.train.read(), source.test.read()])
    ends = np.flatnonzero(tokens == tokenizer.token_to_id("<|endoftext|>"))
    documents = {tokenizer.decode(part.tolist()) for part in np.split(tokens, ends + 1)[:3]}
    assert documents == {"héé", "second", "x" * 99}
    assert len(source.train) + len(source.test) == len("héé".encode()) + 6 + 99 + 3


def test_parts_share_no_document_and_duplicates_are_removed(tmp_path, cache):
    folder = write_texts(tmp_path / "texts", n=40)
    (folder / "copy.txt").write_text(f"  {(folder / '007.txt').read_text().upper()}\n\n")
    source = open_text(folder, cache_dir=cache, progress=False)
    assert source.n_duplicates == 1
    train, validation = source.validation_parts
    parts = [part.hashes() for part in (train, validation, source.test)]
    assert len(set(np.concatenate(parts).tolist())) == sum(map(len, parts)) == 40
    assert min(map(len, parts)) >= 1
    assert len(train) + len(validation) == len(source.train)


def test_a_larger_subset_begins_with_a_smaller_one(tmp_path, cache):
    source = open_text(write_texts(tmp_path / "texts"), cache_dir=cache, progress=False)
    task = CausalLM()
    small, large = (task.choose(source, "n_pretrain", n, 3, False) for n in (1_000, 5_000))
    assert (len(small.train), len(large.train)) == (1_000, 5_000)
    assert np.array_equal(large.train[:1_000], small.train)
    assert set(small.hashes().tolist()) < set(large.hashes().tolist())
    other = task.choose(source, "n_pretrain", 1_000, 4, False)
    assert not np.array_equal(other.train, small.train)
    assert not set(small.hashes().tolist()) & set(source.test.hashes().tolist())


def test_the_fingerprint_is_of_the_text_and_the_tokenizer_not_of_the_path(tmp_path, cache):
    one, other = (write_texts(tmp_path / name / "texts") for name in ("one", "other"))
    first = open_text(one, cache_dir=cache, progress=False)
    assert open_text(other, cache_dir=cache, progress=False).fingerprint == first.fingerprint
    (other / "000.txt").write_text("changed a little more than before\n")
    assert open_text(other, cache_dir=cache, progress=False).fingerprint != first.fingerprint
    write_tokenizer(tmp_path / "words")
    assert open_text(one, str(tmp_path / "words"), cache_dir=cache, progress=False).fingerprint != first.fingerprint


def test_a_saved_tokenizer_is_recognised(tmp_path):
    CausalLM().processor(None, TextInputs("bytes", 32)).save_pretrained(tmp_path / "bytes")
    assert tokenizer_name(tmp_path / "bytes") == "bytes"
    write_tokenizer(tmp_path / "words")
    assert tokenizer_name(tmp_path / "words") == str(tmp_path / "words")
    assert load_tokenizer(str(tmp_path / "words")).end == "</s>"


def test_a_damaged_cache_is_reported_and_rebuilt(tmp_path, cache, caplog):
    folder = write_texts(tmp_path / "texts")
    before = open_text(folder, cache_dir=cache, progress=False).train.read()
    (path,) = cache.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:100])
    assert np.array_equal(open_text(folder, cache_dir=cache, progress=False).train.read(), before)
    assert str(path) in caplog.text


def test_parquet_has_its_column_found_and_its_own_test_part(tmp_path, cache):
    import pandas

    folder = tmp_path / "set"
    folder.mkdir()
    for part, first in (("train", 0), ("test", 30)):
        texts = [f"{number} is the number of this document" for number in range(first, first + 30)]
        pandas.DataFrame({"text": [*texts, "3 is the number of this document"], "id": range(31)}).to_parquet(
            folder / f"{part}.parquet"
        )
    source = open_text(folder, cache_dir=cache, progress=False)
    # A document of both parts stays in the test part.
    assert (len(source.test.documents), len(source.train.documents), source.n_duplicates) == (31, 29, 2)
    assert not set(source.test.hashes().tolist()) & set(source.train.hashes().tolist())
    with pytest.raises(InputError, match=r"text_column: .*set.*nme.*text, id"):
        open_text(folder, text_column="nme", cache_dir=cache, progress=False)


def test_unusable_input_is_refused_in_a_line(tmp_path, cache):
    folder = write_texts(tmp_path / "texts", n=20)
    source, task, inputs = open_text(folder, cache_dir=cache, progress=False), CausalLM(), TextInputs("bytes", 64)
    with pytest.raises(InputError, match=r"n_finetune: .*9,999,999"):
        task.choose(source, "n_finetune", 9_999_999, 0, False)
    with pytest.raises(InputError, match=r"64 .*65"):
        inputs.n_examples(64)
    (folder / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"empty\.txt.*skip_empty"):
        len(open_text(folder, cache_dir=cache, progress=False).train)
    skipping = open_text(folder, skip_empty=True, cache_dir=cache, progress=False)
    assert len(skipping.train.documents) + len(skipping.test.documents) == 20
    with pytest.raises(InputError, match=r"python_doc:.*python_docs"):
        open_text("python_doc", cache_dir=cache)
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        open_text(folder, str(tmp_path), cache_dir=cache)


def write_tokenizer(folder):
    """A tokenizer of whole words."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"the": 0, "river": 1, "?": 2}, unk_token="?"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
