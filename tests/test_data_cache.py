"""The cache: filled once by any number of processes, complete after a kill, rebuilt after damage."""

import json
import os
import pickle
import resource
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import datasets
import numpy as np
import pytest
from numbered_images import numbers_of, write_parquet

from hf_scaling import data
from hf_scaling.data import cache, glyphs, loading
from hf_scaling.errors import InputError

SUPPORT = Path(__file__).parent / "support"
N = 600
SHARD_ROWS = 32


@pytest.fixture(scope="module")
def parquet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbered")
    write_parquet(folder / "train.parquet", N)
    write_parquet(folder / "test.parquet", 30, first=N)
    return folder


@pytest.fixture(autouse=True)
def small_shards_and_own_hugging_face_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    monkeypatch.setattr(cache, "_RAW_BYTES", SHARD_ROWS * 8 * 8 * 3)
    monkeypatch.setattr(cache, "_ENCODED_ROWS", SHARD_ROWS)


def open_quietly(source, cache, image_size=8, **options):
    return data.open_source(source, image_size=image_size, cache_dir=cache, progress=False, **options)


WAYS = {"prepared": False, "streamed": True}


@pytest.fixture(scope="module")
def processes(parquet, tmp_path_factory) -> Path:
    """Run the processes of all tests at once; return the folder of their caches and logs."""
    root = tmp_path_factory.mktemp("processes")
    cases = [(f"{n} {way}", "all", n, way, None) for way in WAYS for n in (2, 3)]
    cases += [(f"kill {way}", *run) for way in WAYS for run in (("killed", 1, way, 5), ("resumed", 1, way, None))]
    workloads = []
    for root_of_cache, log, n_processes, way, kill_after in cases:
        folder = root / root_of_cache / log
        folder.mkdir(parents=True)
        workload = {"source": str(parquet), "cache": str(root / root_of_cache / "cache"), "folder": str(folder)}
        workload |= {"shard_bytes": SHARD_ROWS * 8 * 8 * 3, "streaming": WAYS[way]}
        workloads.append(workload | {"n_processes": n_processes, "kill_after": kill_after})
    (root / "workloads.json").write_text(json.dumps(workloads))
    command = [sys.executable, str(SUPPORT / "filling_processes.py"), str(root / "workloads.json")]
    subprocess.run(command, check=True, timeout=300, cwd=root, env=os.environ | {"HF_HOME": str(root / "hf")})
    return root


def packed_blocks(folder: Path) -> list[tuple[int, int]]:
    lines = [line for path in folder.glob("*.rows") for line in path.read_text().splitlines()]
    return sorted(tuple(map(int, line.split())) for line in lines)


ALL_BLOCKS = [(start, min(SHARD_ROWS, N - start)) for start in range(0, N, SHARD_ROWS)]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("n_processes", [2, 3])
def test_processes_together_fill_and_read_every_image_once(n_processes, way, processes):
    folder = processes / f"{n_processes} {way}" / "all"
    assert packed_blocks(folder) == ALL_BLOCKS  # no row was packed twice, none was left out
    pixels = np.concatenate([json.loads((folder / f"{rank}.json").read_text()) for rank in range(n_processes)])
    numbers = pixels[:, 0] + 256 * pixels[:, 1]
    assert sorted(numbers) == list(range(N))


@pytest.mark.parametrize("way", WAYS)
def test_after_a_kill_only_missing_shards_are_filled(way, parquet, processes):
    killed, resumed = (packed_blocks(processes / f"kill {way}" / run) for run in ("killed", "resumed"))
    # The block that was interrupted was begun twice, the five before it once.
    assert sorted(set(killed) | set(resumed)) == ALL_BLOCKS and len(set(killed) & set(resumed)) == 1
    cache = processes / f"kill {way}" / "cache"
    assert list(cache.rglob(".*.partial")) == []
    source = open_quietly(parquet, cache)
    assert np.array_equal(numbers_of(source.train.images(np.arange(N))), np.arange(N))


def test_streaming_and_preparing_fill_the_same_cache(parquet, tmp_path):
    streamed, prepared = (open_quietly(parquet, tmp_path / str(way), streaming=way) for way in (True, False))
    assert streamed.fingerprint == prepared.fingerprint
    assert np.array_equal(streamed.train.pixel_hashes(), prepared.train.pixel_hashes())
    assert np.array_equal(streamed.train.labels, prepared.train.labels)


