"""Time the value and gradient of every law at 1,000 parameter vectors and 64 points, on one thread.

    OMP_NUM_THREADS=1 python benchmarks/laws_speed.py

Prints milliseconds and the ratio to one bare numpy exp over as many numbers (1,000 x 64), which machines share.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from law_truths import TRUTHS, law_of, sizes

VECTORS, POINTS, REPEATS = 1000, 64, 30


def best_of(function: Callable[[], object]) -> float:
    """The shortest of several runs, in milliseconds: other work on the machine only ever adds."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def main() -> None:
    generator = np.random.default_rng(0)
    block = generator.standard_normal((VECTORS, POINTS))
    out = np.empty_like(block)
    bare = best_of(lambda: np.exp(block, out=out))
    print(f"numpy {np.__version__}: exp of {VECTORS} x {POINTS} takes {bare:.3f} ms")
    print(f"{'law':<28}{'P':>3}{'value and gradient, ms':>25}{'ratio':>8}{'value alone, ms':>18}{'ratio':>8}")
    for name in TRUTHS:
        law = law_of(name)
        evaluator = law.evaluator(sizes(law, POINTS))
        spread = 0.05 * generator.standard_normal((VECTORS, len(law.names)))
        theta = law.vector(TRUTHS[name]) * np.exp(spread)
        both = best_of(lambda: evaluator.value_and_gradient(theta))  # noqa: B023 (called at once)
        value = best_of(lambda: evaluator.value(theta))  # noqa: B023
        print(f"{name:<28}{len(law.names):>3}{both:>25.2f}{both / bare:>8.1f}{value:>18.2f}{value / bare:>8.1f}")


if __name__ == "__main__":
    main()
