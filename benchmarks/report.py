"""Processor time of a report, and its ratio to fitting the same laws alone; one run.

python benchmarks/report.py [RESULTS ...] [--bootstrap 1000]
"""

import argparse
import tempfile
import time
from pathlib import Path

from hf_scaling.report import collect_findings
from hf_scaling.report.findings import find_law
from hf_scaling.report.page import write_findings

ROOT = Path(__file__).resolve().parent.parent


def processor_time(work):
    """The result of a call and the seconds of processor time that it took."""
    started = time.process_time()
    return work(), time.process_time() - started


def table_row(where: Path, bootstrap: int, folder: Path) -> str:
    """One row of the table: the cost of a report of these results."""
    findings, finding = processor_time(lambda: collect_findings(where, bootstrap=bootstrap))
    (page, _, figures), writing = processor_time(lambda: write_findings(findings, folder / "report.html"))
    _, fitting = processor_time(lambda: fit_all(findings))
    cells = [
        where.name if where.is_dir() else where.parent.name,
        f"{findings.n_rows}",
        f"{len(list(figures.iterdir()))}",
        f"{finding + writing:.1f}",
        f"{fitting:.1f}",
        f"{(finding + writing) / fitting:.2f}",
        f"{writing / fitting:.2f}",
        f"{page.stat().st_size / 1000:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


def fit_all(findings) -> None:
    """Compare and fit the laws of every part, target and arm again, and nothing else."""
    for found in findings.parts:
        for law in found.laws:
            find_law(law.arm, law.target, found.part.stage, findings.request, found.part.rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = ROOT / "tests/data/fashion_mnist/results.parquet"
    parser.add_argument("results", nargs="*", type=Path, default=[default])
    parser.add_argument("--bootstrap", type=int, default=1000)
    arguments = parser.parse_args()
    print("| study | rows | figures | report, s | fitting all laws, s | ratio | drawing and writing | page, kB |")
    print("|---|---|---|---|---|---|---|---|")
    for where in arguments.results:
        with tempfile.TemporaryDirectory() as folder:
            print(table_row(where, arguments.bootstrap, Path(folder)), flush=True)


if __name__ == "__main__":
    main()
