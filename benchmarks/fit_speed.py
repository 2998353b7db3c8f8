"""Time a warm fit and 1,000 bootstrap refits, 64 points, one thread: processor time, the shortest of several runs.

    OMP_NUM_THREADS=1 python benchmarks/fit_speed.py

Ratios are to scipy's least_squares in the same run: the same log residuals, with the analytic Jacobian, from one start
(the best start of our search). `estimate` is the fit alone;
`fit_law` adds the verdict: profiles, leave-one-out, the other objectives.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.optimize import least_squares

import hf_scaling as hs
from hf_scaling.fitting.bootstrap import draw
from hf_scaling.fitting.estimate import Estimate, estimate, search_starts
from hf_scaling.fitting.rows import RowFilter, select_rows
from hf_scaling.fitting.solver import coordinates_of, make_objective

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "support"))
from designs import study

LAWS = {"chinchilla": 8, "transfer_gap": 8, "joint_additive": 4}
REPEATS = 15


def shortest(function: Callable[[], object], repeats: int = REPEATS) -> float:
    """The shortest of several runs, in milliseconds of this process: other work on the machine only ever adds."""
    times = []
    for _ in range(repeats):
        started = time.process_time()
        function()
        times.append(time.process_time() - started)
    return 1e3 * min(times)


def scipy_fit(fitted: Estimate) -> None:
    """The same problem from one start: squared log residuals within the same bounds."""
    problem, coordinates = fitted.problem, fitted.problem.coordinates
    start = search_starts(problem, fitted.law, fitted.rows.variables)[0]
    start = np.clip(start, coordinates.low + 1e-9, coordinates.high - 1e-9)
    least_squares(
        lambda u: problem.residuals(u[None])[0][0],
        start,
        jac=lambda u: problem.residuals(u[None])[1][0].T,
        bounds=(coordinates.low, coordinates.high),
    )


def main() -> None:
    print("| law | least_squares, ms | estimate, ms | ratio | fit_law, ms | ratio | 1,000 refits, ms | ratio |")
    print("|---|---|---|---|---|---|---|---|")
    for name, points in LAWS.items():
        law, table = hs.LAWS[name], study(name, noise=0.02, points=points)
        rows, coordinates = select_rows(table, law, RowFilter()), coordinates_of(law)
        objective = make_objective("log_huber", None)
        fitted = estimate(rows, law, coordinates, objective)
        times = [
            shortest(lambda: scipy_fit(fitted)),  # noqa: B023 (called at once)
            shortest(lambda: estimate(rows, law, coordinates, objective)),  # noqa: B023
            shortest(lambda: hs.fit_law(table, name, bootstrap=0)),  # noqa: B023
            shortest(lambda: draw(fitted, 1000), 5),  # noqa: B023
        ]
        cells = [f"{value:.1f} | {value / times[0]:.2f}" for value in times[1:]]
        print(f"| {name} | {times[0]:.1f} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
