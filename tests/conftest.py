"""Fixtures and settings of all tests."""

import os
import signal

import pytest

# Workers share the cores: more threads than cores make them wait for each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Some tests send Ctrl-C to a command. Tests that a script starts in the background ignore it, and so would that one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: The files that take longest, by name without `test_`; first, so that no worker is left with one at the end.
LONGEST = (
    "runner_study",
    "report_tables",
    "recipes",
    "report",
    "suggest",
    "distillation_trainer",
    "text_ladder",
    "training_resume",
    "study_run",
    "fitting_intervals",
    "planning_optimum",
    "planning_need",
    "package",
    "tasks_chain",
    "training_run",
    "text_training",
    "suggest_grid",
    "docs_commands",
)


def pytest_collection_modifyitems(items):
    """The longest files first, then the others in their order."""
    places = {f"test_{name}": place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory):
    """A cache for the tests, so that they neither read nor change the user's."""
    before = os.environ.get("HF_SCALING_CACHE")
    if before is None:
        os.environ["HF_SCALING_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    if before is None:
        del os.environ["HF_SCALING_CACHE"]


@pytest.fixture(scope="session")
def _hub():
    from hub_server import HubServer

    with HubServer() as hub:
        yield hub


@pytest.fixture
def hub(_hub):
    """The Hub of the whole test run, without the faults and requests of the previous test; repositories are kept.

    Its address is read when a library of Hugging Face is imported: use it from processes that are started with
    `hub.environment(folder)`.
    """
    _hub.calm()
    yield _hub
    _hub.calm()


@pytest.fixture
def plans_here(monkeypatch):
    """Grids are planned by this process; a process of its own, as a user has, is what tests of commands start."""
    from in_process import plan_here

    plan_here(monkeypatch)
