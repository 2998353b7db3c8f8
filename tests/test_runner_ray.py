"""A study on a Ray cluster of two nodes, one of which dies half-way."""

import sys
import threading
import time
from pathlib import Path

import pytest

from hf_scaling import ResultsTable, run_grid
from hf_scaling.results import same_values

sys.path.insert(0, str(Path(__file__).parent / "support"))
from grids import CONTENT, write_grid

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray", reason="engine ray needs the package ray")


@pytest.fixture
def cluster():
    """A head and one more node, of one core each."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def test_a_node_lost_half_way_costs_nothing_but_time(cluster, tmp_path):
    grid = write_grid(tmp_path / "tiny.yaml", seeds=[0, 1])
    local = run_grid(grid, tmp_path / "local", workers=1, progress=False)
    out = tmp_path / "ray"
    killer = threading.Thread(target=kill_after, args=(cluster, out, 8))
    killer.start()
    on_ray = run_grid(grid, out, workers=2, engine="ray", progress=False)
    killer.join()
    wait_for_death()
    rows = {row["run_id"]: row for row in on_ray.rows()}
    assert len(rows) == len(local) == 24
    assert all(same_values(row, rows[row["run_id"]]) for row in local.rows())
    assert ResultsTable.load(out).run_ids() == set(rows)


def wait_for_death():
    """Wait until Ray has noticed that a node is gone."""
    deadline = time.monotonic() + 120
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def kill_after(cluster, out, n_rows):
    while len(list(out.glob("results/*.parquet"))) < n_rows:
        time.sleep(0.05)
    cluster.remove_node(cluster.second, allow_graceful=False)


def test_the_engine_joins_a_running_cluster_and_leaves_it_running(cluster, tmp_path):
    grid = write_grid(tmp_path / "tiny.yaml", models=["vit-30k"], arms=["plain"])
    table = run_grid(grid, tmp_path / "study", workers=2, engine="ray", progress=False)
    assert len(table) == len(CONTENT["n_finetune"]) + 1
    assert ray.is_initialized()
    assert ray.cluster_resources()["CPU"] == 2
