"""Data sets of the Hub, read through a small server on this machine (run with -m hub)."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hub_server import HubServer
from numbered_images import write_parquet

pytestmark = pytest.mark.hub

# In a process of its own, because the Hub's address is read when huggingface_hub is imported.
OPEN = """
import json, sys
import numpy as np
from hf_scaling import data
from hf_scaling.errors import InputError
name, streaming = sys.argv[1], sys.argv[2] == "streamed"
try:
    source = data.open_source(name, image_size=8, cache_dir=sys.argv[3], streaming=streaming, progress=False)
    images = [part.images(np.arange(len(part)))[:, 0, 0].tolist() for part in (source.train, source.test)]
    print(json.dumps([source.name, source.fingerprint, source.class_names, images]))
except InputError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("files")
    write_parquet(folder / "train.parquet", 300)
    write_parquet(folder / "test.parquet", 30, first=300)
    return {
        f"data/{part}-00000-of-00001.parquet": (folder / f"{part}.parquet").read_bytes() for part in ("train", "test")
    }


def open_from(hub: HubServer, name: str, way: str, folder: Path, cache: str = "cache") -> str:
    command = [sys.executable, "-c", OPEN, name, way, str(folder / cache)]
    environment = hub.environment(folder / "hf")
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("way", ["prepared", "streamed"])
def test_a_data_set_of_the_hub_is_cached_under_its_commit(way, files, hub, tmp_path):
    name = f"someone/numbers-{way}"
    hub.add("datasets", name, files)
    output = open_from(hub, name, way, tmp_path)
    source_name, fingerprint, class_names, (train, test) = json.loads(output)
    assert (source_name, class_names) == (name, ["a", "b", "c"])
    numbers = np.array(train + test)
    assert np.array_equal(numbers[:, 0] + 256 * numbers[:, 1], np.arange(330))
    other = "streamed" if way == "prepared" else "prepared"
    assert open_from(hub, name, other, tmp_path, "another cache") == output
    hub.add("datasets", name, {"README.md": b"# Another commit"})
    assert json.loads(open_from(hub, name, way, tmp_path, "third cache"))[1] != fingerprint


def test_an_absent_data_set_is_not_an_unreachable_hub(files, hub, tmp_path):
    absent = open_from(hub, "someone/letters", "streamed", tmp_path)
    assert "someone/letters" in absent and "offline" not in absent and absent.count("\n") == 1
    with HubServer() as gone:
        gone.add("datasets", "someone/numbers", files)
    unreachable = open_from(gone, "someone/numbers", "streamed", tmp_path)
    assert "offline" in unreachable and unreachable.count("\n") == 1
