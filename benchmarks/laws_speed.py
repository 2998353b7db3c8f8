"""Time the compilation of every law, and its value and gradient at 1,000 parameter vectors and 64 points.

    OMP_NUM_THREADS=1 python benchmarks/laws_speed.py

Prints milliseconds and the ratio to one numpy exp over as many numbers (1,000 x 64), which machines have in common.
"Compile" is what a process pays once for a law: the derivatives by sympy and the numpy programs.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hf_scaling.laws import Law
from hf_scaling.laws.formula import compiled

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from law_truths import TRUTHS, law_of, sizes

N_VECTORS, N_POINTS, N_REPEATS = 1000, 64, 30


def best_of(function: Callable[[], object], repeats: int = N_REPEATS) -> float:
    """The shortest of several runs, in milliseconds: other work on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        function()
        times.append(time.perf_counter() - started)
    return 1e3 * min(times)


def compile_law(law: Law) -> None:
    """Compile all programs of a law as a new process would."""
    compiled.cache_clear()
    law = Law.from_dict(law.to_dict())
    columns = sizes(law, 2)
    law.predict(law.vector(TRUTHS[law.name]), columns)
    law.value_and_gradient(TRUTHS[law.name], columns)
    law.design(TRUTHS[law.name], columns)


def main() -> None:
    generator = np.random.default_rng(0)
    block = generator.standard_normal((N_VECTORS, N_POINTS))
    out = np.empty_like(block)
    bare = best_of(lambda: np.exp(block, out=out))
    print(f"numpy {np.__version__}: exp of {N_VECTORS} x {N_POINTS} takes {bare:.3f} ms")
    heads = f"{'compile, ms':>13}{'value and gradient, ms':>25}{'ratio':>8}{'value, ms':>12}{'ratio':>8}"
    print(f"{'law':<28}{'P':>3}{heads}")
    for name in TRUTHS:
        law = law_of(name)
        compilation = best_of(lambda: compile_law(law), 3)  # noqa: B023 (called at once)
        evaluator = law.evaluator(sizes(law, N_POINTS))
        spread = 0.05 * generator.standard_normal((N_VECTORS, len(law.names)))
        theta = law.vector(TRUTHS[name]) * np.exp(spread)
        both = best_of(lambda: evaluator.value_and_gradient(theta))  # noqa: B023
        value = best_of(lambda: evaluator.value(theta))  # noqa: B023
        times = f"{both:>25.2f}{both / bare:>8.1f}{value:>12.2f}{value / bare:>8.1f}"
        print(f"{name:<28}{len(law.names):>3}{compilation:>13.0f}{times}")


if __name__ == "__main__":
    main()
