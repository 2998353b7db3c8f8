"""Time a warm fit and 1,000 bootstrap refits, 64 points, one thread: processor time, the shortest of several runs.

    OMP_NUM_THREADS=1 python benchmarks/fit_speed.py
    OMP_NUM_THREADS=1 python benchmarks/fit_speed.py --against OLD [--turns 5]     # OLD: the tree of another commit

Ratios are to scipy's least_squares in the same run: the same log residuals, with the analytic Jacobian, from one start
(the best start of our search). `estimate` is the fit alone;
`fit_law` adds the verdict: profiles, leave-one-out, the other objectives. With --against both trees take turns to fit
the same tables by `fit_law` with 1,000 refits, in a process of their own: the shortest time of each.
"""

import argparse
import json
import os
import subprocess
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

ROOT = Path(__file__).parents[1]
# What both trees run: argument 1 is JSON, name to [law, columns]; it prints name to milliseconds.
TIMED = """
import json, sys, time
import numpy as np
import hf_scaling as hs
times = {}
for name, (law, columns) in json.loads(sys.argv[1]).items():
    table = {column: np.array(values) for column, values in columns.items()}
    taken = []
    for _ in range(4):
        started = time.process_time()
        hs.fit_law(table, law, bootstrap=1000)
        taken.append(time.process_time() - started)
    # The first one imports and fills caches.
    times[name] = 1e3 * min(taken[1:])
print(json.dumps(times))
"""
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


def against(old: Path, turns: int) -> None:
    """Print how long `fit_law` with 1,000 refits takes in this tree and in another one."""
    jobs = {name: (name, study(name, noise=0.02, points=points)) for name, points in LAWS.items()}
    jobs |= {f"auto, {name}": ("auto", jobs[name][1]) for name in ("chinchilla", "transfer_gap")}
    jobs["auto, power_law"] = ("auto", study("power_law", noise=0.02))
    text = json.dumps({name: (law, {c: list(v) for c, v in table.items()}) for name, (law, table) in jobs.items()})
    shortest_of: dict[Path, dict[str, float]] = {old: {}, ROOT: {}}
    for _ in range(turns):
        for tree, best in shortest_of.items():
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tree), os.environ.get("PYTHONPATH", "")])}
            done = subprocess.run(
                [sys.executable, "-c", TIMED, text], cwd=tree, env=environment, capture_output=True, text=True
            )
            if done.returncode:
                sys.exit(f"{tree}: {done.stderr[-2000:]}")
            for name, milliseconds in json.loads(done.stdout).items():
                best[name] = min(milliseconds, best.get(name, float("inf")))
    print("| fit_law with 1,000 refits | other tree, ms | this tree, ms | ratio |\n|---|---|---|---|")
    for name, other in shortest_of[old].items():
        print(f"| {name} | {other:.0f} | {shortest_of[ROOT][name]:.0f} | {shortest_of[ROOT][name] / other:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="the tree of another commit, such as that of git worktree add")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    if given.against is not None:
        against(given.against.resolve(), given.turns)
        return
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
