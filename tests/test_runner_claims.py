"""Who is at a run: seen by other processes, over with its owner."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hf_scaling.runner.study_folder import Claims

HOLD = """
import sys, time
from pathlib import Path
from hf_scaling.runner.study_folder import Claims
with Claims(Path(sys.argv[1])).held("run") as free:
    print(free, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "True"
    yield process
    process.kill()
    process.wait()


def test_one_process_has_a_run_until_it_is_killed(tmp_path, holder):
    claims = Claims(tmp_path)
    assert claims.is_held("run")
    assert not claims.is_held("other")
    with claims.held("run") as free:
        assert not free
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not claims.is_held("run")
    with claims.held("run") as free:
        assert free
        assert claims.is_held("run")
    assert not claims.is_held("run")
    assert list(tmp_path.glob("*.json")) == []


def test_another_process_of_the_same_number_is_not_the_owner(tmp_path):
    claims = Claims(tmp_path)
    with claims.held("run"):
        path = tmp_path / "run.json"
        owner = json.loads(path.read_text())
        assert owner["pid"] == os.getpid()
        path.write_text(json.dumps({**owner, "began": owner["began"] - 100}))
        assert not claims.is_held("run")


def test_an_owner_on_another_machine_lives_as_long_as_it_gives_signs(tmp_path):
    claims = Claims(tmp_path)
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "began": 0.0}))
    assert claims.is_held("run")
    long_ago = time.time() - 1000
    os.utime(path, (long_ago, long_ago))
    assert not claims.is_held("run")


def test_a_claim_gives_signs_of_life(tmp_path, monkeypatch):
    monkeypatch.setattr("hf_scaling.runner.study_folder._HEARTBEAT", 0.01)
    with Claims(tmp_path).held("run"):
        path = tmp_path / "run.json"
        os.utime(path, (1.0, 1.0))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1.0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1.0


def test_of_many_at_once_one_takes_a_dead_mans_run(tmp_path):
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "began": 0.0}
    (tmp_path / "run.json").write_text(json.dumps(dead))
    together, found = threading.Barrier(8), []

    def take():
        together.wait()
        found.append(Claims(tmp_path)._acquire("run"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False] * 7 + [True]
