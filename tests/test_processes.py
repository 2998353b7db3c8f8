"""Processes that answer requests: answers and errors, the environment, and how they end."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from hf_scaling.errors import InputError, RunError
from hf_scaling.processes import Process, ProcessEnded

MODULE = "echo_process"
STARTER = f"""
import sys, time
from hf_scaling.processes import Process
process = Process("{MODULE}")
print(process.ask("pid"), flush=True)
time.sleep(60)
"""


@pytest.fixture(autouse=True)
def support_on_path(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent / "support"), prepend=os.pathsep)


def test_requests_are_answered_in_order_by_one_process():
    with Process(MODULE) as process:
        pid = process.ask("pid")
        assert process.ask("add", first=[1, "ä"], second=[None]) == [1, "ä", None]
        process.send("add", first=1, second=2)
        process.send("add", first=3, second=4)
        assert [process.receive(), process.receive()] == [3, 7]
        assert process.ask("pid") == pid
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize(("kind", "error"), [("InputError", InputError), ("RunError", RunError)])
def test_an_error_of_this_package_is_raised_here_and_the_process_serves_on(kind, error):
    with Process(MODULE) as process:
        with pytest.raises(error, match="a value"):
            process.ask("fail", kind=kind, text="a value")
        assert process.ask("add", first=1, second=2) == 3


def test_any_other_error_ends_the_process_with_its_traceback(tmp_path):
    with Process(MODULE, log=tmp_path / "log") as process:
        with pytest.raises(ProcessEnded, match=MODULE):
            process.ask("fail", kind="ValueError", text="a bug")
        assert process.wait() == 1
    log = (tmp_path / "log").read_text()
    assert "Traceback" in log
    assert "a bug" in log


def test_variables_are_set_for_the_process_alone():
    with Process(MODULE, {"OMP_NUM_THREADS": "7"}) as process:
        assert process.ask("variable", name="OMP_NUM_THREADS") == "7"
    assert os.environ.get("OMP_NUM_THREADS") != "7"


def test_a_process_ends_with_its_starter():
    starter = subprocess.Popen([sys.executable, "-c", STARTER], stdout=subprocess.PIPE, text=True)
    served = psutil.Process(int(starter.stdout.readline()))
    starter.kill()
    starter.wait()
    assert served.wait(timeout=20) is None or not served.is_running()


def test_several_processes_answer_one_request_together():
    launcher = ["torch.distributed.run", "--nproc_per_node", "2"]
    for rank, name in enumerate(("add", "fail")):
        arguments = {"first": 1, "second": 2} if name == "add" else {"kind": "RunError", "text": "one line"}
        request = {"name": name, "arguments": arguments}
        with Process(MODULE, launcher=launcher, request=request) as process:
            if rank == 0:
                assert process.receive() == 3
                assert process.wait() == 0
            else:
                with pytest.raises(RunError, match="one line"):
                    process.receive()
