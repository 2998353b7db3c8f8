"""What `import hf_scaling; hf_scaling.fit_law` costs against `import numpy`, in fresh processes.

    python benchmarks/import_time.py [--repeats 15]

The time is of the import statement inside the process; medians of alternating processes. Bytecode is kept in a
folder of the benchmark's own, as an installation keeps it beside the modules, so that nothing is compiled in a timed
process.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

TIMED = "import time; t = time.perf_counter(); {}; print(time.perf_counter() - t)"
STATEMENTS = {
    "numpy": "import numpy",
    "hf_scaling": "import hf_scaling",
    "hf_scaling.fit_law": "import hf_scaling; hf_scaling.fit_law",
}
HEAVY = ("torch", "transformers", "datasets", "pandas", "scipy", "huggingface_hub")


def seconds(statement: str, bytecode: str) -> float:
    """One fresh process."""
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": bytecode, "PYTHONDONTWRITEBYTECODE": ""}
    return float(subprocess.check_output([sys.executable, "-c", TIMED.format(statement)], env=environment))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    with tempfile.TemporaryDirectory() as bytecode:
        # The first round compiles and is thrown away.
        rounds = [[seconds(s, bytecode) for s in STATEMENTS.values()] for _ in range(repeats + 1)][1:]
    medians = {name: statistics.median(times) for name, times in zip(STATEMENTS, zip(*rounds))}
    print("| import | ms | ratio to numpy |")
    print("|---|---|---|")
    for name, median in medians.items():
        print(f"| {name} | {1e3 * median:.1f} | {median / medians['numpy']:.2f} |")
    script = f"{STATEMENTS['hf_scaling.fit_law']}; import sys; print([m for m in {HEAVY} if m in sys.modules])"
    print(f"loaded of {', '.join(HEAVY)}:", subprocess.check_output([sys.executable, "-c", script], text=True).strip())


if __name__ == "__main__":
    main()
