"""The time that the rest of a grid takes: recovered from planted and from recorded seconds."""

import importlib.util
import math
from pathlib import Path

import pytest

from hf_scaling.runner.time_left import TimeLeft, Work

ROOT = Path(__file__).parents[1]
_spec = importlib.util.spec_from_file_location("time_left_benchmark", ROOT / "benchmarks" / "time_left.py")
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)


def works(n=40, flops=1e11, steps=500, kind="a", needs=(), expected=None):
    return [Work(f"{kind}{i}", (("pretrain",), ("pretrain", kind)), steps, flops, needs, expected) for i in range(n)]


def test_nothing_is_claimed_before_anything_is_known():
    estimate = TimeLeft(works(), workers=2)
    assert math.isnan(estimate.seconds([f"a{i}" for i in range(40)], {}))
    assert estimate.seconds([], {}) == 0.0
    measured = TimeLeft(works(expected=3.0), workers=2)
    assert measured.seconds([f"a{i}" for i in range(40)], {}) == pytest.approx(60, rel=0.05)


def test_a_kind_is_judged_by_its_own_runs_and_others_lean_on_it():
    plan = works(10, kind="a") + works(10, kind="b")
    estimate = TimeLeft(plan, workers=1)
    for i in range(5):
        estimate.finish(f"a{i}", 30.0)
    assert estimate.of_run("a9") == pytest.approx(30, rel=0.01)
    assert estimate.of_run("b9") == pytest.approx(30, rel=0.01)
    for i in range(5):
        estimate.finish(f"b{i}", 90.0)
    assert estimate.of_run("a9") == pytest.approx(30, rel=0.25)
    assert estimate.of_run("b9") == pytest.approx(90, rel=0.25)


def test_a_chain_takes_as_long_as_it_is_and_running_runs_count_by_what_is_left():
    chain = [Work(f"{i}", (("pretrain",),), 100, 1e10, (f"{i - 1}",) if i else ()) for i in range(8)]
    estimate = TimeLeft(chain, workers=4)
    estimate.finish("0", 10.0)
    rest = [f"{i}" for i in range(1, 8)]
    assert estimate.seconds(rest, {}) == pytest.approx(70)
    assert estimate.seconds(rest, {"1": 5.0}) == pytest.approx(65)
    assert estimate.seconds(["7"], {"7": 400.0}) < 5


# One run of the record took ten times as long as its like, on a busy machine.
@pytest.mark.parametrize("workers, factor", [(2, 1.5), (4, 1.6)])
def test_recorded_studies_are_estimated_within_a_factor_of_one_and_a_half_from_a_tenth_on(workers, factor):
    plan, seconds = benchmark.of_table(ROOT / "tests/data/fashion_mnist/results.parquet")
    ratios = [ratio for share, ratio in benchmark.replay(plan, seconds, workers) if 0.1 <= share <= 0.9]
    assert len(ratios) > 50
    assert 1 / factor < min(ratios) and max(ratios) < factor
