"""How long a report takes, beside fitting its laws: one run, processor time, so that a busy machine changes little.

python benchmarks/report.py [RESULTS ...] [--bootstrap 1000]
"""

import argparse
import tempfile
import time
from pathlib import Path

import hf_scaling as hs
from hf_scaling.report import collect_findings
from hf_scaling.report.findings import find_law
from hf_scaling.report.page import write_findings

ROOT = Path(__file__).resolve().parent.parent


def processor_time(work):
    started = time.process_time()
    return work(), time.process_time() - started


def line(where: Path, bootstrap: int, folder: Path) -> str:
    """One row of the table: what a report of these results takes."""
    rows = len(hs.ResultsTable.load(where))
    findings, finding = processor_time(lambda: collect_findings(where, bootstrap=bootstrap))
    files, writing = processor_time(lambda: write_findings(findings, folder / "report.html"))
    _, fitting = processor_time(lambda: fit_all(findings))
    drawn = len(list(files[2].iterdir()))
    kilobytes = files[0].stat().st_size / 1000
    cells = [
        where.name if where.is_dir() else where.parent.name,
        f"{rows}",
        f"{drawn}",
        f"{finding + writing:.1f}",
        f"{fitting:.1f}",
    ]
    cells += [f"{(finding + writing) / fitting:.2f}", f"{writing / fitting:.2f}", f"{kilobytes:.0f}"]
    return f"| {' | '.join(cells)} |"


def fit_all(findings) -> None:
    """Compare and fit the laws of every part, target and arm again, and nothing else."""
    for found in findings.parts:
        for law in found.laws:
            find_law(law.arm, law.target, found.part.stage, findings.asked, found.part.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "tests/data/fashion_mnist/results.parquet"
    parser.add_argument("results", nargs="*", type=Path, default=[default])
    parser.add_argument("--bootstrap", type=int, default=1000)
    arguments = parser.parse_args()
    print(
        "| study | rows | figures | report, s | fitting all laws, s | ratio | of it drawing and writing | page, kB |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for where in arguments.results:
        with tempfile.TemporaryDirectory() as folder:
            print(line(where, arguments.bootstrap, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