def test_a_filled_cache_is_read_without_its_source(parquet, tmp_path, monkeypatch):
    before = open_quietly(parquet, tmp_path).train.images(np.arange(N))
    monkeypatch.setattr(loading.DatasetOrigin, "reader", None)
    assert np.array_equal(open_quietly(parquet, tmp_path).train.images(np.arange(N)), before)


def test_images_are_read_in_the_requested_order(parquet, tmp_path):
    part = open_quietly(parquet, tmp_path).train
    indices = np.random.default_rng(0).integers(0, N, 1_000)
    images = part.images(indices)
    assert np.array_equal(numbers_of(images), indices)
    assert np.array_equal(images[:, 0, 0, 2], part.labels[indices])
    assert images.dtype == np.uint8 and part.images(np.array([], int)).shape == (0, 8, 8, 3)
    with pytest.raises(IndexError):
        part.images([N])


def test_a_part_is_pickled_without_its_pixels(parquet, tmp_path):
    part = open_quietly(parquet, tmp_path).train
    pickled = pickle.dumps(part)
    assert len(pickled) < 20 * N  # the indices, not the 192 bytes of each image
    assert np.array_equal(pickle.loads(pickled).images([5, 3]), part.images([5, 3]))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damage", ["flipped", "cut", "removed"])
def test_a_damaged_shard_is_reported_and_rebuilt(damage, way, parquet, tmp_path, caplog):
    images = open_quietly(parquet, tmp_path, streaming=WAYS[way]).train.images(np.arange(N))
    victim = sorted(tmp_path.rglob("train/**/*.arrow"))[3]
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    {
        "flipped": lambda: victim.write_bytes(content),
        "cut": lambda: victim.write_bytes(content[:100]),
        "removed": victim.unlink,
    }[damage]()
    assert np.array_equal(open_quietly(parquet, tmp_path, streaming=WAYS[way]).train.images(np.arange(N)), images)
    warnings = [record.getMessage() for record in caplog.records if record.name == "hf_scaling.data.cache"]
    assert len(warnings) == (damage != "removed")
    assert all(str(victim) in warning for warning in warnings)


@contextmanager
def largest_file(n_bytes: int):
    """Make the system refuse to write beyond a size, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_fills_up_leaves_only_complete_files(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "_RAW_BYTES", 64 * 28 * 28 * 3)
    with largest_file(100_000), pytest.raises(InputError, match="HF_SCALING_CACHE") as caught:
        _ = open_quietly("glyphs", tmp_path, image_size=28, n_images=300).train
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".arrow", ".partial", ".json")]
    assert len(open_quietly("glyphs", tmp_path, image_size=28, n_images=300).train) == 300


def test_a_cache_that_cannot_fit_is_refused_before_it_starts(parquet, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 50_000}))
    with pytest.raises(InputError, match=r"115\.2 kB.*50\.0 kB.*HF_SCALING_CACHE"):
        _ = open_quietly(parquet, tmp_path, streaming=True).train
    assert list(tmp_path.rglob("*.arrow")) == []


def test_large_images_are_stored_as_jpeg_and_test_images_unchanged(tmp_path, monkeypatch):
    monkeypatch.undo()
    source = open_quietly("glyphs", tmp_path, image_size=96, n_images=72)
    small = open_quietly("glyphs", tmp_path, image_size=64, n_images=72)
    size = sum(path.stat().st_size for path in tmp_path.rglob("glyphs-96px*/train/**/*.arrow"))
    assert size < 72 * 96 * 96 * 3 / 4
    exact = glyphs.draw(np.arange(72), 96, seed=0)
    stored = source.train.images(np.arange(72))[..., 0].astype(int)
    # JPEG loses noise; the mean of the squared differences stays below a tenth of the images' own variance.
    assert 0 < ((stored - exact) ** 2).mean() < 0.1 * exact.var()
    assert np.array_equal(source.test.images([7])[..., 0], glyphs.draw(np.array([7]), 96, 0, "test"))
    assert np.array_equal(small.train.images([7])[..., 0], glyphs.draw(np.array([7]), 64, 0))


def test_progress_and_size_are_shown_on_stderr(parquet, tmp_path, capsys):
    _ = data.open_source(parquet, image_size=8, cache_dir=tmp_path, streaming=True).train
    shown = capsys.readouterr()
    assert all(value in shown.err for value in ("600 images", "115.2 kB", "600/600"))
    assert shown.out == ""


def test_the_environment_sets_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_SCALING_CACHE", str(tmp_path / "here"))
    _ = data.open_source("digits", image_size=8, progress=False).test
    assert [path.name[:10] for path in (tmp_path / "here").iterdir()] == ["digits-8px"]
