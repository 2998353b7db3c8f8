"""Claims on runs: visible to other processes, ended with their owner."""

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
with Claims(Path(sys.argv[1])).held("run") as is_ours:
    print(is_ours, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline().strip() == "True"
    yield process
    process.kill()
    process.wait()


def test_one_process_holds_a_claim_until_it_is_killed(tmp_path, holder):
    claims = Claims(tmp_path)
    assert claims.is_held("run")
    assert not claims.is_held("other")
    with claims.held("run") as is_ours:
        assert not is_ours
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert not claims.is_held("run")
    with claims.held("run") as is_ours:
        assert is_ours
        assert claims.is_held("run")
    assert not claims.is_held("run")
    assert list(tmp_path.glob("*.json")) == []


def test_another_process_with_the_same_id_is_not_the_owner(tmp_path):
    claims = Claims(tmp_path)
    with claims.held("run"):
        path = tmp_path / "run.json"
        owner = json.loads(path.read_text())
        assert owner["pid"] == os.getpid()
        path.write_text(json.dumps({**owner, "began": owner["began"] - 100}))
        assert not claims.is_held("run")


def test_an_owner_on_another_machine_holds_it_while_it_gives_signs_of_life(tmp_path):
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


def test_one_of_many_takes_over_the_claim_of_a_dead_process(tmp_path):
    dead = {"host": socket.gethostname(), "pid": 2**22 + 1, "began": 0.0}
    (tmp_path / "run.json").write_text(json.dumps(dead))
    barrier, results = threading.Barrier(8), []

    def take():
        barrier.wait()
        results.append(Claims(tmp_path)._acquire("run"))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [False] * 7 + [True]
